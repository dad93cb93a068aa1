//! Parses the URL of a registry, and connects to its database. Only one process at a time can use a
//! SQLite file. Several processes can share a PostgreSQL database.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use sea_orm::sqlx::postgres::{PgConnectOptions, PgSslMode};
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::{ConnectOptions, Database, DatabaseConnection};

use super::error::at;
use crate::error::{Error, Result};

/// The timeout for opening a connection, and for waiting for a free one in the pool.
const CONNECT: Duration = Duration::from_secs(5);
/// The timeout for one statement.
const STATEMENT: Duration = Duration::from_secs(45);
/// The longest time that a write waits for another write.
const LOCK: Duration = Duration::from_secs(30);
/// How long PostgreSQL keeps an idle transaction, for example after its process was killed.
const IDLE_TRANSACTION: Duration = Duration::from_mins(1);

/// The numbers of connections, without the one for the lease.
pub(super) const SQLITE_CONNECTIONS: u32 = 4;
const POSTGRES_CONNECTIONS: u32 = 8;

/// How a certificate in PEM begins.
const PEM: &str = "-----BEGIN";

/// The names that the database client accepts for the encryption of connections.
const TLS_MODE: [&str; 2] = ["sslmode", "ssl-mode"];

/// The names that the database client accepts for the trusted authorities.
const AUTHORITIES: [&str; 3] = ["sslrootcert", "ssl-root-cert", "ssl-ca"];

/// The open connections to a database.
pub(super) struct Connected {
    pub(super) connection: DatabaseConnection,
    /// A single further connection, which is opened when it is first used.
    pub(super) lease: DatabaseConnection,
    /// For a SQLite file: the lock that keeps other processes from using the file.
    pub(super) lock: Option<FileLock>,
}

/// The parsed URL of a database.
pub(super) enum Location {
    Sqlite {
        options: Box<SqliteConnectOptions>,
        create: bool,
    },
    Postgres {
        options: Box<PgConnectOptions>,
    },
}

/// Displays the location without the password.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite { options, .. } => {
                write!(f, "registry {}", options.get_filename().display())
            }
            Self::Postgres { options } => {
                write!(f, "registry postgres://{}@", options.get_username())?;
                match options.get_socket() {
                    Some(socket) => write!(f, "{}", socket.display())?,
                    None => write!(f, "{}:{}", options.get_host(), options.get_port())?,
                }
                write!(f, "/{}", options.get_database().unwrap_or_default())
            }
        }
    }
}

impl Location {
    /// Parses a URL. Errors do not quote the URL.
    pub(super) fn of(url: &str) -> Result<Self> {
        let invalid = |why: String| {
            Error::Invalid {
            what: "the registry's URL".into(),
            why,
            hint: "write sqlite:///path/registry.db?mode=rwc or postgres://user:password@host/database"
                .into(),
        }
        };
        match url.split_once(':').map_or("", |(scheme, _)| scheme) {
            "sqlite" => {
                let options = SqliteConnectOptions::from_str(url)
                    .map_err(|error| invalid(error.to_string()))?;
                let path = url.split(['?', '#']).next().unwrap_or_default();
                if path.contains(":memory:") || matches!(path, "sqlite:" | "sqlite://") {
                    return Err(invalid("it contains no file path".into()));
                }
                let query = url.split_once('?').map_or("", |(_, query)| query);
                if query
                    .split('&')
                    .any(|part| matches!(part, "mode=ro" | "mode=memory"))
                {
                    return Err(invalid(
                        "the registry must be a writable file on a disk".into(),
                    ));
                }
                let create = query.split('&').any(|part| part == "mode=rwc");
                Ok(Self::Sqlite {
                    options: Box::new(options),
                    create,
                })
            }
            "postgres" | "postgresql" => {
                // The parser's message may quote the URL with its password.
                let mut options = PgConnectOptions::from_str(url)
                    .map_err(|_| invalid("it cannot be parsed".into()))?;
                if !is_local(&options) && parameter(url, &TLS_MODE).is_none() {
                    options = options.ssl_mode(PgSslMode::VerifyFull);
                }
                Ok(Self::Postgres {
                    options: Box::new(options),
                })
            }
            _ => Err(invalid("it must start with sqlite: or postgres:".into())),
        }
    }

