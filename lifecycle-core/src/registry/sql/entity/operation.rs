//! The table of operations.

use sea_orm::entity::prelude::*;

use super::{damaged, from_json, json, parsed};
use crate::error::Result;
use crate::model::{Operation, OperationId, OperationState};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "operations")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub request: Json,
    pub state: String,
    pub ended_at: Option<DateTimeUtc>,
    pub why: Option<String>,
    pub requested_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// The state of an operation that has not ended.
pub(in crate::registry::sql) const RUNNING: &str = "running";

impl Model {
    pub(in crate::registry::sql) fn of(operation: &Operation) -> Result<Self> {
        let (state, ended_at, why) = match &operation.state {
            OperationState::Running => (RUNNING, None, None),
            OperationState::Succeeded { at } => ("succeeded", Some(*at), None),
            OperationState::Failed { at, why } => ("failed", Some(*at), Some(why.clone())),
            OperationState::Cancelled { at } => ("cancelled", Some(*at), None),
        };
        Ok(Self {
            id: operation.id.to_string(),
            request: json(&operation.kind)?,
            state: state.to_owned(),
            ended_at,
            why,
            requested_at: operation.requested_at,
        })
    }

    pub(in crate::registry::sql) fn open(self) -> Result<Operation> {
        const WHAT: &str = "operation";
        let state = match (self.state.as_str(), self.ended_at, self.why) {
            (RUNNING, None, None) => OperationState::Running,
            ("succeeded", Some(at), None) => OperationState::Succeeded { at },
            ("failed", Some(at), Some(why)) => OperationState::Failed { at, why },
            ("cancelled", Some(at), None) => OperationState::Cancelled { at },
            (other, ..) => return Err(damaged(WHAT, format!("its state is `{other}`"))),
        };
        Ok(Operation {
            id: OperationId(parsed(WHAT, &self.id)?),
            kind: from_json(WHAT, self.request)?,
            state,
            requested_at: self.requested_at,
        })
    }
}
