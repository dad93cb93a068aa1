//! Brings up platforms of services on VMs, and keeps each platform in its declared state.
//!
//! The programs `bootstrapper` and `lifecycle-manager` are built on this library. It contains the
//! data types, the traits for clouds, container engines, code stores and databases, the planner,
//! and the control loop. Other Rust programs can embed the library to bring up platforms, to find
//! the services of a platform, or to add a backend.
//!
//! # Bring a platform up
//!
//! The following example uses a simulated world, so it needs neither Docker nor a cloud. With the
//! backends of `lifecycle-docker` or `lifecycle-azure`, the same call brings up real nodes. In the
//! repository, the program `examples/embed.rs` contains this example, and `examples/embed_real.rs`
//! does the same with real nodes in Docker.
//!
//! ```
//! use lifecycle_core::bootstrap::UpOptions;
//! use lifecycle_core::clock::{IdSource as _, RandomIds};
//! use lifecycle_core::model::PlatformId;
//! use lifecycle_core::platform::{find, load};
//! use lifecycle_core::sim::SimWorld;
//!
//! // The world uses tokio's clock. The clock starts paused, so tokio advances it from one event to
//! // the next.
//! #[tokio::main(flavor = "current_thread", start_paused = true)]
//! async fn main() -> lifecycle_core::Result<()> {
//!     let files = find("../examples".as_ref(), &["embed.yaml".into()])?;
//!     let (world, id) = (SimWorld::new(7), PlatformId::new(RandomIds.uuid()));
//!     let loaded = load(&files, id, &world.code()).await?;
//!     let bootstrapper = world.bootstrapper(&loaded.declaration)?;
//!     let options = UpOptions {
//!         chunks: loaded.chunks,
//!         ..UpOptions::default()
//!     };
//!     let outcome = bootstrapper.up(&loaded.declaration, options).await?;
//!     assert!(outcome.failures.is_empty());
//!     Ok(())
//! }
//! ```
//!
//! # Find a service
//!
//! [`Bootstrapper::client`](bootstrap::Bootstrapper::client) connects to the manager from outside
//! the platform. A service inside the platform connects to the manager with
//! [`ApiClient::of_this_service`](api::ApiClient::of_this_service). Both clients implement
//! [`ManagerApi`](api::ManagerApi).
//!
//! ```
//! use lifecycle_core::api::ManagerApi;
//! use lifecycle_core::{Error, Result};
//!
//! /// Returns the addresses of the ready instances of a service.
//! async fn addresses(manager: &dyn ManagerApi, name: &str) -> Result<Vec<String>> {
//!     let services = manager.services().await?;
//!     let found = services.into_iter().find(|service| service.name.as_str() == name);
//!     let service = found.ok_or_else(|| Error::not_found(format!("service {name}")))?;
//!     let endpoints = service.instances.iter().flat_map(|instance| &instance.endpoints);
//!     Ok(endpoints.map(|at| format!("{}:{}", at.ip, at.port)).collect())
//! }
//! # use lifecycle_core::bootstrap::UpOptions;
//! # use lifecycle_core::clock::{IdSource as _, RandomIds};
//! # use lifecycle_core::model::PlatformId;
//! # use lifecycle_core::platform::{find, load};
//! # use lifecycle_core::sim::SimWorld;
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<()> {
//! #     let files = find("../examples".as_ref(), &["embed.yaml".into()])?;
//! #     let (world, id) = (SimWorld::new(7), PlatformId::new(RandomIds.uuid()));
//! #     let declaration = load(&files, id, &world.code()).await?.declaration;
//! #     let bootstrapper = world.bootstrapper(&declaration)?;
//! #     bootstrapper.up(&declaration, UpOptions::default()).await?;
//! #     let manager = bootstrapper.client(id).await?;
//! #     assert_eq!(addresses(manager.as_ref(), "web").await?.len(), 2);
//! #     Ok(())
//! # }
//! ```
//!
//! # Implement a backend
//!
//! The documentation of each trait lists the guarantees that an implementation must provide, and
//! the module `conformance` contains test suites for these guarantees. For a cloud, implement the
//! small trait [`cloud::VmApi`]; [`cloud::VmCloud`] adds the bookkeeping
//! (`examples/custom_provider.rs`). The following example implements a code store:
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use async_trait::async_trait;
//! use lifecycle_core::code::{CodeBaseRef, CodeStore, FileContent, Packed, pack};
//! use lifecycle_core::stream::ByteStream;
//! use lifecycle_core::{Error, Result};
//!
//! /// Keeps code bases in memory: for each name, the files by path.
//! #[derive(Debug)]
//! struct Memory(BTreeMap<String, BTreeMap<String, FileContent>>);
//!
//! impl Memory {
//!     fn packed(&self, name: &str) -> Result<Packed> {
//!         let files = self.0.get(name);
//!         pack(files.ok_or_else(|| Error::not_found(format!("code base {name}")))?)
//!     }
//! }
//!
//! #[async_trait]
//! impl CodeStore for Memory {
//!     async fn list(&self) -> Result<Vec<String>> {
//!         Ok(self.0.keys().cloned().collect())
//!     }
//!
//!     async fn digest(&self, name: &str) -> Result<CodeBaseRef> {
//!         let (name, digest) = (name.to_owned(), self.packed(name)?.digest);
//!         Ok(CodeBaseRef { name, digest })
//!     }
//!
//!     // These files never change, so the requested digest is always the current one.
//!     async fn archive(&self, code: &CodeBaseRef) -> Result<ByteStream> {
//!         let archive = self.packed(&code.name)?.archive;
//!         Ok(Box::pin(futures_util::stream::iter([Ok(archive)])))
//!     }
//! }
//! # let files = BTreeMap::from([("Dockerfile".to_owned(), FileContent::default())]);
//! # let store = Memory(BTreeMap::from([("web".to_owned(), files)]));
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! #     let code = store.digest("web").await?;
//! #     store.archive(&code).await.map(drop)
//! # }).unwrap();
//! ```
//!
//! # Modules
//!
//! Each module uses only modules in the rows below its own.
//!
//! | module | contents |
//! |---|---|
//! | [`bootstrap`] | brings a platform up, previews changes, deletes a platform |
//! | [`sim`] | a simulated world: cloud, engines and manager, with faults and crashes |
//! | [`conformance`] | the test suites that every implementation of a trait must pass |
//! | [`mock`] | mocks of the traits |
//! | [`agent`] | makes service addresses work on a node |
//! | [`api`] | wire types and client of the manager's API |
//! | [`manager`] | answers requests, and leads while it holds the lease |
//! | [`reconcile`] | the control loop: observe, plan, execute, record |
//! | [`registry`] | the manager's database: its trait, in memory, SQLite, PostgreSQL |
//! | [`platform`] | what the user declares, read from Compose files and `platform.toml` |
//! | [`cloud`], [`host`], [`runtime`], [`code`] | the traits for VMs, a VM's operating system, its container engine, and code stores |
//! | [`network`] | service addresses, and the tables that agents receive |
//! | [`model`] | nodes, services, instances, endpoints, operations, events |
//! | [`error`], [`secret`], [`clock`], [`stream`], [`metrics`] | errors, values that are never shown, time and new ids, streams of bytes, what is counted and measured |
//!
//! # Features
//!
//! No Cargo feature is enabled by default. The types, the traits, the planner and the reader of
//! Compose files are always available.
//!
//! | feature | adds |
//! |---|---|
//! | `api` | [`api`] and [`bootstrap`] |
//! | `sql` | the registries on SQLite and PostgreSQL |
//! | `sim` | [`sim`] |
//! | `agent` | [`agent`] |
//! | `metrics` | the text format of [`metrics`], which Prometheus reads |
//! | `schema` | JSON Schemas of the output that other programs read |
//! | `conformance` | [`conformance`] |
//! | `mock` | [`mock`] |
//!
//! # Dropped futures
//!
//! - [`Bootstrapper::up`](bootstrap::Bootstrapper::up) and [`down`](bootstrap::Bootstrapper::down)
//!   can be dropped at any point. The changes made so far remain, and the next call continues.
//! - [`Manager::run`](manager::Manager::run) stops leading when its future is dropped.
//!   [`Manager::resign`](manager::Manager::resign) then releases the lease, so that another manager
//!   need not wait until the lease expires.
//! - The other calls that change something are
//!   [`Registry::commit`](registry::Registry::commit),
//!   [`CloudProvider::begin`](cloud::CloudProvider::begin) and methods of
//!   [`ManagerApi`](api::ManagerApi). If such a call is dropped, the change may or may not have
//!   taken effect. The call can be repeated safely.
//! - Calls that only read can be dropped at any point.
//!
//! # Stability
//!
//! The library has not been released yet, so any item may change with any version of the workspace.
//! Changes to the HTTP API and to the `--json` output are listed in `CHANGELOG.md`. The minimum
//! supported Rust version is 1.95.

#[cfg(feature = "agent")]
pub mod agent;
#[cfg(feature = "api")]
pub mod api;
#[cfg(feature = "api")]
pub mod bootstrap;
pub mod clock;
pub mod cloud;
pub mod code;
#[cfg(feature = "conformance")]
pub mod conformance;
mod epoch;
pub mod error;
pub mod host;
pub mod manager;
pub mod metrics;
#[cfg(feature = "mock")]
pub mod mock;
pub mod model;
pub mod network;
pub mod platform;
pub mod reconcile;
pub mod registry;
pub mod runtime;
pub mod secret;
#[cfg(feature = "sim")]
pub mod sim;
mod similar;
pub mod stream;

pub use error::{BuildPlace, Error, Result, Retry};
