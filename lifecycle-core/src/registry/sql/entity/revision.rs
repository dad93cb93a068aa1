//! The table of what caused generations, with at most one row for each generation.

use chrono::{DateTime, Utc};
use sea_orm::entity::prelude::*;

use super::{json, signed};
use crate::error::Result;
use crate::model::Generation;
use crate::platform::RevisionNote;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "revisions")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub generation: i64,
    pub note: Json,
    /// The time at which the declaration was recorded. A note with another time is about a generation
    /// that was deleted by a version without notes.
    pub created_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub(in crate::registry::sql) fn of(
        generation: Generation,
        note: &RevisionNote,
        created_at: DateTime<Utc>,
    ) -> Result<Self> {
        Ok(Self {
            generation: signed(generation.0)?,
            note: json(note)?,
            created_at,
        })
    }

    /// Returns the note, or `None` if only a later version can read it.
    pub(in crate::registry::sql) fn open(self) -> Option<RevisionNote> {
        serde_json::from_value(self.note).ok()
    }
}
