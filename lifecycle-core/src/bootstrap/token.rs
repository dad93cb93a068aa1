//! Creates, lists and revokes tokens of the manager's API.

use super::{ACCEPTED_WITHIN, Bootstrapper};
use crate::api::wire::{CreatedTokenV1, NewTokenV1, TokenV1};
use crate::error::Result;
use crate::model::PlatformId;

impl Bootstrapper {
    /// Creates a token. If the response is lost, the token exists but is unknown; revoke it and
    /// create it again.
    pub async fn create_token(
        &self,
        platform: PlatformId,
        new: &NewTokenV1,
    ) -> Result<CreatedTokenV1> {
        let client = self.client(platform).await?;
        self.wait("the manager's acceptance of the request", ACCEPTED_WITHIN)
            .repeat(|| client.create_token(new))
            .await
    }

    /// Returns all tokens, oldest first, also those that ended in the last 30 days.
    pub async fn tokens(&self, platform: PlatformId) -> Result<Vec<TokenV1>> {
        let client = self.client(platform).await?;
        self.wait("the manager's response", ACCEPTED_WITHIN)
            .repeat(|| client.tokens())
            .await
    }

    /// Revokes the token with this id or name.
    pub async fn revoke_token(&self, platform: PlatformId, name: &str) -> Result<TokenV1> {
        let client = self.client(platform).await?;
        self.wait("the manager's acceptance of the request", ACCEPTED_WITHIN)
            .repeat(|| client.revoke_token(name))
            .await
    }
}
