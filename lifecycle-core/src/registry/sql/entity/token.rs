//! The table of the API's tokens. Each row is encrypted with the platform key, so that write access
//! to the database is not sufficient to add a token.

use sea_orm::entity::prelude::*;

use super::seal;
use crate::error::Result;
use crate::model::ApiToken;
use crate::secret::PlatformKey;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "tokens")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: String,
    pub sealed: Vec<u8>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}

impl ActiveModelBehavior for ActiveModel {}

/// The result of decrypting a row.
pub(in crate::registry::sql) enum Opened {
    Token(Box<ApiToken>),
    /// The row was encrypted with this key, but only a later version can read it.
    OfLaterVersion,
    /// The row was not encrypted with this key.
    OfAnotherKey,
}

impl Model {
    pub(in crate::registry::sql) fn of(token: &ApiToken, key: &PlatformKey) -> Result<Self> {
        Ok(Self {
            id: token.id.to_string(),
            sealed: seal(key, &purpose(token.id.as_str()), token)?,
        })
    }

    pub(in crate::registry::sql) fn open(self, key: &PlatformKey) -> Opened {
        let Ok(plain) = key.open(&purpose(&self.id), &self.sealed) else {
            return Opened::OfAnotherKey;
        };
        serde_json::from_slice(&plain).map_or(Opened::OfLaterVersion, Opened::Token)
    }
}

/// Returns the encryption purpose for a token. The purpose contains the id, so that rows cannot be
/// swapped.
fn purpose(id: &str) -> String {
    format!("token {id}")
}
