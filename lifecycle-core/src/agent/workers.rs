//! The threads that carry traffic. Each thread has its own reactor. A connection stays on one
//! thread, because waking another thread costs more than forwarding a small request.

use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::{Error, Result};

/// The difference in tasks above which a thread passes a new connection to the least busy thread.
const SLACK: usize = 4;

/// A fixed number of threads.
#[derive(Debug)]
pub(super) struct Workers {
    workers: Vec<Handle>,
    next: AtomicUsize,
}

impl Workers {
    /// Starts the threads. Dropping the guard stops the threads and their tasks.
    pub(super) fn start(count: Option<NonZeroUsize>) -> Result<(Self, DropGuard)> {
        let stop = CancellationToken::new();
        // If a thread fails to start, this guard stops the threads that were started before.
        let guard = stop.clone().drop_guard();
        let count = count
            .or_else(|| thread::available_parallelism().ok())
            .map_or(1, NonZeroUsize::get);
        let mut workers = Vec::with_capacity(count);
        for number in 0..count {
            let failed = |error| Error::io("starting a thread of the agent", error);
            let runtime = Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(failed)?;
            workers.push(runtime.handle().clone());
            let stopped = stop.clone();
            thread::Builder::new()
                .name(format!("traffic-{number}"))
                .spawn(move || runtime.block_on(stopped.cancelled()))
                .map_err(failed)?;
        }
        let next = AtomicUsize::new(0);
        Ok((Self { workers, next }, guard))
    }

    /// Runs a listener on the next thread, round-robin.
    pub(super) fn spawn_in_turn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        self.workers[turn % self.workers.len()].spawn(task)
    }

    /// Returns a thread that should take over a new connection; `None` if the calling thread should
    /// keep the connection.
    pub(super) fn less_busy(&self) -> Option<&Handle> {
        let tasks = |handle: &Handle| handle.metrics().num_alive_tasks();
        let least = self.workers.iter().min_by_key(|handle| tasks(handle))?;
        (tasks(least) + SLACK < tasks(&Handle::current())).then_some(least)
    }
}
