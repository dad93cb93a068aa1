//! The tables, and how the domain's records lie in their columns.
//!
//! What other services may ask for in SQL has a column of its own; the nested rest is JSON;
//! what may hold a secret is sealed with the platform key.

#![expect(
    unreachable_pub,
    reason = "sea-orm's derive makes public types of what it is given"
)]

pub(super) mod credential;
pub(super) mod declaration;
pub(super) mod event;
pub(super) mod event_counter;
pub(super) mod instance;
pub(super) mod instance_endpoint;
pub(super) mod lease;
pub(super) mod node;
pub(super) mod operation;
pub(super) mod platform;
pub(super) mod rejected;
pub(super) mod service;
pub(super) mod service_address;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::secret::PlatformKey;

/// The key of the one row of a table that has only one.
pub(super) const SINGLE: i32 = 1;

/// A number as the databases keep it.
pub(super) fn signed(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| Error::Invalid {
        what: "number for the registry".into(),
        why: format!("{number} is above {}", i64::MAX),
        hint: "use a smaller one".into(),
    })
}

/// A number as it was kept.
pub(super) fn unsigned(what: &str, number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| damaged(what, format!("{number} is below 0")))
}

/// A small number as it was kept.
pub(super) fn small(what: &str, number: i32) -> Result<u16> {
    u16::try_from(number).map_err(|_| damaged(what, format!("{number} is not within 0 to 65535")))
}

/// A value that has a text form, as it was kept.
pub(super) fn parsed<T>(what: &str, text: &str) -> Result<T>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    text.parse()
        .map_err(|error| damaged(what, format!("`{text}`: {error}")))
}

/// A value as JSON.
pub(super) fn json(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| Error::Failed {
        what: "writing JSON for the registry".into(),
        why: error.to_string(),
        source: None,
    })
}

/// A value as it was kept as JSON.
pub(super) fn from_json<T: DeserializeOwned>(what: &str, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| damaged(what, error.to_string()))
}

/// The one word by which a value is kept, as its serde form has it.
pub(super) fn word(value: &impl Serialize) -> Result<String> {
    match json(value)? {
        Value::String(word) => Ok(word),
        other => Err(Error::failed(
            "writing a word for the registry",
            format!("{other} is none"),
        )),
    }
}

/// A value as it was kept by a word.
pub(super) fn from_word<T: DeserializeOwned>(what: &str, word: String) -> Result<T> {
    from_json(what, Value::String(word))
}

/// A value sealed for one purpose.
pub(super) fn seal(key: &PlatformKey, purpose: &str, value: &impl Serialize) -> Result<Vec<u8>> {
    let plain = serde_json::to_vec(value).map_err(|error| Error::Failed {
        what: format!("writing {purpose} for the registry"),
        why: error.to_string(),
        source: None,
    })?;
    key.seal(purpose, &plain)
}

/// A value that was sealed for that purpose.
pub(super) fn unseal<T: DeserializeOwned>(
    key: &PlatformKey,
    purpose: &str,
    sealed: &[u8],
) -> Result<T> {
    let plain = key.open(purpose, sealed)?;
    // The parser's message may quote what it read, which is secret.
    serde_json::from_slice(&plain).map_err(|error| {
        damaged(
            purpose,
            format!(
                "it has another form than this version reads, at column {}",
                error.column()
            ),
        )
    })
}

/// What was read makes no sense.
pub(super) fn damaged(what: &str, why: impl Into<String>) -> Error {
    Error::Corrupt {
        what: format!("{what} in the registry"),
        why: why.into(),
    }
}
