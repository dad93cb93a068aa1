//! Tests access to a host over SSH, with a stock SSH server.

mod fixture;

use std::time::Duration;

use bytes::Bytes;
use fixture::{TestHost, docker, open};
use futures_util::StreamExt;
use futures_util::future::join_all;
use lifecycle_core::Error;
use lifecycle_core::host::{ForwardTarget, HostCommand, HostFile, NodeAccess};
use lifecycle_core::secret::Sensitive;
use lifecycle_docker::{SshAccess, SshCredential, SshTarget, SshTimings};
use tokio::io::AsyncReadExt;

#[tokio::test]
async fn commands_run_as_the_account_and_as_root() {
    let machine = TestHost::bare().await;
    let host = machine.access();

    let output = host
        .exec(HostCommand::new(
            "echo \"it's $USER\"; echo oops >&2; exit 7",
        ))
        .await
        .unwrap();
    assert_eq!((output.code, output.stdout.as_str()), (7, "it's ops\n"));
    assert_eq!(output.stderr, "oops\n");

    let root = HostCommand::new("id -u; echo \"$0\"").as_root();
    assert_eq!(host.exec(root).await.unwrap().stdout, "0\nsh\n");

    let mut copy = HostCommand::new("wc -c");
    copy.stdin = Bytes::from(vec![b'x'; 5 << 20]);
    assert_eq!(host.exec(copy).await.unwrap().stdout.trim(), "5242880");

    // A command that does not read its input exits normally.
    let mut deaf = HostCommand::new("echo deaf");
    deaf.stdin = Bytes::from(vec![b'x'; 32 << 20]);
    assert_eq!(host.exec(deaf).await.unwrap().stdout, "deaf\n");

    let killed = host.exec(HostCommand::new("kill -9 $$")).await.unwrap();
    assert_eq!(killed.code, 255);

    let endless = HostCommand::new("sleep 1000").within(Duration::from_millis(300));
    let error = host.exec(endless).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    let after = host.exec(HostCommand::new("echo fine")).await.unwrap();
    assert_eq!(after.stdout, "fine\n");

    // More commands run concurrently than the ten sessions that one connection allows.
    let wait = "n=$(ls /tmp/gate 2>/dev/null | wc -l); mkdir -p /tmp/gate; touch /tmp/gate/$$; \
                until [ $(ls /tmp/gate | wc -l) -ge 25 ]; do sleep 0.05; done; echo through";
    let runs = (0..25).map(|_| host.exec(HostCommand::new(wait)));
    for output in join_all(runs).await {
        assert_eq!(output.unwrap().stdout, "through\n");
    }
}

#[tokio::test]
async fn a_broken_connection_is_replaced_at_the_next_call() {
    let machine = TestHost::bare().await;
    let host = machine.access();
    host.check().await.unwrap();
    machine.exec("pkill -9 -f '[s]shd: ops'").await;
    let output = host.exec(HostCommand::new("echo again")).await;
    // If the first call detects that the connection broke, it fails and the next one succeeds.
    let output = match output {
        Ok(output) => output,
        Err(Error::Unreachable { .. } | Error::Interrupted { .. }) => {
            host.exec(HostCommand::new("echo again")).await.unwrap()
        }
        Err(other) => panic!("{other:?}"),
    };
    assert_eq!(output.stdout, "again\n");
}

#[tokio::test]
async fn detects_a_host_that_stops_responding() {
    let machine = TestHost::bare().await;
    let timings = SshTimings {
        connect: Duration::from_secs(2),
        keepalive: Duration::from_millis(300),
        keepalive_misses: 2,
    };
    let credential = SshCredential::Password(Sensitive::new("ops-pw"));
    let host = SshAccess::new(machine.target(), &credential, timings).unwrap();
    host.check().await.unwrap();
    let wait = host.exec(HostCommand::new("touch /tmp/began; sleep 1000"));
    let pause = async {
        machine
            .exec("until [ -e /tmp/began ]; do sleep 0.05; done")
            .await;
        docker(&["pause", &machine.name]).await;
    };
    let noticed = async { tokio::join!(wait, pause).0 };
    let noticed = tokio::time::timeout(Duration::from_secs(20), noticed).await;
    let error = noticed.expect("not noticed").unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error:?}");
    let error = host.check().await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");

    docker(&["unpause", &machine.name]).await;
    let output = host.exec(HostCommand::new("echo back")).await.unwrap();
    assert_eq!(output.stdout, "back\n");
}

