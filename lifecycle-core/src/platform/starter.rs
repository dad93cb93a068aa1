//! Creates an initial `platform.toml` for a Compose file. The new file contains the chosen values,
//! and the defaults as comments.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use super::{Diagnostics, Loaded, ManagerSpec, Sources, load};
use crate::code::CodeStore;
use crate::error::{Error, Result};
use crate::model::{PlatformId, PlatformName};

/// The chosen values for the initial file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Starter {
    pub name: PlatformName,
    pub nodes: u16,
}

impl Starter {
    /// The largest reasonable number of nodes on one machine.
    pub const MAX_NODES: u16 = 50;

    /// Returns the text of the file.
    pub fn text(&self) -> String {
        let mut text = format!(
            "# Settings of the whole platform; services are in the Compose file.\n\
             # Every key: docs/platform-toml.md; for editors: `bootstrapper schema`.\n\
             \n\
             name = \"{}\"\n\
             \n\
             [cloud]\n\
             # Nodes are containers on the local Docker engine that behave like VMs.\n\
             provider = \"local\"\n\
             # subnet = \"10.42.0.0/24\"  # default: a free one\n\n",
            self.name
        );
        let several = "# [nodes.db-host]               # a node with its own name\n\
             # labels = { disk = \"ssd\" }     # select it for a service with\n\
             #                               # deploy.placement.constraints: [node.labels.disk == ssd]\n\
             # capacity = { cpus = 4, memory = \"8GiB\" }\n";
        let nodes = if self.nodes == 1 {
            format!("[nodes.node-1]\n\n{several}")
        } else {
            format!(
                "[[node_pool]]\nname = \"node\"\ncount = {}\n\n{several}",
                self.nodes
            )
        };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{nodes}\n\
             # [manager]                     # the lifecycle manager\n\
             # node = \"node-1\"               # default: the first node\n\
             # port = {}\n\
             \n\
             # [registry]                    # default: a file on the manager's node\n\
             # url = {{ env = \"REGISTRY_URL\" }}  # a PostgreSQL database\n\
             \n\
             # [code]                        # code bases for `x-lifecycle.code` of services\n\
             # path = \"code\"\n",
            ManagerSpec::PORT
        );
        text
    }
}

/// Loads a platform without its `platform.toml`. Returns the smallest number of nodes with which
/// the Compose files are valid. For example, replicas that use the same host port need several
/// nodes.
///
/// # Errors
/// If no number of nodes is sufficient, the problems with a single node.
pub async fn load_on_fewest_nodes(
    sources: &Sources,
    id: PlatformId,
    code: &dyn CodeStore,
) -> std::result::Result<(Loaded, u16), Diagnostics> {
    let mut sources = Sources {
        platform_toml: None,
        nodes: 1,
        ..sources.clone()
    };
    let alone = match load(&sources, id, code).await {
        Ok(loaded) => return Ok((loaded, 1)),
        Err(problems) => problems,
    };
    for nodes in 2..=Starter::MAX_NODES {
        sources.nodes = nodes;
        if let Ok(loaded) = load(&sources, id, code).await {
            return Ok((loaded, nodes));
        }
    }
    Err(alone)
}

impl Sources {
    /// Returns the path of `platform.toml`, whether the file exists or not.
    pub fn platform_file(&self) -> PathBuf {
        self.project_dir.join(super::sources::PLATFORM_FILE)
    }

    /// Writes an initial `platform.toml`. Overwrites an existing file only if `replace` is set.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the file exists and `replace` is not set.
    pub fn write_platform_file(&self, starter: &Starter, replace: bool) -> Result<PathBuf> {
        let path = self.platform_file();
        let failed = |error| Error::io(format!("writing {}", path.display()), error);
        let mut options = std::fs::OpenOptions::new();
        if replace {
            options.write(true).create(true).truncate(true);
        } else {
            options.write(true).create_new(true);
        }
        let mut file = match options.open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Error::Conflict {
                    what: path.display().to_string(),
                    why: "the file already exists".into(),
                });
            }
            opened => opened.map_err(failed)?,
        };
        file.write_all(starter.text().as_bytes()).map_err(failed)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PlatformId;
    use crate::platform::{find, load};

    #[tokio::test]
    async fn the_initial_file_is_valid() {
        for nodes in [1, 3] {
            let directory = tempfile::tempdir().unwrap();
            let compose = "services:\n  web:\n    image: nginx\n";
            std::fs::write(directory.path().join("compose.yaml"), compose).unwrap();
            let sources = find(directory.path(), &[]).unwrap();
            let starter = Starter {
                name: "shop".try_into().unwrap(),
                nodes,
            };
            sources.write_platform_file(&starter, false).unwrap();
            let again = sources.write_platform_file(&starter, false).unwrap_err();
            assert!(matches!(again, Error::Conflict { .. }), "{again}");
            let sources = find(directory.path(), &[]).unwrap();
            let code = crate::code::DirectoryStore::new(directory.path().to_owned());
            let id = PlatformId::new(uuid::Uuid::nil());
            let loaded = load(&sources, id, &code).await.unwrap();
            assert_eq!(loaded.declaration.nodes.len(), usize::from(nodes));
            assert_eq!(loaded.declaration.name.as_str(), "shop");
            assert_eq!(loaded.declaration.manager.node.as_str(), "node-1");
            // The commented lines must be valid too.
            let text = starter.text();
            let comments = text.lines().filter_map(|line| line.strip_prefix("# "));
            let keys = comments.filter(|line| {
                line.starts_with('[') || (line.contains('=') && !line.contains("=="))
            });
            let text = keys.collect::<Vec<_>>().join("\n");
            assert!(toml::from_str::<toml::Table>(&text).is_ok(), "{text}");
        }
    }
}
