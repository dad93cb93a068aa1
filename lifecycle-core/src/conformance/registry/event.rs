//! Checks for events: their ids, pages, and pruning.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::sample::{at, event, instance_id, put_node};
use super::{joined, lead, page, together};
use crate::error::{Error, Result};
use crate::model::{Event, NewEvent, Subject};
use crate::registry::{Batch, EventPage, Registry};

/// # Panics
/// If events are changed, or pages omit some.
pub async fn events_are_read_in_pages(registry: &dyn Registry) -> Result<()> {
    let epoch = lead(registry).await?;
    let mut recorded = Vec::new();
    for n in 0..5 {
        let batch = Batch::default()
            .event(NewEvent {
                data: serde_json::json!({"n": n, "text": "ä \"quoted\"", "none": null}),
                subject: Subject::Instance(instance_id("db", 1)?),
                ..event(&format!("event {n}"), n)
            })
            .event(event("another", n));
        recorded.extend(registry.commit(epoch, batch).await?.events);
    }
    let ids: Vec<u64> = recorded.iter().map(|event| event.id).collect();
    assert_eq!(ids, (1..=10).collect::<Vec<u64>>());
    let mut read = Vec::new();
    loop {
        match page(registry, read.len() as u64, 4).await? {
            more if more.is_empty() => break,
            more => {
                assert!(more.len() <= 4);
                read.extend(more);
            }
        }
    }
    assert_eq!(read, recorded);
    assert_eq!(page(registry, 10, 4).await?, Vec::new());
    assert_eq!(page(registry, 0, 0).await?, Vec::new());
    for unknown in [11, u64::MAX] {
        assert_eq!(
            registry.events(unknown, 4).await?,
            EventPage::Gone { oldest: 1 },
            "a cursor beyond the last event must be rejected: a reader with this cursor would miss \
             events until their ids reach it"
        );
    }
    Ok(())
}

/// # Panics
/// If too much or too little is pruned, or a reader can miss pruned events without noticing.
pub async fn pruned_events_are_reported_as_gone(registry: &dyn Registry) -> Result<()> {
    let epoch = lead(registry).await?;
    // The third event has an earlier time than the second, as happens with events of long
    // operations.
    for second in [1, 3, 2, 4, 5, 6] {
        let batch = Batch::default().event(event("recorded", second));
        registry.commit(epoch, batch).await?;
    }
    let ids =
        |events: Vec<Event>| -> Vec<u64> { events.into_iter().map(|event| event.id).collect() };
    registry.prune_events(at(3), 6).await?;
    assert_eq!(
        registry.events(0, 10).await?,
        EventPage::Gone { oldest: 2 },
        "pruning must remove only the oldest events, without gaps"
    );
    assert_eq!(ids(page(registry, 1, 10).await?), [2, 3, 4, 5, 6]);
    registry.prune_events(at(0), 4).await?;
    assert_eq!(registry.events(1, 10).await?, EventPage::Gone { oldest: 3 });
    assert_eq!(ids(page(registry, 2, 10).await?), [3, 4, 5, 6]);
    registry.prune_events(at(3), 4).await?;
    assert_eq!(ids(page(registry, 3, 10).await?), [4, 5, 6]);
    registry.prune_events(at(100), 4).await?;
    assert_eq!(registry.events(5, 10).await?, EventPage::Gone { oldest: 7 });
    assert_eq!(page(registry, 6, 10).await?, Vec::new());
    let batch = Batch::default().event(event("after", 7));
    let next = registry.commit(epoch, batch).await?;
    assert_eq!(ids(next.events), [7], "ids must not be reused");
    assert_eq!(ids(page(registry, 6, 10).await?), [7]);
    registry.prune_events(at(0), 0).await?;
    assert_eq!(registry.events(0, 10).await?, EventPage::Gone { oldest: 8 });
    Ok(())
}

/// # Panics
/// If concurrent writers cause a duplicate id, a skipped id, or an event that a reader misses.
pub async fn event_ids_increase_by_one(registry: Arc<dyn Registry>) -> Result<()> {
    const COMMITTERS: u32 = 16;
    const COMMITS: u32 = 8;
    let epoch = lead(&*registry).await?;
    let committers = (0..COMMITTERS).map(|committer| {
        let registry = Arc::clone(&registry);
        async move {
            let mut last = 0;
            for n in 0..COMMITS {
                let batch = Batch::of(put_node(&format!("n-{committer}-{n}"))?)
                    .event(event(&format!("{committer} {n} a"), n))
                    .event(event(&format!("{committer} {n} b"), n));
                let committed = registry.commit(epoch, batch).await?.events;
                assert_eq!(
                    committed[1].id,
                    committed[0].id + 1,
                    "the events of a batch must be consecutive"
                );
                assert!(
                    committed[0].id > last,
                    "ids must increase in the order of commits"
                );
                last = committed[1].id;
            }
            Ok(())
        }
    });
    let reader = {
        let registry = Arc::clone(&registry);
        async move {
            let mut seen = Vec::new();
            while seen.len() < (COMMITTERS * COMMITS * 2) as usize {
                let more = page(&*registry, seen.len() as u64, 1000).await?;
                for event in more {
                    assert_eq!(
                        event.id,
                        seen.len() as u64 + 1,
                        "no event may be inserted later"
                    );
                    seen.push(event);
                }
                tokio::task::yield_now().await;
            }
            Ok::<_, Error>(seen)
        }
    };
    let reader = tokio::spawn(reader);
    together(committers).await?;
    let ended = tokio::time::timeout(Duration::from_mins(1), reader).await;
    assert!(ended.is_ok(), "the reader has not seen every event");
    let mut seen = Vec::new();
    if let Ok(ended) = ended {
        seen = joined(ended)??;
    }
    let messages: BTreeSet<&str> = seen.iter().map(|e| e.event.message.as_str()).collect();
    assert_eq!(messages.len(), seen.len());
    assert_eq!(registry.snapshot().await?.nodes.len(), 128);
    Ok(())
}
