//! Accepts declarations, and plans what they would change.

mod ending;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Accepted, Actor, Manager, Write, emptied, is_platform_deletion};
use crate::error::{Error, Result};
use crate::model::{
    Epoch, EventKind, Generation, NewEvent, Operation, OperationId, OperationKind, OperationState,
    Subject,
};
use crate::platform::{Declaration, ManagerEndpoint, ManagerSpec, RevisionNote};
use crate::reconcile::{Declared, Plan, PlanningInput, RetryOptions, Target, plan};
use crate::registry::{Batch, Change};

/// The result of a request that may change what is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The current generation.
    pub generation: Generation,
    /// Whether the declaration differs from the previous one.
    pub changed: bool,
    /// The operation that ends when the platform has settled; `None` if the declaration is unchanged and
    /// no such operation is in progress.
    pub operation: Option<OperationId>,
}

/// Why a declaration changes.
#[derive(Debug)]
pub(super) struct Cause {
    /// The name of the request for the audit.
    pub(super) request: String,
    pub(super) subject: Subject,
    /// Describes the change in the event.
    pub(super) what: String,
}

impl Manager {
    /// Replaces what the user's files declare, unless it is identical. The overrides in force stay,
    /// except those of values that differ from the previous files. In both cases, failed steps are
    /// retried immediately. The chunks of mounted files must be stored before
    /// ([`Manager::put_chunk`]).
    pub async fn apply(&self, declaration: Declaration) -> Result<Applied> {
        let write = self.begin_write(Accepted::Always).await?;
        if let Some(applied) = self.answered_change(&write).await? {
            return Ok(applied);
        }
        self.check(&declaration)?;
        self.reject_while_deleting("declaration").await?;
        self.check_chunks(&declaration).await?;
        let previous = self.snapshot().await?.declaration;
        let overrides = previous.as_ref().map(|(_, before)| {
            let overrides = before.overrides.clone();
            let is_same = before.clone().without_overrides() == declaration;
            if is_same {
                overrides
            } else {
                overrides.confirmed()
            }
        });
        let overrides = overrides.unwrap_or_default();
        declaration.check_adopted(&overrides)?;
        let declaration = declaration.with_overrides(overrides);
        self.check_effective(&declaration)?;
        let cause = Cause {
            request: "apply".into(),
            subject: Subject::Platform,
            what: format!("new declaration of {}", self.options.name),
        };
        self.declare(&write, previous, declaration, cause, |applied| applied)
            .await
    }

    /// Fails with `the <what> was rejected` while the platform is being deleted.
    pub(super) async fn reject_while_deleting(&self, what: &str) -> Result<()> {
        let open = self.backends.registry.open_operations().await?;
        if !open.iter().any(is_platform_deletion) {
            return Ok(());
        }
        Err(Error::Conflict {
            what: format!("the {what} was rejected"),
            why: "the platform is being deleted".into(),
        })
    }

    /// Returns the answer to an earlier request with the same key.
    pub(super) async fn answered_change<A: DeserializeOwned>(
        &self,
        write: &Write<'_>,
    ) -> Result<Option<A>> {
        let answered = write.answered()?;
        if answered.is_some() {
            let open = self.backends.registry.open_operations().await?;
            for operation in &open {
                self.take_up(operation);
            }
            if !open.iter().any(is_platform_deletion) {
                self.aim_at_current(write.epoch).await?;
            }
        }
        Ok(answered)
    }

    /// Records a declaration that replaces `previous`, unless both are identical, and aims at it. The
    /// answer is recorded with the declaration.
    pub(super) async fn declare<A: Serialize>(
        &self,
        write: &Write<'_>,
        previous: Option<(Generation, Declaration)>,
        declaration: Declaration,
        cause: Cause,
        answer: impl FnOnce(Applied) -> A,
    ) -> Result<A> {
        let registry = &self.backends.registry;
        let changed = previous.as_ref().is_none_or(|(_, d)| *d != declaration);
        let note = cause.note(previous.as_ref().map(|(_, d)| d), &declaration);
        let before = previous.as_ref().map(|(_, before)| before.stopped_runs());
        let mut replaces = before.unwrap_or_default();
        let still_stopped = declaration.stopped_runs();
        replaces.retain(|id, run| !still_stopped.contains_key(id) && !self.continues(run));
        let (previous, previous_declaration) = previous.unzip();
        let (now, current) = (self.backends.clock.now(), previous.unwrap_or_default());
        let generation = Generation(current.0 + u64::from(changed));
        let nodes = match &previous_declaration {
            Some(before) => before.nodes_changed_to(&declaration),
            None => BTreeSet::new(),
        };
        let operation = changed.then(|| Operation {
            id: OperationId(self.backends.ids.uuid()),
            kind: OperationKind::Declare {
                generation,
                subject: cause.subject.clone(),
                request: cause.request.clone(),
                nodes,
                replaces,
            },
            state: OperationState::Running,
            requested_at: now,
        });
        let tokens = self.service_tokens(&declaration).await?;
        let mut batch = Batch::of(Change::Declare {
            expected: previous,
            declaration: Box::new(declaration),
            note: Some(note),
        });
        batch.changes.extend(tokens);
        if let Some(operation) = &operation {
            batch.events.push(NewEvent {
                at: now,
                kind: EventKind::Declared,
                subject: cause.subject.clone(),
                message: format!("{}: generation {generation}", cause.what),
                data: serde_json::json!({ "operation": operation.id }),
            });
            batch.events.push(self.audit(&cause.request, cause.subject));
            let put = Change::PutOperation(operation.clone());
            batch.changes.push(put);
        }
        let id = match &operation {
            Some(operation) => Some(operation.id),
            None => self.declaring(generation).await?,
        };
        let answer = answer(Applied {
            generation,
            changed,
            operation: id,
        });
        batch.changes.extend(write.answer(&answer)?);
        registry.commit(write.epoch, batch).await?;
        self.tokens.changed();
        self.open_operations().extend(operation);
        self.aim_at_current(write.epoch).await?;
        self.accepted.notify_one();
        // Without a control loop there are no failures to retry, so the error is ignored.
        drop(self.request_retry(Subject::Platform, RetryOptions::default(), None));
        Ok(answer)
    }

