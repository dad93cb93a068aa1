//! Keeps a copy of the previous manager's hand-over and registry while the manager is replaced. If
//! the new manager does not answer, the files are restored. A registry in a database is not copied,
//! because it has other readers and its own backups.

use super::handover::handover_directory;
use super::{Bootstrapper, NODE_ANSWERS_WITHIN};
use crate::error::Result;
use crate::host::{HostCommand, NodeHandle};
use crate::model::PlatformId;
use crate::reconcile::node_directory::node_directory;
use crate::runtime::{ContainerState, ObservedContainer};

/// The prefix of directories with kept files. The rest of the name is the id of the manager's
/// container.
const PREFIX: &str = "previous-";

/// The registry's files: the database, its write-ahead log and the index of that log.
const REGISTRY: [&str; 3] = ["registry.db", "registry.db-wal", "registry.db-shm"];

/// The files in the platform's directory on the manager's node.
pub(super) struct PreviousFiles {
    platform: PlatformId,
    names: Vec<String>,
}

impl Bootstrapper {
    /// Lists the files in the platform's directory.
    pub(super) async fn previous_files(
        &self,
        node: &NodeHandle,
        platform: PlatformId,
    ) -> Result<PreviousFiles> {
        let script = format!("ls -1 '{}' 2>/dev/null || true", node_directory(platform));
        let listing = node
            .host
            .exec(HostCommand::new(script).as_root())
            .await?
            .success("listing the platform's directory on the manager's node")?;
        Ok(PreviousFiles {
            platform,
            names: listing.lines().map(str::to_owned).collect(),
        })
    }
}

impl PreviousFiles {
    /// Returns the running manager or, after an interrupted replacement, the one whose files are
    /// kept.
    pub(super) fn rollback_target<'c>(
        &self,
        previous: &'c [ObservedContainer],
    ) -> Option<&'c ObservedContainer> {
        let kept = previous.iter().find(|c| self.has(c));
        let running = |c: &&ObservedContainer| matches!(c.state, ContainerState::Running { .. });
        kept.or_else(|| previous.iter().find(running))
            .or_else(|| previous.first())
    }

    /// Returns whether the files of a manager are kept.
    pub(super) fn has(&self, of: &ObservedContainer) -> bool {
        self.lists(&name(of))
    }

    fn lists(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    fn path(&self, name: &str) -> String {
        format!("'{}/{name}'", node_directory(self.platform))
    }

    /// Copies the files of a stopped manager. Keeps an existing copy, because another manager may
    /// have changed the files.
    pub(super) async fn keep(&self, node: &NodeHandle, of: &ObservedContainer) -> Result<()> {
        let kept = name(of);
        let mut script = vec!["set -e".to_owned()];
        let old = self
            .names
            .iter()
            .filter(|n| n.starts_with(PREFIX) && **n != kept);
        script.extend(old.map(|old| format!("rm -rf {}", self.path(old))));
        if !self.has(of) {
            let draft = format!("{PREFIX}draft");
            script.push(format!("rm -rf {}", self.path(&draft)));
            script.push(format!("mkdir -m 0700 {}", self.path(&draft)));
            // Not only the listed files: the manager has ended since then, and an ending database
            // removes its log.
            for file in REGISTRY.into_iter().chain(["manager"]) {
                let (from, to) = (self.path(file), self.path(&format!("{draft}/{file}")));
                script.push(format!("cp -a {from} {to} || ! test -e {from}"));
            }
            script.push(format!("mv {} {}", self.path(&draft), self.path(&kept)));
        }
        self.run(node, script, "keeping the previous manager's files")
            .await
    }

    /// Restores the kept files of a manager.
    pub(super) async fn restore(&self, node: &NodeHandle, of: &ObservedContainer) -> Result<()> {
        let kept = name(of);
        let mut script = vec!["set -e".to_owned()];
        let registry = REGISTRY.iter().map(|file| self.path(file));
        script.extend(registry.map(|file| format!("rm -rf {file}")));
        let handover = handover_directory(self.platform);
        script.push(format!("rm -rf '{handover}'"));
        let everything = self.path(&format!("{kept}/."));
        script.push(format!("cp -a {everything} {}", self.path("")));
        script.push(format!("rm -rf {}", self.path(&kept)));
        self.run(node, script, "restoring the previous manager's files")
            .await
    }

    /// Deletes the kept files of a manager.
    pub(super) async fn forget(&self, node: &NodeHandle, of: &ObservedContainer) -> Result<()> {
        let script = vec![format!("rm -rf {}", self.path(&name(of)))];
        self.run(node, script, "removing the previous manager's files")
            .await
    }

    async fn run(&self, node: &NodeHandle, script: Vec<String>, what: &str) -> Result<()> {
        // The registry may be large.
        let command = HostCommand::new(script.join("\n")).as_root();
        let command = command.within(NODE_ANSWERS_WITHIN);
        node.host.exec(command).await?.success(what)?;
        Ok(())
    }
}

fn name(of: &ObservedContainer) -> String {
    let id = of.id.0.get(..12).unwrap_or(&of.id.0);
    format!("{PREFIX}{id}")
}
