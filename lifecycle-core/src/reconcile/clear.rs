//! Removes the platform from a machine that continues to run.

use tracing::Instrument as _;

use super::execute::engine_call;
use super::node_directory::node_directory;
use crate::error::{Error, Result};
use crate::host::{HostCommand, NodeHandle};
use crate::model::{NodeName, PlatformId};
use crate::runtime::Role;

/// Removes the platform's containers, images and files from a node, and its volumes if `volumes` is
/// set. The engine, other images and everything of other owners remain.
pub(crate) async fn clear(
    handle: &NodeHandle,
    platform: PlatformId,
    node: &NodeName,
    volumes: bool,
) -> Result<()> {
    match clear_engine(handle, platform, node, volumes).await {
        // A machine that was never prepared has no engine.
        Err(Error::Unreachable { .. }) if !has_engine(handle).await? => {}
        cleared => cleared?,
    }
    let directory = node_directory(platform);
    let remove = HostCommand::new(format!("rm -rf '{directory}'")).as_root();
    let removed = handle.host.exec(remove).await?;
    removed
        .success("removing the platform's directory")
        .map(drop)
}

async fn clear_engine(
    handle: &NodeHandle,
    platform: PlatformId,
    node: &NodeName,
    volumes: bool,
) -> Result<()> {
    let runtime = handle.runtime.as_ref();
    let found = runtime
        .state()
        .instrument(engine_call("state", node))
        .await?;
    let runs_manager = |id: &String| {
        let mut own = found.containers.iter();
        own.any(|one| one.image == *id && !matches!(one.role, Role::Instance(_)))
    };
    let images: Vec<&String> = { found.images.iter() }
        .filter(|(name, id)| is_built_by(platform, name) || runs_manager(id))
        .map(|(name, _)| name)
        .collect();
    let mut containers: Vec<_> = found.containers.iter().collect();
    // Remove the manager first. Otherwise, it would create removed containers again.
    containers.sort_by_key(|container| container.role != Role::Manager);
    for container in containers {
        let remove = runtime.remove_container(&container.name);
        let span = engine_call("remove_container", node);
        remove.instrument(span).await?;
    }
    for image in images {
        let remove = runtime.remove_image(image);
        remove.instrument(engine_call("remove_image", node)).await?;
    }
    if volumes {
        for volume in &found.volumes {
            let remove = runtime.remove_volume(volume);
            remove
                .instrument(engine_call("remove_volume", node))
                .await?;
        }
    }
    Ok(())
}

/// Returns whether this is a name that the platform gave to an image that it built.
fn is_built_by(platform: PlatformId, image: &str) -> bool {
    let suffix = format!("-{}", platform.short());
    let owner = image.split_once('/').map(|(owner, _)| owner);
    owner.is_some_and(|owner| owner.ends_with(&suffix))
}

async fn has_engine(handle: &NodeHandle) -> Result<bool> {
    let test = HostCommand::new("command -v dockerd").as_root();
    Ok(handle.host.exec(test).await?.code == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_images_that_the_platform_built_are_its_own() {
        let platform: PlatformId = "12345678-1234-4234-8234-123456789abc".parse().unwrap();
        let built = format!("demo-{}/web:0123", platform.short());
        for (image, expected) in [
            (built.as_str(), true),
            ("demo/lifecycle-manager:0123", false),
            ("demo-00000000/web:0123", false),
            ("nginx:1.27", false),
            ("registry.example/web:1", false),
        ] {
            assert_eq!(is_built_by(platform, image), expected, "{image}");
        }
    }
}
