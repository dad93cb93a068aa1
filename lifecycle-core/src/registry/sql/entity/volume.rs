//! The table with the named volumes that instances have used.

use sea_orm::entity::prelude::*;

use super::from_word;
use crate::error::Result;
use crate::registry::VolumeRecord;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "volumes")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub node: String,
    #[sea_orm(primary_key, auto_increment = false)]
    pub volume: String,
    pub missing: bool,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub(in crate::registry::sql) fn of(record: &VolumeRecord) -> Self {
        Self {
            node: record.node.to_string(),
            volume: record.volume.to_string(),
            missing: record.is_missing,
        }
    }

    pub(in crate::registry::sql) fn open(self) -> Result<VolumeRecord> {
        const WHAT: &str = "volume";
        Ok(VolumeRecord {
            node: from_word(WHAT, self.node)?,
            volume: from_word(WHAT, self.volume)?,
            is_missing: self.missing,
        })
    }
}
