//! `rotate`: replaces the credentials of a running platform, without a restart of its services.

use lifecycle_core::bootstrap::{RotatedCredential, RotationStep};
use lifecycle_core::model::TokenName;
use lifecycle_docker::generate_ssh_key;
use schemars::JsonSchema;
use serde::Serialize;

use crate::arguments::{Arguments, Rotate, RotateTarget};
use crate::failure::Failure;
use crate::printer;
use crate::progress::ProgressLines;
use crate::{commands, wiring};

/// The document of `rotate --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Rotated {
    /// The replaced credentials, in the order of their replacement.
    rotated: Vec<RotatedCredential>,
    /// The names of the valid tokens that operators created, which `rotate` does not replace; empty
    /// unless the tokens were replaced.
    unrotated_tokens: Vec<TokenName>,
}

pub(crate) async fn run(arguments: &Arguments, options: &Rotate) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, _) = commands::running(arguments, progress.clone()).await?;
    let _lock = wiring::state(&identity)?.lock()?;
    // Another process may have changed the state before this one locked it.
    let (identity, bootstrapper) = commands::running(arguments, progress.clone()).await?;
    let rotated = match options.credential {
        RotateTarget::Tokens => vec![RotatedCredential::Tokens],
        RotateTarget::Authority => vec![RotatedCredential::Authority],
        RotateTarget::SshKey => vec![RotatedCredential::SshKey],
        RotateTarget::All => bootstrapper.secrets.rotation.order(),
    };
    for credential in &rotated {
        loop {
            let (_, bootstrapper) = commands::running(arguments, progress.clone()).await?;
            let step = bootstrapper
                .rotate(identity.id, *credential, generate_ssh_key)
                .await?;
            match step {
                RotationStep::Continue => {}
                RotationStep::Done => break,
            }
        }
        printer::message(match credential {
            RotatedCredential::Tokens => {
                "Replaced the operator's token and the tokens of services; the old ones are rejected."
            }
            RotatedCredential::Authority => {
                "Replaced the authority; clients other than services need the new ca.pem."
            }
            _ => "Replaced the SSH key; nodes reject the old one.",
        });
    }
    let (_, bootstrapper) = commands::running(arguments, progress).await?;
    let mut unrotated_tokens = Vec::new();
    if rotated.contains(&RotatedCredential::Tokens) {
        let tokens = bootstrapper.unrotated_tokens(identity.id).await?;
        unrotated_tokens.extend(tokens.into_iter().map(|token| token.name));
        for name in &unrotated_tokens {
            printer::message(&format!(
                "note: token {name} was created by an operator and is still valid; replace it with \
                 `bootstrapper token create` and `token revoke`"
            ));
        }
        if bootstrapper.secrets.read_token.is_some() {
            printer::message(
                "note: the token that the services of an earlier version share is still valid; to \
                 reject it, remove the platform and start it again",
            );
        }
    }
    if arguments.json {
        return printer::document(&Rotated {
            rotated,
            unrotated_tokens,
        });
    }
    Ok(())
}
