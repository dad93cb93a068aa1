//! The block leads to this node: what `ip route replace local BLOCK dev lo` does.

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

use crate::error::{Error, Result};
use crate::network::Block;

/// The kernel's table of local addresses.
const LOCAL: u32 = 255;

/// `ESRCH`: there is no such route.
const NO_SUCH_ROUTE: i32 = -3;

/// Makes a block's addresses the node's own. Repeatable.
pub(super) async fn ensure(block: Block) -> Result<()> {
    with_handle(block, "routing", async |handle, route| {
        handle.route().add(route).replace().execute().await
    })
    .await
}

/// Takes it back. Repeatable.
pub(super) async fn remove(block: Block) -> Result<()> {
    with_handle(
        block,
        "no longer routing",
        async |handle, route| match handle.route().del(route).execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == NO_SUCH_ROUTE => {
                Ok(())
            }
            done => done,
        },
    )
    .await
}

async fn with_handle(
    block: Block,
    doing: &str,
    change: impl AsyncFnOnce(&Handle, RouteMessage) -> Result<(), rtnetlink::Error>,
) -> Result<()> {
    let what = || format!("{doing} {block} to this node");
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| Error::io(what(), error))?;
    let connection = tokio::spawn(connection);
    let changed = async {
        let mut links = handle.link().get().match_name("lo").execute();
        let Some(loopback) = links.try_next().await? else {
            return Err(rtnetlink::Error::RequestFailed);
        };
        let route = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(block.base(), block.prefix())
            .output_interface(loopback.header.index)
            .table_id(LOCAL)
            .kind(RouteType::Local)
            .scope(RouteScope::Host)
            .protocol(RouteProtocol::Static)
            .build();
        change(&handle, route).await
    }
    .await;
    connection.abort();
    changed.map_err(|error| Error::Denied {
        what: what(),
        why: error.to_string(),
        mend: "the agent needs the capability NET_ADMIN in the node's own network".into(),
    })
}
