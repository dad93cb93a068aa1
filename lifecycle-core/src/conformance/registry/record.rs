//! Checks for the records of declarations, nodes, instances, operations and credentials.

use super::sample::{
    at, bare_node, declaration, declare, endpoint, node_name, operation, populate, put_node,
    ready_instance, rejected,
};
use super::{Backend, conflict, lead, node_names};
use crate::error::Result;
use crate::model::{
    ContainerId, Generation, Operation, OperationState, Protocol, Subject, VolumeName,
};
use crate::platform::{Difference, DifferenceKind, Part, RevisionNote};
use crate::registry::{
    AnswerRecord, Batch, Change, REVISIONS_KEPT, Registry, RejectedSpec, VolumeRecord,
};
use crate::secret::Sensitive;

/// # Panics
/// If generations are not numbered consecutively, or a wrong expected generation is accepted.
pub async fn a_declaration_creates_the_next_generation(registry: &dyn Registry) -> Result<()> {
    let epoch = lead(registry).await?;
    let (one, two) = (declaration("one")?, declaration("two")?);
    conflict(
        &registry
            .commit(epoch, Batch::of(declare(Some(Generation(1)), &one)))
            .await,
    );
    let made = registry
        .commit(epoch, Batch::of(declare(None, &one)))
        .await?;
    assert_eq!(made.generation, Some(Generation(1)));
    for wrong in [None, Some(Generation(0)), Some(Generation(2))] {
        conflict(
            &registry
                .commit(epoch, Batch::of(declare(wrong, &two)))
                .await,
        );
    }
    let in_force = registry.snapshot().await?.declaration;
    assert_eq!(in_force, Some((Generation(1), one.clone())));
    let made = registry
        .commit(epoch, Batch::of(declare(Some(Generation(1)), &two)))
        .await?;
    assert_eq!(made.generation, Some(Generation(2)));
    let back = Batch {
        changes: vec![
            declare(Some(Generation(2)), &one),
            declare(Some(Generation(3)), &two),
        ],
        events: Vec::new(),
    };
    assert_eq!(
        registry.commit(epoch, back).await?.generation,
        Some(Generation(4))
    );
    let in_force = registry.snapshot().await?.declaration;
    assert_eq!(in_force, Some((Generation(4), two)));
    let other = registry
        .commit(epoch, Batch::of(Change::MarkFirstRoundDone))
        .await?;
    assert_eq!(
        other.generation,
        Some(Generation(4)),
        "every commit must return the generation"
    );
    Ok(())
}

/// # Panics
/// If a revision is lost too early, changed, or kept too long.
pub async fn the_latest_revisions_are_kept(backend: &dyn Backend) -> Result<()> {
    let registry = backend.fresh().await?;
    let epoch = lead(registry.as_ref()).await?;
    assert_eq!(registry.revisions().await?, []);
    assert_eq!(registry.declaration(Generation(1)).await?, None);
    let node = node_name("vm1")?;
    let note_of = |number: u64| RevisionNote {
        request: format!("request {number}"),
        subject: Subject::Platform,
        by: "the suite".into(),
        changes: vec![Difference {
            subject: Subject::Node(node.clone()),
            kind: DifferenceKind::Changed([Part::Settings].into()),
        }],
    };
    let last = REVISIONS_KEPT + 2;
    for number in 1..=last {
        let declaration = declaration(&format!("text {number}"))?;
        for noted in [Some(note_of(number)), Some(note_of(0))] {
            // A repeated declaration does not change the note of the first one.
            let declare = Change::Declare {
                expected: Some(Generation(number - 1)).filter(|expected| expected.0 > 0),
                declaration: Box::new(declaration.clone()),
                note: noted.filter(|_| number != 4),
            };
            registry.commit(epoch, Batch::of(declare)).await?;
        }
    }
    let stored = registry.revisions().await?;
    let expected: Vec<_> = (3..=last)
        .map(|number| {
            (
                Generation(number),
                Some(note_of(number)).filter(|_| number != 4),
            )
        })
        .collect();
    let found = stored.iter().map(|one| (one.generation, one.note.clone()));
    assert_eq!(found.collect::<Vec<_>>(), expected);
    assert!(stored.is_sorted_by_key(|revision| revision.at));
    assert_eq!(registry.declaration(Generation(2)).await?, None);
    assert_eq!(registry.declaration(Generation(u64::MAX)).await?, None);
    let oldest = registry.declaration(Generation(3)).await?;
    assert_eq!(oldest, Some(declaration("text 3")?));
    registry.release_lease("suite").await?;
    if let Some(registry) = backend.reopen(registry).await? {
        assert_eq!(registry.revisions().await?, stored);
    }
    Ok(())
}

