//! Previews what `up` would do, without changing anything.

use std::sync::Arc;
use std::time::Duration;

use super::{Bootstrapper, DATABASE_ANSWERS_WITHIN, MANAGER_ANSWERS_WITHIN};
use crate::api::wire::{OverrideKindV1, OverrideV1};
use crate::cloud::{Firewall, ObservedNode, OpenPorts, Power, PreflightReport, SshAddress};
use crate::error::{Error, Result};
use crate::model::{Addresses, Generation, NodeName};
use crate::platform::Declaration;
use crate::reconcile::{
    Declared, EngineView, NodeView, Observed, Plan, PlanningInput, Policy, observe_once, plan,
};
use crate::secret::PlatformKey;

/// How long a node may take to report its state.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);

/// Describes what `up` would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// Whether a manager is running; if not, `up` starts it on its node.
    pub manager_runs: bool,
    /// The problems that prevent `up`, each with a hint.
    pub problems: Vec<String>,
    /// The differences between the result and the first choices in the declaration, and the
    /// overrides in force.
    pub remarks: Vec<String>,
    /// How long creating the missing nodes is expected to take, if known.
    pub predicted: Option<Duration>,
    /// The steps that `up` would execute, and why.
    pub plan: Plan,
}

impl Preview {
    /// Returns whether `up` would change nothing.
    pub fn is_nothing(&self) -> bool {
        self.manager_runs && self.problems.is_empty() && self.plan.is_empty()
    }

    /// Creates the preview for a platform that has no resources yet.
    pub fn from_nothing(
        declaration: &Declaration,
        key: &PlatformKey,
        now: chrono::DateTime<chrono::Utc>,
    ) -> Result<Self> {
        let declared = Declared::new(Generation::default(), declaration, key)?;
        let mut observed = Observed::default();
        let mut remarks = Vec::new();
        assume_taken_over(declaration, &mut observed, &mut remarks);
        let input = PlanningInput {
            observed: Arc::new(observed),
            ..PlanningInput::new(Arc::new(declared), now)
        };
        Ok(Self {
            manager_runs: false,
            problems: Vec::new(),
            remarks,
            predicted: None,
            plan: plan(&input),
        })
    }
}

/// Describes what `up` does with an override.
fn remark(one: &OverrideV1, declaration: &Declaration) -> String {
    let service = one.service.as_ref();
    let spec = service.and_then(|service| declaration.services.get(service));
    let is_new_node = |node: &NodeName| declaration.nodes.contains_key(node);
    let reason = match one.kind {
        OverrideKindV1::Added if spec.is_some() || one.node.as_ref().is_some_and(is_new_node) => {
            "the files now declare it".to_owned()
        }
        OverrideKindV1::Replicas { declared, .. } => match spec {
            Some(spec) if spec.replicas != declared => {
                format!("the files now declare {} replicas", spec.replicas)
            }
            _ => return one.to_string(),
        },
        _ => return one.to_string(),
    };
    format!("{one}; this ends, because {reason}")
}

impl Bootstrapper {
    /// Returns what `up` would do now. A running manager makes the plan itself. Without a manager,
    /// the plan is made from a single observation.
    pub async fn preview(&self, declaration: &Declaration) -> Result<Preview> {
        let PreflightReport {
            mut problems,
            mut remarks,
            predicted,
        } = self.cloud_preflight(declaration).await?;
        let predicted = self.estimate_new_nodes(declaration, predicted).await;
        let checked = self
            .wait("the registry's database", DATABASE_ANSWERS_WITHIN)
            .until(self.check_registry(declaration.id))
            .await;
        if let Err(error) = checked {
            let hint = error.hint().map(|hint| format!("; {hint}"));
            problems.push(format!("{}{}", error.chain(), hint.unwrap_or_default()));
        }
        if let Ok(client) = self.client(declaration.id).await
            && self
                .wait("the manager's response", MANAGER_ANSWERS_WITHIN)
                .until(client.health())
                .await
                .is_ok()
        {
            let plan = self
                .wait("the manager's plan", MANAGER_ANSWERS_WITHIN)
                .repeat(|| client.plan(declaration))
                .await?;
            let overrides = self.overrides_of(client.as_ref()).await?;
            remarks.extend(overrides.iter().map(|one| remark(one, declaration)));
            return Ok(Preview {
                manager_runs: true,
                problems,
                remarks,
                predicted,
                plan,
            });
        }
        let key = &self.secrets.key;
        let declared = Arc::new(Declared::new(Generation::default(), declaration, key)?);
        let observing = async {
            let observed =
                observe_once(&self.backends, Arc::clone(&declared), ANSWERED_WITHIN).await;
            Ok::<_, Error>(observed)
        };
        let mut observed = self
            .wait("the state of the nodes", ANSWERED_WITHIN * 2)
            .until(observing)
            .await?;
        if observed.cloud_unknown.is_some() && self.state.placement().await?.is_none() {
            // The platform was never started from this machine, so assume that nothing exists.
            observed = Observed::default();
        }
        assume_taken_over(declaration, &mut observed, &mut remarks);
        let capabilities = self.backends.cloud.capabilities();
        let policy = Policy {
            provisions: capabilities.provisions,
            opens_ports: capabilities.firewall == Firewall::Managed,
            ..self.driver.policy.clone()
        };
        let input = PlanningInput {
            observed: Arc::new(observed),
            policy,
            ..PlanningInput::new(declared, self.backends.clock.now())
        };
        Ok(Preview {
            manager_runs: false,
            problems,
            remarks,
            predicted,
            plan: plan(&input),
        })
    }
}

/// Adds the existing machines that `up` takes over before it carries out the plan. Assumes that
/// they have no engine.
fn assume_taken_over(
    declaration: &Declaration,
    observed: &mut Observed,
    remarks: &mut Vec<String>,
) {
    for node in declaration.nodes.keys() {
        let Some(host) = declaration.cloud.host(node) else {
            continue;
        };
        if observed.nodes.contains_key(node) {
            continue;
        }
        remarks.push(format!(
            "`up` takes machine {node} over: it logs in to {}@{} once, and creates an account \
             of the platform there",
            host.user,
            host.name()
        ));
        let machine = ObservedNode {
            name: node.clone(),
            provider_id: host.name().to_owned(),
            power: Power::Running,
            addresses: Addresses::default(),
            ssh: SshAddress::new(host.user.clone()),
            boot_id: None,
            created: false,
            open_ports: OpenPorts::default(),
        };
        let view = NodeView {
            engine: EngineView::Missing,
            ..NodeView::not_asked(machine)
        };
        observed.nodes.insert(node.clone(), Arc::new(view));
    }
}
