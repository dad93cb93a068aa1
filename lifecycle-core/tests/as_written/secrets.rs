//! Tests which values are marked as possible secrets.

use std::collections::BTreeSet;

use super::{accepted, directory_with, read};

fn names(marked: &BTreeSet<String>) -> Vec<&str> {
    marked.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn values_from_outside_the_compose_file_may_be_secrets() {
    let files = [("f.env", "IN_FILE=1\nREPLACED=2\n")];
    let mapping = "
image: x:${TAG:-1}
env_file: f.env
environment:
  PLAIN: text
  DOLLAR: a$$b
  LONE: 5$
  WHOLE: ${SET}
  PART: postgres://user:${SET}@db
  DEFAULT: ${NOT_SET:-default}
  REPLACED: here
  SET:
  NOT_SET:
";
    let list = "
image: x
env_file: f.env
environment:
  - PLAIN=text
  - DOLLAR=a$$b
  - LONE=5$
  - WHOLE=${SET}
  - PART=postgres://user:${SET}@db
  - DEFAULT=${NOT_SET:-default}
  - REPLACED=here
  - SET
  - NOT_SET
";
    for keys in [mapping, list] {
        let spec = accepted(keys.trim(), &files).await;
        let marked = names(&spec.secrets.variables);
        assert_eq!(
            marked,
            ["DEFAULT", "IN_FILE", "PART", "SET", "WHOLE"],
            "{keys}"
        );
    }
}

#[tokio::test]
async fn secrets_are_marked_and_configs_are_not() {
    let compose = "
services:
  s:
    image: x
    secrets: [key, {source: key, target: /etc/key}]
    configs: [{source: conf, target: /etc/conf}]
secrets: {key: {environment: SET}}
configs: {conf: {content: text}}
";
    let directory = directory_with(&[("compose.yaml", compose)]);
    let loaded = read(directory.path(), &[("SET", "secret")]).await.unwrap();
    let spec = loaded.declaration.services.into_values().next().unwrap();
    assert_eq!(names(&spec.secrets.files), ["/etc/key", "/run/secrets/key"]);
}

#[tokio::test]
async fn merged_extended_and_included_variables_are_marked() {
    let compose = "
include: [sub/compose.yaml]
services:
  s:
    extends: {file: base.yaml, service: base}
    environment:
      OWN: ${SET}
      BECOMES_PLAIN: text
";
    let base = "services: {base: {image: x, environment: [INHERITED=$SET, 'BECOMES_PLAIN=$SET']}}";
    let included = "services: {t: {image: y, environment: {OF_ENV: , GIVEN: 1}}}";
    let directory = directory_with(&[
        ("compose.yaml", compose),
        ("base.yaml", base),
        ("sub/compose.yaml", included),
        ("sub/.env", "OF_ENV=secret\n"),
    ]);
    let loaded = read(directory.path(), &[("SET", "secret")]).await.unwrap();
    let services = loaded.declaration.services.into_values();
    let marked: Vec<Vec<String>> = services
        .map(|spec| spec.secrets.variables.into_iter().collect())
        .collect();
    assert_eq!(marked, [vec!["INHERITED", "OWN"], vec!["OF_ENV"]]);
}
