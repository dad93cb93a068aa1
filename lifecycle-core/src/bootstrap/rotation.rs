//! Replaces the credentials of a running platform: the tokens, the authority, and the SSH key.
//!
//! Old and new credentials overlap: a new credential is accepted everywhere before it is used, and the
//! old one is rejected only after nothing uses it any more. No container of a service is restarted;
//! only the manager is, because it reads its credentials when it starts.
//!
//! The state on the operator's machine records both credentials before the platform depends on the
//! new one. Every action can be repeated, so after a crash at any point, the same call continues.

use std::collections::BTreeSet;

use serde::Serialize;

use super::handover::ReplacedCredentials;
use super::secrets::{OperatorTokens, PlatformSecrets, Replacement, Rotation};
use super::{Bootstrapper, MANAGER_ANSWERS_WITHIN, NODE_ANSWERS_WITHIN, not_running};
use crate::api::Authority;
use crate::api::wire::TokenV1;
use crate::cloud::{ObservedNode, Power};
use crate::error::{Error, Result};
use crate::host::{HostCommand, NodeHandle, SshKeyPair};
use crate::model::{NodeName, PlatformId, ServiceName, TokenId};
use crate::reconcile::service_credential;
use crate::runtime::Role;
use crate::secret::{new_api_token, service_api_token};

/// What the caller of a rotation must do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum RotationStep {
    /// Build a bootstrapper with the secrets that are stored now, and make the same call with it: the
    /// new credential is in use, and the old one is still accepted.
    Continue,
    /// Nothing: the old credential is no longer accepted.
    Done,
}

/// A credential that can be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RotatedCredential {
    /// The operator's first token, and the token of each service.
    Tokens,
    /// The authority that signs the certificate of the manager's API.
    Authority,
    /// The SSH key with which the bootstrapper and the manager log in to nodes.
    SshKey,
}

impl Rotation {
    /// Returns all credentials, in the order in which to replace them. Those whose replacement has begun
    /// come first, because the manager may be stopped until it is complete.
    pub fn order(&self) -> Vec<RotatedCredential> {
        use RotatedCredential::{Authority, SshKey, Tokens};
        let has_begun = |credential: &RotatedCredential| match credential {
            Tokens => self.tokens.is_some(),
            Authority => self.authority.is_some(),
            SshKey => self.ssh.is_some(),
        };
        let mut order = vec![Tokens, SshKey, Authority];
        order.sort_by_key(|credential| !has_begun(credential));
        order
    }
}

impl Bootstrapper {
    /// Replaces a credential of the running platform. `new_key` creates a new SSH key; it is called only
    /// if the replacement of the key begins. Tokens that operators created are not replaced
    /// ([`unrotated_tokens`](Self::unrotated_tokens)). For the SSH key, all nodes must be running.
    ///
    /// Repeat the call with new bootstrappers until it returns [`RotationStep::Done`].
    ///
    /// # Errors
    /// After an error, the stored secrets give access to the platform, and the call can be repeated.
    pub async fn rotate(
        &self,
        platform: PlatformId,
        credential: RotatedCredential,
        new_key: impl FnOnce() -> Result<SshKeyPair> + Send,
    ) -> Result<RotationStep> {
        match credential {
            RotatedCredential::Tokens => self.rotate_tokens(platform).await,
            RotatedCredential::Authority => self.rotate_authority(platform).await,
            RotatedCredential::SshKey => self.rotate_ssh_key(platform, new_key).await,
        }
    }

    /// Returns the valid tokens that [`rotate`](Self::rotate) does not replace, because operators created
    /// them.
    pub async fn unrotated_tokens(&self, platform: PlatformId) -> Result<Vec<TokenV1>> {
        let own = TokenId::of(&self.secrets.admin_token);
        let now = self.backends.clock.now();
        let mut tokens = self.tokens(platform).await?;
        tokens.retain(|token| {
            let is_valid =
                token.revoked_at.is_none() && token.expires_at.is_none_or(|expiry| expiry > now);
            is_valid && token.service.is_none() && token.id != own
        });
        Ok(tokens)
    }

