//! The services that the requests of a task are limited to. `ScopedApi` sets them, and the manager checks
//! what only the current declaration shows.

use crate::model::TokenScope;

tokio::task_local! {
    static SCOPE: TokenScope;
}

/// Runs `work`, whose requests to a manager are limited to the services of `scope`. Does not apply to
/// tasks that `work` spawns.
pub(crate) async fn within<F: Future>(scope: TokenScope, work: F) -> F::Output {
    SCOPE.scope(scope, work).await
}

/// Returns the services that the current request is limited to.
pub(super) fn current() -> Option<TokenScope> {
    SCOPE.try_with(TokenScope::clone).ok()
}
