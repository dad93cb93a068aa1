//! The library within another program: brings a platform up in a simulated world, and says
//! where its services are reached. With the backends of `lifecycle-docker` in place of the
//! world's, the same lines bring up a real one.
//!
//! `cargo run -p examples --example embed`

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lifecycle_core::clock::{IdSource, RandomIds};
use lifecycle_core::model::{Generation, PlatformId};
use lifecycle_core::platform::{find, load};
use lifecycle_core::reconcile::{Declared, Driver, DriverOptions, Target};
use lifecycle_core::registry::{MemoryRegistry, Registry};
use lifecycle_core::runtime::Owner;
use lifecycle_core::secret::PlatformKey;
use lifecycle_core::sim::SimWorld;
use tokio::sync::watch;

// The world's time is tokio's: paused, it jumps to whatever happens next.
#[tokio::main(flavor = "current_thread", start_paused = true)]
#[expect(
    clippy::print_stdout,
    reason = "what an example finds is for the reader"
)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let world = SimWorld::new(7);
    world.publish_image("postgres:17");
    world.publish_image("nginx:1");
    let files = find(
        Path::new(env!("CARGO_MANIFEST_DIR")),
        &["embed.yaml".into()],
    )?;
    let id = PlatformId::new(RandomIds.uuid());
    let declaration = load(&files, id, &world.code()).await?.declaration;
    let name = declaration.name.clone();

    let registry: Arc<dyn Registry> = Arc::new(MemoryRegistry::new(Arc::new(world.clock())));
    let backends = world.backends(&Owner { id, name }, Arc::clone(&registry));
    let declared = Declared::new(Generation(1), &declaration, &PlatformKey::generate())?;
    let target = Target::without_api(declared);
    let (_target, aim) = watch::channel(Some(target));
    let lease = registry.acquire_lease("embed", Duration::from_secs(15));
    let (epoch, known) = (lease.await?.epoch()?, registry.snapshot().await?);
    let driver = Driver::new(backends, DriverOptions::default(), epoch, known, aim);

    let mut status = driver.status();
    tokio::select! {
        error = driver.run() => return Err(error.into()),
        settled = status.wait_for(|status| status.settled) => drop(settled?),
    }
    for (_, instance) in registry.snapshot().await?.instances {
        println!("{}: {:?}", instance.value.id, instance.value.endpoints);
    }
    Ok(())
}
