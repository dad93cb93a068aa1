//! Checks for ports that are reachable from outside.

use super::{
    Checked, CloudBench, Subject, done, ensure, ensure_eq, is_not_found, is_unsupported, list,
};
use crate::cloud::{CloudProvider, Firewall};
use crate::model::{NodeName, Protocol, PublicPort, PublicPorts};

fn ports(ports: &[(u16, Protocol)]) -> PublicPorts {
    let ports = ports.iter();
    ports
        .map(|(port, protocol)| PublicPort {
            port: *port,
            protocol: *protocol,
        })
        .collect()
}

async fn set(cloud: &dyn CloudProvider, node: &NodeName, ports: &PublicPorts) -> Checked {
    let what = format!("opening [{ports}] of {node}");
    done(what, cloud.set_public_ports(node, ports).await)
}

/// Checks that `get` and `list` of any provider of the platform show these ports of the node.
async fn shows(
    bench: &dyn CloudBench,
    node: &NodeName,
    ports: &PublicPorts,
    after: &str,
) -> Checked {
    let other = bench.ours();
    let node = done("get", other.get(node).await)?;
    let listed = list(other.as_ref()).await?;
    for seen in listed
        .iter()
        .filter(|one| Some(&one.name) == node.as_ref().map(|n| &n.name))
        .chain(&node)
    {
        ensure!(
            seen.open_ports.are(ports),
            "{after}: the open ports must be [{ports}]: {seen:?}"
        );
    }
    Ok(())
}

/// Checks that exactly the requested ports of a node are open, until they change or the node is
/// deleted. Without a managed firewall, the request must return `Unsupported`.
pub async fn public_ports_are_opened_and_closed(bench: &dyn CloudBench) -> Checked {
    let (ours, theirs, [first, second]) = (bench.ours(), bench.theirs(), bench.nodes());
    let (closed, web) = (ports(&[]), ports(&[(8080, Protocol::Tcp)]));
    let node = Subject::new(ours.as_ref(), &first);
    node.done(node.provision()).await?;
    if ours.capabilities().firewall != Firewall::Managed {
        let outcome = ours.set_public_ports(&first.name, &web).await;
        ensure!(
            outcome.as_ref().is_err_and(is_unsupported),
            "without a managed firewall, set_public_ports must return Unsupported, but returned \
             {outcome:?}"
        );
        shows(bench, &first.name, &closed, "no ports can be opened").await?;
        return node.remove().await;
    }
    let absent = ours.set_public_ports(&second.name, &web).await;
    ensure!(
        absent.as_ref().is_err_and(is_not_found),
        "opening ports of an absent node must return NotFound, but returned {absent:?}"
    );
    let foreign = theirs.set_public_ports(&first.name, &web).await;
    ensure!(
        foreign.as_ref().is_err_and(is_not_found),
        "opening ports of another platform's node must return NotFound, but returned {foreign:?}"
    );
    shows(bench, &first.name, &closed, "a new node").await?;

    let other = Subject::new(ours.as_ref(), &second);
    other.done(other.provision()).await?;
    let both = ports(&[
        (8080, Protocol::Tcp),
        (5353, Protocol::Udp),
        (443, Protocol::Tcp),
    ]);
    for desired in [&both, &both, &web] {
        set(ours.as_ref(), &first.name, desired).await?;
        shows(bench, &first.name, desired, "opened").await?;
        shows(
            bench,
            &second.name,
            &closed,
            "ports of another node were opened",
        )
        .await?;
    }
    set(ours.as_ref(), &second.name, &both).await?;
    shows(bench, &second.name, &both, "opened").await?;
    let before = node.get().await?;
    node.done(node.stop()).await?;
    shows(bench, &first.name, &web, "stopped").await?;
    set(ours.as_ref(), &first.name, &closed).await?;
    shows(bench, &first.name, &closed, "closed while stopped").await?;
    node.done(node.start()).await?;
    ensure_eq!(
        node.get().await?.provider_id,
        before.provider_id,
        "after a start"
    );
    set(ours.as_ref(), &first.name, &web).await?;

    node.remove().await?;
    shows(bench, &second.name, &both, "another node was deleted").await?;
    node.done(node.provision()).await?;
    shows(bench, &first.name, &closed, "created again").await?;
    node.remove().await?;
    other.remove().await?;
    done("delete_shared", ours.delete_shared().await)
}
