//! The table of the chunks of mounted files. They may contain secrets, so they are encrypted, and their
//! names are derived from their digests with the platform key.

use chrono::{DateTime, Utc};
use sea_orm::entity::prelude::*;

use super::damaged;
use crate::error::Result;
use crate::model::{Chunk, ChunkDigest};
use crate::secret::PlatformKey;

const PURPOSE: &str = "chunk";

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "chunks")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    pub stored_at: DateTimeUtc,
    pub sealed: Vec<u8>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// Returns the name of the chunk with this digest.
pub(in crate::registry::sql) fn name(digest: ChunkDigest, key: &PlatformKey) -> String {
    key.sign("chunk name", digest.to_string().as_bytes())
}

impl Model {
    pub(in crate::registry::sql) fn of(
        chunk: &Chunk,
        stored_at: DateTime<Utc>,
        key: &PlatformKey,
    ) -> Result<Self> {
        Ok(Self {
            name: name(chunk.digest(), key),
            stored_at,
            sealed: key.seal(PURPOSE, chunk.contents())?,
        })
    }

    pub(in crate::registry::sql) fn open(
        &self,
        digest: ChunkDigest,
        key: &PlatformKey,
    ) -> Result<Chunk> {
        let chunk = Chunk::new(key.open(PURPOSE, &self.sealed)?.into())?;
        if chunk.digest() == digest {
            Ok(chunk)
        } else {
            Err(damaged(PURPOSE, "its digest is different from its name"))
        }
    }
}
