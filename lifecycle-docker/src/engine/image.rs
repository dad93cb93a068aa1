//! Builds, pulls, transfers, and removes images on an engine.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::body_try_stream;
use bollard::models::{ImageInspect, ImageSummary};
use bollard::query_parameters::{
    BuildImageOptionsBuilder, CreateImageOptionsBuilder, ImportImageOptionsBuilder,
    ListImagesOptions, RemoveImageOptions, TagImageOptionsBuilder,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use lifecycle_core::host::ByteStream;
use lifecycle_core::model::BuildOptions;
use lifecycle_core::runtime::{BuildRequest, ImageInfo, ImageLogin, ImageRegistry, uncompared};
use lifecycle_core::{BuildPlace, Error, Result};

use super::credentials::credentials;
use super::output::{LastLines, Lines};
use super::{DockerEngine, QUICK};
use crate::{error, inspect};

/// Time limit for removing an image's layers.
const REMOVAL: Duration = Duration::from_mins(5);

/// Keeps the error of a byte source. The engine's client reports that the source failed, but not
/// why.
struct Watched {
    failure: Arc<Mutex<Option<std::io::Error>>>,
}

impl Watched {
    fn new(
        source: ByteStream,
    ) -> (
        Self,
        impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) {
        let failure = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&failure);
        let stream = source.map_err(move |error| {
            let placeholder = std::io::Error::new(error.kind(), "the source of the archive failed");
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            placeholder
        });
        (Self { failure }, stream)
    }

    /// Returns the source's failure if there was one, otherwise `error`.
    fn blame(&self, what: &str, error: Error) -> Error {
        let failure = self
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match failure {
            Some(source) => Error::io(format!("{what}: reading the contents"), source),
            None => error,
        }
    }
}

impl DockerEngine {
    /// Returns the ids of all images, by name.
    pub(super) async fn images(&self) -> Result<BTreeMap<String, String>> {
        let list = self.docker.list_images(None::<ListImagesOptions>);
        let images = self.within(QUICK, "listing images", list).await?;
        let named = images.into_iter().flat_map(|image| {
            let id = image.id.clone();
            names(image).map(move |name| (name, id.clone()))
        });
        Ok(named.collect())
    }

    pub(super) async fn find_image(&self, name: &str) -> Result<Option<ImageInfo>> {
        Ok(self.inspect_image(name).await?.map(inspect::image))
    }

