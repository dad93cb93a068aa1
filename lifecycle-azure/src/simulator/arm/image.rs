//! Simulates the images of the marketplace, with a selection of the real ones.

use serde_json::{Value, json};

use super::answer::Answer;
use super::problem::{Problem, Refusal, required};
use super::sku::{Architecture, Size};

#[derive(Debug)]
pub(crate) struct Image {
    publisher: &'static str,
    offer: &'static str,
    sku: &'static str,
    /// The versions, oldest first.
    versions: &'static [&'static str],
    architecture: Architecture,
    generation: &'static str,
    pub(crate) os_name: &'static str,
    pub(crate) os_version: &'static str,
}

const fn image(
    name: (&'static str, &'static str, &'static str),
    versions: &'static [&'static str],
    architecture: Architecture,
    generation: &'static str,
    os: (&'static str, &'static str),
) -> Image {
    Image {
        publisher: name.0,
        offer: name.1,
        sku: name.2,
        versions,
        architecture,
        generation,
        os_name: os.0,
        os_version: os.1,
    }
}

const JAMMY: &str = "0001-com-ubuntu-server-jammy";
const NOBLE: &str = "ubuntu-24_04-lts";

static IMAGES: [Image; 8] = [
    image(
        ("Canonical", JAMMY, "22_04-lts"),
        &["22.04.202410020", "22.04.202502050"],
        Architecture::X64,
        "V1",
        ("ubuntu", "22.04"),
    ),
    image(
        ("Canonical", JAMMY, "22_04-lts-gen2"),
        &["22.04.202410020", "22.04.202502050"],
        Architecture::X64,
        "V2",
        ("ubuntu", "22.04"),
    ),
    image(
        ("Canonical", JAMMY, "22_04-lts-arm64"),
        &["22.04.202502050"],
        Architecture::Arm64,
        "V2",
        ("ubuntu", "22.04"),
    ),
    image(
        ("Canonical", NOBLE, "server"),
        &["24.04.202502210"],
        Architecture::X64,
        "V2",
        ("ubuntu", "24.04"),
    ),
    image(
        ("Canonical", NOBLE, "server-arm64"),
        &["24.04.202502210"],
        Architecture::Arm64,
        "V2",
        ("ubuntu", "24.04"),
    ),
    image(
        ("Debian", "debian-12", "12"),
        &["0.20240901.1856", "0.20250210.2019"],
        Architecture::X64,
        "V1",
        ("debian", "12"),
    ),
    image(
        ("Debian", "debian-12", "12-gen2"),
        &["0.20240901.1856", "0.20250210.2019"],
        Architecture::X64,
        "V2",
        ("debian", "12"),
    ),
    image(
        ("Debian", "debian-12", "12-arm64"),
        &["0.20250210.2019"],
        Architecture::Arm64,
        "V2",
        ("debian", "12"),
    ),
];

/// Returns the image that a VM requests, and the image's exact version.
pub(crate) fn image_of(
    reference: &Value,
    size: &Size,
) -> Result<(&'static Image, &'static str), Refusal> {
    let part = |name: &str| {
        reference
            .get(name)
            .and_then(Value::as_str)
            .ok_or_else(|| required(&format!("properties.storageProfile.imageReference.{name}")))
    };
    let (publisher, offer, sku) = (part("publisher")?, part("offer")?, part("sku")?);
    let version = part("version")?;
    let found = IMAGES.iter().find(|image| {
        image.publisher.eq_ignore_ascii_case(publisher)
            && image.offer.eq_ignore_ascii_case(offer)
            && image.sku.eq_ignore_ascii_case(sku)
    });
    let exact = found.and_then(|image| {
        let exact = if version.eq_ignore_ascii_case("latest") {
            image.versions.last()
        } else {
            image.versions.iter().find(|one| **one == version)
        };
        exact.map(|exact| (image, *exact))
    });
    let Some((image, exact)) = exact else {
        let message = format!(
            "The platform image '{publisher}:{offer}:{sku}:{version}' is not available. Verify that all \
             fields in the storage profile are correct. For more details about storage profile \
             information, please refer to https://aka.ms/storageprofile"
        );
        return Err(Problem::new("PlatformImageNotFound", message)
            .at("imageReference")
            .not_found());
    };
    if image.architecture != size.architecture {
        let message = format!(
            "Cannot create a VM of size '{}' because this VM size only supports a CPU Architecture of \
             '{}', but an image or disk with CPU Architecture '{}' was given.",
            size.name,
            size.architecture.name(),
            image.architecture.name()
        );
        return Err(Problem::new("BadRequest", message).bad_request());
    }
    Ok((image, exact))
}

