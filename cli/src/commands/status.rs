//! `status`: nodes, services, endpoints.

use comfy_table::{Table, presets};
use lifecycle_core::api::wire::{ManagerV1, NodeV1, PlatformState, ServiceV1};
use serde::Serialize;

use crate::arguments::Arguments;
use crate::commands;
use crate::failure::Failure;
use crate::printer;
use crate::progress::ProgressLines;

/// The document of `status --json`.
#[derive(Debug, Serialize)]
struct Status {
    platform: Platform,
    manager: Option<ManagerV1>,
    nodes: Vec<NodeV1>,
    services: Vec<ServiceV1>,
}

#[derive(Debug, Serialize)]
struct Platform {
    name: String,
    id: String,
    generation: u64,
    state: PlatformState,
}

pub(crate) async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    let client = bootstrapper.client(identity.id).await?;
    let (platform, nodes, services) =
        tokio::try_join!(client.platform(), client.nodes(), client.services())?;
    let status = Status {
        platform: Platform {
            name: platform.name,
            id: platform.id,
            generation: platform.generation,
            state: platform.state,
        },
        manager: platform.manager,
        nodes,
        services,
    };
    if arguments.json {
        printer::document(&status)
    } else {
        printer::data(&text(&status))
    }
}

fn text(status: &Status) -> String {
    let platform = &status.platform;
    let state = serde_json::to_value(platform.state).unwrap_or_default();
    let manager = status.manager.as_ref().map_or_else(String::new, |m| {
        format!(", manager {} on {}", m.url, m.node)
    });
    format!(
        "{} {}: generation {}{manager}\n\n{}\n\n{}",
        platform.name,
        state.as_str().unwrap_or_default(),
        platform.generation,
        nodes_table(&status.nodes),
        services_table(&status.services),
    )
}

fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(headings.to_vec());
    table
}

/// A line per node.
pub(crate) fn nodes_table(nodes: &[NodeV1]) -> String {
    let mut table = table(&["NODE", "STATE", "ADDRESS", "DOCKER"]);
    for node in nodes {
        let address = node.addresses.public.or(node.addresses.private);
        let mut state = node.state.clone();
        if let (Some(since), Some(why)) = (node.unknown_since, &node.unknown_why) {
            state = format!("{state} since {}: {why}", since.format("%FT%T%.6fZ"));
        }
        table.add_row(vec![
            node.name.to_string(),
            state,
            address.map(|a| a.to_string()).unwrap_or_default(),
            node.docker.version.clone().unwrap_or_default(),
        ]);
    }
    table.trim_fmt()
}

/// A line per instance, with its endpoints.
pub(crate) fn services_table(services: &[ServiceV1]) -> String {
    let mut table = table(&["SERVICE", "STATE", "NODE", "ENDPOINTS"]);
    for instance in services.iter().flat_map(|s| &s.instances) {
        let endpoints: Vec<String> = instance
            .endpoints
            .iter()
            .map(|e| format!("{}:{}→{}/{}", e.ip, e.port, e.container_port, e.protocol))
            .collect();
        let state = match &instance.why {
            Some(why) => format!("{}: {why}", instance.state),
            None => instance.state.clone(),
        };
        table.add_row(vec![
            instance.id.clone(),
            state,
            instance
                .node
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            endpoints.join(" "),
        ]);
    }
    table.trim_fmt()
}
