//! Groups the requests of a node's lifecycle into steps, by purpose.

use http::Method;
use lifecycle_azure::simulator::{AzureSimulator, Outcome, Selector, When};

const GET: Method = Method::GET;
const PUT: Method = Method::PUT;
const POST: Method = Method::POST;
const PATCH: Method = Method::PATCH;

/// A step: the requests that serve one purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) method: Method,
    /// A part of the request's path.
    part: &'static str,
    end: &'static str,
    /// Selects the `nth` matching request, counted from 1.
    pub(crate) nth: usize,
}

const fn step(name: &'static str, method: Method, part: &'static str, end: &'static str) -> Step {
    Step {
        name,
        method,
        part,
        end,
        nth: 1,
    }
}

const fn later(mut step: Step) -> Step {
    step.nth = 2;
    step
}

pub(crate) const TOKEN: Step = step("login", POST, "/oauth2/v2.0/token", "");
/// Checks whether the VM exists. Later requests in this step poll the VM's state.
pub(crate) const VM: Step = step("look up the VM", GET, "/resourcegroups/", VM_PATH);
pub(crate) const VMS: Step = step("list VMs", GET, "/providers/", "/virtualmachines");
pub(crate) const GROUP: Step = step("look up the group", GET, "", GROUP_PATH);
pub(crate) const MAKE_GROUP: Step = step("create the group", PUT, "", GROUP_PATH);
pub(crate) const RULES: Step = step("look up the security group", GET, "", RULES_PATH);
pub(crate) const MAKE_RULES: Step = step("create the security group", PUT, "", RULES_PATH);
pub(crate) const POLL_RULES: Step = later(step("poll the security group", GET, "", RULES_PATH));
pub(crate) const NETWORK: Step = step("look up the network", GET, "", NETWORK_PATH);
pub(crate) const MAKE_NETWORK: Step = step("create the network", PUT, "", NETWORK_PATH);
pub(crate) const POLL_NETWORK: Step = later(step("poll the network", GET, "", NETWORK_PATH));
pub(crate) const MAKE_VM: Step = step("create the VM", PUT, "", VM_PATH);
pub(crate) const POLL_VM: Step = later(step("poll the VM", GET, "/resourcegroups/", VM_PATH));
pub(crate) const NIC: Step = step("read the interface", GET, "/networkinterfaces/", "");
pub(crate) const FIX_NIC: Step = step(
    "make the interface's address static",
    PUT,
    "/networkinterfaces/",
    "",
);
pub(crate) const POLL_NIC: Step = later(step("poll the interface", GET, "/networkinterfaces/", ""));

pub(crate) const PUBLIC: Step = step("read the public address", GET, "/publicipaddresses/", "");
pub(crate) const TAG_PUBLIC: Step =
    step("tag the public address", PATCH, "/publicipaddresses/", "");
pub(crate) const DISK: Step = step("read the disk", GET, "/disks/", "");
pub(crate) const START: Step = step("start the VM", POST, "", "/virtualmachines/one/start");
pub(crate) const POLL_START: Step = step("poll the start", GET, "/operations/", "");

const VM_PATH: &str = "/virtualmachines/one";
const GROUP_PATH: &str = "/resourcegroups/demo-010000";
const RULES_PATH: &str = "/networksecuritygroups/demo-010000-nsg";
const NETWORK_PATH: &str = "/virtualnetworks/demo-010000-vnet";

/// All steps that send requests to Resource Manager while node `one` is provisioned.
pub(crate) const PROVISION: [Step; 14] = [
    VM,
    VMS,
    GROUP,
    MAKE_GROUP,
    RULES,
    MAKE_RULES,
    NETWORK,
    MAKE_NETWORK,
    MAKE_VM,
    NIC,
    FIX_NIC,
    PUBLIC,
    TAG_PUBLIC,
    DISK,
];

impl Step {
    pub(crate) fn selector(&self) -> Selector {
        Selector::method(self.method.clone())
            .path(self.part)
            .path_end(self.end)
    }

    /// Returns a condition for a fault that affects this step.
    pub(crate) fn when(&self) -> When {
        When::next(self.selector()).nth(self.nth)
    }
}

/// Waits until a request has ended without a response.
pub(crate) async fn one_is_lost(azure: &AzureSimulator) {
    let mut count = 0;
    loop {
        let ended = azure.requests().ended(&Selector::any(), count).await;
        if ended.iter().any(|one| one.outcome == Outcome::Dropped) {
            return;
        }
        count = ended.len() + 1;
    }
}