    async fn inspect_image(&self, name: &str) -> Result<Option<ImageInspect>> {
        let what = format!("inspecting image {name}");
        let inspect = self.docker.inspect_image(name);
        match self.within(QUICK, &what, inspect).await {
            Ok(found) => Ok(Some(found)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn existing_image(&self, name: &str) -> Result<ImageInfo> {
        self.find_image(name)
            .await?
            .ok_or_else(|| Error::not_found(format!("image {name}")))
    }

    pub(super) async fn build(
        &self,
        request: BuildRequest,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<ImageInfo> {
        let what = format!("building image {}", request.tag);
        self.metadata.block().await?;
        let arguments: HashMap<String, String> = request
            .args
            .iter()
            .map(|(key, value)| (key.clone(), value.expose().to_owned()))
            .collect();
        // Name the image in the build itself: the engine completes a build even if this process dies,
        // and an image without a name would never be removed.
        let name = if request.earlier.is_empty() {
            request.tag.clone()
        } else {
            uncompared(&request.tag)
        };
        let options = BuildImageOptionsBuilder::default()
            .dockerfile(&request.dockerfile)
            .t(&name)
            .rm(true)
            .forcerm(true)
            .buildargs(&arguments);
        let options = with_build_options(options, &request.options).build();
        let (context, body) = Watched::new(request.context);
        let body = body_try_stream(body);
        let logins = request.logins.iter().map(|(registry, login)| {
            let address = registry.address().to_owned();
            (address, credentials(registry, login))
        });
        let logins = Some(logins.collect()).filter(|logins: &HashMap<_, _>| !logins.is_empty());
        let mut steps = Box::pin(self.streams.build_image(options, logins, Some(body)));
        let mut lines = Lines::default();
        let mut last = LastLines::default();
        let mut instruction = None;
        let mut report = |line: &str| {
            last.push(line);
            instruction = begun(line).or(instruction.take());
            progress(line);
        };
        let mut built = None;
        let mut failed = None;
        while let Some(step) = steps.next().await {
            let step = match step {
                Ok(step) => step,
                Err(error) => {
                    let error = error::engine(&what, error);
                    let error = not_parsed(error, &what, &request.dockerfile);
                    match context.blame(&what, error) {
                        // The builder itself failed. Its last output lines are appended below.
                        Error::Failed { why, .. } => failed = Some(why),
                        error => return Err(error),
                    }
                    break;
                }
            };
            if let Some(text) = step.stream {
                for line in lines.push(text.as_bytes()) {
                    report(&line.text);
                }
            }
            // Omit the progress of a pull within the build: the builder reports it many times per
            // second.
            if let Some(status) = step.status
                && step.progress_detail.is_none_or(|p| p.total.is_none())
            {
                report(&status);
            }
            built = step.aux.and_then(|image| image.id).or(built);
            if let Some(detail) = step.error_detail {
                failed = Some(detail.message.unwrap_or_default());
            }
        }
        if let Some(rest) = lines.finish() {
            report(&rest.text);
        }
        let Some(why) = failed else {
            let unnamed = || Error::failed(&what, "the engine does not report the image's id");
            let built = built.ok_or_else(unnamed)?;
            if name != request.tag {
                let image = self.same_as_earlier(&built, &request.earlier).await?;
                self.tag(image, &request.tag).await?;
                self.forget_image(&name).await?;
            }
            return self.existing_image(&request.tag).await;
        };
        let fails_again = instruction.filter(|begun| begun.fails_again(&why));
        let why = format!("{why}; last output: {}", last.joined());
        let Some(begun) = fails_again else {
            return Err(Error::failed(what, why));
        };
        let file = request.dockerfile.as_str();
        let place = BuildPlace::at_instruction(file, begun.number, begun.text);
        Err(Error::build(what, place, why))
    }

    /// Returns the first of the `earlier` images that has the layers and the configuration of the
    /// image `built`; `built` itself if there is none.
    async fn same_as_earlier<'a>(&self, built: &'a str, earlier: &'a [String]) -> Result<&'a str> {
        let Some(new) = self.inspect_image(built).await? else {
            return Ok(built);
        };
        for id in earlier.iter().filter(|id| *id != built) {
            let old = self.inspect_image(id).await?;
            if old.is_some_and(|old| inspect::is_same_image(&old, &new)) {
                return Ok(id);
            }
        }
        Ok(built)
    }

    pub(super) async fn tag(&self, image: &str, name: &str) -> Result<()> {
        let what = format!("naming image {image} {name}");
        let name = with_tag(name);
        let (repository, tag) = name.rsplit_once(':').unwrap_or((&name, "latest"));
        let options = TagImageOptionsBuilder::default()
            .repo(repository)
            .tag(tag)
            .build();
        let tag = self.docker.tag_image(image, Some(options));
        self.within(QUICK, &what, tag).await
    }

    pub(super) async fn pull(&self, name: &str, login: Option<&ImageLogin>) -> Result<ImageInfo> {
        let what = format!("pulling image {name}");
        // Without a tag, the engine would pull all tags.
        let options = CreateImageOptionsBuilder::default()
            .from_image(&with_tag(name))
            .build();
        let credentials = login.map(|login| credentials(&ImageRegistry::of(name), login));
        self.streams
            .create_image(Some(options), None, credentials)
            .try_for_each(|_| async { Ok(()) })
            .await
            .map_err(|e| error::pull(&what, e))?;
        self.existing_image(name).await
    }

    pub(super) async fn export(&self, name: &str) -> Result<ByteStream> {
        self.existing_image(name).await?;
        let what = format!("exporting image {name}");
        let archive = self.streams.export_image(name);
        Ok(archive
            .map_err(move |e| std::io::Error::other(error::engine(&what, e).chain()))
            .boxed())
    }

    pub(super) async fn import(&self, archive: ByteStream) -> Result<()> {
        let what = "importing an image";
        let (source, body) = Watched::new(archive);
        let options = ImportImageOptionsBuilder::default().quiet(true).build();
        self.streams
            .import_image(options, body_try_stream(body), None)
            .try_for_each(|_| async { Ok(()) })
            .await
            .map_err(|e| source.blame(what, error::engine(what, e)))
    }

    pub(super) async fn forget_image(&self, name: &str) -> Result<()> {
        let what = format!("removing image {name}");
        let remove = self
            .docker
            .remove_image(name, None::<RemoveImageOptions>, None);
        match self.within(REMOVAL, &what, remove).await {
            // The image is already absent, or a container uses it.
            Ok(_) | Err(Error::NotFound { .. } | Error::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// A Dockerfile instruction that the builder has started.
#[derive(Debug, PartialEq, Eq)]
struct Begun {
    number: usize,
    text: String,
}

/// Parses a line of the builder's output that announces an instruction: `Step 2/5 : RUN make`.
fn begun(line: &str) -> Option<Begun> {
    let (step, text) = line.strip_prefix("Step ")?.split_once(" : ")?;
    let (number, total) = step.split_once('/')?;
    total.parse::<usize>().ok()?;
    Some(Begun {
        number: number.parse().ok()?,
        text: text.trim().to_owned(),
    })
}

impl Begun {
    /// Returns whether a retry with the same files would fail again. A failed download may succeed.
    fn fails_again(&self, why: &str) -> bool {
        let word = self.text.split_whitespace().next().unwrap_or_default();
        match word.to_ascii_uppercase().as_str() {
            "RUN" => why.contains("returned a non-zero code"),
            "COPY" => why.contains("COPY failed"),
            "ADD" => why.contains("ADD failed") && !why.contains("://"),
            _ => false,
        }
    }
}

/// If the builder cannot parse the Dockerfile, adds the line number to the error.
fn not_parsed(error: Error, what: &str, file: &str) -> Error {
    let Error::Invalid { why, .. } = &error else {
        return error;
    };
    let lower = why.to_ascii_lowercase();
    let Some((_, rest)) = lower.split_once("dockerfile parse error") else {
        return error;
    };
    let line = rest.split_once("line ").and_then(|(_, rest)| {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    });
    Error::build(what, BuildPlace::at_line(file, line), why.clone())
}

/// Adds the declaration's build options, except for the context and the arguments.
fn with_build_options(
    mut builder: BuildImageOptionsBuilder,
    options: &BuildOptions,
) -> BuildImageOptionsBuilder {
    if let Some(target) = &options.target {
        builder = builder.target(target);
    }
    if let Some(network) = &options.network {
        builder = builder.networkmode(network);
    }
    if let Some(bytes) = options.shm_bytes {
        builder = builder.shmsize(i32::try_from(bytes).unwrap_or(i32::MAX));
    }
    if !options.extra_hosts.is_empty() {
        builder = builder.extrahosts(&options.extra_hosts.join(","));
    }
    if !options.labels.is_empty() {
        let labels: HashMap<String, String> = options.labels.clone().into_iter().collect();
        builder = builder.labels(&labels);
    }
    if !options.cache_from.is_empty() {
        builder = builder.cachefrom(&options.cache_from);
    }
    builder
}

/// Iterates over all names of an image: its tags and its digests. An image pulled by digest has no
/// tag.
fn names(image: ImageSummary) -> impl Iterator<Item = String> {
    let names = image.repo_tags.into_iter().chain(image.repo_digests);
    names.filter(|name| !name.contains("<none>"))
}

/// Returns the image's name, with the tag `latest` if it has none.
fn with_tag(name: &str) -> String {
    let last = name.rsplit_once('/').map_or(name, |(_, last)| last);
    if last.contains([':', '@']) {
        name.to_owned()
    } else {
        format!("{name}:latest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_an_image_pulled_by_digest_under_its_digest() {
        let image = |tags: &[&str], digests: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
            names(ImageSummary {
                repo_tags: owned(tags),
                repo_digests: owned(digests),
                ..ImageSummary::default()
            })
            .collect::<Vec<_>>()
        };
        assert_eq!(image(&[], &["nginx@sha256:00"]), ["nginx@sha256:00"]);
        assert_eq!(image(&["a:1"], &["a@sha256:00"]), ["a:1", "a@sha256:00"]);
        assert!(image(&["<none>:<none>"], &["<none>@<none>"]).is_empty());
    }

    #[test]
    fn distinguishes_permanent_failures_from_failed_fetches() {
        let begun = |line: &str| begun(line).unwrap();
        let run = begun("Step 3/7 : RUN make all");
        assert_eq!((run.number, run.text.as_str()), (3, "RUN make all"));
        let code = "The command '/bin/sh -c make all' returned a non-zero code: 2";
        assert!(run.fails_again(code));
        assert!(!run.fails_again("the engine is going down"));
        let absent = "COPY failed: file not found in build context: stat x: file does not exist";
        assert!(begun("Step 1/2 : COPY x /x").fails_again(absent));
        assert!(!begun("Step 1/2 : FROM debian").fails_again("dial tcp: no such host"));
        for line in ["Step by step", "Step 1 : RUN x", " ---> Running in 5", ""] {
            assert_eq!(super::begun(line), None);
        }
    }

    #[test]
    fn finds_the_line_of_a_dockerfile_parse_error() {
        for (why, line) in [
            (
                "dockerfile parse error line 3: unknown instruction: RUNN",
                Some(3),
            ),
            ("Dockerfile parse error on line 12: x", Some(12)),
            ("dockerfile parse error: x", None),
        ] {
            let invalid = |why: &str| Error::invalid("building x", why, String::new());
            let error = not_parsed(invalid(why), "building x", "sub/Dockerfile");
            let Error::Build { place, .. } = &error else {
                panic!("{error:?}");
            };
            assert_eq!((place.file.as_str(), place.line), ("sub/Dockerfile", line));
            let other = not_parsed(invalid("no such option"), "building x", "Dockerfile");
            assert!(matches!(other, Error::Invalid { .. }));
        }
    }

    #[test]
    fn adds_the_tag_latest_to_a_bare_name() {
        assert_eq!(with_tag("debian"), "debian:latest");
        assert_eq!(with_tag("localhost:5000/a"), "localhost:5000/a:latest");
        assert_eq!(with_tag("debian:bookworm"), "debian:bookworm");
        assert_eq!(with_tag("a/b@sha256:00"), "a/b@sha256:00");
    }
}
