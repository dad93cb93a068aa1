//! The arguments of the command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lifecycle_core::api::tail::Since;
use lifecycle_core::model::{
    NodeName, PlatformName, RolloutRequest, ServiceClass, ServiceName, TokenName, TokenRole,
    TokenScope,
};

/// Starts and manages a whole platform of services on VMs with one command.
#[derive(Debug, Parser)]
#[command(name = "bootstrapper", version, about, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Directory that contains the Compose file and platform.toml
    #[arg(long, global = true, default_value = ".")]
    pub(crate) project_dir: PathBuf,

    /// Compose file, relative to the project directory; by default, the file that `docker compose`
    /// would use. If this option is repeated, the files are merged; later files override earlier
    /// files. Give this option before the command, as with `docker compose`
    #[arg(short, long = "file", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// Name of the platform; overrides the name in the files
    #[arg(short = 'p', long, global = true, value_name = "NAME")]
    pub(crate) project_name: Option<PlatformName>,

    /// Also start the services of this profile; overrides `COMPOSE_PROFILES`
    #[arg(long = "profile", global = true, value_name = "PROFILE")]
    pub(crate) profiles: Vec<String>,

    /// Send the credentials for Azure to this address (`https://HOST:PORT`) if platform.toml names
    /// it, although it does not belong to Azure's clouds. Can be repeated;
    /// `LIFECYCLE_TRUST_ADDRESSES` adds more addresses
    #[arg(long = "trust-address", global = true, value_name = "URL")]
    pub(crate) trust_addresses: Vec<String>,

    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// When to use colors
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Colors,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// When to use colors in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colors {
    /// On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is set
    Auto,
    Always,
    Never,
}

const EXIT_CODES: &str = "\
    Exit codes: 0 success; 1 the command failed, you did not confirm, or `doctor` found a problem; \
    2 invalid arguments or files, or missing secrets (nothing was changed); 130 interrupted (run the \
    same command again to continue). `exec` returns the exit code of the command that it runs, or \
    125 if that command could not be run.
    With --json, standard output contains only JSON; a failure is a single line \
    {\"error\": {\"kind\", \"message\", \"hint\", …}}.";

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write an initial platform.toml for the Compose file in this directory
    Init(Init),
    /// Show what `up` would do, and why; changes nothing
    Plan(Plan),
    /// Start the platform, or update it to match the files
    Up(Up),
    /// Upload code bases to the code store that platform.toml declares; files that the store
    /// already has are not sent again
    Publish(Publish),
    /// Show the state of nodes and services
    #[command(visible_alias = "ps")]
    Status(Status),
    /// Explain the state of a service, a replica or a node
    Why(Why),
    /// Show the combined output of services
    Logs(Logs),
    /// Show past events; with --follow, also new events
    Events(Events),
    /// Run a command in a container of a service, and exit with the command's exit code
    Exec(Exec),
    /// Restart the containers of a service, or of one replica
    Restart(Restart),
    /// Change the number of replicas of services; the change stays until the number in the files
    /// changes
    Scale(Scale),
    /// Stop services: their containers are removed until the services are started; volumes are kept
    Stop(Services),
    /// Start stopped services
    Start(Services),
    /// List the changes that were requested at run time, and remove them
    Override(Override),
    /// Write the changes that were requested at run time into the Compose files and platform.toml
    Export(Export),
    /// List the stored revisions of what is declared: when, by whom and how it was changed
    History,
    /// Return to the services of an earlier revision; nodes stay as they are
    Rollback(Rollback),
    /// List microservices; add, replace and remove them without the files
    Service(Class),
    /// List applications; add, replace and remove them without the files
    App(Class),
    /// List AI models; add, replace and remove them without the files
    Model(Class),
    /// List, add, prepare, cordon, drain, restart and remove nodes
    Node(Node),
    /// Pause, resume or roll back the rollout of a service
    Rollout(Rollout),
    /// List restarts, preparations, rollouts and the deletion of the platform; wait for the end of one
    /// of them
    Operation(Operation),
    /// Retry failed operations now, without waiting; use this after you have fixed the cause
    Retry(Retry),
    /// Create, list and revoke tokens of the manager's API
    Token(Token),
    /// Replace the platform's tokens, its authority or its SSH key, without a restart of services
    Rotate(Rotate),
    /// Stop the platform and remove it
    Down(Down),
    /// Check this machine, the files, each node, and the manager; report problems and how to fix
    /// them
    Doctor,
    /// Run a simulated Azure on this machine, to try a platform for Azure without an Azure account
    AzureSimulator(AzureSimulator),
    /// Print the JSON Schema of platform.toml (for editors), or of a command's --json output
    Schema(Schema),
    /// Print shell completions; to use them, run `source <(bootstrapper completions bash)`
    Completions(Completions),
    /// Write the manual pages to a directory
    Man(Man),
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Number of nodes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=50))]
    pub(crate) nodes: Option<u16>,

    /// Do not ask questions; use the default for each value that is not given
    #[arg(short, long)]
    pub(crate) yes: bool,

    /// Overwrite an existing platform.toml
    #[arg(long)]
    pub(crate) force: bool,
}