    /// Connects to the database.
    pub(super) async fn connect(&self, url: &str) -> Result<Connected> {
        let mut options = ConnectOptions::new(url);
        options
            .sqlx_logging(false)
            .connect_timeout(CONNECT)
            .acquire_timeout(CONNECT);
        let mut lock = None;
        match self {
            Self::Sqlite {
                options: file,
                create,
            } => {
                let file = file.get_filename().to_owned();
                let create = *create;
                let what = self.to_string();
                let taken = tokio::task::spawn_blocking(move || FileLock::take(&file, create))
                    .await
                    .map_err(|error| Error::failed(what, error.to_string()))??;
                lock = Some(taken);
                // Set no minimum number of connections. Otherwise, two connections would be opened
                // at the same time, both would enable the write-ahead log, and one would fail.
                options
                    .max_connections(SQLITE_CONNECTIONS)
                    .idle_timeout(None::<Duration>)
                    .max_lifetime(None::<Duration>)
                    .test_before_acquire(false)
                    .map_sqlx_sqlite_opts(|file| {
                        file.create_if_missing(false)
                            .foreign_keys(true)
                            .journal_mode(SqliteJournalMode::Wal)
                            .synchronous(SqliteSynchronous::Full)
                            .busy_timeout(LOCK)
                    });
            }
            Self::Postgres { options: parsed } => {
                let mode = parsed.get_ssl_mode();
                let host = parsed.get_host().trim_matches(BRACKETS).to_owned();
                let authorities = self.authorities(url).await?;
                options
                    .max_connections(POSTGRES_CONNECTIONS)
                    .idle_timeout(Duration::from_mins(5))
                    .map_sqlx_postgres_opts(move |server| {
                        let millis = |time: Duration| time.as_millis().to_string();
                        // The brackets of an IPv6 address are not part of the name in a certificate.
                        let mut server = server.ssl_mode(mode).host(&host);
                        if let Some(authorities) = &authorities {
                            server = server.ssl_root_cert_from_pem(authorities.clone());
                        }
                        server.application_name("lifecycle").options([
                            ("statement_timeout", millis(STATEMENT)),
                            ("lock_timeout", millis(LOCK)),
                            (
                                "idle_in_transaction_session_timeout",
                                millis(IDLE_TRANSACTION),
                            ),
                        ])
                    });
            }
        }
        let location = self.to_string();
        let connect = async |options| Database::connect(options).await.map_err(at(&location));
        let connection = connect(options.clone()).await?;
        // A second connection replaces one that hangs because the database has moved.
        options.max_connections(2).connect_lazy(true);
        let lease = connect(options).await?;
        Ok(Connected {
            connection,
            lease,
            lock,
        })
    }

    /// Returns the certificates of the authorities that the URL declares as trusted, in PEM.
    async fn authorities(&self, url: &str) -> Result<Option<Vec<u8>>> {
        let Some(value) = parameter(url, &AUTHORITIES) else {
            return Ok(None);
        };
        if value.trim_start().starts_with(PEM) {
            return Ok(Some(value.into_bytes()));
        }
        match tokio::fs::read(&value).await {
            Ok(certificates) => Ok(Some(certificates)),
            Err(error) => Err(Error::Invalid {
                what: self.to_string(),
                why: format!("the file `{value}` (`sslrootcert`) cannot be read: {error}"),
                hint: "correct the path of the file in the database's URL".into(),
            }),
        }
    }
}

/// The brackets around an IPv6 address.
const BRACKETS: [char; 2] = ['[', ']'];

