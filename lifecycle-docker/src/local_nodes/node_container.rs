//! Describes the container that acts as a VM: the request that creates it, and its observed state.
//!
//! If the engine may start privileged containers, a node is a privileged container: in such a
//! container, a nested engine works on every kernel. If the engine's own capabilities are limited,
//! a node gets only the three capabilities that it needs, without the engine's security profiles.
//!
//! The engine never starts a node by itself (restart policy `no`). A fenced node must stay off when
//! the engine or the machine restarts. Likewise, a laptop that reboots should not start every
//! platform that ever ran on it. `up` starts the manager's node, and the manager starts the other
//! nodes.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::Path;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, EndpointIpamConfig,
    EndpointSettings, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount,
    MountType, NetworkingConfig, RestartPolicy, RestartPolicyNameEnum,
};
use chrono::{DateTime, Utc};
use lifecycle_core::cloud::Power;
use lifecycle_core::host::OPERATOR_ENGINE_SOCKET;
use lifecycle_core::model::NodeName;

use super::first_boot::FirstBoot;
use crate::labels;

/// The label with a node's address. The label is needed because a stopped container has no address.
pub(super) const ADDRESS_LABEL: &str = "lifecycle.node-address";
/// The label with the account of a node that does not use [`ACCOUNT`].
pub(super) const ACCOUNT_LABEL: &str = "lifecycle.node-account";
/// The account in the image, for nodes whose first boot creates no account.
pub(super) const ACCOUNT: &str = "lifecycle";
/// The file with all public host keys, written by the node's entrypoint.
pub(super) const HOST_KEYS: &str = "/var/lib/node/host-keys";
/// The file that the node's entrypoint touches at each start, once sshd is listening.
pub(super) const READY: &str = "/run/node-ready";

/// The input for creating a node.
#[derive(Debug)]
pub(super) struct NodeContainerSpec<'a> {
    pub(super) node: &'a NodeName,
    pub(super) image: String,
    pub(super) network: &'a str,
    pub(super) address: Ipv4Addr,
    pub(super) volume: String,
    pub(super) labels: HashMap<String, String>,
    pub(super) origin: Origin<'a>,
    /// The socket of the operator's engine, for the node that runs the manager.
    pub(super) host_socket: Option<&'a Path>,
    pub(super) privileged: bool,
}

/// The origin of a node's account.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin<'a> {
    /// The image contains the account, which accepts this public key.
    Image(&'a str),
    /// The first boot creates the account.
    FirstBoot(&'a FirstBoot),
}

impl NodeContainerSpec<'_> {
    /// Returns the body of the engine's create request.
    pub(super) fn body(mut self) -> ContainerCreateBody {
        self.labels
            .insert(ADDRESS_LABEL.to_owned(), self.address.to_string());
        let (host_name, environment) = match self.origin {
            Origin::Image(key) => (
                self.node.to_string(),
                vec![format!("NODE_AUTHORIZED_KEY={key}")],
            ),
            Origin::FirstBoot(first_boot) => {
                self.labels
                    .insert(ACCOUNT_LABEL.to_owned(), first_boot.account.clone());
                (first_boot.host_name.clone(), first_boot.environment())
            }
        };
        let endpoint = EndpointSettings {
            ipam_config: Some(EndpointIpamConfig {
                ipv4_address: Some(self.address.to_string()),
                ..EndpointIpamConfig::default()
            }),
            ..EndpointSettings::default()
        };
        ContainerCreateBody {
            hostname: Some(host_name),
            image: Some(self.image.clone()),
            env: Some(environment),
            host_config: Some(self.host_config()),
            networking_config: Some(NetworkingConfig {
                endpoints_config: Some(HashMap::from([(self.network.to_owned(), endpoint)])),
            }),
            labels: Some(self.labels),
            ..ContainerCreateBody::default()
        }
    }

    fn host_config(&self) -> HostConfig {
        // The nested engine stores its data in a volume: its storage driver, overlay2, does not
        // work on top of overlay2.
        let storage = Mount {
            typ: Some(MountType::VOLUME),
            source: Some(self.volume.clone()),
            target: Some("/var/lib/docker".to_owned()),
            ..Mount::default()
        };
        let socket = self.host_socket.map(|path| Mount {
            typ: Some(MountType::BIND),
            source: Some(path.display().to_string()),
            target: Some(OPERATOR_ENGINE_SOCKET.to_owned()),
            ..Mount::default()
        });
        let common = HostConfig {
            network_mode: Some(self.network.to_owned()),
            mounts: Some([Some(storage), socket].into_iter().flatten().collect()),
            init: Some(true),
            cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                maximum_retry_count: None,
            }),
            // Limit the size of sshd's log.
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".to_owned()),
                config: Some(HashMap::from([("max-size".to_owned(), "1m".to_owned())])),
            }),
            ..HostConfig::default()
        };
        if self.privileged {
            return HostConfig {
                privileged: Some(true),
                ..common
            };
        }
        let words = |words: &[&str]| Some(words.iter().map(|&word| word.to_owned()).collect());
        HostConfig {
            cap_add: words(&["NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"]),
            security_opt: words(&["seccomp=unconfined", "apparmor=unconfined"]),
            ..common
        }
    }
}

