//! Maps errors of the SSH client and of the engine's client to the core's errors. The error types
//! of these clients are not visible outside this crate.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bollard::errors::Error as Engine;
use lifecycle_core::Error;
use russh::ChannelOpenFailure;
use thiserror::Error as ThisError;

/// The reasons why an SSH connection could not be opened or used.
#[derive(Debug, ThisError)]
pub(crate) enum SshError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Protocol(#[from] russh::Error),
    #[error("no response within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    #[error("the connection ended during authentication")]
    EndedDuringAuthentication,
    #[error("the host key changed: expected {pinned}, but the host offers {offered}")]
    HostKeyChanged { pinned: String, offered: String },
    #[error("no host key is known for this host (the host offers {offered})")]
    HostKeyUnknown { offered: String },
    #[error("the host offers a host certificate, but no certificate authority is trusted")]
    HostCertificate,
    #[error("the pinned host key cannot be parsed: {0}")]
    PinUnreadable(String),
    #[error("the server rejected account `{user}` or its credential")]
    CredentialRefused { user: String },
    #[error("the SSH agent at {} cannot be used: {why}", .socket.display())]
    Agent { socket: PathBuf, why: String },
    #[error("the server refused to open another session")]
    SessionRefused,
    #[error("the host refused the connection to {target}: {why:?}")]
    ForwardRefused {
        target: String,
        why: ChannelOpenFailure,
    },
    #[error("the host did not connect to {target} within {} s", .after.as_secs_f32())]
    ForwardTimedOut { target: String, after: Duration },
    #[error("{jump}: {why}")]
    Jump { jump: String, why: Arc<SshError> },
    #[error("the connection ended before the command finished")]
    EndedEarly,
    #[error("the server rejected the command")]
    CommandRefused,
    #[error("the command wrote more than {0} bytes")]
    TooMuchOutput(usize),
}

impl SshError {
    /// Returns whether a connection that caused this error can no longer be used.
    pub(crate) fn breaks_connection(&self) -> bool {
        match self {
            Self::Io(_) | Self::EndedEarly | Self::SessionRefused | Self::TimedOut(_) => true,
            Self::Protocol(error) => !matches!(error, russh::Error::ChannelOpenFailure(_)),
            _ => false,
        }
    }

    /// Converts to the core's error. `host` is the node's name and address, for the message.
    pub(crate) fn for_host(&self, host: &str) -> Error {
        let what = format!("the SSH connection to {host}");
        let why = self.to_string();
        match self {
            Self::HostKeyChanged { .. } => Error::denied(
                format!("the host key of {host}"),
                why,
                "check whether another machine responds at this address; if the machine was \
                 reinstalled on purpose, set its new `host_key` in platform.toml, or, for a node \
                 that the platform created, delete the node and create it again",
            ),
            Self::HostKeyUnknown { .. } => Error::denied(
                format!("the host key of {host}"),
                why,
                "wait until the node has booted and the provider reports the node's host key, or, \
                 if the platform created the node, delete the node and create it again",
            ),
            Self::HostCertificate => Error::denied(
                format!("the host key of {host}"),
                why,
                "configure the SSH server to offer plain host keys",
            ),
            Self::CredentialRefused { user } => Error::denied(
                format!("the SSH login to {host}"),
                why,
                format!(
                    "check that account `{user}` exists on the host and accepts this key or \
                     password; if the platform's key was replaced (`bootstrapper rotate`), copy the \
                     platform's directory from the machine that replaced it"
                ),
            ),
            Self::Agent { .. } => Error::denied(
                format!("the SSH login to {host}"),
                why,
                "start an SSH agent, add the key with `ssh-add`, and set SSH_AUTH_SOCK",
            ),
            Self::ForwardRefused { target, .. } => {
                Error::unreachable(format!("{target} behind {host}"), Some(why.into()))
            }
            Self::ForwardTimedOut { target, after } => {
                Error::timed_out(format!("the connection from {host} to {target}"), *after)
            }
            Self::Jump { jump, why } => why.for_jump(jump, host),
            Self::PinUnreadable(_) => {
                Error::corrupt(format!("the recorded host key of {host}"), why)
            }
            Self::TimedOut(after) => Error::timed_out(what, *after),
            Self::EndedEarly => Error::interrupted(what, Some(why.into())),
            Self::CommandRefused | Self::TooMuchOutput(_) => {
                Error::failed(format!("a command on {host}"), why)
            }
            Self::Io(_)
            | Self::Protocol(_)
            | Self::EndedDuringAuthentication
            | Self::SessionRefused => {
                Error::unreachable(format!("the SSH server of {host}"), Some(why.into()))
            }
        }
    }
}

