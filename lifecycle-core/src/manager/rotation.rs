//! Takes over credentials that the bootstrapper has replaced in the hand-over. The registry contains
//! how often the tokens were replaced, so that every leader derives the same tokens of services, and
//! which key and authority the last leader used, so that their replacement is recorded.

use std::sync::atomic::Ordering;

use super::{FirstToken, Manager};
use crate::error::{Error, Result};
use crate::model::Subject;
use crate::registry::{Batch, Change};
use crate::secret::Sensitive;

/// The stored number of times that the tokens were replaced.
const TOKENS: &str = "token-rotation";

/// The stored public SSH key of the nodes.
const SSH_KEY: &str = "ssh-public-key";

/// The stored certificate of the authority that signs the API's certificate.
const AUTHORITY: &str = "authority";

/// The last line of a certificate in PEM.
const END: &str = "-----END CERTIFICATE-----";

impl Manager {
    /// Returns how often the tokens of services were replaced, as known since the last take-over.
    pub(super) fn token_rotation(&self) -> u64 {
        self.token_rotation.load(Ordering::SeqCst)
    }

    /// Adds the changes that take over the credentials of the hand-over, with an event for each
    /// replaced credential. A hand-over with a lower number of rotations than the registry does not
    /// bring a replaced token back.
    pub(super) async fn take_credentials(&self, batch: &mut Batch) -> Result<()> {
        let registry = &self.backends.registry;
        let stored = match registry.credential(TOKENS).await? {
            Some(number) => number.expose().parse().map_err(|_| {
                Error::corrupt("the stored number of token rotations", "it is not a number")
            })?,
            None => 0,
        };
        let handed_over = self.options.token_rotation;
        self.token_rotation
            .store(handed_over.max(stored), Ordering::SeqCst);
        if handed_over > stored {
            batch.changes.push(put(TOKENS, handed_over.to_string()));
            let tokens = registry.tokens().await?;
            let FirstToken { id, .. } = &self.options.admin_token;
            if !tokens.is_empty() && tokens.tokens.iter().all(|token| token.id != *id) {
                batch.changes.push(self.first_token()?);
                batch
                    .events
                    .push(self.audit("rotate-tokens", Subject::Platform));
            }
        }
        for (name, current, request) in [
            (SSH_KEY, self.options.ssh_public.trim(), "rotate-ssh-key"),
            (
                AUTHORITY,
                first(&self.options.authority),
                "rotate-authority",
            ),
        ] {
            let before = registry.credential(name).await?;
            if before.as_ref().map(Sensitive::expose) == Some(current) {
                continue;
            }
            batch.changes.push(put(name, current.to_owned()));
            if before.is_some() {
                batch.events.push(self.audit(request, Subject::Platform));
            }
        }
        Ok(())
    }
}

fn put(name: &str, value: String) -> Change {
    Change::PutCredential {
        name: name.to_owned(),
        credential: Sensitive::new(value),
    }
}

/// Returns the first certificate.
fn first(certificates: &str) -> &str {
    let end = certificates.find(END).map(|start| start + END.len());
    end.and_then(|end| certificates.get(..end))
        .unwrap_or(certificates)
        .trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_certificate_signs() {
        let one = format!("-----BEGIN CERTIFICATE-----\nAA\n{END}");
        let two = format!("-----BEGIN CERTIFICATE-----\nBB\n{END}");
        assert_eq!(first(&one), one);
        assert_eq!(first(&format!("{one}\n{two}\n")), one);
        assert_eq!(first("the authority\n"), "the authority");
    }
}
