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
            let mut of_cdi = Vec::new();
            for item in field.items(report) {
                match device(&item, report) {
                    // As in Compose, equal entries count once.
                    Some(Device::Mapping(mapping)) if !devices.mappings.contains(&mapping) => {
                        devices.mappings.push(mapping);
                    }
                    Some(Device::Cdi(name)) if !of_cdi.contains(&name) => of_cdi.push(name),
                    Some(Device::Mapping(_) | Device::Cdi(_)) | None => {}
                }
            }
            if !of_cdi.is_empty() {
                devices.requests.push(DeviceRequest {
                    driver: Some(DeviceRequest::CDI.to_owned()),
                    ids: of_cdi,
                    ..DeviceRequest::default()
                });
            }
        }
        "device_cgroup_rules" => devices.cgroup_rules = field.texts(report),
        "gpus" => gpus(field, devices, report),
        _ => return false,
    }
    true
}

enum Device {
    /// A device file of the node.
    Mapping(DeviceMapping),
    /// The qualified name of a device that a CDI specification on the node describes.
    Cdi(String),
}

/// Returns whether a text is a qualified name of CDI: `vendor.com/class=name`.
fn is_cdi_name(text: &str) -> bool {
    let is_word = |word: &str, inner: &str| {
        let is_inner = |c: char| c.is_ascii_alphanumeric() || inner.contains(c);
        word.ends_with(|c: char| c.is_ascii_alphanumeric()) && word.chars().all(is_inner)
    };
    let starts_with_letter = |word: &str| word.starts_with(|c: char| c.is_ascii_alphabetic());
    text.split_once('=')
        .and_then(|(kind, name)| Some((kind.split_once('/')?, name)))
        .is_some_and(|((vendor, class), name)| {
            [(vendor, "_-."), (class, "_-")]
                .into_iter()
                .all(|(word, inner)| starts_with_letter(word) && is_word(word, inner))
                && name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && is_word(name, "_-.:")
        })
}

/// Reads `HOST[:CONTAINER[:PERMISSIONS]]`, the name of a CDI device, or a mapping with the same
/// settings.
fn device(item: &Field<'_>, report: &mut Report) -> Option<Device> {
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
        let is_target = |target: &str| target.is_empty() || Some(target) == source;
        if source.is_some_and(is_cdi_name) && target.is_none_or(is_target) {
            if let Some(field) = item.get("permissions").filter(|field| !field.is_null()) {
                let consequence = "the CDI specification of the device defines the permissions";
                report.unsupported(field.at, &field.path, consequence, false);
            }
            return source.map(|name| Device::Cdi(name.to_owned()));
        }
    } else {
        let text = item.text(report)?;
        if is_cdi_name(text) {
            return Some(Device::Cdi(text.to_owned()));
        }
        let mut parts = text.splitn(3, ':');
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
            "the device is neither an absolute path of the node nor the name of a CDI device",
            "write it like `/dev/ttyUSB0:/dev/ttyUSB0` or `vendor.com/class=name`",
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
    Some(Device::Mapping(DeviceMapping {
        source: source.to_owned(),
        target: target.unwrap_or(source).to_owned(),
        permissions: permissions.to_owned(),
    }))
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
                    request.count = field.parse_number(report, |text| match text {
                        _ if text.eq_ignore_ascii_case("all") => Ok(-1),
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
