//! Provides the image that nodes boot. The build context is embedded in this program. If the image
//! is missing, it is built on the operator's engine.
//!
//! The tag is the digest of the embedded files, so each release builds its own image. The build
//! runs in the background of this process while callers poll; all callers that wait for the same
//! flavor share one build.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{BuildImageOptions, CreateImageOptions};
use bytes::Bytes;
use futures_util::TryStreamExt;
use lifecycle_core::model::NodeSpec;
use lifecycle_core::{Error, Result};
use sha2::{Digest, Sha256};

use super::engine::{self, engine_error};

/// The base image of the Dockerfile.
pub(super) const BASE_IMAGE: &str = "debian:bookworm-slim";

/// Time limit for pulling the base image.
const PULL_LIMIT: Duration = Duration::from_mins(5);
/// Time limit for the build, including apt's downloads.
const BUILD_LIMIT: Duration = Duration::from_mins(20);

/// The build context: name, mode, contents.
const FILES: [(&str, u32, &str); 6] = [
    ("Dockerfile", 0o644, include_str!("image/Dockerfile")),
    (
        "Dockerfile.stock",
        0o644,
        include_str!("image/Dockerfile.stock"),
    ),
    (
        "node-cloud-init",
        0o755,
        include_str!("image/node-cloud-init"),
    ),
    ("node-engine", 0o755, include_str!("image/node-engine")),
    ("node-entry", 0o755, include_str!("image/node-entry")),
    ("node-network", 0o755, include_str!("image/node-network")),
];

/// The types of nodes. They differ in what a node contains at its first boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Flavour {
    /// The node has a running engine.
    Ready,
    /// The node has no engine, as a VM right after its creation.
    Bare,
    /// The node has no account and no engine. The first boot creates the account, and may install
    /// an engine.
    Stock,
}

impl Flavour {
    /// Returns the flavor that a node's declaration requests.
    pub(super) fn of(spec: &NodeSpec) -> Result<Self> {
        match spec.image.as_deref() {
            None | Some("ready") => Ok(Self::Ready),
            Some("bare") => Ok(Self::Bare),
            Some(other) => Err(Error::invalid(
                format!("image `{other}` of node {}", spec.name),
                "local nodes do not support this image",
                "use `ready` (with an engine, the default) or `bare` (without one)",
            )),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Bare => "bare",
            Self::Stock => "stock",
        }
    }

    /// Returns the flavor's Dockerfile. The stock flavor has a separate Dockerfile, because the
    /// builder runs all stages that precede the requested stage.
    fn dockerfile(self) -> &'static str {
        match self {
            Self::Ready | Self::Bare => "Dockerfile",
            Self::Stock => "Dockerfile.stock",
        }
    }

    pub(super) fn tag(self) -> String {
        let mut hash = Sha256::new();
        for (name, mode, contents) in FILES {
            // The lengths delimit the entries.
            hash.update(format!("{name} {mode:o} {}\n", contents.len()));
            hash.update(contents);
        }
        let mut digest = hex::encode(hash.finalize());
        digest.truncate(12);
        format!("lifecycle-node-{}:{digest}", self.word())
    }
}

/// Reports whether the image of a flavor exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Availability {
    Ready,
    /// The image is being built; contains the current build step.
    Building(String),
}

