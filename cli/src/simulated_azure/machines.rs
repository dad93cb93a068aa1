//! Runs the VMs of a simulated Azure as local nodes, which boot like stock VMs.
//!
//! The nodes of a subnet share a Docker network. Files record the created machines, so that the
//! next simulator can remove the machines of a killed simulator.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lifecycle_azure::simulator::{HostClouds, HostPlacement, HostRequest, HostSubnet};
use lifecycle_core::clock::{IdSource as _, RandomIds};
use lifecycle_core::cloud::{CloudProvider, NodeChange, carry_out};
use lifecycle_core::model::{NodeName, NodeSpec, PlatformId, PlatformName};
use lifecycle_core::runtime::Owner;
use lifecycle_core::{Error, Result};
use lifecycle_docker::{Bridge, FirstBoot, LocalNodes, LocalNodesOptions, Subnet};

/// The platform name in the labels and names of containers, volumes, and networks.
const NAME: &str = "simulated-azure";

/// Time limit for removing one machine.
const REMOVAL: Duration = Duration::from_mins(5);

/// Creates machines on the local Docker engine.
#[derive(Debug)]
pub(crate) struct LocalMachines {
    socket: PathBuf,
    /// The directory that contains one file for each owner of created machines.
    directory: PathBuf,
    bridge: Bridge,
    /// The address of the metadata service, once it is known.
    metadata_service: OnceLock<SocketAddrV4>,
    assignments: Mutex<Assignments>,
}

#[derive(Debug, Default)]
struct Assignments {
    /// The owner of each subnet's machines, by subnet id.
    owners: BTreeMap<String, Owner>,
    /// The VM of each node, by owner and node name.
    machines: BTreeMap<(PlatformId, NodeName), String>,
}

impl LocalMachines {
    /// Connects to the engine at `socket`, which will run the machines. `directory` will contain
    /// the list of created machines.
    ///
    /// # Errors
    /// Fails if the engine does not respond, or the directory cannot be created.
    pub(crate) async fn new(socket: &Path, directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)
            .map_err(|error| Error::io(format!("creating {}", directory.display()), error))?;
        Ok(Self {
            socket: socket.to_owned(),
            directory: directory.to_owned(),
            bridge: Bridge::of(socket).await?,
            metadata_service: OnceLock::new(),
            assignments: Mutex::default(),
        })
    }

    /// Returns the address of this machine that all simulated machines can reach.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        self.bridge.gateway
    }

    /// Sets the address at which machines reach Azure's metadata service. Applies to machines that
    /// are created later.
    pub(crate) fn serve_metadata(&self, at: SocketAddrV4) {
        self.metadata_service.get_or_init(|| at);
    }

    /// Removes all recorded machines that still exist, and returns their number.
    ///
    /// # Errors
    /// Fails if the engine cannot remove a machine.
    pub(crate) async fn remove_leftovers(&self) -> Result<usize> {
        let reading = |error| Error::io(format!("reading {}", self.directory.display()), error);
        let mut removed = 0;
        for entry in std::fs::read_dir(&self.directory).map_err(reading)? {
            let entry = entry.map_err(reading)?;
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            removed += self.remove_of(owner(PlatformId::new(id))?).await?;
            let path = entry.path();
            std::fs::remove_file(&path)
                .map_err(|error| Error::io(format!("removing {}", path.display()), error))?;
        }
        Ok(removed)
    }

    async fn remove_of(&self, owner: Owner) -> Result<usize> {
        let nodes = self.nodes(owner, FirstBoot::new("nobody", "nobody"), None)?;
        let left = nodes.list().await?;
        for node in &left {
            let node = node.name.clone();
            carry_out(&nodes, NodeChange::Delete { node }, REMOVAL).await?;
        }
        nodes.delete_shared().await?;
        Ok(left.len())
    }

    fn nodes(
        &self,
        owner: Owner,
        first_boot: FirstBoot,
        subnet: Option<Subnet>,
    ) -> Result<LocalNodes> {
        let mut options = LocalNodesOptions::stock(owner, first_boot);
        options.socket.clone_from(&self.socket);
        options.subnet = subnet;
        LocalNodes::new(options)
    }

    fn assignments(&self) -> MutexGuard<'_, Assignments> {
        self.assignments
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the owner of the machines in a subnet. A new owner is recorded in the directory
    /// first.
    fn owner_of(&self, subnet: &HostSubnet) -> Result<Owner> {
        let mut assignments = self.assignments();
        if let Some(owner) = assignments.owners.get(&subnet.id) {
            return Ok(owner.clone());
        }
        let id = RandomIds.uuid();
        let note = self.directory.join(id.to_string());
        std::fs::write(&note, format!("{}\n", subnet.id))
            .map_err(|error| Error::io(format!("writing {}", note.display()), error))?;
        let owner = owner(PlatformId::new(id))?;
        assignments.owners.insert(subnet.id.clone(), owner.clone());
        Ok(owner)
    }

    /// Returns the node for a machine, named after its VM. Fails if another machine in the subnet
    /// has that name.
    fn node_of(&self, owner: &Owner, machine: &str) -> Result<NodeName> {
        let name = machine.rsplit('/').next().unwrap_or_default();
        let name = name.replace(['_', '.'], "-");
        let name = NodeName::try_from(name.as_str()).map_err(|error| {
            Error::invalid(
                format!("the VM {machine}"),
                format!("the VM's name is not valid for a local node: {error}"),
                "choose another name for the VM",
            )
        })?;
        let mut assignments = self.assignments();
        let taken = assignments
            .machines
            .entry((owner.id, name.clone()))
            .or_insert_with(|| machine.to_owned());
        if taken != machine {
            return Err(Error::conflict(
                format!("the VM {machine}"),
                format!("{taken} in the same subnet already uses this name for its local node"),
            ));
        }
        Ok(name)
    }
}

