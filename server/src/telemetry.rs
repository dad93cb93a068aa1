//! What the manager says of itself: one line of JSON per event on standard error, which the
//! engine keeps.

use tracing_subscriber::EnvFilter;

/// Starts logging; `RUST_LOG` says how much.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new("info,russh=warn,sqlx=warn,sea_orm_migration=warn,hyper=warn")
    });
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
}
