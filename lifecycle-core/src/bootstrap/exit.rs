//! The exit codes of `bootstrapper`, for programs that call it.

/// How a command ended. `exec` passes the command's own code on, and says 125 where it could not
/// be run at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// Done.
    Done = 0,
    /// Something failed, or was not confirmed, or `doctor` found something wrong.
    Failed = 1,
    /// Wrong arguments or files, or secrets that are missing; nothing was touched.
    Refused = 2,
    /// `exec` could not run the command.
    NotRun = 125,
    /// Interrupted; the same command goes on.
    Interrupted = 130,
}

impl ExitStatus {
    /// The code.
    pub const fn code(self) -> u8 {
        self as u8
    }
}
