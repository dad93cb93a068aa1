//! Changes what is declared, on top of the user's files.

use std::collections::BTreeSet;

use super::declaration::Cause;
use super::{Accepted, Actor, Applied, Manager, Write, scope};
use crate::error::{Error, Result};
use crate::model::{NodeName, NodeRequest, ServiceClass, ServiceName, Subject};
use crate::platform::{Declaration, Exportable, Override, OverrideChange, Requested, read_service};
use crate::reconcile::Plan;
use crate::registry::Snapshot;

impl Manager {
    /// Scales, stops or starts a service, and the services that share its network namespace. A
    /// repeated call changes nothing.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if the service is not declared
    /// - [`Error::Invalid`] if there would be too many replicas
    /// - [`Error::Conflict`] if the platform is being deleted
    /// - [`Error::NotReady`] before the end of the first round
    pub async fn override_service(&self, service: &str, change: OverrideChange) -> Result<Applied> {
        let subject = ServiceName::try_from(service).map_or(Subject::Platform, Subject::Service);
        self.redeclare(&change.to_string(), subject, |_, declaration, requested| {
            check_scope(&declaration, service)?;
            declaration.overriding(service, change, requested)
        })
        .await
    }

    /// Adds a service of a class, or replaces one that was added before. `text` is a service in the
    /// format of a Compose file, as YAML or JSON. A repeated call changes nothing.
    ///
    /// # Errors
    /// - [`Error::Invalid`] if the text contains an error, if the service cannot be added, or if the
    ///   files declare it
    /// - [`Error::Forbidden`] if the request is limited to some services, and the service would reach its
    ///   node or other services
    /// - [`Error::Conflict`] if the platform is being deleted
    /// - [`Error::NotReady`] before the end of the first round
    pub async fn apply_service(
        &self,
        class: ServiceClass,
        name: &ServiceName,
        text: &str,
    ) -> Result<Applied> {
        let subject = Subject::Service(name.clone());
        self.redeclare("apply", subject, |_, declaration, requested| {
            added(declaration, class, name, text, requested)
        })
        .await
    }

    /// Plans, from the latest observation, what [`Self::apply_service`] would change. Changes nothing.
    ///
    /// # Errors
    /// As for [`Self::apply_service`]
    pub async fn plan_service(
        &self,
        class: ServiceClass,
        name: &ServiceName,
        text: &str,
    ) -> Result<Plan> {
        let declaration = self.snapshot().await?.declaration;
        let (_, declaration) = declaration.ok_or_else(|| nothing_declared(name))?;
        let effective = added(declaration, class, name, text, &self.requested())?;
        self.plan_effective(&effective)
    }

    /// Removes a service that was added at run time.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if no service of this class has this name
    /// - [`Error::Invalid`] if the files declare it
    /// - [`Error::Conflict`] if another service depends on it, or the platform is being deleted
    /// - [`Error::NotReady`] before the end of the first round
    pub async fn remove_service(&self, class: ServiceClass, name: &str) -> Result<Applied> {
        let subject = ServiceName::try_from(name).map_or(Subject::Platform, Subject::Service);
        self.redeclare("remove", subject, |snapshot, declaration, _| {
            let mut instances = snapshot.instances.values();
            let exists = instances.any(|one| one.id.service.as_str() == name);
            declaration.removing_service(class, name, exists)
        })
        .await
    }

    /// Adds a node, which is created like the node `like`, or with the provider's defaults, and
    /// prepared. A repeated call changes nothing.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if there is no node `like`
    /// - [`Error::Unsupported`] if the provider cannot create nodes
    /// - [`Error::Invalid`] if `like` existed before the platform
    /// - [`Error::Conflict`] if a different node with this name is declared, or the platform is being
    ///   deleted
    /// - [`Error::NotReady`] before the end of the first round
    pub async fn add_node(&self, name: NodeName, like: Option<&str>) -> Result<Applied> {
        let capabilities = self.backends.cloud.capabilities();
        if !capabilities.provisions {
            return Err(Error::Unsupported {
                what: "creating nodes".into(),
                backend: capabilities.name.into(),
            });
        }
        let subject = Subject::Node(name.clone());
        let request = like.map_or("add".to_owned(), |like| format!("add like {like}"));
        self.redeclare(&request, subject, |_, declaration, requested| {
            declaration.adding_node(name, like, requested)
        })
        .await
    }

