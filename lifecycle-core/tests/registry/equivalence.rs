//! Tests that the registry in SQLite and the registry in memory have the same contents after the
//! same random changes.

use std::sync::Arc;
use std::time::Duration;

use lifecycle_core::model::{
    ApiToken, ContainerId, Epoch, Generation, InstanceState, Operation, OperationId, OperationKind,
    OperationState, TokenId, TokenName, TokenRole,
};
use lifecycle_core::registry::{
    Batch, Change, Committed, MemoryRegistry, Registry, RejectedSpec, SqlRegistry,
};
use lifecycle_core::secret::{PlatformKey, Sensitive};
use lifecycle_core::{Error, Result};
use proptest::prelude::*;

use crate::clock::ManualClock;
use crate::platform::{at, declaration, event, instance, node, node_name};

/// There are only a few names, so that random changes often affect the same records.
const NAMES: [&str; 3] = ["a", "b", "c"];

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&NAMES[..])
}

fn state() -> impl Strategy<Value = InstanceState> {
    prop_oneof![
        Just(InstanceState::Starting),
        Just(InstanceState::Ready),
        "\\PC{0,8}".prop_map(|why| InstanceState::Failed { why }),
        "\\PC{0,8}".prop_map(|why| InstanceState::Unknown { since: at(9), why }),
    ]
}

fn token() -> impl Strategy<Value = ApiToken> {
    let ended = prop::option::of((0..9_u32).prop_map(at));
    let role = prop::sample::select(vec![TokenRole::Viewer, TokenRole::Admin]);
    (0..3_u8, name(), role, 0..3_u32, ended).prop_map(|(id, name, role, created, ended)| ApiToken {
        id: TokenId::try_from(format!("{id:016x}")).unwrap(),
        name: TokenName::try_from(name).unwrap(),
        role,
        scope: None,
        service: None,
        hash: format!("hash of {id}"),
        created_at: at(created),
        expires_at: ended,
        revoked_at: ended,
        last_used_at: ended,
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0..3_u64, 1..4_u16).prop_map(|(expected, replicas)| Change::Declare {
            expected: Some(expected).filter(|n| *n > 0).map(Generation),
            declaration: Box::new(declaration(replicas)),
            note: None,
        }),
        (name(), prop::option::of("\\PC{0,8}"))
            .prop_map(|(name, why)| { Change::PutNode(Box::new(node(name, why.as_deref()))) }),
        name().prop_map(|name| Change::DeleteNode(node_name(name))),
        (name(), 1..4_u16, 0..3_u16, state()).prop_map(|(name, replica, endpoints, state)| {
            let mut record = instance(replica, name, endpoints);
            record.state = state;
            Change::PutInstance(Box::new(record))
        }),
        name().prop_map(|name| Change::DeleteInstance(ContainerId(name.into()))),
        (1..4_u16, name()).prop_map(|(replica, why)| {
            let record = instance(replica, "x", 0);
            Change::Reject(RejectedSpec {
                id: record.id,
                digest: record.digest,
                at: at(3),
                why: why.into(),
            })
        }),
        (1..4_u16).prop_map(|replica| Change::ClearRejected(instance(replica, "x", 0).id)),
        (0..3_u128, 0..9_u32, any::<bool>()).prop_map(|(id, second, runs)| {
            Change::PutOperation(Operation {
                id: OperationId(uuid::Uuid::from_u128(id)),
                kind: OperationKind::DeletePlatform { volumes: runs },
                state: if runs {
                    OperationState::Running
                } else {
                    OperationState::Succeeded { at: at(9) }
                },
                requested_at: at(second),
            })
        }),
        (name(), name()).prop_map(|(name, value)| Change::PutCredential {
            name: name.into(),
            credential: Sensitive::new(value),
        }),
        (token(), any::<bool>()).prop_map(|(token, is_kept)| {
            if is_kept {
                Change::PutToken(Box::new(token))
            } else {
                Change::DeleteToken(token.id)
            }
        }),
        Just(Change::MarkFirstRoundDone),
    ]
}

fn batch() -> impl Strategy<Value = Batch> {
    let changes = prop::collection::vec(change(), 0..5);
    let events = prop::collection::vec("\\PC{0,8}".prop_map(|text| event(&text)), 0..3);
    (changes, events).prop_map(|(changes, events)| Batch { changes, events })
}

/// Converts the error in a result to text. Errors themselves cannot be compared.
fn comparable(result: Result<Committed>) -> Result<Committed, String> {
    result.map_err(|error| match error {
        error @ Error::Conflict { .. } => error.to_string(),
        other => panic!("{other:?}"),
    })
}

async fn compare(batches: Vec<(Batch, Option<u64>)>) {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let url = format!("sqlite://{}/r.db?mode=rwc", directory.path().display());
    let sqlite = SqlRegistry::open(&url, PlatformKey::generate(), clock.clone());
    let sqlite = sqlite.await.unwrap();
    let memory = MemoryRegistry::new(clock);
    let both: [&dyn Registry; 2] = [&memory, &sqlite];
    for registry in both {
        let lease = registry.acquire_lease("test", Duration::from_mins(1)).await;
        lease.unwrap();
    }
    for (batch, keep) in batches {
        assert_eq!(
            comparable(sqlite.commit(Epoch(1), batch.clone()).await),
            comparable(memory.commit(Epoch(1), batch).await)
        );
        for registry in both {
            if let Some(keep) = keep {
                registry.prune_events(at(0), keep).await.unwrap();
            }
        }
        assert_eq!(
            sqlite.snapshot().await.unwrap(),
            memory.snapshot().await.unwrap()
        );
        assert_eq!(
            sqlite.open_operations().await.unwrap(),
            memory.open_operations().await.unwrap()
        );
        assert_eq!(
            sqlite.tokens().await.unwrap(),
            memory.tokens().await.unwrap()
        );
        for after in [0, 2, 5] {
            assert_eq!(
                sqlite.events(after, 4).await.unwrap(),
                memory.events(after, 4).await.unwrap()
            );
        }
        for name in NAMES {
            assert_eq!(
                sqlite.credential(name).await.unwrap(),
                memory.credential(name).await.unwrap()
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn sqlite_is_equivalent_to_memory(
        batches in prop::collection::vec((batch(), prop::option::of(0..4_u64)), 1..12)
    ) {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
            .block_on(compare(batches));
    }
}
