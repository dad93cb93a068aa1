//! Tests devices of the node, and devices that CDI specifications describe.

use lifecycle_core::model::DeviceRequest;

use super::{accepted, rejected};

#[tokio::test]
async fn cdi_devices_are_requested_by_their_names() {
    let all = "image: x\ndevices:\n- vendor.com/class=name\n- /dev/fuse\n- \"nvidia.com/gpu=1:0\"\n\
               - {source: example.org/net-card=eth_0.1}\n\
               - {source: vendor.com/class=name, target: vendor.com/class=name, permissions: rwm}";
    let devices = accepted(all, &[]).await.container.devices;
    let [mapping] = devices.mappings.as_slice() else {
        panic!("{:?}", devices.mappings);
    };
    assert_eq!(
        (mapping.source.as_str(), mapping.target.as_str()),
        ("/dev/fuse", "/dev/fuse")
    );
    let ids = [
        "vendor.com/class=name",
        "nvidia.com/gpu=1:0",
        "example.org/net-card=eth_0.1",
    ];
    let request = DeviceRequest {
        driver: Some("cdi".to_owned()),
        ids: ids.map(str::to_owned).to_vec(),
        ..DeviceRequest::default()
    };
    assert_eq!(devices.requests, [request]);
    let both = "image: x\ndevices: [vendor.com/class=name]\ngpus: all";
    assert_eq!(
        accepted(both, &[]).await.container.devices.requests.len(),
        2
    );
}

#[tokio::test]
async fn other_names_are_no_devices() {
    for device in [
        "vendor.com/class",
        "vendor.com=name",
        "vendor.com/=name",
        "vendor.com/class=",
        "1vendor.com/class=name",
        "vendor.com/cl/ass=name",
        "vendor.com/class=na me",
        "vendor-/class=name",
        "ttyUSB0",
        "{source: vendor.com/class=name, target: /dev/x}",
    ] {
        let keys = format!("image: x\ndevices: [{device}]");
        rejected(&keys, &[], "nor the name of a CDI device").await;
    }
}
