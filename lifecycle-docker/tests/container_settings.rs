//! Tests that declared settings apply to containers, mostly from inside the container.

#![expect(clippy::unwrap_used, reason = "a failed setup fails the test")]

mod fixture;

use std::collections::BTreeMap;
use std::net::TcpListener;

use fixture::{BASE, SOCKET, Swept, context, docker, instance, owner};
use futures_util::TryStreamExt as _;
use lifecycle_core::Error;
use lifecycle_core::model::{
    BuildOptions, DeviceMapping, MemoryMount, NetworkMode, NodeMount, Protocol, PublishedPort,
    Ulimit, VolumeMount, VolumeName, VolumeOptions,
};
use lifecycle_core::runtime::{
    BuildRequest, ContainerRuntime, ContainerSpec, ImageLogins, LogLine, LogOptions,
};
use lifecycle_docker::DockerEngine;

fn platform() -> (DockerEngine, lifecycle_core::runtime::Owner, Swept) {
    let owner = owner();
    let engine = DockerEngine::local(SOCKET, owner.clone()).unwrap();
    (engine, owner.clone(), Swept(owner))
}

/// Runs a container until it exits, and returns its output.
async fn output_of(engine: &DockerEngine, spec: &ContainerSpec) -> Vec<String> {
    engine.ensure_container(spec).await.unwrap();
    let follow = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let lines = engine.logs(&spec.name, follow).await.unwrap();
    let lines: Vec<LogLine> = lines.try_collect().await.unwrap();
    lines.into_iter().map(|line| line.text).collect()
}

#[tokio::test]
async fn declared_settings_apply_inside_the_container() {
    let (engine, owner, _swept) = platform();
    let script = "hostname
touch /x 2>/dev/null && echo writable || echo read-only
touch /scratch/x && grep -o ' /scratch tmpfs .*size=1024k' /proc/mounts
ulimit -Sn; ulimit -Hn
cat /proc/sys/net/core/somaxconn
grep -c '10.9.8.7.*elsewhere' /etc/hosts
grep CapEff /proc/self/status | tr -d '\\t'
id -G
grep -o ' /dev/shm tmpfs .*size=2048k' /proc/mounts
test -c /dev/again && echo device
cat /proc/1/comm
cat /node/hostname > /dev/null && echo path
grep -c 9.9.9.9 /etc/resolv.conf
test -w /anonymous && echo anonymous";
    let mut spec = instance(&owner, "web", script);
    let template = &mut spec.template;
    template.connection.hostname = Some("named".into());
    template.connection.extra_hosts = vec!["elsewhere:10.9.8.7".into()];
    template.connection.dns = vec!["9.9.9.9".into()];
    template.isolation.read_only = true;
    template.isolation.cap_drop = vec!["ALL".into()];
    template.isolation.group_add = vec!["4242".into()];
    template.isolation.security_opt = vec!["no-new-privileges=true".into()];
    template.memory = vec![MemoryMount {
        target: "/scratch".into(),
        options: "size=1024k,mode=1777".into(),
    }];
    template.kernel.ulimits = BTreeMap::from([(
        "nofile".to_owned(),
        Ulimit {
            soft: 123,
            hard: 456,
        },
    )]);
    template.kernel.sysctls = BTreeMap::from([("net.core.somaxconn".into(), "321".into())]);
    template.kernel.shm_bytes = Some(2 << 20);
    template.kernel.pids = Some(50);
    template.devices.mappings = vec![DeviceMapping {
        source: "/dev/null".into(),
        target: "/dev/again".into(),
        permissions: "rw".into(),
    }];
    template.terminal.init = Some(false);
    template.node_paths = vec![NodeMount {
        source: "/etc".into(),
        target: "/node".into(),
        read_only: true,
        create: true,
        propagation: Some("rprivate".into()),
    }];
    template.anonymous_volumes = vec!["/anonymous".into()];
    template.logging.options = BTreeMap::from([("max-file".into(), "2".into())]);
    assert_eq!(
        output_of(&engine, &spec).await,
        [
            "named",
            "read-only",
            " /scratch tmpfs rw,nosuid,nodev,noexec,relatime,size=1024k",
            "123",
            "456",
            "321",
            "1",
            "CapEff:0000000000000000",
            "0 4242",
            " /dev/shm tmpfs rw,nosuid,nodev,noexec,relatime,size=2048k",
            "device",
            "sh",
            "path",
            "1",
            "anonymous",
        ]
    );
}

#[tokio::test]
async fn a_container_without_a_network_has_only_loopback() {
    let (engine, owner, _swept) = platform();
    let mut spec = instance(&owner, "alone", "ls /sys/class/net");
    spec.template.connection.mode = NetworkMode::None;
    assert_eq!(output_of(&engine, &spec).await, ["lo"]);
}

