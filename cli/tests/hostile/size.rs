//! Large files.

use std::fs;

use super::{Inputs, VALID, sparse};

#[test]
fn large_files_are_limited() {
    let mut inputs = Inputs::default();
    inputs.check("a compose.yaml of 10 GB", "larger than", |path| {
        sparse(&path.join("compose.yaml"), 10 << 30);
    });
    inputs.check("a platform.toml of 10 GB", "larger than", |path| {
        fs::write(path.join("compose.yaml"), VALID).unwrap();
        sparse(&path.join("platform.toml"), 10 << 30);
    });
    inputs.service(
        "an env_file of 10 GB",
        "larger than",
        "image: x\nenv_file: x",
        |path| {
            sparse(&path.join("x"), 10 << 30);
        },
    );
    inputs.service(
        "a mount of 10 GB",
        "exceeds",
        "image: x\nvolumes: [\"./x:/x:ro\"]",
        |path| {
            sparse(&path.join("x"), 10 << 30);
        },
    );
    inputs.service(
        "a .dockerignore of 10 GB",
        "larger than",
        "build: .",
        |path| {
            fs::write(path.join("Dockerfile"), "FROM x\n").unwrap();
            sparse(&path.join(".dockerignore"), 10 << 30);
        },
    );
    inputs.check("an identity of 10 GB", "not a small regular file", |path| {
        fs::write(path.join("compose.yaml"), VALID).unwrap();
        fs::create_dir(path.join(".lifecycle")).unwrap();
        sparse(&path.join(".lifecycle/platform.json"), 10 << 30);
    });
    let fill = |part: &str, size: usize| part.repeat(size / part.len());
    let size = 4_000_000;
    for (name, text) in [
        ("comments", fill("# comment\n", size)),
        ("one long comment", format!("#{}", fill("x", size))),
        ("empty lines", fill("\n", size)),
        ("spaces", fill(" ", size)),
        (
            "one long value",
            format!("x-a: {}\n{VALID}", fill("x", size)),
        ),
        (
            "one long quoted value",
            format!("x-a: \"{}\"\n{VALID}", fill("\\\"", size)),
        ),
        (
            "one long folded value",
            format!("x-a: >\n{}{VALID}", fill("  x y\n", size)),
        ),
        (
            "one long plain value on many lines",
            format!("x-a:\n{}{VALID}", fill("  x y\n", size)),
        ),
        ("a long key", format!("? {}\n: x\n", fill("k", size))),
        ("dashes", fill("-", size)),
        (
            "many anchors",
            (0..40_000)
                .map(|n| format!("x-{n}: &a{n} x\n"))
                .collect::<Vec<_>>()
                .concat(),
        ),
        (
            "many long values",
            format!(
                "x-a: [{}]\n",
                fill("\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\", ", size)
            ),
        ),
        ("commas", format!("x-a: [{}]\n", fill(",", size))),
        ("colons", fill(": ", size)),
        ("quotes", fill("\"", size)),
        ("exclamation marks", fill("!", size)),
        ("percent signs", fill("%\n", size)),
        (
            "a long image",
            format!("services: {{s: {{image: \"{}\"}}}}\n", fill("x/", size)),
        ),
        (
            "a long port",
            format!(
                "services: {{s: {{image: x, ports: [\"{}\"]}}}}\n",
                fill("1:", size)
            ),
        ),
        (
            "a long command",
            format!(
                "services: {{s: {{image: x, command: \"{}\"}}}}\n",
                fill("x ", size)
            ),
        ),
        (
            "a long size",
            format!(
                "services: {{s: {{image: x, mem_limit: \"{}\"}}}}\n",
                fill("9", size)
            ),
        ),
        (
            "a long duration",
            format!(
                "services: {{s: {{image: x, stop_grace_period: \"{}\"}}}}\n",
                fill("1s", size)
            ),
        ),
        (
            "many dollar signs",
            format!(
                "services: {{s: {{image: x, user: \"{}\"}}}}\n",
                fill("$$", 900_000)
            ),
        ),
    ] {
        inputs.compose(name, "", text);
    }
    for (name, expected, text) in [
        (
            "600,000 variables",
            "more than 100000 variables",
            (0..600_000)
                .map(|n| format!("A{n}=1\n"))
                .collect::<Vec<_>>()
                .concat(),
        ),
        (
            "99,999 variables",
            "",
            (0..99_999)
                .map(|n| format!("A{n}=1\n"))
                .collect::<Vec<_>>()
                .concat(),
        ),
        (
            "one long variable",
            "MiB",
            format!("A={}\nB=1\n", fill("x", 5_000_000)),
        ),
        (
            "one long quoted variable",
            "no closing",
            format!("A=\"{}", fill("x\n", size)),
        ),
        ("many comments", "", fill("# comment\n", size)),
        ("many spaces", "", fill(" ", size)),
        (
            "many backslashes",
            "",
            format!("A=\"{}\"\n", fill("\\", size)),
        ),
    ] {
        for raw in [false, true] {
            let format = if raw { "raw" } else { "~" };
            let keys = format!("image: x\nenv_file: [{{path: x.env, format: {format}}}]");
            let expected = if raw && expected == "no closing" {
                ""
            } else {
                expected
            };
            inputs.service(&format!("{name}, {format}"), expected, &keys, |path| {
                fs::write(path.join("x.env"), &text).unwrap();
            });
        }
    }
    inputs.check(
        "one env_file in many services",
        "environment files",
        |path| {
            let lines = (0..50_000)
                .map(|n| format!("A{n}=1\n"))
                .collect::<Vec<_>>()
                .concat();
            fs::write(path.join("x.env"), lines).unwrap();
            let many = (0..5000)
                .map(|n| format!("  s{n}: {{image: x, env_file: x.env}}\n"))
                .collect::<Vec<_>>()
                .concat();
            fs::write(path.join("compose.yaml"), format!("services:\n{many}")).unwrap();
        },
    );
    for (name, text) in [
        ("a Dockerfile of 4 MB", fill("RUN x\n", size)),
        ("many stages", fill("FROM a AS b\n", 1 << 20)),
        (
            "many different stages",
            (0..50_000)
                .map(|n| format!("FROM a{n}\n"))
                .collect::<Vec<_>>()
                .concat(),
        ),
        (
            "many ports",
            format!(
                "FROM x\n{}",
                (0..60_000)
                    .map(|n| format!("EXPOSE {n}\n"))
                    .collect::<Vec<_>>()
                    .concat()
            ),
        ),
        (
            "many continued lines",
            format!("FROM x\nRUN {}", fill("x \\\n", 900_000)),
        ),
        (
            "many arguments",
            format!(
                "{}FROM x\n",
                (0..50_000)
                    .map(|n| format!("ARG A{n}=x\n"))
                    .collect::<Vec<_>>()
                    .concat()
            ),
        ),
    ] {
        inputs.service(name, "", "build: .", |path| {
            fs::write(path.join("Dockerfile"), text).unwrap();
        });
    }
    for (name, expected, text) in [
        (
            "100,000 patterns",
            "too many patterns",
            (0..100_000)
                .map(|n| format!("a{n}\n"))
                .collect::<Vec<_>>()
                .concat(),
        ),
        (
            "1,900 patterns",
            "",
            (0..1900)
                .map(|n| format!("a{n}\n"))
                .collect::<Vec<_>>()
                .concat(),
        ),
        (
            "many exceptions",
            "",
            (0..1900)
                .map(|n| format!("!a{n}\n"))
                .collect::<Vec<_>>()
                .concat(),
        ),
        ("a long pattern", "too long", fill("*a", 500_000)),
        ("many stars", "too long", fill("*a", 4000)),
        (
            "many stars in several patterns",
            "",
            format!("{}\n", fill("*a", 120)).repeat(66),
        ),
        ("many double stars", "", fill("**/a/", 4000)),
        ("many patterns with stars", "", fill("**/*a*b*c*\n", 60_000)),
        ("many classes", "", fill("[a-z]", 4000)),
        (
            "an unclosed class",
            "not a valid pattern",
            "[a-\n".to_owned(),
        ),
    ] {
        let name = format!("{name} in .dockerignore");
        inputs.service(&name, expected, "build: .", |path| {
            fs::write(path.join("Dockerfile"), "FROM x\n").unwrap();
            fs::write(path.join(".dockerignore"), text).unwrap();
            for n in 0..500 {
                let directory = path.join(format!("src/deep/er/{n}"));
                fs::create_dir_all(&directory).unwrap();
                fs::write(directory.join("abababababababababababab.txt"), "x").unwrap();
            }
        });
    }
}

