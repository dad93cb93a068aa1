//! A simulator of Azure for tests and experiments, which is compatible with Microsoft's own
//! clients. `docs/azure-simulator.md` describes what the simulator covers and where it deliberately
//! differs from Azure.
//!
//! ```no_run
//! # async fn example() -> lifecycle_core::Result<()> {
//! use lifecycle_azure::simulator::{AzureSimulator, SimulatorOptions};
//!
//! let azure = AzureSimulator::start(SimulatorOptions::default()).await?;
//! println!("{} and {}", azure.endpoint(), azure.secure_endpoint());
//! # Ok(())
//! # }
//! ```

mod arm;
mod authority;
mod cloud;
mod cloud_hosts;
mod entra;
mod fault;
pub mod files;
mod host;
mod identity;
mod listener;
mod options;
mod origin;
mod recording;
mod selector;
mod vm;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use axum::middleware::from_fn_with_state;
use axum::{Extension, Router};
use lifecycle_core::Result;
use lifecycle_core::clock::{Clock, IdSource, RandomIds, SystemClock, TokioClock};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

pub use arm::budget::BudgetReading;
pub use authority::{Authority, ServerIdentity};
pub use cloud_hosts::{CloudHosts, HostClouds, HostPlacement};
pub use fault::{Fault, FaultRates, Faults, When};
pub use host::{HostBackend, HostChange, HostFailure, HostRequest, HostSubnet, NoHosts};
pub use listener::Listener;
pub use options::{
    CLIENT, CLIENT_SECRET, Client, Delays, MANAGED_IDENTITY, STORAGE_ACCOUNT, STORAGE_KEY,
    STORAGE_SHARE, SUBSCRIPTION, SimulatorOptions, StorageAccount, TENANT,
};
pub use recording::{Outcome, Recorded, Requests};
pub use selector::Selector;
pub use vm::SimulatedVm;

use cloud::{Cloud, Parts};
use entra::{Entra, Tokens};
use files::FilesService;
use identity::Identity;
use origin::Scheme;

/// A simulated Azure that runs until it is dropped.
#[derive(Debug)]
pub struct AzureSimulator {
    cloud: Cloud,
    http: Listener,
    https: Listener,
    files: FilesService,
    files_http: Listener,
    files_https: Listener,
    authority: Authority,
    requests: Requests,
    faults: Faults,
    /// Cancels operations in progress when the simulator is dropped.
    end: DropGuard,
}

impl AzureSimulator {
    /// Starts a simulator. The simulator's clock starts at the machine's time and advances with
    /// tokio's clock, so tests can pause and advance it.
    ///
    /// # Errors
    /// Returns an error if an address cannot be bound.
    pub async fn start(options: SimulatorOptions) -> Result<Self> {
        Self::start_with(options, Arc::new(NoHosts)).await
    }

