//! `status`: prints nodes, services, and endpoints.

use lifecycle_core::api::wire::{
    InstanceStateV1, InstanceV1, ManagerV1, NodeV1, OverrideV1, PlatformState, SchedulingV1,
    ServiceV1,
};
use lifecycle_core::clock::{Clock as _, SystemClock};
use lifecycle_core::model::Protocol;
use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::{Arguments, Status as Options};
use crate::commands::{self, overrides};
use crate::failure::Failure;
use crate::paint::{Tone, of_state, paint};
use crate::printer;
use crate::progress::ProgressLines;
use crate::table::Table;

/// The document of `status --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Status {
    /// The platform as a whole.
    platform: Platform,
    /// The node and URL of the manager, if recorded.
    manager: Option<ManagerV1>,
    /// All nodes that are declared or exist.
    nodes: Vec<NodeV1>,
    /// All declared services with their replicas.
    services: Vec<ServiceV1>,
    /// The changes that were requested at run time, on top of the files.
    overrides: Vec<OverrideV1>,
}

/// The platform as a whole.
#[derive(Debug, Serialize, JsonSchema)]
struct Platform {
    /// The platform's name.
    name: String,
    /// The platform's UUID.
    #[schemars(extend("format" = "uuid"))]
    id: String,
    /// The current generation; 0 before the first declaration.
    generation: u64,
    /// The state of the platform.
    state: PlatformState,
}

pub(crate) async fn run(arguments: &Arguments, options: &Options) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    let client = bootstrapper.client(identity.id).await?;
    let asked = async {
        tokio::try_join!(
            client.platform(),
            client.nodes(),
            client.services(),
            client.overrides()
        )
    };
    let (platform, nodes, services, overrides) = bootstrapper
        .wait("the manager's response", commands::ANSWERED_WITHIN)
        .until(asked)
        .await?;
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
        overrides,
    };
    if arguments.json {
        return printer::document(&status);
    }
    let tables = if options.wide {
        wide_tables(&status.nodes, &status.services)
    } else {
        tables(&status.nodes, &status.services, printer::width())
    };
    printer::data(&format!("{}\n\n{tables}", heading(&status)))?;
    overrides::notes(&status.overrides);
    Ok(())
}

fn heading(status: &Status) -> String {
    let platform = &status.platform;
    let state = serde_json::to_value(platform.state).unwrap_or_default();
    let state = state.as_str().unwrap_or_default();
    let manager = status.manager.as_ref().map_or_else(String::new, |m| {
        format!(", manager on {} ({})", m.node, m.url)
    });
    format!(
        "{} {}, generation {}{manager}",
        paint(Tone::Strong, &platform.name),
        paint(of_state(state), state),
        platform.generation,
    )
}

/// Formats the short output: one line per node and per replica, then the known reasons for their
/// states.
pub(crate) fn tables(nodes: &[NodeV1], services: &[ServiceV1], width: Option<usize>) -> String {
    let (nodes, mut whys) = node_table(nodes, width);
    let (instances, more) = instance_table(services, width);
    whys.extend(more);
    let mut text = format!("{nodes}\n\n{instances}");
    if let Some(public) = public_table(services) {
        text = format!("{text}\n\n{}", public.text(width));
    }
    with_whys(text, &whys)
}