    async fn rotate_tokens(&self, platform: PlatformId) -> Result<RotationStep> {
        let secrets = &self.secrets;
        let Some(replacement) = secrets.rotation.tokens.clone() else {
            // Only an admin may revoke the old tokens, so check this before anything is changed.
            self.tokens(platform).await?;
            self.reject_unknown_machines(platform).await?;
            let begun = Replacement {
                old: OperatorTokens {
                    admin: secrets.admin_token.clone(),
                    rotation: secrets.token_rotation,
                },
                new: OperatorTokens {
                    admin: new_api_token(),
                    rotation: secrets.token_rotation.saturating_add(1),
                },
                is_switched: false,
            };
            return self.begin(|rotation| rotation.tokens = Some(begun)).await;
        };
        let OperatorTokens { admin, rotation } = replacement.new.clone();
        let id = TokenId::of(&admin);
        if !replacement.is_switched {
            self.replace_in_manager(
                platform,
                ReplacedCredentials {
                    tokens: Some(replacement.new.clone()),
                    ..ReplacedCredentials::default()
                },
            )
            .await?;
            self.wait(
                "the manager's acceptance of the new token",
                MANAGER_ANSWERS_WITHIN,
            )
            .repeat(|| self.accepts(platform, &id))
            .await?;
            let switched = switched(replacement);
            return self
                .begin(|rotation| rotation.tokens = Some(switched))
                .await;
        }
        let valid = self.tokens(platform).await?;
        let is_current = |token: &TokenV1, service: &ServiceName| {
            let current = service_api_token(&secrets.key, service.as_str(), rotation);
            token.id == TokenId::of(&current)
        };
        let services: BTreeSet<&ServiceName> = valid
            .iter()
            .filter_map(|token| token.service.as_ref())
            .collect();
        self.on_service_directories(platform, async |node, service| {
            if !services.contains(service) {
                return Ok(());
            }
            let token = service_api_token(&secrets.key, service.as_str(), rotation);
            service_credential::write_token(node.host.as_ref(), platform, service, &token).await
        })
        .await?;
        let old = TokenId::of(&replacement.old.admin);
        for token in &valid {
            let is_old = match &token.service {
                Some(service) => !is_current(token, service),
                None => token.id == old && token.revoked_at.is_none(),
            };
            if is_old {
                self.revoke_token(platform, token.id.as_str()).await?;
            }
        }
        self.end(|rotation| rotation.tokens = None).await
    }

    async fn rotate_authority(&self, platform: PlatformId) -> Result<RotationStep> {
        let secrets = &self.secrets;
        let Some(replacement) = secrets.rotation.authority.clone() else {
            self.reject_unknown_machines(platform).await?;
            let begun = Replacement {
                old: secrets.authority.clone(),
                new: Authority::generate(platform, self.backends.clock.now())?,
                is_switched: false,
            };
            return self
                .begin(|rotation| rotation.authority = Some(begun))
                .await;
        };
        if !replacement.is_switched {
            // Services trust both authorities before the manager uses the new one.
            let both = secrets.trusted();
            let trusted = ReplacedCredentials {
                trusted: Some(both.clone()),
                ..ReplacedCredentials::default()
            };
            self.replace_in_manager(platform, trusted).await?;
            self.write_authority(platform, &both).await?;
            let switched = switched(replacement);
            return self
                .begin(|rotation| rotation.authority = Some(switched))
                .await;
        }
        let new = replacement.new;
        let trusted = new.certificate.clone();
        let replaced = ReplacedCredentials {
            authority: Some(new),
            trusted: Some(trusted.clone()),
            ..ReplacedCredentials::default()
        };
        self.replace_in_manager(platform, replaced).await?;
        self.write_authority(platform, &trusted).await?;
        self.end(|rotation| rotation.authority = None).await
    }

