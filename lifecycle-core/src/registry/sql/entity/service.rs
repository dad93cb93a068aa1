//! The table of declared services. Other services query this table in SQL, because they cannot read
//! the encrypted declaration.

use sea_orm::entity::prelude::*;

use super::signed;
use crate::error::Result;
use crate::model::{Generation, ServiceSpec};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "services")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    pub class: String,
    pub replicas: i32,
    /// The generation that declares the service.
    pub generation: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub(in crate::registry::sql) fn of(
        service: &ServiceSpec,
        generation: Generation,
    ) -> Result<Self> {
        Ok(Self {
            name: service.name.to_string(),
            class: service.class.to_string(),
            replicas: service.replicas.into(),
            generation: signed(generation.0)?,
        })
    }
}
