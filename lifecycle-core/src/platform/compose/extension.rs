//! Reads `x-lifecycle` of a service: settings that Compose does not have.

use super::super::diagnostic::Report;
use super::super::tree::Field;
use super::value;
use crate::model::{ApiAccess, HttpReadiness, ServiceClass, ServiceSpec, Starts};

const KEYS: [&str; 6] = ["api", "class", "code", "ready", "ready_within", "starts"];
const READY_KEYS: [&str; 2] = ["path", "port"];

/// Reads all keys except `code`. Returns the field of `code`, which is read together with `build`.
pub(super) fn read<'a>(
    field: &Field<'a>,
    spec: &mut ServiceSpec,
    report: &mut Report,
) -> Option<Field<'a>> {
    let mut code = None;
    for (key, field) in field.entries(report) {
        match key {
            "class" => {
                let classes = [
                    ("microservice", ServiceClass::Microservice),
                    ("application", ServiceClass::Application),
                    ("model", ServiceClass::Model),
                ];
                spec.class = field.word(report, &classes).unwrap_or_default();
            }
            "code" => code = Some(field),
            "starts" => {
                spec.starts = field
                    .word(report, &[("last", Starts::Last)])
                    .unwrap_or_default();
            }
            "api" => spec.container.api = field.word(report, &[("read", ApiAccess::Read)]),
            "ready" => spec.ready = readiness(&field, report),
            "ready_within" => {
                if let Some(limit) = field.parse(report, value::duration) {
                    if limit.is_zero() {
                        field.problem(report, "the time must be greater than 0");
                    }
                    spec.ready_within = limit;
                }
            }
            _ => report.unknown_key(field.at, &field.path, key, KEYS),
        }
    }
    code
}

/// Reads `{port: 8080, path: /health}` or `http://:8080/health`.
fn readiness(field: &Field<'_>, report: &mut Report) -> Option<HttpReadiness> {
    if !field.is_map() {
        return field.parse(report, short_readiness);
    }
    let mut port = None;
    let mut path = Some("/".to_owned());
    for (key, field) in field.entries(report) {
        match key {
            "port" => port = field.number(report, 1, u32::from(u16::MAX)),
            "path" => path = field.parse(report, http_path),
            _ => report.unknown_key(field.at, &field.path, key, READY_KEYS),
        }
    }
    if field.get("port").is_none() {
        field.problem(report, "`port` is missing");
    }
    Some(HttpReadiness {
        port: u16::try_from(port?).ok()?,
        path: path?,
    })
}

fn short_readiness(text: &str) -> Result<HttpReadiness, String> {
    let bad = || format!("`{text}` is not in the format `http://:8080/path`");
    let rest = text.strip_prefix("http://:").ok_or_else(bad)?;
    let (port, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(bad)?;
    Ok(HttpReadiness {
        port,
        path: http_path(path)?,
    })
}

fn http_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is not a valid path: a path starts with `/` and contains no spaces"
        ))
    }
}
