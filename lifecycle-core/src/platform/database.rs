//! Reads `[registry]` in `platform.toml`: database URLs. A URL with a password must be a secret
//! reference, and no diagnostic quotes a URL.

use std::net::IpAddr;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::RegistrySpec;
use super::diagnostic::Report;
use super::secret_reference::{REFER, SecretReader};
use super::tree::Field;
use crate::model::Kind;
use crate::secret::Sensitive;

const URL: &str = "url";

const FORM: &str = "write `postgres://user@host:5432/database`";

/// The names that the database client accepts for the file with trusted certificate authorities.
const AUTHORITIES: [&str; 3] = ["sslrootcert", "ssl-root-cert", "ssl-ca"];

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

pub(super) fn keys() -> impl Iterator<Item = &'static str> + Clone {
    std::iter::once(URL).chain(Kind::ALL.map(Kind::word))
}

/// Reads `[registry]`.
pub(super) fn read(
    field: &Field<'_>,
    secrets: SecretReader<'_>,
    report: &mut Report,
) -> RegistrySpec {
    let mut spec = RegistrySpec::default();
    for (key, field) in field.entries(report) {
        if let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.word() == key) {
            if let Some(url) = url(&field, secrets, report) {
                spec.kinds.insert(kind, url);
            }
        } else if key == URL {
            spec.central = url(&field, secrets, report);
        } else {
            report.unknown_key(field.at, &field.path, key, keys());
        }
    }
    // A kind with the URL of the central database needs no separate database.
    let central = spec.central.clone();
    spec.kinds
        .retain(|_, url| central.as_ref().is_none_or(|central| url != central));
    spec
}

/// Reads the URL of a database: a secret reference, or plain text if the URL contains no password.
fn url(field: &Field<'_>, secrets: SecretReader<'_>, report: &mut Report) -> Option<Sensitive> {
    let in_clear = !field.is_map();
    let text = if in_clear {
        field.text(report)?.to_owned()
    } else {
        secrets.resolve(field, report)?
    };
    match check(&text) {
        Err(why) => {
            field.problem_with_help(report, why, FORM);
            None
        }
        Ok(Password::Held) if in_clear => {
            field.problem_with_help(report, "the URL contains a password in clear text", REFER);
            None
        }
        Ok(_) => match with_authorities(&text, |name| secrets.read(name)) {
            Ok(url) => Some(Sensitive::new(url)),
            Err(why) => {
                let hint = "specify the path of a file with certificates in PEM, relative to the \
                            Compose file";
                field.problem_with_help(report, why, hint);
                None
            }
        },
    }
}

/// Replaces the path of the file with trusted certificate authorities by the certificates in the
/// file, because the manager cannot read the files of this machine.
fn with_authorities(
    url: &str,
    read: impl Fn(&str) -> std::io::Result<String>,
) -> Result<String, String> {
    let Some((location, query)) = url.split_once('?') else {
        return Ok(url.to_owned());
    };
    let part = |part: &str| match part.split_once('=') {
        Some((key, value)) if AUTHORITIES.contains(&key) => {
            let value = value.replace('+', " ");
            let value = percent_decode_str(&value).decode_utf8_lossy();
            if value.starts_with(BEGIN) {
                return Ok(part.to_owned());
            }
            let text = read(&value)
                .map_err(|error| format!("`{value}` ({key}) cannot be read: {error}"))?;
            let certificates = certificates(&text);
            if certificates.is_empty() {
                return Err(format!("`{value}` ({key}) contains no certificate"));
            }
            let encoded = utf8_percent_encode(&certificates, NON_ALPHANUMERIC);
            Ok(format!("{key}={encoded}"))
        }
        _ => Ok(part.to_owned()),
    };
    let parts: Vec<String> = query.split('&').map(part).collect::<Result<_, _>>()?;
    Ok(format!("{location}?{}", parts.join("&")))
}

