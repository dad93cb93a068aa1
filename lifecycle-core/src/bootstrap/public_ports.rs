//! Reports public services whose ports the platform cannot make reachable from outside.

use crate::cloud::{CloudCapabilities, Firewall};
use crate::model::Existing;
use crate::platform::{CloudSpec, Declaration};

/// Returns a remark if public services need something that the platform cannot set up.
pub(super) fn remark(
    declaration: &Declaration,
    capabilities: &CloudCapabilities,
) -> Option<String> {
    let services = declaration.services.values();
    let public: Vec<String> = services
        .filter(|service| service.public)
        .map(|service| {
            let ports: Vec<String> = service
                .public_ports()
                .map(|port| port.to_string())
                .collect();
            format!("{} ({})", service.name, ports.join(", "))
        })
        .collect();
    if public.is_empty() {
        return None;
    }
    let public = public.join(", ");
    let has_no_addresses =
        matches!(&declaration.cloud, CloudSpec::Azure(azure) if !azure.public_ip);
    let nodes = declaration.nodes.values();
    let elsewhere: Vec<&str> = nodes
        .filter(|node| node.existing == Some(Existing::Host))
        .map(|node| node.name.as_str())
        .collect();
    match capabilities.firewall {
        Firewall::Managed if !elsewhere.is_empty() => Some(format!(
            "the provider `{}` cannot open ports of the machines {}: where they run public services, \
             open their ports in the firewall of the machines yourself ({public})",
            capabilities.name,
            elsewhere.join(", ")
        )),
        Firewall::External => Some(format!(
            "the provider `{}` cannot open ports: open those of the public services {public} in \
             the firewall of the nodes' network yourself",
            capabilities.name
        )),
        Firewall::Managed if has_no_addresses => Some(format!(
            "the nodes have no public addresses, because `public_ip` is false: the public services \
             {public} are reachable only through a load balancer that you set up"
        )),
        Firewall::Managed | Firewall::Absent => None,
    }
}
