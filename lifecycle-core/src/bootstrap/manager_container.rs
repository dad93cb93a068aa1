//! Sends the manager's image to its node, and starts or replaces the manager's container. A
//! replacement stops the previous container first, and starts it again if the new one does not answer.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use serde::Serialize;

use super::handover::{Handover, handover_directory};
use super::{Bootstrapper, MANAGER_ANSWERS_WITHIN, NODE_ANSWERS_WITHIN, SENT_WITHIN, own_digest};
use crate::api::ManagerApi;
use crate::cloud::ObservedNode;
use crate::error::{Error, Result};
use crate::host::{NodeHandle, OPERATOR_ENGINE_SOCKET};
use crate::model::{ContainerTemplate, SpecDigest};
use crate::platform::{
    CloudSpec, CodeStoreSpec, Credentials, Declaration, ManagerEndpoint, RegistrySpec,
};
use crate::reconcile::node_directory::node_directory;
use crate::runtime::{
    ContainerSpec, ContainerState, HostBind, LogOptions, ObservedContainer, Owner, Role,
};

/// How many lines at the end of an unresponsive manager's output are shown.
const LAST_LINES: u32 = 10;

/// How long reading the last lines may take.
const LAST_LINES_WITHIN: Duration = Duration::from_secs(10);

/// The data from which the digest of the manager's container is computed.
#[derive(Serialize)]
struct ManagerForm<'a> {
    version: &'static str,
    image: &'a str,
    port: u16,
    cloud: &'a CloudSpec,
    /// This field and the fields below are omitted if they have their default values, so that
    /// existing digests stay valid.
    #[serde(skip_serializing_if = "RegistrySpec::is_default")]
    registry: &'a RegistrySpec,
    #[serde(skip_serializing_if = "CodeStoreSpec::is_default")]
    code: &'a CodeStoreSpec,
    #[serde(skip_serializing_if = "Credentials::is_default")]
    credentials: &'a Credentials,
}

impl Bootstrapper {
    /// Ensures that the manager is running with the current specification and answers.
    pub(super) async fn manager(
        &self,
        machine: &ObservedNode,
        node: &NodeHandle,
        declaration: &Declaration,
        endpoint: &ManagerEndpoint,
        image: &str,
    ) -> Result<Arc<dyn ManagerApi>> {
        let spec = self.manager_spec(declaration, image, endpoint)?;
        let observed = async {
            let client = self
                .reach
                .reach(machine, node, declaration.id, endpoint.port)
                .await?;
            let previous = self.previous_managers(node, &spec).await?;
            let current = node
                .runtime
                .state()
                .await?
                .containers
                .into_iter()
                .find(|c| c.name == spec.name && matches!(c.state, ContainerState::Running { .. }));
            let files = self.previous_files(node, declaration.id).await?;
            Ok((client, previous, current, files))
        };
        let (client, previous, current, files) = self
            .wait(
                "the list of containers on the manager's node",
                NODE_ANSWERS_WITHIN,
            )
            .until::<_, Error>(observed)
            .await?;
        let rollback_target = files.rollback_target(&previous);
        let started = async {
            if current.is_none() {
                let what = format!("start the lifecycle manager on {}", endpoint.node);
                let stage = self.stage(what, NODE_ANSWERS_WITHIN);
                let stop = async {
                    for old in &previous {
                        node.runtime.stop_container(&old.name, None).await?;
                    }
                    match rollback_target {
                        Some(old) => files.keep(node, old).await,
                        None => Ok(()),
                    }
                };
                stage.part(stop).await?;
                let handover = Handover::new(
                    &self.secrets,
                    declaration,
                    &self.registry,
                    &self.access,
                    endpoint.clone(),
                    image.to_owned(),
                );
                let mut files = handover.files()?;
                let configuration = files.pop();
                let start = async {
                    try_join_all(files.into_iter().map(|file| node.host.put(file))).await?;
                    // Last, because a manager that finds it uses the other files.
                    if let Some(file) = configuration {
                        node.host.put(file).await?;
                    }
                    node.runtime.ensure_container(&spec).await
                };
                stage.run(start).await?;
            }
            self.answers(client.as_ref()).await
        };
        if let Err(error) = started.await {
            let last_output = last_lines(node, &spec.name).await;
            let Some(old) = rollback_target else {
                if last_output.is_empty() {
                    return Err(error);
                }
                return Err(Error::Failed {
                    what: "starting the lifecycle manager".into(),
                    why: format!("the manager does not respond; its last output: {last_output}"),
                    source: Some(Box::new(error)),
                });
            };
            // Roll back to the previous manager and its files.
            let rollback = async {
                node.runtime.remove_container(&spec.name).await?;
                let kept = self.previous_files(node, declaration.id).await?;
                if kept.has(old) {
                    kept.restore(node, old).await?;
                }
                node.runtime.start_container(&old.name).await
            };
            self.wait("the start of the previous manager", NODE_ANSWERS_WITHIN)
                .until(rollback)
                .await?;
            return Err(Error::Failed {
                what: "replacing the lifecycle manager".into(),
                why: format!(
                    "the new manager does not respond, so the previous manager was started again; \
                     last output of the new manager: {last_output}"
                ),
                source: Some(Box::new(error)),
            });
        }
        let clear = async {
            if !previous.is_empty() {
                self.remove_unused_manager_images(node, image).await?;
            }
            for old in &previous {
                node.runtime.remove_container(&old.name).await?;
            }
            match rollback_target {
                Some(old) => files.forget(node, old).await,
                None => Ok(()),
            }
        };
        self.wait("the removal of the previous manager", NODE_ANSWERS_WITHIN)
            .until(clear)
            .await?;
        Ok(client)
    }

