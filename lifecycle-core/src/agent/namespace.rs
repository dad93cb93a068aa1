//! The agent's own network namespace on its node, in which all service addresses are local. On the
//! node itself, sockets for service addresses would conflict with programs that listen on all
//! addresses, such as the SSH server. A socket stays in the namespace that it was created in, so
//! tasks outside the namespace can use it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::mpsc;

use nix::sched::{CloneFlags, setns, unshare};

use super::route;
use crate::error::{Error, Result};
use crate::network::Block;

/// A function that runs in the namespace.
type Job = Box<dyn FnOnce() + Send>;

/// The network in which sockets for service addresses are created.
#[derive(Debug)]
pub(super) enum Addresses {
    /// The node's own network, for a block that is local there (within 127.0.0.0/8).
    OnNode,
    /// A separate network namespace, to which the block is routed.
    Namespace(Namespace),
}

/// The agent's network namespace. The kernel deletes it after this value is dropped and the last
/// socket in the namespace is closed.
#[derive(Debug)]
pub(super) struct Namespace {
    jobs: mpsc::Sender<Job>,
    network: File,
    linked: Option<Block>,
}

impl Addresses {
    /// Runs `make` in the network in which service addresses are local, and returns what `make`
    /// creates.
    pub(super) fn make<T: Send + 'static>(
        &self,
        make: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        match self {
            Self::OnNode => make(),
            Self::Namespace(namespace) => namespace.run(make),
        }
    }

    /// Returns the namespace, and the block that is routed to it.
    pub(super) fn namespace(&self) -> Option<(BorrowedFd<'_>, Option<Block>)> {
        match self {
            Self::OnNode => None,
            Self::Namespace(namespace) => Some((namespace.network.as_fd(), namespace.linked)),
        }
    }

    /// Routes the block to the namespace. The call may be repeated.
    pub(super) async fn route_here(&mut self, block: Block) -> Result<()> {
        match self {
            Self::OnNode => Ok(()),
            Self::Namespace(namespace) => namespace.link(block).await,
        }
    }
}

impl Namespace {
    /// Creates an empty namespace.
    pub(super) fn new() -> Result<Self> {
        let enter = || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        };
        Self::with(enter, None)
    }

    /// Continues with the namespace of the previous agent. `linked` is the block that is routed to
    /// it.
    pub(super) fn of_previous(network: OwnedFd, linked: Option<Block>) -> Result<Self> {
        let enter = || {
            setns(&network, CloneFlags::CLONE_NEWNET)?;
            Ok(network.into())
        };
        Self::with(enter, linked)
    }

    /// Starts the thread in the namespace. `enter` moves the thread there.
    fn with(
        enter: impl FnOnce() -> io::Result<File> + Send + 'static,
        linked: Option<Block>,
    ) -> Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (opened, network) = mpsc::channel();
        let thread = std::thread::Builder::new().name("service addresses".into());
        let spawned = thread.spawn(move || {
            let open = enter();
            let goes_on = open.is_ok();
            // Sending fails only if the caller has gone. Then no job follows.
            drop(opened.send(open));
            if goes_on {
                for job in queue {
                    job();
                }
            }
        });
        let denied = |why: String| Error::Denied {
            what: "creating a network for service addresses".into(),
            why,
            hint: "give the agent's container the capabilities NET_ADMIN and SYS_ADMIN".into(),
        };
        spawned.map_err(|error| denied(error.to_string()))?;
        let network = network.recv().map_err(|error| denied(error.to_string()))?;
        Ok(Self {
            jobs,
            network: network.map_err(|error| denied(error.to_string()))?,
            linked,
        })
    }

    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (done, result) = mpsc::sync_channel(1);
        let job: Job = Box::new(move || drop(done.send(job())));
        let ended = || io::Error::other("the thread for service addresses has ended");
        self.jobs.send(job).map_err(|_| ended())?;
        result.recv().map_err(|_| ended())?
    }

    /// Connects the node with the namespace, and routes the block through this connection.
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
                .block_on(inside.accept_block())
                .map_err(|error| io::Error::other(error.chain()))
        })
        .map_err(|error| Error::io(format!("receiving the traffic for {block}"), error))?;
        link.add_route().await?;
        if let Some(previous) = self.linked.take() {
            route::Link::of(previous).remove().await?;
        }
        self.linked = Some(block);
        Ok(())
    }
}
