//! Tests nodes behind a jump host. All machines have stock SSH servers.

#![expect(clippy::unwrap_used, reason = "a failed setup fails the test")]

mod fixture;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fixture::{SHELL, SOCKET, Swept, TestHost, docker, instance, owner, shell_image};
use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt};
use lifecycle_core::Error;
use lifecycle_core::cloud::{
    CloudProvider, NodeChange, ObservedNode, OpenPorts, Power, SshAddress, carry_out,
};
use lifecycle_core::host::{ForwardTarget, HostCommand, HostFile, NodeConnector};
use lifecycle_core::model::{Addresses, NodeName, NodeSpec};
use lifecycle_core::runtime::{ContainerRuntime, LogOptions, Owner};
use lifecycle_core::secret::Sensitive;
use lifecycle_docker::{
    AddressChoice, DockerEngine, JumpHost, LocalNodes, LocalNodesOptions, SshConnector,
    SshCredential, SshTimings, generate_ssh_key,
};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Short timeouts: a host that does not respond for two seconds counts as unreachable.
const QUICK: SshTimings = SshTimings {
    connect: Duration::from_secs(5),
    keepalive: Duration::from_millis(500),
    keepalive_misses: 3,
};

/// The number of lines to send, each in a separate packet. Together they exceed every buffer on the
/// path.
const LINES: usize = 8000;

fn jump(machine: &TestHost) -> JumpHost {
    JumpHost {
        host: machine.address.to_string(),
        port: 22,
        user: "plain".into(),
        host_keys: vec![machine.host_key.clone()],
        credential: SshCredential::Password(Sensitive::new("plain-pw")),
    }
}

fn connector(owner: &Owner) -> SshConnector {
    SshConnector::new(
        SshCredential::Password(Sensitive::new("ops-pw")),
        owner.clone(),
        AddressChoice::PublicThenPrivate,
    )
}

fn through(jump: JumpHost) -> SshConnector {
    connector(&owner()).through(jump).unwrap()
}

fn node(name: &str, machine: &TestHost) -> ObservedNode {
    ObservedNode {
        name: NodeName::try_from(name).unwrap(),
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
    }
}

/// Makes a machine unreachable from outside its network.
async fn close_to_outside(machine: &TestHost) {
    machine
        .exec("ip route add blackhole $(ip route show default | cut -d ' ' -f 3)/32")
        .await;
    let outside = TcpStream::connect((machine.address, 22));
    let outside = tokio::time::timeout(Duration::from_secs(2), outside).await;
    assert!(
        !matches!(outside, Ok(Ok(_))),
        "the machine is reachable from outside"
    );
}

/// Returns the number of open SSH connections that a machine has accepted.
async fn accepted(machine: &TestHost) -> usize {
    let count = "ss -Htn state established sport = :22 | wc -l";
    machine.exec(count).await.parse().unwrap()
}

#[tokio::test]
async fn all_calls_to_a_node_share_one_connection() {
    let (bastion, machine) = tokio::join!(TestHost::bare(), TestHost::with_engine());
    machine.exec("usermod -aG docker ops").await;
    close_to_outside(&machine).await;
    let owner = owner();
    let connector = connector(&owner).through(jump(&bastion)).unwrap();
    assert_eq!(connector.jump_host().await.unwrap().1.unwrap(), ());
    let seen = node("vm1", &machine);
    let handle = connector.connect(&seen).await.unwrap();

    let output = handle.host.exec(HostCommand::new("id -u").as_root()).await;
    assert_eq!(output.unwrap().stdout, "0\n");
    let pieces = (0..300).map(|_| Ok(Bytes::from(vec![b'y'; 100_000])));
    let large = HostFile {
        path: "/var/lib/lifecycle/large".into(),
        mode: 0o600,
        contents: futures_util::stream::iter(pieces).boxed(),
    };
    handle.host.put(large).await.unwrap();
    let size = "stat -c %s /var/lib/lifecycle/large";
    assert_eq!(machine.exec(size).await, "30000000");
    let mut back = HostCommand::new("head -c 12000000 /var/lib/lifecycle/large").as_root();
    back.timeout = Duration::from_mins(5);
    let back = handle.host.exec(back).await.unwrap();
    assert_eq!(back.stdout.len(), 12_000_000);

    let target = ForwardTarget::Tcp {
        host: "127.0.0.1".into(),
        port: 22,
    };
    let mut stream = handle.host.connect(target).await.unwrap();
    let mut greeting = [0; 8];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"SSH-2.0-");

    // The engine's socket is also forwarded to transfer an image and to follow a log.
    handle.runtime.info().await.unwrap();
    assert_eq!(
        machine.relays().await,
        0,
        "relays were used although the socket can be forwarded"
    );
    shell_image().await;
    let here = DockerEngine::local(SOCKET, owner.clone()).unwrap();
    let archive = here.export_image(SHELL).await.unwrap();
    handle.runtime.import_image(archive).await.unwrap();
    let script = fixture::awaits_signal("echo one", "echo two");
    let mut spec = instance(&owner, "talk", &script);
    spec.image = SHELL.into();
    handle.runtime.ensure_container(&spec).await.unwrap();
    let follow = LogOptions {
        tail: None,
        follow: true,
        ..LogOptions::default()
    };
    let mut lines = handle.runtime.logs(&spec.name, follow).await.unwrap();
    assert_eq!(lines.next().await.unwrap().unwrap().text, "one");
    let go = format!("docker kill --signal USR1 {}", spec.name);
    machine.exec(&go).await;
    let rest: Vec<_> = lines.try_collect().await.unwrap();
    assert_eq!(rest.len(), 1);

    assert_eq!(accepted(&bastion).await, 1);
    assert!(accepted(&machine).await > 1, "streams share connections");

    // When the connector is dropped, all connections end on both hosts.
    drop((stream, handle, connector));
    for machine in [&bastion, &machine] {
        let ended = "timeout 60 sh -c \
                     'until [ -z \"$(ss -Htn state established sport = :22)\" ]; do sleep 0.1; done'";
        machine.exec(ended).await;
    }
}