fn owner(id: PlatformId) -> Result<Owner> {
    let name = PlatformName::try_from(NAME)
        .map_err(|error| Error::failed("naming simulated machines", error.to_string()))?;
    Ok(Owner { id, name })
}

#[async_trait]
impl HostClouds for LocalMachines {
    fn placement(&self, request: &HostRequest) -> Result<HostPlacement> {
        let subnet = request.subnet.as_ref().ok_or_else(|| {
            Error::invalid(
                format!("the VM {}", request.vm),
                "the VM has no network interface",
                "give the VM a network interface in a subnet",
            )
        })?;
        let owner = self.owner_of(subnet)?;
        let node = self.node_of(&owner, &request.vm)?;
        let first_boot = FirstBoot {
            authorized_keys: request.ssh_keys.clone(),
            user_data: request.custom_data.clone(),
            address: request.private_address,
            inbound: request.inbound_ports.clone(),
            outside: vec![self.bridge.subnet],
            metadata_service: self.metadata_service.get().copied(),
            ..FirstBoot::new(&request.admin, &request.host_name)
        };
        let block = format!("{}/{}", subnet.address, subnet.prefix_length).parse()?;
        let nodes = self.nodes(owner, first_boot, Some(block))?;
        Ok(HostPlacement {
            cloud: std::sync::Arc::new(nodes),
            node: NodeSpec::new(node),
        })
    }

    /// Returns the address at which this host reaches a machine. This host is connected to every
    /// subnet, so it uses the machine's private address.
    fn public_address(&self, private: Ipv4Addr) -> Option<Ipv4Addr> {
        Some(private)
    }

    async fn set_inbound(&self, vm: &str, ports: &[RangeInclusive<u16>]) -> Result<()> {
        let found = self
            .assignments()
            .machines
            .iter()
            .find(|(_, machine)| *machine == vm)
            .map(|((id, node), _)| (*id, node.clone()));
        let (id, node) =
            found.ok_or_else(|| Error::not_found(format!("the machine of VM {vm}")))?;
        let nodes = self.nodes(owner(id)?, FirstBoot::new("nobody", "nobody"), None)?;
        nodes.set_inbound(&node, ports).await
    }
}
