//! The table of answers to requests that clients may repeat.

use sea_orm::entity::prelude::*;

use crate::registry::AnswerRecord;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "answers")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    pub request: String,
    pub answer: Json,
    pub given_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl From<&AnswerRecord> for Model {
    fn from(record: &AnswerRecord) -> Self {
        Self {
            name: record.key.clone(),
            request: record.request.clone(),
            answer: record.answer.clone(),
            given_at: record.at,
        }
    }
}

impl From<Model> for AnswerRecord {
    fn from(row: Model) -> Self {
        Self {
            key: row.name,
            request: row.request,
            answer: row.answer,
            at: row.given_at,
        }
    }
}
