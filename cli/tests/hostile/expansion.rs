//! Nested values, aliases, variables, `extends` and `include` that expand to large or endless values.

use std::fs;

use super::{Inputs, VALID};

#[test]
fn nesting_and_aliases_are_limited() {
    let mut inputs = Inputs::default();
    let text = |part: &str, count: usize| part.repeat(count);
    inputs.compose("deep lists", "", text("[", 100_000));
    inputs.compose("deep mappings", "", text("{a: ", 100_000));
    inputs.compose("deep lists in blocks", "", text("- ", 100_000));
    inputs.compose("deep complex keys", "", text("? ", 100_000));
    inputs.compose("deep closing", "", text("]", 100_000));
    let indented = (0..2000)
        .map(|level| format!("{}a:\n", " ".repeat(level)))
        .collect::<Vec<_>>()
        .concat();
    inputs.compose("deep indentation", "levels deep", indented);
    let level = |level: usize| {
        let items = vec![format!("*a{}", level - 1); 10].join(", ");
        format!("x-{level}: &a{level} [{items}]\n")
    };
    let bomb = format!(
        "x-0: &a0 x\n{}services: {{}}\n",
        (1..12).map(level).collect::<Vec<_>>().concat()
    );
    inputs.compose("an alias bomb", "more than 100000 values", bomb);
    let level = |level: usize| format!("x-{level}: &a{level} {{a: *a{0}, b: *a{0}}}\n", level - 1);
    let bomb = format!(
        "x-0: &a0 {{}}\n{}services: {{}}\n",
        (1..60).map(level).collect::<Vec<_>>().concat()
    );
    inputs.compose("an alias bomb of mappings", "", bomb);
    let anchors = (0..60)
        .map(|level| format!("&a{level} ["))
        .collect::<Vec<_>>()
        .concat();
    let nested = format!("x-a: {anchors}{}{}\n", text("x, ", 40_000), text("]", 60));
    inputs.compose("nested anchors", "more than 100000 values", nested);
    let long = format!(
        "x-a: &a \"{}\"\nx-b: [{}]\n",
        text("x", 1 << 20),
        text("*a, ", 50)
    );
    inputs.compose("aliases of a long text", "MiB of text", long);
    let merges = format!(
        "x-a: &a {{{}}}\nservices: {{s: {{<<: [{}], image: x}}}}\n",
        (0..1000)
            .map(|n| format!("k{n}: x, "))
            .collect::<Vec<_>>()
            .concat(),
        text("*a, ", 90)
    );
    inputs.compose("many merges", "", merges);
    let values = format!("x-a: [{}]\n", text("x, ", 100_001));
    inputs.compose(
        "more than 100,000 values",
        "more than 100000 values",
        values,
    );
    let values = format!("x-a: [{}]\n{VALID}", text("x, ", 99_000));
    inputs.compose("99,000 values", "", values);
    let nested = |count| {
        format!(
            "services: {{s: {{image: \"{}x{}\"}}}}\n",
            text("${A:-", count),
            text("}", count)
        )
    };
    inputs.compose("deep defaults", "nested too deeply", nested(1000));
    inputs.compose("very deep defaults", "nested too deeply", nested(100_000));
    let open = format!(
        "services: {{s: {{image: \"{}\"}}}}\n",
        text("${A:-{", 150_000)
    );
    inputs.compose("unclosed defaults", "not closed", open);
    let braces = format!(
        "services: {{s: {{image: \"{}\"}}}}\n",
        text("${A:-{}", 140_000)
    );
    inputs.compose("unbalanced defaults", "", braces);
    inputs.check("an expansion bomb", "MiB", |path| {
        let env = (1..40)
            .map(|n| format!("A{n}=${{A{0}}}${{A{0}}}\n", n - 1))
            .collect::<Vec<_>>()
            .concat();
        fs::write(path.join(".env"), format!("A0={}\n{env}", text("x", 1000))).unwrap();
        fs::write(
            path.join("compose.yaml"),
            "services: {s: {image: \"$A39\"}}\n",
        )
        .unwrap();
    });
    let large = text("x", 100_000);
    let variables = [("BIG", large.as_str())];
    inputs.check_with("a large variable often", "MiB", &variables, |path| {
        let keys = (0..20_000)
            .map(|n| format!("      K{n}: $BIG\n"))
            .collect::<Vec<_>>()
            .concat();
        let compose = format!("services:\n  s:\n    image: x\n    environment:\n{keys}");
        fs::write(path.join("compose.yaml"), compose).unwrap();
    });
    inputs.check_with(
        "a large variable in an env_file",
        "MiB",
        &variables,
        |path| {
            let lines = (0..20_000)
                .map(|n| format!("K{n}=$BIG\n"))
                .collect::<Vec<_>>()
                .concat();
            fs::write(path.join("x.env"), lines).unwrap();
            fs::write(
                path.join("compose.yaml"),
                "services: {s: {image: x, env_file: x.env}}\n",
            )
            .unwrap();
        },
    );
    inputs.service(
        "an expansion bomb in a Dockerfile",
        "MiB",
        "build: .",
        |path| {
            let lines = text("ARG B=$A$A\nARG A=$B$B\n", 1000);
            let dockerfile = format!("ARG A={}\n{lines}FROM x\n", text("x", 1000));
            fs::write(path.join("Dockerfile"), dockerfile).unwrap();
        },
    );
}

