//! Describes how a container ended: its exit code, the signal that ended it, and whether its memory
//! was exhausted.

use serde::{Deserialize, Serialize};

use super::{ContainerState, ObservedContainer};

/// A process of a container was killed because memory was exhausted, usually the one that the container
/// ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutOfMemory {
    /// The container's memory limit, in bytes. `None` if it has none, so that the node's memory was
    /// exhausted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// An exit code above this number is that of a process that was ended by a signal.
const SIGNALS: i64 = 128;

/// The exit code of a process that was ended by `SIGKILL`.
const KILLED: i64 = SIGNALS + 9;

/// The names of the signals that usually end processes.
const NAMES: [(i64, &str); 12] = [
    (1, "SIGHUP"),
    (2, "SIGINT"),
    (3, "SIGQUIT"),
    (4, "SIGILL"),
    (6, "SIGABRT"),
    (7, "SIGBUS"),
    (8, "SIGFPE"),
    (9, "SIGKILL"),
    (11, "SIGSEGV"),
    (13, "SIGPIPE"),
    (15, "SIGTERM"),
    (31, "SIGSYS"),
];

/// Describes an exit code, for example `exit code 137 (SIGKILL)`.
pub(crate) fn exit_text(code: i64) -> String {
    let name = NAMES.iter().find(|(signal, _)| SIGNALS + signal == code);
    match name {
        Some((_, name)) => format!("exit code {code} ({name})"),
        None => format!("exit code {code}"),
    }
}

impl ObservedContainer {
    /// Returns whether the last run ended because memory was exhausted.
    pub(crate) fn was_killed_for_memory(&self) -> bool {
        self.out_of_memory.is_some()
            && matches!(self.state, ContainerState::Exited { code: KILLED, .. })
    }

    /// Describes how the container's last run ended; `None` while it is running.
    pub(crate) fn exit(&self) -> Option<String> {
        let ContainerState::Exited { code, .. } = self.state else {
            return None;
        };
        let exit = exit_text(code);
        let Some(OutOfMemory { limit }) = self.out_of_memory else {
            return Some(exit);
        };
        let limit = limit.map(bytes);
        Some(match (code == KILLED, limit) {
            (true, None) => format!("{exit}, killed because memory was exhausted"),
            (true, Some(limit)) => {
                format!("{exit}, killed because it exceeded its memory limit of {limit}")
            }
            // The kernel killed another process of the container, perhaps long before.
            (false, None) => {
                format!(
                    "{exit}; before, one of its processes was killed because memory was exhausted"
                )
            }
            (false, Some(limit)) => format!(
                "{exit}; before, one of its processes was killed because the container exceeded its \
                 memory limit of {limit}"
            ),
        })
    }
}

fn bytes(number: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let whole = units
        .iter()
        .find(|(unit, _)| number >= *unit && number.is_multiple_of(*unit));
    match whole {
        Some((unit, name)) => format!("{} {name}", number / unit),
        None => format!("{number} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_of_signals_name_the_signal() {
        assert_eq!(exit_text(0), "exit code 0");
        assert_eq!(exit_text(137), "exit code 137 (SIGKILL)");
        assert_eq!(exit_text(143), "exit code 143 (SIGTERM)");
        assert_eq!(exit_text(255), "exit code 255");
        assert_eq!(exit_text(-1), "exit code -1");
    }

    #[test]
    fn sizes_are_shown_in_whole_units() {
        assert_eq!(bytes(64 << 20), "64 MiB");
        assert_eq!(bytes(3 << 30), "3 GiB");
        assert_eq!(bytes(1_000), "1000 bytes");
    }
}