    async fn rotate_ssh_key(
        &self,
        platform: PlatformId,
        new_key: impl FnOnce() -> Result<SshKeyPair> + Send,
    ) -> Result<RotationStep> {
        let secrets = &self.secrets;
        let Some(replacement) = secrets.rotation.ssh.clone() else {
            self.reject_shared_key()?;
            self.reject_unknown_machines(platform).await?;
            self.running_nodes().await?;
            let begun = Replacement {
                old: secrets.ssh.clone(),
                new: new_key()?,
                is_switched: false,
            };
            return self.begin(|rotation| rotation.ssh = Some(begun)).await;
        };
        let (old, new) = (
            PublicKey::of(&replacement.old)?,
            PublicKey::of(&replacement.new)?,
        );
        if replacement.is_switched {
            let script = new.replacing(&old);
            self.on_all_nodes(&script, "removing the old key").await?;
            return self.end(|rotation| rotation.ssh = None).await;
        }
        let script = new.accepted();
        self.on_all_nodes(&script, "adding the new key").await?;
        self.replace_in_manager(
            platform,
            ReplacedCredentials {
                ssh: Some(replacement.new.clone()),
                ..ReplacedCredentials::default()
            },
        )
        .await?;
        // The previous manager may have created nodes meanwhile.
        self.on_all_nodes(&script, "adding the new key").await?;
        let switched = switched(replacement);
        self.begin(|rotation| rotation.ssh = Some(switched)).await
    }

    /// Stores a change of the rotation, which determines what the next call does.
    async fn begin(&self, change: impl FnOnce(&mut Rotation)) -> Result<RotationStep> {
        self.store(change).await?;
        Ok(RotationStep::Continue)
    }

    /// Stores the end of a rotation.
    async fn end(&self, change: impl FnOnce(&mut Rotation)) -> Result<RotationStep> {
        self.store(change).await?;
        Ok(RotationStep::Done)
    }

    async fn store(&self, change: impl FnOnce(&mut Rotation)) -> Result<()> {
        let mut rotation = self.secrets.rotation.clone();
        change(&mut rotation);
        let secrets: PlatformSecrets = self.secrets.clone().with_rotation(rotation);
        self.state.store_secrets(&secrets).await
    }

    /// Fails until the manager has recorded the token.
    async fn accepts(&self, platform: PlatformId, token: &TokenId) -> Result<()> {
        let tokens = self.client(platform).await?.tokens().await?;
        if tokens.iter().any(|known| known.id == *token) {
            return Ok(());
        }
        Err(Error::not_ready(
            "the manager",
            "it has not recorded the new token yet",
        ))
    }

    /// Writes credentials to the hand-over, and restarts the manager, which then uses them. Meanwhile, the
    /// manager is stopped, so that it never starts with some of the files.
    async fn replace_in_manager(
        &self,
        platform: PlatformId,
        replaced: ReplacedCredentials,
    ) -> Result<()> {
        let (machine, node, port) = self.manager_node().await?;
        let client = self.reach.reach(&machine, &node, platform, port).await?;
        let what = format!("restart the lifecycle manager on {}", machine.name);
        let stage = self.stage(what, NODE_ANSWERS_WITHIN);
        let restart = async {
            let container = manager_container(&node).await?;
            let path = ReplacedCredentials::configuration(platform);
            let config = node
                .host
                .exec(HostCommand::new(format!("cat '{path}'")).as_root())
                .await?
                .success("reading the manager's configuration")?;
            let files = replaced.files(platform, &config)?;
            node.runtime.stop_container(&container, None).await?;
            for file in files {
                node.host.put(file).await?;
            }
            node.runtime.start_container(&container).await
        };
        stage.run(restart).await?;
        self.answers(client.as_ref()).await
    }

    async fn write_authority(&self, platform: PlatformId, trusted: &str) -> Result<()> {
        self.on_service_directories(platform, async |node, service| {
            let host = node.host.as_ref();
            service_credential::write_authority(host, platform, service, trusted).await
        })
        .await
    }

    /// Runs `work` for each directory with a service's credential, on all nodes that are running. The
    /// manager writes the credentials again before it starts containers on a node that was stopped.
    async fn on_service_directories(
        &self,
        platform: PlatformId,
        work: impl AsyncFn(&NodeHandle, &ServiceName) -> Result<()>,
    ) -> Result<()> {
        let nodes = self.list_nodes().await?;
        let running = nodes.iter().filter(|node| node.power == Power::Running);
        for machine in running {
            let node = self.connect(machine).await?;
            let what = format!("the credentials of services on node {}", machine.name);
            let write = async {
                for service in service_credential::services(node.host.as_ref(), platform).await? {
                    work(&node, &service).await?;
                }
                Ok::<_, Error>(())
            };
            self.wait(what, NODE_ANSWERS_WITHIN).until(write).await?;
        }
        Ok(())
    }

