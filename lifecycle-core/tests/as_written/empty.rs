//! Tests empty values, empty directories, and repeated entries.

use super::{accepted, entries, environment, rejected, service};

#[tokio::test]
async fn an_empty_text_counts_as_an_absent_key() {
    let keys = "image: x\ncontainer_name: \"${NONE:-}\"\nhostname: \"${NONE:-}\"\n\
                network_mode: \"${NONE:-}\"\nrestart: \"${NONE:-}\"\n\
                ports: [{target: 80, published: \"${NONE:-}\"}]";
    let (spec, warnings) = service(keys, &[]).await.unwrap();
    let ports = "image: x\nports: [{target: 80}]";
    let (absent, no_warnings) = service(ports, &[]).await.unwrap();
    assert_eq!(spec, absent);
    assert_eq!(warnings, no_warnings);
    let files = [("Dockerfile", "FROM scratch\n")];
    accepted("build: .\nimage: \"${NONE:-}\"", &files).await;
    rejected("image: \"${NONE:-}\"", &[], "is not an image name").await;
}

#[tokio::test]
async fn an_empty_directory_is_mounted_whatever_the_target_is_called() {
    let files = [("certificates/.gitkeep", "")];
    for mount in [
        "./certificates:/etc/letsencrypt/live/example.com:ro",
        "./certificates:/opt/app-1.2:ro",
        "{type: bind, source: ./certificates, target: /c, read_only: true, bind: {create_host_path: \
         false}}",
    ] {
        let spec = accepted(&format!("image: x\nvolumes: [{mount}]"), &files).await;
        assert!(entries(&spec).is_empty(), "{mount}");
    }
    let writable = "image: x\nvolumes: [{type: bind, source: ./certificates, target: /c, bind: \
                    {create_host_path: false}}]";
    assert_eq!(accepted(writable, &files).await.container.volumes.len(), 1);
}

#[tokio::test]
async fn equal_entries_of_any_list_count_once() {
    let lists = "image: x\ntmpfs: [/run, /run, \"/tmp:size=1m\"]\n\
                 devices: [/dev/fuse, /dev/fuse, \"/dev/kvm:/dev/kvm\"]";
    let container = accepted(lists, &[]).await.container;
    assert_eq!(container.memory.len(), 2);
    assert_eq!(container.devices.mappings.len(), 2);
    let different = "image: x\ntmpfs: [/run, \"/run:size=1m\"]";
    rejected(different, &[], "`/run` is mounted twice").await;
}

#[tokio::test]
async fn later_environment_files_keep_values_that_they_do_not_set() {
    let files = [
        ("a.env", "A=1\nCOLOR=#ff0000\nSET=of the file\n"),
        ("b.env", "A\nB=${COLOR}\nSET\n"),
    ];
    let spec = accepted("image: x\nenv_file: [a.env, b.env]", &files).await;
    let expected = [
        ("A", "1"),
        ("B", "#ff0000"),
        ("COLOR", "#ff0000"),
        ("SET", "of the command"),
    ];
    assert_eq!(environment(&spec), expected.into());
}

#[tokio::test]
async fn label_files_use_labels_of_earlier_ones_and_no_other_variables() {
    let files = [
        ("a.labels", "X=1\n"),
        ("b.labels", "Y=${X}2\nZ=${SET:-no}\n"),
    ];
    let spec = accepted("image: x\nlabel_file: [a.labels, b.labels]", &files).await;
    let labels = spec.container.labels.iter();
    let labels: Vec<_> = labels
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(labels, [("X", "1"), ("Y", "12"), ("Z", "no")]);
}

#[tokio::test]
async fn a_dockerignore_of_one_dockerfile_is_reported() {
    let files = [
        ("docker/api.Dockerfile", "FROM scratch\n"),
        ("docker/api.Dockerfile.dockerignore", "*\n"),
    ];
    let keys = "build: {context: ., dockerfile: docker/api.Dockerfile}";
    let (_, warnings) = service(keys, &files).await.unwrap();
    let expected = "`docker/api.Dockerfile.dockerignore` is not used";
    assert!(
        warnings.iter().any(|line| line.contains(expected)),
        "{warnings:?}"
    );
}
