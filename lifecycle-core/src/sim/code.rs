//! `CodeStore` on the simulated world: code bases as files in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use sha2::{Digest, Sha256};

use super::actor::{Actor, Call, Done, Party};
use crate::code::{CodeBaseRef, CodeStore};
use crate::error::{Error, Result};
use crate::host::ByteStream;

/// The mode of every file here.
const MODE: u32 = 0o644;

/// The code bases of a world: by name, the files by path.
#[derive(Debug, Default)]
pub(super) struct CodeBases(BTreeMap<String, BTreeMap<String, Bytes>>);

/// The simulated code store.
#[derive(Debug, Clone)]
pub struct SimCodeStore {
    actor: Actor,
}

impl SimCodeStore {
    pub(super) fn new(actor: Actor) -> Self {
        Self { actor }
    }

    /// Writes a code base in place of the one of that name, at once and without a call.
    pub fn put(&self, name: &str, files: &[(&str, &str)]) {
        let files = files
            .iter()
            .map(|(path, contents)| ((*path).to_owned(), Bytes::from((*contents).to_owned())))
            .collect();
        let mut state = self.actor.world().lock();
        state.code.0.insert(name.to_owned(), files);
    }

    /// Removes a code base, at once and without a call.
    pub fn remove(&self, name: &str) {
        self.actor.world().lock().code.0.remove(name);
    }

    async fn read<T: Send>(
        &self,
        what: String,
        read: impl FnOnce(&CodeBases) -> Result<T> + Send,
    ) -> Result<T> {
        let call = Call {
            party: Party::Code,
            node: None,
            what,
            is_effect: false,
            takes: self.actor.world().lock().rules.latencies.node_call,
        };
        self.actor
            .call(call, |state, _| read(&state.code).map(Done::unchanged))
            .await
    }
}

impl CodeBases {
    fn files(&self, name: &str) -> Result<&BTreeMap<String, Bytes>> {
        let missing = || Error::not_found(format!("code base {name}"));
        self.0.get(name).ok_or_else(missing)
    }

    fn digest(&self, name: &str) -> Result<CodeBaseRef> {
        let mut digest = Sha256::new();
        for (path, contents) in self.files(name)? {
            digest.update(format!("{path}\0{MODE:o}\0{}\0", contents.len()));
            digest.update(contents);
        }
        Ok(CodeBaseRef {
            name: name.to_owned(),
            digest: hex::encode(digest.finalize()),
        })
    }

    fn archive(&self, name: &str) -> Result<Vec<u8>> {
        let broken = |error| Error::io(format!("packing code base {name}"), error);
        let mut archive = tar::Builder::new(Vec::new());
        for (path, contents) in self.files(name)? {
            let mut header = tar::Header::new_ustar();
            header.set_mode(MODE);
            header.set_size(u64::try_from(contents.len()).unwrap_or(u64::MAX));
            archive
                .append_data(&mut header, path, contents.as_ref())
                .map_err(broken)?;
        }
        archive.into_inner().map_err(broken)
    }
}

#[async_trait]
impl CodeStore for SimCodeStore {
    async fn list(&self) -> Result<Vec<String>> {
        self.read("list code".into(), |code| {
            Ok(code.0.keys().cloned().collect())
        })
        .await
    }

    async fn digest(&self, name: &str) -> Result<CodeBaseRef> {
        self.read(format!("digest {name}"), |code| code.digest(name))
            .await
    }

    async fn archive(&self, code: &CodeBaseRef) -> Result<ByteStream> {
        let what = format!("archive {}", code.name);
        let archive = self
            .read(what, |bases| {
                if bases.digest(&code.name)? != *code {
                    return Err(Error::Conflict {
                        what: format!("code base {}", code.name),
                        why: "its contents changed since it was looked at".into(),
                    });
                }
                bases.archive(&code.name)
            })
            .await?;
        Ok(Box::pin(stream::once(
            async move { Ok(Bytes::from(archive)) },
        )))
    }
}
