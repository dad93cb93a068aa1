//! The table of endpoints. Deleting an instance also deletes its endpoints. Other services read
//! endpoints through the view `endpoints`.

use sea_orm::entity::prelude::*;

use super::{damaged, from_word, parsed, small};
use crate::error::Result;
use crate::model::Endpoint;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "instance_endpoints")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub container: String,
    /// The index in the instance's list of endpoints.
    #[sea_orm(primary_key, auto_increment = false)]
    pub position: i32,
    pub ip: String,
    pub port: i32,
    pub container_port: i32,
    pub protocol: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub(in crate::registry::sql) fn of(
        container: &str,
        position: usize,
        endpoint: Endpoint,
    ) -> Result<Self> {
        Ok(Self {
            container: container.to_owned(),
            position: i32::try_from(position)
                .map_err(|_| damaged("endpoints", "an instance has too many endpoints"))?,
            ip: endpoint.ip.to_string(),
            port: endpoint.port.into(),
            container_port: endpoint.container_port.into(),
            protocol: endpoint.protocol.to_string(),
        })
    }

    pub(in crate::registry::sql) fn open(self) -> Result<Endpoint> {
        const WHAT: &str = "endpoint";
        Ok(Endpoint {
            ip: parsed(WHAT, &self.ip)?,
            port: small(WHAT, self.port)?,
            container_port: small(WHAT, self.container_port)?,
            protocol: from_word(WHAT, self.protocol)?,
        })
    }
}
