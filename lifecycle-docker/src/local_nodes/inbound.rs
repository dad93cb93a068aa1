//! Changes which ports of a stock node are open to traffic from outside the nodes' network.

use std::ops::RangeInclusive;

use bollard::Docker;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::query_parameters::UploadToContainerOptions;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use lifecycle_core::cloud::Power;
use lifecycle_core::model::NodeName;
use lifecycle_core::{Error, Result};

use super::LocalNodes;
use super::engine::engine_error;

/// The file on a node that replaces the ports in the node's environment.
const FILE: &str = "var/lib/node/inbound";
/// The command on a node that applies the file.
const APPLY: [&str; 2] = ["/usr/local/bin/node-network", "inbound"];

/// Formats ports for the node's firewall.
pub(super) fn words(ports: &[RangeInclusive<u16>]) -> String {
    let ports = ports.iter();
    let ports: Vec<String> = ports
        .map(|ports| format!("{}:{}", ports.start(), ports.end()))
        .collect();
    ports.join(" ")
}

impl LocalNodes {
    /// Opens exactly these TCP ports of a stock node to traffic from outside the nodes' network,
    /// like [`FirstBoot::inbound`](super::FirstBoot::inbound). Open connections are not closed. The
    /// ports also apply to later boots.
    ///
    /// # Errors
    /// Returns [`Error::NotFound`] if the node does not exist.
    pub async fn set_inbound(&self, node: &NodeName, ports: &[RangeInclusive<u16>]) -> Result<()> {
        let docker = self.engine()?;
        let found = self.node_container(&docker, node).await?;
        let found = found.ok_or_else(|| Error::not_found(format!("node {node}")))?;
        let what = format!("changing the open ports of node {node}");
        let options = UploadToContainerOptions {
            path: "/".to_owned(),
            ..UploadToContainerOptions::default()
        };
        let archive = archive(ports).map_err(|error| Error::io(what.as_str(), error))?;
        docker
            .upload_to_container(&found.id, Some(options), bollard::body_full(archive))
            .await
            .map_err(|error| engine_error(&what, error))?;
        // A node that is not running applies the file when it starts.
        let Some(found) = self.node_container(&docker, node).await? else {
            return Ok(());
        };
        if !matches!(found.power, Power::Running | Power::Starting) {
            return Ok(());
        }
        apply(&docker, &found.id, &what).await
    }
}

fn archive(ports: &[RangeInclusive<u16>]) -> std::io::Result<Bytes> {
    let contents = format!("{}\n", words(ports)).into_bytes();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(contents.len() as u64);
    archive.append_data(&mut header, FILE, contents.as_slice())?;
    Ok(archive.into_inner()?.into())
}

async fn apply(docker: &Docker, container: &str, what: &str) -> Result<()> {
    let engine = |error| engine_error(what, error);
    let command = CreateExecOptions {
        cmd: Some(APPLY.map(str::to_owned).to_vec()),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..CreateExecOptions::default()
    };
    let exec = docker.create_exec(container, command).await;
    let exec = exec.map_err(engine)?.id;
    let started = docker.start_exec(&exec, None).await.map_err(engine)?;
    let mut output_text = String::new();
    if let StartExecResults::Attached { mut output, .. } = started {
        while let Some(piece) = output.try_next().await.map_err(engine)? {
            output_text.push_str(&piece.to_string());
        }
    }
    let ended = docker.inspect_exec(&exec).await.map_err(engine)?;
    match ended.exit_code {
        Some(0) => Ok(()),
        code => {
            let code = code.map_or_else(|| "none".to_owned(), |code| code.to_string());
            let why = format!("exit code {code}: {}", output_text.trim());
            Err(Error::failed(what, why))
        }
    }
}
