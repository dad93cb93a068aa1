//! Malformed text, and control characters in names.

use std::fs;

use super::{Inputs, VALID};

#[test]
fn malformed_text_is_refused() {
    let mut inputs = Inputs::default();
    let mut compose =
        |name: &str, expected: &str, text: &[u8]| inputs.compose(name, expected, text);
    compose("an empty file", "no services", b"");
    compose("only NUL", "NUL character", b"\0\0\0\0");
    compose(
        "NUL in a value",
        "NUL character",
        b"services: {s: {image: \"a\\0b\"}}\n",
    );
    compose(
        "invalid UTF-8",
        "not valid UTF-8",
        b"services: {s: {image: \"\xff\xfe\"}}\n",
    );
    compose("UTF-16", "UTF-8", b"\xff\xfes\0e\0r\0v\0i\0c\0e\0s\0:\0");
    compose("BOM", "", b"\xef\xbb\xbfservices: {s: {image: x}}\n");
    compose(
        "BOM in the middle",
        "",
        b"services:\n  s:\n    \xef\xbb\xbfimage: x\n",
    );
    compose("only BOM", "no services", b"\xef\xbb\xbf");
    compose("CR", "", b"services:\r  s:\r    image: x\r");
    compose("tabs", "", b"services:\n\ts:\n\t\timage: x\n");
    compose(
        "a key twice",
        "already defined",
        b"services: {s: {image: x, image: y}}\n",
    );
    compose(
        "a service twice",
        "already defined",
        b"services: {s: {image: x}, s: {image: y}}\n",
    );
    compose(
        "a cyclic anchor",
        "contains the alias",
        b"a: &a {b: *a}\nservices: {}\n",
    );
    compose(
        "a cyclic merge",
        "contains the alias",
        b"services: {s: &s {<<: *s, image: x}}\n",
    );
    compose("an unknown anchor", "", b"services: {s: *x}\n");
    compose("a list as a key", "single value", b"? [a, b]\n: x\n");
    compose(
        "an unknown tag",
        "unknown tag",
        b"services: !!python/object:os.system x\n",
    );
    compose("binary", "", b"services: !!binary AAAA\n");
    compose(
        "two documents",
        "second document",
        b"services: {}\n---\nservices: {}\n",
    );
    compose(
        "directives",
        "",
        b"%YAML 9.9\n%TAG ! !\n---\nservices: {}\n",
    );
    let name = "control characters in a name";
    let text = b"services: {\"a\\e[31m\\nerror: forged\\nhint: rm -rf /\\r\\u202e\": {image: x}}\n";
    compose(name, "not a valid service name", text);
    for (name, text) in [
        (
            "volume",
            "volumes: {\"a\\nb\\e[1m\": }\nservices: {s: {image: x}}\n",
        ),
        (
            "network",
            "services: {s: {image: x, networks: [\"a\\nb\\e[1m\"]}}\n",
        ),
        (
            "secret",
            "services: {s: {image: x, secrets: [\"a\\nb\\e[1m\"]}}\n",
        ),
        ("image", "services: {s: {image: \"a\\nb\\e[1m\"}}\n"),
        ("key", "services: {s: {image: x, \"a\\nb\\e[1m\": x}}\n"),
        (
            "dependency",
            "services: {s: {image: x, depends_on: [\"a\\nb\\e[1m\"]}}\n",
        ),
        ("extends", "services: {s: {extends: \"a\\nb\\e[1m\"}}\n"),
        ("include", "include: [\"a\\nb\\e[1m\"]\n"),
        (
            "mount",
            "services: {s: {image: x, volumes: [\"a\\nb\\e[1m:/x\"]}}\n",
        ),
        (
            "port",
            "services: {s: {image: x, ports: [\"a\\nb\\e[1m\"]}}\n",
        ),
        (
            "platform",
            "name: \"a\\nb\\e[1m\"\nservices: {s: {image: x}}\n",
        ),
        (
            "variable",
            "services: {s: {image: \"${A:?a\\nb\\e[1m}\"}}\n",
        ),
        (
            "profile",
            "services: {s: {image: x, profiles: [\"a\\nb\\e[1m\"]}}\n",
        ),
    ] {
        compose(
            &format!("control characters in {name}"),
            "a\\nb",
            text.as_bytes(),
        );
    }
    inputs.check("control characters in platform.toml", "\\n", |path| {
        fs::write(path.join("compose.yaml"), VALID).unwrap();
        fs::write(path.join("platform.toml"), "[nodes.\"a\\nb\\u001b[1m\"]\n").unwrap();
    });
    let listed = [("COMPOSE_FILE", "a\nerror: forged\u{1b}[1m.yaml")];
    inputs.check_with(
        "control characters in COMPOSE_FILE",
        "a\\n",
        &listed,
        |_| {},
    );
    for (name, text) in [
        ("invalid UTF-8 in platform.toml", b"a = \"\xff\"\n".to_vec()),
        (
            "deep platform.toml",
            format!("a = {}", "[".repeat(100_000)).into_bytes(),
        ),
        (
            "deep tables in platform.toml",
            format!("[{}a]\n", "a.".repeat(50_000)).into_bytes(),
        ),
        (
            "many tables in platform.toml",
            (0..50_000)
                .map(|n| format!("[nodes.n{n}x]\n"))
                .collect::<Vec<_>>()
                .concat()
                .into_bytes(),
        ),
    ] {
        inputs.check(name, "", |path| {
            fs::write(path.join("compose.yaml"), VALID).unwrap();
            fs::write(path.join("platform.toml"), text).unwrap();
        });
    }
    for (name, text) in [
        ("invalid UTF-8 in .env", &b"A=\xff\n"[..]),
        ("NUL in .env", b"A=\0\n"),
        ("an unclosed quote in .env", b"A='x\n"),
    ] {
        inputs.check(name, ".env", |path| {
            fs::write(path.join("compose.yaml"), VALID).unwrap();
            fs::write(path.join(".env"), text).unwrap();
        });
    }
}