    /// Runs a script on each node, with the account that the platform uses.
    async fn on_all_nodes(&self, script: &str, what: &str) -> Result<()> {
        for machine in self.running_nodes().await? {
            let node = self.connect(&machine).await?;
            let what = format!("{what} on node {}", machine.name);
            let run = async {
                let ran = node.host.exec(HostCommand::new(script)).await?;
                ran.success(&what).map(drop)
            };
            self.wait(&what, NODE_ANSWERS_WITHIN).until(run).await?;
        }
        Ok(())
    }

    /// Returns all nodes.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a node is not running, because its key could not be replaced.
    async fn running_nodes(&self) -> Result<Vec<ObservedNode>> {
        let nodes = self.list_nodes().await?;
        let Some(node) = nodes.iter().find(|node| node.power != Power::Running) else {
            return Ok(nodes);
        };
        let name = &node.name;
        Err(Error::invalid(
            "replacing the SSH key",
            format!("node {name} is not running, so its key cannot be replaced"),
            format!(
                "start the node with `bootstrapper node start {name}`, wait until it is created, or \
                 remove it; then run the command again"
            ),
        ))
    }

    /// Rejects a replacement while only the manager knows some machines, such as adopted ones: this
    /// computer could not replace the credentials on them.
    async fn reject_unknown_machines(&self, platform: PlatformId) -> Result<()> {
        let overrides = async { self.client(platform).await?.overrides().await };
        let overrides = self
            .wait("the manager's response", MANAGER_ANSWERS_WITHIN)
            .until(overrides)
            .await?;
        let known = self.list_nodes().await?;
        let is_unknown = |node: &NodeName| known.iter().all(|known| known.name != *node);
        let added = overrides.into_iter().filter(|one| one.kind.is_addition());
        let nodes = added.filter_map(|one| one.node).filter(is_unknown);
        let nodes: Vec<String> = nodes.map(|node| node.to_string()).collect();
        if nodes.is_empty() {
            return Ok(());
        }
        let nodes = nodes.join(", ");
        Err(Error::invalid(
            "replacing credentials",
            format!("only the manager knows the machines of the nodes added at run time: {nodes}"),
            "write them to platform.toml with `bootstrapper export` and run `bootstrapper up`, or \
             remove them with `bootstrapper node remove`; nothing was changed",
        ))
    }

    /// Rejects the replacement of a key that the jump host accepts, too: the operator of the jump host
    /// would have to replace it at the same time.
    fn reject_shared_key(&self) -> Result<()> {
        let access = &self.access;
        if access.jump_host.is_none() || access.credentials.jump_host.is_some() {
            return Ok(());
        }
        Err(Error::invalid(
            "replacing the SSH key",
            "the jump host accepts the platform's key, and the platform cannot replace it there",
            "declare another key for the jump host in platform.toml; nothing was changed",
        ))
    }
}

fn switched<T>(replacement: Replacement<T>) -> Replacement<T> {
    Replacement {
        is_switched: true,
        ..replacement
    }
}

/// Returns the name of the manager's container.
async fn manager_container(node: &NodeHandle) -> Result<String> {
    let containers = node.runtime.state().await?.containers;
    let mut managers = containers.into_iter().filter(|c| c.role == Role::Manager);
    match (managers.next(), managers.next()) {
        (Some(manager), None) => Ok(manager.name),
        (None, _) => Err(not_running()),
        (Some(_), Some(_)) => Err(Error::invalid(
            "restarting the manager",
            "a replacement of the manager was interrupted",
            "run `bootstrapper up`, then run this command again",
        )),
    }
}

/// The type and the data of a public key, without its comment.
struct PublicKey<'k> {
    kind: &'k str,
    data: &'k str,
}