#[tokio::test]
async fn many_nodes_at_once_share_one_connection() {
    let bastion = TestHost::bare().await;
    let machines = join_all((0..3).map(|_| TestHost::bare())).await;
    let connector = through(jump(&bastion));
    let wait = "mkdir -p /tmp/gate; touch /tmp/gate/$$; \
                until [ $(ls /tmp/gate | wc -l) -ge 7 ]; do sleep 0.05; done; echo through";
    let runs = (0..21).map(|at| {
        let seen = node(&format!("vm{at}"), &machines[at % 3]);
        let connector = &connector;
        async move {
            let handle = connector.connect(&seen).await?;
            handle.host.exec(HostCommand::new(wait)).await
        }
    });
    for output in join_all(runs).await {
        assert_eq!(output.unwrap().stdout, "through\n");
    }
    assert_eq!(accepted(&bastion).await, 1);
    assert_eq!(accepted(&machines[0]).await, 7);
}

#[tokio::test]
async fn a_stalled_reader_does_not_delay_others() {
    let (bastion, flood, other) =
        tokio::join!(TestHost::bare(), TestHost::bare(), TestHost::bare());
    // One port sends as fast as possible; the other sends each line in a separate packet.
    let listen = "perl -MIO::Socket::INET -MSocket=IPPROTO_TCP,TCP_NODELAY -e \
                  '$s = IO::Socket::INET->new(LocalPort => shift, Listen => 9) or die; \
                  while ($c = $s->accept) { next if fork; $c->autoflush; \
                  setsockopt $c, IPPROTO_TCP, TCP_NODELAY, 1;";
    let fast = format!("{listen} $b = \"x\" x 65536; 1 while print $c $b; exit }}' 9000");
    let slow = format!(
        "{listen} for (1..{LINES}) {{ printf $c \"%07d\\n\", $_; select undef, undef, undef, 0.0005 }} \
         open F, \">/tmp/sent-$$\"; sleep 1000 }}' 9001"
    );
    for (serve, port) in [(fast, 9000), (slow, 9001)] {
        flood
            .exec(&format!(
                "nohup {serve} >/dev/null 2>&1 & \
                 until ss -ltn | grep -q :{port}; do sleep 0.05; done"
            ))
            .await;
    }
    let connector = through(jump(&bastion));
    let (flooding, calm) = (node("vm1", &flood), node("vm2", &other));
    let (flooding, calm) = tokio::join!(connector.connect(&flooding), connector.connect(&calm));
    let (flooding, calm) = (flooding.unwrap(), calm.unwrap());
    let mut stalled = Vec::new();
    for port in [9000, 9001, 9001] {
        let target = ForwardTarget::Tcp {
            host: "127.0.0.1".into(),
            port,
        };
        let mut stream = flooding.host.connect(target).await.unwrap();
        let mut begin = [0; 8];
        stream.read_exact(&mut begin).await.unwrap();
        stalled.push((stream, begin.to_vec()));
    }
    flood
        .exec("until [ $(ls /tmp/sent-* 2>/dev/null | wc -l) = 2 ]; do sleep 0.1; done")
        .await;
    for handle in [&calm, &flooding, &calm] {
        let mut echo = HostCommand::new("cat").within(Duration::from_mins(3));
        echo.stdin = Bytes::from(vec![b'z'; 10 << 20]);
        let output = handle.host.exec(echo).await.unwrap();
        assert_eq!(output.stdout.len(), 10 << 20);
    }
    assert_eq!(accepted(&bastion).await, 1);
    // No data was lost.
    for (at, (mut stream, begin)) in stalled.into_iter().enumerate() {
        let lines: Vec<_> = (1..=LINES).map(|line| format!("{line:07}\n")).collect();
        let expected = match at {
            0 => "x".repeat(40 << 20),
            _ => lines.concat(),
        };
        let mut rest = vec![0; expected.len() - begin.len()];
        stream.read_exact(&mut rest).await.unwrap();
        let all = [begin, rest].concat();
        assert!(all == expected.as_bytes(), "stream {at} differs");
    }
}