impl SshError {
    /// Converts an error of the jump host through which `host` is reached.
    fn for_jump(&self, jump: &str, host: &str) -> Error {
        let what = format!("the SSH connection to {host}");
        let why = format!("{jump}: {self}");
        let denied = |what, why, hint: &str| Error::denied(what, why, hint);
        match self {
            Self::HostKeyChanged { .. } => denied(
                what,
                why,
                "if the jump host was reinstalled on purpose, configure its new host key \
                 (`ssh-keyscan` prints it); otherwise, check whether another machine responds at \
                 its address",
            ),
            Self::CredentialRefused { user } => {
                let hint = format!(
                    "check that account `{user}` exists on the jump host and accepts this key \
                     or password"
                );
                Error::denied(what, why, hint)
            }
            Self::ForwardRefused {
                target,
                why: ChannelOpenFailure::AdministrativelyProhibited,
            } => denied(
                what,
                format!("{jump} forbids connections to {target}"),
                &format!(
                    "set `AllowTcpForwarding yes` (or `local`) in the jump host's sshd_config for \
                     this account, remove `DisableForwarding`, and let `PermitOpen` include \
                     {target}"
                ),
            ),
            Self::ForwardRefused { .. } => Error::unreachable(
                format!("the SSH server of {host}"),
                Some(format!("{jump} responds, but cannot connect to the node").into()),
            ),
            Self::ForwardTimedOut { after, .. } => {
                Error::timed_out(format!("the connection from {jump} to {host}"), *after)
            }
            Self::Io(_)
            | Self::Protocol(_)
            | Self::TimedOut(_)
            | Self::EndedEarly
            | Self::EndedDuringAuthentication
            | Self::SessionRefused => Error::unreachable(
                format!("the SSH server of {host}"),
                Some(
                    format!(
                        "{why}; check that the jump host is running and that its SSH port is \
                         reachable from this machine"
                    )
                    .into(),
                ),
            ),
            Self::Agent { .. }
            | Self::HostKeyUnknown { .. }
            | Self::HostCertificate
            | Self::PinUnreadable(_)
            | Self::CommandRefused
            | Self::TooMuchOutput(_)
            | Self::Jump { .. } => self.for_host(jump),
        }
    }
}

/// Converts an error of the engine's client; `what` describes the attempted operation.
pub(crate) fn engine(what: impl Into<String>, error: Engine) -> Error {
    let what = what.into();
    match error {
        Engine::DockerResponseServerError {
            status_code,
            message,
        } => answered(what, status_code, message),
        Engine::DockerStreamError { error } | Engine::DockerContainerWaitError { error, .. } => {
            Error::failed(what, error)
        }
        Engine::RequestTimeoutError => Error::timed_out(what, LONGEST_CALL),
        Engine::SocketNotFoundError(path) => Error::unreachable(
            "the container engine",
            Some(format!("the socket {path} does not exist").into()),
        ),
        Engine::IOError { .. }
        | Engine::HyperResponseError { .. }
        | Engine::HyperLegacyError { .. } => broken(what, error),
        other => Error::failed_by(
            what,
            "the engine's response cannot be parsed",
            Box::new(other),
        ),
    }
}

/// Converts an error of a pull. An engine reports most rejections by registries as its own failures,
/// so that only the message shows that access was denied.
pub(crate) fn pull(what: &str, error: Engine) -> Error {
    let message = match &error {
        Engine::DockerResponseServerError { message, .. } => message,
        Engine::DockerStreamError { error } => error,
        _ => return engine(what, error),
    };
    if is_denial(message) {
        return Error::denied(what, message.clone(), "log in to the image's registry");
    }
    engine(what, error)
}

/// Returns whether this is the message of an engine to which a registry denied access.
fn is_denial(message: &str) -> bool {
    // The name of the image, in a quoted URL, may contain any word.
    let message: String = message.split('"').step_by(2).collect();
    let message = message.to_ascii_lowercase();
    let message = message.trim_end();
    // A failure of the engine's own file system ends like this.
    if message.ends_with(": permission denied") {
        return false;
    }
    let signs = [
        "denied",
        "unauthorized",
        "authentication required",
        "no basic auth credentials",
        "403 forbidden",
    ];
    signs.iter().any(|sign| message.contains(sign))
}

/// The time limit for the longest engine calls, such as a build or an import.
pub(crate) const LONGEST_CALL: Duration = Duration::from_hours(2);

/// The engine's message for devices of CDI, if it does not support them.
const NO_CDI: &str = "could not select device driver \"cdi\"";

