//! What a manager that is replaced leaves: its hand-over and its registry, kept as they were
//! until the new one has answered, and put back if it does not. Only a registry in a file is
//! kept: one in a database has other readers and its own backups.

use super::Bootstrapper;
use super::handover::handover_directory;
use crate::error::Result;
use crate::host::{HostCommand, NodeHandle};
use crate::model::PlatformId;
use crate::reconcile::execute::node_directory;
use crate::runtime::{ContainerState, ObservedContainer};

/// What the names of these directories begin with; a container's id follows.
const PREFIX: &str = "former-";

/// The files of a registry in a file: itself, and what was written and not yet moved there.
const REGISTRY: [&str; 3] = ["registry.db", "registry.db-wal", "registry.db-shm"];

/// The files in the platform's directory on the manager's node.
pub(super) struct FormerFiles {
    platform: PlatformId,
    names: Vec<String>,
}

impl Bootstrapper {
    /// Looks what is there.
    pub(super) async fn former_files(
        &self,
        node: &NodeHandle,
        platform: PlatformId,
    ) -> Result<FormerFiles> {
        let script = format!("ls -1 '{}' 2>/dev/null || true", node_directory(platform));
        let listing = node
            .host
            .exec(HostCommand::new(script).as_root())
            .await?
            .success("listing the platform's directory on the manager's node")?;
        Ok(FormerFiles {
            platform,
            names: listing.lines().map(str::to_owned).collect(),
        })
    }
}

impl FormerFiles {
    /// The manager that there is a way back to: whose files are kept already, since a
    /// replacement was broken off; else the one that runs.
    pub(super) fn way_back<'c>(
        &self,
        former: &'c [ObservedContainer],
    ) -> Option<&'c ObservedContainer> {
        let kept = former.iter().find(|c| self.has(c));
        let running = |c: &&ObservedContainer| matches!(c.state, ContainerState::Running { .. });
        kept.or_else(|| former.iter().find(running))
            .or_else(|| former.first())
    }

    /// Whether a manager's files are kept.
    pub(super) fn has(&self, of: &ObservedContainer) -> bool {
        self.lists(&name(of))
    }

    fn lists(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }

    fn path(&self, name: &str) -> String {
        format!("'{}/{name}'", node_directory(self.platform))
    }

    /// Keeps the files of a manager that was stopped; those that are kept already stay, since
    /// another may have written since.
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
            for file in self.files() {
                let to = self.path(&format!("{draft}/{file}"));
                script.push(format!("cp -a {} {to}", self.path(file)));
            }
            script.push(format!("mv {} {}", self.path(&draft), self.path(&kept)));
        }
        self.run(node, script, "keeping what the former manager leaves")
            .await
    }

    /// Puts back what was kept of a manager, as if it had not been replaced.
    pub(super) async fn put_back(&self, node: &NodeHandle, of: &ObservedContainer) -> Result<()> {
        let kept = name(of);
        let mut script = vec!["set -e".to_owned()];
        let registry = REGISTRY.iter().map(|file| self.path(file));
        script.extend(registry.map(|file| format!("rm -rf {file}")));
        let handover = handover_directory(self.platform);
        script.push(format!("rm -rf '{handover}'"));
        let everything = self.path(&format!("{kept}/."));
        script.push(format!("cp -a {everything} {}", self.path("")));
        script.push(format!("rm -rf {}", self.path(&kept)));
        self.run(node, script, "putting back what the former manager left")
            .await
    }

    /// Drops what was kept of a manager that is not needed any more.
    pub(super) async fn forget(&self, node: &NodeHandle, of: &ObservedContainer) -> Result<()> {
        let script = vec![format!("rm -rf {}", self.path(&name(of)))];
        self.run(node, script, "removing what the former manager left")
            .await
    }

    /// What there is to keep.
    fn files(&self) -> impl Iterator<Item = &'static str> {
        let all = REGISTRY.into_iter().chain(["manager"]);
        all.filter(|file| self.lists(file))
    }

    async fn run(&self, node: &NodeHandle, script: Vec<String>, what: &str) -> Result<()> {
        let command = HostCommand::new(script.join("\n")).as_root();
        node.host.exec(command).await?.success(what)?;
        Ok(())
    }
}

fn name(of: &ObservedContainer) -> String {
    let id = of.id.0.get(..12).unwrap_or(&of.id.0);
    format!("{PREFIX}{id}")
}