/// Returns a table of the replicas, and the known reasons for their states.
fn instance_table(services: &[ServiceV1], width: Option<usize>) -> (String, Vec<String>) {
    let mut whys: Vec<String> = rollouts(services).collect();
    let mut table = Table::of(&["INSTANCE", "STATE", "NODE", "UP", "PORTS"]);
    for service in services.iter().filter(|s| s.instances.is_empty()) {
        let cells = vec![service.name.to_string(), "no replicas".to_owned()];
        table.row(Tone::Faint, cells);
    }
    for instance in services.iter().flat_map(|s| &s.instances) {
        let ports: Vec<String> = instance
            .endpoints
            .iter()
            .map(|e| match e.protocol {
                Protocol::Tcp => format!("{}→{}", e.port, e.container_port),
                protocol @ Protocol::Udp => format!("{}→{}/{protocol}", e.port, e.container_port),
            })
            .collect();
        table.row(
            of_state(&instance.state.to_string()),
            vec![
                instance.id.clone(),
                instance.state.to_string(),
                node_of(instance),
                up_for(instance),
                ports.join(" "),
            ],
        );
        if let Some(why) = &instance.why {
            whys.push(format!("{}: {}: {why}", instance.id, instance.state));
        }
        let is_shown = { instance.why.iter() }.any(|why| why.contains("its container ended "));
        whys.extend(ended(instance).filter(|_| !is_shown));
    }
    (table.text(width), whys)
}

/// Formats services alone.
pub(crate) fn services_text(services: &[ServiceV1], width: Option<usize>) -> String {
    let (table, whys) = instance_table(services, width);
    with_whys(table, &whys)
}

/// Formats the nodes alone.
pub(crate) fn nodes_text(nodes: &[NodeV1], width: Option<usize>) -> String {
    let (table, whys) = node_table(nodes, width);
    with_whys(table, &whys)
}

fn with_whys(text: String, whys: &[String]) -> String {
    if whys.is_empty() {
        return text;
    }
    let whys = whys.iter().map(|why| paint(Tone::Caution, why));
    format!("{text}\n\n{}", whys.collect::<Vec<_>>().join("\n"))
}

/// Returns a table of the nodes, and why some of them are unknown.
fn node_table(nodes: &[NodeV1], width: Option<usize>) -> (String, Vec<String>) {
    let mut table = Table::of(&["NODE", "STATE", "ADDRESS", "DOCKER"]);
    let mut whys = Vec::new();
    for node in nodes {
        let address = node.addresses.public.or(node.addresses.private);
        let state = match node.scheduling {
            SchedulingV1::Open => node.state.to_string(),
            scheduling => format!("{}, {scheduling}", node.state),
        };
        table.row(
            of_state(&node.state.to_string()),
            vec![
                node.name.to_string(),
                state,
                address.map(|a| a.to_string()).unwrap_or_default(),
                node.docker.version.clone().unwrap_or_default(),
            ],
        );
        if let Some(why) = unknown(node) {
            whys.push(format!("node {}: {}{why}", node.name, node.state));
        }
    }
    (table.text(width), whys)
}

/// Returns a table of the addresses at which services are reachable from outside, if there are any.
fn public_table(services: &[ServiceV1]) -> Option<Table> {
    let mut public = services
        .iter()
        .flat_map(|service| service.public.iter().map(move |one| (service, one)))
        .peekable();
    public.peek()?;
    let mut table = Table::of(&["SERVICE", "PUBLIC ADDRESS", "NODE"]);
    for (service, address) in public {
        let cells = vec![
            service.name.to_string(),
            address.to_string(),
            address.node.to_string(),
        ];
        table.row(Tone::Good, cells);
    }
    Some(table)
}

/// Returns a line about the ends of a replica's container.
fn ended(instance: &InstanceV1) -> Option<String> {
    let ended = instance.ended.as_ref()?;
    let last = ended.last.as_ref();
    let last = last.map_or_else(String::new, |last| format!(", the last time with {last}"));
    let id = &instance.id;
    Some(format!("{id}: its container ended {}×{last}", ended.count))
}

/// Returns a line for each service that is being rolled out.
fn rollouts(services: &[ServiceV1]) -> impl Iterator<Item = String> {
    let progress = |service: &ServiceV1| {
        let rollout = service.rollout.as_ref()?;
        Some(format!("{}: {rollout}", service.name))
    };
    services.iter().filter_map(progress)
}

