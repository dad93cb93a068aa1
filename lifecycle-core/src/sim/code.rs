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

/// The file that says what is left out, and those that never are.
const IGNORE_FILE: &str = ".dockerignore";
const ALWAYS_SENT: [&str; 2] = [IGNORE_FILE, "Dockerfile"];

/// The code bases of a world: by name, the files by path, what is ignored left out.
#[derive(Debug, Default)]
pub(super) struct CodeBases(BTreeMap<String, BTreeMap<String, Bytes>>);

/// Whether the last line of a `.dockerignore` that matches a path leaves it out. Knows `*`,
/// `**` and `!`, which is what a script for a simulation needs.
fn is_left_out(ignore: &str, path: &str) -> bool {
    if ALWAYS_SENT.contains(&path) {
        return false;
    }
    let names: Vec<&str> = path.split('/').collect();
    let mut left_out = false;
    for line in ignore.lines().map(str::trim) {
        let (pattern, verdict) = match line.strip_prefix('!') {
            Some(pattern) => (pattern, false),
            None => (line, true),
        };
        let pattern: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
        let is_comment = line.is_empty() || line.starts_with('#');
        // A directory that matches takes everything in it along.
        let matches = (1..=names.len()).any(|end| path_matches(&pattern, &names[..end]));
        if matches && !is_comment {
            left_out = verdict;
        }
    }
    left_out
}

fn path_matches(pattern: &[&str], names: &[&str]) -> bool {
    match (pattern, names) {
        ([], []) => true,
        (["**", rest @ ..], _) => (0..=names.len()).any(|skip| path_matches(rest, &names[skip..])),
        ([part, rest @ ..], [name, more @ ..]) => {
            name_matches(part, name) && path_matches(rest, more)
        }
        _ => false,
    }
}

fn name_matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            let mut ends = (0..=rest.len()).filter(|at| rest.is_char_boundary(*at));
            ends.any(|at| name_matches(tail, &rest[at..]))
        }),
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

    /// Writes a code base in place of the one of that name, at once and without a call.
    pub fn put(&self, name: &str, files: &[(&str, &str)]) {
        let ignore = files.iter().find(|(path, _)| *path == IGNORE_FILE);
        let ignore = ignore.map_or("", |(_, text)| text);
        let files = files
            .iter()
            .filter(|(path, _)| !is_left_out(ignore, path))
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
            header.set_mtime(0);
            header.set_uid(0);
            header.set_gid(0);
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
