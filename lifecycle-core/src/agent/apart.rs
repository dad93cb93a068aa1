//! A network of the agent's own on its node, in which all service addresses are local. Sockets
//! at service addresses are made there, since on the node itself they would share their ports
//! with everything that listens at all of its addresses: published ports, the SSH server. A
//! socket stays in the network that it was made in, so only making it happens there.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::sync::mpsc;

use nix::sched::{CloneFlags, unshare};

use super::route;
use crate::error::{Error, Result};
use crate::network::Block;

/// Something that is done within the network.
type Job = Box<dyn FnOnce() + Send>;

/// Where sockets at service addresses are made.
#[derive(Debug)]
pub(super) enum Addresses {
    /// In the node's own network: the block leads there by itself.
    OnNode,
    /// In a network of their own, to which the block is routed.
    Apart(Apart),
}

/// A network of the agent's own. It ends with its last socket and this.
#[derive(Debug)]
pub(super) struct Apart {
    jobs: mpsc::Sender<Job>,
    network: File,
    linked: Option<Block>,
}

impl Addresses {
    /// Makes what `make` makes, where service addresses are local.
    pub(super) fn make<T: Send + 'static>(
        &self,
        make: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        match self {
            Self::OnNode => make(),
            Self::Apart(apart) => apart.run(make),
        }
    }

    /// Makes the block lead here. Repeatable.
    pub(super) async fn lead_here(&mut self, block: Block) -> Result<()> {
        match self {
            Self::OnNode => Ok(()),
            Self::Apart(apart) => apart.link(block).await,
        }
    }
}

impl Apart {
    /// A network with nothing in it.
    pub(super) fn new() -> Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (opened, network) = mpsc::channel();
        let thread = std::thread::Builder::new().name("service addresses".into());
        let spawned = thread.spawn(move || {
            let open = || {
                unshare(CloneFlags::CLONE_NEWNET)?;
                File::open("/proc/thread-self/ns/net")
            };
            let open = open();
            let goes_on = open.is_ok();
            // Fails if whoever asked is gone; then there is no job either.
            drop(opened.send(open));
            if goes_on {
                for job in queue {
                    job();
                }
            }
        });
        let denied = |why: String| Error::Denied {
            what: "a network for service addresses".into(),
            why,
            hint: "the agent needs the capabilities NET_ADMIN and SYS_ADMIN".into(),
        };
        spawned.map_err(|error| denied(error.to_string()))?;
        let network = network.recv().map_err(|error| denied(error.to_string()))?;
        Ok(Self {
            jobs,
            network: network.map_err(|error| denied(error.to_string()))?,
            linked: None,
        })
    }

    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (done, result) = mpsc::sync_channel(1);
        let job: Job = Box::new(move || drop(done.send(job())));
        let ended = || io::Error::other("the thread of the service addresses has ended");
        self.jobs.send(job).map_err(|_| ended())?;
        result.recv().map_err(|_| ended())?
    }

    /// Connects the node with this network, and routes the block through the connection.
    async fn link(&mut self, block: Block) -> Result<()> {
        if self.linked == Some(block) {
            return Ok(());
        }
        let link = route::Link::of(block);
        link.connect(self.network.as_raw_fd()).await?;
        let inside = link.clone();
        self.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .build()?;
            runtime
                .block_on(inside.receive())
                .map_err(|error| io::Error::other(error.chain()))
        })
        .map_err(|error| Error::io(format!("receiving {block}"), error))?;
        link.lead().await?;
        if let Some(former) = self.linked.take() {
            route::Link::of(former).remove().await?;
        }
        self.linked = Some(block);
        Ok(())
    }
}
