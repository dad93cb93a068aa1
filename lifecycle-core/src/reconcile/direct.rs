//! Waits for the connections to a container that do not pass an agent: those to its published ports.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::declared::DeclaredService;
use crate::host::{HostCommand, NodeHandle};
use crate::model::ContainerId;

/// How often the connections are counted. The kernel does not report their ends.
const COUNT_EVERY: Duration = Duration::from_millis(200);

/// Waits until a container has no open connections to its published ports, at most until `until`. If
/// they cannot be counted, does not wait.
pub(super) async fn connections_end(
    handle: &NodeHandle,
    container: &ContainerId,
    service: &DeclaredService,
    until: Instant,
    progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
) {
    let ports: Vec<u16> = service.redirectable_ports().map(|port| port.1).collect();
    if ports.is_empty() {
        return;
    }
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
/// `/proc/net/tcp` (see proc(5)): those that are established, or that the client has closed.
fn script(container: &ContainerId, ports: &[u16]) -> String {
    let mut local = String::new();
    for port in ports {
        let separator = if local.is_empty() { "" } else { "|" };
        // Writing to a string does not fail.
        let _ = write!(local, "{separator}{port:04X}");
    }
    format!(
        "group=$(grep -ls '{container}' /proc/[0-9]*/cgroup | head -n 1)
         test -z \"$group\" || cat \"${{group%cgroup}}net/tcp\" \"${{group%cgroup}}net/tcp6\" | \
         grep -cE '^ *[0-9]+: [0-9A-F]+:({local}) [0-9A-F]+:[0-9A-F]+ (01|08) ' || true"
    )
}