    /// Starts a simulator that runs a host for each VM. Each operation takes its configured delay
    /// in addition to the time that the host needs.
    ///
    /// # Errors
    /// Returns an error if an address cannot be bound.
    pub async fn start_with(
        options: SimulatorOptions,
        hosts: Arc<dyn HostBackend>,
    ) -> Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(SystemClock.now()));
        let ids: Arc<dyn IdSource> = Arc::new(RandomIds);
        let tokens = Arc::new(Tokens::new(
            &options.tenant,
            options.token_life,
            Arc::clone(&clock),
            ids.as_ref(),
        ));
        let files = FilesService::new(Arc::clone(&clock), Arc::clone(&ids));
        for account in &options.storage_accounts {
            files.add(account)?;
        }
        let cloud = Cloud::new(Parts {
            clock: Arc::clone(&clock),
            ids,
            tokens,
            budgets: arm::budget::Budgets::default(),
            hosts,
            inbound: tokio::sync::Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            state: Mutex::default(),
            options,
        });
        let requests = match &cloud.options.record {
            Some(path) => Requests::written_to(clock, path)?,
            None => Requests::new(clock),
        };
        let faults = Faults::default();
        let router = observed(router(&cloud), &requests, &faults);
        let authority = Authority::new()?;
        let options = &cloud.options;
        let identity = authority.issue(options.https.ip(), &options.known_as)?;
        let plain = router.clone().layer(Extension(Scheme("http")));
        let secure = router.layer(Extension(Scheme("https")));
        let http = Listener::start(options.http, plain, None).await?;
        let https = Listener::start(options.https, secure, Some(&identity)).await?;
        let shares = |secure| observed(files.router(secure), &requests, &faults);
        let files_http = Listener::start(options.files_http, shares(false), None).await?;
        let identity = authority.issue(options.files_https.ip(), &options.known_as)?;
        let files_https =
            Listener::start(options.files_https, shares(true), Some(&identity)).await?;
        Ok(Self {
            http,
            https,
            files,
            files_http,
            files_https,
            authority,
            requests,
            faults,
            end: cloud.stop.clone().drop_guard(),
            cloud,
        })
    }

    /// Returns the address of the HTTP endpoint.
    pub fn address(&self) -> SocketAddr {
        self.http.address()
    }

    /// Returns a listener's URL. If clients cannot connect to the listener's address (`0.0.0.0`),
    /// the URL contains the first name in `known_as` instead.
    fn url(&self, listener: &Listener) -> String {
        match self.options().known_as.first() {
            Some(name) if listener.address().ip().is_unspecified() => listener.url_at(name),
            _ => listener.url(),
        }
    }

    /// Returns the HTTP URL of Azure Resource Manager, Entra, and the managed identity:
    /// `http://127.0.0.1:<port>`.
    pub fn endpoint(&self) -> String {
        self.url(&self.http)
    }

    /// Returns the HTTPS URL of the same services. Clients must trust
    /// [`authority_pem`](Self::authority_pem).
    pub fn secure_endpoint(&self) -> String {
        self.url(&self.https)
    }

    /// Returns the HTTPS URLs of all services, with each name and address that the certificates are
    /// valid for.
    pub fn secure_addresses(&self) -> Vec<String> {
        let names = self.options().known_as.iter().map(String::as_str);
        let names: Vec<&str> = names.chain(["localhost"]).collect();
        let mut addresses = Vec::new();
        for listener in [&self.https, &self.files_https] {
            let by_name = names.iter().map(|name| listener.url_at(name));
            for address in std::iter::once(self.url(listener)).chain(by_name) {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        addresses
    }

    /// Returns the URL of Azure Files over HTTP.
    pub fn files_endpoint(&self) -> String {
        self.url(&self.files_http)
    }

    /// Returns the URL of Azure Files over HTTPS. Clients must trust
    /// [`authority_pem`](Self::authority_pem).
    pub fn secure_files_endpoint(&self) -> String {
        self.url(&self.files_https)
    }

    /// Returns the storage accounts and their contents.
    pub fn files(&self) -> &FilesService {
        &self.files
    }

    /// Returns the certificate authority of the HTTPS endpoints, in PEM.
    pub fn authority_pem(&self) -> String {
        self.authority.pem()
    }

    /// Returns the value of `IDENTITY_ENDPOINT` for clients that use the managed identity over the
    /// App Service protocol. The value of `IDENTITY_HEADER` is
    /// [`SimulatorOptions::identity_header`].
    pub fn identity_endpoint(&self) -> String {
        format!("{}{}", self.endpoint(), identity::APP_SERVICE_PATH)
    }

    /// Returns the recorded requests and their outcomes.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Returns the faults, to which tests can add more.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Returns the options with which the simulator was started.
    pub fn options(&self) -> &SimulatorOptions {
        &self.cloud.options
    }

    /// Returns the use of each of Azure's rate limits, sorted by name.
    pub fn budgets(&self) -> Vec<BudgetReading> {
        self.cloud.budgets.readings(self.cloud.clock.now())
    }

    /// Returns the VMs, sorted by id. Includes data that Azure's API never returns.
    pub fn vms(&self) -> Vec<SimulatedVm> {
        vm::all(&self.cloud.arm())
    }

    /// Serves the router of another service on a free port over HTTP. Requests to this service are
    /// also recorded, and faults also affect them.
    ///
    /// # Errors
    /// Returns an error if there is no free port.
    pub async fn listen(&self, router: Router) -> Result<Listener> {
        let free = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Listener::start(free, observed(router, &self.requests, &self.faults), None).await
    }

    /// Stops the simulator and waits until all operations in progress have ended. Dropping the
    /// simulator also stops it, but without waiting.
    pub async fn stop(self) {
        let Self {
            cloud,
            http,
            https,
            files_http,
            files_https,
            end,
            ..
        } = self;
        drop(end);
        cloud.tasks.close();
        cloud.tasks.wait().await;
        http.stop().await;
        https.stop().await;
        files_http.stop().await;
        files_https.stop().await;
    }
}

fn router(cloud: &Cloud) -> Router {
    let options = &cloud.options;
    let entra = Entra {
        tenant: options.tenant.clone(),
        clients: options.clients.clone(),
        tokens: Arc::clone(&cloud.tokens),
        ids: Arc::clone(&cloud.ids),
    };
    let identity = Identity {
        client: options.managed_identity.clone(),
        header: options.identity_header.clone(),
        tokens: Arc::clone(&cloud.tokens),
    };
    Router::new()
        .fallback(arm::handle)
        .with_state(cloud.clone())
        .merge(entra::router(entra))
        .merge(identity::router(identity))
}

/// Wraps a router so that its requests are recorded and subject to faults. The simulator wraps all
/// routers that it serves with this function.
pub fn observed(router: Router, requests: &Requests, faults: &Faults) -> Router {
    router
        .layer(from_fn_with_state(faults.clone(), fault::inject))
        .layer(from_fn_with_state(requests.clone(), recording::record))
}
