//! Embeds the library in another program: starts the platform in `examples/hello` on a local node
//! (a Docker container), calls its service, and deletes the platform. First build the manager,
//! which runs on the node: `cargo build -p lifecycle-manager`.
#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::path::PathBuf;
use std::sync::Arc;

use lifecycle_core::bootstrap::{
    Bootstrapper, MemoryState, PlatformSecrets, Progress, Reporter, StaticBinary, UpOptions,
};
use lifecycle_core::clock::{Clock, IdSource as _, RandomIds, SystemClock};
use lifecycle_core::code::DirectoryStore;
use lifecycle_core::model::PlatformId;
use lifecycle_core::platform::{Declaration, find, load};
use lifecycle_core::reconcile::Backends;
use lifecycle_core::registry::MemoryRegistry;
use lifecycle_core::runtime::Owner;
use lifecycle_core::{Error, Result};
use lifecycle_docker::{
    AddressChoice, DebianPreparer, DockerEngine, LocalNodes, SocketReadiness, SshConnector,
    SshCredential, generate_ssh_key,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// The socket of the Docker engine on this machine.
const SOCKET: &str = "/var/run/docker.sock";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("hello");
    let files = find(&directory, &["compose.yaml".into()])?;
    let code = DirectoryStore::new(directory);
    let id = PlatformId::new(RandomIds.uuid());
    let declaration = load(&files, id, &code).await?.declaration;
    let bootstrapper = bootstrapper(&declaration, code)?;
    let called = tokio::select! {
        called = start_and_call(&bootstrapper, &declaration) => called,
        _ = tokio::signal::ctrl_c() => Err(Error::failed("this run", "it was interrupted")),
    };
    // Delete the platform even after a failure, so that the example leaves nothing behind.
    let deleted = bootstrapper.down(id, true).await;
    println!("{}", called?);
    deleted
}

/// Creates a bootstrapper whose nodes are containers of the local Docker engine.
fn bootstrapper(declaration: &Declaration, code: DirectoryStore) -> Result<Bootstrapper> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let owner = Owner {
        id: declaration.id,
        name: declaration.name.clone(),
    };
    let secrets = PlatformSecrets::generate(owner.id, generate_ssh_key()?, clock.now())?;
    let cloud = LocalNodes::for_bootstrapper(
        None,
        owner.clone(),
        &secrets.ssh.public,
        SOCKET.into(),
        declaration.manager.node.clone(),
    )?;
    let credential = SshCredential::PrivateKey(secrets.ssh.private.clone());
    let addresses = AddressChoice::PublicThenPrivate;
    let backends = Backends {
        registry: Arc::new(MemoryRegistry::new(Arc::clone(&clock))),
        cloud: Arc::new(cloud),
        connector: Arc::new(SshConnector::new(credential, owner.clone(), addresses)),
        preparer: Arc::new(DebianPreparer),
        probe: Arc::new(SocketReadiness),
        code: Arc::new(code),
        clock,
        ids: Arc::new(RandomIds),
        own_image: None,
    };
    // This example keeps the platform's secrets only in memory. To use a platform after a restart,
    // a program must store the secrets before `up`, in a `StateDirectory` or with its own
    // `OperatorState`.
    let state = MemoryState::default();
    let manager = StaticBinary::new(manager_program()?);
    let engine = DockerEngine::local(SOCKET, owner)?;
    let builder = Bootstrapper::builder(backends, state, secrets, manager)
        .operator_engine(Some(Arc::new(engine)))
        .reporter(Arc::new(Lines));
    Ok(builder.build())
}

/// Starts the platform and calls its service. Returns the response.
async fn start_and_call(bootstrapper: &Bootstrapper, declaration: &Declaration) -> Result<String> {
    let options = UpOptions::default();
    let outcome = bootstrapper.up(declaration, options).await?;
    if let Some(failure) = outcome.failures.into_iter().next() {
        return Err(Error::failed(failure.instance, failure.why));
    }
    let manager = bootstrapper.client(declaration.id).await?;
    let services = manager.services().await?;
    let hello = services.iter().find(|s| s.name.as_str() == "hello");
    let instances = hello.into_iter().flat_map(|service| &service.instances);
    let endpoint = instances.flat_map(|instance| &instance.endpoints).next();
    let endpoint = endpoint.ok_or_else(|| Error::not_found("an endpoint of service hello"))?;
    println!("hello is at {}:{}", endpoint.ip, endpoint.port);
    let call = async {
        let mut connection = TcpStream::connect((endpoint.ip, endpoint.port)).await?;
        connection.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut response = String::new();
        connection.read_to_string(&mut response).await?;
        Ok(response)
    };
    call.await
        .map_err(|error| Error::io("calling service hello", error))
}

/// Returns the path of the manager's program. Cargo builds it in the parent of the directory that
/// contains this example's program.
fn manager_program() -> Result<PathBuf> {
    let own = std::env::current_exe()
        .map_err(|error| Error::io("finding this program's own path", error))?;
    let directory = own.ancestors().nth(2).unwrap_or(&own);
    Ok(directory.join("lifecycle-manager"))
}

/// Prints the progress of the bring-up, line by line.
#[derive(Debug)]
struct Lines;

impl Reporter for Lines {
    fn report(&self, progress: Progress) {
        match progress {
            Progress::Done { what, took, .. } => println!("{what}: {:.1} s", took.as_secs_f32()),
            Progress::Failed { what, why, .. } => println!("{what} failed: {why}"),
            Progress::Note { text } => println!("{text}"),
            _ => {}
        }
    }
}
