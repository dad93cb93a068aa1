//! Credentials: a hash, or the encrypted value.

use sea_orm::entity::prelude::*;

use super::{damaged, seal, unseal};
use crate::error::Result;
use crate::registry::Credential;
use crate::secret::PlatformKey;

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
        credential: &Credential,
        key: &PlatformKey,
    ) -> Result<Self> {
        let (hash, sealed) = match credential {
            Credential::Hash(hash) => (Some(hash.clone()), None),
            Credential::Sealed(value) => (None, Some(seal(key, &purpose(name), value)?)),
        };
        Ok(Self {
            name: name.to_owned(),
            hash,
            sealed,
        })
    }

    pub(in crate::registry::sql) fn open(self, key: &PlatformKey) -> Result<Credential> {
        match (self.hash, self.sealed) {
            (Some(hash), None) => Ok(Credential::Hash(hash)),
            (None, Some(sealed)) => {
                unseal(key, &purpose(&self.name), &sealed).map(Credential::Sealed)
            }
            _ => Err(damaged("credential", "it is neither a hash nor a value")),
        }
    }
}

/// Returns a separate purpose for each name, so that credentials cannot be swapped.
fn purpose(name: &str) -> String {
    format!("{PURPOSE} {name}")
}
