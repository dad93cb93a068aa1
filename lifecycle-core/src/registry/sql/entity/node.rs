//! The table of nodes.

use sea_orm::entity::prelude::*;

use super::{damaged, from_json, from_word, json, seal, unseal, word};
use crate::error::Result;
use crate::registry::{NodeRecord, Unknown};
use crate::secret::PlatformKey;

/// The encryption purpose for the column `operation`, which contains a possibly confidential token
/// of the cloud.
const PURPOSE: &str = "cloud operation";

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "nodes")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    /// The power state. This column and the two addresses repeat parts of `observed` for services
    /// that query the table in SQL.
    pub power: Option<String>,
    pub private_ip: Option<String>,
    pub public_ip: Option<String>,
    pub unknown_since: Option<DateTimeUtc>,
    pub unknown_why: Option<String>,
    pub observed: Option<Json>,
    pub engine: Option<Json>,
    pub host_keys: Json,
    pub operation: Option<Vec<u8>>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub(in crate::registry::sql) fn of(record: &NodeRecord, key: &PlatformKey) -> Result<Self> {
        let observed = record.observed.as_ref();
        let operation = record.operation.as_ref();
        Ok(Self {
            name: record.name.to_string(),
            power: observed.map(|node| word(&node.power)).transpose()?,
            private_ip: observed
                .and_then(|node| node.addresses.private)
                .map(|ip| ip.to_string()),
            public_ip: observed
                .and_then(|node| node.addresses.public)
                .map(|ip| ip.to_string()),
            unknown_since: record.unknown.as_ref().map(|unknown| unknown.since),
            unknown_why: record.unknown.as_ref().map(|unknown| unknown.why.clone()),
            observed: observed.map(json).transpose()?,
            engine: record.engine.as_ref().map(json).transpose()?,
            host_keys: json(&record.host_keys)?,
            operation: operation
                .map(|operation| seal(key, PURPOSE, operation))
                .transpose()?,
        })
    }

    pub(in crate::registry::sql) fn open(self, key: &PlatformKey) -> Result<NodeRecord> {
        const WHAT: &str = "node";
        let unknown = match (self.unknown_since, self.unknown_why) {
            (None, None) => None,
            (Some(since), Some(why)) => Some(Unknown { since, why }),
            _ => {
                return Err(damaged(
                    WHAT,
                    "the time or the reason of the unknown state is missing",
                ));
            }
        };
        Ok(NodeRecord {
            name: from_word(WHAT, self.name)?,
            observed: self.observed.map(|it| from_json(WHAT, it)).transpose()?,
            engine: self.engine.map(|it| from_json(WHAT, it)).transpose()?,
            host_keys: from_json(WHAT, self.host_keys)?,
            unknown,
            operation: self
                .operation
                .map(|sealed| unseal(key, PURPOSE, &sealed))
                .transpose()?,
        })
    }
}
