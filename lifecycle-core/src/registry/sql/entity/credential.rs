//! The table of credentials. Each row contains an encrypted value; a previous version also stored
//! hashes.

use sea_orm::entity::prelude::*;

use super::{damaged, seal, unseal};
use crate::error::Result;
use crate::secret::{PlatformKey, Sensitive};

const PURPOSE: &str = "credential";

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "credentials")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub name: String,
    pub hash: Option<String>,
    pub sealed: Option<Vec<u8>>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub(in crate::registry::sql) fn of(
        name: &str,
        credential: &Sensitive,
        key: &PlatformKey,
    ) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            hash: None,
            sealed: Some(seal(key, &purpose(name), credential)?),
        })
    }

    pub(in crate::registry::sql) fn open(self, key: &PlatformKey) -> Result<Sensitive> {
        match self.sealed {
            Some(sealed) => unseal(key, &purpose(&self.name), &sealed),
            None => Err(damaged("credential", "it has no value")),
        }
    }
}

/// Returns the encryption purpose for a credential. The purpose contains the name, so that the
/// encrypted values of two credentials cannot be swapped.
fn purpose(name: &str) -> String {
    format!("{PURPOSE} {name}")
}
