//! Tests that each requested change is recorded once, with who requested it.

use std::net::IpAddr;

use lifecycle_core::manager::{Actor, Caller, NewToken};
use lifecycle_core::model::{EventKind, TokenId, TokenName, TokenRole};
use lifecycle_core::reconcile::RetryOptions;
use lifecycle_core::runtime::{ExecCommand, ImageLogin, ImageLogins, ImageRegistry};
use lifecycle_core::secret::Sensitive;

use crate::platform::instance;
use crate::stage::Stage;

/// Returns the new audit events, as text.
async fn recorded(stage: &Stage, cursor: u64) -> Vec<String> {
    let events = stage.events(EventKind::Audit, cursor).await;
    events.into_iter().map(|event| event.message).collect()
}

#[tokio::test(start_paused = true)]
async fn each_change_is_recorded_once() {
    let stage = Stage::shop(97).await;
    stage.settled().await;
    let (manager, cursor) = (&stage.manager, stage.last_event().await);
    let mut declaration = stage.declaration.clone();
    let web = declaration
        .services
        .keys()
        .find(|name| name.as_str() == "web");
    let web = web.unwrap().clone();
    declaration.services.get_mut(&web).unwrap().replicas += 1;
    let login = ImageLogin::RegistryToken(Sensitive::new("the-login"));
    let logins = ImageLogins::from([(ImageRegistry::of("registry:5000/x"), login)]);
    let token = || NewToken {
        name: TokenName::try_from("ci").unwrap(),
        role: TokenRole::Operator,
        scope: None,
        expires_in: None,
    };
    let command = ExecCommand::new(&["echo".to_owned(), "the-argument".to_owned()]);
    // Repeat every request that then changes nothing.
    for _ in 0..2 {
        manager.apply(declaration.clone()).await.unwrap();
        manager.set_image_logins(&logins).await.unwrap();
    }
    stage.settled().await;
    for _ in 0..2 {
        manager.restart("db-1", None).await.unwrap();
        let node = stage.place(&instance("db", 1)).0;
        manager.restart_node(node.as_str(), None).await.unwrap();
    }
    manager.restart("nothing", None).await.unwrap_err();
    stage.settled().await;
    for _ in 0..2 {
        let node = stage.place(&instance("db", 1)).0;
        manager.prepare_node(node.as_str()).await.unwrap();
    }
    manager.prepare_node("nothing").await.unwrap_err();
    stage.settled().await;
    manager.retry("web", RetryOptions::default()).await.unwrap();
    drop(manager.exec("db", &command).await.unwrap());
    let (created, secret) = manager.create_token(token()).await.unwrap();
    manager.create_token(token()).await.unwrap_err();
    for _ in 0..2 {
        manager.revoke_token("ci").await.unwrap();
        manager.delete_platform(true).await.unwrap();
    }
    let who = "the program that runs the manager";
    let node = "n";
    let recorded = recorded(&stage, cursor).await;
    let expected = [
        format!("{who}: apply"),
        format!("{who}: set-image-logins"),
        format!("{who}: restart db-1, service db"),
        format!("{who}: restart, node {node}"),
        format!("{who}: prepare, node {node}"),
        format!("{who}: retry, service web"),
        format!("{who}: exec, instance db-1"),
        format!("{who}: create-token ci with the role operator"),
        format!("{who}: revoke-token ci ({})", created.id),
        format!("{who}: delete-platform with volumes"),
    ];
    assert_eq!(recorded.len(), expected.len(), "{recorded:#?}");
    for (recorded, expected) in recorded.iter().zip(&expected) {
        assert!(recorded.starts_with(expected), "{recorded}, not {expected}");
        for secret in [secret.expose(), "the-login", "the-argument"] {
            assert!(!recorded.contains(secret), "{recorded}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_names_the_token_and_the_address() {
    let stage = Stage::shop(98).await;
    stage.settled().await;
    let cursor = stage.last_event().await;
    let id = TokenId::of(&Sensitive::new("lcm_0123456789abcdef_secret"));
    let caller = Caller {
        token: id.clone(),
        name: "ci".to_owned(),
        role: TokenRole::Operator,
        scope: None,
        expires_at: None,
    };
    let peer: IpAddr = [10, 1, 2, 3].into();
    let actor = Actor::Token {
        caller,
        peer: Some(peer),
    };
    let retry = stage.manager.retry("db", RetryOptions::default());
    actor.perform(retry).await.unwrap();
    let events = stage.events(EventKind::Audit, cursor).await;
    let [event] = events.as_slice() else {
        panic!("{events:#?}");
    };
    assert_eq!(
        event.message,
        format!("token ci ({id}) from 10.1.2.3: retry, service db")
    );
    let expected = serde_json::json!({
        "request": "retry", "token": id, "name": "ci", "peer": "10.1.2.3",
    });
    assert_eq!(event.data, expected);
}