/// Returns whether connections to this server do not leave the machine.
fn is_local(server: &PgConnectOptions) -> bool {
    let host = server.get_host().trim_matches(BRACKETS);
    server.get_socket().is_some()
        || host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Returns the last value of a parameter in the query of a URL. The parameter may have several
/// names.
fn parameter(url: &str, names: &[&str]) -> Option<String> {
    let url = url.split('#').next().unwrap_or_default();
    let (_, query) = url.split_once('?')?;
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.rev().find(|(name, _)| names.contains(name))?;
    let value = value.replace('+', " ");
    Some(percent_decode_str(&value).decode_utf8_lossy().into_owned())
}

/// A lock on a file next to the database file. The lock is released when this value is dropped or
/// the process ends.
#[derive(Debug)]
pub(super) struct FileLock {
    _file: File,
}

impl FileLock {
    /// Locks the database's file, which only its owner can access. Creates a missing file if
    /// `create` is true.
    fn take(database: &Path, create: bool) -> Result<Self> {
        let shown = database.display();
        let opened = private().read(true).create(create).open(database);
        match opened {
            Ok(file) => restrict(&file)
                .map_err(|error| Error::io(format!("restricting access to {shown}"), error))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !create => {
                return Err(Error::not_found(format!("registry {shown}")));
            }
            Err(error) => return Err(Error::io(format!("opening {shown}"), error)),
        }
        // Resolve symbolic links, so that every path to the database leads to the same lock.
        let real = std::fs::canonicalize(database)
            .map_err(|error| Error::io(format!("finding {shown}"), error))?;
        let path = lock_path(&real);
        let failed = |error| Error::io(format!("locking {}", path.display()), error);
        let mut file = private()
            .read(true)
            .create(true)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Ignore a failed read: the id of the other process only improves the message.
                file.read_to_string(&mut holder).unwrap_or_default();
                let holder = holder.trim().parse::<u32>();
                return Err(Error::Conflict {
                    what: format!("registry {shown}"),
                    why: match holder {
                        Ok(pid) => format!("process {pid} is using the registry"),
                        Err(_) => "another process is using the registry".into(),
                    },
                });
            }
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// Returns the path of the lock file. Never delete that file: two processes could then hold the
/// lock at the same time.
fn lock_path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// Returns options that open a file for writing. A new file is accessible only to its owner.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(unix)]
fn restrict(file: &File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;

    file.set_permissions(std::fs::Permissions::from_mode(0o600))
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature as on Unix")]
fn restrict(_: &File) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_shows_no_password() {
        let location =
            Location::of("postgres://lifecycle:hunter2@db.example:5433/registry").unwrap();
        assert_eq!(
            location.to_string(),
            "registry postgres://lifecycle@db.example:5433/registry"
        );
    }

    fn mode(url: &str) -> PgSslMode {
        let Location::Postgres { options } = Location::of(url).unwrap() else {
            panic!("{url}");
        };
        options.get_ssl_mode()
    }

    #[test]
    fn a_server_on_another_machine_must_prove_its_identity() {
        for remote in [
            "postgres://l:hunter2@db.example/registry",
            "postgres://l@10.0.0.4:5433/registry?application_name=x",
            "postgresql://l@[fd00::1]/registry",
            "postgres://l@localhost.example/registry#sslmode=disable",
            "postgres://l@localhost/registry?host=db.example",
        ] {
            let mode = mode(remote);
            assert!(matches!(mode, PgSslMode::VerifyFull), "{remote}: {mode:?}");
        }
        for local in [
            "postgres://l@127.0.0.1:5433/registry",
            "postgres://l@[::1]/registry",
            "postgres://l@LocalHost/registry",
            "postgres://l@%2Frun%2Fpostgresql/registry",
            "postgres://l@db.example/registry?host=/run/postgresql",
        ] {
            let mode = mode(local);
            assert!(matches!(mode, PgSslMode::Prefer), "{local}: {mode:?}");
        }
    }

    #[test]
    fn a_url_may_declare_another_mode() {
        let disabled = mode("postgres://l@db.example/registry?sslmode=disable");
        assert!(matches!(disabled, PgSslMode::Disable), "{disabled:?}");
        let required = mode("postgres://l@db.example/registry?x=y&ssl-mode=require");
        assert!(matches!(required, PgSslMode::Require), "{required:?}");
        let verified = mode("postgres://l@127.0.0.1/registry?sslmode=verify-full");
        assert!(matches!(verified, PgSslMode::VerifyFull), "{verified:?}");
    }

    #[test]
    fn the_values_of_parameters_are_decoded() {
        let url = "postgres://l@h/r?sslrootcert=a&ssl-ca=%2Fetc%2Fmy+ca%2B1.pem#x";
        let value = parameter(url, &AUTHORITIES);
        assert_eq!(value.as_deref(), Some("/etc/my ca+1.pem"));
        assert_eq!(parameter("postgres://l@h/r", &AUTHORITIES), None);
    }

    #[test]
    fn an_invalid_url_is_not_quoted() {
        for bad in [
            "postgress://lifecycle:hunter2@host/registry",
            "postgres://lifecycle:hunter2@ho st:x/registry",
            "mysql://lifecycle:hunter2@host/registry",
            "hunter2",
            "",
            "sqlite::memory:",
            "sqlite://:memory:?cache=shared",
            "sqlite://?mode=rwc",
            "sqlite:///hunter2?mode=ro",
        ] {
            let error = Location::of(bad).err().unwrap_or_else(|| panic!("{bad}"));
            assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
            assert!(
                !format!("{error:?} {}", error.chain()).contains("hunter2"),
                "{error:?}"
            );
        }
    }
}
