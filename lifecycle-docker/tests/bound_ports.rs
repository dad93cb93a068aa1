//! Tests the address of a node at which the host ports that the platform chooses are bound.

#![expect(clippy::unwrap_used, reason = "a failed setup fails the test")]

mod fixture;

use std::net::IpAddr;

use fixture::{SOCKET, Swept, docker, instance, owner, unique_name};
use lifecycle_core::model::{Protocol, PublishedPort};
use lifecycle_core::runtime::{ContainerRuntime as _, ContainerSpec, Owner};
use lifecycle_docker::DockerEngine;

/// A Docker network. Its gateway is an address of this machine until the network is removed.
struct Network {
    name: String,
    gateway: IpAddr,
}

impl Network {
    async fn create() -> Self {
        let name = unique_name();
        docker(&["network", "create", &name]).await;
        let format = "{{(index .IPAM.Config 0).Gateway}}";
        let gateway = docker(&["network", "inspect", "--format", format, &name]).await;
        Self {
            name,
            gateway: gateway.parse().unwrap(),
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = std::process::Command::new("docker")
            .args(["network", "rm", &self.name])
            .output();
    }
}

fn engine(owner: &Owner, address: IpAddr) -> DockerEngine {
    let engine = DockerEngine::local(SOCKET, owner.clone()).unwrap();
    engine.bound_to(Some(address))
}

fn web(owner: &Owner) -> ContainerSpec {
    let mut spec = instance(owner, "web", "sleep 1000");
    spec.ports.insert((80, Protocol::Tcp), 20_900);
    spec
}

/// Ensures the container. Returns the addresses at which Docker binds its port.
async fn ensure(engine: &DockerEngine, spec: &ContainerSpec) -> Vec<String> {
    let observed = engine.ensure_container(spec).await.unwrap();
    let [(80, Protocol::Tcp, host)] = observed.ports[..] else {
        panic!("{observed:?}");
    };
    let bound = docker(&["port", &spec.name, "80/tcp"]).await;
    let port = format!(":{host}");
    let addresses = bound.lines().map(|line| {
        let address = line.strip_suffix(&port);
        address
            .unwrap_or_else(|| panic!("{host} in {bound}"))
            .to_owned()
    });
    addresses.collect()
}

#[tokio::test]
async fn chosen_ports_are_bound_at_the_address_that_other_nodes_use() {
    let owner = owner();
    let _swept = Swept(owner.clone());
    let spec = web(&owner);
    let network = Network::create().await;
    let first = engine(&owner, network.gateway);
    assert_eq!(
        ensure(&first, &spec).await,
        [network.gateway.to_string()],
        "only the node's private address"
    );

    // The node gets another address while the container is stopped.
    first.stop_container(&spec.name, None).await.unwrap();
    drop(network);
    let network = Network::create().await;
    let second = engine(&owner, network.gateway);
    assert_eq!(ensure(&second, &spec).await, [network.gateway.to_string()]);

    // A container that is bound at the earlier address cannot be reached at the new one.
    let third = engine(&owner, [192, 0, 2, 1].into());
    let state = third.state().await.unwrap();
    assert!(state.containers[0].ports.is_empty(), "{state:?}");
}

#[tokio::test]
async fn ports_are_bound_at_all_addresses_if_the_host_lacks_its_private_address() {
    let owner = owner();
    let _swept = Swept(owner.clone());
    let translated = engine(&owner, [192, 0, 2, 1].into());
    for _ in 0..2 {
        let spec = web(&owner);
        let bound = ensure(&translated, &spec).await;
        assert_eq!(bound.first().map(String::as_str), Some("0.0.0.0"));
        translated.remove_container(&spec.name).await.unwrap();
    }
}

#[tokio::test]
async fn a_declared_address_that_the_host_lacks_is_an_error() {
    let owner = owner();
    let _swept = Swept(owner.clone());
    let network = Network::create().await;
    let engine = engine(&owner, network.gateway);
    let mut wrong = web(&owner);
    wrong.template.ports = vec![PublishedPort {
        host_port: Some(20_950),
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: Some([192, 0, 2, 9].into()),
    }];
    let error = engine.ensure_container(&wrong).await.unwrap_err();
    assert!(error.to_string().contains("192.0.2.9:20950"), "{error}");
    engine.remove_container(&wrong.name).await.unwrap();
    assert_eq!(
        ensure(&engine, &web(&owner)).await,
        [network.gateway.to_string()],
        "other containers keep to the private address"
    );
}