    /// Makes sure that the current declaration is the target, also if it is unchanged: the call that
    /// recorded it may have failed afterwards.
    async fn aim_at_current(&self, epoch: Epoch) -> Result<()> {
        let snapshot = self.backends.registry.snapshot().await?;
        let current = snapshot.declaration.as_ref();
        let current = current.map(|(generation, _)| *generation);
        let is_aimed_at = |target: &Target| {
            !target.declared.deleting && Some(target.declared.generation) == current
        };
        if self.target.borrow().as_ref().is_some_and(is_aimed_at) {
            return Ok(());
        }
        self.aim(epoch, &snapshot, None).await
    }

    /// Plans, from the latest observation, what a declaration would change, with the overrides in
    /// force. Changes nothing.
    ///
    /// # Errors
    /// [`Error::NotReady`] until every node has been observed once.
    pub async fn plan(&self, candidate: &Declaration) -> Result<Plan> {
        self.check(candidate)?;
        let current = self.snapshot().await?.declaration;
        let overrides = current.map(|(_, declaration)| declaration.overrides);
        let overrides = overrides.unwrap_or_default();
        candidate.check_adopted(&overrides)?;
        self.plan_effective(&candidate.clone().with_overrides(overrides))
    }

    pub(super) fn plan_effective(&self, effective: &Declaration) -> Result<Plan> {
        let latest = self.recorded_plan()?.input;
        Ok(plan(&PlanningInput {
            declared: Arc::new(self.derive(effective)?),
            now: self.backends.clock.now(),
            ..latest.as_ref().clone()
        }))
    }

    /// Rejects a declaration of another platform, and a declaration that can never be carried out.
    pub(super) fn check(&self, declaration: &Declaration) -> Result<()> {
        if declaration.id != self.options.platform {
            return Err(Error::Invalid {
                what: "the declaration".into(),
                why: format!(
                    "the declaration is for platform {}, but this manager manages {}",
                    declaration.id, self.options.platform
                ),
                hint: "send the declaration to the manager of that platform".into(),
            });
        }
        if declaration.name != self.options.name {
            return Err(Error::Invalid {
                what: "the platform's name".into(),
                why: format!(
                    "the declared name is {}, but this manager's platform is {}",
                    declaration.name, self.options.name
                ),
                hint: "restore the previous name; to rename a platform, delete it first".into(),
            });
        }
        let ManagerEndpoint { node, port, .. } = self.options.endpoint.clone();
        ManagerSpec { node, port }.check_change(&declaration.manager)?;
        let services = declaration.services.values();
        for mount in services.flat_map(|spec| &spec.container.files) {
            mount.check()?;
        }
        // Reject a declaration that cannot be resolved. If it were recorded, no manager could start
        // again.
        self.derive(declaration).map(drop)
    }

    /// Rejects a declaration that cannot be resolved together with the overrides in force.
    pub(super) fn check_effective(&self, declaration: &Declaration) -> Result<()> {
        let overrides: Vec<String> = declaration.overrides.iter().map(|one| one.id()).collect();
        self.derive(declaration)
            .map(drop)
            .map_err(|error| match error {
                Error::Invalid { what, why, hint } if !overrides.is_empty() => Error::Invalid {
                    what,
                    why,
                    hint: format!(
                        "{hint}; in force on top of the files: {}",
                        overrides.join(", ")
                    ),
                },
                error => error,
            })
    }

    /// Resolves a declaration that has not been recorded.
    fn derive(&self, candidate: &Declaration) -> Result<Declared> {
        let target = self.target.borrow().clone();
        let agents = target.as_ref().and_then(|t| t.declared.agents.as_ref());
        let before = agents.map(|agents| agents.addresses.clone());
        self.resolve(
            Generation::default(),
            candidate,
            &before.unwrap_or_default(),
        )
    }
}

impl Cause {
    /// Returns what is recorded about the generation that replaces `previous`.
    pub(super) fn note(
        &self,
        previous: Option<&Declaration>,
        declaration: &Declaration,
    ) -> RevisionNote {
        let empty = previous.is_none().then(|| emptied(declaration.clone()));
        let previous = previous.or(empty.as_ref()).unwrap_or(declaration);
        RevisionNote {
            request: self.request.clone(),
            subject: self.subject.clone(),
            by: Actor::current().to_string(),
            changes: declaration.differences(previous),
        }
    }
}
