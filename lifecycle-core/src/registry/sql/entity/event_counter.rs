//! The one row that numbers events. A sequence of the database would leave holes and number
//! them in another order than they are committed in.

use sea_orm::entity::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "event_counter")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub row: i32,
    /// The id that was given last.
    pub last: i64,
    /// The oldest id that is kept; one more than `last` if none is.
    pub oldest: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}