/// Arguments of `schema`.
#[derive(Debug, Args)]
pub(crate) struct Schema {
    /// Command whose --json output the schema describes, or `failure` for the output of a failed
    /// command; by default, the schema describes platform.toml
    pub(crate) command: Option<Described>,
}

/// The commands whose output has a schema, and `failure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Described {
    Init,
    Plan,
    Up,
    Publish,
    #[value(alias = "ps")]
    Status,
    Why,
    Logs,
    Events,
    Exec,
    Restart,
    Scale,
    Stop,
    Start,
    Override,
    Export,
    History,
    Rollback,
    Service,
    App,
    Model,
    Node,
    Rollout,
    Operation,
    Retry,
    Token,
    Rotate,
    Down,
    Doctor,
    AzureSimulator,
    Failure,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// Shell to print completions for
    pub(crate) shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Directory for the pages; created if it does not exist
    pub(crate) directory: PathBuf,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Plan as if nothing existed yet; needs neither Docker nor a cloud
    #[arg(long)]
    pub(crate) simulate: bool,
}

/// Arguments of `up`.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
pub(crate) struct Up {
    /// Create and prepare every declared node before the manager starts; has no effect if the platform
    /// already has nodes
    #[arg(long)]
    pub(crate) all_nodes: bool,

    /// Start the platform in a simulation; needs neither Docker nor a cloud, and stores nothing
    #[arg(long)]
    pub(crate) simulate: bool,

    /// Continue even if the Compose files contain unsupported keys that affect how services behave;
    /// these keys are ignored
    #[arg(long)]
    pub(crate) accept_unsupported: bool,

    /// First publish the code bases on this machine that differ from the code store; see `publish`
    #[arg(long)]
    pub(crate) publish: bool,

    /// Do not ask questions: delete nodes that are no longer declared, and do not publish code
    /// bases that differ from the code store (to publish them, add `--publish`)
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// Arguments of `publish`.
#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// Code bases, each given by its name or its directory in the project; by default, all code
    /// bases of the Compose file that are on this machine
    #[arg(value_name = "NAME|DIR")]
    pub(crate) names: Vec<String>,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Show all columns, however wide the table becomes
    #[arg(short, long)]
    pub(crate) wide: bool,
}

/// Arguments of `why`.
#[derive(Debug, Args)]
pub(crate) struct Why {
    /// Service, replica (`web-2`) or node; use `node:NAME` for a node if a service has the same
    /// name
    pub(crate) name: String,

    /// Write the manager's latest plan and its inputs to FILE as JSON. The file contains no secrets
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
}

/// Arguments of `exec`.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Service, or one of its replicas (`web-2`)
    pub(crate) name: String,

    /// Number of the replica; by default, any replica that is ready
    #[arg(long, value_name = "N")]
    pub(crate) index: Option<u16>,

    /// User to run the command as
    #[arg(short, long)]
    pub(crate) user: Option<String>,

    /// Working directory of the command
    #[arg(short = 'C', long, value_name = "DIRECTORY")]
    pub(crate) workdir: Option<String>,

    /// Do not allocate a terminal for the command, even if the bootstrapper runs in a terminal
    #[arg(short = 'T', long)]
    pub(crate) no_tty: bool,

    /// Command to run, with its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

/// Arguments of `restart`.
#[derive(Debug, Args)]
pub(crate) struct Restart {
    /// Services or replicas (`web-2`); they are restarted one by one
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
}

/// Arguments of `scale`.
#[derive(Debug, Args)]
pub(crate) struct Scale {
    /// Services with their number of replicas
    #[arg(required = true, value_name = "SERVICE=REPLICAS", value_parser = replicas)]
    pub(crate) services: Vec<(ServiceName, u16)>,
}

