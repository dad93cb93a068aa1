//! Reads the node's own resolvers, and writes the `resolv.conf` for containers.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::dns::domain;
use crate::network::Table;

/// The interval at which the node's `resolv.conf` is read again.
const POLL_EVERY: Duration = Duration::from_secs(2);

/// The maximum number of search domains. Every C library supports this many.
const MOST_DOMAINS: usize = 6;

/// The contents of a `resolv.conf`.
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
                // std cannot parse an address with a zone (`fe80::1%eth0`), so such an address is
                // skipped.
                Some("nameserver") => conf
                    .servers
                    .extend(words.next().and_then(|word| word.parse::<IpAddr>().ok())),
                // If there are several such lines, the last one counts (resolv.conf(5)).
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

/// Watches the node's `resolv.conf` for changes.
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
        resolvers.poll();
        resolvers
    }

    pub(super) fn watch(&self) -> watch::Receiver<Arc<ResolvConf>> {
        self.current.subscribe()
    }

    pub(super) async fn keep_reading(self) {
        loop {
            tokio::time::sleep(POLL_EVERY).await;
            self.poll();
        }
    }

    fn poll(&self) {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) => {
                // Keep the previous contents: another process may be replacing the file.
                tracing::warn!(path = %self.path.display(), %error, "cannot read resolv.conf");
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

/// Creates the `resolv.conf` for containers. The agent is its only server: some C libraries would
/// accept "no such name" from another server.
pub(super) fn for_containers(table: &Table, node: &ResolvConf) -> String {
    let ours = domain(&table.platform);
    let search: Vec<&str> = std::iter::once(ours.as_str())
        .chain(node.search.iter().map(String::as_str))
        .take(MOST_DOMAINS)
        .collect();
    format!(
        "# Written by the platform's agent, and updated when the node's resolv.conf changes.\n\
         nameserver {}\nsearch {}\noptions ndots:1\n",
        table.block.agent(),
        search.join(" "),
    )
}

/// Writes a file that is mounted in containers. Keeps the inode, to which the mounts refer. Readers
/// never see partial contents.
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
    // Use a single write, so that readers see either the old or the new text. A shorter text is
    // padded with empty lines, and the file is truncated afterwards.
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
    fn parses_servers_and_search_domains() {
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
    fn the_containers_file_keeps_its_inode() {
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
