//! Tests that private images are pulled with the logins of the user's machine, which the manager
//! receives with each `up`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use lifecycle_core::bootstrap::{Outcome, UpOptions};
use lifecycle_core::model::{ImageSource, ServiceName};
use lifecycle_core::registry::Registry as _;
use lifecycle_core::runtime::{ImageLogin, ImageLogins, ImageRegistry};
use lifecycle_core::secret::Sensitive;

use crate::stage::Stage;

const IMAGE: &str = "registry.example:5000/db:1";

fn login(password: &str) -> ImageLogin {
    ImageLogin::Password {
        user: "ann".into(),
        password: Sensitive::new(password),
    }
}

fn logins(password: &str) -> ImageLogins {
    ImageLogins::from([(ImageRegistry::of(IMAGE), login(password))])
}

/// Creates a platform whose service `db` uses an image from a registry that requires a login.
async fn stage() -> Stage {
    let mut stage = Stage::new(21).await;
    let db = ServiceName::try_from("db").unwrap();
    let db = stage.declaration.services.get_mut(&db).unwrap();
    db.source = ImageSource::Image(IMAGE.into());
    let registry = ImageRegistry::of(IMAGE);
    stage.world.require_login(registry, login("right"));
    stage
}

async fn up(stage: &Stage, logins: ImageLogins) -> Outcome {
    let mut bootstrapper = stage.bootstrapper().await;
    bootstrapper.access.credentials.images = logins;
    let options = UpOptions::default();
    bootstrapper.up(&stage.declaration, options).await.unwrap()
}

fn why(outcome: &Outcome) -> &str {
    let mut failures = outcome.failures.iter();
    let of_db = failures.find(|failure| failure.instance == "db-1");
    &of_db.unwrap().why
}

#[tokio::test(start_paused = true)]
async fn a_private_image_is_pulled_as_soon_as_up_finds_the_login() {
    let stage = stage().await;
    let without = up(&stage, ImageLogins::new()).await;
    for part in [
        "registry.example:5000 denied access",
        "found no credentials",
        "`docker login registry.example:5000`",
    ] {
        assert!(why(&without).contains(part), "{}", why(&without));
    }
    let wrong = up(&stage, logins("wrong")).await;
    let part = "registry.example:5000 rejected a user name and password";
    assert!(why(&wrong).contains(part), "{}", why(&wrong));
    assert!(!why(&wrong).contains("wrong"), "{}", why(&wrong));
    // The declaration is the same each time, so only the new login causes another attempt.
    let right = up(&stage, logins("right")).await;
    assert_eq!(right.failures, [], "{}", stage.world.transcript());
    assert_eq!(right.generation, without.generation);
}

#[tokio::test(start_paused = true)]
async fn an_expired_login_does_not_prevent_the_pull_of_a_public_image() {
    let mut stage = Stage::new(22).await;
    let db = ServiceName::try_from("db").unwrap();
    let db = stage.declaration.services.get_mut(&db).unwrap();
    db.source = ImageSource::Image(IMAGE.into());
    let registry = ImageRegistry::of(IMAGE);
    stage.world.publish_image(IMAGE);
    stage.world.expire_login(registry, login("expired"));
    let outcome = up(&stage, logins("expired")).await;
    assert_eq!(outcome.failures, [], "{}", stage.world.transcript());
}

#[tokio::test(start_paused = true)]
async fn another_password_replaces_no_container() {
    let stage = stage().await;
    let first = up(&stage, logins("right")).await;
    assert_eq!(first.failures, [], "{}", stage.world.transcript());
    let before = stage.containers();
    for logins in [logins("other"), ImageLogins::new()] {
        let outcome = up(&stage, logins.clone()).await;
        assert_eq!(outcome.failures, []);
        assert_eq!(outcome.generation, first.generation);
        assert_eq!(stage.containers(), before, "{}", stage.world.transcript());
        assert_eq!(stored(&stage).await, logins);
    }
    // A manager that starts again does not use the logins of the hand-over again.
    stage.world.next_incarnation();
    let api = stage.api().await;
    while api.apply(&stage.declaration).await.is_err() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(stored(&stage).await, ImageLogins::new());
}

async fn stored(stage: &Stage) -> ImageLogins {
    let node = &stage.declaration.manager.node;
    let registry = stage.managers.registry(node).unwrap();
    let stored = registry.credential("image-logins").await.unwrap();
    serde_json::from_str(stored.unwrap().expose()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn logins_are_neither_in_files_on_the_node_nor_in_events() {
    let stage = stage().await;
    up(&stage, logins("right")).await;
    let api = stage.api().await;
    let events = api.events(0).await.unwrap();
    let events = serde_json::to_string(&events).unwrap();
    assert!(events.contains(IMAGE), "{events}");
    let mut texts = vec![events, stage.world.transcript()];
    let node = &stage.declaration.manager.node;
    let directory = lifecycle_core::bootstrap::handover_directory(stage.declaration.id);
    for file in [
        "config.json",
        "credentials.json",
        "declaration.json",
        "image-logins",
    ] {
        let (_, contents) = stage
            .world
            .file(node, &format!("{directory}/{file}"))
            .unwrap();
        texts.push(String::from_utf8_lossy(&contents).into_owned());
    }
    for text in texts {
        assert!(!text.contains("\"right\""), "{text}");
    }
}