fn replicas(text: &str) -> Result<(ServiceName, u16), String> {
    let expected = || format!("`{text}` is not of the form `web=3`");
    let (service, replicas) = text.split_once('=').ok_or_else(expected)?;
    let service = ServiceName::try_from(service).map_err(|error| error.to_string())?;
    let replicas: u64 = replicas.parse().map_err(|_| expected())?;
    let replicas = u16::try_from(replicas).map_err(|_| format!("`{text}`: too many replicas"))?;
    Ok((service, replicas))
}

/// Arguments of `stop` and `start`.
#[derive(Debug, Args)]
pub(crate) struct Services {
    /// Services
    #[arg(required = true)]
    pub(crate) services: Vec<ServiceName>,
}

/// Arguments of `service`, `app` and `model`.
#[derive(Debug, Args)]
pub(crate) struct Class {
    #[command(subcommand)]
    pub(crate) action: ClassAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClassAction {
    /// List the services of this class
    List,
    /// Add a service, or replace one that was added; `up` keeps it although the files do not declare
    /// it
    Apply {
        /// Name of the service
        name: ServiceName,
        /// File with the keys of the service as in a Compose file, in YAML or JSON; `-` for standard
        /// input
        file: PathBuf,
        /// Show what would be done, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove a service that was added; its named volumes are kept
    Remove {
        /// Name of the service
        name: ServiceName,
    },
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Write the changed files to this directory, and leave the project's files as they are
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,

    /// Show what would be written, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Arguments of `rollback`.
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// Number of the revision, as `history` shows it; by default, the previous one
    pub(crate) revision: Option<u64>,

    /// Also restore the earlier values that may be secrets: Compose secrets, and variables whose
    /// values are not in the Compose files
    #[arg(long)]
    pub(crate) with_secrets: bool,

    /// Show what would be done, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// Arguments of `operation`.
#[derive(Debug, Args)]
pub(crate) struct Operation {
    #[command(subcommand)]
    pub(crate) action: OperationAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OperationAction {
    /// List the latest operations
    List,
    /// Wait until an operation ends; fails if the operation has failed or was cancelled
    Watch {
        /// Id of the operation, as `operation list` shows it
        id: uuid::Uuid,
    },
    /// Cancel a restart or a preparation; what has begun is completed
    Cancel {
        /// Id of the operation, as `operation list` shows it
        id: uuid::Uuid,
    },
}

/// Arguments of `override`.
#[derive(Debug, Args)]
pub(crate) struct Override {
    #[command(subcommand)]
    pub(crate) action: OverrideAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OverrideAction {
    /// List the overrides in force
    List,
    /// Remove overrides, so that the values in the files apply again
    Remove {
        /// Overrides, as `override list` shows them
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
}

/// Arguments of `node cordon`, `node drain`, `node uncordon`, `node stop` and `node start`.
#[derive(Debug, Args)]
pub(crate) struct Nodes {
    /// Nodes
    #[arg(required = true, value_name = "NODE")]
    pub(crate) names: Vec<String>,
}

/// Arguments of `node`.
#[derive(Debug, Args)]
pub(crate) struct Node {
    #[command(subcommand)]
    pub(crate) action: NodeAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeAction {
    /// List the nodes
    List,
    /// Add a node and prepare it; `up` keeps it although the files do not declare it
    Add {
        /// Name of the new node
        name: NodeName,
        /// Node whose size, image, labels and capacity the new node gets; by default, it gets the
        /// provider's defaults
        #[arg(long, value_name = "NODE")]
        like: Option<String>,
    },
    /// Take over a machine that exists already, and prepare it; `up` keeps this node although the files do
    /// not declare it
    Adopt(Box<Adopt>),
    /// Remove a node that was added with `add` or `adopt`; its replicas move to other nodes first
    Remove {
        /// Node
        name: String,
        /// Permit the deletion of named volumes on the node
        #[arg(long)]
        volumes: bool,
        /// Do not ask for confirmation
        #[arg(short, long)]
        yes: bool,
    },
    /// Place no new replicas on nodes; their replicas stay
    Cordon(Nodes),
    /// Move the replicas of nodes to other nodes, and place none on them; replicas with named volumes,
    /// and those that fit on no other node, stay
    Drain(Nodes),
    /// Place replicas on nodes again
    Uncordon(Nodes),
    /// Move the replicas of nodes to other nodes, then stop the nodes; replicas with named volumes, and
    /// those that fit on no other node, stop with them
    Stop(Nodes),
    /// Start nodes that were stopped with `stop`, and the replicas that stopped with them
    Start(Nodes),
    /// Stop the containers on nodes, restart the nodes, and wait until their services are ready again;
    /// nodes that count as unreachable are restarted immediately
    Restart {
        /// Nodes; they are restarted one by one
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Prepare nodes for Docker again: install what is missing and start what does not run, without
    /// waiting until the platform tries this by itself
    Prepare {
        /// Nodes; they are prepared one by one
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Arguments of `node adopt`.
#[derive(Debug, Args)]
pub(crate) struct Adopt {
    /// Name of the new node
    pub(crate) name: NodeName,
    /// IP address or host name of the machine
    #[arg(long)]
    pub(crate) address: String,
    /// Address at which the manager and the other nodes reach the machine; by default ADDRESS
    #[arg(long, value_name = "IP")]
    pub(crate) private_address: Option<IpAddr>,
    /// Port of the SSH server [default: 22]
    #[arg(long)]
    pub(crate) port: Option<u16>,
    /// Account for the first login: root, or an account that may use sudo
    #[arg(long)]
    pub(crate) user: String,
    /// Environment variable with the account's password, for the login if there is no key, and for sudo
    #[arg(long, value_name = "VARIABLE")]
    pub(crate) password_env: Option<String>,
    /// File with a private key in OpenSSH format, without a passphrase
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Public host key of the machine in OpenSSH format; by default, the key that the machine offers is
    /// trusted and shown
    #[arg(long, value_name = "KEY")]
    pub(crate) host_key: Option<String>,
    /// Label of the node. Can be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE".to_owned()),
    }
}

/// Arguments of `rollout`.
#[derive(Debug, Args)]
pub(crate) struct Rollout {
    #[command(subcommand)]
    action: RolloutAction,
}

#[derive(Debug, Subcommand)]
enum RolloutAction {
    /// Replace no further replicas of the service
    Pause(RolloutOf),
    /// Continue after a pause, or try again after a failure
    Resume(RolloutOf),
    /// Restore the replicas that were replaced
    Rollback(RolloutOf),
}

#[derive(Debug, Args)]
struct RolloutOf {
    /// Service that is being rolled out
    service: String,
}

impl Rollout {
    /// Returns the request and the service's name.
    pub(crate) fn request(&self) -> (RolloutRequest, &str) {
        let (request, of) = match &self.action {
            RolloutAction::Pause(of) => (RolloutRequest::Pause, of),
            RolloutAction::Resume(of) => (RolloutRequest::Resume, of),
            RolloutAction::Rollback(of) => (RolloutRequest::Rollback, of),
        };
        (request, &of.service)
    }
}

/// Arguments of `retry`.
#[derive(Debug, Args)]
pub(crate) struct Retry {
    /// Services, replicas (`web-2`) or nodes; use `node:NAME` for a node if a service has the same
    /// name
    #[arg(required = true)]
    pub(crate) names: Vec<String>,

    /// Allow empty volumes in place of those that vanished
    #[arg(long)]
    pub(crate) recreate_volume: bool,
}

/// Arguments of `token`.
#[derive(Debug, Args)]
pub(crate) struct Token {
    #[command(subcommand)]
    pub(crate) action: TokenAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenAction {
    /// Create a token and print it; it cannot be printed again
    Create(CreateToken),
    /// List the tokens, also those that ended in the last 30 days
    List,
    /// Revoke a token; requests with it are rejected from then on
    Revoke {
        /// Name or id of the token
        #[arg(value_name = "NAME|ID")]
        name: String,
    },
}

/// Arguments of `rotate`.
#[derive(Debug, Args)]
pub(crate) struct Rotate {
    /// The credential to replace
    pub(crate) credential: RotateTarget,
}

/// The credentials that `rotate` replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RotateTarget {
    /// The first token of the platform's operator, and the token of each service
    Tokens,
    /// The authority that signs the certificate of the manager's API
    Authority,
    /// The key for logins to the nodes, all of which must be running
    SshKey,
    /// All of these
    All,
}

/// Arguments of `token create`.
#[derive(Debug, Args)]
pub(crate) struct CreateToken {
    /// Name of the token, which no other valid token may have
    pub(crate) name: TokenName,

    /// Role of the token, which determines the permitted requests
    #[arg(long)]
    pub(crate) role: RoleArgument,

    /// Limit the token to the services of this class; may be repeated, and combined with `--service`
    #[arg(long, value_name = "CLASS")]
    pub(crate) class: Vec<ClassArgument>,

    /// Limit the token to this service; may be repeated, and combined with `--class`
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Vec<ServiceName>,

    /// When the token expires, as a duration from now (`12h`, `30d`); by default, it does not expire
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(crate) expires_in: Option<Duration>,
}

/// The roles of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArgument {
    /// Read the state, the events and the output of services
    Viewer,
    /// Also restart services and nodes, retry failed operations, and control rollouts
    Operator,
    /// Everything, including declarations, commands in containers, and tokens
    Admin,
}

impl From<RoleArgument> for TokenRole {
    fn from(role: RoleArgument) -> Self {
        match role {
            RoleArgument::Viewer => Self::Viewer,
            RoleArgument::Operator => Self::Operator,
            RoleArgument::Admin => Self::Admin,
        }
    }
}

impl CreateToken {
    /// Returns the services that the token is limited to.
    pub(crate) fn scope(&self) -> Option<TokenScope> {
        let classes = self.class.iter().copied().map(ServiceClass::from);
        let scope = TokenScope::new(classes, self.service.iter().cloned());
        (!scope.is_empty()).then_some(scope)
    }
}

/// The classes of services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClassArgument {
    Microservice,
    Application,
    Model,
}

impl From<ClassArgument> for ServiceClass {
    fn from(class: ClassArgument) -> Self {
        match class {
            ClassArgument::Microservice => Self::Microservice,
            ClassArgument::Application => Self::Application,
            ClassArgument::Model => Self::Model,
        }
    }
}

/// Arguments of `events`.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Show only events of these services, replicas, or nodes
    pub(crate) names: Vec<String>,

    /// Keep printing new events
    #[arg(short, long)]
    pub(crate) follow: bool,

    /// Show only events since this time: a duration before now (`10m`), or a time
    /// (`2026-01-02T03:04:05Z`)
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<Since>,

    /// Show only the last N events; by default 50, or all events with --since
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) tail: Option<u32>,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Services; by default, all services
    pub(crate) services: Vec<ServiceName>,

    /// Keep printing new lines
    #[arg(short, long)]
    pub(crate) follow: bool,

    /// Show only the last N lines of each instance
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) tail: Option<u32>,

    /// Show only lines since this time: a duration before now (`10m`), or a time
    /// (`2026-01-02T03:04:05Z`)
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<Since>,

    /// Show the time of each line
    #[arg(short, long)]
    pub(crate) timestamps: bool,
}

/// Arguments of `down`.
#[derive(Debug, Args)]
pub(crate) struct Down {
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(crate) yes: bool,

    /// Also remove the platform's named volumes from nodes that `down` does not delete
    #[arg(long)]
    pub(crate) volumes: bool,
}

/// Arguments of `azure-simulator`.
#[derive(Debug, Args)]
pub(crate) struct AzureSimulator {
    /// Address to listen on; by default, the address of this machine on Docker's default bridge,
    /// which the VMs can reach
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<IpAddr>,

    /// Additional name or address under which clients reach the simulator; it is added to the
    /// simulator's certificates. Required with `--listen 0.0.0.0` for clients on other machines
    #[arg(long = "name", value_name = "NAME")]
    pub(crate) names: Vec<String>,

    /// HTTPS port for all services except Azure Files; 0 selects a free port
    #[arg(long, value_name = "PORT", default_value_t = 10_443)]
    pub(crate) https: u16,

    /// HTTP port for all services except Azure Files; 0 selects a free port
    #[arg(long, value_name = "PORT", default_value_t = 10_080)]
    pub(crate) http: u16,

    /// HTTPS port for Azure Files; 0 selects a free port
    #[arg(long, value_name = "PORT", default_value_t = 10_444)]
    pub(crate) files_https: u16,

    /// HTTP port for Azure Files; 0 selects a free port
    #[arg(long, value_name = "PORT", default_value_t = 10_081)]
    pub(crate) files_http: u16,

    /// Directory for the CA certificate, the secrets, and the list of created machines; by default
    /// a directory in the user's configuration directory
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,

    /// Create no machines: a VM is only a record, and nothing responds at its address
    #[arg(long)]
    pub(crate) state_only: bool,

    /// For each request, append a line of JSON to FILE
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_means_file_before_the_command_and_follow_after_logs() {
        let line = [
            "bootstrapper",
            "-f",
            "a.yaml",
            "logs",
            "db",
            "-f",
            "-n",
            "3",
        ];
        let arguments = Arguments::try_parse_from(line).unwrap();
        assert_eq!(arguments.files, [PathBuf::from("a.yaml")]);
        let Command::Logs(logs) = arguments.command else {
            panic!("{arguments:?}");
        };
        assert!(logs.follow);
        assert_eq!(logs.tail, Some(3));
    }
}
