//! Implements "Authorize with Shared Key": a client signs a request's method, headers, and URL with
//! the account's key.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::http::StatusCode;
use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use secrecy::ExposeSecret as _;

use super::super::Account;
use super::super::answer::Refusal;
use super::super::call::Call;
use super::is_signature;

/// The maximum difference between a client's clock and the simulator's clock.
const SKEW: TimeDelta = TimeDelta::minutes(15);

/// The headers that are signed without their names, in this order. An absent header is signed as an
/// empty value.
const BY_PLACE: [&str; 11] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];

pub(super) fn check(
    call: &Call,
    authorization: &str,
    accounts: &BTreeMap<String, Account>,
    now: DateTime<Utc>,
) -> Result<String, Refusal> {
    let malformed = || {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            "InvalidAuthenticationInfo",
            "Authentication information is not given in the correct format. Check the value of \
             Authorization header.",
        )
    };
    let (scheme, rest) = authorization.split_once(' ').ok_or_else(malformed)?;
    let (name, claimed) = rest.split_once(':').ok_or_else(malformed)?;
    let text = match scheme {
        "SharedKey" => full(call, name),
        "SharedKeyLite" => lite(call, name),
        _ => return Err(malformed()),
    };
    check_date(call, now)?;
    let account = accounts.get(name).ok_or_else(Refusal::unauthenticated)?;
    if is_signature(account.key.expose_secret(), &text, claimed) {
        Ok(name.to_owned())
    } else {
        Err(Refusal::unauthenticated().because(format!(
            "The MAC signature found in the HTTP request '{claimed}' is not the same as any \
             computed signature. Server used following string to sign: '{text}'."
        )))
    }
}

fn check_date(call: &Call, now: DateTime<Utc>) -> Result<(), Refusal> {
    let sent = call
        .header("x-ms-date")
        .or_else(|| call.header("date"))
        .and_then(|text| NaiveDateTime::parse_from_str(text, "%a, %d %b %Y %H:%M:%S GMT").ok())
        .map(|date| date.and_utc());
    match sent {
        Some(sent) if (now - sent).abs() <= SKEW => Ok(()),
        _ => Err(Refusal::unauthenticated()
            .because("The date header in the request is missing, malformed or too old.")),
    }
}

fn full(call: &Call, account: &str) -> String {
    let mut text = format!("{}\n", call.method);
    for name in BY_PLACE {
        let value = match (name, call.header(name)) {
            // For an empty body, API versions since 2015-02-21 sign an empty value instead of `0`.
            ("content-length", Some("0")) | (_, None) => "",
            // Sign `x-ms-date` instead.
            ("date", _) if call.header("x-ms-date").is_some() => "",
            (_, Some(value)) => value,
        };
        text.push_str(value);
        text.push('\n');
    }
    text.push_str(&canonical_headers(call));
    text.push_str(&canonical_resource(call, account));
    text
}

fn lite(call: &Call, account: &str) -> String {
    let header = |name| call.header(name).unwrap_or_default();
    let date = match call.header("x-ms-date") {
        Some(_) => "",
        None => header("date"),
    };
    let mut text = format!(
        "{}\n{}\n{}\n{date}\n{}/{account}{}",
        call.method,
        header("content-md5"),
        header("content-type"),
        canonical_headers(call),
        call.raw_path
    );
    if let Some(component) = call.parameter("comp") {
        let _ = write!(text, "?comp={component}");
    }
    text
}

fn canonical_headers(call: &Call) -> String {
    let mut headers: Vec<(&str, &str)> = call
        .headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-ms-"))
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap_or_default().trim()))
        .collect();
    // Azure sorts in the order of .NET's cultures: hyphens are ignored, except between names that are otherwise equal.
    headers.sort_by_key(|(name, _)| (name.replace('-', ""), *name));
    let mut text = String::new();
    for (name, value) in headers {
        let _ = writeln!(text, "{name}:{value}");
    }
    text
}

fn canonical_resource(call: &Call, account: &str) -> String {
    let mut text = format!("/{account}{}", call.raw_path);
    let mut parameters: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for (name, value) in &call.query {
        parameters
            .entry(name.to_lowercase())
            .or_default()
            .push(value);
    }
    for (name, mut values) in parameters {
        values.sort_unstable();
        let _ = write!(text, "\n{name}:{}", values.join(","));
    }
    text
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
    use bytes::Bytes;

    use super::*;

    fn call(method: Method, path: &str, query: &[(&str, &str)], headers: &[(&str, &str)]) -> Call {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                let name: HeaderName = name.parse().unwrap();
                (name, HeaderValue::from_str(value).unwrap())
            })
            .collect();
        Call {
            method,
            raw_path: path.to_owned(),
            share: None,
            path: Vec::new(),
            query: query
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            headers,
            body: Bytes::new(),
        }
    }

    /// Tests the example from "Authorize with Shared Key".
    #[test]
    fn a_request_is_signed_as_documented() {
        let call = call(
            Method::GET,
            "/mycontainer",
            &[
                ("restype", "container"),
                ("comp", "metadata"),
                ("timeout", "20"),
            ],
            &[
                ("x-ms-version", "2015-02-21"),
                ("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT"),
                ("content-length", "0"),
            ],
        );
        let expected = "GET\n\n\n\n\n\n\n\n\n\n\n\n\
                        x-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n\
                        /myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20";
        assert_eq!(full(&call, "myaccount"), expected);
    }

    /// Tests the example from "Shared Key Lite".
    #[test]
    fn shared_key_lite_signs_fewer_headers() {
        let call = call(
            Method::PUT,
            "/mycontainer/hello.txt",
            &[("timeout", "20")],
            &[
                ("content-type", "text/plain; charset=UTF-8"),
                ("x-ms-meta-m2", "v2"),
                ("x-ms-date", "Sun, 20 Sep 2009 20:36:40 GMT"),
                ("x-ms-meta-m1", "v1"),
            ],
        );
        let expected = "PUT\n\ntext/plain; charset=UTF-8\n\n\
                        x-ms-date:Sun, 20 Sep 2009 20:36:40 GMT\n\
                        x-ms-meta-m1:v1\nx-ms-meta-m2:v2\n\
                        /testaccount1/mycontainer/hello.txt";
        assert_eq!(lite(&call, "testaccount1"), expected);
    }
}