#[test]
fn cycles_and_chains_are_limited() {
    let mut inputs = Inputs::default();
    let services = |count: usize, keys: fn(usize) -> String| {
        let services = (0..count).map(|n| format!("  s{n}: {{{}}}\n", keys(n)));
        format!("services:\n{}", services.collect::<Vec<_>>().concat())
    };
    inputs.compose(
        "a service that extends itself",
        "extend each other",
        "services: {s: {extends: s}}\n",
    );
    let chain = services(10_000, |n| format!("extends: s{}", n + 1));
    inputs.compose("a long chain of extends", "", chain);
    let many = services(10_000, |_| "extends: s0".to_owned());
    inputs.compose("many services extend one", "", many);
    let many = services(10_000, |n| format!("extends: s{}", 10_000 - n));
    inputs.compose("services extend each other crosswise", "", many);
    inputs.check(
        "a file that includes itself",
        "include each other",
        |path| {
            fs::write(path.join("compose.yaml"), "include: [compose.yaml]\n").unwrap();
        },
    );
    inputs.check("files that include each other twice", "", |path| {
        for n in 0..30 {
            let next = n + 1;
            let text = format!("include: [c{next}.yaml, ./c{next}.yaml, .//c{next}.yaml]\n");
            let name = if n == 0 {
                "compose.yaml".to_owned()
            } else {
                format!("c{n}.yaml")
            };
            fs::write(path.join(name), text).unwrap();
        }
    });
    inputs.check("a thousand included files", "more than 256 files", |path| {
        let names = (0..1000)
            .map(|n| format!("c{n}.yaml, "))
            .collect::<Vec<_>>()
            .concat();
        fs::write(path.join("compose.yaml"), format!("include: [{names}]\n")).unwrap();
        for n in 0..1000 {
            fs::write(
                path.join(format!("c{n}.yaml")),
                format!("services: {{s{n}: {{image: x}}}}\n"),
            )
            .unwrap();
        }
    });
    inputs.check("a large base service, extended often", "values", |path| {
        let variables = (0..30_000)
            .map(|n| format!("V{n}: x, "))
            .collect::<Vec<_>>()
            .concat();
        let many = (0..500)
            .map(|n| format!("  s{n}: {{extends: base}}\n"))
            .collect::<Vec<_>>()
            .concat();
        let text = format!("services:\n  base: {{image: x, environment: {{{variables}}}}}\n{many}");
        fs::write(path.join("compose.yaml"), text).unwrap();
    });
    inputs.compose(
        "a dependency on itself",
        "depend on each other",
        "services: {s: {image: x, depends_on: [s]}}\n",
    );
    let chain = services(10_000, |n| {
        format!("image: x, depends_on: [s{}]", (n + 1) % 10_000)
    });
    inputs.compose(
        "a long cycle of dependencies",
        "depend on each other",
        chain,
    );
    let all: Vec<String> = (0..250).map(|n| format!("s{n}")).collect();
    let all = all.join(", ");
    let complete = (0..250)
        .map(|n| format!("  s{n}: {{image: x, depends_on: [{all}]}}\n"))
        .collect::<Vec<_>>()
        .concat();
    inputs.compose(
        "everything depends on everything",
        "depend on each other",
        format!("services:\n{complete}"),
    );
}
