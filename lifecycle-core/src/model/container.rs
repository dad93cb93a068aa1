//! What a container's processes may see and use beyond the defaults of the engine: rights,
//! devices, limits of the kernel, the terminal, the log.
//!
//! All of it is part of the spec digest. Every field serialises to nothing at its default, so
//! that a declaration which does not use it has the digest that it always had.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Whether a value says nothing beyond its default; serde leaves those out.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How far a container is set apart from its node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Isolation {
    /// All of the node's rights and devices.
    #[serde(skip_serializing_if = "is_default")]
    pub privileged: bool,
    /// Kernel capabilities beyond the engine's own set.
    #[serde(skip_serializing_if = "is_default")]
    pub cap_add: Vec<String>,
    /// Kernel capabilities taken from that set.
    #[serde(skip_serializing_if = "is_default")]
    pub cap_drop: Vec<String>,
    /// What security modules are told, in the engine's words.
    #[serde(skip_serializing_if = "is_default")]
    pub security_opt: Vec<String>,
    /// Further groups of the process, by name or number.
    #[serde(skip_serializing_if = "is_default")]
    pub group_add: Vec<String>,
    /// Whether the container's own file system is read-only.
    #[serde(skip_serializing_if = "is_default")]
    pub read_only: bool,
    /// The user namespace: `host`.
    #[serde(skip_serializing_if = "is_default")]
    pub userns_mode: Option<String>,
    /// Shared memory and semaphores: `host`, `none`, `private`, `shareable`.
    #[serde(skip_serializing_if = "is_default")]
    pub ipc: Option<String>,
    /// Processes that it sees: `host`.
    #[serde(skip_serializing_if = "is_default")]
    pub pid: Option<String>,
    /// Host name's namespace: `host`.
    #[serde(skip_serializing_if = "is_default")]
    pub uts: Option<String>,
    /// The control group's namespace.
    #[serde(skip_serializing_if = "is_default")]
    pub cgroup: Option<CgroupNamespace>,
    /// The control group that the container's own lies below.
    #[serde(skip_serializing_if = "is_default")]
    pub cgroup_parent: Option<String>,
    /// The engine's name of what runs the container.
    #[serde(skip_serializing_if = "is_default")]
    pub runtime: Option<String>,
}

/// Whose control groups a container sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CgroupNamespace {
    /// The node's.
    Host,
    /// Its own.
    Private,
}

/// The node's devices that a container reaches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Devices {
    /// Single devices.
    #[serde(skip_serializing_if = "is_default")]
    pub mappings: Vec<DeviceMapping>,
    /// Rules of the device control group, in the kernel's form.
    #[serde(skip_serializing_if = "is_default")]
    pub cgroup_rules: Vec<String>,
    /// What the engine's device drivers are asked for, for example GPUs.
    #[serde(skip_serializing_if = "is_default")]
    pub requests: Vec<DeviceRequest>,
}

/// A device of the node in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMapping {
    /// Its path on the node.
    pub source: String,
    /// Its path in the container.
    pub target: String,
    /// Of `r`, `w` and `m`.
    pub permissions: String,
}

/// What a device driver of the engine is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRequest {
    /// The driver; the engine picks one that has the capabilities without it.
    #[serde(skip_serializing_if = "is_default")]
    pub driver: Option<String>,
    /// How many; -1 are all. Not beside `ids`.
    #[serde(skip_serializing_if = "is_default")]
    pub count: Option<i64>,
    /// These and no others.
    #[serde(skip_serializing_if = "is_default")]
    pub ids: Vec<String>,
    /// What the devices must be able to do.
    #[serde(skip_serializing_if = "is_default")]
    pub capabilities: Vec<String>,
    /// The driver's own options.
    #[serde(skip_serializing_if = "is_default")]
    pub options: BTreeMap<String, String>,
}

