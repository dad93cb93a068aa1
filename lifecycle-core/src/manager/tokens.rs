//! The tokens of the manager's API: their creation and revocation, and the authentication of
//! requests. The registry stores only the hashes of tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use tokio::time::Instant;

use super::denials::Denials;
use super::{Accepted, Manager};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::model::{
    ApiToken, Epoch, EventKind, NewEvent, Subject, TokenId, TokenName, TokenRole, TokenScope,
};
use crate::platform::Declaration;
use crate::registry::{Batch, Change, Registry, StoredTokens};
use crate::secret::{Sensitive, new_api_token, service_api_token, token_hash};

/// The name of the first token, which the bootstrapper creates.
const FIRST: &str = "bootstrapper";

/// The name under which requests of the platform's services are reported.
const SERVICES: &str = "services";

/// How long a manager uses the tokens that it has read, and how long it rejects requests after the
/// registry has not answered.
const READ_EVERY: Duration = Duration::from_millis(500);

/// How long the registry may take to return the tokens.
const READ_WITHIN: Duration = Duration::from_secs(2);

/// How long tokens are listed after they have ended.
const ENDED_KEPT_FOR: TimeDelta = TimeDelta::days(30);

/// The maximum number of listed tokens that have ended.
const ENDED_KEPT: usize = 200;

/// The maximum number of valid tokens. All of them are kept in memory.
const MOST: usize = 1_000;

/// The longest time after which a token expires: ten years.
const LONGEST: TimeDelta = TimeDelta::days(3_650);

/// The sender of an authenticated request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The token of the request.
    pub token: TokenId,
    /// The name of the token.
    pub name: String,
    pub role: TokenRole,
    /// The services that the token is limited to.
    pub scope: Option<TokenScope>,
    /// When the token expires.
    pub expires_at: Option<DateTime<Utc>>,
}

/// The first token of a platform's operator. It is accepted while the registry contains no tokens,
/// and becomes one of them when a manager takes the lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstToken {
    pub id: TokenId,
    /// The SHA-256 of the token, in hexadecimal.
    pub hash: String,
}

impl FirstToken {
    /// Returns the id and the hash of `token`.
    pub fn of(token: &Sensitive) -> Self {
        Self {
            id: TokenId::of(token),
            hash: token_hash(token),
        }
    }
}

/// A token to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// The name. No other valid token may have it.
    pub name: TokenName,
    pub role: TokenRole,
    /// The services that the token is limited to.
    pub scope: Option<TokenScope>,
    /// When the token expires; at most ten years.
    pub expires_in: Option<Duration>,
}

/// Authenticates requests by the tokens in the registry. Clones share what they have read.
#[derive(Debug, Clone)]
pub struct Tokens(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    registry: Arc<dyn Registry>,
    clock: Arc<dyn Clock>,
    first: FirstToken,
    /// The hash of the token that services share if an earlier version created the platform, and the
    /// caller that it identifies.
    services: Option<(String, Caller)>,
    /// The tokens as last read. Requests that find them outdated wait for one read.
    read: tokio::sync::Mutex<Option<Read>>,
    /// Whether a token has changed since the last read began.
    is_outdated: AtomicBool,
    /// The hours of uses that the registry does not contain yet.
    uses: Mutex<BTreeMap<TokenId, DateTime<Utc>>>,
    denials: Mutex<Denials>,
}

#[derive(Debug)]
struct Read {
    at: Instant,
    /// The tokens; `None` if the registry did not answer.
    known: Option<Known>,
}

#[derive(Debug)]
struct Known {
    by_hash: BTreeMap<String, ApiToken>,
    hashes: BTreeMap<TokenId, String>,
    is_empty: bool,
}

impl From<StoredTokens> for Known {
    fn from(stored: StoredTokens) -> Self {
        let is_empty = stored.is_empty();
        let (mut by_hash, mut hashes) = (BTreeMap::new(), BTreeMap::new());
        for token in stored.tokens {
            hashes.insert(token.id.clone(), token.hash.clone());
            by_hash.insert(token.hash.clone(), token);
        }
        Self {
            by_hash,
            hashes,
            is_empty,
        }
    }
}

