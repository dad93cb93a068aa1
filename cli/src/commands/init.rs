//! `init`: writes an initial `platform.toml` for the Compose file.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use lifecycle_core::model::PlatformName;
use lifecycle_core::platform::Starter;
use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::{Arguments, Init};
use crate::confirm;
use crate::failure::Failure;
use crate::identity::NOT_UP_YET;
use crate::paint::{Tone, paint};
use crate::printer;
use crate::project::Project;

/// The document of `init --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Written {
    /// The file that was written.
    file: PathBuf,
    /// The platform's name, as written to the file.
    name: PlatformName,
    /// The number of nodes that the file declares.
    nodes: u16,
}

pub(crate) async fn run(arguments: &Arguments, options: &Init) -> Result<(), Failure> {
    let project = Project::find(arguments)?;
    let path = project.sources().platform_file();
    let is_interactive = !options.yes && std::io::stdin().is_terminal();
    if path.exists() && !options.force {
        if !is_interactive {
            return Err(Failure::Exists(path));
        }
        let question = format!("{} already exists. Overwrite it?", path.display());
        confirm::confirm(false, &question).await?;
    }
    // Load the project without the platform.toml that is about to be overwritten.
    let (loaded, mut nodes) = match options.nodes {
        Some(nodes) => (project.on_nodes(nodes).load(NOT_UP_YET).await?, nodes),
        None => project.on_fewest_nodes(NOT_UP_YET).await?,
    };
    let mut name = loaded.declaration.name;
    if is_interactive {
        let services: Vec<&str> = loaded
            .declaration
            .services
            .keys()
            .map(AsRef::as_ref)
            .collect();
        printer::message(&format!("Services: {}", services.join(", ")));
        name = confirm::value("The platform's name?", name, |text| {
            PlatformName::try_from(text).map_err(|error| error.to_string())
        })
        .await?;
        if options.nodes.is_none() {
            nodes = confirm::value("How many nodes?", nodes, |text| {
                let number = text.parse().ok();
                let fits = number.filter(|n| (1..=Starter::MAX_NODES).contains(n));
                fits.ok_or_else(|| format!("enter a number from 1 to {}", Starter::MAX_NODES))
            })
            .await?;
            // The services may not fit on this number of nodes, so check before writing.
            project.on_nodes(nodes).load(NOT_UP_YET).await?;
        }
    }
    let starter = Starter { name, nodes };
    let replace = path.exists();
    let path = project.sources().write_platform_file(&starter, replace)?;
    if arguments.json {
        return printer::document(&Written {
            file: path,
            name: starter.name,
            nodes: starter.nodes,
        });
    }
    printer::message(&format!("Wrote {}.", path.display()));
    let next = "`bootstrapper plan` shows what `bootstrapper up` would do";
    printer::message(&format!("{} {next}", paint(Tone::Accent, "next:")));
    Ok(())
}