    pub(super) async fn answers(&self, client: &dyn ManagerApi) -> Result<()> {
        self.wait("the manager's first response", MANAGER_ANSWERS_WITHIN)
            .repeat(|| client.health())
            .await
    }

    /// Ensures that the manager's image is on the node. Returns the name of the image.
    pub(super) async fn manager_image(
        &self,
        node: &NodeHandle,
        declaration: &Declaration,
    ) -> Result<String> {
        let digest = self.manager_image.digest().await?;
        let short = digest.get(..12).unwrap_or(&digest);
        let name = format!("{}/lifecycle-manager:{short}", declaration.name);
        let known = self
            .wait(format!("the lookup of image {name}"), NODE_ANSWERS_WITHIN)
            .until(node.runtime.image(&name))
            .await?;
        if known.is_none() {
            let what = format!("send {name} to {}", declaration.manager.node);
            let send = async {
                let archive = self.manager_image.archive(&name).await?;
                node.runtime.import_image(archive).await
            };
            self.stage(what, SENT_WITHIN).run(send).await?;
        }
        Ok(name)
    }

    fn manager_spec(
        &self,
        declaration: &Declaration,
        image: &str,
        endpoint: &ManagerEndpoint,
    ) -> Result<ContainerSpec> {
        let form = ManagerForm {
            version: "1",
            image,
            port: endpoint.port,
            cloud: &declaration.cloud,
            registry: &self.registry,
            code: &self.access.code,
            credentials: &self.access.credentials.of_manager(),
        };
        let digest = SpecDigest::from_hex(own_digest(&self.secrets.key, &form)?);
        let directory = node_directory(declaration.id);
        let mut binds = vec![HostBind {
            source: directory.clone(),
            target: directory.clone(),
            read_only: false,
        }];
        // Mount the hand-over read-only and last, so that it covers the writable mount above.
        let handover = handover_directory(declaration.id);
        binds.push(HostBind {
            source: handover.clone(),
            target: handover,
            read_only: true,
        });
        match declaration.cloud {
            CloudSpec::Local { .. } => binds.push(HostBind {
                source: OPERATOR_ENGINE_SOCKET.into(),
                target: OPERATOR_ENGINE_SOCKET.into(),
                read_only: false,
            }),
            // No mount is needed, because Azure and hosts are reached over the network.
            CloudSpec::Azure(_) | CloudSpec::Hosts(_) => {}
        }
        Ok(ContainerSpec {
            name: format!(
                "{}-{}-lifecycle-manager-{}",
                declaration.name,
                declaration.id.short(),
                digest.short()
            ),
            owner: Owner {
                id: declaration.id,
                name: declaration.name.clone(),
            },
            role: Role::Manager,
            digest,
            template_digest: None,
            image: image.to_owned(),
            template: ContainerTemplate {
                command: Some(vec!["run".into(), "--directory".into(), directory]),
                ..ContainerTemplate::default()
            },
            used_volumes: std::collections::BTreeSet::new(),
            ports: std::collections::BTreeMap::new(),
            binds,
            host_network: true,
            joins: None,
            starts_with_engine: true,
        })
    }

    async fn previous_managers(
        &self,
        node: &NodeHandle,
        spec: &ContainerSpec,
    ) -> Result<Vec<ObservedContainer>> {
        let state = node.runtime.state().await?;
        Ok(state
            .containers
            .into_iter()
            .filter(|c| c.role == Role::Manager && c.name != spec.name)
            .collect())
    }
}

/// Returns the last output lines of a container, or an empty string if they cannot be read.
async fn last_lines(node: &NodeHandle, container: &str) -> String {
    let options = LogOptions::last(LAST_LINES);
    let lines = async {
        let lines = node.runtime.logs(container, options).await?;
        lines.try_collect::<Vec<_>>().await
    };
    match tokio::time::timeout(LAST_LINES_WITHIN, lines).await {
        Ok(Ok(lines)) => {
            let lines: Vec<String> = lines.into_iter().map(|line| line.text).collect();
            lines.join("\n")
        }
        Ok(Err(_)) | Err(_) => String::new(),
    }
}
