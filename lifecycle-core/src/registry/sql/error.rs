//! The databases' errors as those of the core, mapped here and nowhere else.
//!
//! They name the database as the user knows it, without its password.

use sea_orm::{DbErr, RuntimeErr, SqlxError};

use crate::error::{Error, Source};

/// Maps an error of the database at `place`.
pub(super) fn at(place: &str) -> impl Fn(DbErr) -> Error {
    move |error| map(place, error)
}

fn map(place: &str, error: DbErr) -> Error {
    match &error {
        DbErr::ConnectionAcquire(_) => unreachable(place, error),
        DbErr::Conn(RuntimeErr::SqlxError(cause))
        | DbErr::Exec(RuntimeErr::SqlxError(cause))
        | DbErr::Query(RuntimeErr::SqlxError(cause)) => match &**cause {
            SqlxError::Io(_)
            | SqlxError::Tls(_)
            | SqlxError::Protocol(_)
            | SqlxError::PoolTimedOut
            | SqlxError::PoolClosed
            | SqlxError::WorkerCrashed => unreachable(place, error),
            SqlxError::ColumnDecode { .. } | SqlxError::Decode(_) => Error::Corrupt {
                what: place.to_owned(),
                why: cause.to_string(),
            },
            SqlxError::Database(refused) => {
                let code = refused.code().unwrap_or_default().into_owned();
                let says = refused.message().to_owned();
                refusal(place, &code, says, error)
            }
            _ => failed(place, error),
        },
        DbErr::Type(why) | DbErr::Json(why) => Error::Corrupt {
            what: place.to_owned(),
            why: why.clone(),
        },
        _ => failed(place, error),
    }
}

/// What the database itself said, by its code: five characters of PostgreSQL, a number of
/// SQLite.
fn refusal(place: &str, code: &str, says: String, error: DbErr) -> Error {
    let what = place.to_owned();
    let source: Option<Source> = Some(Box::new(error));
    match code {
        // Connection exceptions, shutting down, starting up, out of connections.
        _ if code.len() == 5 && (code.starts_with("08") || code.starts_with("57P")) => {
            Error::Unreachable { what, source }
        }
        "53300" => Error::Unreachable { what, source },
        "28000" | "28P01" => Error::Denied {
            what,
            why: says,
            hint: "check the user and the password in the database's URL".into(),
        },
        "42501" => Error::Denied {
            what,
            why: says,
            hint: "let the database's user own the registry's tables and create them".into(),
        },
        "3D000" => Error::Invalid {
            what,
            why: says,
            hint: "create the database, or name another one in its URL".into(),
        },
        "25006" => Error::Invalid {
            what,
            why: says,
            hint: "name the primary server, not a standby".into(),
        },
        // Serialisation, deadlock, a lock or a statement that took too long; busy, locked.
        "40001" | "40P01" | "55P03" | "57014" | "5" | "6" | "261" | "262" | "517" => {
            Error::Interrupted { what, source }
        }
        "53100" | "13" => Error::Exhausted {
            what,
            why: says,
            hint: "make room on the database's disk".into(),
        },
        "11" | "26" => Error::Corrupt { what, why: says },
        "8" | "14" | "1032" | "1544" => Error::Denied {
            what,
            why: says,
            hint: "let this user read and write the file and its directory".into(),
        },
        _ => Error::Failed {
            what,
            why: says,
            source,
        },
    }
}

fn unreachable(place: &str, error: DbErr) -> Error {
    Error::Unreachable {
        what: place.to_owned(),
        source: Some(Box::new(error)),
    }
}

fn failed(place: &str, error: DbErr) -> Error {
    Error::Failed {
        what: place.to_owned(),
        why: "the database's client gave up".into(),
        source: Some(Box::new(error)),
    }
}
