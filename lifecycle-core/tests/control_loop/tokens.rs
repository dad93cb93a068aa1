//! Tests the tokens of the manager's API with one manager and with two.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use lifecycle_core::Error;
use lifecycle_core::clock::Clock as _;
use lifecycle_core::manager::{Caller, Manager, NewToken};
use lifecycle_core::model::{
    ApiAccess, ApiToken, EventKind, ServiceClass, ServiceName, TokenId, TokenName, TokenRole,
    TokenScope,
};
use lifecycle_core::registry::{Batch, Change, MemoryRegistry, Registry};
use lifecycle_core::secret::{Sensitive, token_hash};
use lifecycle_core::sim::{Edge, SimOptions};

use crate::registry::{Fault, FaultyRegistry};
use crate::stage::{ADMIN, READER, Stage};

/// A token that another manager revoked is accepted no longer than this.
const REVOKED_WITHIN: Duration = Duration::from_secs(1);

fn new(name: &str, role: TokenRole) -> NewToken {
    NewToken {
        name: TokenName::try_from(name).unwrap(),
        role,
        scope: None,
        expires_in: None,
    }
}

fn admin() -> Sensitive {
    Sensitive::new(ADMIN)
}

async fn caller(manager: &Manager, token: &Sensitive) -> Option<Caller> {
    manager.tokens().authenticate(token).await.unwrap()
}

