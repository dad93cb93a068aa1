//! Tests ports that are published at one of several host ports.

use lifecycle_core::model::{PortChoice, Protocol, ServiceName};

use super::{accepted, directory_with, read, rejected};

fn choice(candidates: impl IntoIterator<Item = u16>) -> PortChoice {
    PortChoice {
        candidates: candidates.into_iter().collect(),
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
    }
}

#[tokio::test]
async fn a_range_of_host_ports_offers_one_of_them() {
    for port in [
        "\"8000-8010:80\"",
        "8000-8010:80/tcp",
        "\"0.0.0.0:8000-8010:80\"",
        "{target: 80, published: 8000-8010}",
        "{target: 80, published: \"8000-8010\", protocol: tcp, mode: host}",
    ] {
        let spec = accepted(&format!("image: x\nports: [{port}]"), &[]).await;
        assert_eq!(spec.container.port_choices, [choice(8000..=8010)], "{port}");
        assert!(spec.container.ports.is_empty());
        assert_eq!(spec.container.expose, [(80, Protocol::Tcp)], "{port}");
    }
    let keys = "image: x\nports: [\"8000-8000:80\", \"8001:80\", \"127.0.0.1:9000-9001:80/udp\", \
                \"127.0.0.1:9000-9001:80/udp\"]";
    let spec = accepted(keys, &[]).await;
    assert_eq!(spec.container.ports.len(), 2);
    let [choice] = spec.container.port_choices.as_slice() else {
        panic!("{:?}", spec.container.port_choices);
    };
    assert_eq!(choice.protocol, Protocol::Udp);
    assert_eq!(choice.host_ip, Some([127, 0, 0, 1].into()));
    for port in ["8000-8001:80-82", "8000:80-81", "8000-8010:80-81"] {
        let keys = format!("image: x\nports: [\"{port}\"]");
        rejected(&keys, &[], "the two ranges must have the same size").await;
    }
    let keys = "image: x\nports: [{target: 80-81, published: 8000-8005}]";
    rejected(keys, &[], "must have the same number of ports").await;
    let keys = "image: x\nports: [\"1-65535:80\", \"1-65535:81\"]";
    rejected(keys, &[], "a service may publish at most 1000 ports").await;
}

#[tokio::test]
async fn fixed_ports_are_no_candidates() {
    let compose = "services:\n  s: {image: x, ports: [\"8000-8004:80\", \"8001:81\"]}\n  \
                   t: {image: x, ports: [\"8000:80\", \"8003:80/udp\"]}\n  \
                   u: {image: x, ports: [\"8004:80\"], scale: 0}\n  \
                   v: {image: x, ports: [\"20-23:80\", \"7442-7444:81\"]}\n";
    let directory = directory_with(&[("compose.yaml", compose)]);
    let loaded = read(directory.path(), &[]).await;
    let loaded = loaded.unwrap_or_else(|problems| panic!("{problems}"));
    let candidates = |service: &str| -> Vec<Vec<u16>> {
        let service = ServiceName::try_from(service).unwrap();
        let choices = &loaded.declaration.services[&service].container.port_choices;
        choices
            .iter()
            .map(|choice| choice.candidates.clone())
            .collect()
    };
    assert_eq!(candidates("s"), [vec![8002, 8003, 8004]]);
    // SSH and the manager use ports of the node, too.
    assert_eq!(candidates("v"), [vec![20, 21, 23], vec![7442, 7444]]);
}

#[tokio::test]
async fn a_range_that_is_too_small_is_rejected() {
    let keys = "image: x\nports: [\"8000-8001:80\"]\nscale: 2";
    accepted(keys, &[]).await;
    let keys = "image: x\nports: [\"8000-8001:80\"]\nscale: 3";
    rejected(keys, &[], "only 2 host ports of the range").await;
}

#[tokio::test]
async fn without_its_own_network_a_service_has_no_choice() {
    let (spec, _) = super::service(
        "image: x\nnetwork_mode: host\nports: [\"8000-8010:80\"]",
        &[],
    )
    .await
    .unwrap();
    assert!(spec.container.port_choices.is_empty());
    assert_eq!(spec.container.ports[0].host_port, Some(80));
    let (spec, _) = super::service(
        "image: x\nnetwork_mode: none\nports: [\"8000-8010:80\"]",
        &[],
    )
    .await
    .unwrap();
    assert!(spec.container.port_choices.is_empty() && spec.container.expose.is_empty());
}
