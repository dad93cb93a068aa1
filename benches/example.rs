//! Brings up the example platform with the built programs, as a user does.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The built programs.
#[derive(Debug)]
pub struct Programs {
    /// The Cargo profile with which the programs were built.
    pub profile: &'static str,
    directory: PathBuf,
    example: PathBuf,
}

impl Programs {
    /// Finds the programs that were built with the release profile or, if these do not exist, with
    /// the debug profile.
    pub fn find() -> Result<Self, String> {
        let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        for profile in ["release", "debug"] {
            let directory = target.join(profile);
            let all = ["bootstrapper", "lifecycle-manager", "iot-platform"];
            if all.iter().all(|name| directory.join(name).is_file()) {
                let example = root.join("examples/iot-platform");
                return Ok(Self {
                    profile,
                    directory,
                    example,
                });
            }
        }
        Err(
            "the programs are not built: cargo build --release --locked --bins -p bootstrapper \
             -p lifecycle-manager -p examples"
                .into(),
        )
    }

    /// Returns the path of a program.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// A copy of the example project, with its own name and id. Dropping this value deletes the
/// platform.
#[derive(Debug)]
pub struct Project<'a> {
    programs: &'a Programs,
    name: String,
    directory: TempDir,
    configuration: TempDir,
}

impl<'a> Project<'a> {
    /// Creates the copy without bringing the platform up.
    pub fn new(programs: &'a Programs) -> Result<Self, String> {
        let directory = temporary()?;
        std::fs::create_dir_all(directory.path().join("code/iot"))
            .map_err(|error| format!("creating the project's directories: {error}"))?;
        let copy = |from: &Path, to: &str| match std::fs::copy(from, directory.path().join(to)) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!(
                "copying {} to the project: {error}",
                from.display()
            )),
        };
        for file in ["compose.yaml", "platform.toml", "code/iot/Dockerfile"] {
            copy(&programs.example.join(file), file)?;
        }
        copy(&programs.path("iot-platform"), "code/iot/iot-platform")?;
        Ok(Self {
            programs,
            name: format!("bench-{}", std::process::id()),
            directory,
            configuration: temporary()?,
        })
    }

    /// Returns the platform's UUID. Fails before the first [`Self::up`].
    pub fn platform(&self) -> Result<String, String> {
        let file = self.directory.path().join(".lifecycle/platform.json");
        let identity = std::fs::read(&file)
            .map_err(|error| error.to_string())
            .and_then(|text| serde_json::from_slice(&text).map_err(|error| error.to_string()));
        let identity: serde_json::Value =
            identity.map_err(|why| format!("reading {}: {why}", file.display()))?;
        let id = identity["id"].as_str().map(str::to_owned);
        id.ok_or_else(|| format!("reading {}: the file contains no id", file.display()))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.path("bootstrapper"));
        command
            .arg("--project-dir")
            .arg(self.directory.path())
            .args(["--project-name", &self.name])
            .args(arguments)
            .env("XDG_CONFIG_HOME", self.configuration.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a command. Calls `on_line` for each line of output, with the time since the start.
    /// Returns the total time.
    fn run(
        &self,
        arguments: &[&str],
        mut on_line: impl FnMut(Duration, &str),
    ) -> Result<Duration, String> {
        let since = Instant::now();
        let mut child = self
            .command(arguments)
            .spawn()
            .map_err(|error| format!("bootstrapper: {error}"))?;
        let mut last = String::new();
        if let Some(stderr) = child.stderr.take() {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                on_line(since.elapsed(), &line);
                last = line;
            }
        }
        let status = child
            .wait()
            .map_err(|error| format!("bootstrapper: {error}"))?;
        if status.success() {
            Ok(since.elapsed())
        } else {
            Err(format!("bootstrapper {}: {last}", arguments.join(" ")))
        }
    }

    /// Brings the platform up. Calls `printed` for each line of output, with the time since the
    /// start. Returns the total time.
    pub fn up(&self, printed: impl FnMut(Duration, &str)) -> Result<Duration, String> {
        self.run(&["up"], printed)
    }

    /// Deletes the platform.
    pub fn down(&self) -> Result<(), String> {
        self.run(&["down", "--yes"], |_, _| {}).map(drop)
    }

    /// Returns a directory with the same files as the credential of a service: the CA certificate and
    /// a token.
    pub fn credential(&self) -> Result<TempDir, String> {
        let failed = |error: std::io::Error| format!("reading the platform's secrets: {error}");
        let credential = temporary()?;
        let platform = self.platform()?;
        let kept = self.configuration.path().join("lifecycle").join(platform);
        for (from, to) in [("ca.pem", "ca.pem"), ("admin.token", "token")] {
            std::fs::copy(kept.join(from), credential.path().join(to)).map_err(failed)?;
        }
        Ok(credential)
    }
}

impl Drop for Project<'_> {
    fn drop(&mut self) {
        // Has no effect if the platform has already been deleted.
        drop(self.down());
    }
}

fn temporary() -> Result<TempDir, String> {
    tempfile::tempdir().map_err(|error| format!("creating a temporary directory: {error}"))
}