#[tokio::test]
async fn reconnects_to_a_jump_host_that_breaks_or_stops_responding() {
    let (bastion, machine) = tokio::join!(TestHost::bare(), TestHost::bare());
    let connector = connector(&owner())
        .through(jump(&bastion))
        .unwrap()
        .with_timings(QUICK);
    let seen = node("vm1", &machine);
    for round in ["killed", "stopped"] {
        let handle = connector.connect(&seen).await.unwrap();
        let began = format!("/tmp/{round}");
        let wait = HostCommand::new(format!("touch {began}; sleep 1000"));
        let wait = handle.host.exec(wait);
        let breaks = async {
            let until = format!("until [ -e {began} ]; do sleep 0.05; done");
            machine.exec(&until).await;
            if round == "killed" {
                bastion.exec("pkill -9 -f '[s]shd: plain'").await;
            } else {
                docker(&["pause", &bastion.name]).await;
            }
        };
        let noticed = async { tokio::join!(wait, breaks).0 };
        let noticed = tokio::time::timeout(Duration::from_mins(1), noticed).await;
        let error = noticed.unwrap().unwrap_err();
        assert!(matches!(error, Error::Interrupted { .. }), "{error:?}");
        if round == "stopped" {
            let error = connector.connect(&seen).await.unwrap_err();
            assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
            let text = error.chain();
            assert!(text.contains("jump host plain@"), "{text}");
            docker(&["unpause", &bastion.name]).await;
        }
        let handle = connector.connect(&seen).await.unwrap();
        let output = handle.host.exec(HostCommand::new("echo again")).await;
        assert_eq!(output.unwrap().stdout, "again\n");
    }
}

/// Connects to a node through a jump host, and returns the error. Checks that the error names the
/// jump host and the node.
async fn refusal(jump: JumpHost, seen: &ObservedNode) -> Error {
    let named = format!("jump host {}@{}:{}", jump.user, jump.host, jump.port);
    let error = through(jump).connect(seen).await.unwrap_err();
    let text = error.chain();
    assert!(text.contains(&named) && text.contains("node vm1"), "{text}");
    error
}

#[tokio::test]
async fn errors_of_a_jump_host_include_its_name_and_a_hint() {
    let (bastion, machine) = tokio::join!(TestHost::bare(), TestHost::bare());
    let seen = node("vm1", &machine);
    let hint = |error: &Error, part: &str| {
        assert!(matches!(error, Error::Denied { .. }), "{error:?}");
        let hint = error.hint().unwrap_or_default();
        assert!(hint.contains(part), "{hint}");
    };

    // Another machine responds at the jump host's address.
    let other = JumpHost {
        host_keys: vec![machine.host_key.clone()],
        ..jump(&bastion)
    };
    let error = refusal(other, &seen).await;
    hint(&error, "configure its new host key");
    assert_eq!(error.to_string().matches("SHA256:").count(), 2, "{error}");

    // A node that was replaced by another machine is also detected through a jump host.
    let mut strange = seen.clone();
    strange.ssh.host_keys = vec![bastion.host_key.clone()];
    let error = refusal(jump(&bastion), &strange).await;
    hint(&error, "delete the node");

    let stranger = JumpHost {
        credential: SshCredential::Password(Sensitive::new("wrong")),
        ..jump(&bastion)
    };
    let error = refusal(stranger, &seen).await;
    hint(&error, "account `plain` exists on the jump host");
    assert!(!format!("{error:?}").contains("wrong"), "{error:?}");

    // The jump host also runs SSH servers with other settings.
    let target = format!("{}:22", machine.address);
    for (port, setting) in [
        (2222, "AllowTcpForwarding=no"),
        (2223, "AllowTcpForwarding=remote"),
        (2224, "DisableForwarding=yes"),
        (2225, "PermitOpen=192.0.2.1:22"),
    ] {
        bastion
            .exec(&format!(
                "/usr/sbin/sshd -p {port} -o {setting} -o PidFile=/run/sshd-{port}.pid; \
                 until [ -e /run/sshd-{port}.pid ]; do sleep 0.05; done"
            ))
            .await;
        let forbids = JumpHost {
            port,
            ..jump(&bastion)
        };
        let error = refusal(forbids, &seen).await;
        hint(&error, "AllowTcpForwarding");
        assert!(error.to_string().contains(&target), "{setting}: {error}");
    }

    // First the jump host, and then the node, has no server at the port.
    let absent = JumpHost {
        port: 2229,
        ..jump(&bastion)
    };
    let error = refusal(absent, &seen).await;
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(
        error.chain().contains("is reachable from this machine"),
        "{error:?}"
    );
    let mut absent = seen.clone();
    absent.ssh.port = 2229;
    let error = refusal(jump(&bastion), &absent).await;
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.chain().contains("responds, but cannot"), "{error:?}");
}

