//! Checks of images: build, compare, name, copy and remove.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{PORT, RuntimeFixture, done, is_not_found};
use crate::error::Result;
use crate::model::{BuildOptions, Protocol};
use crate::runtime::{
    BuildRequest, ContainerSpec, ContainerState, ImageInfo, ImageLogins, uncompared,
};
use crate::stream::ByteStream;

impl RuntimeFixture {
    async fn build(&self, tag: &str, dockerfile: &str) -> Result<ImageInfo> {
        self.build_again(tag, &[("Dockerfile", dockerfile)], Vec::new())
            .await
    }

    async fn build_again(
        &self,
        tag: &str,
        files: &[(&str, &str)],
        earlier: Vec<String>,
    ) -> Result<ImageInfo> {
        let request = BuildRequest {
            earlier,
            tag: tag.to_owned(),
            dockerfile: "Dockerfile".to_owned(),
            args: BTreeMap::new(),
            options: BuildOptions::default(),
            context: context(files),
            logins: ImageLogins::new(),
        };
        self.runtime.build_image(request, &|_| {}).await
    }
}

/// Checks that an image is found by the name under which the state lists it.
pub async fn images_are_found_by_name(fixture: &RuntimeFixture) {
    let state = done("state", fixture.runtime.state().await);
    assert!(
        state.images.contains_key(&fixture.image),
        "{} is not listed: {:?}",
        fixture.image,
        state.images
    );
    let image = done("image", fixture.runtime.image(&fixture.image).await);
    let declares = image.map(|image| (image.exposed, image.has_healthcheck));
    assert_eq!(declares, Some((Vec::new(), false)));
    let absent = fixture.tag("absent");
    assert_eq!(done("image", fixture.runtime.image(&absent).await), None);
}

/// Checks that an image is built from its context, reports its ports and health check, and is kept
/// while in use.
pub async fn images_are_built_and_removed(fixture: &RuntimeFixture) {
    let tag = fixture.tag("built");
    let dockerfile = format!(
        "FROM {}\nEXPOSE 8080 53/udp\nHEALTHCHECK CMD [\"true\"]\n",
        fixture.image
    );
    let built = done("building", fixture.build(&tag, &dockerfile).await);
    let mut exposed = built.exposed.clone();
    exposed.sort_unstable();
    assert_eq!(exposed, [(53, Protocol::Udp), (8080, Protocol::Tcp)]);
    assert!(built.has_healthcheck, "{built:?}");
    assert_eq!(
        done("image", fixture.runtime.image(&tag).await),
        Some(built)
    );
    let outcome = fixture
        .build(&fixture.tag("bad"), "FROM absent.invalid/absent:1\n")
        .await;
    assert!(outcome.is_err(), "built from an image that does not exist");

    let spec = ContainerSpec {
        image: tag.clone(),
        ..fixture.container("built", &fixture.runs_long)
    };
    let container = fixture.ensure(&spec).await;
    assert!(container.has_healthcheck, "{container:?}");
    assert!(container.exposed.contains(&PORT), "{container:?}");
    assert!(
        matches!(container.state, ContainerState::Running { health: Some(_) }),
        "{container:?}"
    );
    done("in use", fixture.runtime.remove_image(&tag).await);
    let kept = done("image", fixture.runtime.image(&tag).await);
    assert!(kept.is_some(), "an image in use was removed");
    fixture.remove(&spec.name).await;
    for _ in 0..2 {
        done("unused", fixture.runtime.remove_image(&tag).await);
    }
    assert_eq!(done("image", fixture.runtime.image(&tag).await), None);
}

