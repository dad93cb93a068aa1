//! The files with a service's credential for the manager's API: its token, and the certificates of the
//! authority. Each service has a directory on each node where it runs, which its containers mount.
//! Files are replaced atomically, so containers that read them again get the new credential without a
//! restart.

use super::node_directory::{node_directory, private};
use crate::error::Result;
use crate::host::{HostCommand, HostFile, NodeAccess};
use crate::model::{PlatformId, ServiceName};
use crate::secret::Sensitive;

/// The file with the token.
const TOKEN: &str = "token";

/// The file with the certificates of the authorities that the service trusts.
const AUTHORITY: &str = "ca.pem";

/// Returns the directory that contains the directories of all services.
fn parent(platform: PlatformId) -> String {
    // Containers of an earlier version mount the directory `api`, so it must not contain credentials of
    // other services.
    format!("{}/service-api", node_directory(platform))
}

/// Returns the directory with a service's credential on a node.
fn directory(platform: PlatformId, service: &ServiceName) -> String {
    format!("{}/{service}", parent(platform))
}

/// Returns the script that creates the directory with a service's credential. The service's containers
/// mount this directory, and every user in a container must be able to open it.
fn create_directory(platform: PlatformId, service: &ServiceName) -> String {
    let (private, directory) = (private(platform), directory(platform, service));
    format!("{private}\nmkdir -p '{directory}'\nchmod 0755 '{directory}'")
}

/// Writes a service's credential. Returns its directory.
pub(super) async fn write(
    host: &dyn NodeAccess,
    platform: PlatformId,
    service: &ServiceName,
    token: &Sensitive,
    authority: &str,
) -> Result<String> {
    let create = HostCommand::new(create_directory(platform, service)).as_root();
    host.exec(create)
        .await?
        .success("creating the directory with the API's credential")?;
    write_token(host, platform, service, token).await?;
    write_authority(host, platform, service, authority).await?;
    Ok(directory(platform, service))
}

/// Replaces the token in the directory of a service.
pub(crate) async fn write_token(
    host: &dyn NodeAccess,
    platform: PlatformId,
    service: &ServiceName,
    token: &Sensitive,
) -> Result<()> {
    let contents = token.expose().to_owned();
    host.put(file(platform, service, TOKEN, contents)).await
}

/// Replaces the certificates in the directory of a service.
pub(crate) async fn write_authority(
    host: &dyn NodeAccess,
    platform: PlatformId,
    service: &ServiceName,
    authority: &str,
) -> Result<()> {
    let contents = authority.to_owned();
    host.put(file(platform, service, AUTHORITY, contents)).await
}

fn file(platform: PlatformId, service: &ServiceName, name: &str, contents: String) -> HostFile {
    // Containers may run as any user, so everyone can read the file. On the node, only root can open
    // the parent directories.
    let path = format!("{}/{name}", directory(platform, service));
    HostFile::new(path, 0o444, contents)
}

/// Returns the services that have a directory on a node.
pub(crate) async fn services(
    host: &dyn NodeAccess,
    platform: PlatformId,
) -> Result<Vec<ServiceName>> {
    let list = format!("ls -1 '{}' 2>/dev/null || true", parent(platform));
    let listing = host
        .exec(HostCommand::new(list).as_root())
        .await?
        .success("listing the services with a credential for the API")?;
    let names = listing.lines().map(ServiceName::try_from);
    Ok(names.filter_map(std::result::Result::ok).collect())
}

#[cfg(test)]
mod tests {
    use super::super::node_directory::tests::{Node, PLATFORM};
    use super::*;

    #[test]
    fn only_containers_can_open_the_directory_with_the_credential() {
        let (new, old) = (Node::new(), Node::new());
        let service = ServiceName::try_from("web").unwrap();
        let directory = directory(PLATFORM, &service);
        old.create_open(&directory);
        for node in [new, old] {
            node.run(&create_directory(PLATFORM, &service));
            assert_eq!(node.mode(&node_directory(PLATFORM)), 0o700);
            assert_eq!(node.mode(&directory), 0o755);
        }
    }
}
