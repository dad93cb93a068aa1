//! Simulates Azure Files over REST: shares, directories, files, ranges, metadata, and lists. All
//! data is in memory.
//!
//! The service parses a request ([`call`]), checks its signature and its permissions
//! ([`authorization`]), and applies one of the [`operations`] to the [`tree`] of a share. Keys and
//! shared access signatures work as in Azure, so that Microsoft's own clients are accepted and a
//! wrong key is rejected.
//!
//! Not checked: the checksum of a body (`Content-MD5`), and conditional headers, which Azure does
//! not support for files. Not simulated, and rejected: copies, renames, leases, snapshots, handles,
//! stored access policies, user delegation, and NFS.

mod answer;
mod authorization;
mod call;
mod contents;
mod listing;
mod operations;
mod tree;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use lifecycle_core::clock::{Clock, IdSource};
use lifecycle_core::{Error, Result};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};

use answer::Refusal;
pub use authorization::{AccountSas, ShareSas};
use call::Call;
use tree::Share;

use super::options::StorageAccount;

/// The maximum number of entries per page of a list, unless a request asks for fewer.
const PAGE: usize = 5000;

/// Storage accounts with their file shares. Cloning is cheap, and all clones share the same state.
#[derive(Debug, Clone)]
pub struct FilesService(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    state: Mutex<FilesState>,
}

#[derive(Debug)]
struct FilesState {
    accounts: BTreeMap<String, Account>,
    page: usize,
}

struct Account {
    name: String,
    key: SecretSlice<u8>,
    shares: BTreeMap<String, Share>,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("name", &self.name)
            .field("shares", &self.shares.keys())
            .finish_non_exhaustive()
    }
}

impl FilesService {
    /// Creates a service without accounts.
    pub fn new(clock: Arc<dyn Clock>, ids: Arc<dyn IdSource>) -> Self {
        let state = Mutex::new(FilesState {
            accounts: BTreeMap::new(),
            page: PAGE,
        });
        Self(Arc::new(Shared { clock, ids, state }))
    }

    /// Adds a storage account with its shares. If the account exists, sets its key and adds the
    /// missing shares.
    ///
    /// # Errors
    /// Returns [`Error::Invalid`] if the key is not Base64.
    pub fn add(&self, account: &StorageAccount) -> Result<()> {
        let key = STANDARD.decode(account.key.expose()).map_err(|_| {
            Error::invalid(
                format!("the key of simulated storage account `{}`", account.name),
                "it is not Base64",
                "encode some bytes with `base64`",
            )
        })?;
        let now = self.now();
        let mut state = self.state();
        let kept = state
            .accounts
            .entry(account.name.clone())
            .or_insert_with(|| Account {
                name: account.name.clone(),
                key: SecretSlice::default(),
                shares: BTreeMap::new(),
            });
        kept.key = SecretSlice::from(key);
        for share in &account.shares {
            kept.shares
                .entry(share.clone())
                .or_insert_with(|| Share::new(BTreeMap::new(), now));
        }
        Ok(())
    }

    /// Limits each page of a list to this many entries, so that tests of paging need only few
    /// files.
    pub fn set_page(&self, entries: usize) {
        self.state().page = entries.clamp(1, PAGE);
    }

    /// Returns the paths of all files of a share, with the files' sizes in bytes. Returns an empty
    /// map if the share does not exist.
    pub fn files(&self, account: &str, share: &str) -> BTreeMap<String, u64> {
        self.state()
            .accounts
            .get(account)
            .and_then(|account| account.shares.get(share))
            .map(Share::files)
            .unwrap_or_default()
    }

    /// Returns a shared access signature for an account, or `None` if the account does not exist.
    pub fn account_sas(&self, account: &str, terms: &AccountSas) -> Option<SecretString> {
        let state = self.state();
        let account = state.accounts.get(account)?;
        Some(terms.sign(&account.name, account.key.expose_secret()))
    }

    /// Returns a shared access signature for a share, or `None` if the account does not exist.
    pub fn share_sas(&self, account: &str, terms: &ShareSas) -> Option<SecretString> {
        let state = self.state();
        let account = state.accounts.get(account)?;
        Some(terms.sign(&account.name, account.key.expose_secret()))
    }

    /// Returns the service's routes. `secure` must be true if the routes are served over HTTPS,
    /// which some signatures require.
    pub fn router(&self, secure: bool) -> Router {
        Router::new()
            .fallback(serve)
            .with_state((self.clone(), secure))
    }

    fn state(&self) -> MutexGuard<'_, FilesState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> DateTime<Utc> {
        self.0.clock.now()
    }
}

async fn serve(
    State((service, secure)): State<(FilesService, bool)>,
    request: Request,
) -> Response {
    let now = service.now();
    let stamp = answer::Stamp::new(&request, service.0.ids.uuid(), now);
    let outcome = match Call::read(request).await {
        Ok(call) => service.carry_out(&call, secure, now),
        Err(refusal) => Err(refusal),
    };
    stamp.put_on(outcome)
}

impl FilesService {
    fn carry_out(
        &self,
        call: &Call,
        secure: bool,
        now: DateTime<Utc>,
    ) -> Result<Response, Refusal> {
        let operation = operations::Operation::of(call)?;
        let mut state = self.state();
        let page = state.page;
        let name = authorization::authorize(call, operation, &state.accounts, secure, now)?;
        let account = state
            .accounts
            .get_mut(&name)
            .ok_or_else(Refusal::unauthenticated)?;
        operation.carry_out(call, account, page, now)
    }
}
