//! Files with many problems, or with many services.

use super::Inputs;

#[test]
fn many_findings_are_counted() {
    let mut inputs = Inputs::default();
    let services = |count: usize, keys: &str| {
        let services = (0..count).map(|n| format!("  s{n}: {{{keys}}}\n"));
        format!("services:\n{}", services.collect::<Vec<_>>().concat())
    };
    let name = "many unknown keys";
    inputs.compose(name, "more problems", services(10_000, "image: x, imag: x"));
    inputs.compose(
        "many services without an image",
        "more problems",
        services(10_000, "init: true"),
    );
    inputs.compose(
        "many invalid images",
        "more problems",
        services(10_000, "image: \"///\""),
    );
    inputs.compose(
        "many unknown networks",
        "more problems",
        services(10_000, "image: x, networks: [y]"),
    );
    inputs.compose(
        "many unknown volumes",
        "more problems",
        services(10_000, "image: x, volumes: [\"abc:/x\"]"),
    );
    inputs.compose(
        "many unknown dependencies",
        "more problems",
        services(10_000, "image: x, depends_on: [y0]"),
    );
    inputs.compose(
        "many port conflicts",
        "",
        services(10_000, "image: x, ports: [\"80:80\"]"),
    );
    inputs.compose("many unset variables", "", {
        let lines = (0..30_000)
            .map(|n| format!("      K{n}: \"$NOT_SET_{n}\"\n"))
            .collect::<Vec<_>>()
            .concat();
        format!("services:\n  s:\n    image: x\n    environment:\n{lines}")
    });
    inputs.compose(
        "many unsupported keys",
        "",
        services(10_000, "image: x, mac_address: a, platform: b"),
    );
    inputs.compose("many networks", "", {
        let names = (0..5000)
            .map(|n| format!("  n{n}: {{}}\n"))
            .collect::<Vec<_>>()
            .concat();
        let many = (0..5000)
            .map(|n| format!("  s{n}: {{image: x, networks: [n{n}, n0]}}\n"))
            .collect::<Vec<_>>()
            .concat();
        format!("networks:\n{names}services:\n{many}")
    });
    inputs.compose("many aliases", "", {
        let many = (0..10_000)
            .map(|n| format!("  s{n}: {{image: x, container_name: c{n}}}\n"))
            .collect::<Vec<_>>()
            .concat();
        format!("services:\n{many}")
    });
    inputs.compose("many valid services", "", services(10_000, "image: x"));
    inputs.compose(
        "more than 10,000 services",
        "more than 10000 services",
        services(12_000, "image: x"),
    );
    inputs.compose(
        "a huge number of replicas",
        "whole number",
        "services: {s: {image: x, scale: 99999999999999999999}}\n",
    );
    inputs.compose("50,000 replicas", "", services(5, "image: x, scale: 10000"));
    inputs.compose(
        "more than 100,000 replicas",
        "replicas are declared",
        services(100, "image: x, scale: 10000"),
    );
    for value in [
        "1e999",
        "-1",
        "0x",
        "NaN",
        ".inf",
        "99999999999999999999g",
        "1e400g",
    ] {
        let text = format!(
            "services: {{s: {{image: x, mem_limit: {value}, cpus: {value}, pids_limit: {value}, stop_grace_period: {value}}}}}\n"
        );
        inputs.compose(&format!("the number {value}"), "mem_limit", text);
    }
    inputs.compose(
        "all ports",
        "at most 1000 ports",
        "services: {s: {image: x, ports: [\"1-65535:1-65535\"]}}\n",
    );
    let ranges = (0..20_000)
        .map(|n| format!("\"1-65535:{}\", ", n + 1))
        .collect::<Vec<_>>()
        .concat();
    inputs.compose(
        "many ranges of ports",
        "at most 1000 ports",
        format!("services: {{s: {{image: x, ports: [{ranges}]}}}}\n"),
    );
    inputs.compose(
        "a range of ports in many services",
        "",
        services(10_000, "image: x, ports: [\"1000-1999:80\"]"),
    );
    let exposed = (0..20_000)
        .map(|n| format!("\"{}-65535\", ", n + 1))
        .collect::<Vec<_>>()
        .concat();
    inputs.compose(
        "many exposed ranges",
        "1000 ports",
        format!("services: {{s: {{image: x, expose: [{exposed}]}}}}\n"),
    );
    inputs.compose("mounts below each other", "", {
        let mounts = (0..3000)
            .map(|n| format!("\"/v/{}\", ", "d/".repeat(n % 1000)))
            .collect::<Vec<_>>()
            .concat();
        format!("services: {{s: {{image: x, volumes: [{mounts}]}}}}\n")
    });
}