/// Checks `.dockerignore` files as they are published, with many files.
#[test]
fn common_patterns_are_fast() {
    let mut inputs = Inputs::default();
    let web = "node_modules/\n**/node_modules/\nbuild/\n**/build/\n.next/\n**/.next/\ndist/\n**/dist/\n\
               out/\n**/out/\ncoverage/\n**/coverage/\n.turbo/\n**/.turbo/\nnpm-debug.log*\nyarn-error.log*\n\
               # comment\n.DS_Store\n.env\n.env.*.local\n*.tsbuildinfo\n*storybook.log\n*.pem\n*.key\n.cache/\n";
    let python = "**/__pycache__\n**/*.py[cod]\n**/*$py.class\n.venv\nvenv\n**/.pytest_cache\n.git\n\
                  **/.ipynb_checkpoints\n*.egg-info\n**/*.so\n!src/**/keep.so\n.tox\n.mypy_cache\n";
    let java =
        "*\n!target/*.jar\n!target/lib/*\n!src/main/docker/**\n**/*.class\n!**/Dockerfile*\n";
    for (name, patterns) in [("web", web), ("python", python), ("java", java)] {
        inputs.service(name, "", "build: .", |path| {
            fs::write(path.join(".dockerignore"), patterns).unwrap();
            fs::write(path.join("Dockerfile"), "FROM x\n").unwrap();
            for n in 0..2500 {
                let directory = path.join(format!("src/a/b/c/d/{}", n % 50));
                fs::create_dir_all(&directory).unwrap();
                fs::write(directory.join(format!("{n}.ts")), "x").unwrap();
            }
        });
    }
}
