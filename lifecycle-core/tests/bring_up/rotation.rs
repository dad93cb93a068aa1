//! Tests that the credentials of a running platform are replaced without a restart of its services,
//! also after a crash before or after each effect.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use lifecycle_core::api::wire::{NewTokenV1, TokenV1};
use lifecycle_core::bootstrap::{RotatedCredential, Rotation, RotationStep, handover_directory};
use lifecycle_core::host::SshKeyPair;
use lifecycle_core::model::{
    ApiAccess, Event, EventKind, NodeRequest, ServiceName, TokenId, TokenName, TokenRole,
};
use lifecycle_core::reconcile::node_directory::node_directory;
use lifecycle_core::registry::Registry as _;
use lifecycle_core::secret::{Sensitive, token_hash};
use lifecycle_core::sim::Edge;
use lifecycle_core::{Error, Result};

use crate::stage::Stage;

const ALL: [RotatedCredential; 3] = [
    RotatedCredential::Tokens,
    RotatedCredential::SshKey,
    RotatedCredential::Authority,
];

/// Starts a platform whose service `api`, with replicas on both nodes, may use the manager's API.
async fn platform(seed: u64) -> Stage {
    let mut stage = Stage::new(seed).await;
    let api = ServiceName::try_from("api").unwrap();
    let spec = stage.declaration.services.get_mut(&api).unwrap();
    spec.container.api = Some(ApiAccess::Read);
    let outcome = stage.up().await.unwrap();
    assert_eq!(outcome.failures, [], "{}", stage.world.transcript());
    stage
}

async fn rotate(stage: &Stage, credential: RotatedCredential) -> Result<()> {
    let new_key = || {
        Ok(SshKeyPair {
            private: Sensitive::new("new private"),
            public: "ssh-ed25519 AAAAnew".into(),
        })
    };
    loop {
        let bootstrapper = stage.bootstrapper().await;
        let platform = stage.declaration.id;
        match bootstrapper.rotate(platform, credential, new_key).await? {
            RotationStep::Continue => {}
            RotationStep::Done => return Ok(()),
        }
    }
}

/// Returns the name, id and start time of each container except for the manager's.
fn workloads(stage: &Stage) -> BTreeSet<(String, String, String)> {
    let mut containers = stage.containers();
    containers.retain(|(name, _, _)| !name.contains("lifecycle-manager"));
    containers
}

/// Returns the contents of a file with the credential of `api`, on each node that has the file.
fn handed_out(stage: &Stage, file: &str) -> BTreeSet<String> {
    let path = format!(
        "{}/service-api/api/{file}",
        node_directory(stage.declaration.id)
    );
    let nodes = stage.declaration.nodes.keys();
    let found = nodes.filter_map(|node| stage.world.file(node, &path));
    found
        .map(|(_, contents)| String::from_utf8_lossy(&contents).into_owned())
        .collect()
}

fn in_handover(stage: &Stage, file: &str) -> String {
    let directory = handover_directory(stage.declaration.id);
    let node = &stage.declaration.manager.node;
    let found = stage.world.file(node, &format!("{directory}/{file}"));
    String::from_utf8_lossy(&found.unwrap().1).into_owned()
}

/// Returns the hashes of the tokens that the manager accepts.
async fn accepted(stage: &Stage) -> BTreeSet<String> {
    let node = &stage.declaration.manager.node;
    let registry = stage.managers.registry(node).unwrap();
    let now = stage.bootstrapper().await.backends.clock.now();
    let tokens = registry.tokens().await.unwrap().tokens;
    let valid = tokens.into_iter().filter(|token| token.is_valid(now));
    valid.map(|token| token.hash).collect()
}

