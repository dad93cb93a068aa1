//! Defines the tables, and converts records to rows and back.
//!
//! Data that other services may query in SQL has its own columns. Other nested data is stored as
//! JSON. Data that may be secret is encrypted with the platform key.

#![expect(unreachable_pub, reason = "sea-orm's derive requires public types")]

pub(super) mod answer;
pub(super) mod chunk;
pub(super) mod credential;
pub(super) mod declaration;
pub(super) mod declared_chunk;
pub(super) mod event;
pub(super) mod event_counter;
pub(super) mod instance;
pub(super) mod instance_endpoint;
pub(super) mod lease;
pub(super) mod node;
pub(super) mod operation;
pub(super) mod platform;
pub(super) mod rejected;
pub(super) mod revision;
pub(super) mod service;
pub(super) mod service_address;
pub(super) mod token;
pub(super) mod volume;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::secret::PlatformKey;

/// The key of the row in a single-row table.
pub(super) const SINGLE: i32 = 1;

/// Converts a number for the database.
pub(super) fn signed(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| Error::Invalid {
        what: "the number to store".into(),
        why: format!("{number} is greater than {}", i64::MAX),
        hint: "use a smaller number".into(),
    })
}

/// Converts a number from the database.
pub(super) fn unsigned(what: &str, number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| damaged(what, format!("{number} is negative")))
}

/// Converts a small number from the database.
pub(super) fn small(what: &str, number: i32) -> Result<u16> {
    u16::try_from(number).map_err(|_| damaged(what, format!("{number} is not between 0 and 65535")))
}

/// Parses text from the database.
pub(super) fn parsed<T>(what: &str, text: &str) -> Result<T>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    text.parse()
        .map_err(|error| damaged(what, format!("`{text}`: {error}")))
}

/// Converts a value to JSON.
pub(super) fn json(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| Error::Failed {
        what: "serializing JSON for the registry".into(),
        why: error.to_string(),
        source: None,
    })
}

/// Converts a value from JSON.
pub(super) fn from_json<T: DeserializeOwned>(what: &str, value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|error| damaged(what, error.to_string()))
}

/// Converts an enum value to its name, as serde serializes it.
pub(super) fn word(value: &impl Serialize) -> Result<String> {
    match json(value)? {
        Value::String(word) => Ok(word),
        other => Err(Error::failed(
            "serializing a value for the registry",
            format!("{other} is not a string"),
        )),
    }
}

/// Converts a name to an enum value.
pub(super) fn from_word<T: DeserializeOwned>(what: &str, word: String) -> Result<T> {
    from_json(what, Value::String(word))
}

/// Encrypts a value. It can be decrypted only with the same purpose.
pub(super) fn seal(key: &PlatformKey, purpose: &str, value: &impl Serialize) -> Result<Vec<u8>> {
    let plain = serde_json::to_vec(value).map_err(|error| Error::Failed {
        what: format!("serializing the {purpose} for the registry"),
        why: error.to_string(),
        source: None,
    })?;
    key.seal(purpose, &plain)
}

/// Decrypts a value that was encrypted with this purpose.
pub(super) fn unseal<T: DeserializeOwned>(
    key: &PlatformKey,
    purpose: &str,
    sealed: &[u8],
) -> Result<T> {
    let plain = key.open(purpose, sealed)?;
    // The parser's message may quote the decrypted text.
    serde_json::from_slice(&plain).map_err(|error| {
        damaged(
            purpose,
            format!(
                "its format is not supported by this version, at column {}",
                error.column()
            ),
        )
    })
}

/// Creates the error for invalid data in the database.
pub(super) fn damaged(what: &str, why: impl Into<String>) -> Error {
    Error::Corrupt {
        what: format!("{what} in the registry"),
        why: why.into(),
    }
}
