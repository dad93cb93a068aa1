//! Tests projects of several files: the order of definitions, and files in the home directory.

use std::collections::BTreeMap;

use lifecycle_core::model::{ImageSource, ServiceName, ServiceSpec};

use super::{directory_with, environment, read};

type Services = BTreeMap<ServiceName, ServiceSpec>;

async fn services(files: &[(&str, &str)], variables: &[(&str, &str)]) -> Services {
    let directory = directory_with(files);
    let loaded = read(directory.path(), variables).await;
    let loaded = loaded.unwrap_or_else(|problems| panic!("{problems}"));
    loaded.declaration.services
}

fn get<'s>(services: &'s Services, name: &str) -> &'s ServiceSpec {
    &services[&ServiceName::try_from(name).unwrap()]
}

/// Returns all orders of the items.
fn orders<T: Clone>(items: &[T]) -> Vec<Vec<T>> {
    let Some((first, rest)) = items.split_first() else {
        return vec![Vec::new()];
    };
    let mut all = Vec::new();
    for order in orders(rest) {
        for at in 0..=order.len() {
            let mut order = order.clone();
            order.insert(at, first.clone());
            all.push(order);
        }
    }
    all
}

#[tokio::test]
async fn extends_does_not_depend_on_the_order_of_definition() {
    let definitions = [
        "  a: {extends: b, environment: {A: a}}\n",
        "  b: {extends: {service: c}, environment: {A: b, B: b}}\n",
        "  c: {extends: {service: d, file: compose.yaml}, environment: {A: c, B: c, C: c}}\n",
        "  d: {image: x, environment: {A: d, B: d, C: d, D: d}, volumes: [\"/d:/d\"]}\n",
    ];
    let mut seen = Vec::new();
    for order in orders(&definitions) {
        let compose = format!("services:\n{}", order.concat());
        let services = services(&[("compose.yaml", &compose)], &[]).await;
        let a = environment(get(&services, "a"));
        let expected = BTreeMap::from([("A", "a"), ("B", "b"), ("C", "c"), ("D", "d")]);
        assert_eq!(a, expected, "{compose}");
        assert_eq!(
            get(&services, "a").container.node_paths.len(),
            1,
            "{compose}"
        );
        seen.push(services);
    }
    assert_eq!(seen.len(), 24);
    assert!(seen.iter().all(|services| *services == seen[0]));
}

#[tokio::test]
async fn extends_follows_chains_across_files_in_any_order() {
    let of_main = [
        "  web: {extends: {file: deploy/base.yaml, service: web}, environment: {A: main}}\n",
        "  helper: {image: helper, environment: {H: main}}\n",
        "  other: {extends: {file: deploy/base.yaml, service: back}}\n",
    ];
    let of_base = [
        "  web: {extends: common, env_file: web.env}\n",
        "  common: {extends: {file: ../shared/more.yaml, service: root}, environment: {B: base}}\n",
        // This service extends one in the main file.
        "  back: {extends: {file: ../compose.yaml, service: helper}, environment: {K: base}}\n",
    ];
    let mut seen = Vec::new();
    for main in orders(&of_main) {
        for base in orders(&of_base) {
            let main = format!("services:\n{}", main.concat());
            let base = format!("services:\n{}", base.concat());
            let files = [
                ("compose.yaml", main.as_str()),
                ("deploy/base.yaml", &base),
                ("deploy/web.env", "FROM_FILE=1\n"),
                (
                    "shared/more.yaml",
                    "services: {root: {build: ./app, environment: {A: root, B: root, C: root}}}\n",
                ),
                ("shared/app/Dockerfile", "FROM scratch\n"),
            ];
            let services = services(&files, &[]).await;
            let expected = [
                ("A", "main"),
                ("B", "base"),
                ("C", "root"),
                ("FROM_FILE", "1"),
            ];
            let web = get(&services, "web");
            assert_eq!(environment(web), expected.into(), "{main}{base}");
            let ImageSource::Build(source) = &web.source else {
                panic!("{:?}", web.source);
            };
            assert_eq!(source.code.name, "shared/app");
            let other = environment(get(&services, "other"));
            assert_eq!(other, [("H", "main"), ("K", "base")].into());
            seen.push(services);
        }
    }
    assert_eq!(seen.len(), 36);
    assert!(seen.iter().all(|services| *services == seen[0]));
}

#[tokio::test]
async fn a_service_may_extend_an_included_one_in_any_order() {
    let included = "services:\n  child: {extends: parent, environment: {A: child}}\n  \
                    parent: {image: x, environment: {A: parent, B: parent}}\n";
    for compose in [
        "include: [other/compose.yaml]\nservices:\n  s: {extends: child, environment: {S: s}}\n",
        "services:\n  s: {extends: child, environment: {S: s}}\ninclude: [other/compose.yaml]\n",
    ] {
        let files = [("compose.yaml", compose), ("other/compose.yaml", included)];
        let services = services(&files, &[]).await;
        let expected = [("A", "child"), ("B", "parent"), ("S", "s")];
        assert_eq!(environment(get(&services, "s")), expected.into());
    }
}

#[tokio::test]
async fn files_may_be_in_the_home_directory() {
    let home = directory_with(&[
        ("app/Dockerfile", "FROM scratch\n"),
        (
            "base.yaml",
            "services: {b: {image: base, env_file: b.env}}\n",
        ),
        ("b.env", "B=home\n"),
        (
            "more/db.yaml",
            "services: {db: {image: \"db:$TAG\", env_file: db.env}}\n",
        ),
        ("more/db.env", "DB=home\n"),
        ("more/.env", "TAG=1\n"),
        ("project/db.env", "DB=project\n"),
        ("tags.env", "TAG=2\n"),
    ]);
    let at_home = home.path().display().to_string();
    let variables = [("HOME", at_home.as_str())];
    let compose = "services:\n  a: {build: ~/app}\n  b: {build: {context: ~/app}}\n  \
                   c: {extends: {file: ~/base.yaml, service: b}}\n";
    let found = services(&[("compose.yaml", compose)], &variables).await;
    for name in ["a", "b"] {
        let ImageSource::Build(source) = &get(&found, name).source else {
            panic!("{name}");
        };
        assert_eq!(source.code.name, format!("{at_home}/app"));
    }
    assert_eq!(environment(get(&found, "c"))["B"], "home");
    for (include, image, value) in [
        ("~/more/db.yaml", "db:1", "home"),
        (
            "{path: ~/more/db.yaml, env_file: ~/tags.env}",
            "db:2",
            "home",
        ),
        (
            "{path: ~/more/db.yaml, project_directory: ~/project, env_file: ~/tags.env}",
            "db:2",
            "project",
        ),
    ] {
        let compose = format!("include: [{include}]\n");
        let found = services(&[("compose.yaml", compose.as_str())], &variables).await;
        let db = get(&found, "db");
        assert_eq!(db.source, ImageSource::Image(image.to_owned()), "{include}");
        assert_eq!(environment(db)["DB"], value, "{include}");
    }
}