    /// Removes a node that was added at run time. Its replicas move to other nodes before the node is
    /// deleted. A repeated call changes nothing while the node exists.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if the node is not declared
    /// - [`Error::Invalid`] if the files declare it
    /// - [`Error::Conflict`] if there are named volumes on the node and `volumes` is not set, or the
    ///   platform is being deleted
    /// - [`Error::NotReady`] before the end of the first round
    pub async fn remove_node(&self, name: &str, volumes: bool) -> Result<Applied> {
        let subject = NodeName::try_from(name).map_or(Subject::Platform, Subject::Node);
        let request = if volumes {
            "remove with volumes"
        } else {
            "remove"
        };
        self.redeclare(request, subject, |snapshot, declaration, _| {
            let exists = snapshot.nodes.keys().any(|node| node.as_str() == name);
            let declaration = declaration.removing_node(name, exists)?;
            let lost = volumes_on(name, snapshot);
            if !volumes && !lost.is_empty() {
                return Err(Error::Conflict {
                    what: format!("removing node {name}"),
                    why: format!(
                        "its volumes would be deleted: {}; request this explicitly if their data is \
                         not needed",
                        lost.into_iter().collect::<Vec<_>>().join(", ")
                    ),
                });
            }
            Ok(declaration)
        })
        .await
    }

    /// Cordons, drains, stops or starts nodes, all at once. A repeated call changes nothing. The replicas
    /// on a drained or stopped node move to other nodes. Those that fit on no other node stay on a drained
    /// node, and stop with a stopped one.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if one of the nodes is not declared; nothing is changed
    /// - [`Error::Invalid`] if one of the nodes cannot be stopped; nothing is changed
    /// - [`Error::Unsupported`] if the provider cannot start and stop nodes
    /// - [`Error::Conflict`] if the platform is being deleted
    /// - [`Error::NotReady`] before the end of the first round
    pub async fn change_nodes(&self, names: &[String], change: NodeRequest) -> Result<Applied> {
        let capabilities = self.backends.cloud.capabilities();
        if change == NodeRequest::Stop && !capabilities.powers {
            return Err(Error::Unsupported {
                what: "stopping nodes".into(),
                backend: capabilities.name.into(),
            });
        }
        let (request, subject) = match names {
            [name] => {
                let node = NodeName::try_from(name.as_str());
                let subject = node.map_or(Subject::Platform, Subject::Node);
                (change.to_string(), subject)
            }
            names => {
                let request = format!("{change} {}", names.join(", "));
                (request, Subject::Platform)
            }
        };
        self.redeclare(&request, subject, |snapshot, mut declaration, requested| {
            for name in names {
                let runs = self.runs_at(name, snapshot);
                declaration = declaration.changing_node(name, change, runs, requested)?;
            }
            Ok(declaration)
        })
        .await
    }

    /// Removes an override by its id, so that the value in the user's files applies again. A repeated
    /// call changes nothing.
    ///
    /// # Errors
    /// As for [`Self::override_service`]; [`Error::NotFound`] if there can be no such override, and
    /// [`Error::Invalid`] for an added node or service, which is removed with [`Self::remove_node`] or
    /// [`Self::remove_service`]
    pub async fn remove_override(&self, id: &str) -> Result<Applied> {
        let (name, field) = id.rsplit_once('.').unwrap_or((id, ""));
        let subject = match (NodeName::try_from(name), ServiceName::try_from(name)) {
            (Ok(node), _) if matches!(field, "scheduling" | "power") => Subject::Node(node),
            (_, Ok(service)) => Subject::Service(service),
            (_, Err(_)) => Subject::Platform,
        };
        let request = format!("remove override {id}");
        self.redeclare(&request, subject, |_, declaration, _| {
            check_scope(&declaration, name)?;
            declaration.removing_override(id)
        })
        .await
    }

