//! Removes unused code bases and manager images from the manager's node, except the previous ones.

use std::collections::BTreeSet;

use super::{Bootstrapper, code_directory};
use crate::error::Result;
use crate::host::{HostCommand, NodeHandle};
use crate::model::ImageSource;
use crate::platform::Declaration;

impl Bootstrapper {
    /// Removes old code bases. Keeps those that the declaration uses and, for a rollback, as many
    /// of the latest others. Call this only after the manager has applied the declaration.
    pub(super) async fn remove_unused_code(
        &self,
        node: &NodeHandle,
        declaration: &Declaration,
    ) -> Result<()> {
        let used: BTreeSet<String> = declaration
            .services
            .values()
            .filter_map(|service| match &service.source {
                ImageSource::Build(source) => Some(format!("{}.tar", source.code.digest)),
                ImageSource::Image(_) => None,
            })
            .collect();
        let directory = code_directory(declaration.id);
        let listing = format!("ls -1t '{directory}' 2>/dev/null || true");
        let listed = node
            .host
            .exec(HostCommand::new(listing).as_root())
            .await?
            .success("listing the code bases on the manager's node")?;
        let unused = unused(&listed, &used);
        if unused.is_empty() {
            return Ok(());
        }
        let paths: Vec<String> = unused
            .iter()
            .map(|file| format!("'{directory}/{file}'"))
            .collect();
        node.host
            .exec(HostCommand::new(format!("rm -f {}", paths.join(" "))).as_root())
            .await?
            .success("removing unused code bases")?;
        Ok(())
    }

    /// Removes manager images that no container on the node uses. Call this while the previous
    /// manager's container still exists, so that its image is kept.
    pub(super) async fn remove_unused_manager_images(
        &self,
        node: &NodeHandle,
        image: &str,
    ) -> Result<()> {
        let Some((name, _)) = image.rsplit_once(':') else {
            return Ok(());
        };
        let images = node.runtime.state().await?.images;
        let of_manager = images.keys().filter(|listed| {
            listed
                .rsplit_once(':')
                .is_some_and(|(other, _)| other == name)
                && *listed != image
        });
        for unused in of_manager {
            // The engine keeps an image that a container uses.
            node.runtime.remove_image(unused).await?;
        }
        Ok(())
    }
}

/// Returns the code base files to delete. `listed` contains the latest file first.
fn unused<'a>(listed: &'a str, used: &BTreeSet<String>) -> Vec<&'a str> {
    let is_code_base = |file: &str| {
        file.strip_suffix(".tar")
            .is_some_and(|digest| digest.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    listed
        .lines()
        .filter(|file| is_code_base(file) && !used.contains(*file))
        .skip(used.len())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_files_in_use_and_the_same_number_of_others() {
        let used = ["aa.tar", "bb.tar"].map(str::to_owned).into();
        let listed = "bb.tar\n05.tar\n04.tar\naa.tar\n03.tar\nnotes\nit's.tar\n02.tar\n";
        assert_eq!(unused(listed, &used), ["03.tar", "02.tar"]);
        assert_eq!(unused("", &used), [""; 0]);
        assert_eq!(unused("01.tar\n", &BTreeSet::new()), ["01.tar"]);
    }
}
