//! Tests containers that have the labels of an instance, but that the platform did not create.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lifecycle_core::cloud::CloudProvider as _;
use lifecycle_core::host::NodeConnector as _;
use lifecycle_core::model::{ContainerTemplate, EventKind, InstanceState};
use lifecycle_core::runtime::{ContainerSpec, ContainerState};

use crate::platform::{instance, owner};
use crate::stage::Stage;

const COPY: &str = "copy-of-web";

#[tokio::test(start_paused = true)]
async fn a_container_with_another_name_is_reported_and_ignored() {
    let stage = Stage::shop(31).await;
    stage.settled().await;
    let (before, cursor) = (stage.records().await, stage.last_event().await);
    let id = instance("web", 1);
    let (on, original) = stage.place(&id);
    let owner = owner(1);
    let machine = stage.world.cloud(&owner).get(&on).await.unwrap().unwrap();
    let connector = stage.world.connector(&owner);
    let handle = connector.connect(&machine).await.unwrap();
    let images = handle.runtime.state().await.unwrap().images;
    let image = images.keys().find(|name| name.contains("web")).unwrap();
    let copy = ContainerSpec {
        name: COPY.into(),
        owner,
        role: original.role.clone(),
        digest: original.digest.clone(),
        template_digest: original.template_digest.clone(),
        image: image.clone(),
        template: ContainerTemplate::default(),
        used_volumes: BTreeSet::new(),
        ports: BTreeMap::new(),
        binds: Vec::new(),
        host_network: false,
        joins: None,
        starts_with_engine: false,
    };
    handle.runtime.ensure_container(&copy).await.unwrap();
    stage.pass(Duration::from_mins(2)).await;
    let reported = stage.events(EventKind::StrangerFound, cursor).await;
    assert_eq!(reported.len(), 1, "{reported:#?}");
    let message = &reported[0].message;
    assert!(
        message.contains(COPY) && message.contains("web-1"),
        "{message}"
    );
    assert_eq!(stage.records().await, before);

    // The copy does not count as the instance when the instance's own container ends.
    let faults = stage.world.faults();
    faults.kill_container(&on, &original.name, 1).unwrap();
    stage.pass(Duration::from_mins(1)).await;
    let record = &stage.records().await[&id];
    assert_eq!(record.state, InstanceState::Ready);
    assert_eq!(record.container, before[&id].container);
    let copy = handle.runtime.container(COPY).await.unwrap().unwrap();
    assert!(
        matches!(copy.state, ContainerState::Running { .. }),
        "{copy:?}"
    );
}