impl Tokens {
    /// Authenticates by the tokens in `registry`, and by the token that services share if an earlier
    /// version created the platform.
    pub fn new(
        registry: Arc<dyn Registry>,
        clock: Arc<dyn Clock>,
        first: FirstToken,
        services: Option<&Sensitive>,
    ) -> Self {
        let caller = |token: &Sensitive| Caller {
            token: TokenId::of(token),
            name: SERVICES.to_owned(),
            role: TokenRole::Viewer,
            scope: None,
            expires_at: None,
        };
        Self(Arc::new(Shared {
            registry,
            clock,
            first,
            services: services.map(|token| (token_hash(token), caller(token))),
            read: tokio::sync::Mutex::default(),
            is_outdated: AtomicBool::new(false),
            uses: Mutex::default(),
            denials: Mutex::default(),
        }))
    }

    /// Returns the sender of a request with this token; `None` if the token is unknown, expired or
    /// revoked.
    ///
    /// # Errors
    /// [`Error::NotReady`] if the registry does not answer. The request must then be rejected.
    pub async fn authenticate(&self, token: &Sensitive) -> Result<Option<Caller>> {
        let Shared {
            clock,
            first,
            services,
            ..
        } = self.0.as_ref();
        // Comparing hashes leaks no timing information about the token.
        let hash = token_hash(token);
        if let Some((_, caller)) = services.as_ref().filter(|(known, _)| hash == *known) {
            return Ok(Some(caller.clone()));
        }
        let mut read = self.0.read.lock().await;
        let known = self.recent(&mut read).await?;
        if known.is_empty {
            return Ok((hash == first.hash).then(|| Caller {
                token: first.id.clone(),
                name: FIRST.to_owned(),
                role: TokenRole::Admin,
                scope: None,
                expires_at: None,
            }));
        }
        let now = clock.now();
        let Some(token) = known.by_hash.get(&hash).filter(|token| token.is_valid(now)) else {
            return Ok(None);
        };
        let hour = hour(now);
        if token.last_used_at < Some(hour) {
            let mut uses = self.0.uses.lock().unwrap_or_else(PoisonError::into_inner);
            uses.insert(token.id.clone(), hour);
        }
        Ok(Some(Caller {
            token: token.id.clone(),
            name: match &token.service {
                Some(service) => format!("service {service}"),
                None => token.name.to_string(),
            },
            role: token.role,
            scope: token.scope.clone(),
            expires_at: token.expires_at,
        }))
    }

    /// Counts a request without a valid token. If there were more than 20 from this address within a
    /// minute, returns how long the sender must wait before the next one. The leader records the number
    /// of such requests, once a minute for each address.
    pub fn deny(&self, address: Option<IpAddr>) -> Option<Duration> {
        self.denials().count(address, Instant::now())
    }

    pub(super) fn denials(&self) -> MutexGuard<'_, Denials> {
        self.0
            .denials
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the token of `caller` has expired, is revoked, or permits something else. A revocation is not noticed
    /// while the registry does not answer.
    pub async fn until_ended(&self, caller: &Caller) {
        let shared = self.0.services.as_ref();
        if shared.is_some_and(|(_, services)| caller.token == services.token) {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(READ_EVERY).await;
            let now = self.0.clock.now();
            if caller.expires_at.is_some_and(|expiry| expiry <= now) {
                return;
            }
            let mut read = self.0.read.lock().await;
            let Ok(known) = self.recent(&mut read).await else {
                continue;
            };
            let hash = known.hashes.get(&caller.token);
            let is_valid = match hash.and_then(|hash| known.by_hash.get(hash)) {
                Some(token) => {
                    let is_same = token.role == caller.role && token.scope == caller.scope;
                    is_same && token.is_valid(now)
                }
                None => known.is_empty && caller.token == self.0.first.id,
            };
            if !is_valid {
                return;
            }
        }
    }

