//! Parses the URL of a registry, and connects to its database. Only one process at a time can use a
//! SQLite file. Several processes can share a PostgreSQL database.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sea_orm::sqlx::postgres::PgConnectOptions;
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
                let options = PgConnectOptions::from_str(url)
                    .map_err(|_| invalid("it cannot be parsed".into()))?;
                Ok(Self::Postgres {
                    options: Box::new(options),
                })
            }
            _ => Err(invalid("it must start with sqlite: or postgres:".into())),
        }
    }

    /// Connects to the database. For a SQLite file, also returns a lock that keeps other processes
    /// from using the file.
    pub(super) async fn connect(
        &self,
        url: &str,
    ) -> Result<(DatabaseConnection, Option<FileLock>)> {
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
                    .max_connections(4)
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
            Self::Postgres { .. } => {
                options
                    .max_connections(8)
                    .idle_timeout(Duration::from_mins(5))
                    .map_sqlx_postgres_opts(|server| {
                        let millis = |time: Duration| time.as_millis().to_string();
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
        let connection = Database::connect(options).await.map_err(at(&location))?;
        Ok((connection, lock))
    }
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
