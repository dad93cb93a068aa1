//! Checks that commits are atomic and consistent, and require the current epoch.

use std::sync::Arc;

use super::sample::{
    at, bare_node, declaration, declare, endpoint, event, node_name, operation, operation_id,
    populate, put_node, ready_instance,
};
use super::{Backend, conflict, held, joined, lead, node_names, page, stale};
use crate::error::Result;
use crate::model::{
    ContainerId, Epoch, Generation, InstanceRecord, InstanceState, OperationState, Protocol,
    Replica,
};
use crate::registry::{Batch, Change, EventPage, Lease, Registry, Snapshot};
use crate::secret::Sensitive;

/// # Panics
/// If a new registry contains anything.
pub async fn a_new_registry_is_empty(registry: &dyn Registry) -> Result<()> {
    assert_eq!(registry.snapshot().await?, Snapshot::default());
    assert_eq!(
        registry.events(0, 10).await?,
        EventPage::Events(Vec::new()),
        "no events exist yet, so none are gone"
    );
    assert_eq!(registry.open_operations().await?, Vec::new());
    assert_eq!(registry.credential("read-token").await?, None);
    assert!(registry.tokens().await?.is_empty());
    assert_eq!(registry.operation(operation_id(1)).await?, None);
    registry.prune_events(at(0), 0).await
}

/// # Panics
/// If a part of a failed batch is recorded.
pub async fn a_batch_is_atomic(registry: &dyn Registry) -> Result<()> {
    let epoch = lead(registry).await?;
    registry.commit(epoch, Batch::of(put_node("a")?)).await?;
    let before = registry.snapshot().await?;
    let batch = Batch {
        changes: vec![
            declare(None, &declaration("one")?),
            put_node("b")?,
            Change::PutInstance(Box::new(ready_instance("db", 1, "c1")?)),
            Change::PutOperation(operation(1, 0, OperationState::Running)),
            Change::PutCredential {
                name: "read-token".into(),
                credential: Sensitive::new("00"),
            },
            Change::MarkFirstRoundDone,
            declare(Some(Generation(7)), &declaration("two")?),
            put_node("c")?,
        ],
        events: vec![event("never", 0)],
    };
    conflict(&registry.commit(epoch, batch).await);
    assert_eq!(registry.snapshot().await?, before);
    assert_eq!(registry.operation(operation_id(1)).await?, None);
    assert_eq!(registry.credential("read-token").await?, None);
    assert_eq!(registry.events(0, 10).await?, EventPage::Events(Vec::new()));
    let next = registry
        .commit(epoch, Batch::default().event(event("first", 0)))
        .await?;
    let ids: Vec<u64> = next.events.iter().map(|event| event.id).collect();
    assert_eq!(ids, [1], "a failed batch must not use event ids");
    Ok(())
}

/// # Panics
/// If a previous leader, or a process that never was the leader, can write.
pub async fn a_stale_epoch_is_rejected(backend: &dyn Backend) -> Result<()> {
    let registry = backend.fresh().await?;
    let first = held(registry.acquire_lease("first", backend.ttl()).await?);
    registry.commit(first, Batch::of(put_node("a")?)).await?;
    let early = Epoch(first.0 + 1);
    stale(
        registry.commit(early, Batch::of(put_node("b")?)).await,
        early,
        first,
    );
    registry.release_lease("first").await?;
    let second = held(registry.acquire_lease("second", backend.ttl()).await?);
    let batch = Batch::of(put_node("b")?).event(event("late", 0));
    stale(registry.commit(first, batch).await, first, second);
    stale(
        registry.commit(first, Batch::default()).await,
        first,
        second,
    );
    let nodes: Vec<String> = node_names(&registry.snapshot().await?);
    assert_eq!(nodes, ["a"]);
    assert_eq!(registry.events(0, 10).await?, EventPage::Events(Vec::new()));
    Ok(())
}

/// # Panics
/// If the epoch is not raised, is lowered, or if the lease changes its holder.
pub async fn an_epoch_is_raised(backend: &dyn Backend) -> Result<()> {
    let registry = backend.fresh().await?;
    let first = held(registry.acquire_lease("first", backend.ttl()).await?);
    let later = Epoch(first.0 + 5);
    let raise = |above| Batch::of(Change::RaiseEpoch { above }).event(event("raised", 0));
    let committed = registry.commit(first, raise(later)).await?;
    assert_eq!(committed.events.len(), 1);
    let next = later.next();
    stale(registry.commit(first, Batch::default()).await, first, next);
    let lease = registry.acquire_lease("first", backend.ttl()).await?;
    assert_eq!(lease, Lease::Held(next), "the holder keeps the lease");
    registry.commit(next, raise(first)).await?;
    let lease = registry.acquire_lease("first", backend.ttl()).await?;
    assert_eq!(lease, Lease::Held(next), "an epoch is never lowered");
    registry.release_lease("first").await?;
    let lease = registry.acquire_lease("second", backend.ttl()).await?;
    assert_eq!(lease, Lease::Held(next.next()));
    Ok(())
}

