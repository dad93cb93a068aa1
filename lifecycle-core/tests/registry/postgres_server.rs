//! A PostgreSQL server of the test's own: in a directory of its own, on a socket in it, with a
//! password, stopped at the end.

use std::fs;
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
}

impl PostgresServer {
    pub(crate) fn start() -> Self {
        let server = Self {
            programs: programs(),
            directory: tempfile::Builder::new().prefix("lc-pg-").tempdir().unwrap(),
            databases: AtomicU32::new(0),
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
        // Another time zone and date style than ours: both may be whatever the user has.
        let options = format!(
            "-F -c listen_addresses='' -c unix_socket_directories='{}' \
             -c timezone=Asia/Kathmandu -c datestyle=German",
            root.display()
        );
        done(
            server
                .command("pg_ctl")
                .args(["-w", "-t", "60", "start", "-o", &options, "-l"])
                .arg(root.join("log"))
                .arg("-D")
                .arg(&data),
        );
        server
    }

    /// The URL of a new database.
    pub(crate) fn database(&self) -> String {
        let name = format!(
            "registry_{}",
            self.databases.fetch_add(1, Ordering::Relaxed)
        );
        done(&mut self.client("createdb", &name));
        self.url(PASSWORD, &name)
    }

    pub(crate) fn url(&self, password: &str, database: &str) -> String {
        let socket = self.directory.path().display();
        format!("postgres://{USER}:{password}@localhost/{database}?host={socket}")
    }

    /// What `pg_dump` shows of the latest database.
    pub(crate) fn dump(&self) -> String {
        let name = format!("registry_{}", self.databases.load(Ordering::Relaxed) - 1);
        String::from_utf8(done(&mut self.client("pg_dump", &name)).stdout).unwrap()
    }

    /// What a query shows of the latest database, as the server prints it.
    pub(crate) fn query(&self, sql: &str) -> String {
        let name = format!("registry_{}", self.databases.load(Ordering::Relaxed) - 1);
        let output = done(self.client("psql", &name).args(["-At", "-c", sql]));
        String::from_utf8(output.stdout).unwrap()
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
            .arg(database);
        command
    }

    /// The server refuses to run as root.
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
        // It may have been stopped already.
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