impl<'k> PublicKey<'k> {
    fn of(pair: &'k SshKeyPair) -> Result<Self> {
        let mut words = pair.public.split_whitespace();
        let is_plain = |word: &&str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=@.-_".contains(&byte);
            word.bytes().all(plain)
        };
        let (kind, data) = (words.next(), words.next());
        let (kind, data) = (kind.filter(is_plain), data.filter(is_plain));
        kind.zip(data)
            .map(|(kind, data)| Self { kind, data })
            .ok_or_else(|| {
                Error::invalid(
                    "the public SSH key",
                    "it is not a key in OpenSSH format",
                    "use a key pair of the form `ssh-ed25519 AAAA…`",
                )
            })
    }

    /// Returns the script after which the account accepts this key, too.
    fn accepted(&self) -> String {
        let Self { kind, data } = self;
        format!(
            "set -eu; umask 077\n\
             keys=\"$HOME/.ssh/authorized_keys\"\n\
             grep -qF '{data}' \"$keys\" && exit 0\n\
             cp -p \"$keys\" \"$keys.new\"\n\
             [ -z \"$(tail -c 1 \"$keys.new\")\" ] || echo >> \"$keys.new\"\n\
             echo '{kind} {data}' >> \"$keys.new\"\n\
             sync \"$keys.new\"\n\
             mv -f \"$keys.new\" \"$keys\"\n"
        )
    }

    /// Returns the script after which the account accepts this key, and no longer `old`. It fails without
    /// a change if the account does not accept this key.
    fn replacing(&self, old: &Self) -> String {
        let (new, old) = (self.data, old.data);
        format!(
            "set -eu; umask 077\n\
             keys=\"$HOME/.ssh/authorized_keys\"\n\
             grep -qF '{new}' \"$keys\"\n\
             cp -p \"$keys\" \"$keys.new\"\n\
             grep -vF '{old}' \"$keys\" > \"$keys.new\"\n\
             sync \"$keys.new\"\n\
             mv -f \"$keys.new\" \"$keys\"\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use tempfile::TempDir;

    use super::*;
    use crate::secret::Sensitive;

    const OTHER: &str = "ssh-rsa AAAAother someone@else";

    fn pair(public: &str) -> SshKeyPair {
        SshKeyPair {
            private: Sensitive::new("private"),
            public: public.to_owned(),
        }
    }

    fn run(home: &TempDir, script: &str) -> bool {
        let ran = Command::new("sh")
            .args(["-c", script])
            .env("HOME", home.path())
            .status();
        ran.unwrap().success()
    }

    #[test]
    fn keys_are_added_and_removed_without_others() {
        let home = tempfile::tempdir().unwrap();
        let keys = home.path().join(".ssh/authorized_keys");
        std::fs::create_dir(keys.parent().unwrap()).unwrap();
        // The last line has no end, as a person may have written it.
        std::fs::write(
            &keys,
            format!("ssh-ed25519 AAAAold of the platform\n{OTHER}"),
        )
        .unwrap();
        let (old, new) = (
            pair("ssh-ed25519 AAAAold x"),
            pair("ssh-ed25519 AAAAnew+/=\n"),
        );
        let (old, new) = (PublicKey::of(&old).unwrap(), PublicKey::of(&new).unwrap());
        let stored = || std::fs::read_to_string(&keys).unwrap();

        // The old key stays if the new one is not accepted.
        assert!(!run(&home, &new.replacing(&old)));
        assert!(stored().contains("AAAAold"));
        for _ in 0..2 {
            assert!(run(&home, &new.accepted()));
            let expected =
                format!("ssh-ed25519 AAAAold of the platform\n{OTHER}\nssh-ed25519 AAAAnew+/=\n");
            assert_eq!(stored(), expected);
        }
        for _ in 0..2 {
            assert!(run(&home, &new.replacing(&old)));
            assert_eq!(stored(), format!("{OTHER}\nssh-ed25519 AAAAnew+/=\n"));
        }
    }

    #[test]
    fn a_key_cannot_contain_a_script() {
        for wrong in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 ';reboot;'",
            "$(reboot) AAAA",
        ] {
            assert!(PublicKey::of(&pair(wrong)).is_err(), "{wrong}");
        }
    }
}
