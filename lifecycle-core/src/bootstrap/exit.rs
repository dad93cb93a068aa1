//! The exit codes of `bootstrapper`, for programs that call it.

/// The result of a command. `exec` instead exits with the code of the executed command, if that
/// command could be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// The command succeeded.
    Done = 0,
    /// A command failed or was not confirmed, or `doctor` found a problem.
    Failed = 1,
    /// Arguments or files were wrong, or secrets were missing; nothing was changed.
    Refused = 2,
    /// `exec` could not run the command.
    NotRun = 125,
    /// The command was interrupted; running the same command again continues it.
    Interrupted = 130,
}

impl ExitStatus {
    /// Returns the exit code.
    pub const fn code(self) -> u8 {
        self as u8
    }
}