/// # Panics
/// If an identical declaration creates a generation.
pub async fn an_identical_declaration_creates_no_generation(registry: &dyn Registry) -> Result<()> {
    let epoch = lead(registry).await?;
    let one = declaration("one")?;
    for expected in [None, Some(Generation(1)), None] {
        let made = registry
            .commit(epoch, Batch::of(declare(expected, &one)))
            .await?;
        assert_eq!(made.generation, Some(Generation(1)));
    }
    let twice = Batch {
        changes: vec![
            declare(Some(Generation(1)), &declaration("two")?),
            declare(Some(Generation(1)), &declaration("two")?),
        ],
        events: Vec::new(),
    };
    let made = registry.commit(epoch, twice).await?;
    assert_eq!(made.generation, Some(Generation(2)));
    Ok(())
}

/// # Panics
/// If a stored record differs from the original.
pub async fn records_are_stored_unchanged(registry: &dyn Registry) -> Result<()> {
    let epoch = lead(registry).await?;
    let full = populate(registry, epoch).await?;
    assert_eq!(registry.snapshot().await?, full);
    let batch = Batch {
        changes: vec![
            Change::DeleteNode(node_name("vm1")?),
            put_node("vm2")?,
            Change::DeleteInstance(ContainerId("c2".into())),
            Change::DeleteInstance(ContainerId("never-there".into())),
        ],
        events: Vec::new(),
    };
    registry.commit(epoch, batch).await?;
    let rest = registry.snapshot().await?;
    assert_eq!(node_names(&rest), ["vm2"]);
    assert_eq!(rest.nodes[&node_name("vm2")?], bare_node("vm2")?);
    let containers: Vec<&str> = rest.instances.keys().map(|c| c.0.as_ref()).collect();
    assert_eq!(containers, ["c1", "c3", "c4", "c5", "c6", "c7"]);
    Ok(())
}

/// # Panics
/// If the endpoints of an instance differ from its last record.
pub async fn endpoints_follow_their_instance(registry: &dyn Registry) -> Result<()> {
    let epoch = lead(registry).await?;
    let container = ContainerId("c1".into());
    let mut record = ready_instance("db", 1, "c1")?;
    for endpoints in [
        vec![endpoint(20_001, 80, Protocol::Tcp)],
        vec![
            endpoint(20_003, 53, Protocol::Udp),
            endpoint(20_002, 53, Protocol::Tcp),
        ],
        Vec::new(),
        vec![endpoint(20_001, 80, Protocol::Tcp)],
    ] {
        record.endpoints.clone_from(&endpoints);
        let put = Change::PutInstance(Box::new(record.clone()));
        registry.commit(epoch, Batch::of(put)).await?;
        let shown = registry.snapshot().await?.instances[&container].clone();
        assert_eq!(shown.endpoints, endpoints);
    }
    let delete = Change::DeleteInstance(container.clone());
    registry.commit(epoch, Batch::of(delete)).await?;
    assert!(registry.snapshot().await?.instances.is_empty());
    record.endpoints.clear();
    let put = Change::PutInstance(Box::new(record));
    registry.commit(epoch, Batch::of(put)).await?;
    let shown = registry.snapshot().await?.instances[&container].clone();
    assert_eq!(
        shown.endpoints,
        Vec::new(),
        "a deleted instance must lose its endpoints"
    );
    Ok(())
}

/// # Panics
/// If anything but the latest rejection of an instance is kept.
pub async fn rejections_are_kept_until_cleared(registry: &dyn Registry) -> Result<()> {
    let epoch = lead(registry).await?;
    let (one, two) = (rejected("db", 1, "d1")?, rejected("db", 2, "d1")?);
    let later = rejected("db", 1, "d2")?;
    let batch = Batch {
        changes: vec![
            Change::Reject(one.clone()),
            Change::Reject(two.clone()),
            Change::Reject(later.clone()),
            Change::ClearRejected(rejected("web", 1, "x")?.id),
        ],
        events: Vec::new(),
    };
    registry.commit(epoch, batch).await?;
    let kept: Vec<RejectedSpec> = registry.snapshot().await?.rejected.into_values().collect();
    assert_eq!(kept, [later, two.clone()]);
    registry
        .commit(epoch, Batch::of(Change::ClearRejected(one.id)))
        .await?;
    let kept: Vec<RejectedSpec> = registry.snapshot().await?.rejected.into_values().collect();
    assert_eq!(kept, [two]);
    Ok(())
}

/// # Panics
/// If a volume is not recorded with its node, or is not deleted.
pub async fn volumes_are_kept_by_node_and_name(registry: &dyn Registry) -> Result<()> {
    let epoch = lead(registry).await?;
    let volume = |node: &str, name: &str, is_missing| -> Result<VolumeRecord> {
        Ok(VolumeRecord {
            node: node_name(node)?,
            volume: VolumeName::try_from(name)?,
            is_missing,
        })
    };
    let (one, two) = (volume("vm1", "data", false)?, volume("vm2", "data", true)?);
    let (missing, other) = (volume("vm1", "data", true)?, volume("vm1", "logs", false)?);
    let batch = Batch {
        changes: [&one, &two, &missing, &other]
            .map(|record| Change::PutVolume(record.clone()))
            .to_vec(),
        events: Vec::new(),
    };
    registry.commit(epoch, batch).await?;
    let kept: Vec<VolumeRecord> = registry.snapshot().await?.volumes.into_values().collect();
    assert_eq!(kept, [missing.clone(), other.clone(), two.clone()]);
    let delete =
        |record: &VolumeRecord| Change::DeleteVolume(record.node.clone(), record.volume.clone());
    let batch = Batch {
        changes: vec![
            delete(&missing),
            delete(&volume("vm3", "data", false)?),
            Change::PutVolume(one.clone()),
            delete(&two),
        ],
        events: Vec::new(),
    };
    registry.commit(epoch, batch).await?;
    let kept: Vec<VolumeRecord> = registry.snapshot().await?.volumes.into_values().collect();
    assert_eq!(kept, [one, other]);
    Ok(())
}

