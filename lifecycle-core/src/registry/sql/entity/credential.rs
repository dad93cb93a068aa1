//! The table of credentials. Each row contains either a hash or an encrypted value.

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
            _ => Err(damaged("credential", "it must have a hash or a value")),
        }
    }
}

/// Returns the encryption purpose for a credential. The purpose contains the name, so that the
/// encrypted values of two credentials cannot be swapped.
fn purpose(name: &str) -> String {
    format!("{PURPOSE} {name}")
}
