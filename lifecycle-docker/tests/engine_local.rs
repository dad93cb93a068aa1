//! Tests the engine of this machine, through its socket.

#![expect(clippy::unwrap_used, reason = "a failed setup fails the test")]

mod fixture;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use fixture::{BASE, SOCKET, Swept, context, docker, instance, owner};
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use lifecycle_core::Error;
use lifecycle_core::model::{
    Healthcheck, HealthcheckTest, Protocol, VolumeMount, VolumeName, VolumeOptions,
};
use lifecycle_core::runtime::{
    BuildRequest, ContainerRuntime, ContainerState, Health, ImageLogins, LogLine, LogOptions, Owner,
};
use lifecycle_core::secret::Sensitive;
use lifecycle_docker::DockerEngine;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

/// Creates a platform for this test on this machine's engine. Its resources are removed when the
/// test ends.
fn platform() -> (DockerEngine, Owner, Swept) {
    let owner = owner();
    let engine = DockerEngine::local(SOCKET, owner.clone()).unwrap();
    (engine, owner.clone(), Swept(owner))
}

#[tokio::test]
async fn ensuring_twice_creates_one_container() {
    let (engine, owner, _swept) = platform();
    let mut spec = instance(&owner, "db", "trap 'exit 0' TERM; sleep 1000 & wait");
    let volume = VolumeName::try_from("data").unwrap();
    spec.template.volumes.push(VolumeMount {
        volume: volume.clone(),
        target: "/data".into(),
        read_only: false,
        options: VolumeOptions::default(),
    });
    spec.template.expose = vec![(5432, Protocol::Tcp)];
    spec.template
        .environment
        .insert("PASSWORD".into(), Sensitive::new("hunter2"));
    spec.template.healthcheck = Some(Healthcheck {
        test: HealthcheckTest::Shell("test \"$PASSWORD\" = hunter2".into()),
        interval: Some(Duration::from_millis(200)),
        timeout: None,
        retries: Some(1),
        start_period: None,
    });

    let first = engine.ensure_container(&spec).await.unwrap();
    let again = engine.ensure_container(&spec).await.unwrap();
    assert_eq!(first.id, again.id);
    assert_eq!(first.started_at, again.started_at);
    assert_eq!(first.role, spec.role);
    assert_eq!(first.digest, spec.digest);
    assert_eq!(first.exposed, [(5432, Protocol::Tcp)]);
    assert!(first.has_healthcheck);

    let state = engine.state().await.unwrap();
    assert_eq!(state.containers.len(), 1);
    assert_eq!(state.containers[0].name, spec.name);
    assert!(state.images.contains_key(BASE));
    assert_eq!(state.volumes.iter().collect::<Vec<_>>(), [&volume]);

    // Wait until the container is healthy. The change of its health is reported as an event.
    let mut events = engine.events().await.unwrap();
    loop {
        let healthy = ContainerState::Running {
            health: Some(Health::Healthy),
        };
        if engine.state().await.unwrap().containers[0].state == healthy {
            break;
        }
        let event = tokio::time::timeout(Duration::from_secs(20), events.next()).await;
        let event = event.unwrap().unwrap().unwrap();
        assert!(!event.action.starts_with("exec_"), "{event:?}");
    }

    // Stopping a container twice and starting it again keeps the container.
    for _ in 0..2 {
        engine.stop_container(&spec.name, None).await.unwrap();
    }
    let stopped = engine.state().await.unwrap();
    let ContainerState::Exited { code: 0, at } = stopped.containers[0].state else {
        panic!("{:?}", stopped.containers[0].state);
    };
    assert!(at.is_some());
    engine.start_container(&spec.name).await.unwrap();
    let started = engine.ensure_container(&spec).await.unwrap();
    assert_eq!(started.id, first.id);
    assert!(started.started_at > first.started_at);

    // A volume in use is kept; removing an absent volume succeeds.
    let used = engine.remove_volume(&volume).await;
    assert!(matches!(used, Err(Error::Conflict { .. })), "{used:?}");
    for _ in 0..2 {
        engine.remove_container(&spec.name).await.unwrap();
        engine.remove_volume(&volume).await.unwrap();
    }
    engine.stop_container(&spec.name, None).await.unwrap();
    let gone = engine.state().await.unwrap();
    assert!(gone.containers.is_empty() && gone.volumes.is_empty());
    let absent = engine.start_container(&spec.name).await;
    assert!(matches!(absent, Err(Error::NotFound { .. })), "{absent:?}");
}

/// Serves the engine's API at a new socket. Runs `docker` with the arguments just before the engine
/// gets a request that creates a container.
fn intercepted(remove: &'static [&'static str]) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("docker.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let engine = UnixStream::connect(SOCKET).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_engine, mut to_engine) = engine.into_split();
                tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut from_engine, &mut to_client).await;
                });
                let mut buffer = vec![0; 64 << 10];
                while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
                    let request = &buffer[..length];
                    if request.starts_with(b"POST") && contains(request, b"/containers/create?") {
                        docker(remove).await;
                    }
                    if to_engine.write_all(request).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    let path = path.to_string_lossy().into_owned();
    (directory, path)
}

