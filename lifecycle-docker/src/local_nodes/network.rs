//! Creates and removes the network that a platform's nodes share. The network's subnet does not
//! overlap any other network.

use std::collections::HashMap;

use bollard::Docker;
use bollard::models::{Ipam, IpamConfig, Network, NetworkCreateRequest};
use bollard::query_parameters::ListNetworksOptions;
use lifecycle_core::{Error, Result};

use super::engine::{absent_is_none, engine_error, refused_for, status};
use super::subnet::{Subnet, candidates, routed};
use crate::labels;

/// The desired state of a platform's network.
#[derive(Debug, Clone, Copy)]
pub(super) struct DesiredNetwork<'a> {
    pub(super) name: &'a str,
    /// The network's labels, which also identify it.
    pub(super) labels: &'a HashMap<String, String>,
    /// The configured subnet; if `None`, a free subnet is chosen.
    pub(super) subnet: Option<Subnet>,
}

impl DesiredNetwork<'_> {
    /// Ensures that the platform's network exists, and returns its subnet. An existing network
    /// keeps its subnet, because the nodes already have addresses in it.
    pub(super) async fn ensure(&self, docker: &Docker) -> Result<Subnet> {
        let networks = all(docker).await?;
        if let Some(subnet) = self.existing(&networks)? {
            return Ok(subnet);
        }
        let taken = taken(&networks).await;
        let free: Vec<Subnet> = match self.subnet {
            Some(configured) => vec![configured],
            None => candidates()
                .filter(|candidate| !taken.iter().any(|other| candidate.overlaps(*other)))
                .collect(),
        };
        for subnet in free {
            match docker.create_network(self.request(subnet)).await {
                Ok(created) => return self.settle(docker, &created.id, subnet).await,
                Err(error) if refused_for(&error, "overlap") => {}
                // Another process created a network with this name; its owner is checked below.
                Err(error) if status(&error) == Some(409) => {}
                Err(error) => {
                    return Err(engine_error(&format!("creating {}", self.title()), error));
                }
            }
            if let Some(subnet) = self.existing(&all(docker).await?)? {
                return Ok(subnet);
            }
        }
        Err(match self.subnet {
            Some(configured) => Error::invalid(
                format!("subnet {configured} of local nodes"),
                "the subnet overlaps another network of the engine",
                "choose another subnet, or remove the setting to use a free subnet",
            ),
            None => Error::exhausted(
                "subnets for local nodes",
                "all of 10.89.0.0/16 is in use",
                "remove unused Docker networks, or configure a subnet",
            ),
        })
    }

    /// Removes the network. Succeeds if the network is absent. Fails with [`Error::Conflict`] if
    /// the network is in use.
    pub(super) async fn remove(&self, docker: &Docker) -> Result<()> {
        for network in self.owned(&all(docker).await?) {
            let id = network.id.as_deref().unwrap_or(self.name);
            match absent_is_none(docker.remove_network(id).await) {
                Ok(_) => {}
                Err(error) if refused_for(&error, "active endpoints") => {
                    return Err(Error::conflict(
                        self.title(),
                        "containers still use the network",
                    ));
                }
                Err(error) => {
                    return Err(engine_error(&format!("removing {}", self.title()), error));
                }
            }
        }
        Ok(())
    }

    /// Returns the reason why the configured subnet cannot be used, if any.
    pub(super) async fn obstacle(&self, docker: &Docker) -> Result<Option<String>> {
        let networks = all(docker).await?;
        let (Some(configured), None) = (self.subnet, self.existing(&networks)?) else {
            return Ok(None);
        };
        Ok(taken(&networks)
            .await
            .into_iter()
            .find(|other| configured.overlaps(*other))
            .map(|other| {
                format!(
                    "The subnet {configured} of local nodes overlaps {other}, which this machine \
                     uses: choose another subnet, or remove the setting to use a free subnet."
                )
            }))
    }

    fn title(&self) -> String {
        format!("network {}", self.name)
    }

    /// Returns this platform's networks, sorted by id. If two processes created a network
    /// concurrently, there are two, and the first is used.
    fn owned<'n>(&self, networks: &'n [Network]) -> Vec<&'n Network> {
        let mut owned: Vec<&Network> = networks
            .iter()
            .filter(|network| network.name.as_deref() == Some(self.name) && self.owns(network))
            .collect();
        owned.sort_by(|one, other| one.id.cmp(&other.id));
        owned
    }

    fn owns(&self, network: &Network) -> bool {
        network.labels.as_ref().is_some_and(|found| {
            found.get(labels::PLATFORM_ID) == self.labels.get(labels::PLATFORM_ID)
        })
    }

    fn existing(&self, networks: &[Network]) -> Result<Option<Subnet>> {
        if let Some(network) = self.owned(networks).first() {
            return match subnets(network).next() {
                Some(subnet) => Ok(Some(subnet)),
                None => Err(Error::corrupt(
                    self.title(),
                    "the network has no IPv4 subnet",
                )),
            };
        }
        let foreign = networks
            .iter()
            .any(|network| network.name.as_deref() == Some(self.name));
        if foreign {
            return Err(Error::conflict(
                self.title(),
                "a network with this name exists, but does not belong to this platform",
            ));
        }
        Ok(None)
    }

    /// If another process has created a network concurrently, keeps only one of the two.
    async fn settle(&self, docker: &Docker, created: &str, subnet: Subnet) -> Result<Subnet> {
        let networks = all(docker).await?;
        let stays = self.owned(&networks).first().copied();
        let Some(other) = stays.filter(|network| network.id.as_deref() != Some(created)) else {
            return Ok(subnet);
        };
        absent_is_none(docker.remove_network(created).await)
            .map_err(|error| engine_error(&format!("removing {}", self.title()), error))?;
        subnets(other)
            .next()
            .ok_or_else(|| Error::corrupt(self.title(), "the network has no IPv4 subnet"))
    }

    fn request(&self, subnet: Subnet) -> NetworkCreateRequest {
        NetworkCreateRequest {
            name: self.name.to_owned(),
            driver: Some("bridge".to_owned()),
            ipam: Some(Ipam {
                config: Some(vec![IpamConfig {
                    subnet: Some(subnet.to_string()),
                    gateway: Some(subnet.gateway().to_string()),
                    ..IpamConfig::default()
                }]),
                ..Ipam::default()
            }),
            labels: Some(self.labels.clone()),
            ..NetworkCreateRequest::default()
        }
    }
}

