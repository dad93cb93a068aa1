//! Checks for the chunks of mounted files.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};

use super::sample::{declaration, declare};
use super::{Backend, held, lead, stale};
use crate::error::Result;
use crate::model::{
    Chunk, ChunkDigest, Epoch, FileContents, FileTree, Generation, ShippedFile, ShippedMount,
};
use crate::platform::Declaration;
use crate::registry::{Batch, Change, REVISIONS_KEPT, Registry};

fn chunk(byte: u8, size: usize) -> Result<Chunk> {
    Chunk::new(vec![byte; size].into())
}

/// Returns a declaration with a service that mounts a file with these contents.
fn mounting(service: &str, chunk: &Chunk) -> Result<Declaration> {
    let mut declaration = declaration(service)?;
    let file = ShippedFile {
        mode: 0o444,
        uid: 0,
        gid: 0,
        contents: FileContents::Chunked(chunk.contents().len() as u64),
    };
    for spec in declaration.services.values_mut() {
        spec.container.files.push(ShippedMount {
            target: "/etc/app".into(),
            tree: FileTree::File(file.clone()),
            chunks: vec![chunk.digest()],
        });
    }
    Ok(declaration)
}

async fn put(registry: &dyn Registry, epoch: Epoch, chunk: &Chunk) -> Result<()> {
    let put = Batch::of(Change::PutChunk(chunk.clone()));
    registry.commit(epoch, put).await.map(drop)
}

async fn delete_unused(
    registry: &dyn Registry,
    epoch: Epoch,
    stored_before: DateTime<Utc>,
) -> Result<()> {
    let delete = Batch::of(Change::DeleteUnusedChunks { stored_before });
    registry.commit(epoch, delete).await.map(drop)
}

async fn missing(registry: &dyn Registry, of: &[&Chunk]) -> Result<BTreeSet<ChunkDigest>> {
    let digests = of.iter().map(|chunk| chunk.digest());
    registry.missing_chunks(digests.collect()).await
}

/// # Panics
/// If a chunk is not stored unchanged, is lost, or is stored with a stale epoch.
pub async fn chunks_are_stored_by_digest(backend: &dyn Backend) -> Result<()> {
    let registry = backend.fresh().await?;
    let epoch = held(registry.acquire_lease("before", backend.ttl()).await?);
    let (large, small, other) = (chunk(1, Chunk::SIZE)?, chunk(2, 3)?, chunk(3, 3)?);
    for one in [&large, &small, &large] {
        put(&*registry, epoch, one).await?;
    }
    assert_eq!(registry.chunk(large.digest()).await?, Some(large.clone()));
    assert_eq!(registry.chunk(other.digest()).await?, None);
    let absent = missing(&*registry, &[&large, &small, &other]).await?;
    assert_eq!(absent, BTreeSet::from([other.digest()]));
    assert_eq!(missing(&*registry, &[]).await?, BTreeSet::new());
    let old = Epoch(epoch.0 - 1);
    stale(put(&*registry, old, &other).await, old, epoch);
    assert_eq!(registry.chunk(other.digest()).await?, None);
    registry.release_lease("before").await?;
    let Some(registry) = backend.reopen(registry).await? else {
        return Ok(());
    };
    assert_eq!(registry.chunk(small.digest()).await?, Some(small));
    assert_eq!(registry.chunk(large.digest()).await?, Some(large));
    Ok(())
}

/// # Panics
/// If a chunk that a declaration refers to, or a recently stored one, is deleted, or if another one is
/// kept.
pub async fn unused_chunks_are_deleted(backend: &dyn Backend) -> Result<()> {
    // The times are far away from any clock that a registry uses.
    let far = TimeDelta::days(200 * 365);
    let (past, future) = (DateTime::UNIX_EPOCH - far, DateTime::UNIX_EPOCH + far);
    let registry = &*backend.fresh().await?;
    let epoch = lead(registry).await?;
    let (used, unused, later) = (chunk(1, 9)?, chunk(2, 9)?, chunk(3, 9)?);
    for one in [&used, &unused] {
        put(registry, epoch, one).await?;
    }
    // A declaration may also refer to a chunk that is not stored yet.
    for (expected, named) in [(None, &used), (Some(Generation(1)), &later)] {
        let declared = declare(expected, &mounting("one", named)?);
        registry.commit(epoch, Batch::of(declared)).await?;
        delete_unused(registry, epoch, past).await?;
        assert_eq!(missing(registry, &[&used, &unused]).await?.len(), 0);
        if expected.is_none() {
            delete_unused(registry, epoch, future).await?;
            let absent = missing(registry, &[&used, &unused]).await?;
            assert_eq!(absent, BTreeSet::from([unused.digest()]));
            put(registry, epoch, &unused).await?;
        }
    }
    put(registry, epoch, &later).await?;
    // The previous declarations are kept until there are enough later ones.
    for number in 2..=1 + REVISIONS_KEPT {
        let declared = mounting(&format!("s{number}"), &later)?;
        let declare = declare(Some(Generation(number)), &declared);
        registry.commit(epoch, Batch::of(declare)).await?;
    }
    delete_unused(registry, epoch, future).await?;
    let absent = missing(registry, &[&used, &unused, &later]).await?;
    assert_eq!(absent, BTreeSet::from([used.digest(), unused.digest()]));
    assert_eq!(registry.chunk(used.digest()).await?, None);
    Ok(())
}