#[tokio::test]
async fn uploads_are_atomic() {
    let machine = TestHost::bare().await;
    let host = machine.access();
    let path = "/var/lib/lifecycle/it's $new/file";
    let read = |format: &str| format!("stat -c '{format}' \"/var/lib/lifecycle/it's \\$new/file\"");

    let file = HostFile::new(path, 0o440, "secret");
    host.put(file).await.unwrap();
    assert_eq!(machine.exec(&read("%a %u %g %s")).await, "440 0 0 6");
    assert_eq!(machine.exec("stat -c %a /var/lib/lifecycle").await, "700");

    // The file is sent in many pieces and is larger than any window.
    let pieces = (0..200).map(|_| Ok(Bytes::from(vec![b'y'; 100_000])));
    let large = HostFile {
        path: path.into(),
        mode: 0o600,
        contents: futures_util::stream::iter(pieces).boxed(),
    };
    host.put(large).await.unwrap();
    assert_eq!(machine.exec(&read("%a %s")).await, "600 20000000");

    // Contents that end early leave the previous file unchanged.
    let broken = futures_util::stream::iter([
        Ok(Bytes::from_static(b"half")),
        Err(std::io::Error::other("the disk fell out")),
    ]);
    let half = HostFile {
        path: path.into(),
        mode: 0o600,
        contents: broken.boxed(),
    };
    let error = host.put(half).await.unwrap_err();
    assert!(error.chain().contains("the disk fell out"), "{error:?}");
    assert_eq!(machine.exec(&read("%s")).await, "20000000");

    // The next upload of the same file deletes temporary files of interrupted uploads.
    let directory = "\"/var/lib/lifecycle/it's \\$new\"";
    let drafts = format!("ls -A {directory} | grep -c lifecycle-put || true");
    let left = format!(
        "cd {directory} && rm -f .lifecycle-put.* && \
         tag=$(printf %s {directory}/file | sha256sum | cut -c 1-16) && \
         touch .lifecycle-put.$tag.abc .lifecycle-put.0123456789abcdef.abc"
    );
    machine.exec(&left).await;
    assert_eq!(machine.exec(&drafts).await, "2");
    host.put(HostFile::new(path, 0o440, "whole")).await.unwrap();
    assert_eq!(
        machine.exec(&drafts).await,
        "1",
        "temporary files of another file are kept"
    );

    // A directory at the path is an error.
    let error = host.put(HostFile::new("/var/lib", 0o600, "x")).await;
    assert!(matches!(error, Err(Error::Failed { .. })), "{error:?}");
    assert_eq!(
        machine
            .exec("ls -A /var | grep -c lifecycle-put || true")
            .await,
        "0"
    );
}

#[tokio::test]
async fn authenticates_by_key_or_password() {
    let machine = TestHost::bare().await;
    let key = machine
        .exec(
            "ssh-keygen -q -t ed25519 -N '' -f /tmp/key && mkdir -p /home/ops/.ssh && \
             cp /tmp/key.pub /home/ops/.ssh/authorized_keys && chown -R ops /home/ops/.ssh && \
             cat /tmp/key",
        )
        .await;
    let credential = SshCredential::PrivateKey(Sensitive::new(format!("{key}\n")));
    let host = SshAccess::new(machine.target(), &credential, SshTimings::default()).unwrap();
    host.check().await.unwrap();

    let error = open(machine.target(), "wrong").check().await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    assert!(!format!("{error:?}").contains("wrong"), "{error:?}");

    let plain = SshTarget {
        user: "plain".into(),
        ..machine.target()
    };
    let plain = open(plain, "plain-pw");
    let output = plain.exec(HostCommand::new("id -un")).await.unwrap();
    assert_eq!(output.stdout, "plain\n");
    let error = plain.exec(HostCommand::new("id").as_root()).await;
    let error = error.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    assert!(error.hint().is_some_and(|h| h.contains("`plain`")));
}

#[tokio::test]
async fn rejects_a_host_with_another_key() {
    let mut machine = TestHost::alone().await;
    let unknown = SshTarget {
        host_keys: Vec::new(),
        ..machine.target()
    };
    let error = open(unknown, "ops-pw").check().await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");

    let before = machine.target();
    machine.renew_host_keys().await;
    let target = SshTarget {
        address: machine.address,
        ..before
    };
    let error = open(target, "ops-pw").check().await.unwrap_err();
    let Error::Denied {
        what, why, hint, ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert!(what.contains("vm1"), "{what}");
    assert!(why.contains("key changed"), "{why}");
    assert_eq!(why.matches("SHA256:").count(), 2, "{why}");
    assert!(hint.contains("another machine responds"), "{hint}");
    open(machine.target(), "ops-pw").check().await.unwrap();

    // If the pinned key is an RSA key, the server must offer its RSA key.
    let rsa_only = SshTarget {
        host_keys: vec![machine.exec("cat /etc/ssh/ssh_host_rsa_key.pub").await],
        ..machine.target()
    };
    open(rsa_only, "ops-pw").check().await.unwrap();
}

#[tokio::test]
async fn forwards_connections_through_the_host() {
    let machine = TestHost::bare().await;
    let host = machine.access();
    let target = ForwardTarget::Tcp {
        host: "127.0.0.1".into(),
        port: 22,
    };
    let mut stream = host.connect(target).await.unwrap();
    let mut greeting = [0; 8];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"SSH-2.0-");

    let absent = ForwardTarget::Unix {
        path: "/run/absent.sock".into(),
    };
    let Err(error) = host.connect(absent).await else {
        panic!("connecting to an absent socket succeeded");
    };
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}
