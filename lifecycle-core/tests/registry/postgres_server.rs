//! Runs a PostgreSQL server for a test, in its own directory and with a password. Dropping the
//! value stops the server.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

const USER: &str = "lifecycle";
pub(crate) const PASSWORD: &str = "hunter2-of-the-server";

#[derive(Debug)]
pub(crate) struct PostgresServer {
    programs: PathBuf,
    directory: TempDir,
    databases: AtomicU32,
    options: String,
    /// The port, which is also part of the socket's name.
    port: String,
}

impl PostgresServer {
    /// Starts a server that listens only on a socket.
    pub(crate) fn start() -> Self {
        Self::with("-c listen_addresses=''", 5432, &[], None)
    }

    /// Starts a server that also listens at an address of this machine, with a certificate and its
    /// private key in PEM. Returns the server and its port.
    pub(crate) fn start_with_tls(address: IpAddr, identity: (&str, &str)) -> (Self, u16) {
        let (port, options) = Self::listening(address);
        let options = format!("{options} -c ssl=on");
        (Self::with(&options, port, &[], Some(identity)), port)
    }

    /// Starts a server that also listens at an address of this machine and accepts connections from
    /// these networks. Returns the server and its port.
    pub(crate) fn start_at(address: IpAddr, networks: &[&str]) -> (Self, u16) {
        let (port, options) = Self::listening(address);
        (Self::with(&options, port, networks, None), port)
    }

    /// Returns a port, and the options for listening at this address.
    fn listening(address: IpAddr) -> (u16, String) {
        // Derive the port from the process id. A free port that the kernel chooses might be used by
        // another connection before the server listens.
        let port = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
        let options = format!("-c listen_addresses='{address}' -c port={port}");
        (port, options)
    }

    fn with(options: &str, port: u16, networks: &[&str], tls: Option<(&str, &str)>) -> Self {
        let mut server = Self {
            programs: programs(),
            directory: tempfile::Builder::new().prefix("lc-pg-").tempdir().unwrap(),
            databases: AtomicU32::new(0),
            options: options.to_owned(),
            port: port.to_string(),
        };
        let root = server.directory.path();
        fs::set_permissions(root, PermissionsExt::from_mode(0o700)).unwrap();
        let password = root.join("password");
        fs::write(&password, PASSWORD).unwrap();
        if is_root() {
            let all = [root, &password].map(Path::as_os_str);
            done(Command::new("chown").arg("postgres").args(all));
        }
        let data = root.join("data");
        done(
            server
                .command("initdb")
                .args(["--auth=scram-sha-256", "--no-sync", "--encoding=UTF8"])
                .args(["--locale=C", "-U", USER, "--pwfile"])
                .arg(&password)
                .arg("-D")
                .arg(&data),
        );
        // Use an unusual time zone and date style, because users' servers may have any setting.
        let hba = data.join("pg_hba.conf");
        let mut allowed = fs::read_to_string(&hba).unwrap();
        for network in networks {
            writeln!(allowed, "host all {USER} {network} scram-sha-256").unwrap();
        }
        fs::write(&hba, allowed).unwrap();
        if let Some((certificate, key)) = tls {
            for (name, contents) in [("server.crt", certificate), ("server.key", key)] {
                let file = data.join(name);
                fs::write(&file, contents).unwrap();
                fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
                if is_root() {
                    done(Command::new("chown").arg("postgres").arg(&file));
                }
            }
        }
        server.options = format!(
            "-F {} -c unix_socket_directories='{}' \
             -c timezone=Asia/Kathmandu -c datestyle=German",
            server.options,
            root.display()
        );
        server.run();
        server
    }

    /// Starts the server, for the first time or after [`Self::stop`].
    pub(crate) fn run(&self) {
        let root = self.directory.path();
        let log = root.join("log");
        let started = self
            .command("pg_ctl")
            .args(["-w", "-t", "60", "start", "-o", &self.options, "-l"])
            .arg(&log)
            .arg("-D")
            .arg(root.join("data"))
            .output()
            .unwrap();
        assert!(
            started.status.success(),
            "{started:?}: {}",
            fs::read_to_string(&log).unwrap_or_default()
        );
    }

    /// Creates a database with a new name. Returns the database's URL.
    pub(crate) fn database(&self) -> String {
        let name = format!(
            "registry_{}",
            self.databases.fetch_add(1, Ordering::Relaxed)
        );
        self.create(&name);
        self.url(PASSWORD, &name)
    }

    pub(crate) fn create(&self, name: &str) {
        done(&mut self.client("createdb", name));
    }

    /// Returns the URL, without options, of a database at a host at which the server listens.
    pub(crate) fn url_at(host: impl std::fmt::Display, port: u16, database: &str) -> String {
        format!("postgres://{USER}:{PASSWORD}@{host}:{port}/{database}")
    }

    pub(crate) fn url(&self, password: &str, database: &str) -> String {
        let socket = self.directory.path().display();
        format!("postgres://{USER}:{password}@localhost/{database}?host={socket}")
    }

    /// Returns the output of `pg_dump` for the latest database.
    pub(crate) fn dump(&self) -> String {
        self.dump_of(&self.latest())
    }

    /// Returns the result of a query in the latest database, in the format of `psql -At`.
    pub(crate) fn query(&self, sql: &str) -> String {
        self.query_in(&self.latest(), sql)
    }

    /// Returns the output of `pg_dump` for a database.
    pub(crate) fn dump_of(&self, database: &str) -> String {
        String::from_utf8(done(&mut self.client("pg_dump", database)).stdout).unwrap()
    }

    /// Returns the result of a query in a database, in the format of `psql -At`.
    pub(crate) fn query_in(&self, database: &str, sql: &str) -> String {
        let output = done(self.client("psql", database).args(["-At", "-c", sql]));
        String::from_utf8(output.stdout).unwrap()
    }

    fn latest(&self) -> String {
        let number = self.databases.load(Ordering::Relaxed) - 1;
        format!("registry_{number}")
    }

    pub(crate) fn stop(&self) {
        done(&mut self.stopping());
    }

    fn stopping(&self) -> Command {
        let mut command = self.command("pg_ctl");
        command
            .args(["-w", "stop", "-m", "immediate", "-D"])
            .arg(self.directory.path().join("data"));
        command
    }

    fn client(&self, program: &str, database: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command
            .env("PGPASSWORD", PASSWORD)
            .args(["-U", USER, "-h"])
            .arg(self.directory.path())
            .args(["-p", &self.port])
            .arg(database);
        command
    }

    /// Returns a command that runs a program of PostgreSQL. PostgreSQL refuses to run as root; if
    /// this process runs as root, the command switches to another user.
    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = if is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(self.directory.path());
        command
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // Ignore errors: the server may already be stopped.
        self.stopping().output().ok();
    }
}

fn programs() -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path().join("bin"))
        .filter(|path| path.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| {
        panic!("this test needs PostgreSQL's server: apt-get install postgresql")
    })
}

fn is_root() -> bool {
    let id = done(Command::new("id").arg("-u"));
    id.stdout == b"0\n"
}

fn done(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}
