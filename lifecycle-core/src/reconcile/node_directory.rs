//! The directory that a platform uses on each of its nodes. Only root can open it, because it
//! contains the token of the manager's API and the contents of mounted files.

use crate::host::OWNER_FILE;
use crate::model::PlatformId;

/// The parent of the directories of all platforms.
const PARENT: &str = "/var/lib/lifecycle";

/// Returns the directory that a platform uses on each of its nodes.
pub fn node_directory(platform: PlatformId) -> String {
    format!("{PARENT}/{platform}")
}

/// Returns a script that makes the platform's directory accessible only to root. It corrects a
/// directory that an earlier version created, and makes all later files of the same script private.
///
/// Containers can use files below the directory, because the engine, which mounts the files, runs as
/// root. On a machine that was taken over, the parent has an entry that everyone may read, so
/// everyone may pass through the parent, but not list it.
pub(super) fn private(platform: PlatformId) -> String {
    let directory = node_directory(platform);
    format!(
        "set -eu
umask 077
mkdir -p '{directory}'
chmod 0700 '{directory}'
[ -e '{OWNER_FILE}' ] || chmod 0700 '{PARENT}'"
    )
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::process::Command;

    use tempfile::TempDir;
    use uuid::Uuid;

    use super::*;

    pub(in crate::reconcile) const PLATFORM: PlatformId = PlatformId::new(Uuid::from_u128(7));

    /// A directory in place of the parent of the platforms' directories.
    pub(in crate::reconcile) struct Node(TempDir);

    impl Node {
        pub(in crate::reconcile) fn new() -> Self {
            Self(TempDir::new().unwrap())
        }

        fn parent(&self) -> String {
            format!("{}/lifecycle", self.0.path().display())
        }

        /// Creates a directory, given by its path on a node, as an earlier version did.
        pub(in crate::reconcile) fn create_open(&self, directory: &str) {
            let path = directory.replace(PARENT, &self.parent());
            fs::create_dir_all(&path).unwrap();
            let open = Permissions::from_mode(0o755);
            for path in Path::new(&path).ancestors() {
                if path.starts_with(self.parent()) {
                    fs::set_permissions(path, open.clone()).unwrap();
                }
            }
        }

        /// Runs a script as a node does, with the usual umask of root.
        pub(in crate::reconcile) fn run(&self, script: &str) {
            let script = script.replace(PARENT, &self.parent());
            let script = format!("umask 022\n{script}");
            let ran = Command::new("sh").args(["-c", &script]).status().unwrap();
            assert!(ran.success(), "{script}");
        }

        /// Returns the permissions of a file or directory, given by its path on a node.
        pub(in crate::reconcile) fn mode(&self, path: &str) -> u32 {
            let path = path.replace(PARENT, &self.parent());
            fs::metadata(path).unwrap().permissions().mode() & 0o777
        }
    }

    #[test]
    fn only_root_can_open_the_directory() {
        let directory = node_directory(PLATFORM);
        let new = Node::new();
        let old = Node::new();
        old.create_open(&format!("{directory}/agent"));
        for node in [new, old] {
            for _ in 0..2 {
                node.run(&private(PLATFORM));
                assert_eq!(node.mode(&directory), 0o700);
                assert_eq!(node.mode(PARENT), 0o700);
            }
        }
    }

    #[test]
    fn everyone_can_read_who_owns_a_machine() {
        let node = Node::new();
        node.create_open(&node_directory(PLATFORM));
        node.run(&format!("chmod 0711 '{PARENT}'\necho id > '{OWNER_FILE}'"));
        node.run(&private(PLATFORM));
        assert_eq!(node.mode(PARENT), 0o711);
        assert_eq!(node.mode(&node_directory(PLATFORM)), 0o700);
    }
}
