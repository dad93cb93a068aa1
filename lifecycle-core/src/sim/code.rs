//! Implements `CodeStore` for the simulation, with code bases in memory.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;

use super::actor::{Actor, Call, Done, Target};
use crate::code::digest::{self, Entries, IGNORE_FILE, Kind, Selection};
use crate::code::{CodeBaseRef, CodePublisher, CodeStore, DirectoryStore, Published, pack_entries};
use crate::error::{Error, Result};
use crate::host::ByteStream;

/// The code bases of a world, by name.
#[derive(Debug, Default)]
pub(super) struct CodeBases(BTreeMap<String, CodeBase>);

/// The contents of a code base, without ignored files.
#[derive(Debug, Default)]
struct CodeBase {
    entries: Entries,
    /// The contents of the files, by path.
    contents: BTreeMap<String, Bytes>,
}

impl CodeBase {
    /// Creates a code base from these files, except for files that `.dockerignore` excludes.
    fn of_files(files: &[(&str, &str)]) -> Self {
        let ignore = files.iter().find(|(path, _)| *path == IGNORE_FILE);
        let ignore = ignore.map_or("", |(_, text)| text);
        // An invalid `.dockerignore` excludes nothing.
        let selection = Selection::parse(ignore.as_bytes(), IGNORE_FILE).unwrap_or_default();
        let mut base = Self::default();
        for (path, text) in files.iter().filter(|(path, _)| selection.includes(path)) {
            let kind = Kind::File { executable: false };
            digest::add(&mut base.entries, (*path).to_owned(), kind);
            let text = Bytes::from((*text).to_owned());
            base.contents.insert((*path).to_owned(), text);
        }
        base
    }

    /// Creates a code base from a local directory.
    fn read(directory: &Path) -> Result<Self> {
        if !directory.is_dir() {
            let what = format!("directory `{}`", directory.display());
            return Err(Error::not_found(what));
        }
        let entries = digest::entries(directory)?;
        let files = entries
            .iter()
            .filter(|(_, kind)| matches!(kind, Kind::File { .. }));
        let contents = files.map(|(path, _)| {
            let file = directory.join(path);
            let bytes = std::fs::read(&file)
                .map_err(|error| Error::io(format!("reading `{}`", file.display()), error))?;
            Ok((path.clone(), bytes.into()))
        });
        let contents = contents.collect::<Result<_>>()?;
        Ok(Self { entries, contents })
    }

    fn digest(&self) -> String {
        // Writing to a sink cannot fail.
        self.pack(&mut std::io::sink()).unwrap_or_default()
    }

    fn pack(&self, sink: &mut impl std::io::Write) -> std::io::Result<String> {
        let open = |path: &str| {
            let bytes = self.contents.get(path).map_or(&[][..], |bytes| bytes);
            Ok((bytes.len() as u64, bytes))
        };
        pack_entries(&self.entries, open, sink)
    }

    fn archive(&self) -> std::io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.pack(&mut bytes)?;
        Ok(bytes)
    }

    /// Returns the total size of the files that the previous version does not contain.
    fn new_bytes(&self, previous: Option<&Self>) -> u64 {
        let is_new = |path: &String, bytes: &Bytes| {
            previous.and_then(|previous| previous.contents.get(path)) != Some(bytes)
        };
        let new = self
            .contents
            .iter()
            .filter(|(path, bytes)| is_new(path, bytes));
        new.map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

/// The simulated code store.
#[derive(Debug, Clone)]
pub struct SimCodeStore {
    actor: Actor,
}

impl SimCodeStore {
    pub(super) fn new(actor: Actor) -> Self {
        Self { actor }
    }

    /// Writes a code base immediately, without a simulated call. Replaces a code base with the same
    /// name.
    pub fn put(&self, name: &str, files: &[(&str, &str)]) {
        let base = CodeBase::of_files(files);
        let mut state = self.actor.world().lock();
        state.code.0.insert(name.to_owned(), base);
    }

    /// Removes a code base immediately, without a simulated call.
    pub fn remove(&self, name: &str) {
        self.actor.world().lock().code.0.remove(name);
    }

    fn call(&self, what: String, is_effect: bool) -> Call {
        Call {
            target: Target::Code,
            node: None,
            what,
            is_effect,
            takes: self.actor.world().lock().rules.latencies.node_call,
        }
    }

    async fn read<T: Send>(
        &self,
        what: String,
        read: impl FnOnce(&CodeBases) -> Result<T> + Send,
    ) -> Result<T> {
        let call = self.call(what, false);
        self.actor
            .call(call, |state, _| read(&state.code).map(Done::unchanged))
            .await
    }
}

impl CodeBases {
    fn get(&self, name: &str) -> Result<&CodeBase> {
        let missing = || Error::not_found(format!("code base {name}"));
        self.0.get(name).ok_or_else(missing)
    }

    fn digest(&self, name: &str) -> Result<CodeBaseRef> {
        Ok(CodeBaseRef {
            name: name.to_owned(),
            digest: self.get(name)?.digest(),
        })
    }

    fn archive(&self, name: &str) -> Result<Vec<u8>> {
        self.get(name)?
            .archive()
            .map_err(|error| Error::io(format!("packing code base {name}"), error))
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
                        why: "its contents have changed since its digest was read".into(),
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

#[async_trait]
impl CodePublisher for SimCodeStore {
    async fn publish(&self, name: &str, directory: &Path) -> Result<Published> {
        let base = CodeBase::read(directory)?;
        let code = CodeBaseRef {
            name: DirectoryStore::normalised(name),
            digest: base.digest(),
        };
        let call = self.call(format!("publish {}", code.name), true);
        self.actor
            .call(call, move |state, _| {
                let bases = &mut state.code.0;
                let previous = bases.get(&code.name);
                if previous.is_some_and(|previous| previous.digest() == code.digest) {
                    return Ok(Done::unchanged(Published {
                        code,
                        unchanged: true,
                        bytes_sent: 0,
                        files_removed: 0,
                    }));
                }
                let bytes_sent = base.new_bytes(previous);
                bases.insert(code.name.clone(), base);
                Ok(Done::changed(Published {
                    code,
                    unchanged: false,
                    bytes_sent,
                    files_removed: 0,
                }))
            })
            .await
    }
}
