//! Stores the chunks of mounted files, which clients send before the declaration that refers to
//! them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::answers::ANSWERS_KEPT_FOR;
use super::{Accepted, ENDED_OPERATIONS_KEPT_FOR, Manager};
use crate::error::{Error, Result};
use crate::model::{Chunk, ChunkDigest, Epoch};
use crate::platform::Declaration;
use crate::registry::{Batch, Change};

/// How long chunks are kept that no declaration refers to, and how often unused chunks are deleted.
pub(super) const UNUSED_KEPT_FOR: Duration = Duration::from_hours(1);

impl Manager {
    /// Returns which of these chunks of mounted files are not stored.
    pub async fn missing_chunks(&self, of: BTreeSet<ChunkDigest>) -> Result<BTreeSet<ChunkDigest>> {
        if of.is_empty() {
            return Ok(of);
        }
        self.backends.registry.missing_chunks(of).await
    }

    /// Stores a chunk of mounted files. The registry stores it encrypted, and deletes it when no
    /// declaration refers to it any more. A chunk that no declaration has referred to yet is kept for
    /// at least an hour.
    pub async fn put_chunk(&self, chunk: Chunk) -> Result<()> {
        let write = self.begin_write(Accepted::Always).await?;
        let registry = &self.backends.registry;
        let put = Batch::of(Change::PutChunk(chunk));
        registry.commit(write.epoch, put).await?;
        Ok(())
    }

    /// Rejects a declaration with mounted files whose contents are not stored. The caller must hold
    /// the lock of writes until the declaration is recorded, so that no chunk is deleted before.
    pub(super) async fn check_chunks(&self, declaration: &Declaration) -> Result<()> {
        let missing = self.missing_chunks(declaration.chunks()).await?.len();
        if missing == 0 {
            return Ok(());
        }
        Err(Error::Conflict {
            what: "the declaration was rejected".into(),
            why: format!(
                "{missing} chunks of its mounted files are not stored; send the missing chunks \
                 (`bootstrapper up` does), then the declaration again"
            ),
        })
    }

    /// Deletes chunks that no stored declaration refers to, operations that ended long ago, and old
    /// answers.
    pub(super) async fn delete_unused(&self, epoch: Epoch) -> Result<()> {
        let now = self.backends.clock.now();
        let delete = Batch {
            changes: vec![
                Change::DeleteUnusedChunks {
                    stored_before: now - UNUSED_KEPT_FOR,
                },
                Change::DeleteEndedOperations {
                    before: now - ENDED_OPERATIONS_KEPT_FOR,
                },
                Change::DeleteAnswers {
                    before: now - ANSWERS_KEPT_FOR,
                },
            ],
            events: Vec::new(),
        };
        self.backends.registry.commit(epoch, delete).await?;
        Ok(())
    }
}