/// Returns the certificates in a text, without anything else that the text may contain, such as a
/// private key.
fn certificates(text: &str) -> String {
    let parts = text.split(BEGIN).skip(1);
    let bodies = parts.filter_map(|part| Some(part.split_once(END)?.0));
    bodies.flat_map(|body| [BEGIN, body, END, "\n"]).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Password {
    Held,
    None,
}

/// Checks that a URL is complete and does not refer to the local machine. The error does not quote
/// the URL.
fn check(url: &str) -> Result<Password, String> {
    let rest = ["postgres://", "postgresql://"]
        .iter()
        .find_map(|scheme| url.strip_prefix(scheme))
        .ok_or("not a PostgreSQL URL: it does not start with `postgres://`")?;
    let bad = |why: &str| format!("not a PostgreSQL URL: {why}");
    if rest.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(bad("the URL contains spaces or line breaks"));
    }
    let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = location.split_once('/').unwrap_or((location, ""));
    let (user, server) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    if name.is_empty() {
        return Err(bad("the user is missing"));
    }
    let (host, port) = match server.rsplit_once(':') {
        // The colons of an IPv6 address are inside brackets.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (server, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(bad("the port is not a number from 1 to 65535"));
    }
    if host.is_empty() {
        return Err(bad("the host is missing"));
    }
    if database.is_empty() || database.contains('/') {
        return Err(bad("the database name is missing"));
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if is_loopback || bare.eq_ignore_ascii_case("localhost") {
        let why = format!("on the manager's node, `{host}` is the node itself");
        return Err(format!(
            "{why}; use a host name or address that the nodes can reach"
        ));
    }
    let in_query = query.split('&').any(|part| {
        part.split_once('=')
            .is_some_and(|(key, _)| key == "password")
    });
    Ok(if password.is_empty() && !in_query {
        Password::None
    } else {
        Password::Held
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificates_of_authorities_become_part_of_the_url() {
        let pem = format!("{BEGIN}\nab+/=\n{END}\n");
        let file = format!("# Our authority\n{pem}\n-----BEGIN PRIVATE KEY-----\n{pem}");
        let read = |name: &str| match name {
            "my ca.pem" => Ok(file.clone()),
            "empty.pem" => Ok("# nothing".into()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        };
        let url = "postgres://l:hunter2@h/r?sslmode=verify-full&sslrootcert=my%20ca.pem&x=y";
        let changed = with_authorities(url, read).unwrap();
        let query = changed.split_once("?sslmode=verify-full&sslrootcert=");
        let (value, rest) = query.unwrap().1.split_once('&').unwrap();
        assert_eq!(rest, "x=y");
        let value = percent_decode_str(value).decode_utf8().unwrap();
        assert_eq!(value, pem.repeat(2));
        assert_eq!(check(&changed), Ok(Password::Held));
        assert_eq!(with_authorities(&changed, read).unwrap(), changed);

        for bad in ["empty.pem", "absent.pem"] {
            let url = format!("postgres://l:hunter2@h/r?ssl-ca={bad}");
            let why = with_authorities(&url, read).unwrap_err();
            assert!(why.contains(bad) && !why.contains("hunter2"), "{why}");
        }
        let plain = "postgres://l@h/r?sslmode=disable";
        assert_eq!(with_authorities(plain, read).unwrap(), plain);
        assert_eq!(with_authorities("hunter2", read).unwrap(), "hunter2");
    }

    #[test]
    fn a_url_needs_user_host_and_database_and_is_not_quoted() {
        for (good, password) in [
            ("postgres://lifecycle@db.example/registry", Password::None),
            (
                "postgresql://l@[fd00::1]:5433/r?sslmode=require",
                Password::None,
            ),
            (
                "postgres://l:hunter2@10.0.0.4:5432/registry",
                Password::Held,
            ),
            ("postgres://l:h@nter2@10.0.0.4/registry", Password::Held),
            (
                "postgres://l@10.0.0.4/registry?password=hunter2",
                Password::Held,
            ),
        ] {
            assert_eq!(check(good), Ok(password), "{good}");
        }
        for bad in [
            "hunter2",
            "mysql://l:hunter2@host/registry",
            "postgres://host/hunter2",
            "postgres://l:hunter2@/registry",
            "postgres://l:hunter2@host",
            "postgres://l:hunter2@host/",
            "postgres://l:hunter2@host:port/registry",
            "postgres://l:hunter2@host/regis try",
            "postgres://l:hunter2@localhost/registry",
            "postgres://l:hunter2@127.0.0.1:5432/registry",
            "postgres://l:hunter2@[::1]/registry",
        ] {
            let why = check(bad).unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
    }
}
