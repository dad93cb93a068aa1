//! What `up` would do, without doing any of it.

use std::sync::Arc;
use std::time::Duration;

use super::{Bootstrapper, DATABASE_ANSWERS_WITHIN, MANAGER_ANSWERS_WITHIN};
use crate::cloud::PreflightReport;
use crate::error::{Error, Result};
use crate::model::Generation;
use crate::platform::Declaration;
use crate::reconcile::{Declared, Observed, Plan, PlanningInput, Policy, observe_once, plan};
use crate::secret::PlatformKey;

/// How long a node may take to tell what is on it.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a bring-up would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// Whether a manager runs already; without one, `up` starts it on its node.
    pub manager_runs: bool,
    /// What stands in the way, each with a hint.
    pub problems: Vec<String>,
    /// What would be otherwise than was wished first.
    pub remarks: Vec<String>,
    /// How long the nodes that do not exist yet would take, where that can be said.
    pub predicted: Option<Duration>,
    /// What would be done then, and why.
    pub plan: Plan,
}

impl Forecast {
    /// Whether `up` would change nothing.
    pub fn is_nothing(&self) -> bool {
        self.manager_runs && self.problems.is_empty() && self.plan.is_empty()
    }

    /// The forecast for a world in which nothing exists yet.
    pub fn from_nothing(
        declaration: &Declaration,
        key: &PlatformKey,
        now: chrono::DateTime<chrono::Utc>,
    ) -> Result<Self> {
        let declared = Declared::new(Generation::default(), declaration, key)?;
        Ok(Self {
            manager_runs: false,
            problems: Vec::new(),
            remarks: Vec::new(),
            predicted: None,
            plan: plan(&PlanningInput::new(Arc::new(declared), now)),
        })
    }
}

impl Bootstrapper {
    /// What `up` would do now. The running manager says it, since it knows most; without one,
    /// it is planned from one observation.
    pub async fn forecast(&self, declaration: &Declaration) -> Result<Forecast> {
        let nodes: Vec<_> = declaration.nodes.values().cloned().collect();
        let PreflightReport {
            mut problems,
            remarks,
            predicted,
        } = self.cloud_preflight(&nodes).await?;
        let predicted = self.predict(declaration, predicted).await;
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
                .wait("the manager's answer", MANAGER_ANSWERS_WITHIN)
                .until(client.health())
                .await
                .is_ok()
        {
            let plan = self
                .wait("the manager's plan", MANAGER_ANSWERS_WITHIN)
                .repeat(|| client.plan(declaration))
                .await?;
            return Ok(Forecast {
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
            let observed = observe_once(&self.backends, Arc::clone(&declared), PATIENCE).await;
            Ok::<_, Error>(observed)
        };
        let mut observed = self
            .wait("the answers of the nodes", PATIENCE * 2)
            .until(observing)
            .await?;
        if observed.cloud_unknown.is_some() && self.state.placed().await?.is_none() {
            // It was never brought up from here, so nothing is what exists as far as is known;
            // that the cloud does not answer stands among the problems.
            observed = Observed::default();
        }
        let policy = Policy {
            provisions: self.backends.cloud.capabilities().provisions,
            ..self.driver.policy.clone()
        };
        let input = PlanningInput {
            observed: Arc::new(observed),
            policy,
            ..PlanningInput::new(declared, self.backends.clock.now())
        };
        Ok(Forecast {
            manager_runs: false,
            problems,
            remarks,
            predicted,
            plan: plan(&input),
        })
    }
}
