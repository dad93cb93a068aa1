//! Reads the keys for devices of the node: `devices`, `device_cgroup_rules`, `gpus`, and the device
//! reservations in `deploy`.

use super::super::diagnostic::Report;
use super::super::tree::Field;
use super::keys::{self, supported_entries};
use super::service::pairs;
use crate::model::{DeviceMapping, DeviceRequest, Devices};

/// Reads the value of a key that this module supports. Returns `false` for any other key.
pub(super) fn read(
    key: &str,
    field: &Field<'_>,
    devices: &mut Devices,
    report: &mut Report,
) -> bool {
    match key {
        "devices" => {
            for item in field.items(report) {
                devices.mappings.extend(mapping(&item, report));
            }
        }
        "device_cgroup_rules" => devices.cgroup_rules = field.texts(report),
        "gpus" => gpus(field, devices, report),
        _ => return false,
    }
    true
}

/// Reads `HOST[:CONTAINER[:PERMISSIONS]]`, or a mapping with the same settings.
fn mapping(item: &Field<'_>, report: &mut Report) -> Option<DeviceMapping> {
    let mut source = None;
    let mut target = None;
    let mut permissions = None;
    if item.is_map() {
        for (key, field) in supported_entries(item, keys::DEVICE, report) {
            match key {
                "source" => source = field.text(report),
                "target" => target = field.text(report),
                _ => permissions = field.text(report),
            }
        }
    } else {
        let mut parts = item.text(report)?.splitn(3, ':');
        source = parts.next();
        target = parts.next();
        permissions = parts.next();
        // In `/dev/fuse:rwm`, the second part contains the permissions.
        if permissions.is_none() && target.is_some_and(|target| !target.starts_with('/')) {
            permissions = target.take();
        }
    }
    let Some(source) = source.filter(|source| source.starts_with('/')) else {
        item.problem_with_help(
            report,
            "the device is not an absolute path of the node",
            "write it like `/dev/ttyUSB0:/dev/ttyUSB0`",
        );
        return None;
    };
    let permissions = permissions.unwrap_or("rwm");
    if permissions.is_empty() || !permissions.chars().all(|c| "rwm".contains(c)) {
        item.problem(
            report,
            format!("the permissions `{permissions}` may contain only `r`, `w` and `m`"),
        );
        return None;
    }
    Some(DeviceMapping {
        source: source.to_owned(),
        target: target.unwrap_or(source).to_owned(),
        permissions: permissions.to_owned(),
    })
}

/// Reads `gpus: all`, or a list of requests.
fn gpus(field: &Field<'_>, devices: &mut Devices, report: &mut Report) {
    if !field.is_list() {
        if field.word(report, &[("all", ())]).is_some() {
            devices.requests.push(DeviceRequest {
                count: Some(-1),
                capabilities: vec!["gpu".to_owned()],
                ..DeviceRequest::default()
            });
        }
        return;
    }
    let from = devices.requests.len();
    requests(field, devices, report);
    for request in devices.requests.iter_mut().skip(from) {
        if !request.capabilities.iter().any(|word| word == "gpu") {
            request.capabilities.push("gpu".to_owned());
        }
    }
}

/// Reads a list of requests to the engine's device drivers.
pub(super) fn requests(field: &Field<'_>, devices: &mut Devices, report: &mut Report) {
    for item in field.items(report) {
        let mut request = DeviceRequest::default();
        for (key, field) in supported_entries(&item, keys::DEVICE_REQUEST, report) {
            if field.is_null() {
                continue;
            }
            match key {
                "capabilities" => request.capabilities = field.texts(report),
                "driver" => request.driver = field.text(report).map(str::to_owned),
                "count" => {
                    request.count = field.parse(report, |text| match text {
                        "all" => Ok(-1),
                        _ => text
                            .parse::<u32>()
                            .map(i64::from)
                            .map_err(|_| format!("`{text}` is neither `all` nor a whole number")),
                    });
                }
                "device_ids" => request.ids = field.texts(report),
                _ => {
                    for (name, value) in pairs(&field, report) {
                        request.options.insert(name, value.unwrap_or_default());
                    }
                }
            }
        }
        if request.count.is_some() && !request.ids.is_empty() {
            item.problem_with_help(
                report,
                "`count` and `device_ids` cannot be combined",
                "keep only one of the two",
            );
        } else if request.count.is_none() && request.ids.is_empty() {
            request.count = Some(-1);
        }
        devices.requests.push(request);
    }
}
