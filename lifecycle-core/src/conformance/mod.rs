//! The suites that every backend of a trait passes: one behaviour, however it is implemented.
//!
//! The suites of clouds and code stores return the first guarantee that does not hold, by the name
//! of its check ([`Failed`]); the others panic.

pub mod cloud;
pub mod code;
pub mod errors;
pub mod publishing;
pub mod registry;
pub mod runtime;

use std::fmt::Debug;

/// A guarantee that does not hold.
#[derive(Debug, thiserror::Error)]
#[error("check `{check}` failed: {why}")]
pub struct Failed {
    /// The name of the check; empty where a check was called by itself.
    pub check: &'static str,
    /// What was observed.
    pub why: String,
}

impl Failed {
    fn new(why: String) -> Self {
        Self { check: "", why }
    }

    fn of(self, check: &'static str) -> Self {
        Self { check, ..self }
    }
}

/// What a check returns.
pub type Checked<T = ()> = Result<T, Failed>;

/// The value of a call that must succeed.
fn done<T, E: Debug>(what: impl AsRef<str>, outcome: Result<T, E>) -> Checked<T> {
    outcome.map_err(|error| Failed::new(format!("{}: {error:?}", what.as_ref())))
}

/// Returns from a check that fails.
macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err($crate::conformance::Failed::new(format!($($why)+)));
        }
    };
}

/// Returns from a check in which two values differ.
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $($why:tt)+) => {{
        let (left, right) = (&$left, &$right);
        if left != right {
            let what = format!($($why)+);
            let why = format!("{what}:\n  found    {left:?}\n  expected {right:?}");
            return Err($crate::conformance::Failed::new(why));
        }
    }};
}

/// Runs checks one after the other, and names the one that fails.
macro_rules! run_checks {
    ($bench:expr; $($check:ident),+ $(,)?) => {
        $($check($bench).await.map_err(|failed| failed.of(stringify!($check)))?;)+
    };
}

use {ensure, ensure_eq, run_checks};
