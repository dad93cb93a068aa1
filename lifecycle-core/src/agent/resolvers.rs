//! The node's own resolvers, and the `resolv.conf` that containers get.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::dns::domain;
use crate::network::Table;

/// How often the node's file is looked at. It is small, and asking for notices would need a
/// watch on whatever directory a symbolic link leads to.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// As many search domains as every C library takes.
const MOST_DOMAINS: usize = 6;

/// What a `resolv.conf` says.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct ResolvConf {
    pub(super) servers: Vec<IpAddr>,
    pub(super) search: Vec<String>,
}

impl ResolvConf {
    fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                // One with a zone (`fe80::1%eth0`) is no address to std, and skipped.
                Some("nameserver") => conf
                    .servers
                    .extend(words.next().and_then(|word| word.parse::<IpAddr>().ok())),
                // The last one counts (resolv.conf(5)).
                Some("search" | "domain") => {
                    conf.search = words
                        .map(|domain| domain.trim_end_matches('.').to_owned())
                        .filter(|domain| !domain.is_empty())
                        .collect();
                }
                _ => {}
            }
        }
        conf
    }
}

/// The node's `resolv.conf`, read again when it changes.
#[derive(Debug)]
pub(super) struct Resolvers {
    path: PathBuf,
    current: watch::Sender<Arc<ResolvConf>>,
}

impl Resolvers {
    pub(super) fn read(path: &Path) -> Self {
        let resolvers = Self {
            path: path.to_owned(),
            current: watch::Sender::default(),
        };
        resolvers.look();
        resolvers
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<ResolvConf>> {
        self.current.subscribe()
    }

    /// Looks for changes for as long as the agent runs.
    pub(super) async fn keep_reading(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            self.look();
        }
    }

    fn look(&self) {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) => {
                // It may be in the middle of being replaced: what was known stays.
                tracing::warn!(path = %self.path.display(), %error, "cannot read the resolvers");
                return;
            }
        };
        let read = ResolvConf::parse(&text);
        self.current.send_if_modified(|current| {
            let changed = **current != read;
            if changed {
                *current = Arc::new(read);
            }
            changed
        });
    }
}

/// The `resolv.conf` of containers. A single name is first looked for among the services, with
/// one query and without asking anyone outside; then in the node's own domains; then as it is.
/// The agent is the only server: with a second one some C libraries ask both at once and take
/// its "no such name".
pub(super) fn for_containers(table: &Table, node: &ResolvConf) -> String {
    let ours = domain(&table.platform);
    let search: Vec<&str> = std::iter::once(ours.as_str())
        .chain(node.search.iter().map(String::as_str))
        .take(MOST_DOMAINS)
        .collect();
    format!(
        "# Written by the platform's agent, which writes it again when the node's changes.\n\
         nameserver {}\nsearch {}\noptions ndots:1\n",
        table.block.agent(),
        search.join(" "),
    )
}

/// Writes a file that containers have mounted: the same inode, and at no moment half a text.
pub(super) fn write_in_place(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    let mut before = Vec::new();
    file.read_to_end(&mut before)?;
    if before == text.as_bytes() {
        return Ok(());
    }
    // One write, padded with empty lines to the old length; only then shortened.
    let mut padded = text.as_bytes().to_vec();
    padded.resize(padded.len().max(before.len()), b'\n');
    file.rewind()?;
    file.write_all(&padded)?;
    file.set_len(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn servers_and_search_domains_are_read() {
        let conf = ResolvConf::parse(
            "# nameserver 1.1.1.1\ndomain a.example\nnameserver 10.0.0.2 \nnameserver ::1\n\
             nameserver fe80::1%eth0\nnameserver\noptions ndots:5\nsearch b.example. . c.example\n",
        );
        assert_eq!(
            conf,
            ResolvConf {
                servers: vec!["10.0.0.2".parse().unwrap(), "::1".parse().unwrap()],
                search: vec!["b.example".into(), "c.example".into()],
            }
        );
    }

    #[test]
    fn the_file_of_containers_keeps_its_inode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        write_in_place(&path, "a long text\n").unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        for text in ["short\n", "short\n", "a text that is longer\n"] {
            write_in_place(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        }
    }
}
