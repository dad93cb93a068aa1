//! Runs the server in a container, as a service would run. The image contains only this program and
//! its shared libraries.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::Failure;

/// The port in the container.
const PORT: u16 = 8080;

/// A running container and its image. Dropping this value removes both.
#[derive(Debug)]
pub(crate) struct Container {
    image: String,
    id: String,
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(docker(&["rm", "--force", &self.id]));
        drop(docker(&["rmi", &self.image]));
    }
}

impl Container {
    /// Starts the server in a container. Returns the container and the server's address.
    pub(crate) fn start(program: &Path) -> Result<(Self, SocketAddr), Failure> {
        let linked = Command::new("ldd").arg(program).output()?;
        let linked = String::from_utf8(linked.stdout)?;
        let words = linked.split_whitespace();
        let libraries = words.filter(|word| word.starts_with('/'));
        let mut archive = Command::new("tar")
            .args([
                "--create",
                "--dereference",
                "--directory",
                "/",
                "--absolute-names",
            ])
            .args(["--transform", &format!("s|{}|/bench|", program.display())])
            .arg(program)
            .args(libraries)
            .stdout(Stdio::piped())
            .spawn()?;
        let image = format!("lifecycle-bench-agent:{}", std::process::id());
        let packed = archive.stdout.take().ok_or("tar has no output")?;
        let import = Command::new("docker")
            .args(["import", "-", &image])
            .stdin(packed)
            .output()?;
        archive.wait()?;
        succeeded(import)?;
        let mut container = Self {
            image,
            id: String::new(),
        };
        let listens = format!("0.0.0.0:{PORT}");
        let run = [
            "run",
            "--detach",
            &container.image,
            "/bench",
            "server",
            &listens,
        ];
        container.id = docker(&run)?;
        let ip = docker(&[
            "inspect",
            "--format",
            "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
            &container.id,
        ])?;
        let at = SocketAddr::new(ip.parse()?, PORT);
        Ok((container, at))
    }
}

fn docker(arguments: &[&str]) -> Result<String, Failure> {
    succeeded(Command::new("docker").args(arguments).output()?)
}

fn succeeded(output: Output) -> Result<String, Failure> {
    if output.status.success() {
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().into())
    }
}
