//! The table of service addresses.

use std::net::Ipv4Addr;

use sea_orm::entity::prelude::*;

use super::{from_word, parsed};
use crate::error::Result;
use crate::model::ServiceName;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "service_addresses")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub service: String,
    pub address: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub(in crate::registry::sql) fn of((service, address): (&ServiceName, &Ipv4Addr)) -> Self {
        Self {
            service: service.to_string(),
            address: address.to_string(),
        }
    }

    pub(in crate::registry::sql) fn open(self) -> Result<(ServiceName, Ipv4Addr)> {
        const WHAT: &str = "service address";
        Ok((from_word(WHAT, self.service)?, parsed(WHAT, &self.address)?))
    }
}
