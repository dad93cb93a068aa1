//! The route from the node to the agent's network namespace: a veth pair between them, and the
//! routes on both sides. A fallback route remains on the node when no agent is there.

use std::fmt::Display;
use std::net::Ipv4Addr;
use std::os::fd::RawFd;

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope, RouteType};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::error::{Error, Result};
use crate::network::Block;

/// The kernel's table of local addresses.
const LOCAL: u32 = 255;

/// `EEXIST`: the object already exists.
const EXISTS: i32 = -17;

/// `ESRCH`: the route does not exist.
const NO_ROUTE: i32 = -3;

/// The prefix length of the veth pair's addresses.
const PAIR: u8 = 30;

/// The protocol of fallback routes. The kernel does not interpret the number; it only identifies routes
/// that the platform created.
const FALLBACK: RouteProtocol = RouteProtocol::Other(0x6c);

/// The metric of fallback routes. Every other route to the block is preferred.
const LAST: u32 = u32::MAX - 1;

type Done = std::result::Result<(), rtnetlink::Error>;

/// The veth pair of one block. Names and addresses are derived from the block, so that an agent can
/// replace the pair of a killed agent.
#[derive(Debug, Clone)]
pub(super) struct Link {
    block: Block,
    on_node: String,
    inside: String,
    node: Ipv4Addr,
    agent: Ipv4Addr,
}

impl Link {
    /// Returns the pair for `block`. The addresses are link-local (RFC 3927). The third byte is at
    /// least 192, to avoid 169.254.169.0/24, which clouds use.
    pub(super) fn of(block: Block) -> Self {
        let [a, b, c, _] = block.base().octets();
        let pair = |last: u8| {
            let third = 192 + (a ^ b) % 60;
            Ipv4Addr::new(169, 254, third, (c & 0xf8) | last)
        };
        let number = format!("{a:02x}{b:02x}{c:02x}");
        Self {
            block,
            on_node: format!("lifecycle{number}"),
            inside: format!("services{number}"),
            node: pair(1),
            agent: pair(2),
        }
    }

    /// Creates the pair: one end on the node, and the other in the namespace `network`. Must run on
    /// the node.
    pub(super) async fn connect(&self, network: RawFd) -> Result<()> {
        self.netlink(async |handle| {
            let fallback = handle.route().add(self.fallback());
            fallback.replace().execute().await?;
            // The interface of a killed agent may still exist: it disappears only when the kernel
            // has deleted the namespace.
            if let Some(left) = index(&handle, &self.on_node).await? {
                handle.link().del(left).execute().await?;
            }
            let pair = LinkVeth::new(&self.on_node, &self.inside).build();
            handle.link().add(pair).execute().await?;
            let inside = LinkUnspec::new_with_name(&self.inside).setns_by_fd(network);
            handle.link().set(inside.build()).execute().await?;
            up(&handle, &self.on_node, self.node).await
        })
        .await
    }

    /// Accepts traffic for the block. Must run in the agent's namespace.
    pub(super) async fn accept_block(&self) -> Result<()> {
        self.netlink(async |handle| {
            let Some(loopback) = index(&handle, "lo").await? else {
                return Err(rtnetlink::Error::RequestFailed);
            };
            let enable = LinkUnspec::new_with_index(loopback).up().build();
            handle.link().set(enable).execute().await?;
            up(&handle, &self.inside, self.agent).await?;
            let local = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(self.block.base(), self.block.prefix())
                .output_interface(loopback)
                .table_id(LOCAL)
                .kind(RouteType::Local)
                .scope(RouteScope::Host)
                .protocol(RouteProtocol::Static)
                .build();
            handle.route().add(local).replace().execute().await?;
            let back = RouteMessageBuilder::<Ipv4Addr>::new()
                .gateway(self.node)
                .protocol(RouteProtocol::Static)
                .build();
            handle.route().add(back).replace().execute().await
        })
        .await
    }

    /// Routes the block to the agent's namespace. Must run on the node.
    pub(super) async fn add_route(&self) -> Result<()> {
        self.netlink(async |handle| {
            let there = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(self.block.base(), self.block.prefix())
                .gateway(self.agent)
                .protocol(RouteProtocol::Static)
                .build();
            handle.route().add(there).replace().execute().await
        })
        .await
    }

    /// Returns the route that rejects traffic to the block while there is no route to an agent. Without
    /// it, queries for the names of services would leave the node.
    fn fallback(&self) -> RouteMessage {
        RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(self.block.base(), self.block.prefix())
            .kind(RouteType::Unreachable)
            .priority(LAST)
            .protocol(FALLBACK)
            .build()
    }

    /// Removes the pair and its routes. Succeeds if they do not exist.
    pub(super) async fn remove(&self) -> Result<()> {
        self.netlink(async |handle| {
            if let Some(link) = index(&handle, &self.on_node).await? {
                handle.link().del(link).execute().await?;
            }
            match handle.route().del(self.fallback()).execute().await {
                Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == NO_ROUTE => {
                    Ok(())
                }
                removed => removed,
            }
        })
        .await
    }

    async fn netlink(&self, change: impl AsyncFnOnce(Handle) -> Done) -> Result<()> {
        let what = || format!("routing {} to the agent", self.block);
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| Error::io(what(), error))?;
        let connection = tokio::spawn(connection);
        let changed = change(handle).await;
        connection.abort();
        let denied = |why: &dyn Display| Error::Denied {
            what: what(),
            why: why.to_string(),
            hint: "run the agent in the node's own network, with the capabilities NET_ADMIN and \
                   SYS_ADMIN"
                .into(),
        };
        changed.map_err(|error| denied(&error))
    }
}

async fn index(handle: &Handle, name: &str) -> std::result::Result<Option<u32>, rtnetlink::Error> {
    // List all interfaces: a lookup by name would report a missing interface as a generic error.
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await? {
        let named = link.attributes.iter().any(|attribute| {
            matches!(attribute, rtnetlink::packet_route::link::LinkAttribute::IfName(its) if its == name)
        });
        if named {
            return Ok(Some(link.header.index));
        }
    }
    Ok(None)
}

/// Sets an interface's address and enables it.
async fn up(handle: &Handle, name: &str, address: Ipv4Addr) -> Done {
    let Some(link) = index(handle, name).await? else {
        return Err(rtnetlink::Error::RequestFailed);
    };
    let added = handle
        .address()
        .add(link, address.into(), PAIR)
        .execute()
        .await;
    match added {
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == EXISTS => {}
        added => added?,
    }
    let enable = LinkUnspec::new_with_index(link).up().build();
    handle.link().set(enable).execute().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_blocks_use_different_veth_pairs() {
        let links = [
            "10.210.0.0/16",
            "10.211.0.0/16",
            "172.30.0.0/16",
            "10.210.8.0/24",
        ]
        .map(|block| Link::of(block.parse().unwrap()));
        for (place, link) in links.iter().enumerate() {
            assert!(
                link.on_node.len() < 16 && link.inside.len() < 16,
                "{link:?}"
            );
            for other in &links[..place] {
                assert_ne!(link.node, other.node);
                assert_ne!(link.on_node, other.on_node);
            }
            assert_ne!(link.node.octets()[2], 169, "reserved by clouds");
        }
    }
}
