//! Maps the errors of Azure Files to the core's errors.

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use lifecycle_core::Error;
use lifecycle_core::error::chain;
use opendal::ErrorKind;

use super::transport::Trouble;

/// Identifies a share in error messages. Contains no secret.
#[derive(Debug)]
pub(super) struct ShareInfo {
    pub(super) account: String,
    pub(super) share: String,
    pub(super) endpoint: String,
    pub(super) with: CredentialKind,
    pub(super) timeout: Duration,
}

/// The type of credential that signs requests.
#[derive(Debug)]
pub(super) enum CredentialKind {
    Key,
    Sas {
        /// The expiry time that the signature contains.
        expires: Option<String>,
    },
}

impl fmt::Display for ShareInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "share `{}` of storage account `{}`",
            self.share, self.account
        )
    }
}

impl ShareInfo {
    /// Converts an error of an operation on `path` in the share; `doing` describes the operation.
    /// Never includes opendal's own text, which may contain a URL with a signature.
    pub(super) fn explain(&self, path: &str, doing: &str, error: &opendal::Error) -> Error {
        let what = format!("{doing} ({self})");
        let source = std::error::Error::source(error).and_then(|one| one.downcast_ref());
        match source {
            Some(Trouble::Refused {
                status,
                code,
                request,
                retry_after,
            }) => self.refused(what, *status, code, request, *retry_after),
            Some(Trouble::Unreachable(unopened)) => {
                // By default, the name of the account determines the address.
                let is_default = self.endpoint.contains(".file.core.windows.net");
                let setting = if is_default {
                    "code.account"
                } else {
                    "code.endpoint"
                };
                let what = format!("storage account `{}` at {}", self.account, self.endpoint);
                unopened.clone().into_error(what, setting)
            }
            Some(trouble @ Trouble::Broken(_)) => {
                Error::interrupted(what, Some(chain(trouble).into()))
            }
            Some(Trouble::TimedOut) => Error::timed_out(what, self.timeout),
            None if error.kind() == ErrorKind::NotFound => {
                Error::not_found(format!("`{path}` in {self}"))
            }
            None => of_opendal(what, error),
        }
    }

    fn refused(
        &self,
        what: String,
        status: StatusCode,
        code: &str,
        request: &str,
        after: Option<Duration>,
    ) -> Error {
        let shown = if code.is_empty() { "no code" } else { code };
        let why = format!(
            "Azure returned {} ({shown}; request {request})",
            status.as_u16()
        );
        match (code, status) {
            ("ServerBusy" | "TooManyRequests", _)
            | (_, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
                Error::throttled(what, after)
            }
            // Not `NotFound`, which means that only a code base is absent.
            ("ShareNotFound", _) => Error::invalid(
                self.to_string(),
                "the share does not exist",
                format!(
                    "create the share: az storage share-rm create --storage-account {} --name {}",
                    self.account, self.share
                ),
            ),
            (_, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED)
            | ("InvalidAuthenticationInfo", _) => Error::denied(what, why, self.hint(code)),
            ("ShareSizeLimitReached" | "InsufficientStorage", _)
            | (_, StatusCode::INSUFFICIENT_STORAGE) => Error::exhausted(
                what,
                why,
                format!("raise the quota for {self}, or remove unused files"),
            ),
            (_, StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED) => {
                Error::conflict(what, why)
            }
            (_, status) if status.is_server_error() => Error::interrupted(what, Some(why.into())),
            _ => Error::failed(what, why),
        }
    }

    fn hint(&self, code: &str) -> String {
        let account = &self.account;
        match (code, &self.with) {
            ("KeyBasedAuthenticationNotPermitted", _) => format!(
                "allow shared keys: az storage account update --name {account} \
                 --allow-shared-key-access true"
            ),
            ("AuthorizationFailure", _) => format!(
                "allow this machine's address in the firewall of storage account `{account}`"
            ),
            ("AccountIsDisabled", _) => format!("enable storage account `{account}`"),
            (_, CredentialKind::Key) => format!(
                "use a current key (az storage account keys list --account-name {account}), and \
                 check that this machine's clock is correct"
            ),
            (_, CredentialKind::Sas { expires }) => {
                let until = match expires {
                    Some(time) => format!("; the current signature expires at {time}"),
                    None => String::new(),
                };
                format!(
                    "create a new shared access signature for files of storage account \
                     `{account}` with the permissions rl (to publish: rcwdl) on containers and \
                     objects{until}"
                )
            }
        }
    }
}

