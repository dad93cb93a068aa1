//! Connects to the operator's engine, and converts the engine's errors.

use std::path::Path;
use std::time::Duration;

use bollard::Docker;
use lifecycle_core::{Error, Result};

/// Time limit until the engine begins to respond. It is longer than [`super::STOP_GRACE`], the time
/// that stopping a container may take.
const ANSWER_LIMIT: Duration = Duration::from_mins(2);

/// Creates a client for the engine at a Unix socket, without opening a connection.
pub(super) fn open(socket: &Path) -> Result<Docker> {
    let path = socket.to_str().ok_or_else(|| {
        Error::invalid(
            format!("socket {}", socket.display()),
            "the path is not UTF-8",
            "specify Docker's socket, for example /var/run/docker.sock",
        )
    })?;
    Docker::connect_with_unix(path, ANSWER_LIMIT.as_secs(), bollard::API_DEFAULT_VERSION)
        .map_err(|error| engine_error("the Docker engine", error))
}

/// Returns whether the engine has an image with this name.
pub(super) async fn has_image(docker: &Docker, name: &str) -> Result<bool> {
    match absent_is_none(docker.inspect_image(name).await) {
        Ok(found) => Ok(found.is_some()),
        Err(error) => Err(engine_error(name, error)),
    }
}

/// Returns the response, or `None` if the requested resource does not exist.
pub(super) fn absent_is_none<T>(
    answer: Result<T, bollard::errors::Error>,
) -> Result<Option<T>, bollard::errors::Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if status(&error) == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the HTTP status of an engine's error response.
pub(super) fn status(error: &bollard::errors::Error) -> Option<u16> {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Returns whether the engine's error message contains `words`. Some errors differ only in their
/// message.
pub(super) fn refused_for(error: &bollard::errors::Error, words: &str) -> bool {
    match error {
        bollard::errors::Error::DockerResponseServerError { message, .. } => {
            message.to_ascii_lowercase().contains(words)
        }
        _ => false,
    }
}

/// Converts an error of the engine; `what` describes the requested operation.
pub(super) fn engine_error(what: &str, error: bollard::errors::Error) -> Error {
    use bollard::errors::Error as Docker;
    let what = what.to_owned();
    match error {
        Docker::DockerResponseServerError {
            status_code: 404,
            message,
        } => Error::not_found(format!("a resource required for {what} ({message})")),
        Docker::DockerResponseServerError {
            status_code: 409,
            message,
        } => Error::conflict(what, message),
        Docker::DockerResponseServerError {
            status_code: 503,
            message,
        } => Error::interrupted(what, Some(message.into())),
        Docker::DockerResponseServerError { message, .. } => Error::failed(what, message),
        Docker::SocketNotFoundError(path) => Error::unreachable(
            "the Docker engine",
            Some(format!("the socket {path} does not exist; install Docker and start it").into()),
        ),
        Docker::RequestTimeoutError => Error::timed_out(what, ANSWER_LIMIT),
        Docker::HyperLegacyError { .. } if is_permission(&error) => Error::denied(
            "access to the Docker engine",
            "the engine's socket belongs to another user or group",
            "join the group that owns the socket (`docker`) and log in again, or run as root",
        ),
        Docker::HyperLegacyError { .. } => {
            Error::unreachable("the Docker engine", Some(error.into()))
        }
        Docker::IOError { .. } | Docker::HyperResponseError { .. } => {
            Error::interrupted(what, Some(error.into()))
        }
        other => Error::failed_by(what, "the engine's response cannot be used", other.into()),
    }
}

fn is_permission(error: &bollard::errors::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::PermissionDenied
        {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifecycle_core::Retry;

    fn refusal(status_code: u16, message: &str) -> bollard::errors::Error {
        bollard::errors::Error::DockerResponseServerError {
            status_code,
            message: message.to_owned(),
        }
    }

    #[test]
    fn classifies_errors_by_status() {
        let absent = engine_error("node n1", refusal(404, "No such container"));
        assert!(matches!(absent, Error::NotFound { .. }), "{absent}");
        let taken = engine_error("node n1", refusal(409, "name in use"));
        assert!(matches!(taken, Error::Conflict { .. }), "{taken}");
        let failed = engine_error("node n1", refusal(500, "no space left"));
        assert_eq!(failed.to_string(), "node n1 failed: no space left");
        assert_eq!(failed.retry(), Retry::Replan);
    }

    #[tokio::test]
    async fn a_missing_engine_is_unreachable() {
        let error = open(Path::new("/nonexistent/docker.sock")).unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");

        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("docker.sock");
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let error = open(&socket).unwrap().ping().await.unwrap_err();
        let error = engine_error("the engine", error);
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    }
}