/// The reason why a build failed, kept for all callers that wait for the build.
#[derive(Debug, Clone)]
enum Failure {
    NoBase(String),
    Build(String),
    Engine(String),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoBase(why) => Self::invalid(
                format!("the base image {BASE_IMAGE}"),
                format!("the engine does not have the image and cannot pull it: {why}"),
                "run `script/base-image` to build the image from Debian's packages",
            ),
            Failure::Build(why) => Self::failed("building the image of local nodes", why),
            Failure::Engine(why) => {
                Self::interrupted("building the image of local nodes", Some(why.into()))
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Build {
    Running(String),
    Failed(Failure),
}

/// Held during a build, so that this process runs only one build at a time: the flavors share
/// layers.
static BUILDER: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The running and failed builds of this process.
#[derive(Debug, Clone, Default)]
pub(super) struct Builds(Arc<Mutex<BTreeMap<Flavour, Build>>>);

impl Builds {
    /// Returns whether the flavor's image exists, and starts a build of it if necessary. If the
    /// last build failed, returns its error, or starts a new build if `again` is set.
    pub(super) async fn ensure(
        &self,
        docker: &Docker,
        flavour: Flavour,
        again: bool,
    ) -> Result<Availability> {
        if engine::has_image(docker, &flavour.tag()).await? {
            self.set(flavour, None);
            return Ok(Availability::Ready);
        }
        let mut builds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match builds.get(&flavour) {
            Some(Build::Running(step)) => return Ok(Availability::Building(step.clone())),
            Some(Build::Failed(failure)) if !again => return Err(failure.clone().into()),
            Some(Build::Failed(_)) | None => {}
        }
        let step = "building the image of local nodes".to_owned();
        builds.insert(flavour, Build::Running(step.clone()));
        drop(builds);
        let (this, docker) = (self.clone(), docker.clone());
        tokio::spawn(async move {
            // If the build panics, the guard records a failure, so that callers do not wait
            // forever.
            let guard = Unfinished(this, flavour);
            let outcome = guard.0.run(&docker, flavour).await;
            guard.0.set(flavour, outcome.err().map(Build::Failed));
        });
        Ok(Availability::Building(step))
    }

    fn set(&self, flavour: Flavour, build: Option<Build>) {
        let mut builds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match build {
            Some(build) => builds.insert(flavour, build),
            None => builds.remove(&flavour),
        };
    }

    async fn run(&self, docker: &Docker, flavour: Flavour) -> Result<(), Failure> {
        let _builder = BUILDER.lock().await;
        let has = |name: String| async move {
            engine::has_image(docker, &name)
                .await
                .map_err(|error| Failure::Engine(error.chain()))
        };
        if has(flavour.tag()).await? {
            return Ok(());
        }
        if !has(BASE_IMAGE.to_owned()).await? {
            self.set(
                flavour,
                Some(Build::Running(format!("pulling {BASE_IMAGE}"))),
            );
            pull_base(docker).await?;
        }
        tracing::info!(image = flavour.tag(), "building the image of local nodes");
        tokio::time::timeout(BUILD_LIMIT, self.build(docker, flavour))
            .await
            .unwrap_or_else(|_| {
                Err(Failure::Build(
                    "the build took longer than 20 minutes".to_owned(),
                ))
            })
    }

    async fn build(&self, docker: &Docker, flavour: Flavour) -> Result<(), Failure> {
        let context = context().map_err(|error| Failure::Build(error.to_string()))?;
        let options = BuildImageOptions {
            dockerfile: flavour.dockerfile().to_owned(),
            t: Some(flavour.tag()),
            target: flavour.word().to_owned(),
            rm: true,
            forcerm: true,
            ..BuildImageOptions::default()
        };
        let mut lines =
            Box::pin(docker.build_image(options, None, Some(bollard::body_full(context))));
        let mut last = String::new();
        loop {
            match lines.try_next().await {
                Ok(None) => return Ok(()),
                Ok(Some(info)) => {
                    if let Some(detail) = info.error_detail {
                        let why = detail.message.unwrap_or_default();
                        return Err(Failure::Build(format!("{why}; last output: {last}")));
                    }
                    let Some(line) = info.stream.as_deref().map(str::trim) else {
                        continue;
                    };
                    if line.is_empty() {
                        continue;
                    }
                    line.clone_into(&mut last);
                    if line.starts_with("Step ") {
                        let step = format!("building the image of local nodes: {line}");
                        self.set(flavour, Some(Build::Running(step)));
                    }
                }
                Err(
                    bollard::errors::Error::DockerStreamError { error }
                    | bollard::errors::Error::DockerResponseServerError { message: error, .. },
                ) => return Err(Failure::Build(format!("{error}; last output: {last}"))),
                Err(error) => {
                    let error = engine_error("building the image of local nodes", error);
                    return Err(Failure::Engine(error.chain()));
                }
            }
        }
    }
}

/// Records a failure when dropped, if the build has ended without a result.
struct Unfinished(Builds, Flavour);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let mut builds = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(build @ Build::Running(_)) = builds.get_mut(&self.1) {
            *build = Build::Failed(Failure::Engine("the build was aborted".to_owned()));
        }
    }
}

