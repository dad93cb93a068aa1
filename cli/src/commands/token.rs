//! `token`: creates, lists and revokes tokens of the manager's API.

use chrono::{DateTime, Utc};
use lifecycle_core::api::wire::{NewTokenV1, TokenV1};
use lifecycle_core::bootstrap::Bootstrapper;
use lifecycle_core::clock::{Clock as _, SystemClock};
use lifecycle_core::model::PlatformId;
use lifecycle_core::secret::Sensitive;
use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::{Arguments, CreateToken, Token, TokenAction};
use crate::commands;
use crate::failure::Failure;
use crate::paint::Tone;
use crate::printer;
use crate::progress::ProgressLines;
use crate::table::Table;

/// The document of `token create --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Created {
    /// The token itself. It is not stored, and cannot be shown again.
    #[schemars(with = "String")]
    token: Sensitive,
    /// The stored data of the token.
    created: TokenV1,
}

/// The document of `token list --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Listed {
    /// All tokens, oldest first, also those that ended in the last 30 days.
    tokens: Vec<TokenV1>,
}

/// The document of `token revoke --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Revoked {
    /// The revoked token.
    revoked: TokenV1,
}

pub(crate) async fn run(arguments: &Arguments, options: &Token) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    let (platform, json) = (identity.id, arguments.json);
    match &options.action {
        TokenAction::Create(options) => create(&bootstrapper, platform, options, json).await,
        TokenAction::List => {
            let tokens = bootstrapper.tokens(platform).await?;
            if json {
                return printer::document(&Listed { tokens });
            }
            printer::data(&table(&tokens, SystemClock.now(), printer::width()))
        }
        TokenAction::Revoke { name } => {
            let revoked = bootstrapper.revoke_token(platform, name).await?;
            if json {
                return printer::document(&Revoked { revoked });
            }
            printer::message(&format!("Revoked token {} ({}).", revoked.name, revoked.id));
            Ok(())
        }
    }
}

async fn create(
    bootstrapper: &Bootstrapper,
    platform: PlatformId,
    options: &CreateToken,
    json: bool,
) -> Result<(), Failure> {
    let mut new = NewTokenV1::new(options.name.clone(), options.role.into());
    if let Some(scope) = options.scope() {
        new = new.limited_to(scope);
    }
    if let Some(after) = options.expires_in {
        new = new.expiring_in(after);
    }
    let created = bootstrapper.create_token(platform, &new).await?;
    if json {
        return printer::document(&Created {
            token: created.token,
            created: created.stored,
        });
    }
    let TokenV1 { name, id, role, .. } = &created.stored;
    let limit = created.stored.scope.as_ref();
    let limit = limit.map_or_else(String::new, |scope| format!(", limited to {scope}"));
    printer::message(&format!(
        "Created token {name} ({id}) with the role {role}{limit}. Store it now; it cannot be shown again:"
    ));
    printer::data(created.token.expose())
}

fn table(tokens: &[TokenV1], now: DateTime<Utc>, width: Option<usize>) -> String {
    let header = [
        "NAME",
        "ID",
        "ROLE",
        "SCOPE",
        "STATE",
        "CREATED",
        "LAST USED",
    ];
    let mut table = Table::of(&header);
    for token in tokens {
        let cells = vec![
            match &token.service {
                Some(service) => format!("(service {service})"),
                None => token.name.to_string(),
            },
            token.id.to_string(),
            token.role.to_string(),
            { token.scope.as_ref() }.map_or_else(|| "all".to_owned(), ToString::to_string),
            state(token, now),
            day(token.created_at),
            token
                .last_used_at
                .map_or_else(|| "never".to_owned(), day_and_hour),
        ];
        let is_valid = token.revoked_at.is_none() && token.expires_at.is_none_or(|at| at > now);
        table.row(if is_valid { Tone::Good } else { Tone::Faint }, cells);
    }
    table.text(width)
}

fn state(token: &TokenV1, now: DateTime<Utc>) -> String {
    match (token.revoked_at, token.expires_at) {
        (Some(at), _) => format!("revoked {}", day(at)),
        (None, Some(at)) if at <= now => format!("expired {}", day(at)),
        (None, Some(at)) => format!("expires {}", day(at)),
        (None, None) => "valid".to_owned(),
    }
}

fn day(at: DateTime<Utc>) -> String {
    at.format("%F").to_string()
}

fn day_and_hour(at: DateTime<Utc>) -> String {
    at.format("%F %H:00").to_string()
}

#[cfg(test)]
mod tests {
    use lifecycle_core::clock::TokioClock;

    use super::*;

    #[tokio::test]
    async fn the_table_shows_why_a_token_is_not_valid() {
        let token = |name: &str, revoked: Option<&str>, expires: Option<&str>| {
            let token = serde_json::json!({
                "id": "0123456789abcdef", "name": name, "role": "operator",
                "created_at": "2026-01-02T03:04:05Z", "revoked_at": revoked, "expires_at": expires,
                "last_used_at": null,
            });
            serde_json::from_value(token).unwrap()
        };
        let (past, future) = (Some("2026-03-01T00:00:00Z"), Some("2026-09-01T00:00:00Z"));
        let tokens = [
            token("plain", None, None),
            token("revoked", past, future),
            token("expired", None, past),
            token("short", None, future),
        ];
        let now = TokioClock::starting_at("2026-06-01T00:00:00Z".parse().unwrap()).now();
        let text = anstream::adapter::strip_str(&table(&tokens, now, None)).to_string();
        insta::assert_snapshot!(text, @r"
        NAME     ID                ROLE      SCOPE  STATE               CREATED     LAST USED
        plain    0123456789abcdef  operator  all    valid               2026-01-02  never
        revoked  0123456789abcdef  operator  all    revoked 2026-03-01  2026-01-02  never
        expired  0123456789abcdef  operator  all    expired 2026-03-01  2026-01-02  never
        short    0123456789abcdef  operator  all    expires 2026-09-01  2026-01-02  never
        ");
    }
}
