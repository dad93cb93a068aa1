//! `starting-order DIR` reads the Compose file in a directory and prints the services in start
//! order, each with its dependencies. Needs none of the Cargo features of
//! `lifecycle-core`.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use lifecycle_core::clock::{IdSource as _, RandomIds};
use lifecycle_core::code::DirectoryStore;
use lifecycle_core::model::{Generation, PlatformId};
use lifecycle_core::platform::{find, load};
use lifecycle_core::reconcile::Declared;
use lifecycle_core::secret::PlatformKey;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1) else {
        eprintln!("usage: starting-order DIR");
        return ExitCode::from(2);
    };
    match starting_order(directory.into()).await {
        Ok(lines) => {
            println!("{}", lines.join("\n"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn starting_order(directory: PathBuf) -> Result<Vec<String>, Box<dyn Error>> {
    let sources = find(&directory, &[])?;
    let code = DirectoryStore::new(directory);
    let id = PlatformId::new(RandomIds.uuid());
    let declaration = load(&sources, id, &code).await?.declaration;
    let declared = Declared::new(Generation(1), &declaration, &PlatformKey::generate())?;
    let mut services: Vec<_> = declared.services.values().collect();
    services.sort_by_key(|service| (service.rank, &service.spec.name));
    let lines = services.into_iter().map(|service| {
        let waits_for: Vec<&str> = service
            .spec
            .depends_on
            .keys()
            .map(|name| name.as_str())
            .collect();
        match waits_for.as_slice() {
            [] => service.spec.name.to_string(),
            names => format!("{} (after {})", service.spec.name, names.join(", ")),
        }
    });
    Ok(lines.collect())
}
