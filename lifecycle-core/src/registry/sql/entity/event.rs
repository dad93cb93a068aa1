//! The table of events.

use sea_orm::entity::prelude::*;

use super::{from_json, from_word, json, signed, unsigned, word};
use crate::error::Result;
use crate::model::{Event, NewEvent};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "events")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: i64,
    pub happened_at: DateTimeUtc,
    pub kind: String,
    pub subject: Json,
    pub message: String,
    pub data: Option<Json>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub(in crate::registry::sql) fn of(event: &Event) -> Result<Self> {
        let new = &event.event;
        Ok(Self {
            id: signed(event.id)?,
            happened_at: new.at,
            kind: word(&new.kind)?,
            subject: json(&new.subject)?,
            message: new.message.clone(),
            data: Some(new.data.clone()).filter(|data| !data.is_null()),
        })
    }

    pub(in crate::registry::sql) fn open(self) -> Result<Event> {
        const WHAT: &str = "event";
        Ok(Event {
            id: unsigned(WHAT, self.id)?,
            event: NewEvent {
                at: self.happened_at,
                kind: from_word(WHAT, self.kind)?,
                subject: from_json(WHAT, self.subject)?,
                message: self.message,
                data: self.data.unwrap_or_default(),
            },
        })
    }
}