#[tokio::test]
async fn an_unresponsive_node_behind_a_jump_host_does_not_delay_others() {
    let (bastion, unresponsive, machine) =
        tokio::join!(TestHost::bare(), TestHost::bare(), TestHost::bare());
    let connector = connector(&owner())
        .with_timings(QUICK)
        .through(jump(&bastion))
        .unwrap();
    let seen = node("vm2", &machine);
    let before = connector.connect(&seen).await.unwrap();
    // The node drops packets from the jump host.
    let route = format!("ip route add blackhole {}/32", bastion.address);
    unresponsive.exec(&route).await;
    let error = connector
        .connect(&node("vm1", &unresponsive))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    assert!(error.to_string().contains("node vm1"), "{error}");
    assert!(
        error.to_string().contains("the connection from jump host"),
        "{error}"
    );
    let after = connector.connect(&seen).await.unwrap();
    assert!(Arc::ptr_eq(&before.host, &after.host));
    after.host.exec(HostCommand::new("true")).await.unwrap();
    assert_eq!(accepted(&bastion).await, 1);
}

#[tokio::test]
async fn reaches_a_firewalled_local_node_through_another_node() {
    let owner = owner();
    let key = generate_ssh_key().unwrap();
    let _swept = Swept(owner.clone());
    let options = LocalNodesOptions::new(owner.clone(), key.public.clone());
    let cloud = &LocalNodes::new(options).unwrap();
    let provision = |name: &'static str| async move {
        let name = NodeName::try_from(name).unwrap();
        let spec = NodeSpec::new(name.clone());
        let change = NodeChange::Provision { spec };
        carry_out(cloud, change, Duration::from_mins(15))
            .await
            .unwrap();
        let mut made = cloud.get(&name).await.unwrap().unwrap();
        made.addresses.public = None;
        made
    };
    let (open, closed) = (provision("open").await, provision("closed").await);
    let container = format!("{}-{}-node-closed", owner.name, owner.id.short());
    let gateway = "$(ip route show default | cut -d ' ' -f 3)";
    let close = format!("iptables -I INPUT -s {gateway} -p tcp --dport 22 -j DROP");
    docker(&["exec", &container, "sh", "-c", &close]).await;

    let credential = SshCredential::PrivateKey(key.private.clone());
    let direct = SshConnector::new(
        credential.clone(),
        owner.clone(),
        AddressChoice::PublicThenPrivate,
    )
    .with_timings(QUICK);
    let error = direct.connect(&closed).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");

    let through = direct
        .through(JumpHost {
            host: open.addresses.private.unwrap().to_string(),
            port: open.ssh.port,
            user: open.ssh.user.clone(),
            host_keys: open.ssh.host_keys.clone(),
            credential,
        })
        .unwrap();
    let handle = through.connect(&closed).await.unwrap();
    let output = handle
        .host
        .exec(HostCommand::new("hostname"))
        .await
        .unwrap();
    assert!(output.stdout.contains("closed"), "{output:?}");
    let engine = async {
        while handle.runtime.info().await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(2), engine)
        .await
        .unwrap();
    // The jump host is also a node, and is reached through itself.
    let itself = through.connect(&open).await.unwrap();
    itself.host.exec(HostCommand::new("true")).await.unwrap();
}
