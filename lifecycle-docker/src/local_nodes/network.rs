//! The network that a platform's nodes share: made once, with a subnet that overlaps nothing.

use std::collections::HashMap;

use bollard::Docker;
use bollard::models::{Ipam, IpamConfig, Network, NetworkCreateRequest};
use bollard::query_parameters::ListNetworksOptions;
use lifecycle_core::{Error, Result};

use super::engine::{absent_is_none, engine_error, refused_for, status};
use super::subnet::{Subnet, candidates, routed};
use crate::labels;

/// Whose network it is, and how it should be.
#[derive(Debug, Clone, Copy)]
pub(super) struct NetworkWish<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// The labels that it gets and is known by.
    pub(super) labels: &'a HashMap<String, String>,
    /// The subnet that the operator wants; without one a free one is looked for.
    pub(super) subnet: Option<Subnet>,
}

impl NetworkWish<'_> {
    /// The platform's network, made if there is none, and its subnet. One that exists keeps
    /// its subnet, whatever is wanted: the nodes in it have their addresses.
    pub(super) async fn ensure(&self, docker: &Docker) -> Result<Subnet> {
        let networks = all(docker).await?;
        if let Some(subnet) = self.existing(&networks)? {
            return Ok(subnet);
        }
        let taken = taken(&networks).await;
        let free: Vec<Subnet> = match self.subnet {
            Some(wanted) => vec![wanted],
            None => candidates()
                .filter(|candidate| !taken.iter().any(|other| candidate.overlaps(*other)))
                .collect(),
        };
        for subnet in free {
            match docker.create_network(self.request(subnet)).await {
                Ok(created) => return self.settle(docker, &created.id, subnet).await,
                Err(error) if refused_for(&error, "overlap") => {}
                // Someone was quicker; if it was one of us, it is there now.
                Err(error) if status(&error) == Some(409) => {}
                Err(error) => return Err(engine_error(&self.title(), error)),
            }
            if let Some(subnet) = self.existing(&all(docker).await?)? {
                return Ok(subnet);
            }
        }
        Err(match self.subnet {
            Some(wanted) => Error::invalid(
                format!("subnet {wanted} of local nodes"),
                "it overlaps a network that the engine has",
                "choose another subnet, or none: a free one is found then",
            ),
            None => Error::exhausted(
                "subnets for local nodes",
                "all of 10.89.0.0/16 is taken",
                "remove Docker networks that are no longer needed, or configure a subnet",
            ),
        })
    }

    /// Removes the network. Absent is Ok; one that is still used is a conflict.
    pub(super) async fn remove(&self, docker: &Docker) -> Result<()> {
        for network in self.ours(&all(docker).await?) {
            let id = network.id.as_deref().unwrap_or(self.name);
            match absent_is_none(docker.remove_network(id).await) {
                Ok(_) => {}
                Err(error) if refused_for(&error, "active endpoints") => {
                    return Err(Error::conflict(self.title(), "containers still use it"));
                }
                Err(error) => return Err(engine_error(&self.title(), error)),
            }
        }
        Ok(())
    }

    /// Why the wanted subnet cannot be had, if so.
    pub(super) async fn obstacle(&self, docker: &Docker) -> Result<Option<String>> {
        let networks = all(docker).await?;
        let (Some(wanted), None) = (self.subnet, self.existing(&networks)?) else {
            return Ok(None);
        };
        Ok(taken(&networks)
            .await
            .into_iter()
            .find(|other| wanted.overlaps(*other))
            .map(|other| {
                format!(
                    "The subnet {wanted} of local nodes overlaps {other}, which this machine \
                     uses: choose another one, or none, so that a free one is found."
                )
            }))
    }

    fn title(&self) -> String {
        format!("network {}", self.name)
    }

    /// Ours, the one that counts first: the engine allows a name twice, should two processes
    /// have made it at the same moment, and the one with the smaller id stays.
    fn ours<'n>(&self, networks: &'n [Network]) -> Vec<&'n Network> {
        let mut ours: Vec<&Network> = networks
            .iter()
            .filter(|network| network.name.as_deref() == Some(self.name) && self.owns(network))
            .collect();
        ours.sort_by(|one, other| one.id.cmp(&other.id));
        ours
    }

    fn owns(&self, network: &Network) -> bool {
        network.labels.as_ref().is_some_and(|found| {
            found.get(labels::PLATFORM_ID) == self.labels.get(labels::PLATFORM_ID)
        })
    }

    fn existing(&self, networks: &[Network]) -> Result<Option<Subnet>> {
        if let Some(network) = self.ours(networks).first() {
            return match subnets(network).next() {
                Some(subnet) => Ok(Some(subnet)),
                None => Err(Error::corrupt(self.title(), "it has no IPv4 subnet")),
            };
        }
        let foreign = networks
            .iter()
            .any(|network| network.name.as_deref() == Some(self.name));
        if foreign {
            return Err(Error::conflict(
                self.title(),
                "it exists and does not carry this platform's id",
            ));
        }
        Ok(None)
    }

    /// After we made one: whether another process made one too, and which of them stays.
    async fn settle(&self, docker: &Docker, made: &str, subnet: Subnet) -> Result<Subnet> {
        let networks = all(docker).await?;
        let stays = self.ours(&networks).first().copied();
        let Some(other) = stays.filter(|network| network.id.as_deref() != Some(made)) else {
            return Ok(subnet);
        };
        absent_is_none(docker.remove_network(made).await)
            .map_err(|error| engine_error(&self.title(), error))?;
        subnets(other)
            .next()
            .ok_or_else(|| Error::corrupt(self.title(), "it has no IPv4 subnet"))
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
        .map_err(|error| engine_error("the engine's networks", error))
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

/// What a new network must not overlap: the engine's networks and this machine's routes (to
/// an office network behind a VPN, say). Where the routes cannot be read, there are none to
/// mind: the engine then runs in a machine of its own.
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
    fn of_two_networks_that_raced_all_agree_on_one() {
        let labels = HashMap::from([(labels::PLATFORM_ID.to_owned(), "p".to_owned())]);
        let wish = NetworkWish {
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
    fn a_network_of_the_name_that_is_not_ours_is_a_conflict() {
        let labels = HashMap::from([(labels::PLATFORM_ID.to_owned(), "p".to_owned())]);
        let wish = NetworkWish {
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
