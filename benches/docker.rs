//! Runs the `docker` command.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs `docker` with this standard input. Returns the output.
pub fn docker_with(arguments: &[&str], input: Option<&[u8]>) -> Result<String, String> {
    let mut child = Command::new("docker")
        .args(arguments)
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("docker: {error}"))?;
    if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
        // Ignore a write error: if `docker` does not read the input, `docker` reports its own
        // error.
        drop(pipe.write_all(input));
    }
    let output = child
        .wait_with_output()
        .map_err(|error| format!("docker: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("docker {}: {}", arguments.join(" "), stderr.trim()))
}

/// Runs `docker` and returns the output.
pub fn docker(arguments: &[&str]) -> Result<String, String> {
    docker_with(arguments, None)
}

/// Runs `docker` twice; the output of the first call is the input of the second.
pub fn docker_pipe(from: &[&str], to: &[&str]) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("docker: {error}");
    let mut source = Command::new("docker")
        .args(from)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let output = source.stdout.take().ok_or("docker has no output")?;
    let target = Command::new("docker")
        .args(to)
        .stdin(output)
        .stdout(Stdio::null())
        .status()
        .map_err(failed)?;
    if source.wait().map_err(failed)?.success() && target.success() {
        return Ok(());
    }
    Err(format!(
        "docker {} | docker {}",
        from.join(" "),
        to.join(" ")
    ))
}

/// Checks that an engine responds.
pub fn require() -> Result<(), String> {
    docker(&["version"]).map(drop).map_err(|why| {
        format!("this benchmark needs Docker ({why}): sudo apt-get install docker.io iptables")
    })
}

/// Measures how long `docker version` takes. Every call of `docker` takes at least this long.
pub fn one_call() -> Duration {
    const CALLS: u32 = 10;
    let since = Instant::now();
    for _ in 0..CALLS {
        drop(docker(&["version"]));
    }
    since.elapsed() / CALLS
}
