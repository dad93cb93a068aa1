//! Creates and checks shared access signatures: URL parameters that grant permissions until a given
//! time, signed with the account's key.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret as _, SecretString};

use super::super::Account;
use super::super::answer::Refusal;
use super::super::call::Call;
use super::super::operations::{Level, Operation};
use super::{is_signature, signature};

/// The API version of the signatures that this simulator creates.
const VERSION: &str = "2022-11-02";

/// The terms of a signature for a whole account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountSas {
    /// The permissions, such as `rwdlc`.
    pub permissions: String,
    /// The resource types, from `s` (service), `c` (containers, that is, shares), and `o` (objects,
    /// that is, directories and files).
    pub resource_types: String,
    /// The time at which the signature becomes valid. `None` for an immediately valid signature.
    pub starts: Option<DateTime<Utc>>,
    pub expires: DateTime<Utc>,
}

/// The terms of a signature for one share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareSas {
    pub share: String,
    /// The permissions, such as `rcwdl`.
    pub permissions: String,
    /// The time at which the signature becomes valid. `None` for an immediately valid signature.
    pub starts: Option<DateTime<Utc>>,
    pub expires: DateTime<Utc>,
}

fn seconds(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl AccountSas {
    pub(in super::super) fn sign(&self, account: &str, key: &[u8]) -> SecretString {
        token(
            account,
            key,
            &[
                ("sv", VERSION.to_owned()),
                ("ss", "f".to_owned()),
                ("srt", self.resource_types.clone()),
                ("sp", self.permissions.clone()),
                ("st", self.starts.map(seconds).unwrap_or_default()),
                ("se", seconds(self.expires)),
            ],
            account_text,
        )
    }
}

impl ShareSas {
    pub(in super::super) fn sign(&self, account: &str, key: &[u8]) -> SecretString {
        let text =
            |account: &str, get: &dyn Fn(&str) -> String| share_text(account, &self.share, get);
        token(
            account,
            key,
            &[
                ("sv", VERSION.to_owned()),
                ("sr", "s".to_owned()),
                ("sp", self.permissions.clone()),
                ("st", self.starts.map(seconds).unwrap_or_default()),
                ("se", seconds(self.expires)),
            ],
            text,
        )
    }
}

fn token(
    account: &str,
    key: &[u8],
    parameters: &[(&str, String)],
    text: impl Fn(&str, &dyn Fn(&str) -> String) -> String,
) -> SecretString {
    let get = |expected: &str| {
        parameters
            .iter()
            .find(|(name, _)| *name == expected)
            .map(|(_, value)| value.clone())
            .unwrap_or_default()
    };
    let signature = signature(key, &text(account, &get));
    let mut token = String::new();
    let given = parameters.iter().map(|(name, value)| (*name, value));
    for (name, value) in given.chain([("sig", &signature)]) {
        if !value.is_empty() {
            let between = if token.is_empty() { "" } else { "&" };
            let value = utf8_percent_encode(value, NON_ALPHANUMERIC);
            let _ = write!(token, "{between}{name}={value}");
        }
    }
    SecretString::from(token)
}

/// Returns the text to sign for a signature of a whole account.
fn account_text(account: &str, get: &dyn Fn(&str) -> String) -> String {
    let mut text = format!("{account}\n");
    for name in ["sp", "ss", "srt", "st", "se", "sip", "spr", "sv"] {
        text.push_str(&get(name));
        text.push('\n');
    }
    // Since this version, the text also contains an encryption scope.
    if get("sv").as_str() >= "2020-12-06" {
        text.push_str(&get("ses"));
        text.push('\n');
    }
    text
}

/// Returns the text to sign for a signature of a share or a file.
fn share_text(account: &str, path: &str, get: &dyn Fn(&str) -> String) -> String {
    let mut text = String::new();
    for name in ["sp", "st", "se"] {
        text.push_str(&get(name));
        text.push('\n');
    }
    let _ = write!(text, "/file/{account}/{path}");
    for name in [
        "si", "sip", "spr", "sv", "rscc", "rscd", "rsce", "rscl", "rsct",
    ] {
        text.push('\n');
        text.push_str(&get(name));
    }
    text
}

pub(super) fn check(
    call: &Call,
    operation: Operation,
    accounts: &BTreeMap<String, Account>,
    secure: bool,
    now: DateTime<Utc>,
) -> Result<String, Refusal> {
    let get = |name: &str| call.parameter(name).unwrap_or_default().to_owned();
    for (name, what) in [
        ("si", "a stored access policy"),
        ("sip", "a signature that names addresses"),
        ("skoid", "user delegation"),
    ] {
        if call.parameter(name).is_some() {
            return Err(Refusal::not_simulated(what));
        }
    }
    let claimed = get("sig");
    let whole_account = call.parameter("ss").is_some();
    let text = |account: &str| -> Result<String, Refusal> {
        if whole_account {
            return Ok(account_text(account, &get));
        }
        let share = call.share.as_deref().unwrap_or_default();
        match get("sr").as_str() {
            "s" => Ok(share_text(account, share, &get)),
            "f" => {
                let path = format!("{share}/{}", call.path.join("/"));
                Ok(share_text(account, &path, &get))
            }
            _ => Err(Refusal::unauthenticated().because("sr is invalid")),
        }
    };
    // Try the keys of all accounts, because the URL need not contain the account's name.
    let mut owner = None;
    for account in accounts.values() {
        if is_signature(account.key.expose_secret(), &text(&account.name)?, &claimed) {
            owner = Some(account.name.clone());
        }
    }
    let owner = owner.ok_or_else(|| {
        Refusal::unauthenticated().because("Signature did not match any account's.")
    })?;
    check_time(&get, now)?;
    if get("spr") == "https" && !secure {
        return Err(Refusal::forbidden(
            "AuthorizationProtocolMismatch",
            " using this protocol",
        ));
    }
    if whole_account {
        if !get("ss").contains('f') {
            return Err(Refusal::forbidden(
                "AuthorizationServiceMismatch",
                " using this service",
            ));
        }
        let level = match operation.level() {
            Level::Service => 's',
            Level::Container => 'c',
            Level::Object => 'o',
        };
        if !get("srt").contains(level) {
            return Err(Refusal::forbidden(
                "AuthorizationResourceTypeMismatch",
                " using this resource type",
            ));
        }
    } else if !operation.is_within_share() {
        return Err(Refusal::forbidden("AuthorizationFailure", ""));
    }
    let permitted = get("sp");
    if operation
        .permissions()
        .chars()
        .any(|one| permitted.contains(one))
    {
        Ok(owner)
    } else {
        Err(Refusal::forbidden(
            "AuthorizationPermissionMismatch",
            " using this permission",
        ))
    }
}

fn check_time(get: &dyn Fn(&str) -> String, now: DateTime<Utc>) -> Result<(), Refusal> {
    let (start, end) = (get("st"), get("se"));
    let malformed = |name| Refusal::unauthenticated().because(format!("{name} is not a time"));
    let started = start.is_empty() || read_time(&start).ok_or_else(|| malformed("st"))? <= now;
    let over = read_time(&end).ok_or_else(|| malformed("se"))? <= now;
    if started && !over {
        return Ok(());
    }
    Err(Refusal::unauthenticated().because(format!(
        "Signature not valid in the specified time frame: Start [{start}] - Expiry [{end}] - \
         Current [{}]",
        seconds(now)
    )))
}

/// Parses a time in any of the formats that a signature may use.
fn read_time(text: &str) -> Option<DateTime<Utc>> {
    let time = ["%Y-%m-%dT%H:%M:%S%.fZ", "%Y-%m-%dT%H:%MZ"]
        .iter()
        .find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    let time = time.or_else(|| {
        NaiveDate::parse_from_str(text, "%Y-%m-%d")
            .ok()?
            .and_hms_opt(0, 0, 0)
    });
    Some(time?.and_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_times_in_three_formats() {
        for text in ["2026-01-02", "2026-01-02T00:00Z", "2026-01-02T00:00:00Z"] {
            assert_eq!(seconds(read_time(text).unwrap()), "2026-01-02T00:00:00Z");
        }
        assert!(read_time("tomorrow").is_none());
    }
}