    /// Returns the overrides in force.
    pub async fn overrides(&self) -> Result<Vec<Override>> {
        let declaration = self.snapshot().await?.declaration;
        let overrides = declaration.iter().flat_map(|(_, d)| d.overrides.iter());
        Ok(overrides.collect())
    }

    /// Returns the overrides in force, with what the user's files need to declare them. Contains the
    /// texts of added services, which may contain secrets.
    pub async fn exportable(&self) -> Result<Exportable> {
        let declaration = self.snapshot().await?.declaration;
        let overrides = declaration.map(|(_, declaration)| declaration.overrides);
        Ok(overrides.unwrap_or_default().exportable())
    }

    pub(super) fn requested(&self) -> Requested {
        Requested {
            at: self.backends.clock.now(),
            by: Actor::current().to_string(),
        }
    }

    /// Records a changed declaration. `request` is the name of the change for the audit.
    pub(super) async fn redeclare(
        &self,
        request: &str,
        subject: Subject,
        change: impl FnOnce(&Snapshot, Declaration, &Requested) -> Result<Declaration>,
    ) -> Result<Applied> {
        let write = self.begin_write(Accepted::AfterFirstRound).await?;
        self.redeclare_in(write, request, subject, change).await
    }

    /// Like [`Self::redeclare`], but as the write that was begun.
    pub(super) async fn redeclare_in(
        &self,
        write: Write<'_>,
        request: &str,
        subject: Subject,
        change: impl FnOnce(&Snapshot, Declaration, &Requested) -> Result<Declaration>,
    ) -> Result<Applied> {
        if let Some(applied) = self.answered_change(&write).await? {
            return Ok(applied);
        }
        let registry = &self.backends.registry;
        let what = format!("{request} of {subject}");
        self.reject_while_deleting(&what).await?;
        let snapshot = registry.snapshot().await?;
        let Some(previous) = snapshot.declaration.clone() else {
            return Err(nothing_declared(&subject));
        };
        let declaration = change(&snapshot, previous.1.clone(), &self.requested())?;
        // If a declaration that cannot be resolved were recorded, no manager could start again.
        self.check_effective(&declaration)?;
        let cause = Cause {
            request: request.to_owned(),
            subject,
            what,
        };
        let previous = Some(previous);
        self.declare(&write, previous, declaration, cause, |applied| applied)
            .await
    }
}

/// Fails if the request is limited to other services.
fn check_scope(declaration: &Declaration, service: &str) -> Result<()> {
    scope::current().map_or(Ok(()), |scope| declaration.check_group(service, &scope))
}

pub(super) fn nothing_declared(what: &impl std::fmt::Display) -> Error {
    let hint = "nothing is declared; run `bootstrapper up` first";
    Error::not_found_with_hint(what.to_string(), hint)
}

/// Adds the service that `text` describes.
fn added(
    declaration: Declaration,
    class: ServiceClass,
    name: &ServiceName,
    text: &str,
    requested: &Requested,
) -> Result<Declaration> {
    let spec = read_service(name, class, text, &declaration)?;
    if let Some(scope) = scope::current() {
        declaration.check_confined(&spec, &scope)?;
    }
    declaration.adding_service(spec, text, requested)
}

/// Returns the named volumes on a node that the platform's containers have used, also external ones.
fn volumes_on(node: &str, snapshot: &Snapshot) -> BTreeSet<String> {
    let volumes = snapshot.volumes.values();
    let here = volumes.filter(|volume| volume.node.as_str() == node && !volume.is_missing);
    let instances = snapshot.instances.values();
    let instances = instances.filter(|instance| instance.node.as_str() == node);
    let declaration = snapshot.declaration.as_ref().map(|(_, declared)| declared);
    let mounted = instances.flat_map(|instance| {
        let spec = declaration.and_then(|d| d.services.get(&instance.id.service));
        spec.into_iter().flat_map(|spec| &spec.container.volumes)
    });
    let external = mounted.filter(|mount| mount.options.external);
    let external = external.map(|mount| mount.volume.to_string());
    here.map(|volume| volume.volume.to_string())
        .chain(external)
        .collect()
}
