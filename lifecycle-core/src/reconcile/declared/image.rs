//! Names of images. An image that the platform builds is named by what it is built from, so services
//! with the same code base, Dockerfile and arguments share one image.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::model::{BuildOptions, BuildSource, ImageSource, ServiceSpec};
use crate::runtime::Owner;
use crate::secret::PlatformKey;

/// The longest part of a code base's name in an image's name, in characters.
const LONGEST: usize = 40;

/// The input for the digest in the name of a built image.
#[derive(Serialize)]
struct ImageForm<'a> {
    version: &'static str,
    /// The digest of the code base's contents.
    code: &'a str,
    dockerfile: &'a str,
    args: &'a BTreeMap<String, crate::secret::Sensitive>,
    bases: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    options: Option<&'a BuildOptions>,
}

/// Returns the options, unless they are the default.
fn given(options: &BuildOptions) -> Option<&BuildOptions> {
    (*options != BuildOptions::default()).then_some(options)
}

/// Returns the name of a service's image as engines list it. A built image's name contains a digest
/// of its build inputs.
pub(super) fn name(owner: &Owner, service: &ServiceSpec, key: &PlatformKey) -> Result<String> {
    let source = match &service.source {
        ImageSource::Image(name) => return Ok(listed_name(name)),
        ImageSource::Build(source) => source,
    };
    let form = serde_json::to_vec(&ImageForm {
        version: "2",
        code: &source.code.digest,
        dockerfile: &source.dockerfile,
        args: &source.args,
        bases: &source.bases,
        options: given(&source.options),
    })
    .map_err(|e| Error::failed("serializing the build inputs of an image", e.to_string()))?;
    let digest = key.sign("image digest", &form);
    let short = digest.get(..12).unwrap_or(&digest);
    Ok(format!("{}{}:{short}", repository(owner), readable(source)))
}

/// Returns whether this is a name that the platform gave to an image that it built.
pub(super) fn is_built_by(owner: &Owner, image: &str) -> bool {
    // Some engines also list an image by the digest of its manifest.
    image.starts_with(&repository(owner)) && !image.contains('@')
}

/// Returns how the names of all images that the platform builds begin.
fn repository(owner: &Owner) -> String {
    format!("{}-{}/", owner.name, owner.id.short()).to_ascii_lowercase()
}

/// Returns a code base's name with only the characters that the name of a repository may contain,
/// and the target stage, if there is one.
fn readable(source: &BuildSource) -> String {
    let target = source.options.target.as_deref().unwrap_or_default();
    let words = format!("{}-{target}", source.code.name).to_ascii_lowercase();
    let words = words.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let name: String = words.join("-").chars().take(LONGEST).collect();
    match name.trim_end_matches('-') {
        "" => "code".to_owned(),
        name => name.to_owned(),
    }
}

/// Returns an image's name as engines list it: with a tag or a digest, and without the default
/// registry. A tag next to a digest is omitted.
pub fn listed_name(name: &str) -> String {
    let familiar = name
        .strip_prefix("docker.io/library/")
        .or_else(|| name.strip_prefix("docker.io/"))
        .unwrap_or(name);
    if let Some((tagged, digest)) = familiar.split_once('@') {
        let name = match tagged.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => name,
            _ => tagged,
        };
        return format!("{name}@{digest}");
    }
    let last = familiar.rsplit('/').next().unwrap_or(familiar);
    if last.contains(':') {
        familiar.to_owned()
    } else {
        format!("{familiar}:latest")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::CodeBaseRef;

    /// Additions to the model must not change the names of images that do not use them.
    #[test]
    fn the_digest_covers_the_same_form_as_in_earlier_versions() {
        let options = BuildOptions::default();
        let form = ImageForm {
            version: "2",
            code: "00",
            dockerfile: "Dockerfile",
            args: &BTreeMap::new(),
            bases: &[],
            options: given(&options),
        };
        assert_eq!(
            serde_json::to_string(&form).unwrap(),
            r#"{"version":"2","code":"00","dockerfile":"Dockerfile","args":{},"bases":[]}"#
        );
    }

    #[test]
    fn image_names_are_written_as_engines_list_them() {
        for (given, listed) in [
            ("debian", "debian:latest"),
            ("docker.io/library/debian:12", "debian:12"),
            ("docker.io/grafana/grafana", "grafana/grafana:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("x@sha256:00", "x@sha256:00"),
            ("nginx:1.25@sha256:00", "nginx@sha256:00"),
            ("localhost:5000/x@sha256:00", "localhost:5000/x@sha256:00"),
            ("localhost:5000/x:1@sha256:00", "localhost:5000/x@sha256:00"),
        ] {
            assert_eq!(listed_name(given), listed);
        }
    }

    fn source(code: &str) -> BuildSource {
        BuildSource {
            code: CodeBaseRef {
                name: code.to_owned(),
                digest: "00".to_owned(),
            },
            dockerfile: "Dockerfile".to_owned(),
            args: BTreeMap::new(),
            bases: Vec::new(),
            exposes: BTreeSet::new(),
            options: BuildOptions::default(),
        }
    }

    #[test]
    fn names_of_code_bases_are_readable_and_valid() {
        let name = |code: &str, target: Option<&str>| {
            let mut source = source(code);
            source.options.target = target.map(str::to_owned);
            readable(&source)
        };
        assert_eq!(name(".", None), "code");
        assert_eq!(name("./Services/api_v2", None), "services-api-v2");
        assert_eq!(name("api", Some("Debug")), "api-debug");
        assert_eq!(name("ß", None), "code");
        let long = name(&"a.".repeat(100), None);
        assert!(long.len() <= LONGEST && !long.ends_with('-'), "{long}");
    }
}