fn contains(request: &[u8], part: &[u8]) -> bool {
    request.windows(part.len()).any(|window| window == part)
}

/// A volume is removed after the engine was asked whether it exists, and before the container that
/// mounts it is created. The engine then creates an empty volume with the same name.
#[tokio::test]
async fn a_volume_that_vanishes_before_its_container_is_created_is_not_replaced() {
    const NAME: &str = "lifecycle-docker-test-vanishes";
    for external in [true, false] {
        let (engine, owner, _swept) = platform();
        let volume = VolumeName::try_from("data").unwrap();
        let mut spec = instance(&owner, "db", "test -e /data/rows || exit 1; sleep 1000");
        spec.template.volumes.push(VolumeMount {
            volume: volume.clone(),
            target: "/data".into(),
            read_only: false,
            options: VolumeOptions {
                external,
                engine_name: Some(NAME.to_owned()),
                ..VolumeOptions::default()
            },
        });
        if external {
            docker(&["volume", "create", NAME]).await;
        } else {
            engine.ensure_container(&spec).await.unwrap();
            engine.remove_container(&spec.name).await.unwrap();
            spec.used_volumes.insert(volume);
        }
        let (_directory, socket) = intercepted(&["volume", "rm", NAME]);
        let late = DockerEngine::local(&socket, owner.clone()).unwrap();
        let error = late.ensure_container(&spec).await.unwrap_err();
        assert!(error.to_string().contains(NAME) || !external, "{error}");
        assert_eq!(engine.state().await.unwrap().containers, []);
        let volumes = docker(&["volume", "ls", "--quiet"]).await;
        assert!(!volumes.contains(NAME), "an empty volume was left");

        // A crash before the check leaves both. Data may have been restored meanwhile.
        docker(&["volume", "create", "--label", "lifecycle.substitute=", NAME]).await;
        let error = engine.ensure_container(&spec).await.unwrap_err();
        assert!(error.to_string().contains("in place of one"), "{error}");
        assert_eq!(engine.state().await.unwrap().containers, []);
        docker(&["volume", "rm", NAME]).await;
    }
}

#[tokio::test]
async fn another_owners_container_is_not_touched() {
    let (engine, owner, _swept) = platform();
    let (other_engine, other_owner, _other_swept) = platform();
    let spec = instance(&owner, "db", "sleep 1000");
    engine.ensure_container(&spec).await.unwrap();

    let mut same_name = instance(&other_owner, "db", "sleep 1000");
    same_name.name.clone_from(&spec.name);
    for refused in [
        other_engine.ensure_container(&same_name).await.map(drop),
        other_engine.stop_container(&spec.name, None).await,
        other_engine.remove_container(&spec.name).await,
        other_engine.start_container(&spec.name).await,
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
        assert!(error.to_string().contains(&owner.id.to_string()), "{error}");
    }
    let other = other_engine.state().await.unwrap();
    assert!(other.containers.is_empty());

    // The same name with a different specification is a conflict even within a platform.
    let mut changed = instance(&owner, "db", "sleep 1000");
    changed.name.clone_from(&spec.name);
    let error = engine.ensure_container(&changed).await.unwrap_err();
    assert!(
        error.to_string().contains("another specification"),
        "{error}"
    );

    let state = engine.state().await.unwrap();
    assert_eq!(state.containers.len(), 1);
    assert!(matches!(
        state.containers[0].state,
        ContainerState::Running { .. }
    ));
}

