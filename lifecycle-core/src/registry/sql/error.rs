//! Maps errors of the database client to [`crate::Error`]. The mapped errors contain the URL of the
//! database without its password.

use sea_orm::{DbErr, RuntimeErr, SqlxError};

use crate::error::{Error, Source};

/// Maps an error of the database at `location`.
pub(super) fn at(location: &str) -> impl Fn(DbErr) -> Error {
    move |error| map(location, error)
}

fn map(location: &str, error: DbErr) -> Error {
    match &error {
        DbErr::ConnectionAcquire(_) => unreachable(location, error),
        DbErr::Conn(RuntimeErr::SqlxError(cause))
        | DbErr::Exec(RuntimeErr::SqlxError(cause))
        | DbErr::Query(RuntimeErr::SqlxError(cause)) => match &**cause {
            SqlxError::Io(_)
            | SqlxError::Tls(_)
            | SqlxError::Protocol(_)
            | SqlxError::PoolTimedOut
            | SqlxError::PoolClosed
            | SqlxError::WorkerCrashed => unreachable(location, error),
            SqlxError::ColumnDecode { .. } | SqlxError::Decode(_) => Error::Corrupt {
                what: location.to_owned(),
                why: cause.to_string(),
            },
            SqlxError::Database(refused) => {
                let code = refused.code().unwrap_or_default().into_owned();
                let message = refused.message().to_owned();
                refusal(location, &code, message, error)
            }
            _ => failed(location, error),
        },
        DbErr::Type(why) | DbErr::Json(why) => Error::Corrupt {
            what: location.to_owned(),
            why: why.clone(),
        },
        _ => failed(location, error),
    }
}

/// Maps an error by the code that the database reported. A code has five characters in PostgreSQL,
/// and is a number in SQLite.
fn refusal(location: &str, code: &str, message: String, error: DbErr) -> Error {
    let what = location.to_owned();
    let source: Option<Source> = Some(Box::new(error));
    match code {
        // Connection errors, shutdown, startup, too many connections.
        _ if code.len() == 5 && (code.starts_with("08") || code.starts_with("57P")) => {
            Error::unreachable(what, source)
        }
        "53300" => Error::unreachable(what, source),
        "28000" | "28P01" => Error::Denied {
            what: format!("access to {what}"),
            why: message,
            hint: "check the user and the password in the database's URL".into(),
        },
        "42501" => Error::Denied {
            what: format!("access to {what}"),
            why: message,
            hint: "make the database user the owner of the registry's tables, and allow this user \
                   to create tables"
                .into(),
        },
        "3D000" => Error::Invalid {
            what,
            why: message,
            hint: "create the database, or correct the database's name in the URL".into(),
        },
        "25006" => Error::Invalid {
            what,
            why: message,
            hint: "use the URL of the primary server, not of a standby".into(),
        },
        // Serialization failure, deadlock, lock or statement timeout; busy, locked.
        "40001" | "40P01" | "55P03" | "57014" | "5" | "6" | "261" | "262" | "517" => {
            Error::Interrupted {
                what: format!("a request to {what}"),
                source,
            }
        }
        "53100" | "13" => Error::Exhausted {
            what,
            why: message,
            hint: "free space on the disk of the database".into(),
        },
        "11" | "26" => Error::Corrupt { what, why: message },
        "8" | "14" | "1032" | "1544" => Error::Denied {
            what: format!("access to {what}"),
            why: message,
            hint: "give the user who runs this program read and write access to the file and its \
                   directory"
                .into(),
        },
        _ => Error::Failed {
            what: format!("a request to {what}"),
            why: message,
            source,
        },
    }
}

fn unreachable(location: &str, error: DbErr) -> Error {
    Error::Unreachable {
        hint: None,
        what: location.to_owned(),
        source: Some(Box::new(error)),
    }
}

fn failed(location: &str, error: DbErr) -> Error {
    Error::Failed {
        what: format!("a request to {location}"),
        why: "the database client reported an error".into(),
        source: Some(Box::new(error)),
    }
}
