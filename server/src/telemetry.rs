//! The manager's log: one line of JSON per event on standard error, from where Docker collects it.

use tracing_subscriber::EnvFilter;

/// Starts logging. `RUST_LOG` sets the filter.
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
