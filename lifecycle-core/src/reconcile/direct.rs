//! Waits for the connections to a container that do not pass an agent: those to its published ports.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::endpoints::published_ports;
use crate::host::{HostCommand, NodeHandle};
use crate::model::ContainerId;
use crate::runtime::ObservedContainer;

/// How often the connections are counted. The kernel does not report their ends.
const COUNT_EVERY: Duration = Duration::from_millis(200);

/// Waits until a container has no open connections to its published ports, at most until `until`. If
/// they cannot be counted, does not wait.
pub(super) async fn connections_end(
    handle: &NodeHandle,
    container: &ContainerId,
    until: Instant,
    progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
) {
    let observed = handle.runtime.container(&container.0).await;
    // A container that joins a network is reached at the ports of the container that has it.
    let observed = match observed {
        Ok(Some(ObservedContainer {
            joins: Some(joined),
            ..
        })) => handle.runtime.container(&joined.0).await,
        observed => observed,
    };
    let ports = match observed {
        Ok(observed) => observed.map(|observed| published_ports(&observed)),
        Err(error) => {
            tracing::warn!(%container, error = %error.chain(),
                "cannot find the published ports of a container");
            return;
        }
    };
    let Some(ports) = ports.filter(|ports| !ports.is_empty()) else {
        return;
    };
    let script = script(container, &ports);
    let mut shown = None;
    while Instant::now() < until {
        let counted = handle.host.exec(HostCommand::new(&script).as_root()).await;
        let open = match counted.and_then(|output| output.success("counting connections")) {
            // There is no output if the container has no process.
            Ok(output) => output.trim().parse::<u64>().unwrap_or_default(),
            Err(error) => {
                tracing::warn!(%container, error = %error.chain(),
                    "cannot count the connections to published ports");
                return;
            }
        };
        if open == 0 {
            return;
        }
        if shown != Some(open) {
            progress(&match open {
                1 => "waits for 1 connection to a published port to end".to_owned(),
                open => format!("waits for {open} connections to published ports to end"),
            });
            shown = Some(open);
        }
        sleep(COUNT_EVERY).await;
    }
}

/// Returns a script that counts the connections in the container's network namespace, as listed in
/// `/proc/net/tcp` (see proc(5)): those that are being established (state 3), are open (1), that the
/// client has closed (8), and those with data that the client has not received yet (4, 9).
fn script(container: &ContainerId, ports: &BTreeSet<u16>) -> String {
    let local: Vec<String> = ports.iter().map(|port| format!("{port:04X}")).collect();
    let local = local.join("|");
    format!(
        "group=$(grep -ls '{container}' /proc/[0-9]*/cgroup | head -n 1)
         test -z \"$group\" || cat \"${{group%cgroup}}net/tcp\" \"${{group%cgroup}}net/tcp6\" | \
         grep -cE '^ *[0-9]+: [0-9A-F]+:({local}) [0-9A-F]+:[0-9A-F]+ (01|03|04|08|09) ' || true"
    )
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::process::Command;

    use super::*;

    #[test]
    fn counts_the_connections_to_the_given_ports() {
        let listen = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let (one, two, other) = (listen(), listen(), listen());
        // Each process is in a control group whose line contains this text.
        let everything = ContainerId(":".into());
        let count = || {
            let script = script(&everything, &[port(&one), port(&two)].into());
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(count(), "0\n");
        let connect = |listener| TcpStream::connect((Ipv4Addr::LOCALHOST, port(listener))).unwrap();
        let _open = [connect(&one), connect(&two), connect(&other)];
        // Nobody has accepted these connections yet.
        assert_eq!(count(), "2\n");
        let gone = script(&ContainerId("no such container".into()), &[80].into());
        let output = Command::new("sh").args(["-c", &gone]).output().unwrap();
        assert!(
            output.status.success() && output.stdout.is_empty(),
            "{output:?}"
        );
    }
}