async fn all(docker: &Docker) -> Result<Vec<Network>> {
    docker
        .list_networks(None::<ListNetworksOptions>)
        .await
        .map_err(|error| engine_error("listing the engine's networks", error))
}

fn subnets(network: &Network) -> impl Iterator<Item = Subnet> {
    network
        .ipam
        .iter()
        .flat_map(|ipam| ipam.config.iter().flatten())
        .filter_map(|config| {
            let (address, prefix) = config.subnet.as_deref()?.split_once('/')?;
            Subnet::new(address.parse().ok()?, prefix.parse().ok()?)
        })
}

/// Returns the subnets that a new network must not overlap: those of the engine's networks and of
/// this machine's routes. Outside Linux, the engine runs in a VM, and the routes do not matter.
async fn taken(networks: &[Network]) -> Vec<Subnet> {
    let table = tokio::fs::read_to_string("/proc/net/route")
        .await
        .unwrap_or_default();
    networks
        .iter()
        .flat_map(subnets)
        .chain(routed(&table))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(id: &str, name: &str, platform: &str, subnet: &str) -> Network {
        Network {
            id: Some(id.to_owned()),
            name: Some(name.to_owned()),
            labels: Some(HashMap::from([(
                labels::PLATFORM_ID.to_owned(),
                platform.to_owned(),
            )])),
            ipam: Some(Ipam {
                config: Some(vec![
                    IpamConfig {
                        subnet: Some("fd00::/64".to_owned()),
                        ..IpamConfig::default()
                    },
                    IpamConfig {
                        subnet: Some(subnet.to_owned()),
                        ..IpamConfig::default()
                    },
                ]),
                ..Ipam::default()
            }),
            ..Network::default()
        }
    }

    #[test]
    fn all_processes_choose_the_same_of_two_duplicate_networks() {
        let labels = HashMap::from([(labels::PLATFORM_ID.to_owned(), "p".to_owned())]);
        let wish = DesiredNetwork {
            name: "demo",
            labels: &labels,
            subnet: None,
        };
        let mut networks = vec![
            network("b", "demo", "p", "10.89.1.0/24"),
            network("a", "demo", "p", "10.89.0.0/24"),
        ];
        let first = wish.existing(&networks).unwrap();
        networks.reverse();
        assert_eq!(wish.existing(&networks).unwrap(), first);
        assert_eq!(first.unwrap().to_string(), "10.89.0.0/24");
    }

    #[test]
    fn a_foreign_network_of_the_same_name_is_a_conflict() {
        let labels = HashMap::from([(labels::PLATFORM_ID.to_owned(), "p".to_owned())]);
        let wish = DesiredNetwork {
            name: "demo",
            labels: &labels,
            subnet: None,
        };
        let foreign = [network("a", "demo", "q", "10.89.0.0/24")];
        assert!(matches!(
            wish.existing(&foreign),
            Err(Error::Conflict { .. })
        ));
    }
}