fn answered(what: String, status: u16, message: String) -> Error {
    match status {
        400 => Error::invalid(
            format!("the request for {what}"),
            message,
            "correct the declaration",
        ),
        401 | 403 => Error::denied(
            what,
            message,
            "check the permissions on the engine or at the image's registry",
        ),
        404 => Error::not_found(format!("a resource required for {what} ({message})")),
        409 => Error::conflict(what, message),
        429 => Error::throttled(what, None),
        _ if message.contains(NO_CDI) => Error::invalid(
            what,
            format!(
                "the node's engine does not support CDI devices, or they are disabled: {message}"
            ),
            "use an engine of version 25 or later on the node, set `\"features\": {\"cdi\": true}` in \
             its daemon.json, and install the CDI specifications of the devices in /etc/cdi",
        ),
        _ => Error::failed(what, message),
    }
}

/// Converts the error of a connection that could not be opened or that broke.
fn broken(what: String, error: Engine) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        if let Some(core) = inner.downcast_ref::<Error>() {
            return again(core);
        }
        cause = inner.source();
    }
    // An incomplete response shows that the engine is running. Without any response, the engine
    // counts as unreachable.
    if matches!(error, Engine::HyperResponseError { .. }) {
        Error::interrupted(what, Some(Box::new(error)))
    } else {
        Error::unreachable(
            format!("the container engine ({what})"),
            Some(Box::new(error)),
        )
    }
}

/// Copies an error that can only be borrowed from another error's chain.
fn again(error: &Error) -> Error {
    match error {
        Error::Denied {
            what, why, hint, ..
        } => Error::denied(what.clone(), why.clone(), hint.clone()),
        Error::TimedOut { what, after, .. } => Error::timed_out(what.clone(), *after),
        Error::Corrupt { what, why, .. } => Error::corrupt(what.clone(), why.clone()),
        other => Error::unreachable("the container engine", Some(other.chain().into())),
    }
}

#[cfg(test)]
mod tests {
    use lifecycle_core::Retry;

    use super::*;

    #[test]
    fn a_changed_host_key_is_a_permanent_error_with_both_keys() {
        let error = SshError::HostKeyChanged {
            pinned: "SHA256:aaa".into(),
            offered: "SHA256:bbb".into(),
        }
        .for_host("vm1 (10.0.0.4:22)");
        assert_eq!(error.retry(), Retry::Never);
        let text = error.to_string();
        for part in ["vm1 (10.0.0.4:22)", "SHA256:aaa", "SHA256:bbb"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(
            error
                .hint()
                .is_some_and(|h| h.contains("reinstalled on purpose"))
        );
    }

    #[test]
    fn an_engine_without_cdi_is_named_as_the_cause() {
        let message = "could not select device driver \"cdi\" with capabilities: []";
        let error = answered("starting container x".into(), 500, message.into());
        assert_eq!(error.retry(), Retry::Never);
        assert!(error.to_string().contains("CDI devices"), "{error}");
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("daemon.json"))
        );
    }

    #[test]
    fn a_registrys_denial_of_a_pull_is_not_a_failure_of_the_engine() {
        let error = |message: &str| {
            let [message, same] = [message; 2].map(str::to_owned);
            let response = Engine::DockerResponseServerError {
                status_code: 500,
                message,
            };
            let both = [response, Engine::DockerStreamError { error: same }];
            both.map(|error| matches!(pull("x", error), Error::Denied { .. }))
        };
        for denial in [
            "Get \"https://10.0.0.1:5000/v2/x/manifests/1\": no basic auth credentials",
            "Head \"https://ghcr.io/v2/x/manifests/1\": denied",
            "Get \"https://r/v2/x/manifests/1\": unauthorized: authentication required",
            "pull access denied for x, repository does not exist or may require 'docker login': \
             denied: requested access to the resource is denied",
            "error parsing HTTP 403 response body: unexpected status: 403 Forbidden",
        ] {
            assert_eq!(error(denial), [true, true], "{denial}");
        }
        for failure in [
            "open /var/lib/docker/tmp/x: permission denied",
            "manifest unknown: manifest unknown",
            "dial tcp 10.0.0.1:5000: connect: connection refused",
            "Get \"https://r/v2/access-denied-page/manifests/1\": dial tcp 10.0.0.1:443: i/o timeout",
            "toomanyrequests: You have reached your pull rate limit",
        ] {
            assert_eq!(error(failure), [false, false], "{failure}");
        }
    }

    #[test]
    fn maps_engine_statuses_to_errors() {
        let answer = |status_code| {
            engine(
                "x",
                Engine::DockerResponseServerError {
                    status_code,
                    message: "because".into(),
                },
            )
        };
        assert!(matches!(answer(404), Error::NotFound { .. }));
        assert!(matches!(answer(409), Error::Conflict { .. }));
        assert!(matches!(answer(400), Error::Invalid { .. }));
        assert!(matches!(answer(500), Error::Failed { .. }));
    }
}
