//! Tests numbers, modes, amounts and durations in the forms that Docker Compose reads.

use lifecycle_core::model::{FileTree, ServiceSpec};

use super::{accepted, environment, rejected, service};

fn mode_of(spec: &ServiceSpec) -> u32 {
    match &spec.container.files[0].tree {
        FileTree::File(file) => file.mode,
        FileTree::Directory(_) => panic!("not a file"),
    }
}

/// Reads a service that mounts a config with this mode. Also returns the warnings.
async fn mode(text: &str) -> Result<(u32, Vec<String>), String> {
    let compose = format!(
        "configs: {{c: {{content: x}}}}\nservices:\n  s:\n    image: x\n    configs: \
         [{{source: c, mode: {text}}}]\n"
    );
    let directory = super::directory_with(&[("compose.yaml", compose.as_str())]);
    match super::read(directory.path(), &[("MODE", "0440")]).await {
        Ok(loaded) => {
            let warnings = loaded.warnings.iter().map(ToString::to_string).collect();
            let mut services = loaded.declaration.services.into_values();
            Ok((mode_of(&services.next().unwrap()), warnings))
        }
        Err(problems) => Err(problems.to_string()),
    }
}

#[tokio::test]
async fn a_mode_is_a_number_or_octal_digits() {
    for text in [
        "0440",
        "0o440",
        "288",
        "0x120",
        "0b100100000",
        "0_440",
        "+288",
        "\"0440\"",
        "'440'",
        "\"0o440\"",
        "!!str 440",
        "$MODE",
        "\"${NONE:-440}\"",
    ] {
        assert_eq!(mode(text).await, Ok((0o440, vec![])), "{text}");
    }
    // Docker Compose reads this as decimal, too.
    let (found, warnings) = mode("440").await.unwrap();
    assert_eq!(found, 0o670);
    let [warning] = warnings.as_slice() else {
        panic!("{warnings:?}")
    };
    assert!(
        warning.contains("`440` is a decimal number, so the mode is `0670`; write `0440`"),
        "{warning}"
    );
    for text in [
        "0888",
        "\"888\"",
        "4096",
        "010000",
        "-1",
        "1.5",
        "rw-r--r--",
        "\"0x120\"",
        "true",
    ] {
        let problems = mode(text).await.unwrap_err();
        assert!(
            problems.contains("is not a file mode"),
            "{text}: {problems}"
        );
    }
}

#[tokio::test]
async fn the_mode_of_a_file_system_in_memory_is_read_like_others() {
    for (text, expected) in [
        ("01777", "mode=1777"),
        ("1023", "mode=1777"),
        ("\"1777\"", "mode=1777"),
        ("0o700", "mode=700"),
    ] {
        let keys =
            format!("image: x\nvolumes: [{{type: tmpfs, target: /t, tmpfs: {{mode: {text}}}}}]");
        let spec = accepted(&keys, &[]).await;
        assert_eq!(spec.container.memory[0].options, expected, "{text}");
    }
}

#[tokio::test]
async fn whole_numbers_have_several_forms() {
    for (text, expected) in [
        ("3", 3),
        ("\"3\"", 3),
        ("0x10", 16),
        ("0o17", 15),
        ("017", 15),
        ("\"017\"", 17),
        ("0b11", 3),
        ("1_000", 1000),
        ("1e3", 1000),
        ("3.0", 3),
        ("+3", 3),
        ("\"${NONE:-7}\"", 7),
    ] {
        let spec = accepted(&format!("image: x\ndeploy: {{replicas: {text}}}"), &[]).await;
        assert_eq!(spec.replicas, expected, "{text}");
        let spec = accepted(&format!("image: x\npids_limit: {text}"), &[]).await;
        assert_eq!(spec.container.kernel.pids, Some(expected.into()), "{text}");
    }
    for text in ["3.5", "\"0x10\"", "\"1_000\"", "1e99", "three", "3:30"] {
        let keys = format!("image: x\ndeploy: {{replicas: {text}}}");
        rejected(&keys, &[], "is not a whole number").await;
    }
}

