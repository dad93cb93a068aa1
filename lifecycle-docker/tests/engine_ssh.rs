//! Tests a host's engine through its SSH server, and the preparation of a bare host.

#![expect(clippy::unwrap_used, reason = "a failed setup fails the test")]

mod fixture;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fixture::{BASE, SHELL, SOCKET, TestHost, context, instance, owner, shell_image};
use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt};
use lifecycle_core::Error;
use lifecycle_core::cloud::{ObservedNode, OpenPorts, Power, SshAddress};
use lifecycle_core::host::{Account, HostPreparer, NodeConnector};
use lifecycle_core::model::{Addresses, NodeName, Protocol, PublishedPort};
use lifecycle_core::runtime::{
    BuildRequest, ContainerRuntime, ContainerState, ImageLogins, LogOptions, Owner, ReadinessProbe,
};
use lifecycle_core::secret::Sensitive;
use lifecycle_docker::{
    AddressChoice, DebianPreparer, DockerEngine, SocketReadiness, SshConnector, SshCredential,
};

const HTTP: (u16, Protocol) = (80, Protocol::Tcp);

/// Returns the number of open SSH connections of the account.
async fn connections(machine: &TestHost) -> usize {
    let count = "pgrep -c -f '^sshd: ops@' || true";
    machine.exec(count).await.parse().unwrap()
}

/// Transfers the base image to the engine, as for a node without access to an image registry.
async fn with_base(engine: &DockerEngine) {
    let here = DockerEngine::local(SOCKET, owner()).unwrap();
    let archive = here.export_image(BASE).await.unwrap();
    engine.import_image(archive).await.unwrap();
}

