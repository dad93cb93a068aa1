//! The table of the chunks that declarations refer to.

use sea_orm::entity::prelude::*;

use super::{chunk, signed};
use crate::error::Result;
use crate::model::{ChunkDigest, Generation};
use crate::secret::PlatformKey;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "declared_chunks")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub generation: i64,
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub(in crate::registry::sql) fn of(
        generation: Generation,
        digest: ChunkDigest,
        key: &PlatformKey,
    ) -> Result<Self> {
        Ok(Self {
            generation: signed(generation.0)?,
            name: chunk::name(digest, key),
        })
    }
}