    /// Returns the tokens as last read, or reads them again if that was too long ago.
    async fn recent<'r>(&self, read: &'r mut Option<Read>) -> Result<&'r Known> {
        let is_outdated = self.0.is_outdated.swap(false, Ordering::SeqCst);
        let last = match read.take() {
            Some(last) if !is_outdated && last.at.elapsed() < READ_EVERY => last,
            _ => self.read().await,
        };
        read.insert(last).known.as_ref().ok_or_else(|| {
            let why = "the registry does not answer, so no token can be verified";
            Error::not_ready("the manager", why)
        })
    }

    async fn read(&self) -> Read {
        let tokens = tokio::time::timeout(READ_WITHIN, self.0.registry.tokens()).await;
        let known = match tokens {
            Ok(Ok(stored)) => Some(stored.into()),
            Ok(Err(error)) => {
                tracing::warn!(error = %error.chain(), "cannot read the tokens");
                None
            }
            Err(_) => {
                tracing::warn!("the registry did not return the tokens in time");
                None
            }
        };
        let at = Instant::now();
        Read { at, known }
    }

    /// Makes the next request read the tokens again.
    pub(super) fn changed(&self) {
        self.0.is_outdated.store(true, Ordering::SeqCst);
    }

    fn take_uses(&self) -> BTreeMap<TokenId, DateTime<Utc>> {
        std::mem::take(&mut *self.0.uses.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Returns the start of the hour.
fn hour(time: DateTime<Utc>) -> DateTime<Utc> {
    time.duration_trunc(TimeDelta::hours(1)).unwrap_or(time)
}

impl Manager {
    /// Returns the change that stores the first token, unless the registry contains tokens. A
    /// revoked first token therefore stays revoked.
    pub(super) async fn initial_token(&self) -> Result<Option<Change>> {
        if !self.backends.registry.tokens().await?.is_empty() {
            return Ok(None);
        }
        self.first_token().map(Some)
    }

    /// Returns the change that stores the first token.
    pub(super) fn first_token(&self) -> Result<Change> {
        let FirstToken { id, hash } = self.options.admin_token.clone();
        Ok(Change::PutToken(Box::new(ApiToken {
            id,
            name: TokenName::try_from(FIRST)?,
            role: TokenRole::Admin,
            scope: None,
            service: None,
            hash,
            created_at: self.backends.clock.now(),
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
        })))
    }

    /// Returns the changes after which the registry contains a token for each service that may use the
    /// API according to `declaration`, and for no other service. The previous token of such a service
    /// stays valid until it is revoked, and permits the same as the new one.
    pub(super) async fn service_tokens(&self, declaration: &Declaration) -> Result<Vec<Change>> {
        let stored = self.backends.registry.tokens().await?.tokens;
        let now = self.backends.clock.now();
        let mut changes = Vec::new();
        let mut granted = BTreeSet::new();
        let rotation = self.token_rotation();
        for spec in declaration.services.values() {
            let Some(access) = &spec.container.api else {
                continue;
            };
            let secret = service_api_token(&self.options.key, spec.name.as_str(), rotation);
            let (id, hash) = (TokenId::of(&secret), token_hash(&secret));
            let before = stored.iter().find(|token| token.id == id);
            let token = ApiToken {
                name: TokenName::try_from(spec.name.as_str())?,
                role: access.role(),
                scope: access.scope().cloned(),
                service: Some(spec.name.clone()),
                hash,
                created_at: before.map_or(now, |before| before.created_at),
                expires_at: None,
                revoked_at: None,
                last_used_at: before.and_then(|before| before.last_used_at),
                id: id.clone(),
            };
            let replaced = stored
                .iter()
                .filter(|other| other.service.as_ref() == Some(&spec.name) && other.id != id);
            for other in replaced {
                granted.insert(other.id.clone());
                if (other.role, &other.scope) != (token.role, &token.scope) {
                    changes.push(Change::PutToken(Box::new(ApiToken {
                        role: token.role,
                        scope: token.scope.clone(),
                        ..other.clone()
                    })));
                }
            }
            if before != Some(&token) {
                changes.push(Change::PutToken(Box::new(token)));
            }
            granted.insert(id);
        }
        let of_services = stored.into_iter().filter(|token| token.service.is_some());
        let lost = of_services.filter(|token| !granted.contains(&token.id));
        changes.extend(lost.map(|token| Change::DeleteToken(token.id)));
        Ok(changes)
    }

    /// Returns all tokens, oldest first. Up to 200 tokens that have ended are listed for 30 days.
    pub async fn list_tokens(&self) -> Result<Vec<ApiToken>> {
        Ok(self.backends.registry.tokens().await?.tokens)
    }

    /// Creates a token. Returns the token itself, which is not stored and cannot be read again.
    ///
    /// # Errors
    /// - [`Error::Conflict`] if a valid token has this name, or too many tokens are valid
    /// - [`Error::Invalid`] if the token would not be valid for at least a second and at most ten
    ///   years, or if its scope contains nothing
    pub async fn create_token(&self, new: NewToken) -> Result<(ApiToken, Sensitive)> {
        let write = self.begin_write(Accepted::Always).await?;
        let registry = &self.backends.registry;
        let now = self.backends.clock.now();
        let expires_at = new.expires_in.map(|after| expiry(now, after)).transpose()?;
        if new.scope.as_ref().is_some_and(TokenScope::is_empty) {
            return Err(Error::invalid(
                "the token's scope",
                "it contains neither a class nor a service",
                "name at least one, or omit the scope",
            ));
        }
        let tokens = registry.tokens().await?.tokens;
        let of_operators = tokens.iter().filter(|token| token.service.is_none());
        let valid: Vec<_> = of_operators.filter(|token| token.is_valid(now)).collect();
        let rejected = || format!("token {} was not created", new.name);
        if let Some(same) = valid.iter().find(|token| token.name == new.name) {
            let why = format!("token {} has this name; revoke it first", same.id);
            return Err(Error::conflict(rejected(), why));
        }
        if valid.len() >= MOST {
            let why = format!("{MOST} tokens are valid; revoke some of them first");
            return Err(Error::conflict(rejected(), why));
        }
        let secret = new_api_token();
        let token = ApiToken {
            id: TokenId::of(&secret),
            name: new.name,
            role: new.role,
            scope: new.scope,
            service: None,
            hash: token_hash(&secret),
            created_at: now,
            expires_at,
            revoked_at: None,
            last_used_at: None,
        };
        let permits = permits(&token);
        let request = format!("create-token {} with {permits}", token.name);
        let mut batch = Batch::of(Change::PutToken(Box::new(token.clone())));
        batch.events.push(self.audit(&request, Subject::Platform));
        let old = old(&tokens, now).into_iter();
        batch
            .changes
            .extend(old.map(|token| Change::DeleteToken(token.id.clone())));
        batch.events.push(event(
            now,
            EventKind::TokenCreated,
            format!(
                "token {} ({}) with {permits} was created",
                token.name, token.id
            ),
        ));
        registry.commit(write.epoch, batch).await?;
        self.tokens.changed();
        Ok((token, secret))
    }

    /// Revokes the token with this id or name. A repeated call changes nothing.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if there is no such token
    /// - [`Error::Conflict`] for the current token of a service, and for the last admin token that
    ///   neither expires nor has a scope, because new tokens can be created only with such a token
    pub async fn revoke_token(&self, name: &str) -> Result<ApiToken> {
        let write = self.begin_write(Accepted::Always).await?;
        let registry = &self.backends.registry;
        let now = self.backends.clock.now();
        let tokens = registry.tokens().await?.tokens;
        let mut token = named(&tokens, name, now)?.clone();
        if let Some(service) = &token.service {
            let key = &self.options.key;
            let current = service_api_token(key, service.as_str(), self.token_rotation());
            if token.id == TokenId::of(&current) {
                return Err(Error::conflict(
                    format!("token {} was not revoked", token.id),
                    format!(
                        "service {service} has it; replace it with `bootstrapper rotate tokens`, or \
                         remove `x-lifecycle.api` from the service"
                    ),
                ));
            }
        }
        if token.revoked_at.is_some() {
            return Ok(token);
        }
        let keeps = |token: &&ApiToken| {
            token.role == TokenRole::Admin
                && token.scope.is_none()
                && token.expires_at.is_none()
                && token.revoked_at.is_none()
        };
        if keeps(&&token) && tokens.iter().filter(keeps).count() == 1 {
            return Err(Error::conflict(
                format!("token {} was not revoked", token.name),
                "it is the only admin token that neither expires nor has a scope; create another one \
                 first",
            ));
        }
        token.revoked_at = Some(now);
        // The record of a service's token is needed only while the token is valid.
        let change = match &token.service {
            Some(_) => Change::DeleteToken(token.id.clone()),
            None => Change::PutToken(Box::new(token.clone())),
        };
        let request = format!("revoke-token {} ({})", token.name, token.id);
        let batch = Batch::of(change)
            .event(self.audit(&request, Subject::Platform))
            .event(event(
                now,
                EventKind::TokenRevoked,
                format!("token {} ({}) was revoked", token.name, token.id),
            ));
        registry.commit(write.epoch, batch).await?;
        self.tokens.changed();
        Ok(token)
    }

    /// Records the hours in which tokens were last used.
    pub(super) async fn record_token_uses(&self, epoch: Epoch) -> Result<()> {
        let uses = self.tokens.take_uses();
        if uses.is_empty() {
            return Ok(());
        }
        // Not while a token is being revoked: the record would replace the revocation.
        let _writes = self.epoch.lock().await;
        let registry = &self.backends.registry;
        let mut batch = Batch::default();
        for mut token in registry.tokens().await?.tokens {
            let hour = uses.get(&token.id).copied();
            if token.last_used_at < hour {
                token.last_used_at = hour;
                batch.changes.push(Change::PutToken(Box::new(token)));
            }
        }
        if !batch.is_empty() {
            registry.commit(epoch, batch).await?;
        }
        Ok(())
    }
}

/// Describes what a token permits.
fn permits(token: &ApiToken) -> String {
    let role = format!("the role {}", token.role);
    match &token.scope {
        None => role,
        Some(scope) => format!("{role}, limited to {scope}"),
    }
}

fn expiry(now: DateTime<Utc>, after: Duration) -> Result<DateTime<Utc>> {
    let after = TimeDelta::from_std(after).ok();
    let after = after.filter(|after| (TimeDelta::seconds(1)..=LONGEST).contains(after));
    after
        .and_then(|after| now.checked_add_signed(after))
        .ok_or_else(|| {
            Error::invalid(
                "the time after which the token expires",
                "it is not between a second and ten years",
                "use a time in this range, or none",
            )
        })
}

/// Returns the tokens that ended too long ago to be listed.
fn old(tokens: &[ApiToken], now: DateTime<Utc>) -> Vec<&ApiToken> {
    let ended = tokens
        .iter()
        .filter_map(|token| Some((token.ended_at(now)?, token)));
    let mut ended: Vec<_> = ended.collect();
    ended.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    let is_old = |(position, (at, _)): &(usize, (DateTime<Utc>, &ApiToken))| {
        *position >= ENDED_KEPT || *at < now - ENDED_KEPT_FOR
    };
    let old = ended.into_iter().enumerate().filter(is_old);
    old.map(|(_, (_, token))| token).collect()
}

/// Finds a token by its id or its name. A valid token takes precedence over one that has ended.
fn named<'t>(tokens: &'t [ApiToken], name: &str, now: DateTime<Utc>) -> Result<&'t ApiToken> {
    let matching = |token: &&ApiToken| token.id.as_str() == name || token.name.as_str() == name;
    let found = tokens.iter().filter(matching);
    found
        .max_by_key(|token| {
            (
                token.id.as_str() == name,
                token.service.is_none(),
                token.is_valid(now),
                token.created_at,
            )
        })
        .ok_or_else(|| {
            let known = tokens.iter().filter(|token| token.is_valid(now));
            let known = known.map(|token| token.name.as_str());
            Error::unknown_name(format!("token {name}"), name, known)
        })
}

fn event(at: DateTime<Utc>, kind: EventKind, message: String) -> NewEvent {
    NewEvent {
        at,
        kind,
        subject: Subject::Platform,
        message,
        data: serde_json::Value::Null,
    }
}
