//! Container settings that override the engine's defaults: privileges, devices, kernel limits,
//! terminal and log.
//!
//! These settings are part of the spec digest. Default values are not serialized, so that adding a
//! setting does not change existing digests.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Returns whether a value is the default; serde skips such values.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The isolation of a container from its node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Isolation {
    /// Whether the container gets all privileges and devices of the node.
    #[serde(skip_serializing_if = "is_default")]
    pub privileged: bool,
    /// Kernel capabilities added to the engine's default set.
    #[serde(skip_serializing_if = "is_default")]
    pub cap_add: Vec<String>,
    /// Kernel capabilities removed from the default set.
    #[serde(skip_serializing_if = "is_default")]
    pub cap_drop: Vec<String>,
    /// Options of security modules, in the engine's format.
    #[serde(skip_serializing_if = "is_default")]
    pub security_opt: Vec<String>,
    /// Additional groups of the process, by name or number.
    #[serde(skip_serializing_if = "is_default")]
    pub group_add: Vec<String>,
    /// Whether the container's root file system is read-only.
    #[serde(skip_serializing_if = "is_default")]
    pub read_only: bool,
    /// The user namespace; only `host` is supported.
    #[serde(skip_serializing_if = "is_default")]
    pub userns_mode: Option<String>,
    /// The IPC namespace: `host`, `none`, `private` or `shareable`.
    #[serde(skip_serializing_if = "is_default")]
    pub ipc: Option<String>,
    /// The process namespace; only `host` is supported.
    #[serde(skip_serializing_if = "is_default")]
    pub pid: Option<String>,
    /// The UTS namespace; only `host` is supported.
    #[serde(skip_serializing_if = "is_default")]
    pub uts: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub cgroup: Option<CgroupNamespace>,
    /// The parent of the container's control group.
    #[serde(skip_serializing_if = "is_default")]
    pub cgroup_parent: Option<String>,
    /// The name of the OCI runtime in the engine's configuration.
    #[serde(skip_serializing_if = "is_default")]
    pub runtime: Option<String>,
}

/// The control group namespace of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CgroupNamespace {
    /// The node's control group namespace.
    Host,
    /// A separate control group namespace.
    Private,
}

/// The devices of the node that a container can use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Devices {
    #[serde(skip_serializing_if = "is_default")]
    pub mappings: Vec<DeviceMapping>,
    /// Rules of the device control group, in the kernel's format.
    #[serde(skip_serializing_if = "is_default")]
    pub cgroup_rules: Vec<String>,
    /// Requests to the engine's device drivers, for example for GPUs.
    #[serde(skip_serializing_if = "is_default")]
    pub requests: Vec<DeviceRequest>,
}

/// A device of the node that is mapped into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMapping {
    /// The path on the node.
    pub source: String,
    /// The path in the container.
    pub target: String,
    /// The permitted operations: any combination of `r` (read), `w` (write) and `m` (mknod).
    pub permissions: String,
}

/// A request to a device driver of the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRequest {
    /// The driver; by default, the engine chooses one with the required capabilities.
    #[serde(skip_serializing_if = "is_default")]
    pub driver: Option<String>,
    /// The number of devices; -1 means all. Cannot be combined with `ids`.
    #[serde(skip_serializing_if = "is_default")]
    pub count: Option<i64>,
    /// The ids of specific devices.
    #[serde(skip_serializing_if = "is_default")]
    pub ids: Vec<String>,
    /// The required capabilities of the devices.
    #[serde(skip_serializing_if = "is_default")]
    pub capabilities: Vec<String>,
    /// Options for the driver.
    #[serde(skip_serializing_if = "is_default")]
    pub options: BTreeMap<String, String>,
}

impl DeviceRequest {
    /// The driver for devices that CDI (Container Device Interface) specifications on the node
    /// describe. The ids are their qualified names.
    pub const CDI: &'static str = "cdi";
}

/// Kernel limits of a container, in addition to its basic processor and memory limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KernelLimits {
    /// Limits per process, by name, such as `nofile`.
    #[serde(skip_serializing_if = "is_default")]
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Kernel parameters in the container's namespaces.
    #[serde(skip_serializing_if = "is_default")]
    pub sysctls: BTreeMap<String, String>,
    /// The size of `/dev/shm`, in bytes.
    #[serde(skip_serializing_if = "is_default")]
    pub shm_bytes: Option<u64>,
    /// The maximum number of processes; -1 means no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub pids: Option<i64>,
    /// The out-of-memory killer's score adjustment, from -1000 (never killed) to 1000 (killed
    /// first).
    #[serde(skip_serializing_if = "is_default")]
    pub oom_score_adj: Option<i64>,
    /// Whether the out-of-memory killer is disabled for the container.
    #[serde(skip_serializing_if = "is_default")]
    pub oom_kill_disable: bool,
    /// The limit for memory plus swap, in bytes; -1 means no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub memory_swap: Option<i64>,
    /// The tendency to swap memory, from 0 to 100.
    #[serde(skip_serializing_if = "is_default")]
    pub memory_swappiness: Option<i64>,
    /// The relative weight for processor time under contention.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_shares: Option<i64>,
    /// The period of the scheduler, in microseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_period: Option<i64>,
    /// The processor time per period, in microseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_quota: Option<i64>,
    /// The period of the real-time scheduler, in microseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_rt_period: Option<i64>,
    /// The real-time processor time per period, in microseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_rt_runtime: Option<i64>,
    /// The processors that may be used, for example `0-3,5`.
    #[serde(skip_serializing_if = "is_default")]
    pub cpuset: Option<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub block_io: BlockIo,
    /// Options of the engine's storage driver.
    #[serde(skip_serializing_if = "is_default")]
    pub storage_opt: BTreeMap<String, String>,
}

/// A limit per process; -1 means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// The current limit.
    pub soft: i64,
    /// The maximum to which the process may raise the current limit.
    pub hard: i64,
}

/// The use of the node's block devices by a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockIo {
    /// The relative weight, from 10 to 1000.
    #[serde(skip_serializing_if = "is_default")]
    pub weight: Option<u16>,
    /// The relative weight per device.
    #[serde(skip_serializing_if = "is_default")]
    pub device_weights: BTreeMap<String, u16>,
    /// Maximum bytes read per second, by device.
    #[serde(skip_serializing_if = "is_default")]
    pub read_bps: BTreeMap<String, u64>,
    /// Maximum bytes written per second, by device.
    #[serde(skip_serializing_if = "is_default")]
    pub write_bps: BTreeMap<String, u64>,
    /// Maximum read operations per second, by device.
    #[serde(skip_serializing_if = "is_default")]
    pub read_iops: BTreeMap<String, u64>,
    /// Maximum write operations per second, by device.
    #[serde(skip_serializing_if = "is_default")]
    pub write_iops: BTreeMap<String, u64>,
}

/// The terminal of a container, and how its process starts and stops.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Terminal {
    /// Whether an init process runs as process 1; by default, the engine decides.
    #[serde(skip_serializing_if = "is_default")]
    pub init: Option<bool>,
    /// The signal that stops the process, if it differs from the image's.
    #[serde(skip_serializing_if = "is_default")]
    pub stop_signal: Option<String>,
    /// Whether standard input stays open.
    #[serde(skip_serializing_if = "is_default")]
    pub stdin_open: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub tty: bool,
}

/// Where a container's output is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Logging {
    /// The engine's log driver; by default, JSON files with rotation.
    #[serde(skip_serializing_if = "is_default")]
    pub driver: Option<String>,
    /// Options of the driver.
    #[serde(skip_serializing_if = "is_default")]
    pub options: BTreeMap<String, String>,
}
