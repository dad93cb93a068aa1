//! Creates bootstrappers whose cloud, nodes, engines and manager are simulated.

use std::sync::Arc;

use super::managers::{SimManagerImage, SimManagers};
use super::world::SimWorld;
use crate::bootstrap::{Bootstrapper, MemoryState, PlatformSecrets};
use crate::clock::{Clock, SeededIds};
use crate::error::Result;
use crate::host::SshKeyPair;
use crate::model::ImageSource;
use crate::platform::Declaration;
use crate::reconcile::{Backends, DriverOptions};
use crate::registry::MemoryRegistry;
use crate::runtime::Owner;
use crate::secret::{PlatformKey, Sensitive};

/// A fixed platform key: the same declaration always leads to the same names.
const KEY: &str = "0000000000000000000000000000000000000000000000000000000000000000";

impl SimWorld {
    /// Creates a bootstrapper for a new platform in this world. Every image in the declaration can
    /// be pulled. The caller may replace parts of the bootstrapper, such as the reporter or the
    /// code store.
    pub fn bootstrapper(&self, declaration: &Declaration) -> Result<Bootstrapper> {
        for service in declaration.services.values() {
            match &service.source {
                ImageSource::Image(name) => self.publish_image(name),
                ImageSource::Build(source) => {
                    source
                        .bases
                        .iter()
                        .for_each(|base| self.publish_image(base));
                }
            }
        }
        let owner = Owner {
            id: declaration.id,
            name: declaration.name.clone(),
        };
        let clock: Arc<dyn Clock> = Arc::new(self.clock());
        // Simulated hosts accept every login.
        let ssh = SshKeyPair {
            private: Sensitive::new("private"),
            public: "ssh-ed25519 public".into(),
        };
        let mut secrets = PlatformSecrets::generate(declaration.id, ssh, clock.now())?;
        secrets.key = PlatformKey::from_hex(KEY)?;
        let managers = SimManagers::new(self.clone(), DriverOptions::default());
        let backends = Backends {
            registry: Arc::new(MemoryRegistry::new(Arc::clone(&clock))),
            cloud: Arc::new(self.cloud(&owner)),
            connector: Arc::new(self.connector(&owner)),
            preparer: Arc::new(self.preparer()),
            probe: Arc::new(self.probe()),
            code: Arc::new(self.code()),
            clock,
            ids: Arc::new(SeededIds::new(self.incarnation())),
            own_image: None,
        };
        let state = MemoryState::default();
        let builder = Bootstrapper::builder(backends, state, secrets, SimManagerImage);
        let builder = builder.databases(managers.databases());
        Ok(builder.reach(managers).build())
    }
}
