//! The table with a single row, for the identity of the registry and the state of the platform.

use sea_orm::entity::prelude::*;

use super::{damaged, from_word, parsed, small, unsigned};
use crate::error::Result;
use crate::model::Generation;
use crate::platform::ManagerEndpoint;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "platform")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub row: i32,
    pub name: Option<String>,
    pub id: Option<String>,
    /// The current generation.
    pub generation: Option<i64>,
    pub first_round_done: bool,
    pub manager_node: Option<String>,
    pub manager_ip: Option<String>,
    pub manager_port: Option<i32>,
    /// A signature that is used to detect a wrong platform key before anything is encrypted with
    /// that key.
    pub key_check: Option<String>,
    /// The id of this registry, if this is a central registry.
    pub registry: Option<String>,
    /// The id of the central registry to follow, if this is a per-kind database.
    pub follows: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub(in crate::registry::sql) fn generation(&self) -> Result<Option<Generation>> {
        self.generation
            .map(|number| unsigned("generation", number).map(Generation))
            .transpose()
    }

    pub(in crate::registry::sql) fn manager(&self) -> Result<Option<ManagerEndpoint>> {
        const WHAT: &str = "endpoint of the manager";
        match (&self.manager_node, &self.manager_ip, self.manager_port) {
            (None, None, None) => Ok(None),
            (Some(node), Some(ip), Some(port)) => Ok(Some(ManagerEndpoint {
                node: from_word(WHAT, node.clone())?,
                ip: parsed(WHAT, ip)?,
                port: small(WHAT, port)?,
            })),
            _ => Err(damaged(WHAT, "a part of the endpoint is missing")),
        }
    }
}
