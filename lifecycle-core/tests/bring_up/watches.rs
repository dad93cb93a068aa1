//! Tests that programs keep the endpoints of services and the events through an outage of the manager.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use lifecycle_core::Error;
use lifecycle_core::api::EndpointList;
use lifecycle_core::api::tail::{self, EventOptions};
use lifecycle_core::model::ServiceName;
use lifecycle_core::platform::OverrideChange;
use tokio::time::timeout;

use crate::stage::Stage;

/// A long time for the simulation.
const AT_MOST: Duration = Duration::from_mins(10);

async fn has(list: &mut EndpointList, count: usize) {
    let changed = async {
        while list.current().len() != count {
            list.changed().await;
        }
    };
    let result = timeout(AT_MOST, changed).await;
    assert!(result.is_ok(), "not {count}: {:?}", list.current());
}

#[tokio::test(start_paused = true)]
async fn a_list_of_endpoints_is_kept_through_an_outage_of_the_manager() {
    let mut stage = Stage::new(77).await;
    stage.pin("db", "n1");
    stage.pin("api", "n2");
    stage.up().await.unwrap();
    let (api, name) = (stage.api().await, ServiceName::try_from("api").unwrap());
    let mut list = EndpointList::watch(Arc::clone(&api), name.clone())
        .await
        .unwrap();
    assert_eq!(*list.current(), *api.endpoints(&name).await.unwrap());
    assert!(api.is_ready(&name).await.unwrap());
    let follow = EventOptions {
        follow: true,
        ..EventOptions::default()
    };
    let events = tail::events(Arc::clone(&api), follow).await.unwrap();
    let events = tokio::spawn(events.try_collect::<Vec<_>>());

    // The manager's node restarts, and with it the manager.
    let bootstrapper = stage.bootstrapper().await;
    let restart = bootstrapper.restart_node(stage.declaration.id, "n1");
    restart.await.unwrap();
    assert_eq!(list.current().len(), 2);
    let more = OverrideChange::Scale(5);
    api.override_service("api", more).await.unwrap();
    has(&mut list, 5).await;
    let fewer = OverrideChange::Scale(1);
    api.override_service("api", fewer).await.unwrap();
    has(&mut list, 1).await;
    api.override_service("api", OverrideChange::Stop)
        .await
        .unwrap();
    has(&mut list, 0).await;
    assert!(!api.is_ready(&name).await.unwrap());

    let unknown = ServiceName::try_from("unknown").unwrap();
    let error = EndpointList::watch(Arc::clone(&api), unknown).await;
    assert!(matches!(error, Err(Error::NotFound { .. })), "{error:?}");

    // The events before, during and after the outage arrive once, in order, until the platform is deleted.
    stage.down().await.unwrap();
    let events = timeout(AT_MOST, events).await.unwrap().unwrap().unwrap();
    let ids: Vec<u64> = events.iter().map(|event| event.id).collect();
    let all: Vec<u64> = (ids[0]..=ids[ids.len() - 1]).collect();
    assert_eq!(ids, all);
}
