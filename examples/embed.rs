//! Embeds the library in another program: starts a platform in a simulation. `embed_real.rs` starts
//! a platform on real nodes.
#![expect(clippy::print_stdout, reason = "an example prints its results")]

use lifecycle_core::bootstrap::UpOptions;
use lifecycle_core::clock::{IdSource as _, RandomIds};
use lifecycle_core::model::PlatformId;
use lifecycle_core::platform::{find, load};
use lifecycle_core::sim::SimWorld;

// The simulation uses tokio's clock. The clock starts paused, so tokio advances it straight to the
// next timer whenever nothing else can run.
#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> lifecycle_core::Result<()> {
    let files = find(env!("CARGO_MANIFEST_DIR").as_ref(), &["embed.yaml".into()])?;
    let (world, id) = (SimWorld::new(7), PlatformId::new(RandomIds.uuid()));
    let loaded = load(&files, id, &world.code()).await?;
    let bootstrapper = world.bootstrapper(&loaded.declaration)?;
    let options = UpOptions {
        chunks: loaded.chunks,
        ..UpOptions::default()
    };
    let outcome = bootstrapper.up(&loaded.declaration, options).await?;
    for instance in outcome.services.iter().flat_map(|s| &s.instances) {
        println!(
            "{} is {}: {:?}",
            instance.id, instance.state, instance.endpoints
        );
    }
    Ok(())
}
