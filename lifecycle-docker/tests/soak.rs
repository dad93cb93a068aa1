//! Tests that closed streams and connections leave no memory in use, so that a long-lived process
//! does not grow. The allocator counts the bytes in use.
//!
//! By default, the test opens a few hundred streams and connections. With `LIFECYCLE_TEST_WHOLE=1`,
//! it opens as many as a manager does in days (`script/endure`).

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed setup fails the test; the figures are for people to read"
)]

mod fixture;

use std::alloc::System;
use std::sync::Arc;
use std::time::Duration;

use fixture::{SHELL, SOCKET, TestHost, instance, owner, shell_image};
use futures_util::{StreamExt, TryStreamExt, stream};
use lifecycle_core::cloud::{ObservedNode, OpenPorts, Power, SshAddress};
use lifecycle_core::host::NodeConnector;
use lifecycle_core::model::{Addresses, NodeName};
use lifecycle_core::runtime::{ContainerRuntime, ExecCommand, Owner};
use lifecycle_core::secret::Sensitive;
use lifecycle_docker::{
    AddressChoice, DockerEngine, JumpHost, SshAccess, SshConnector, SshCredential,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The number of bytes that one stream or connection may leave in use. A channel that stays open
/// takes more than 2,000 bytes.
const LEFT_BY_EACH: usize = 100;
/// Additional growth allowed for tables, buffers, and queues of bounded size.
const SLACK: usize = 128 << 10;
/// The number of streams or connections that are opened before the measurement.
const WARM_UP: usize = 40;

/// How often each type of stream or connection is opened and closed.
struct Counts {
    forwarded: usize,
    relayed: usize,
    commands: usize,
    events: usize,
    logins: usize,
}

impl Counts {
    fn chosen() -> Self {
        if std::env::var_os("LIFECYCLE_TEST_WHOLE").is_some() {
            Self {
                forwarded: 8000,
                relayed: 1000,
                commands: 500,
                events: 500,
                logins: 300,
            }
        } else {
            Self {
                forwarded: 180,
                relayed: 60,
                commands: 40,
                events: 20,
                logins: 40,
            }
        }
    }
}

fn in_use() -> usize {
    let stats = ALLOCATOR.stats();
    stats
        .bytes_allocated
        .saturating_sub(stats.bytes_deallocated)
}

/// Waits until the number of bytes in use no longer decreases, and returns it.
async fn settled() -> usize {
    let mut least = in_use();
    let mut unchanged = 0;
    while unchanged < 10 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = in_use();
        unchanged = if now < least { 0 } else { unchanged + 1 };
        least = least.min(now);
    }
    least
}

/// Opens and closes `count` streams or connections, and fails if memory grew with their number.
async fn leaves_nothing<F: AsyncFn(usize)>(what: &str, count: usize, open: F) {
    for number in 0..WARM_UP {
        open(number).await;
    }
    let before = settled().await;
    for number in 0..count {
        open(WARM_UP + number).await;
    }
    let after = settled().await;
    let grown = after.saturating_sub(before);
    println!("{what}: {count}, {before} bytes in use before, {after} after");
    assert!(
        grown <= SLACK + count * LEFT_BY_EACH,
        "{what}: {count} openings left {grown} bytes in use"
    );
}

/// Makes one call with a new engine client, and thus over a new connection to the engine.
async fn call(access: &Arc<SshAccess>, owner: &Owner) {
    let engine = DockerEngine::over_ssh(Arc::clone(access), owner.clone()).unwrap();
    engine.info().await.unwrap();
}

fn node(machine: &TestHost, boot: usize) -> ObservedNode {
    ObservedNode {
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
        boot_id: Some(boot.to_string()),
        created: true,
        open_ports: OpenPorts::default(),
    }
}

fn connector(owner: &Owner) -> SshConnector {
    let credential = SshCredential::Password(Sensitive::new("ops-pw"));
    SshConnector::new(credential, owner.clone(), AddressChoice::PublicThenPrivate)
}

#[tokio::test]
async fn closed_streams_and_connections_leave_no_memory() {
    let counts = Counts::chosen();
    shell_image().await;
    let owner = owner();
    let (bastion, machine) = tokio::join!(TestHost::bare(), TestHost::with_engine());

    let relayed = machine.access();
    leaves_nothing("relayed engine calls", counts.relayed, async |_| {
        call(&relayed, &owner).await;
    })
    .await;
    assert!(
        machine.relays().await <= 8,
        "relays of closed streams are still running"
    );

    machine.exec("usermod -aG docker ops").await;
    let access = machine.access();
    leaves_nothing("forwarded engine calls", counts.forwarded, async |_| {
        call(&access, &owner).await;
    })
    .await;

    let engine = DockerEngine::over_ssh(Arc::clone(&access), owner.clone()).unwrap();
    let here = DockerEngine::local(SOCKET, owner.clone()).unwrap();
    let archive = here.export_image(SHELL).await.unwrap();
    engine.import_image(archive).await.unwrap();
    let mut spec = instance(&owner, "idle", "sleep 100000");
    spec.image = SHELL.into();
    engine.ensure_container(&spec).await.unwrap();
    leaves_nothing("commands in a container", counts.commands, async |_| {
        let command = ExecCommand::new(["true"]);
        let session = engine.exec(&spec.name, &command).await.unwrap();
        let output: Vec<_> = session.output.try_collect().await.unwrap();
        assert_eq!(output.len(), 1, "{output:?}");
    })
    .await;
    leaves_nothing("streams of events", counts.events, async |_| {
        let events = engine.events().await.unwrap();
        // The stream opens when it is polled.
        let quiet = stream::once(tokio::time::sleep(Duration::from_millis(20))).map(|()| None);
        let first = stream::select(events.map(Some), quiet.boxed()).next().await;
        assert!(first.unwrap().is_none());
    })
    .await;

    leaves_nothing("logins", counts.logins, async |boot| {
        let connector = connector(&owner);
        connector.connect(&node(&machine, boot)).await.unwrap();
    })
    .await;
    let jump = connector(&owner)
        .through(JumpHost {
            host: bastion.address.to_string(),
            port: 22,
            user: "plain".into(),
            host_keys: vec![bastion.host_key.clone()],
            credential: SshCredential::Password(Sensitive::new("plain-pw")),
        })
        .unwrap();
    leaves_nothing("logins through a jump host", counts.logins, async |boot| {
        // After another boot, a new connection is used; the previous one is dropped.
        jump.connect(&node(&machine, boot)).await.unwrap();
    })
    .await;
}
