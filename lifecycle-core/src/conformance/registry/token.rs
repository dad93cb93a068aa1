//! Checks for the tokens of the API.

use super::sample::at;
use super::{Backend, lead};
use crate::error::Result;
use crate::model::{ApiToken, ServiceClass, TokenId, TokenName, TokenRole, TokenScope};
use crate::registry::{Batch, Change};
use crate::secret::{new_api_token, token_hash};

fn token(name: &str, role: TokenRole, second: u32) -> Result<ApiToken> {
    let secret = new_api_token();
    Ok(ApiToken {
        id: TokenId::of(&secret),
        name: TokenName::try_from(name)?,
        role,
        scope: Some(TokenScope::new([ServiceClass::Model], [])),
        service: None,
        hash: token_hash(&secret),
        created_at: at(second),
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
    })
}

fn put(token: &ApiToken) -> Change {
    Change::PutToken(Box::new(token.clone()))
}

/// # Panics
/// If a token is lost or changed, or the tokens are not in the order of their creation.
pub async fn tokens_are_stored_by_id(backend: &dyn Backend) -> Result<()> {
    let registry = backend.fresh().await?;
    let epoch = lead(registry.as_ref()).await?;
    assert!(registry.tokens().await?.is_empty());
    let late = token("ci", TokenRole::Operator, 20)?;
    let mut early = token("ci", TokenRole::Admin, 10)?;
    let last = token("panel", TokenRole::Viewer, 30)?;
    let batch = Batch {
        changes: [&late, &early, &last].map(put).to_vec(),
        events: Vec::new(),
    };
    registry.commit(epoch, batch).await?;
    assert_eq!(
        registry.tokens().await?.tokens,
        [early.clone(), late.clone(), last.clone()]
    );
    early.expires_at = Some(at(40));
    early.revoked_at = Some(at(41));
    early.last_used_at = Some(at(42));
    let absent = token("absent", TokenRole::Viewer, 0)?;
    let batch = Batch {
        changes: vec![
            put(&early),
            Change::DeleteToken(last.id),
            Change::DeleteToken(absent.id),
        ],
        events: Vec::new(),
    };
    registry.commit(epoch, batch).await?;
    let kept = [early, late];
    assert_eq!(registry.tokens().await?.tokens, kept);
    if let Some(again) = backend.reopen(registry).await? {
        assert_eq!(again.tokens().await?.tokens, kept);
    }
    Ok(())
}
