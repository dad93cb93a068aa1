//! A simulator of Azure, for tests and for trying things out: what it answers, Microsoft's own
//! clients accept. `docs/azure-simulator.md` says what it covers and where it differs on purpose.
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
mod entra;
mod fault;
pub mod files;
mod identity;
mod listener;
mod machine;
mod machines_of;
mod maker;
mod options;
mod origin;
mod recording;
mod selector;

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
pub use fault::{Fault, FaultRates, Faults, When};
pub use listener::Listener;
pub use machine::SimulatedMachine;
pub use machines_of::{MachineClouds, MachinesOf, PlacedMachine};
pub use maker::{
    MachineChange, MachineFailure, MachineMaker, MachineOrder, MachineSubnet, StatesOnly,
};
pub use options::{
    CLIENT, CLIENT_SECRET, Client, Delays, MANAGED_IDENTITY, STORAGE_ACCOUNT, STORAGE_KEY,
    STORAGE_SHARE, SUBSCRIPTION, SimulatorOptions, StorageAccount, TENANT,
};
pub use recording::{Outcome, Recorded, Requests};
pub use selector::Selector;

use cloud::{Cloud, Parts};
use entra::{Entra, Tokens};
use files::FilesService;
use identity::Identity;
use origin::Scheme;

/// A simulated Azure, which listens until it is dropped.
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
    /// Ends what is under way when the simulator is dropped.
    end: DropGuard,
}

impl AzureSimulator {
    /// Starts one. Its clock is the machine's at the start and moves with tokio's, so a test that
    /// pauses and advances that has it in hand.
    ///
    /// # Errors
    /// If an address cannot be listened on.
    pub async fn start(options: SimulatorOptions) -> Result<Self> {
        Self::start_with(options, Arc::new(StatesOnly)).await
    }

    /// Starts one in which `maker` makes the machines behind the VMs; the options' delays come
    /// before what it does.
    ///
    /// # Errors
    /// If an address cannot be listened on.
    pub async fn start_with(
        options: SimulatorOptions,
        maker: Arc<dyn MachineMaker>,
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
            maker,
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

    /// Where its http endpoint listens.
    pub fn address(&self) -> SocketAddr {
        self.http.address()
    }

    /// By its address, or where that is none that could be asked (`0.0.0.0`) by the first name that
    /// it is known as.
    fn url(&self, listener: &Listener) -> String {
        match self.options().known_as.first() {
            Some(name) if listener.address().ip().is_unspecified() => listener.url_at(name),
            _ => listener.url(),
        }
    }

    /// The address of everything (Azure Resource Manager, Entra, the managed identity) over http:
    /// `http://127.0.0.1:<port>`.
    pub fn endpoint(&self) -> String {
        self.url(&self.http)
    }

    /// The same over https. Clients have to trust [`authority_pem`](Self::authority_pem).
    pub fn secure_endpoint(&self) -> String {
        self.url(&self.https)
    }

    /// The address of Azure Files over http.
    pub fn files_endpoint(&self) -> String {
        self.url(&self.files_http)
    }

    /// The same over https, under the same authority as all else.
    pub fn secure_files_endpoint(&self) -> String {
        self.url(&self.files_https)
    }

    /// The storage accounts and what lies in them.
    pub fn files(&self) -> &FilesService {
        &self.files
    }

    /// The certificate of the authority that the https endpoint's is signed by, in PEM.
    pub fn authority_pem(&self) -> String {
        self.authority.pem()
    }

    /// What `IDENTITY_ENDPOINT` has to be for a client with a managed identity in App Service's
    /// form; `IDENTITY_HEADER` is [`SimulatorOptions::identity_header`].
    pub fn identity_endpoint(&self) -> String {
        format!("{}{}", self.endpoint(), identity::APP_SERVICE_PATH)
    }

    /// What came, and how it was answered.
    pub fn requests(&self) -> &Requests {
        &self.requests
    }

    /// The faults that strike.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// What it began with.
    pub fn options(&self) -> &SimulatorOptions {
        &self.cloud.options
    }

    /// How much of Azure's budgets is spent, by their names.
    pub fn budgets(&self) -> Vec<BudgetReading> {
        self.cloud.budgets.readings(self.cloud.clock.now())
    }

    /// The VMs, sorted by their ids; with what Azure's API never gives back.
    pub fn machines(&self) -> Vec<SimulatedMachine> {
        machine::all(&self.cloud.world())
    }

    /// Serves another service's router beside, at a free port over http; its requests are recorded
    /// and struck by faults like all others.
    ///
    /// # Errors
    /// If there is no free port.
    pub async fn listen(&self, router: Router) -> Result<Listener> {
        let free = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Listener::start(free, observed(router, &self.requests, &self.faults), None).await
    }

    /// Ends it and waits until all that it began has ended. Dropping it ends it too, without waiting.
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

/// `router` with its requests recorded and struck by faults: what every service of the simulator
/// is wrapped in before a [`Listener`] serves it.
pub fn observed(router: Router, requests: &Requests, faults: &Faults) -> Router {
    router
        .layer(from_fn_with_state(faults.clone(), fault::inject))
        .layer(from_fn_with_state(requests.clone(), recording::record))
}
