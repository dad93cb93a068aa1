//! The table of instances, keyed by container.

use chrono::{DateTime, Utc};
use sea_orm::entity::prelude::*;

use super::{damaged, from_word, small};
use crate::error::Result;
use crate::model::{
    ContainerId, Endpoint, InstanceId, InstanceRecord, InstanceState, Replica, SpecDigest,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "instances")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub container: String,
    pub service: String,
    pub replica: i32,
    pub node: String,
    pub digest: String,
    /// The name of the state; the next two columns contain its details.
    pub state: String,
    pub state_why: Option<String>,
    pub state_since: Option<DateTimeUtc>,
    pub started_at: Option<DateTimeUtc>,
    pub ready_at: Option<DateTimeUtc>,
}

const UNKNOWN: &str = "unknown";

/// An unhealthy instance is stored as unknown since this time: earlier versions reject a registry with
/// a state that they do not know.
const UNHEALTHY: DateTime<Utc> = DateTime::UNIX_EPOCH;

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub(in crate::registry::sql) fn of(record: &InstanceRecord) -> Self {
        let (state, state_why, state_since) = match &record.state {
            state @ (InstanceState::Starting
            | InstanceState::Ready
            | InstanceState::Completed
            | InstanceState::Stopped) => (state.word(), None, None),
            state @ InstanceState::Failed { why } => (state.word(), Some(why.clone()), None),
            InstanceState::Unhealthy { why } => (UNKNOWN, Some(why.clone()), Some(UNHEALTHY)),
            InstanceState::Unknown { since, why } => (UNKNOWN, Some(why.clone()), Some(*since)),
        };
        Self {
            container: record.container.to_string(),
            service: record.id.service.to_string(),
            replica: record.id.replica.0.into(),
            node: record.node.to_string(),
            digest: record.digest.to_string(),
            state: state.to_owned(),
            state_why,
            state_since,
            started_at: record.started_at,
            ready_at: record.ready_at,
        }
    }

    pub(in crate::registry::sql) fn open(self, endpoints: Vec<Endpoint>) -> Result<InstanceRecord> {
        const WHAT: &str = "instance";
        let state = match (self.state.as_str(), self.state_why, self.state_since) {
            ("starting", None, None) => InstanceState::Starting,
            ("ready", None, None) => InstanceState::Ready,
            ("completed", None, None) => InstanceState::Completed,
            ("stopped", None, None) => InstanceState::Stopped,
            ("failed", Some(why), None) => InstanceState::Failed { why },
            (UNKNOWN, Some(why), Some(since)) if since == UNHEALTHY => {
                InstanceState::Unhealthy { why }
            }
            (UNKNOWN, Some(why), Some(since)) => InstanceState::Unknown { since, why },
            (other, ..) => return Err(damaged(WHAT, format!("its state is `{other}`"))),
        };
        Ok(InstanceRecord {
            id: InstanceId {
                service: from_word(WHAT, self.service)?,
                replica: Replica(small(WHAT, self.replica)?),
            },
            node: from_word(WHAT, self.node)?,
            container: ContainerId(self.container.into()),
            digest: SpecDigest::from_hex(self.digest),
            state,
            started_at: self.started_at,
            ready_at: self.ready_at,
            endpoints,
        })
    }
}