#[tokio::test]
async fn processors_and_amounts_have_several_forms() {
    for (text, millis) in [
        ("0.5", 500),
        ("\"0.5\"", 500),
        (".5", 500),
        ("5e-1", 500),
        ("\"5E-1\"", 500),
        ("2", 2000),
        ("2.", 2000),
        ("0x2", 2000),
    ] {
        let spec = accepted(&format!("image: x\ncpus: {text}"), &[]).await;
        assert_eq!(spec.container.limits.cpu_millis, millis, "{text}");
    }
    for (text, bytes) in [
        ("1gb", 1 << 30),
        ("1G", 1 << 30),
        ("1GiB", 1 << 30),
        ("\"1 g\"", 1 << 30),
        ("64kb", 64 << 10),
        ("1.5m", 3 << 19),
        (".5G", 1 << 29),
        ("1073741824", 1 << 30),
        ("\"1073741824\"", 1 << 30),
        ("1_048_576", 1 << 20),
        ("0x100000", 1 << 20),
        ("1e6", 1_000_000),
        ("1.5e6", 1_500_000),
        ("\"1e3k\"", 1000 << 10),
        ("1048576b", 1 << 20),
        ("1t", 1 << 40),
        ("1p", 1 << 50),
    ] {
        let spec = accepted(&format!("image: x\nmem_limit: {text}"), &[]).await;
        assert_eq!(spec.container.limits.memory_bytes, bytes, "{text}");
        let spec = accepted(&format!("image: x\nshm_size: {text}"), &[]).await;
        assert_eq!(spec.container.kernel.shm_bytes, Some(bytes), "{text}");
    }
    for text in ["1x", "1 2g", "g", "1kib2", "\"1_000\"", "-5m", "1 ggb"] {
        let keys = format!("image: x\nmem_limit: {text}");
        rejected(&keys, &[], "is not an amount of memory").await;
    }
}

#[tokio::test]
async fn durations_have_several_forms() {
    for (text, millis) in [
        ("1m30s", 90_000),
        ("\"1h5m30s20ms\"", 3_930_020),
        ("1.5s", 1500),
        (".5s", 500),
        ("+2s", 2000),
        ("2d", 2 * 86_400_000),
        ("1w1d", 8 * 86_400_000),
        ("5000us", 5),
        ("0", 0),
    ] {
        let spec = accepted(&format!("image: x\nstop_grace_period: {text}"), &[]).await;
        let found = spec.container.stop_grace.unwrap();
        assert_eq!(found.as_millis(), millis, "{text}");
    }
    for text in ["10", "1m 30s", "-5s", "90", "1y", "s"] {
        let keys = format!("image: x\nstop_grace_period: {text}");
        rejected(&keys, &[], "is not a duration").await;
    }
}

#[tokio::test]
async fn booleans_have_the_words_of_old_yaml_versions() {
    for (text, expected) in [
        ("yes", true),
        ("Yes", true),
        ("on", true),
        ("y", true),
        ("\"true\"", true),
        ("TRUE", true),
        ("${NONE:-yes}", true),
        ("no", false),
        ("Off", false),
        ("n", false),
    ] {
        let spec = accepted(&format!("image: x\nprivileged: {text}"), &[]).await;
        assert_eq!(spec.container.isolation.privileged, expected, "{text}");
    }
    for text in ["1", "0", "ja", "\"\""] {
        let keys = format!("image: x\nprivileged: {text}");
        rejected(&keys, &[], "is neither `true` nor `false`").await;
    }
}

#[tokio::test]
async fn numbers_become_the_text_that_docker_compose_passes() {
    for (text, expected, is_changed) in [
        ("1", "1", false),
        ("010", "8", true),
        ("\"010\"", "010", false),
        ("0x1F", "31", true),
        ("1_000", "1000", true),
        ("1.10", "1.1", true),
        ("'1.10'", "1.10", false),
        ("1.10.2", "1.10.2", false),
        ("1e3", "1000", true),
        ("True", "true", true),
        ("yes", "yes", false),
        ("22:22", "22:22", false),
        ("2024-01-01", "2024-01-01", false),
        ("12345678901234567890123", "1.2345678901234568e+22", true),
        ("\"${NONE:-1.10}\"", "1.10", false),
    ] {
        let keys = format!("image: x\nenvironment: {{A: {text}}}\nlabels: {{a: {text}}}");
        let (spec, warnings) = service(&keys, &[]).await.unwrap();
        assert_eq!(environment(&spec)["A"], expected, "{text}");
        assert_eq!(spec.container.labels["a"], expected, "{text}");
        assert_eq!(
            warnings.len(),
            if is_changed { 2 } else { 0 },
            "{warnings:?}"
        );
    }
    // In a list, everything is text.
    let (spec, warnings) = service("image: x\nenvironment: [A=010, B=True]", &[])
        .await
        .unwrap();
    assert_eq!(environment(&spec)["A"], "010");
    assert_eq!(environment(&spec)["B"], "True");
    assert!(warnings.is_empty(), "{warnings:?}");
}