#[tokio::test]
async fn uses_the_relay_if_the_account_cannot_use_the_socket() {
    let machine = TestHost::with_engine().await;
    let owner = owner();
    let engine = DockerEngine::over_ssh(machine.access(), owner.clone()).unwrap();
    let info = engine.info().await.unwrap();
    assert!(info.cpus > 0, "{info:?}");
    assert!(machine.relays().await > 0, "no relay is running");
    with_base(&engine).await;

    let tag = "ldt/relayed:1";
    let lines = Mutex::new(Vec::new());
    let request = BuildRequest {
        logins: ImageLogins::new(),
        earlier: Vec::new(),
        tag: tag.into(),
        dockerfile: "Dockerfile".into(),
        args: std::collections::BTreeMap::new(),
        options: lifecycle_core::model::BuildOptions::default(),
        context: context(&[("Dockerfile", &format!("FROM {BASE}\nRUN echo built\n"))]),
    };
    let progress = |line: &str| lines.lock().unwrap().push(line.to_owned());
    engine.build_image(request, &progress).await.unwrap();
    assert!(lines.lock().unwrap().iter().any(|line| line == "built"));

    // Many calls run concurrently with streams that stay open.
    let mut spec = instance(&owner, "talk", "echo one; sleep 1000");
    spec.image = tag.into();
    engine.ensure_container(&spec).await.unwrap();
    let follow = LogOptions {
        tail: None,
        follow: true,
        ..LogOptions::default()
    };
    let streams = join_all((0..10).map(|_| engine.logs(&spec.name, follow.clone()))).await;
    let mut streams: Vec<_> = streams.into_iter().map(Result::unwrap).collect();
    for stream in &mut streams {
        assert_eq!(stream.next().await.unwrap().unwrap().text, "one");
    }
    assert!(
        connections(&machine).await > 10,
        "streams share connections"
    );
    for state in join_all((0..30).map(|_| engine.state())).await {
        assert_eq!(state.unwrap().containers.len(), 1);
    }

    // New events arrive, and the streams end when the container exits.
    let mut events = engine.events().await.unwrap();
    engine
        .stop_container(&spec.name, Some(Duration::ZERO))
        .await
        .unwrap();
    let mut heard = Vec::new();
    while !heard.iter().any(|action| action == "die") {
        let event = tokio::time::timeout(Duration::from_secs(20), events.next()).await;
        heard.push(event.unwrap().unwrap().unwrap().action);
    }
    for stream in streams {
        let rest: Vec<_> = stream.try_collect().await.unwrap();
        assert!(rest.is_empty());
    }

    // Only the connections that calls share stay open on the host.
    drop(events);
    let open = connections(&machine).await;
    tokio::time::timeout(Duration::from_secs(20), async {
        while connections(&machine).await > 3 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{open} connections stay open"));

    // The engine is unreachable while stopped, and reachable after a restart.
    machine
        .exec("pkill -x dockerd; while pgrep -x dockerd >/dev/null; do sleep 0.1; done")
        .await;
    let error = engine.state().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    let fresh = DockerEngine::over_ssh(machine.access(), owner.clone()).unwrap();
    let error = fresh.state().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    machine.exec("sh /usr/local/bin/node-engine").await;
    machine
        .exec("timeout 60 sh -c 'until docker version >/dev/null 2>&1; do sleep 0.1; done'")
        .await;
    let state = engine.state().await.unwrap();
    assert!(matches!(
        state.containers[0].state,
        ContainerState::Exited { .. }
    ));
}

#[tokio::test]
async fn replaces_a_taken_host_port_or_reports_it() {
    let machine = TestHost::with_engine().await;
    machine.exec("usermod -aG docker ops").await;
    let owner = owner();
    let engine = DockerEngine::over_ssh(machine.access(), owner.clone()).unwrap();
    with_base(&engine).await;
    assert_eq!(
        machine.relays().await,
        0,
        "relays were used although the socket can be forwarded"
    );

    let script = "exec perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(LocalPort => 80, \
                  Listen => 5) or die; print \"listening\\n\"; STDOUT->flush; \
                  while ($c = $s->accept) { close $c }'";
    let with_port = |service: &str| {
        let mut spec = instance(&owner, service, script);
        spec.ports.insert(HTTP, 20_000);
        spec
    };
    let host_port = |ports: &[(u16, Protocol, u16)]| ports.first().map(|port| port.2);

    let first = with_port("a");
    let first = engine.ensure_container(&first).await.unwrap();
    assert_eq!(host_port(&first.ports), Some(20_000));
    assert_eq!(first.exposed, [HTTP]);

    // Another program on the host already uses the next port.
    machine
        .exec(
            "mkdir -p /tmp/x; nohup /usr/sbin/sshd -D -p 20001 >/dev/null 2>&1 & \
               until ss -ltn | grep -q :20001; do sleep 0.05; done",
        )
        .await;
    let second = with_port("b");
    let seen = engine.ensure_container(&second).await.unwrap();
    assert_eq!(host_port(&seen.ports), Some(20_002));
    assert!(matches!(seen.state, ContainerState::Running { .. }));
    let again = engine.ensure_container(&second).await.unwrap();
    assert_eq!(again.id, seen.id);

    let mut fixed = with_port("c");
    fixed.template.ports = vec![PublishedPort {
        host_port: Some(20_000),
        container_port: HTTP.0,
        protocol: HTTP.1,
        host_ip: None,
    }];
    let error = engine.ensure_container(&fixed).await.unwrap_err();
    let Error::Conflict { what, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(what.contains("20000"), "{what}");

    // Published ports are reachable at the node's address.
    let follow = LogOptions {
        tail: None,
        follow: true,
        ..LogOptions::default()
    };
    let mut lines = engine.logs(&second.name, follow).await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap().text, "listening");
    let limit = Duration::from_secs(5);
    let open = SocketReadiness.tcp(machine.address, 20_002, limit).await;
    assert_eq!(open, Ok(()));
    let closed = SocketReadiness.tcp(machine.address, 20_009, limit).await;
    assert_eq!(closed, Err("connection refused".to_owned()));
}

/// Checks that thirty concurrent streams over a stock SSH server stay open, and that each gets its
/// own output.
async fn thirty_concurrent_streams(
    machine: &TestHost,
    engine: &dyn ContainerRuntime,
    owner: &Owner,
) {
    shell_image().await;
    let here = DockerEngine::local(SOCKET, owner.clone()).unwrap();
    let archive = here.export_image(SHELL).await.unwrap();
    engine.import_image(archive).await.unwrap();
    let script = fixture::awaits_signal("echo one", "echo two");
    let mut spec = instance(owner, "talk", &script);
    spec.image = SHELL.into();
    engine.ensure_container(&spec).await.unwrap();
    let follow = LogOptions {
        tail: None,
        follow: true,
        ..LogOptions::default()
    };
    let streams = join_all((0..30).map(|_| engine.logs(&spec.name, follow.clone()))).await;
    let mut streams: Vec<_> = streams.into_iter().map(Result::unwrap).collect();
    for stream in &mut streams {
        assert_eq!(stream.next().await.unwrap().unwrap().text, "one");
    }
    assert!(
        machine.relays().await >= 30,
        "each stream has its own relay"
    );
    let go = format!("docker kill --signal USR1 {}", spec.name);
    machine.exec(&go).await;
    for stream in streams {
        let rest: Vec<_> = stream.try_collect().await.unwrap();
        let rest: Vec<_> = rest.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(rest, ["two"]);
    }
}

#[tokio::test]
async fn prepares_a_bare_host_once_and_connects() {
    let machine = TestHost::bare().await;
    let node = ObservedNode {
        name: NodeName::try_from("vm1").unwrap(),
        provider_id: machine.name.clone(),
        power: Power::Running,
        addresses: Addresses {
            private: Some(machine.address),
            public: None,
        },
        ssh: SshAddress {
            user: "ops".into(),
            port: 22,
            host_keys: vec![machine.host_key.clone()],
        },
        boot_id: Some("first".into()),
        created: true,
        open_ports: OpenPorts::default(),
    };
    let owner = owner();
    let connector = SshConnector::new(
        SshCredential::Password(Sensitive::new("ops-pw")),
        owner.clone(),
        AddressChoice::PublicThenPrivate,
    );
    let handle = connector.connect(&node).await.unwrap();
    let error = handle.runtime.info().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");

    let stages = Mutex::new(Vec::new());
    let progress = |line: &str| stages.lock().unwrap().push(line.to_owned());
    let info = DebianPreparer
        .prepare(handle.host.as_ref(), Account::Adopted, &progress)
        .await
        .unwrap();
    let output = stages.lock().unwrap().join("\n");
    assert!(
        output.contains("installing the engine on Debian"),
        "{output}"
    );
    assert!(output.contains(&info.version), "{output}");
    assert_eq!(handle.runtime.info().await.unwrap(), info);

    // The preparation changed neither the account's groups nor the configuration of the SSH server.
    let groups = machine.exec("id -nG ops").await;
    assert_eq!(groups, "ops sudo", "an adopted account keeps its groups");
    let stock =
        "cmp /etc/ssh/sshd_config /usr/share/openssh/sshd_config; ls /etc/ssh/sshd_config.d";
    assert_eq!(machine.exec(stock).await, "");

    // A second run does not install, start, or change anything.
    let runs = "pgrep -x dockerd; stat -c %Y /var/lib/dpkg/status /var/log/apt/history.log";
    let before = machine.exec(runs).await;
    machine.exec("touch /tmp/prepared").await;
    stages.lock().unwrap().clear();
    let again = DebianPreparer
        .prepare(handle.host.as_ref(), Account::Adopted, &progress)
        .await
        .unwrap();
    assert_eq!(again, info);
    assert_eq!(machine.exec(runs).await, before);
    let changed = "find / -xdev -type f -cnewer /tmp/prepared -not -path '/proc/*' \
                   -not -path '/var/log/*'";
    assert_eq!(machine.exec(changed).await, "", "files were changed");
    assert!(!stages.lock().unwrap().join("\n").contains("installing"));

    thirty_concurrent_streams(&machine, handle.runtime.as_ref(), &owner).await;

    // An account that was created for the platform joins the group `docker`. The next login of the
    // account can forward the socket.
    DebianPreparer
        .prepare(handle.host.as_ref(), Account::Created, &progress)
        .await
        .unwrap();
    assert_eq!(machine.exec("id -nG ops").await, "ops sudo docker");
    handle.runtime.info().await.unwrap();
    let no_relay = async {
        while machine.relays().await > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(20), no_relay).await;
    assert!(
        ended.is_ok(),
        "relays are still used although the socket can be forwarded"
    );

    let shared = connector.connect(&node).await.unwrap();
    assert!(Arc::ptr_eq(&shared.host, &handle.host));
}
