//! The requests that a node takes, by what they are for.

use http::Method;
use lifecycle_azure::simulator::{AzureSimulator, Outcome, Selector, When};

const GET: Method = Method::GET;
const PUT: Method = Method::PUT;
const POST: Method = Method::POST;

/// A kind of request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) method: Method,
    /// What its path has in it, and ends with.
    part: &'static str,
    end: &'static str,
    /// The first such request, or a later one.
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

/// The login.
pub(crate) const TOKEN: Step = step("login", POST, "/oauth2/v2.0/token", "");
/// Whether the VM is there, and afterwards how far it is.
pub(crate) const VM: Step = step("look for the VM", GET, "/resourcegroups/", VM_PATH);
pub(crate) const VMS: Step = step("list VMs", GET, "/providers/", "/virtualmachines");
pub(crate) const GROUP: Step = step("look for the group", GET, "", GROUP_PATH);
pub(crate) const MAKE_GROUP: Step = step("make the group", PUT, "", GROUP_PATH);
pub(crate) const RULES: Step = step("look for the security group", GET, "", RULES_PATH);
pub(crate) const MAKE_RULES: Step = step("make the security group", PUT, "", RULES_PATH);
pub(crate) const POLL_RULES: Step = later(step(
    "ask how far the security group is",
    GET,
    "",
    RULES_PATH,
));
pub(crate) const NETWORK: Step = step("look for the network", GET, "", NETWORK_PATH);
pub(crate) const MAKE_NETWORK: Step = step("make the network", PUT, "", NETWORK_PATH);
pub(crate) const POLL_NETWORK: Step =
    later(step("ask how far the network is", GET, "", NETWORK_PATH));
pub(crate) const MAKE_VM: Step = step("make the VM", PUT, "", VM_PATH);
pub(crate) const POLL_VM: Step = later(step(
    "ask how far the VM is",
    GET,
    "/resourcegroups/",
    VM_PATH,
));
pub(crate) const NIC: Step = step("read the interface", GET, "/networkinterfaces/", "");
pub(crate) const FIX_NIC: Step = step(
    "fix the interface's address",
    PUT,
    "/networkinterfaces/",
    "",
);
pub(crate) const POLL_NIC: Step = later(step(
    "ask how far the interface is",
    GET,
    "/networkinterfaces/",
    "",
));

const VM_PATH: &str = "/virtualmachines/one";
const GROUP_PATH: &str = "/resourcegroups/demo-010000";
const RULES_PATH: &str = "/networksecuritygroups/demo-010000-nsg";
const NETWORK_PATH: &str = "/virtualnetworks/demo-010000-vnet";

/// All kinds of requests to Resource Manager that provisioning node `one` takes.
pub(crate) const PROVISION: [Step; 11] = [
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
];

impl Step {
    pub(crate) fn selector(&self) -> Selector {
        Selector::method(self.method.clone())
            .path(self.part)
            .path_end(self.end)
    }

    /// When a fault strikes this step.
    pub(crate) fn when(&self) -> When {
        When::next(self.selector()).nth(self.nth)
    }
}

/// Waits until a request has ended without an answer.
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