/// # Panics
/// If an operation is lost, or is reported as open although it has ended.
pub async fn operations_are_found_until_they_end(registry: &dyn Registry) -> Result<()> {
    let epoch = lead(registry).await?;
    let late = operation(1, 20, OperationState::Running);
    let early = operation(2, 10, OperationState::Running);
    let done = operation(3, 0, OperationState::Succeeded { at: at(5) });
    let batch = Batch {
        changes: [&late, &early, &done]
            .map(|operation| Change::PutOperation(operation.clone()))
            .to_vec(),
        events: Vec::new(),
    };
    registry.commit(epoch, batch).await?;
    for put in [&late, &early, &done] {
        assert_eq!(registry.operation(put.id).await?.as_ref(), Some(put));
    }
    assert_eq!(
        registry.open_operations().await?,
        [early.clone(), late.clone()],
        "open operations must be in order, oldest first"
    );
    let failed = Operation {
        state: OperationState::Failed {
            at: at(30),
            why: "the cloud rejected it".into(),
        },
        ..early
    };
    let put = Change::PutOperation(failed.clone());
    registry.commit(epoch, Batch::of(put)).await?;
    assert_eq!(
        registry.open_operations().await?,
        std::slice::from_ref(&late)
    );
    assert_eq!(registry.operation(failed.id).await?, Some(failed.clone()));
    let all = [done.clone(), failed.clone(), late.clone()];
    assert_eq!(registry.operations(10).await?, all);
    assert_eq!(registry.operations(2).await?, all[1..]);
    assert_eq!(registry.operations(0).await?, []);
    for (before, kept) in [(5, 0), (6, 1), (31, 2), (1_000, 2)] {
        let before = at(before);
        let delete = Change::DeleteEndedOperations { before };
        registry.commit(epoch, Batch::of(delete)).await?;
        assert_eq!(registry.operations(10).await?, all[kept..]);
    }
    assert_eq!(registry.operation(done.id).await?, None);
    Ok(())
}

/// # Panics
/// If an answer cannot be read until it is deleted.
pub async fn answers_are_kept_until_they_are_deleted(registry: &dyn Registry) -> Result<()> {
    let epoch = lead(registry).await?;
    let answer = |key: &str, second: u32| AnswerRecord {
        key: key.into(),
        request: format!("request of {key}"),
        answer: serde_json::json!({ "generation": second, "changed": true }),
        at: at(second),
    };
    assert_eq!(registry.answer("a").await?, None);
    let (first, second, other) = (answer("a", 1), answer("a", 2), answer("b", 5));
    let put = |answer: &AnswerRecord| Change::PutAnswer(answer.clone());
    let batch = Batch {
        changes: vec![put(&first), put(&other)],
        events: Vec::new(),
    };
    registry.commit(epoch, batch).await?;
    assert_eq!(registry.answer("a").await?.as_ref(), Some(&first));
    registry.commit(epoch, Batch::of(put(&second))).await?;
    assert_eq!(registry.answer("a").await?.as_ref(), Some(&second));
    for (before, kept) in [
        (2, [Some(&second), Some(&other)]),
        (3, [None, Some(&other)]),
    ] {
        let before = at(before);
        let delete = Change::DeleteAnswers { before };
        registry.commit(epoch, Batch::of(delete)).await?;
        for (key, kept) in ["a", "b"].into_iter().zip(kept) {
            assert_eq!(registry.answer(key).await?.as_ref(), kept);
        }
    }
    Ok(())
}

/// # Panics
/// If a credential differs from the one last stored under its name.
pub async fn credentials_are_kept_by_name(registry: &dyn Registry) -> Result<()> {
    let epoch = lead(registry).await?;
    let (one, two) = (Sensitive::new("one"), Sensitive::new("two"));
    for (name, credential) in [("a", &one), ("a", &two), ("b", &one)] {
        let put = Change::PutCredential {
            name: name.into(),
            credential: credential.clone(),
        };
        registry.commit(epoch, Batch::of(put)).await?;
        assert_eq!(registry.credential(name).await?.as_ref(), Some(credential));
    }
    assert_eq!(registry.credential("a").await?, Some(two));
    assert_eq!(registry.credential("absent").await?, None);
    Ok(())
}