#[tokio::test]
async fn output_arrives_line_by_line() {
    let (engine, owner, _swept) = platform();
    let script = fixture::awaits_signal(
        "echo one; echo two; echo oops >&2; printf rest",
        "echo; echo last",
    );
    let spec = instance(&owner, "talk", &script);
    engine.ensure_container(&spec).await.unwrap();
    let follow = LogOptions {
        tail: None,
        follow: true,
        ..LogOptions::default()
    };
    let mut lines = engine.logs(&spec.name, follow).await.unwrap();
    let mut heard: Vec<LogLine> = Vec::new();
    while heard.len() < 3 {
        heard.push(lines.next().await.unwrap().unwrap());
    }
    docker(&["kill", "--signal", "USR1", &spec.name]).await;
    let rest: Vec<LogLine> = lines.try_collect().await.unwrap();
    heard.extend(rest);
    let of = |stderr: bool| -> Vec<&str> {
        let lines = heard.iter().filter(|line| line.stderr == stderr);
        lines.map(|line| line.text.as_str()).collect()
    };
    assert_eq!(of(false), ["one", "two", "rest", "last"]);
    assert_eq!(of(true), ["oops"]);

    let tail = LogOptions {
        tail: Some(1),
        follow: false,
        ..LogOptions::default()
    };
    let tail = engine.logs(&spec.name, tail).await.unwrap();
    let tail: Vec<LogLine> = tail.try_collect().await.unwrap();
    assert_eq!(tail.len(), 1);
    assert_eq!(tail[0].text, "last");

    let Err(error) = engine.logs("ldt-absent", LogOptions::default()).await else {
        panic!("an absent container returned output");
    };
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn builds_and_removes_images_and_reports_output() {
    let (engine, owner, _swept) = platform();
    let tag = format!("ldt-{}/web:1", owner.id.short());
    // A unique word, so that the engine does not take an earlier build from its cache.
    let word = owner.id.short();
    let request = |dockerfile: &str| BuildRequest {
        logins: ImageLogins::new(),
        earlier: Vec::new(),
        tag: tag.clone(),
        dockerfile: "sub/Dockerfile".into(),
        args: BTreeMap::from([("WORD".to_owned(), Sensitive::new(word.clone()))]),
        options: lifecycle_core::model::BuildOptions::default(),
        context: context(&[("sub/Dockerfile", dockerfile), ("file", &"x".repeat(5000))]),
    };
    let lines = Mutex::new(Vec::new());
    let progress = |line: &str| lines.lock().unwrap().push(line.to_owned());

    let good = format!(
        "FROM {BASE}\nARG WORD\nCOPY file /file\nRUN echo built-$WORD; wc -c < /file\n\
         EXPOSE 80 53/udp\nHEALTHCHECK CMD true\n"
    );
    let built = engine.build_image(request(&good), &progress).await.unwrap();
    assert_eq!(built.exposed, [(53, Protocol::Udp), (80, Protocol::Tcp)]);
    assert!(built.has_healthcheck);
    let output = lines.lock().unwrap().clone();
    assert!(
        output.iter().any(|line| *line == format!("built-{word}")),
        "{output:?}"
    );
    assert!(output.iter().any(|line| line == "5000"), "{output:?}");
    assert_eq!(engine.image(&tag).await.unwrap(), Some(built));
    let labels = docker(&["inspect", "--format", "{{json .Config.Labels}}", &tag]).await;
    assert!(!labels.contains("lifecycle"), "{labels}");

    let bad = format!("FROM {BASE}\nRUN echo about-to-fail; exit 9\n");
    let error = engine.build_image(request(&bad), &progress).await;
    let text = error.unwrap_err().chain();
    assert!(text.contains("about-to-fail"), "{text}");
    assert!(text.contains('9') && text.contains(&tag), "{text}");
    assert!(
        text.contains("sub/Dockerfile, instruction 2 (RUN echo"),
        "{text}"
    );
    let unreadable = format!("FROM {BASE}\n\nRUNN true\n");
    let error = engine.build_image(request(&unreadable), &progress).await;
    let text = error.unwrap_err().to_string();
    assert!(text.contains("sub/Dockerfile:3"), "{text}");

    let mut torn = request(&good);
    torn.context = torn
        .context
        .chain(futures_util::stream::iter([Err(std::io::Error::other(
            "the share went away",
        ))]))
        .boxed();
    let error = engine.build_image(torn, &progress).await.unwrap_err();
    assert!(error.chain().contains("the share went away"), "{error:?}");

    // An image is transferred by export and import; a damaged archive is an error.
    let archive = engine.export_image(&tag).await.unwrap();
    engine.import_image(archive).await.unwrap();
    let broken = futures_util::stream::iter([Ok(Bytes::from_static(b"no archive"))]);
    let broken = engine.import_image(broken.boxed()).await;
    assert!(broken.is_err());

    // An image in use is kept. An unused image is removed, and removing it again succeeds.
    let mut spec = instance(&owner, "web", "sleep 1000");
    spec.image.clone_from(&tag);
    engine.ensure_container(&spec).await.unwrap();
    engine.remove_image(&tag).await.unwrap();
    assert!(engine.image(&tag).await.unwrap().is_some());
    engine.remove_container(&spec.name).await.unwrap();
    for _ in 0..2 {
        engine.remove_image(&tag).await.unwrap();
    }
    assert_eq!(engine.image(&tag).await.unwrap(), None);
    assert!(!engine.state().await.unwrap().images.contains_key(&tag));
    let Err(error) = engine.export_image(&tag).await else {
        panic!("an absent image was exported");
    };
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn a_missing_engine_is_unreachable() {
    let engine = DockerEngine::local("/run/absent.sock", owner()).unwrap();
    let error = engine.state().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let (engine, ..) = platform();
    let info = engine.info().await.unwrap();
    assert!(info.cpus > 0 && info.memory_bytes > 0);
    assert!(!info.version.is_empty() && !info.api_version.is_empty());
}