/// The observed state of a container that is a node of this platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeContainer {
    /// The container's id in the engine.
    pub(super) id: String,
    pub(super) node: NodeName,
    /// The address in the container's label.
    pub(super) address: Option<Ipv4Addr>,
    /// The account in the container's label; by default, [`ACCOUNT`].
    pub(super) account: String,
    pub(super) power: Power,
    /// Whether the container was created but never started.
    pub(super) fresh: bool,
    /// The start time of the current boot or, if the container is stopped, of the last boot.
    pub(super) boot: Option<String>,
    /// When the previous boot ended.
    pub(super) previous_end: Option<DateTime<Utc>>,
    /// The exit code of the previous boot.
    pub(super) exit_code: Option<i64>,
}

/// The result of looking up a container by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// A node of this platform.
    Owned(NodeContainer),
    /// A container without this platform's labels.
    Foreign,
}

impl NodeContainer {
    /// Returns the start time of the current boot, if the node is running.
    pub(super) fn running_boot(&self) -> Option<&str> {
        match self.power {
            Power::Running => self.boot.as_deref(),
            Power::Starting | Power::Stopping | Power::Stopped | Power::Failed => None,
        }
    }

    /// Converts the engine's description of a container.
    pub(super) fn read(container: ContainerInspectResponse, platform_id: &str) -> Found {
        let labels = container
            .config
            .and_then(|config| config.labels)
            .unwrap_or_default();
        let label = |name: &str| labels.get(name).map(String::as_str);
        let node = label(labels::NODE).and_then(|name| NodeName::try_from(name).ok());
        let (Some(platform), Some(labels::ROLE_NODE), Some(node), Some(id)) = (
            label(labels::PLATFORM_ID),
            label(labels::ROLE),
            node,
            container.id,
        ) else {
            return Found::Foreign;
        };
        if platform != platform_id {
            return Found::Foreign;
        }
        let state = container.state.unwrap_or_default();
        let status = state.status.unwrap_or(ContainerStateStatusEnum::EMPTY);
        Found::Owned(Self {
            id,
            node,
            address: label(ADDRESS_LABEL).and_then(|address| address.parse().ok()),
            account: label(ACCOUNT_LABEL).unwrap_or(ACCOUNT).to_owned(),
            power: power(status),
            fresh: status == ContainerStateStatusEnum::CREATED,
            boot: state.started_at.filter(|at| moment(at).is_some()),
            previous_end: state.finished_at.as_deref().and_then(moment),
            exit_code: state.exit_code,
        })
    }
}

/// Parses the engine's timestamp. Returns `None` for the year 1, which the engine uses for "never".
pub(super) fn moment(text: &str) -> Option<DateTime<Utc>> {
    let at = DateTime::parse_from_rfc3339(text).ok()?.to_utc();
    (at > DateTime::UNIX_EPOCH).then_some(at)
}