/// Checks that whoever has a credential can use it: the operator and the services.
async fn assert_works(stage: &Stage, context: &str) {
    let secrets = stage.bootstrapper().await.secrets;
    let accepted = accepted(stage).await;
    assert!(
        accepted.contains(&token_hash(&secrets.admin_token)),
        "{context}"
    );
    for token in handed_out(stage, "token") {
        assert!(
            accepted.contains(&token_hash(&Sensitive::new(token))),
            "{context}"
        );
    }
    let issuer = in_handover(stage, "ca.pem");
    assert!(secrets.trusted().contains(issuer.trim()), "{context}");
    for trusted in handed_out(stage, "ca.pem") {
        assert!(trusted.contains(issuer.trim()), "{context}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_credential_is_replaced_without_a_restart_of_a_service() {
    let stage = platform(61).await;
    let (before, old) = (workloads(&stage), stage.bootstrapper().await.secrets);
    let (tokens, authorities) = (handed_out(&stage, "token"), handed_out(&stage, "ca.pem"));
    assert_eq!((tokens.len(), authorities.len()), (1, 1));
    let api = stage.api().await;
    let cursor = api.last_event().await.unwrap();
    for credential in ALL {
        rotate(&stage, credential).await.unwrap();
        assert_works(&stage, &format!("{credential:?}")).await;
        assert_eq!(workloads(&stage), before, "{}", stage.world.transcript());
    }
    let new = stage.bootstrapper().await.secrets;
    assert_eq!(new.key.to_hex(), old.key.to_hex());
    assert_eq!(new.token_rotation, 1);
    assert_eq!(new.rotation, Rotation::default());

    // The old credentials are rejected.
    let accepted = accepted(&stage).await;
    for token in tokens.iter().chain([&old.admin_token.expose().to_owned()]) {
        assert!(!accepted.contains(&token_hash(&Sensitive::new(token.as_str()))));
    }
    assert_ne!(handed_out(&stage, "token"), tokens);
    let certificate = BTreeSet::from([new.authority.certificate.clone()]);
    assert_eq!(handed_out(&stage, "ca.pem"), certificate);
    assert_ne!(certificate, authorities);
    assert_eq!(in_handover(&stage, "ca.key"), new.authority.key.expose());
    assert_eq!(in_handover(&stage, "ssh.key"), "new private");
    assert!(in_handover(&stage, "config.json").contains("ssh-ed25519 AAAAnew"));

    // `up` of unchanged files keeps the new credentials.
    let outcome = stage.up().await.unwrap();
    assert_eq!(outcome.failures, []);
    assert_eq!(workloads(&stage), before);
    assert_works(&stage, "up").await;

    // Each replacement is recorded once, without a secret.
    let events = api.events(cursor).await.unwrap().events;
    for request in ["rotate-tokens", "rotate-ssh-key", "rotate-authority"] {
        let of_request = |event: &&Event| {
            event.event.kind == EventKind::Audit && event.event.data["request"] == request
        };
        assert_eq!(events.iter().filter(of_request).count(), 1, "{events:?}");
    }
    let text = serde_json::to_string(&events).unwrap();
    for secret in [&old.admin_token, &new.admin_token, &new.ssh.private] {
        assert!(!text.contains(secret.expose()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_rotation_continues_after_a_crash_at_any_effect() {
    for credential in ALL {
        let whole = platform(62).await;
        let first = whole.world.effects().len() as u64;
        rotate(&whole, credential).await.unwrap();
        let last = whole.world.effects().len() as u64;
        assert!(last > first + 3, "{}", whole.world.transcript());
        for effect in first + 1..=last {
            for edge in [Edge::Before, Edge::After] {
                let stage = platform(62).await;
                let before = workloads(&stage);
                let old = stage.bootstrapper().await.secrets;
                let context = format!("{credential:?}, effect {effect} {edge:?}");
                stage.world.faults().crash_at(effect, edge);
                tokio::select! {
                    biased;
                    () = stage.world.crashed() => {}
                    ended = rotate(&stage, credential) => panic!("{context}: {ended:?}"),
                }
                stage.world.next_incarnation();
                assert_works(&stage, &context).await;
                if edge == Edge::After {
                    // The operator may run `up` before the repeated call.
                    let outcome = stage.up().await.unwrap();
                    assert_eq!(outcome.failures, [], "{context}");
                    assert_works(&stage, &context).await;
                }
                let ended = rotate(&stage, credential).await;
                ended.unwrap_or_else(|e| {
                    panic!("{context}: {}\n{}", e.chain(), stage.world.transcript())
                });
                assert_works(&stage, &context).await;
                assert_eq!(workloads(&stage), before, "{context}");
                let new = stage.bootstrapper().await.secrets;
                let is_new = match credential {
                    RotatedCredential::Tokens => new.admin_token != old.admin_token,
                    RotatedCredential::SshKey => new.ssh != old.ssh,
                    _ => new.authority != old.authority,
                };
                assert!(is_new, "{context}");
                if credential == RotatedCredential::Tokens {
                    let accepted = accepted(&stage).await;
                    assert_eq!(accepted.len(), 2, "{context}: operator and service");
                    assert!(
                        !accepted.contains(&token_hash(&old.admin_token)),
                        "{context}"
                    );
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_can_be_replaced_again_and_the_current_one_of_a_service_stays() {
    let stage = platform(63).await;
    let old = handed_out(&stage, "token");
    rotate(&stage, RotatedCredential::Tokens).await.unwrap();
    rotate(&stage, RotatedCredential::Tokens).await.unwrap();
    assert_eq!(stage.bootstrapper().await.secrets.token_rotation, 2);
    let api = stage.api().await;
    let name = "api";
    let listed = api.tokens().await.unwrap();
    let of_service = |token: &&TokenV1| token.service.is_some();
    let current: Vec<_> = listed.iter().filter(of_service).collect();
    let [current] = current.as_slice() else {
        panic!("{listed:?}");
    };
    assert_eq!(current.name.as_str(), name);
    let handed: Vec<String> = handed_out(&stage, "token").into_iter().collect();
    assert_eq!(TokenId::of(&Sensitive::new(handed[0].as_str())), current.id);
    assert!(!old.contains(&handed[0]));
    // The current token of a service cannot be revoked.
    let rejected = api.revoke_token(current.id.as_str()).await.unwrap_err();
    assert!(matches!(rejected, Error::Conflict { .. }), "{rejected:?}");
}

#[tokio::test(start_paused = true)]
async fn tokens_of_operators_are_not_replaced() {
    let stage = platform(64).await;
    let bootstrapper = stage.bootstrapper().await;
    let new = NewTokenV1::new(TokenName::try_from("ci").unwrap(), TokenRole::Operator);
    let platform = stage.declaration.id;
    let created = bootstrapper.create_token(platform, &new).await.unwrap();
    rotate(&stage, RotatedCredential::Tokens).await.unwrap();
    assert!(accepted(&stage).await.contains(&token_hash(&created.token)));
    let bootstrapper = stage.bootstrapper().await;
    let unrotated = bootstrapper.unrotated_tokens(platform).await.unwrap();
    let names: Vec<_> = unrotated.iter().map(|token| token.name.as_str()).collect();
    assert_eq!(names, ["ci"]);
}

#[tokio::test(start_paused = true)]
async fn the_key_of_a_stopped_node_cannot_be_replaced() {
    let stage = platform(65).await;
    let bootstrapper = stage.bootstrapper().await;
    let platform = stage.declaration.id;
    let old = bootstrapper.secrets.ssh.clone();
    let names = ["n2".to_owned()];
    let stopped = bootstrapper.change_nodes(platform, &names, NodeRequest::Stop);
    drop(stopped.await.unwrap());
    let error = rotate(&stage, RotatedCredential::SshKey).await.unwrap_err();
    assert!(error.hint().unwrap().contains("node start n2"), "{error:?}");
    assert_eq!(stage.bootstrapper().await.secrets.ssh, old);
}
