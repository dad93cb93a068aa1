//! Checks for leases and leadership.

use std::sync::Arc;
use std::time::Duration;

use super::sample::put_node;
use super::{Backend, held, joined, stale, together};
use crate::error::{Error, Result};
use crate::model::Epoch;
use crate::registry::{Batch, Lease, Registry};

/// # Panics
/// If the number of leaders among 16 concurrent processes is not exactly one.
pub async fn one_of_many_contenders_leads(registry: Arc<dyn Registry>) -> Result<()> {
    let ttl = Duration::from_mins(10);
    let takers = (0..16).map(|contender| {
        let registry = Arc::clone(&registry);
        async move {
            let holder = format!("contender {contender}");
            let lease = registry.acquire_lease(&holder, ttl).await?;
            Ok((holder, lease))
        }
    });
    let leases = together(takers).await?;
    let winners: Vec<&String> = leases
        .iter()
        .filter(|(_, lease)| *lease == Lease::Held(Epoch(1)))
        .map(|(holder, _)| holder)
        .collect();
    assert_eq!(winners.len(), 1, "{leases:?}");
    for (_, lease) in &leases {
        if let Lease::HeldBy { holder, .. } = lease {
            assert_eq!(holder, winners[0]);
        }
    }
    assert_eq!(
        leases
            .iter()
            .filter(|(_, l)| matches!(l, Lease::Held(_)))
            .count(),
        1
    );
    Ok(())
}

/// # Panics
/// If a lease expires early or late, or if an epoch is used twice.
pub async fn a_lease_is_renewed_released_and_taken_over(backend: &dyn Backend) -> Result<()> {
    let registry = backend.fresh().await?;
    let ttl = backend.ttl();
    let first = held(registry.acquire_lease("first", ttl).await?);
    assert_eq!(held(registry.acquire_lease("first", ttl).await?), first);
    let until = match registry.acquire_lease("second", ttl).await? {
        Lease::HeldBy { holder, until } => {
            assert_eq!(holder, "first");
            until
        }
        Lease::Held(_) => panic!("there are two leaders"),
    };
    registry.release_lease("second").await?;
    backend.pass(ttl / 2).await;
    registry.acquire_lease("first", ttl).await?;
    match registry.acquire_lease("second", ttl).await? {
        Lease::HeldBy { until: later, .. } => {
            assert!(later > until, "renewing must extend the lease");
        }
        Lease::Held(_) => panic!("the lease of another holder was released"),
    }

    backend.pass(ttl + ttl / 10).await;
    registry.commit(first, Batch::default()).await?;
    assert_eq!(
        held(registry.acquire_lease("first", ttl).await?),
        first,
        "the epoch must not change without another leader in between"
    );
    backend.pass(ttl + ttl / 10).await;
    let second = held(registry.acquire_lease("second", ttl).await?);
    assert_eq!(second, Epoch(first.0 + 1));
    stale(
        registry.commit(first, Batch::default()).await,
        first,
        second,
    );
    match registry.acquire_lease("first", ttl).await? {
        Lease::HeldBy { holder, .. } => assert_eq!(holder, "second"),
        Lease::Held(_) => panic!("there are two leaders"),
    }
    registry.release_lease("second").await?;
    let third = held(registry.acquire_lease("first", ttl).await?);
    assert_eq!(third, Epoch(second.0 + 1));
    Ok(())
}

/// # Panics
/// If a new leader starts from a state that the previous leader still changes.
pub async fn a_takeover_waits_for_running_writes(registry: Arc<dyn Registry>) -> Result<()> {
    let ttl = Duration::from_mins(10);
    for round in 0..5_u32 {
        let epoch = held(registry.acquire_lease("previous", ttl).await?);
        registry.release_lease("previous").await?;
        let before = registry.snapshot().await?.nodes.len();
        let changes = (0..500).map(|n| put_node(&format!("n-{round}-{n}")));
        let batch = Batch {
            changes: changes.collect::<Result<_>>()?,
            events: Vec::new(),
        };
        let previous = Arc::clone(&registry);
        let write = tokio::spawn(async move { previous.commit(epoch, batch).await });
        // In each round, the write progresses further before the takeover.
        tokio::time::sleep(Duration::from_millis(10) * round).await;
        held(registry.acquire_lease("new", ttl).await?);
        let found = registry.snapshot().await?.nodes.len() - before;
        match joined(write.await)? {
            Ok(_) => assert_eq!(found, 500, "the takeover must wait for the write"),
            Err(Error::StaleEpoch { .. }) => assert_eq!(found, 0),
            Err(error) => return Err(error),
        }
        assert_eq!(registry.snapshot().await?.nodes.len() - before, found);
        registry.release_lease("new").await?;
    }
    Ok(())
}
