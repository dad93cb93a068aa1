//! Conformance suites for this crate's traits. Every implementation of a trait must pass its suite.
//!
//! The suites for clouds and code stores return the first failed check as [`Failed`]. The other
//! suites panic.

pub mod cloud;
pub mod code;
pub mod errors;
pub mod publishing;
pub mod registry;
pub mod runtime;

use std::fmt::Debug;

/// A failed check.
#[derive(Debug, thiserror::Error)]
#[error("check `{check}` failed: {why}")]
pub struct Failed {
    /// The name of the check; empty if the check was called directly.
    pub check: &'static str,
    /// What the check observed.
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

/// The result of a check.
pub type Checked<T = ()> = Result<T, Failed>;

/// Returns the value of a call that must succeed.
fn done<T, E: Debug>(what: impl AsRef<str>, outcome: Result<T, E>) -> Checked<T> {
    outcome.map_err(|error| Failed::new(format!("{}: {error:?}", what.as_ref())))
}

/// Fails the check unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err($crate::conformance::Failed::new(format!($($why)+)));
        }
    };
}

/// Fails the check if two values differ.
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

/// Runs checks in sequence, and sets the name of a check that fails.
macro_rules! run_checks {
    ($bench:expr; $($check:ident),+ $(,)?) => {
        $($check($bench).await.map_err(|failed| failed.of(stringify!($check)))?;)+
    };
}

use {ensure, ensure_eq, run_checks};
