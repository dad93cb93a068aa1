//! Tests which errors the API's client receives if a mocked manager fails.

use std::sync::Arc;

use axum::Router;
use lifecycle_core::api::problem::without_details;
use lifecycle_core::api::{ApiClient, ManagerApi};
use lifecycle_core::clock::SystemClock;
use lifecycle_core::conformance::errors::one_of_each;
use lifecycle_core::manager::{Changes, FirstToken, Tokens};
use lifecycle_core::mock::MockManagerApi;
use lifecycle_core::reconcile::RetryOptions;
use lifecycle_core::registry::MemoryRegistry;
use lifecycle_core::secret::{Sensitive, new_api_token};
use lifecycle_core::{Error, Retry};
use tokio::sync::watch;

use super::client::client;
use crate::endpoints::Endpoints;
use crate::metrics::Metrics;
use crate::routes::{Api, router};

struct Mocked {
    router: Router,
    admin: Sensitive,
    read: Sensitive,
}

impl Mocked {
    fn new(manager: MockManagerApi) -> Self {
        let (admin, read) = (new_api_token(), new_api_token());
        let clock = Arc::new(SystemClock);
        let registry = Arc::new(MemoryRegistry::new(clock.clone()));
        let manager: Arc<dyn ManagerApi> = Arc::new(manager);
        let changes = Changes {
            commits: watch::Sender::default().subscribe(),
            rounds: watch::Sender::default().subscribe(),
        };
        let api = Api {
            tokens: Tokens::new(registry, clock, FirstToken::of(&admin), Some(&read)),
            commits: changes.commits.clone(),
            endpoints: Arc::new(Endpoints::new(Arc::clone(&manager), changes)),
            manager,
            streams: Arc::default(),
            metrics: Metrics::default(),
        };
        Self {
            router: router(api),
            admin,
            read,
        }
    }

    /// Creates a manager that responds to a request for the platform's state with `error`.
    fn failing(error: Error) -> Self {
        let mut manager = MockManagerApi::new();
        manager.expect_platform().return_once(move || Err(error));
        Self::new(manager)
    }

    fn client(&self, token: &Sensitive) -> ApiClient {
        client(&self.router, token)
    }
}

fn same(read: &Error, sent: &Error) {
    let json = |error: &Error| serde_json::to_value(error).unwrap();
    assert_eq!(json(read), json(sent), "kind and fields");
    assert_eq!(read.chain(), sent.chain());
    assert_eq!(read.hint(), sent.hint());
    assert_eq!(read.retry(), sent.retry());
}

#[tokio::test]
async fn an_error_of_each_kind_keeps_its_fields() {
    for (error, sent) in one_of_each().into_iter().zip(one_of_each()) {
        let served = Mocked::failing(error);
        let api = served.client(&served.admin);
        same(&api.platform().await.unwrap_err(), &sent);
    }
}

#[tokio::test]
async fn without_the_role_admin_internal_errors_have_no_details() {
    let mut hidden = 0;
    for (error, sent) in one_of_each().into_iter().zip(one_of_each()) {
        let served = Mocked::failing(error);
        let read = served.client(&served.read).platform().await.unwrap_err();
        if without_details(&sent).is_none() {
            same(&read, &sent);
            continue;
        }
        hidden += 1;
        let shown = format!("{read:?} {}", read.chain());
        for detail in [
            "the thing",
            "broken",
            "refused",
            "RUN",
            "/var/lib",
            "repair",
        ] {
            assert!(!shown.contains(detail), "{sent:?} is shown as {shown}");
        }
        let is_temporary = |error: &Error| matches!(error.retry(), Retry::After(_));
        assert_eq!(is_temporary(&read), is_temporary(&sent), "{sent:?}");
    }
    assert_eq!(hidden, 10);
}

#[tokio::test]
async fn an_unknown_token_and_a_viewers_token_for_a_change_are_denied_with_a_hint() {
    let served = Mocked::new(MockManagerApi::new());
    let outsider = served
        .client(&new_api_token())
        .platform()
        .await
        .unwrap_err();
    let reader = served
        .client(&served.read)
        .retry("web", RetryOptions::default())
        .await
        .unwrap_err();
    assert!(matches!(outsider, Error::Denied { .. }), "{outsider:?}");
    assert!(matches!(reader, Error::Forbidden { .. }), "{reader:?}");
    for (error, hint) in [
        (&outsider, "send `Authorization"),
        (&reader, "a token with the role operator"),
    ] {
        assert!(error.hint().unwrap().contains(hint), "{error:?}");
    }
}

#[tokio::test]
async fn events_that_are_no_longer_stored_are_not_found() {
    let mut manager = MockManagerApi::new();
    let gone = || Error::not_found_with_hint("the event after cursor 3", "start at 7");
    manager
        .expect_events()
        .withf(|after| *after == 3)
        .return_once(move |_| Err(gone()));
    let served = Mocked::new(manager);
    let api = served.client(&served.read);
    same(&api.events(3).await.unwrap_err(), &gone());
}

#[tokio::test]
async fn the_platform_is_ready_if_the_manager_is_open_and_everything_is_ready() {
    let progress = |open: bool, ready: bool| {
        let progress = serde_json::json!({
            "generation": 1, "open": open, "settled": true, "ready": ready, "running": [],
        });
        serde_json::from_value(progress).unwrap()
    };
    for (open, ready) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut manager = MockManagerApi::new();
        manager
            .expect_progress()
            .returning(move |_| Ok(progress(open, ready)));
        let served = Mocked::new(manager);
        let is_ready = served
            .client(&served.read)
            .platform_is_ready()
            .await
            .unwrap();
        assert_eq!(is_ready, open && ready);
    }
    let mut manager = MockManagerApi::new();
    let failed = || Error::not_ready("the manager", "it is not the leader at the moment");
    manager.expect_progress().returning(move |_| Err(failed()));
    let served = Mocked::new(manager);
    assert!(
        !served
            .client(&served.read)
            .platform_is_ready()
            .await
            .unwrap()
    );
}