/// # Panics
/// If the changes of a batch are not applied in order.
pub async fn changes_apply_in_order(registry: &dyn Registry) -> Result<()> {
    let epoch = lead(registry).await?;
    let batch = Batch {
        changes: vec![
            put_node("a")?,
            put_node("b")?,
            Change::DeleteNode(node_name("b")?),
            Change::DeleteNode(node_name("c")?),
            put_node("c")?,
        ],
        events: Vec::new(),
    };
    registry.commit(epoch, batch).await?;
    assert_eq!(node_names(&registry.snapshot().await?), ["a", "c"]);
    let mut later = bare_node("a")?;
    later.host_keys.push("ssh-ed25519 AAAA".into());
    let batch = Batch {
        changes: vec![
            Change::DeleteNode(node_name("a")?),
            put_node("a")?,
            Change::PutNode(Box::new(later.clone())),
            Change::DeleteNode(node_name("c")?),
        ],
        events: Vec::new(),
    };
    registry.commit(epoch, batch).await?;
    let nodes: Vec<_> = registry.snapshot().await?.nodes.into_values().collect();
    assert_eq!(nodes, [later]);
    Ok(())
}

/// # Panics
/// If a snapshot is not consistent.
pub async fn a_snapshot_is_consistent(registry: Arc<dyn Registry>) -> Result<()> {
    let epoch = lead(&*registry).await?;
    let writer = Arc::clone(&registry);
    let writer = tokio::spawn(async move {
        for n in 0..40_u32 {
            let there = n % 2 == 0;
            let mut changes = Vec::new();
            for name in ["a", "b"] {
                changes.push(if there {
                    put_node(name)?
                } else {
                    Change::DeleteNode(node_name(name)?)
                });
                changes.push(if there {
                    Change::PutInstance(Box::new(ready_instance("db", 1, name)?))
                } else {
                    Change::DeleteInstance(ContainerId(name.into()))
                });
            }
            let batch = Batch {
                changes,
                events: Vec::new(),
            };
            writer.commit(epoch, batch).await?;
        }
        Ok(())
    });
    while !writer.is_finished() {
        let seen = registry.snapshot().await?;
        let endpoints: usize = seen.instances.values().map(|i| i.endpoints.len()).sum();
        let counts = (seen.nodes.len(), seen.instances.len(), endpoints);
        assert!(matches!(counts, (0, 0, 0) | (2, 2, 2)), "{counts:?}");
        tokio::task::yield_now().await;
    }
    joined(writer.await)?
}

/// # Panics
/// If a batch with thousands of changes is not recorded completely.
pub async fn a_large_batch_is_recorded(registry: &dyn Registry) -> Result<()> {
    let epoch = lead(registry).await?;
    let batch = |state: InstanceState, from| -> Result<Batch> {
        let changes = (from..5000_u32).map(|n| {
            let mut record = ready_instance("db", 1, &format!("{n:064x}"))?;
            record.id.replica = Replica(u16::try_from(n).unwrap_or(u16::MAX));
            record.state = state.clone();
            record.endpoints.push(endpoint(53, 53, Protocol::Udp));
            Ok(Change::PutInstance(Box::new(record)))
        });
        Ok(Batch {
            changes: changes.collect::<Result<_>>()?,
            events: vec![event("many", from); 3000],
        })
    };
    registry
        .commit(epoch, batch(InstanceState::Starting, 0)?)
        .await?;
    let committed = registry
        .commit(epoch, batch(InstanceState::Ready, 2500)?)
        .await?;
    assert_eq!(committed.events.last().map(|event| event.id), Some(6000));
    let snapshot = registry.snapshot().await?;
    assert_eq!(snapshot.instances.len(), 5000);
    let endpoints: usize = snapshot.instances.values().map(|i| i.endpoints.len()).sum();
    assert_eq!(endpoints, 10_000);
    let ready = |record: &&InstanceRecord| record.state == InstanceState::Ready;
    assert_eq!(snapshot.instances.values().filter(ready).count(), 2500);
    let changes = snapshot.instances.into_keys().map(Change::DeleteInstance);
    let batch = Batch {
        changes: changes.collect(),
        events: Vec::new(),
    };
    registry.commit(epoch, batch).await?;
    assert!(registry.snapshot().await?.instances.is_empty());
    assert_eq!(page(registry, 0, 10_000).await?.len(), 6000);
    Ok(())
}

/// # Panics
/// If something is lost between two processes.
pub async fn everything_is_persistent(backend: &dyn Backend) -> Result<()> {
    let registry = backend.fresh().await?;
    let epoch = held(registry.acquire_lease("before", backend.ttl()).await?);
    populate(&*registry, epoch).await?;
    let open = operation(1, 0, OperationState::Running);
    let sealed = Sensitive::new("value");
    let batch = Batch {
        changes: vec![
            Change::PutOperation(open.clone()),
            Change::PutCredential {
                name: "read-token".into(),
                credential: sealed.clone(),
            },
        ],
        events: (0..4).map(|n| event("recorded", n)).collect(),
    };
    registry.commit(epoch, batch).await?;
    registry.prune_events(at(0), 3).await?;
    let before = registry.snapshot().await?;
    registry.release_lease("before").await?;
    let Some(registry) = backend.reopen(registry).await? else {
        return Ok(());
    };
    assert_eq!(registry.snapshot().await?, before);
    assert_eq!(registry.open_operations().await?, [open]);
    assert_eq!(registry.credential("read-token").await?, Some(sealed));
    assert_eq!(registry.events(0, 9).await?, EventPage::Gone { oldest: 2 });
    assert_eq!(page(&*registry, 1, 9).await?.len(), 3);
    let after = held(registry.acquire_lease("before", backend.ttl()).await?);
    assert_eq!(
        after,
        Epoch(epoch.0 + 1),
        "a new process must get a new epoch"
    );
    stale(registry.commit(epoch, Batch::default()).await, epoch, after);
    let committed = registry
        .commit(after, Batch::default().event(event("again", 9)))
        .await?;
    assert_eq!(committed.events[0].id, 5);
    Ok(())
}