impl Image {
    pub(crate) fn generation(&self) -> &'static str {
        self.generation
    }
}

/// Returns an image, or a list of publishers, offers, SKUs, or versions. `rest` is the path after
/// `locations/<location>/publishers`.
pub(crate) fn browse(subscription: &str, location: &str, rest: &[&str]) -> Option<Answer> {
    let at = format!(
        "/Subscriptions/{subscription}/Providers/Microsoft.Compute/Locations/{location}/Publishers"
    );
    let is = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    // Unlike all other lists of Azure, these are plain arrays.
    let list = |prefix: String, names: Vec<&'static str>| {
        let items: Vec<_> = names
            .into_iter()
            .map(|name| json!({"id": format!("{prefix}/{name}"), "name": name, "location": location}))
            .collect();
        (!items.is_empty()).then(|| Answer::ok(items.into()))
    };
    let distinct = |names: &mut dyn Iterator<Item = &'static str>| {
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names.dedup();
        names
    };
    match rest {
        [] => list(at, distinct(&mut IMAGES.iter().map(|i| i.publisher))),
        [publisher, kind, image, rest @ ..]
            if is(kind, "artifacttypes") && is(image, "vmimage") =>
        {
            let of_publisher = || IMAGES.iter().filter(|i| is(i.publisher, publisher));
            let at = format!("{at}/{publisher}/ArtifactTypes/VMImage/Offers");
            match rest {
                [offers] if is(offers, "offers") => {
                    list(at, distinct(&mut of_publisher().map(|i| i.offer)))
                }
                [offers, offer, rest @ ..] if is(offers, "offers") => {
                    let of_offer = || of_publisher().filter(|i| is(i.offer, offer));
                    let at = format!("{at}/{offer}/Skus");
                    match rest {
                        [skus] if is(skus, "skus") => {
                            list(at, distinct(&mut of_offer().map(|i| i.sku)))
                        }
                        [skus, sku, versions] if is(skus, "skus") && is(versions, "versions") => {
                            let found = of_offer().find(|i| is(i.sku, sku))?;
                            list(format!("{at}/{sku}/Versions"), found.versions.to_vec())
                        }
                        [skus, sku, versions, version]
                            if is(skus, "skus") && is(versions, "versions") =>
                        {
                            let found = of_offer().find(|i| is(i.sku, sku))?;
                            let exact = if is(version, "latest") {
                                found.versions.last()
                            } else {
                                found.versions.iter().find(|one| *one == version)
                            }?;
                            Some(Answer::ok(json!({
                                "id": format!("{at}/{sku}/Versions/{exact}"),
                                "name": exact,
                                "location": location,
                                "properties": {
                                    "hyperVGeneration": found.generation,
                                    "architecture": found.architecture.name(),
                                    "replicaType": "Managed",
                                    "disallowed": {"vmDiskType": "Unmanaged"},
                                    "automaticOSUpgradeProperties": {"automaticOSUpgradeSupported": false},
                                    "imageDeprecationStatus": {"imageState": "Active"},
                                    "osDiskImage": {"operatingSystem": "Linux", "sizeInGb": 31},
                                    "dataDiskImages": [],
                                },
                            })))
                        }
                        _ => None,
                    }
                }
                _ => None,
            }
        }
        _ => None,
    }
}