async fn pull_base(docker: &Docker) -> Result<(), Failure> {
    let options = CreateImageOptions {
        from_image: Some(BASE_IMAGE.to_owned()),
        ..CreateImageOptions::default()
    };
    let pull = docker
        .create_image(Some(options), None, None)
        .try_for_each(|_| async { Ok(()) });
    match tokio::time::timeout(PULL_LIMIT, pull).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(
            bollard::errors::Error::DockerStreamError { error }
            | bollard::errors::Error::DockerResponseServerError { message: error, .. },
        )) => Err(Failure::NoBase(error)),
        Ok(Err(error)) => Err(Failure::Engine(engine_error(BASE_IMAGE, error).chain())),
        Err(_) => Err(Failure::NoBase(
            "pulling took longer than 5 minutes".to_owned(),
        )),
    }
}

/// Returns the build context as a reproducible tar archive, so that the builder can use its cache.
fn context() -> std::io::Result<Bytes> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, mode, contents) in FILES {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(contents.len() as u64);
        archive.append_data(&mut header, name, contents.as_bytes())?;
    }
    Ok(archive.into_inner()?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifecycle_core::model::NodeName;

    #[test]
    fn chooses_the_flavor_by_the_declared_image() {
        let mut spec = NodeSpec::new(NodeName::try_from("n1").unwrap());
        assert_eq!(Flavour::of(&spec).unwrap(), Flavour::Ready);
        spec.image = Some("bare".into());
        assert_eq!(Flavour::of(&spec).unwrap(), Flavour::Bare);
        spec.image = Some("ubuntu".into());
        let error = Flavour::of(&spec).unwrap_err();
        let hint = error.hint().unwrap();
        assert!(
            hint.contains("`ready`") && hint.contains("`bare`"),
            "{hint}"
        );
    }

    #[test]
    fn the_tag_has_twelve_digits_and_differs_by_flavor() {
        let tag = Flavour::Bare.tag();
        let digest = tag.strip_prefix("lifecycle-node-bare:").unwrap();
        assert_eq!(digest.len(), 12);
        assert!(digest.chars().all(|c| c.is_ascii_hexdigit()));
        assert_eq!(
            Flavour::Ready.tag(),
            format!("lifecycle-node-ready:{digest}")
        );
    }

    #[test]
    fn scripts_are_executable_in_the_image() {
        let bytes = context().unwrap();
        let mut archive = tar::Archive::new(bytes.as_ref());
        let modes: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (
                    entry.path().unwrap().display().to_string(),
                    entry.header().mode().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            modes,
            [
                ("Dockerfile".to_owned(), 0o644),
                ("Dockerfile.stock".to_owned(), 0o644),
                ("node-cloud-init".to_owned(), 0o755),
                ("node-engine".to_owned(), 0o755),
                ("node-entry".to_owned(), 0o755),
                ("node-network".to_owned(), 0o755)
            ]
        );
    }

    #[tokio::test]
    async fn an_aborted_build_counts_as_failed() {
        let builds = Builds::default();
        builds.set(Flavour::Bare, Some(Build::Running("x".into())));
        drop(Unfinished(builds.clone(), Flavour::Bare));
        let kept = builds.0.lock().unwrap().get(&Flavour::Bare).cloned();
        assert!(
            matches!(kept, Some(Build::Failed(Failure::Engine(_)))),
            "{kept:?}"
        );
    }
}