/// Checks that a build whose result equals an earlier image names that image, and that any other
/// build makes a new one.
pub async fn unchanged_images_keep_their_id(fixture: &RuntimeFixture) {
    let tags = ["before", "unchanged", "changed"].map(|name| fixture.tag(name));
    let [before, unchanged, changed] = &tags;
    let dockerfile = format!(
        "FROM {}\nCOPY program /program\nEXPOSE 8080\n",
        fixture.image
    );
    let files = |program, readme| {
        [
            ("Dockerfile", dockerfile.as_str()),
            ("program", program),
            ("README", readme),
        ]
    };
    let first = files("1", "a");
    let first = fixture.build_again(before, &first, Vec::new()).await;
    let first = done("the first build", first);
    let spec = ContainerSpec {
        image: before.clone(),
        ..fixture.container("earlier", &fixture.runs_long)
    };
    let container = fixture.ensure(&spec).await;
    assert_eq!(container.image, first.id, "{container:?}");
    assert_eq!(container.template_digest, spec.template_digest);

    let earlier = vec![container.image.clone()];
    let same = files("1", "b");
    let same = fixture.build_again(unchanged, &same, earlier.clone()).await;
    let same = done("a build without a change", same);
    assert_eq!(same.id, first.id, "an unchanged image got another id");
    let other = files("2", "b");
    let other = fixture.build_again(changed, &other, earlier).await;
    let other = done("a build with a change", other);
    assert_ne!(other.id, first.id, "a changed image kept its id");
    let state = done("state", fixture.runtime.state().await);
    for (tag, id) in [
        (before, &first.id),
        (unchanged, &first.id),
        (changed, &other.id),
    ] {
        assert_eq!(state.images.get(tag), Some(id), "{tag}");
        let left = state.images.get(&uncompared(tag));
        assert_eq!(left, None, "{tag}");
    }
    fixture.remove(&spec.name).await;
    for tag in &tags {
        done("remove", fixture.runtime.remove_image(tag).await);
    }
}

/// Checks that an image can get several names, and loses only those that are removed.
pub async fn images_have_several_names(fixture: &RuntimeFixture) {
    let runtime = &fixture.runtime;
    let (one, other) = (fixture.tag("one"), fixture.tag("other"));
    let outcome = runtime.tag_image(&one, &other).await;
    is_not_found("naming an absent image", &outcome);
    let dockerfile = format!("FROM {}\nEXPOSE 8080\n", fixture.image);
    let built = done("building", fixture.build(&one, &dockerfile).await);
    for image in [&one, &built.id] {
        done("tag", runtime.tag_image(image, &other).await);
    }
    assert_eq!(
        done("image", runtime.image(&other).await),
        Some(built.clone())
    );
    let spec = ContainerSpec {
        image: one.clone(),
        ..fixture.container("named", &fixture.runs_long)
    };
    fixture.ensure(&spec).await;
    done("remove", runtime.remove_image(&one).await);
    assert_eq!(done("image", runtime.image(&one).await), None);
    let kept = done("image", runtime.image(&other).await);
    assert_eq!(kept.map(|image| image.id), Some(built.id));
    fixture.remove(&spec.name).await;
    done("remove", runtime.remove_image(&other).await);
}

/// Checks that an engine can import an image that another engine exported, under the same name.
pub async fn images_are_copied(fixture: &RuntimeFixture) {
    let tag = fixture.tag("copied");
    let outcome = fixture.runtime.export_image(&tag).await;
    is_not_found("exporting an absent image", &outcome.map(|_| ()));
    let Some(other) = &fixture.other_engine else {
        return;
    };
    let dockerfile = format!("FROM {}\nEXPOSE 8080\n", fixture.image);
    done("building", fixture.build(&tag, &dockerfile).await);
    assert_eq!(done("image", other.image(&tag).await), None, "not yet");
    for _ in 0..2 {
        let archive = done("export", fixture.runtime.export_image(&tag).await);
        done("import", other.import_image(archive).await);
    }
    let copied = done("image", other.image(&tag).await);
    assert_eq!(copied.map(|image| image.exposed), Some(vec![PORT]));
    done("remove", other.remove_image(&tag).await);
    done("remove", fixture.runtime.remove_image(&tag).await);
}

/// Creates a build context from names and contents of files.
fn context(files: &[(&str, &str)]) -> ByteStream {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, contents) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(u64::try_from(contents.len()).unwrap_or_default());
        let packed = archive.append_data(&mut header, name, contents.as_bytes());
        done("packing a file", packed);
    }
    let packed = done("packing a context", archive.into_inner());
    Box::pin(futures_util::stream::once(async move {
        Ok(Bytes::from(packed))
    }))
}
