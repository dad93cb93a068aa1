//! Maps errors of the database client to [`crate::Error`]. The mapped errors contain the URL of the
//! database without its password.

use rustls::CertificateError;
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
            SqlxError::Tls(why) => without_tls(location, why.to_string()),
            SqlxError::Io(cause) => match rejected_certificate(cause) {
                Some(rejected) => untrusted(location, rejected),
                None => unreachable(location, error),
            },
            SqlxError::Protocol(_)
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

/// The database client's message if the server refuses TLS.
const NO_TLS: &str = "server does not support TLS";

fn without_tls(location: &str, cause: String) -> Error {
    let (why, hint) = if cause == NO_TLS {
        (
            format!("the {NO_TLS}"),
            "enable TLS on the server; if the network to the server is trusted, append \
             `?sslmode=disable` to the database's URL",
        )
    } else {
        (
            cause,
            "correct the host and `sslrootcert` in the database's URL",
        )
    };
    Error::Denied {
        what: format!("access to {location}"),
        why,
        hint: hint.into(),
    }
}

/// Returns why the server's certificate was rejected, if that is the cause of a failed connection.
fn rejected_certificate(error: &std::io::Error) -> Option<&CertificateError> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(rejected) => Some(rejected),
        _ => None,
    }
}

fn untrusted(location: &str, rejected: &CertificateError) -> Error {
    let (why, hint) = match rejected {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            "the server's certificate is not valid for the host in the URL".to_owned(),
            "use a host that the certificate names; `sslmode=verify-ca` in the database's URL \
             accepts any host"
                .to_owned(),
        ),
        rejected => (
            format!("the server's certificate is not trusted: {rejected}"),
            "add `sslrootcert=FILE` to the database's URL, with the file of the certificate \
             authority; `sslmode=require` encrypts without checking the certificate"
                .to_owned(),
        ),
    };
    Error::Denied {
        what: format!("access to {location}"),
        why,
        hint,
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