/// Formats the wide output.
fn wide_tables(nodes: &[NodeV1], services: &[ServiceV1]) -> String {
    let mut table = Table::of(&["NODE", "STATE", "PRIVATE", "PUBLIC", "DOCKER"]);
    for node in nodes {
        let ip = |ip: Option<std::net::IpAddr>| ip.map(|a| a.to_string()).unwrap_or_default();
        table.row(
            of_state(&node.state.to_string()),
            vec![
                node.name.to_string(),
                format!("{}{}", node.state, unknown(node).unwrap_or_default()),
                ip(node.addresses.private),
                ip(node.addresses.public),
                node.docker.version.clone().unwrap_or_default(),
            ],
        );
    }
    let nodes = table.text(None);
    let mut table = Table::of(&[
        "INSTANCE",
        "CLASS",
        "STATE",
        "NODE",
        "CONTAINER",
        "STARTED",
        "READY",
        "ENDPOINTS",
    ]);
    for service in services {
        for instance in &service.instances {
            let endpoints: Vec<String> = instance
                .endpoints
                .iter()
                .map(|e| format!("{}:{}→{}/{}", e.ip, e.port, e.container_port, e.protocol))
                .collect();
            let state = match &instance.why {
                Some(why) => format!("{}: {why}", instance.state),
                None => instance.state.to_string(),
            };
            let container = instance.container.as_deref().unwrap_or_default();
            table.row(
                of_state(&instance.state.to_string()),
                vec![
                    instance.id.clone(),
                    service.class.to_string(),
                    state,
                    node_of(instance),
                    container.get(..12).unwrap_or(container).to_owned(),
                    moment(instance.started_at),
                    moment(instance.ready_at),
                    endpoints.join(" "),
                ],
            );
        }
    }
    let mut parts = vec![nodes, table.text(None)];
    parts.extend(public_table(services).map(|table| table.text(None)));
    parts.extend(rollouts(services));
    parts.join("\n\n")
}

fn node_of(instance: &InstanceV1) -> String {
    let node = instance.node.as_ref();
    node.map(ToString::to_string).unwrap_or_default()
}

fn unknown(node: &NodeV1) -> Option<String> {
    let (since, why) = (node.unknown_since?, node.unknown_why.as_ref()?);
    Some(format!(" since {}: {why}", since.format("%FT%T%.6fZ")))
}

/// Formats how long the container has been running.
fn up_for(instance: &InstanceV1) -> String {
    let runs = matches!(
        instance.state,
        InstanceStateV1::Starting | InstanceStateV1::Ready | InstanceStateV1::Unhealthy
    );
    let Some(started) = instance.started_at.filter(|_| runs) else {
        return String::new();
    };
    let seconds = (SystemClock.now() - started).num_seconds().max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn moment(at: Option<chrono::DateTime<chrono::Utc>>) -> String {
    at.map(|at| at.format("%FT%TZ").to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use lifecycle_core::model::{
        Endpoint, InstanceId, NodeName, Replica, ServiceClass, ServiceName,
    };

    use super::*;

    #[test]
    fn the_short_form_fits_the_terminal() {
        let name = ServiceName::try_from("a-service-with-quite-a-long-name").unwrap();
        let id = InstanceId {
            service: name.clone(),
            replica: Replica(1),
        };
        let endpoint = Endpoint {
            ip: [10, 0, 0, 1].into(),
            port: 20_000,
            container_port: 8_080,
            protocol: Protocol::Udp,
        };
        let mut instance = InstanceV1::new(&id, InstanceStateV1::Failed);
        instance.node = NodeName::try_from("a-node-with-a-long-name").ok();
        instance.why = Some("its container ended".into());
        instance.endpoints = vec![endpoint.into(); 5];
        let services = [ServiceV1::new(
            name,
            ServiceClass::Microservice,
            vec![instance],
        )];
        let text = anstream::adapter::strip_str(&tables(&[], &services, Some(80))).to_string();
        assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
        assert!(text.contains('…'), "{text}");
        assert!(text.ends_with("-1: failed: its container ended"), "{text}");
        let piped = tables(&[], &services, None);
        assert!(piped.contains("20000→8080/udp"), "{piped}");
    }
}
