//! The table with the single row from which event ids are assigned. A database sequence would leave
//! gaps, and its ids would not follow the order of commits.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "event_counter")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub row: i32,
    /// The last assigned id.
    pub last: i64,
    /// The oldest stored id; `last + 1` if there are no events.
    pub oldest: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