/// Converts an error that opendal itself detected.
fn of_opendal(what: String, error: &opendal::Error) -> Error {
    match error.kind() {
        _ if error.is_temporary() => {
            Error::interrupted(what, Some("the response was truncated".into()))
        }
        // Omit opendal's text, which may contain a URL with a signature.
        kind => Error::failed(
            what,
            format!("the storage library (opendal) reported the error kind {kind}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use lifecycle_core::Retry;

    use super::*;

    fn info(with: CredentialKind) -> ShareInfo {
        ShareInfo {
            account: "account".to_owned(),
            share: "code".to_owned(),
            endpoint: "https://account.example/".to_owned(),
            with,
            timeout: Duration::from_secs(5),
        }
    }

    fn refused(with: CredentialKind, status: u16, code: &str, after: Option<u64>) -> Error {
        let trouble = Trouble::Refused {
            status: StatusCode::from_u16(status).unwrap(),
            code: code.to_owned(),
            request: "1234".to_owned(),
            retry_after: after.map(Duration::from_secs),
        };
        info(with).explain("a/b", "reading", &trouble.into())
    }

    #[test]
    fn maps_each_error_code() {
        let key = || CredentialKind::Key;
        let busy = refused(key(), 503, "ServerBusy", Some(7));
        assert_eq!(busy.retry(), Retry::After(Duration::from_secs(7)));
        let many = refused(key(), 429, "", None);
        assert_eq!(many.retry(), Retry::After(Duration::ZERO));
        let internal = refused(key(), 500, "InternalError", None);
        assert_eq!(internal.retry(), Retry::After(Duration::ZERO));
        assert!(internal.chain().contains("1234"), "{}", internal.chain());
        let locked = refused(key(), 409, "SharingViolation", None);
        assert_eq!(locked.retry(), Retry::Replan);
        let full = refused(key(), 409, "ShareSizeLimitReached", None);
        assert!(matches!(full, Error::Exhausted { .. }), "{full:?}");
        let absent = refused(key(), 404, "ShareNotFound", None);
        assert!(
            absent.hint().unwrap().contains("share-rm create"),
            "{absent:?}"
        );
        let odd = refused(key(), 400, "OutOfRangeInput", None);
        assert!(matches!(odd, Error::Failed { .. }), "{odd:?}");
    }

    #[test]
    fn a_denial_names_the_account_and_a_command() {
        let wrong = refused(CredentialKind::Key, 403, "AuthenticationFailed", None);
        assert!(wrong.to_string().contains("`account`"), "{wrong}");
        assert!(wrong.hint().unwrap().contains("keys list"), "{wrong:?}");
        let expires = Some("2026-01-01T00:00:00Z".to_owned());
        let over = refused(
            CredentialKind::Sas { expires },
            403,
            "AuthenticationFailed",
            None,
        );
        assert!(over.hint().unwrap().contains("2026-01-01"), "{over:?}");
        let firewall = refused(CredentialKind::Key, 403, "AuthorizationFailure", None);
        assert!(
            firewall.hint().unwrap().contains("firewall"),
            "{firewall:?}"
        );
        assert_eq!(firewall.retry(), Retry::Never);
    }

    #[test]
    fn omits_the_text_of_opendal() {
        let error = opendal::Error::new(ErrorKind::Unexpected, "https://x/?sig=secret");
        let absent = opendal::Error::new(ErrorKind::NotFound, "https://x/?sig=secret");
        let shown = info(CredentialKind::Key)
            .explain("a/b", "reading", &absent)
            .to_string();
        assert!(shown.starts_with("`a/b` in share `code`"), "{shown}");
        let shown = format!(
            "{:?}",
            info(CredentialKind::Key).explain("a/b", "reading", &error)
        );
        assert!(!shown.contains("secret"), "{shown}");
    }
}