async fn listed(manager: &Manager, name: &str) -> ApiToken {
    let tokens = manager.list_tokens().await.unwrap();
    let found = tokens
        .into_iter()
        .rfind(|token| token.name.as_str() == name);
    found.unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_first_token_counts_before_a_manager_leads() {
    let stage = Stage::shop_without_manager(SimOptions::seeded(31)).await;
    let first = caller(&stage.manager, &admin()).await.unwrap();
    assert_eq!(first.role, TokenRole::Admin);
    let services = caller(&stage.manager, &Sensitive::new(READER)).await;
    let services = services.unwrap();
    assert_eq!(
        (&*services.name, services.role),
        ("services", TokenRole::Viewer)
    );
    for unknown in ["", "another", &token_hash(&admin())] {
        assert_eq!(caller(&stage.manager, &Sensitive::new(unknown)).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_accepted_until_it_is_revoked_or_expires() {
    let stage = Stage::shop(32).await;
    stage.settled().await;
    let manager = &stage.manager;
    let cursor = stage.last_event().await;

    let (stored, token) = manager
        .create_token(new("ci", TokenRole::Operator))
        .await
        .unwrap();
    let found = caller(manager, &token).await.unwrap();
    assert_eq!(found.token, TokenId::of(&token));
    assert_eq!((&*found.name, found.role), ("ci", TokenRole::Operator));
    assert_eq!(stored, listed(manager, "ci").await);
    let same = manager.create_token(new("ci", TokenRole::Viewer)).await;
    assert!(matches!(same, Err(Error::Conflict { .. })), "{same:?}");

    let revoked = manager.revoke_token("ci").await.unwrap();
    assert!(revoked.revoked_at.is_some());
    assert_eq!(caller(manager, &token).await, None);
    assert_eq!(manager.revoke_token("ci").await.unwrap(), revoked);
    let by_id = manager.revoke_token(revoked.id.as_str()).await.unwrap();
    assert_eq!(by_id, revoked);
    let unknown = manager.revoke_token("cj").await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound { .. }), "{unknown:?}");

    // The name is free again. The new token takes precedence over the revoked one.
    let short = NewToken {
        expires_in: Some(Duration::from_hours(1)),
        ..new("ci", TokenRole::Viewer)
    };
    let (_, token) = manager.create_token(short).await.unwrap();
    stage.pass(Duration::from_mins(59)).await;
    assert!(caller(manager, &token).await.is_some());
    stage.pass(Duration::from_mins(1)).await;
    assert_eq!(caller(manager, &token).await, None);

    for (kind, count) in [(EventKind::TokenCreated, 2), (EventKind::TokenRevoked, 1)] {
        let events = stage.events(kind, cursor).await;
        assert_eq!(events.len(), count, "{events:?}");
        for event in events {
            assert!(event.message.contains("token ci ("), "{}", event.message);
        }
    }
    for wrong in [
        Duration::ZERO,
        Duration::from_hours(24 * 3_651),
        Duration::MAX,
    ] {
        let rejected = manager.create_token(NewToken {
            expires_in: Some(wrong),
            ..new("never", TokenRole::Viewer)
        });
        let rejected = rejected.await.unwrap_err();
        assert!(matches!(rejected, Error::Invalid { .. }), "{rejected:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_admin_token_without_expiry_remains() {
    let stage = Stage::shop(33).await;
    stage.settled().await;
    let manager = &stage.manager;
    let short = NewToken {
        expires_in: Some(Duration::from_hours(1)),
        ..new("short", TokenRole::Admin)
    };
    manager.create_token(short).await.unwrap();
    let last = manager.revoke_token("bootstrapper").await.unwrap_err();
    assert!(matches!(last, Error::Conflict { .. }), "{last:?}");
    assert!(caller(manager, &admin()).await.is_some());
    let (_, other) = manager
        .create_token(new("other", TokenRole::Admin))
        .await
        .unwrap();
    manager.revoke_token("bootstrapper").await.unwrap();
    assert_eq!(caller(manager, &admin()).await, None);
    assert!(caller(manager, &other).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_standby_manager_and_the_next_leader_reject_revoked_tokens() {
    let mut stage = Stage::shop(34).await;
    stage.settled().await;
    let (_, other) = stage
        .manager
        .create_token(new("other", TokenRole::Admin))
        .await
        .unwrap();
    let standby = stage.next_manager();
    assert!(caller(&standby, &admin()).await.is_some());
    assert!(caller(&standby, &other).await.is_some());

    let ended = tokio::spawn({
        let (tokens, first) = (standby.tokens(), caller(&standby, &admin()).await.unwrap());
        async move { tokens.until_ended(&first).await }
    });
    stage.manager.revoke_token("bootstrapper").await.unwrap();
    stage.pass(REVOKED_WITHIN).await;
    assert_eq!(caller(&standby, &admin()).await, None);
    assert!(caller(&standby, &other).await.is_some());
    assert!(
        ended.is_finished(),
        "open streams of the token must end, too"
    );

    // The next manager gets the same first token from its hand-over.
    stage.crash().await;
    stage.start();
    stage.settled().await;
    assert_eq!(caller(&stage.manager, &admin()).await, None);
    assert!(caller(&stage.manager, &other).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_hour_of_the_last_use_is_recorded_once() {
    let stage = Stage::shop(35).await;
    stage.settled().await;
    let manager = &stage.manager;
    let (_, token) = manager
        .create_token(new("ci", TokenRole::Viewer))
        .await
        .unwrap();
    stage.pass(Duration::from_mins(5)).await;
    assert_eq!(listed(manager, "ci").await.last_used_at, None);
    let mut hours = Vec::new();
    for _ in 0..3 {
        caller(manager, &token).await.unwrap();
        stage.pass(Duration::from_mins(1)).await;
        let used = listed(manager, "ci").await.last_used_at.unwrap();
        assert_eq!(used.timestamp() % 3_600, 0, "{used}");
        hours.push(used);
        stage.pass(Duration::from_hours(1)).await;
    }
    let apart = hours.windows(2).map(|pair| (pair[1] - pair[0]).num_hours());
    assert!(apart.clone().all(|hours| hours == 1), "{hours:?}");
}

#[tokio::test(start_paused = true)]
async fn tokens_that_ended_long_ago_are_deleted() {
    let mut stage = Stage::shop_without_manager(SimOptions::seeded(36)).await;
    let now = stage.world.clock().now();
    let token = |number: u32, revoked_days_ago: Option<i64>| ApiToken {
        id: TokenId::try_from(format!("{number:016x}")).unwrap(),
        name: TokenName::try_from("sample").unwrap(),
        role: TokenRole::Viewer,
        scope: None,
        service: None,
        hash: format!("the hash of token {number}"),
        created_at: now - TimeDelta::days(40),
        expires_at: None,
        revoked_at: revoked_days_ago.map(|days| now - TimeDelta::days(days)),
        last_used_at: None,
    };
    let mut stored = vec![token(0, None), token(1, Some(31)), token(2, Some(29))];
    stored.extend((3..250).map(|number| token(number, Some(1))));
    let put = stored
        .iter()
        .map(|token| Change::PutToken(Box::new(token.clone())));
    let batch = Batch {
        changes: put.collect(),
        events: Vec::new(),
    };
    let lease = stage
        .registry
        .acquire_lease("test", Duration::from_mins(1))
        .await;
    let epoch = lease.unwrap().epoch().unwrap();
    stage.registry.commit(epoch, batch).await.unwrap();
    stage.registry.release_lease("test").await.unwrap();
    stage.start();
    stage.settled().await;

    let create = stage.manager.create_token(new("other", TokenRole::Viewer));
    create.await.unwrap();
    let tokens = stage.manager.list_tokens().await.unwrap();
    let is_listed = |number: usize| tokens.iter().any(|token| token.id == stored[number].id);
    assert_eq!(tokens.len(), 202, "{tokens:?}");
    assert!(is_listed(0) && !is_listed(1) && !is_listed(2));
    assert_eq!(tokens.last().unwrap().name.as_str(), "other");
}

#[tokio::test(start_paused = true)]
async fn requests_are_rejected_while_the_registry_does_not_answer() {
    let mut stage = Stage::shop_without_manager(SimOptions::seeded(37)).await;
    let inner: Arc<dyn Registry> = Arc::clone(&stage.registry);
    let registry = FaultyRegistry::new(inner, 0, Fault::Error(Edge::Before));
    stage.registry = registry.clone();
    let manager = stage.next_manager();
    assert!(caller(&manager, &admin()).await.is_some());
    stage.pass(REVOKED_WITHIN).await;
    registry.keep_silent(true);
    let begun = tokio::time::Instant::now();
    for _ in 0..100 {
        let rejected = manager.tokens().authenticate(&admin()).await.unwrap_err();
        assert!(matches!(rejected, Error::NotReady { .. }), "{rejected:?}");
    }
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "only the first request waits"
    );
    registry.keep_silent(false);
    stage.pass(REVOKED_WITHIN).await;
    assert!(caller(&manager, &admin()).await.is_some());
}

/// Returns the token in the file that the containers of a service mount.
fn token_of(stage: &Stage, service: &str) -> Option<Sensitive> {
    let nodes = stage.declaration.nodes.keys();
    let files = nodes.flat_map(|node| {
        let files = stage.world.files(node).into_iter();
        files.map(move |path| (node, path))
    });
    let path = format!("/service-api/{service}/token");
    let mut found = files.filter(|(_, file)| file.ends_with(&path));
    let (node, file) = found.next()?;
    let (_, contents) = stage.world.file(node, &file).unwrap();
    Some(Sensitive::new(
        String::from_utf8(contents.to_vec()).unwrap(),
    ))
}

#[tokio::test(start_paused = true)]
async fn each_service_has_the_token_that_it_declares() {
    let mut stage = Stage::shop_without_manager(SimOptions::seeded(38)).await;
    let names: Vec<ServiceName> = stage.declaration.services.keys().cloned().collect();
    let scope = TokenScope::new([ServiceClass::Application], [names[0].clone()]);
    let granted = ApiAccess::Granted {
        role: TokenRole::Admin,
        scope: Some(Box::new(scope.clone())),
    };
    for (name, access) in [(&names[0], ApiAccess::Operate), (&names[1], granted)] {
        let spec = stage.declaration.services.get_mut(name).unwrap();
        spec.container.api = Some(access);
    }
    let with_access = stage.declaration.clone();
    stage.manager = stage.next_manager();
    stage.start();
    stage.settled().await;
    let [first, second] = [0, 1].map(|index| token_of(&stage, names[index].as_str()).unwrap());
    assert!(
        names[2..]
            .iter()
            .all(|name| token_of(&stage, name.as_str()).is_none())
    );
    let operate = caller(&stage.manager, &first).await.unwrap();
    assert_eq!((operate.role, operate.scope), (TokenRole::Operator, None));
    assert_eq!(operate.name, format!("service {}", names[0]));
    let limited = caller(&stage.manager, &second).await.unwrap();
    assert_eq!(
        (limited.role, limited.scope),
        (TokenRole::Admin, Some(scope))
    );

    let held = stage.manager.revoke_token(limited.token.as_str()).await;
    assert!(matches!(held, Err(Error::Conflict { .. })), "{held:?}");
    let same_name = new(names[0].as_str(), TokenRole::Viewer);
    stage.manager.create_token(same_name).await.unwrap();
    stage.manager.revoke_token(names[0].as_str()).await.unwrap();
    assert!(
        caller(&stage.manager, &first).await.is_some(),
        "another token was revoked"
    );

    // Another manager, and one that has lost the registry, derive the same tokens.
    let standby = stage.next_manager();
    assert!(caller(&standby, &first).await.is_some());
    let mut without = with_access.clone();
    without.services.get_mut(&names[0]).unwrap().container.api = None;
    stage.manager.apply(without).await.unwrap();
    assert_eq!(caller(&stage.manager, &first).await, None);
    stage.pass(REVOKED_WITHIN).await;
    assert_eq!(caller(&standby, &first).await, None);
    let before = caller(&standby, &second).await.unwrap();
    let ended = tokio::spawn({
        let tokens = standby.tokens();
        async move { tokens.until_ended(&before).await }
    });
    let mut narrowed = with_access.clone();
    narrowed.services.get_mut(&names[1]).unwrap().container.api = Some(ApiAccess::Read);
    stage.manager.apply(narrowed).await.unwrap();
    stage.pass(REVOKED_WITHIN).await;
    assert!(
        ended.is_finished(),
        "streams that were opened with more rights must end"
    );
    let now = caller(&standby, &second).await.unwrap();
    assert_eq!((now.role, now.scope), (TokenRole::Viewer, None));

    stage.crash().await;
    stage.registry = Arc::new(MemoryRegistry::new(Arc::new(stage.world.clock())));
    stage.start();
    stage.settled().await;
    for token in [&first, &second] {
        assert!(caller(&stage.manager, token).await.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_scope_must_contain_something() {
    let stage = Stage::shop(39).await;
    stage.settled().await;
    let empty = NewToken {
        scope: Some(TokenScope::new([], [])),
        ..new("empty", TokenRole::Admin)
    };
    let rejected = stage.manager.create_token(empty).await.unwrap_err();
    assert!(matches!(rejected, Error::Invalid { .. }), "{rejected:?}");
    let limited = NewToken {
        scope: Some(TokenScope::new([ServiceClass::Model], [])),
        ..new("limited", TokenRole::Admin)
    };
    stage.manager.create_token(limited).await.unwrap();
    let last = stage.manager.revoke_token("bootstrapper").await;
    assert!(matches!(last, Err(Error::Conflict { .. })), "{last:?}");
}
