//! Determines why a connection could not be opened: a name that cannot be resolved, a refused
//! connection, or a certificate that is not trusted. Users would otherwise mistake these causes for
//! a wrong secret.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use lifecycle_core::Error;
use lifecycle_core::error::chain;
use rustls::CertificateError;

/// Timeout for opening a connection, including the lookup of the name and the TLS handshake.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);

/// The reason why a connection could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The server's certificate was issued by an authority that is not trusted.
    Untrusted,
    /// The certificate is valid only at another time.
    WrongTime,
    /// The certificate is for another name.
    WrongName,
    /// The server does not use TLS, or uses an incompatible version.
    NoTls,
    /// The name has no address, or no name server responds.
    Unresolved,
    Refused,
    TimedOut,
    Other,
}

/// Returns whether connections to Azure use a proxy.
fn has_proxy() -> bool {
    ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
        .iter()
        .any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

impl Cause {
    fn of(error: &(dyn StdError + 'static)) -> Self {
        let mut next = Some(error);
        let mut found = Self::Other;
        while let Some(error) = next {
            if let Some(tls) = error.downcast_ref::<rustls::Error>() {
                return Self::of_tls(tls);
            }
            if let Some(io) = error.downcast_ref::<io::Error>() {
                match io.kind() {
                    io::ErrorKind::ConnectionRefused => return Self::Refused,
                    io::ErrorKind::TimedOut => found = Self::TimedOut,
                    _ => {}
                }
                // The source of an I/O error is the source of the error that it contains.
                if let Some(inner) = io.get_ref()
                    && let cause @ (Self::Untrusted
                    | Self::WrongTime
                    | Self::WrongName
                    | Self::NoTls
                    | Self::Unresolved
                    | Self::Refused) = Self::of(inner)
                {
                    return cause;
                }
            }
            let text = error.to_string();
            let is_name = ["dns error", "failed to lookup address", "invalid dns name"];
            if is_name.iter().any(|part| text.contains(part)) {
                return Self::Unresolved;
            }
            if text.contains("operation timed out") || text.contains("deadline has elapsed") {
                found = Self::TimedOut;
            }
            next = error.source();
        }
        found
    }

    fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(certificate) => match certificate {
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::WrongTime,
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => Self::WrongName,
                _ => Self::Untrusted,
            },
            _ => Self::NoTls,
        }
    }

    /// Returns the cause as a part of a sentence whose subject is the server.
    fn why(self) -> Option<&'static str> {
        match self {
            Self::Untrusted => Some("its TLS certificate is not trusted"),
            Self::WrongTime => Some("its TLS certificate is not valid at this machine's time"),
            Self::WrongName => Some("its TLS certificate is for another name"),
            Self::NoTls => Some("it does not accept this TLS connection"),
            Self::Unresolved => Some("its name cannot be resolved"),
            Self::Refused => Some("it refused the connection"),
            Self::TimedOut => Some("it did not respond in time"),
            Self::Other => None,
        }
    }

    /// Returns a hint. `setting` is the key of the server's address in `platform.toml`.
    fn hint(self, setting: &str) -> String {
        let ca = match setting.split_once('.') {
            Some((table, _)) => format!("{table}.ca"),
            None => "ca".to_owned(),
        };
        match self {
            Self::Untrusted => format!(
                "if a proxy or a firewall of your network inspects TLS connections, set `{ca}` to a \
                 PEM file with its certificate authority; otherwise, check `{setting}`"
            ),
            Self::WrongTime => "check this machine's clock".to_owned(),
            Self::WrongName | Self::NoTls => format!(
                "check `{setting}`, and whether a proxy or a firewall of your network answers \
                 instead of Azure"
            ),
            Self::Unresolved | Self::Refused | Self::TimedOut | Self::Other => {
                let proxy = if has_proxy() {
                    "the proxy in HTTPS_PROXY or ALL_PROXY, which may not be responding"
                } else {
                    "the proxy in HTTPS_PROXY if your network needs one"
                };
                format!("check this machine's network and name servers, {proxy}, and `{setting}`")
            }
        }
    }
}

/// A connection that could not be opened. Contains no URL, because a URL may contain a signature.
#[derive(Debug, Clone)]
pub(crate) struct Unopened {
    cause: Cause,
    detail: String,
}

impl Unopened {
    pub(crate) fn of(error: &(dyn StdError + 'static)) -> Self {
        Self {
            cause: Cause::of(error),
            detail: chain(error),
        }
    }

    /// Returns why the connection could not be opened, as a part of a sentence.
    pub(crate) fn why(&self) -> String {
        match self.cause.why() {
            Some(why) => format!("{why} ({})", self.detail),
            None => self.detail.clone(),
        }
    }

    pub(crate) fn hint(&self, setting: &str) -> String {
        self.cause.hint(setting)
    }

    /// Converts the failure to the core's error type. `setting` is the key of the server's address
    /// in `platform.toml`.
    pub(crate) fn into_error(self, what: impl Into<String>, setting: &str) -> Error {
        Error::unreachable_with_hint(what, self.hint(setting), self.why().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(error: impl StdError + Send + Sync + 'static) -> Unopened {
        // As reqwest and hyper wrap errors.
        let wrapped = io::Error::other(io::Error::other(error));
        Unopened::of(&wrapped)
    }

    #[test]
    fn names_each_cause_with_a_hint() {
        use CertificateError::{Expired, NotValidForName, UnknownIssuer};
        let tls = |certificate| of(rustls::Error::InvalidCertificate(certificate));
        for (unopened, why, hint) in [
            (tls(UnknownIssuer), "is not trusted", "`cloud.ca`"),
            (tls(Expired), "machine's time", "clock"),
            (tls(NotValidForName), "another name", "proxy"),
            (
                of(rustls::Error::DecryptError),
                "does not accept",
                "`cloud.endpoint`",
            ),
            (
                of(io::Error::other("dns error: no such name")),
                "cannot be resolved",
                "name servers",
            ),
            (
                of(io::Error::from(io::ErrorKind::ConnectionRefused)),
                "refused the connection",
                "`cloud.endpoint`",
            ),
            (of(io::Error::other("odd")), "odd", "network"),
        ] {
            let error = unopened.into_error("Azure", "cloud.endpoint");
            assert!(error.chain().contains(why), "{why}: {}", error.chain());
            let shown = error.hint().unwrap();
            assert!(shown.contains(hint), "{hint}: {shown}");
        }
    }
}
