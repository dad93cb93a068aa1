//! The table of declarations, with one row for each generation. Declarations contain secrets, so
//! they are encrypted.

use chrono::{DateTime, Utc};
use sea_orm::entity::prelude::*;

use super::{seal, signed, unseal};
use crate::error::Result;
use crate::model::Generation;
use crate::platform::Declaration;
use crate::secret::PlatformKey;

const PURPOSE: &str = "declaration";

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "declarations")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub generation: i64,
    pub sealed: Vec<u8>,
    pub created_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub(in crate::registry::sql) fn of(
        generation: Generation,
        declaration: &Declaration,
        created_at: DateTime<Utc>,
        key: &PlatformKey,
    ) -> Result<Self> {
        Ok(Self {
            generation: signed(generation.0)?,
            sealed: seal(key, PURPOSE, declaration)?,
            created_at,
        })
    }

    pub(in crate::registry::sql) fn open(&self, key: &PlatformKey) -> Result<Declaration> {
        unseal(key, PURPOSE, &self.sealed)
    }
}
