//! The table with the latest rejected specification of each instance.

use sea_orm::entity::prelude::*;

use super::{from_word, small};
use crate::error::Result;
use crate::model::{InstanceId, Replica, SpecDigest};
use crate::registry::RejectedSpec;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "rejected")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub service: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub replica: i32,
    pub digest: String,
    pub rejected_at: DateTimeUtc,
    pub why: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub(in crate::registry::sql) fn of(spec: &RejectedSpec) -> Self {
        Self {
            service: spec.id.service.to_string(),
            replica: spec.id.replica.0.into(),
            digest: spec.digest.to_string(),
            rejected_at: spec.at,
            why: spec.why.clone(),
        }
    }

    pub(in crate::registry::sql) fn open(self) -> Result<RejectedSpec> {
        const WHAT: &str = "rejected specification";
        Ok(RejectedSpec {
            id: InstanceId {
                service: from_word(WHAT, self.service)?,
                replica: Replica(small(WHAT, self.replica)?),
            },
            digest: SpecDigest::from_hex(self.digest),
            at: self.rejected_at,
            why: self.why,
        })
    }
}