/// Converts the container's state. A paused container counts as running: a cloud also reports a VM
/// with a frozen guest as running.
fn power(status: ContainerStateStatusEnum) -> Power {
    match status {
        ContainerStateStatusEnum::RUNNING | ContainerStateStatusEnum::PAUSED => Power::Running,
        ContainerStateStatusEnum::RESTARTING => Power::Starting,
        ContainerStateStatusEnum::REMOVING => Power::Stopping,
        ContainerStateStatusEnum::CREATED | ContainerStateStatusEnum::EXITED => Power::Stopped,
        _ => Power::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::{ContainerConfig, ContainerState};

    fn container(status: ContainerStateStatusEnum, platform: &str) -> ContainerInspectResponse {
        let labels = [
            (labels::PLATFORM_ID, platform),
            (labels::ROLE, labels::ROLE_NODE),
            (labels::NODE, "n1"),
            (ADDRESS_LABEL, "10.89.0.2"),
        ];
        ContainerInspectResponse {
            id: Some("abc".to_owned()),
            config: Some(ContainerConfig {
                labels: Some(
                    labels
                        .iter()
                        .map(|&(k, v)| (k.to_owned(), v.to_owned()))
                        .collect(),
                ),
                ..ContainerConfig::default()
            }),
            state: Some(ContainerState {
                status: Some(status),
                started_at: Some("2026-01-02T03:04:05.678Z".to_owned()),
                finished_at: Some("0001-01-01T00:00:00Z".to_owned()),
                ..ContainerState::default()
            }),
            ..ContainerInspectResponse::default()
        }
    }

    fn owned(status: ContainerStateStatusEnum) -> NodeContainer {
        match NodeContainer::read(container(status, "p"), "p") {
            Found::Owned(node_container) => node_container,
            Found::Foreign => panic!("the container has the platform's labels"),
        }
    }

    #[test]
    fn reports_a_boot_only_while_running() {
        let running = owned(ContainerStateStatusEnum::RUNNING);
        assert_eq!(running.running_boot(), Some("2026-01-02T03:04:05.678Z"));
        assert_eq!(running.previous_end, None);
        let stopped = owned(ContainerStateStatusEnum::EXITED);
        assert_eq!(stopped.running_boot(), None);
        assert_eq!(stopped.boot, running.boot);
    }

    #[test]
    fn reports_a_paused_node_as_running() {
        assert_eq!(
            owned(ContainerStateStatusEnum::PAUSED).power,
            Power::Running
        );
        assert_eq!(owned(ContainerStateStatusEnum::DEAD).power, Power::Failed);
        assert_eq!(
            owned(ContainerStateStatusEnum::REMOVING).power,
            Power::Stopping
        );
    }

    #[test]
    fn treats_another_platforms_container_as_foreign() {
        let other = container(ContainerStateStatusEnum::RUNNING, "q");
        assert_eq!(NodeContainer::read(other, "p"), Found::Foreign);
    }

    #[test]
    fn an_unprivileged_node_gets_the_required_capabilities() {
        let node = NodeName::try_from("n1").unwrap();
        let spec = |privileged| NodeContainerSpec {
            node: &node,
            image: "i".to_owned(),
            network: "w",
            address: Ipv4Addr::new(10, 89, 0, 2),
            volume: "v".to_owned(),
            labels: HashMap::new(),
            origin: Origin::Image("k"),
            host_socket: None,
            privileged,
        };
        let bounded = spec(false).body().host_config.unwrap();
        assert_eq!(bounded.privileged, None);
        assert!(bounded.cap_add.unwrap().contains(&"SYS_ADMIN".to_owned()));
        let full = spec(true).body();
        assert_eq!(full.labels.unwrap()[ADDRESS_LABEL], "10.89.0.2");
        let full = full.host_config.unwrap();
        assert_eq!((full.privileged, full.cap_add), (Some(true), None));
        assert_eq!(
            full.restart_policy.unwrap().name,
            Some(RestartPolicyNameEnum::NO)
        );
    }
}