/// Returns a port that is currently free.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[tokio::test]
async fn one_port_is_published_at_several_addresses() {
    let (engine, owner, _swept) = platform();
    let mut spec = instance(&owner, "web", "sleep 1000");
    let (first, second, local) = (free_port(), free_port(), free_port());
    let published = |host: u16, ip: Option<&str>| PublishedPort {
        host_port: Some(host),
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: ip.map(|ip| ip.parse().unwrap()),
    };
    spec.template.ports = vec![
        published(first, None),
        published(second, None),
        published(local, Some("127.0.0.1")),
    ];
    let (key, chosen) = ((80, Protocol::Tcp), free_port());
    spec.ports.insert(key, chosen);
    let observed = engine.ensure_container(&spec).await.unwrap();
    let mut hosts: Vec<u16> = observed.ports.iter().map(|(_, _, host)| *host).collect();
    hosts.sort_unstable();
    let mut expected = [first, second, chosen];
    expected.sort_unstable();
    // A port that is bound to one address only is not an endpoint.
    assert_eq!(hosts, expected);
    let listed = docker(&["port", &spec.name, "80/tcp"]).await;
    assert!(listed.contains(&format!("127.0.0.1:{local}")), "{listed}");

    // If one of the published ports is in use, no other port may replace it.
    let mut other = instance(&owner, "other", "sleep 1000");
    other.template.ports = vec![published(free_port(), None), published(second, None)];
    other.ports.insert(key, free_port());
    let refused = engine.ensure_container(&other).await.unwrap_err();
    assert!(matches!(refused, Error::Conflict { .. }), "{refused:?}");
    assert!(refused.to_string().contains(&second.to_string()));
}

#[tokio::test]
async fn volumes_use_their_declared_names() {
    let (engine, owner, _swept) = platform();
    let mut spec = instance(&owner, "db", "sleep 1000");
    let volume = VolumeName::try_from("data").unwrap();
    let engine_name = format!("ldt-{}-given", owner.id);
    spec.template.volumes.push(VolumeMount {
        volume: volume.clone(),
        target: "/data".into(),
        read_only: false,
        options: VolumeOptions {
            engine_name: Some(engine_name.clone()),
            labels: BTreeMap::from([("mine".into(), "yes".into())]),
            no_copy: true,
            ..VolumeOptions::default()
        },
    });
    engine.ensure_container(&spec).await.unwrap();
    let labels = docker(&[
        "volume",
        "inspect",
        "--format",
        "{{json .Labels}}",
        &engine_name,
    ])
    .await;
    assert!(labels.contains("\"mine\":\"yes\""), "{labels}");
    assert!(engine.state().await.unwrap().volumes.contains(&volume));
    engine.remove_container(&spec.name).await.unwrap();
    engine.remove_volume(&volume).await.unwrap();
    assert!(engine.state().await.unwrap().volumes.is_empty());

    // External volumes are never created.
    let mut spec = instance(&owner, "other", "sleep 1000");
    spec.template.volumes.push(VolumeMount {
        volume,
        target: "/data".into(),
        read_only: false,
        options: VolumeOptions {
            engine_name: Some(engine_name.clone()),
            external: true,
            ..VolumeOptions::default()
        },
    });
    let missing = engine.ensure_container(&spec).await.unwrap_err();
    assert!(missing.to_string().contains(&engine_name), "{missing}");
    assert!(engine.state().await.unwrap().containers.is_empty());
}

#[tokio::test]
async fn builds_a_stage_with_its_build_options() {
    let (engine, owner, _swept) = platform();
    let tag = format!("ldt-{}/staged:1", owner.id.short());
    let dockerfile = format!(
        "FROM {BASE} AS first\nRUN grep -q '10.9.8.7.*elsewhere' /etc/hosts && echo first > /which\n\
         FROM {BASE} AS second\nRUN false\n"
    );
    let request = BuildRequest {
        logins: ImageLogins::new(),
        earlier: Vec::new(),
        tag: tag.clone(),
        dockerfile: "Dockerfile".into(),
        args: BTreeMap::new(),
        options: BuildOptions {
            target: Some("first".into()),
            extra_hosts: vec!["elsewhere:10.9.8.7".into()],
            labels: BTreeMap::from([("mine".into(), "yes".into())]),
            shm_bytes: Some(1 << 20),
            ..BuildOptions::default()
        },
        context: context(&[("Dockerfile", &dockerfile)]),
    };
    engine.build_image(request, &|_| {}).await.unwrap();
    let labels = docker(&["inspect", "--format", "{{json .Config.Labels}}", &tag]).await;
    assert!(labels.contains("\"mine\":\"yes\""), "{labels}");
    engine.remove_image(&tag).await.unwrap();
}
