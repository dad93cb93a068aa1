//! Pipes, devices, files of the kernel, directories and loops of symbolic links as input files.

use std::fs;
use std::os::unix::fs::symlink;

use super::{Inputs, VALID, pipe, special};

#[test]
fn special_files_are_refused_at_once() {
    let mut inputs = Inputs::default();
    for (kind, expected) in [
        ("pipe", "not a regular file"),
        ("device", "not a regular file"),
        ("kernel", "the kernel generates its contents"),
        ("sys", "the kernel generates its contents"),
        ("directory", "it is a directory"),
        ("loop", "symbolic links"),
    ] {
        inputs.check(&format!("{kind} as compose.yaml"), expected, |path| {
            special(kind, &path.join("compose.yaml"));
        });
        inputs.check(&format!("{kind} as platform.toml"), expected, |path| {
            fs::write(path.join("compose.yaml"), VALID).unwrap();
            special(kind, &path.join("platform.toml"));
        });
        let keys = "image: x\nenv_file: x";
        inputs.service(&format!("{kind} as env_file"), expected, keys, |path| {
            special(kind, &path.join("x"));
        });
    }
    for (kind, expected) in [
        ("pipe", "not a regular file"),
        ("device", "not a regular file"),
        ("kernel", "the kernel generates its contents"),
    ] {
        for (what, file, compose) in [
            ("override file", "compose.override.yaml", VALID),
            (".env", ".env", VALID),
            (
                "config",
                "x",
                "configs: {c: {file: ./x}}\nservices: {s: {image: x, configs: [c]}}\n",
            ),
            (
                "secret",
                "x",
                "secrets: {c: {file: ./x}}\nservices: {s: {image: x, secrets: [c]}}\n",
            ),
            (
                "mount",
                "x",
                "services: {s: {image: x, volumes: [\"./x:/x:ro\"]}}\n",
            ),
            ("include", "x", "include: [x]\n"),
            (
                "extends",
                "x",
                "services: {s: {extends: {file: x, service: s}}}\n",
            ),
            (
                "label_file",
                "x",
                "services: {s: {image: x, label_file: x}}\n",
            ),
            (
                "seccomp",
                "x",
                "services: {s: {image: x, security_opt: [\"seccomp=x\"]}}\n",
            ),
            (
                "Dockerfile",
                "x",
                "services: {s: {build: {context: app, dockerfile: ../x}}}\n",
            ),
        ] {
            inputs.check(&format!("{kind} as {what}"), expected, |path| {
                fs::create_dir(path.join("app")).unwrap();
                fs::write(path.join("compose.yaml"), compose).unwrap();
                special(kind, &path.join(file));
            });
        }
        for (name, file, expected) in [
            ("Dockerfile in the context", "app/Dockerfile", ""),
            (".dockerignore", "app/.dockerignore", expected),
        ] {
            let name = format!("{kind} as {name}");
            inputs.service(&name, expected, "build: ./app", |path| {
                fs::create_dir(path.join("app")).unwrap();
                special(kind, &path.join(file));
            });
        }
        let listed = [("COMPOSE_FILE", "x.yaml")];
        let name = format!("{kind} in COMPOSE_FILE");
        inputs.check_with(&name, expected, &listed, |path| {
            special(kind, &path.join("x.yaml"));
        });
        let name = format!("{kind} in COMPOSE_ENV_FILES");
        let listed = [("COMPOSE_ENV_FILES", "x.env")];
        inputs.check_with(&name, expected, &listed, |path| {
            fs::write(path.join("compose.yaml"), VALID).unwrap();
            special(kind, &path.join("x.env"));
        });
        let name = format!("{kind} as the identity");
        inputs.check(&name, "not a small regular file", |path| {
            fs::write(path.join("compose.yaml"), VALID).unwrap();
            fs::create_dir(path.join(".lifecycle")).unwrap();
            special(kind, &path.join(".lifecycle/platform.json"));
        });
    }
    inputs.service(
        "a build context with a pipe",
        "only files",
        "build: .",
        |path| {
            fs::write(path.join("Dockerfile"), "FROM x\n").unwrap();
            pipe(&path.join("x"));
        },
    );
    inputs.service("a build context with loops", "", "build: .", |path| {
        fs::write(path.join("Dockerfile"), "FROM x\n").unwrap();
        symlink(".", path.join("loop")).unwrap();
        symlink("self", path.join("self")).unwrap();
        symlink("/", path.join("root")).unwrap();
    });
    assert!(inputs.count >= 60, "{}", inputs.count);
}
