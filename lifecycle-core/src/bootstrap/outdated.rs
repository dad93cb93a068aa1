//! What former bring-ups left on the manager's node: code bases and images of the manager that
//! are no longer used. The present and the former stay, so that the way back needs nothing.

use std::collections::BTreeSet;

use super::{Bootstrapper, code_directory};
use crate::error::Result;
use crate::host::{HostCommand, NodeHandle};
use crate::model::ImageSource;
use crate::platform::Declaration;

impl Bootstrapper {
    /// Removes code bases that neither this declaration uses nor, as far as their times tell,
    /// the one before. To be called when the manager works by this declaration: until then it
    /// may need those of the former.
    pub(super) async fn remove_outdated_code(
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
        let outdated = outdated(&listed, &used);
        if outdated.is_empty() {
            return Ok(());
        }
        let paths: Vec<String> = outdated
            .iter()
            .map(|file| format!("'{directory}/{file}'"))
            .collect();
        node.host
            .exec(HostCommand::new(format!("rm -f {}", paths.join(" "))).as_root())
            .await?
            .success("removing outdated code bases")?;
        Ok(())
    }

    /// Removes images of the manager that no container on its node uses. To be called while
    /// the former manager's container still holds its own.
    pub(super) async fn remove_outdated_manager_images(
        &self,
        node: &NodeHandle,
        image: &str,
    ) -> Result<()> {
        let Some((name, _)) = image.rsplit_once(':') else {
            return Ok(());
        };
        let images = node.runtime.state().await?.images;
        let of_manager = images.iter().filter(|listed| {
            listed
                .rsplit_once(':')
                .is_some_and(|(other, _)| other == name)
                && *listed != image
        });
        for outdated in of_manager {
            // One that a container uses stays.
            node.runtime.remove_image(outdated).await?;
        }
        Ok(())
    }
}

/// Of code bases' files, the latest first, those that may go: what is used stays, and as many
/// of the latest others.
fn outdated<'a>(listed: &'a str, used: &BTreeSet<String>) -> Vec<&'a str> {
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
    fn what_is_used_stays_and_as_many_of_the_latest_others() {
        let used = ["aa.tar", "bb.tar"].map(str::to_owned).into();
        let listed = "bb.tar\n05.tar\n04.tar\naa.tar\n03.tar\nnotes\nit's.tar\n02.tar\n";
        assert_eq!(outdated(listed, &used), ["03.tar", "02.tar"]);
        assert_eq!(outdated("", &used), [""; 0]);
        assert_eq!(outdated("01.tar\n", &BTreeSet::new()), ["01.tar"]);
    }
}
