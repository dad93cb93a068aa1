//! Tests the API's document: whether it is up to date, and whether it describes exactly the routes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::ALLOW;
use lifecycle_core::platform::Declaration;
use serde_json::Value;

use super::{ROUTES, Served, request};
use crate::openapi;
use crate::routes::document;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// Returns the operations: method, path, and the rest.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let operations = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().iter();
        methods.map(move |(method, operation)| {
            (method.to_uppercase(), path.clone(), operation.clone())
        })
    });
    operations.collect()
}

fn role(operation: &Value) -> &str {
    operation["security"][0]["token"][0]
        .as_str()
        .unwrap_or("none")
}

/// Whether a path, as in a request, has this template.
fn has_template(path: &str, template: &str) -> bool {
    let (path, template) = (path.split('/'), template.split('/'));
    path.clone().count() == template.clone().count()
        && path
            .zip(template)
            .all(|(own, of)| of.starts_with('{') || own == of)
}

/// To rewrite the files, run `UPDATE_DOCS=1 cargo test -p lifecycle-manager openapi`.
#[test]
fn the_committed_document_and_page_are_up_to_date() {
    let document = document();
    let printed = [
        ("openapi.json", format!("{document:#}\n")),
        ("api-reference.md", openapi::page(&document)),
    ];
    for (file, printed) in printed {
        let path = docs().join(file);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &printed).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == printed,
            "docs/{file} is out of date: run with UPDATE_DOCS=1"
        );
    }
}

#[test]
fn the_document_describes_the_tested_routes_and_their_roles() {
    let operations = operations(&document());
    let below_v1 = operations
        .iter()
        .filter(|(_, path, _)| path.starts_with("/v1"));
    for (method, path, operation) in below_v1 {
        // A fixed segment is preferred over a variable one.
        let tested = ROUTES.iter().filter(|(of, tested, _)| {
            of == method && has_template(tested, path) && (path.contains('{') || tested == path)
        });
        let roles: Vec<String> = tested.map(|(_, _, role)| role.to_string()).collect();
        assert_eq!(roles, [role(operation)], "{method} {path}");
    }
    for (method, path, _) in ROUTES {
        let is_described = operations
            .iter()
            .any(|(of, template, _)| of == method && has_template(path, template));
        assert_eq!(is_described, path != "/v1/nothing/here", "{method} {path}");
    }
}

#[test]
fn each_operation_has_a_unique_id_and_a_summary() {
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(&document()) {
        let id = operation["operationId"].as_str().unwrap().to_owned();
        assert!(ids.insert(id), "{method} {path}");
        assert!(operation["summary"].is_string(), "{method} {path}");
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            assert!(
                parameter["description"].is_string(),
                "{method} {path}: {parameter}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_document_describes_each_method_of_each_route() {
    let served = Served::standby();
    let mut described: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (method, path, _) in operations(&document()) {
        described.entry(path).or_default().insert(method);
    }
    // The router's `Debug` output contains the paths. Nothing else returns them.
    let debug = format!("{:?}", served.router);
    let paths = debug.split('"').filter(|part| part.starts_with('/'));
    let fallback = ["/", "/{*__private__axum_fallback}"];
    let paths: BTreeSet<&str> = paths.filter(|path| !fallback.contains(path)).collect();
    assert_eq!(paths, described.keys().map(String::as_str).collect());
    for (path, methods) in described {
        let sent = request(
            "PATCH",
            &path.replace(['{', '}'], ""),
            Some(&served.admin),
            Body::empty(),
        );
        let response = served.send(sent).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let allowed = response.headers()[ALLOW].to_str().unwrap().split(',');
        let allowed: BTreeSet<String> = allowed
            .filter(|method| *method != "HEAD")
            .map(str::to_owned)
            .collect();
        assert_eq!(allowed, methods, "{path}");
    }
}

/// Replaces the variable segments of a path: `{name}` in the document, `NAME` in `docs/api.md`.
fn without_names(path: &str) -> String {
    let segments = path.split('/').map(|segment| {
        let is_variable = segment.starts_with('{')
            || segment
                .chars()
                .next()
                .is_some_and(|first| first.is_ascii_uppercase());
        if is_variable { "*" } else { segment }
    });
    segments.collect::<Vec<_>>().join("/")
}

#[test]
fn the_table_in_the_documentation_lists_the_same_operations() {
    let page = std::fs::read_to_string(docs().join("api.md")).unwrap();
    let mut listed = BTreeSet::new();
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let mut cells = row.split('|').map(str::trim).skip(1);
        let (requests, role) = (cells.next().unwrap(), cells.next().unwrap());
        for request in requests.split(", ") {
            let Some((method, url)) = request.trim_matches('`').split_once(" /") else {
                continue;
            };
            let (path, query) = url.split_once('?').unwrap_or((url, ""));
            let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
            let parameters: BTreeSet<String> = parameters
                .map(|parameter| parameter.split('=').next().unwrap().to_owned())
                .collect();
            let path = without_names(&format!("/{path}"));
            listed.insert((method.to_owned(), path, role.to_owned(), parameters));
        }
    }
    let mut described = BTreeSet::new();
    for (method, path, operation) in operations(&document()) {
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        let parameters: BTreeSet<String> = parameters
            .filter(|parameter| parameter["in"] == "query")
            .map(|parameter| parameter["name"].as_str().unwrap().to_owned())
            .collect();
        described.insert((
            method,
            without_names(&path),
            role(&operation).to_owned(),
            parameters,
        ));
    }
    assert_eq!(listed, described);
}

#[test]
fn the_example_of_a_declaration_can_be_read() {
    let document = document();
    let body = &document["paths"]["/v1/platform"]["put"]["requestBody"];
    let example = body["content"]["application/json"]["example"].clone();
    serde_json::from_value::<Declaration>(example).unwrap();
}