/// Limits that the kernel sets a container, beyond processors and memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KernelLimits {
    /// Limits of each process, by name (`nofile`).
    #[serde(skip_serializing_if = "is_default")]
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Kernel parameters of the container's namespaces.
    #[serde(skip_serializing_if = "is_default")]
    pub sysctls: BTreeMap<String, String>,
    /// Bytes of `/dev/shm`.
    #[serde(skip_serializing_if = "is_default")]
    pub shm_bytes: Option<u64>,
    /// How many processes there may be; -1 is no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub pids: Option<i64>,
    /// How readily it is killed when memory runs out, from -1000 to 1000.
    #[serde(skip_serializing_if = "is_default")]
    pub oom_score_adj: Option<i64>,
    /// Whether it is spared when its own memory runs out.
    #[serde(skip_serializing_if = "is_default")]
    pub oom_kill_disable: bool,
    /// Memory and swap together, in bytes; -1 is no limit.
    #[serde(skip_serializing_if = "is_default")]
    pub memory_swap: Option<i64>,
    /// How readily memory is swapped out, from 0 to 100.
    #[serde(skip_serializing_if = "is_default")]
    pub memory_swappiness: Option<i64>,
    /// Its weight beside others when processors are short.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_shares: Option<i64>,
    /// The scheduler's period, in microseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_period: Option<i64>,
    /// The processor time in each period, in microseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_quota: Option<i64>,
    /// The real-time scheduler's period, in microseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_rt_period: Option<i64>,
    /// The real-time processor time in each period, in microseconds.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu_rt_runtime: Option<i64>,
    /// The processors that it may run on (`0-3,5`).
    #[serde(skip_serializing_if = "is_default")]
    pub cpuset: Option<String>,
    /// Its share of the block devices.
    #[serde(skip_serializing_if = "is_default")]
    pub block_io: BlockIo,
    /// Options of the engine's storage driver.
    #[serde(skip_serializing_if = "is_default")]
    pub storage_opt: BTreeMap<String, String>,
}

/// A limit of each process; -1 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// What holds.
    pub soft: i64,
    /// What the process may raise it to.
    pub hard: i64,
}

/// A container's share of the node's block devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockIo {
    /// Its weight beside others, from 10 to 1000.
    #[serde(skip_serializing_if = "is_default")]
    pub weight: Option<u16>,
    /// The same for single devices.
    #[serde(skip_serializing_if = "is_default")]
    pub device_weights: BTreeMap<String, u16>,
    /// Bytes a second that may be read, by device.
    #[serde(skip_serializing_if = "is_default")]
    pub read_bps: BTreeMap<String, u64>,
    /// Bytes a second that may be written, by device.
    #[serde(skip_serializing_if = "is_default")]
    pub write_bps: BTreeMap<String, u64>,
    /// Reads a second, by device.
    #[serde(skip_serializing_if = "is_default")]
    pub read_iops: BTreeMap<String, u64>,
    /// Writes a second, by device.
    #[serde(skip_serializing_if = "is_default")]
    pub write_iops: BTreeMap<String, u64>,
}

/// How the process in a container is run and spoken to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Terminal {
    /// Whether a small init is process number 1; the engine's default without a word.
    #[serde(skip_serializing_if = "is_default")]
    pub init: Option<bool>,
    /// The signal that asks it to end, if it differs from the image's.
    #[serde(skip_serializing_if = "is_default")]
    pub stop_signal: Option<String>,
    /// Whether its standard input stays open.
    #[serde(skip_serializing_if = "is_default")]
    pub stdin_open: bool,
    /// Whether it has a terminal.
    #[serde(skip_serializing_if = "is_default")]
    pub tty: bool,
}

/// Where a container's output goes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Logging {
    /// The engine's log driver; files of JSON, rotated, without one.
    #[serde(skip_serializing_if = "is_default")]
    pub driver: Option<String>,
    /// Its options.
    #[serde(skip_serializing_if = "is_default")]
    pub options: BTreeMap<String, String>,
}
