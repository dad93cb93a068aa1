//! What each backend of a trait must do, as tests that take the backend.
//!
//! A backend's own tests call these suites; the simulation passes them too, so that what is
//! proved against it holds elsewhere. They panic with what was expected and what was seen.

pub mod code;
pub mod runtime;
