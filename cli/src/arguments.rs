//! What the command line takes.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lifecycle_core::api::tail::Since;
use lifecycle_core::model::{PlatformName, ServiceName};

/// Brings a whole platform of services up on VMs with one command.
#[derive(Debug, Parser)]
#[command(name = "bootstrapper", version, about, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// The directory that holds the Compose file and platform.toml
    #[arg(long, global = true, default_value = ".")]
    pub(crate) project_dir: PathBuf,

    /// A Compose file, relative to the project's directory; found as Compose finds it without.
    /// Several are merged, each over those before it. Stands before the command, as with
    /// `docker compose`
    #[arg(short, long = "file", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,

    /// The platform's name; wins over the files' own
    #[arg(short = 'p', long, global = true, value_name = "NAME")]
    pub(crate) project_name: Option<PlatformName>,

    /// Start services of this profile too; instead of those in `COMPOSE_PROFILES`
    #[arg(long = "profile", global = true, value_name = "PROFILE")]
    pub(crate) profiles: Vec<String>,

    /// Print JSON for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Whether to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: Colors,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// When output is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colors {
    /// On a terminal, unless `NO_COLOR` is set; anywhere with `CLICOLOR_FORCE`
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 something failed, or was not confirmed, or `doctor` found something wrong; 2 \
wrong arguments or files, or missing secrets, nothing was touched; 130 interrupted (the same \
command goes on). `exec` passes the command's own code on; 125 if it could not be run.
With --json, standard output is JSON only; a failure is one line {\"error\": {\"kind\", \"message\", \
\"hint\", …}} there.";

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a first platform.toml for the Compose file that is here
    Init(Init),
    /// Show what `up` would do, and why; changes nothing
    Plan(Plan),
    /// Bring the platform up, or to what the files declare now
    Up(Up),
    /// Upload code bases to the code store that platform.toml names; only what is not there is
    /// sent
    Publish(Publish),
    /// Show how nodes and services stand
    #[command(visible_alias = "ps")]
    Status(Status),
    /// Say why a service, a replica or a node stands as it does
    Why(Why),
    /// Show what services write, interleaved as it comes
    Logs(Logs),
    /// Show what has happened, and what happens
    Events(Events),
    /// Run a command in a container of a service; its exit code is passed on
    Exec(Exec),
    /// Start the containers of a service, or of one replica, anew
    Restart(Restart),
    /// Try again at once what failed, once its cause is repaired
    Retry(Retry),
    /// Take the platform down
    Down(Down),
    /// Look at this machine, the files, each node and the manager: what is wrong, what to do
    Doctor,
    /// Run a simulated Azure on this machine, to try a platform for Azure out without an account
    AzureSimulator(AzureSimulator),
    /// Print the JSON Schema of platform.toml, for editors; or of what a command writes with --json
    Schema(Schema),
    /// Print completions for a shell: `source <(bootstrapper completions bash)`
    Completions(Completions),
    /// Write the manual pages into a directory
    Man(Man),
}

/// What to write.
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// How many nodes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=50))]
    pub(crate) nodes: Option<u16>,

    /// Ask nothing: what is not said has its default
    #[arg(short, long)]
    pub(crate) yes: bool,

    /// Overwrite the file that is there
    #[arg(long)]
    pub(crate) force: bool,
}

/// Of what.
#[derive(Debug, Args)]
pub(crate) struct Schema {
    /// The command whose output is meant; `failure` for what any command writes that fails
    pub(crate) command: Option<Described>,
}

/// Whose output has a schema; the commands are described at [`Command`].
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
    Retry,
    Down,
    Doctor,
    AzureSimulator,
    Failure,
}

/// For which shell.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// Where to.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The directory; it is made if need be
    pub(crate) directory: PathBuf,
}

/// How to plan.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Plan for a world in which nothing exists; nothing is needed on this machine
    #[arg(long)]
    pub(crate) simulate: bool,
}

/// How to bring up.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a switch of the command line"
)]
pub(crate) struct Up {
    /// Provision and prepare every declared node before the manager starts
    #[arg(long)]
    pub(crate) all_nodes: bool,

    /// Bring it up in a simulated world; nothing is needed on this machine, nothing is kept
    #[arg(long)]
    pub(crate) simulate: bool,

    /// Go on although keys of the files that change behaviour have no effect
    #[arg(long)]
    pub(crate) accept_unsupported: bool,

    /// Publish code bases first that lie here and differ from what the code store holds; see
    /// `publish`
    #[arg(long)]
    pub(crate) publish: bool,

    /// Ask nothing: nodes that the files declare no longer are deleted, and what is published is
    /// used as it is
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// What to upload.
#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// Code bases by their names, or by directories of the project; without any, all of the
    /// Compose file that lie here
    #[arg(value_name = "NAME|DIR")]
    pub(crate) names: Vec<String>,
}

/// How much of it.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Show all that is known, however wide it gets
    #[arg(short, long)]
    pub(crate) wide: bool,
}

/// About what.
#[derive(Debug, Args)]
pub(crate) struct Why {
    /// A service, a replica (`web-2`) or a node; `node:NAME` where a service is called so too
    pub(crate) name: String,

    /// Write the manager's latest plan, with everything that it was made from, to FILE as JSON. It
    /// contains no secrets
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
}

/// Which command, and where.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// The service, or one of its replicas (`web-2`)
    pub(crate) name: String,

    /// The replica's number; one that is ready without it
    #[arg(long, value_name = "N")]
    pub(crate) index: Option<u16>,

    /// The user that it runs as
    #[arg(short, long)]
    pub(crate) user: Option<String>,

    /// The directory that it starts in
    #[arg(short = 'C', long, value_name = "DIRECTORY")]
    pub(crate) workdir: Option<String>,

    /// No terminal, though there is one here
    #[arg(short = 'T', long)]
    pub(crate) no_tty: bool,

    /// The command, and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

/// What to restart.
#[derive(Debug, Args)]
pub(crate) struct Restart {
    /// Services or replicas (`web-2`), one after the other
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
}

/// What to try again.
#[derive(Debug, Args)]
pub(crate) struct Retry {
    /// Services, replicas (`web-2`) or nodes; `node:NAME` where a service has the same name
    #[arg(required = true)]
    pub(crate) names: Vec<String>,
}

/// Which events.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Only about these services, replicas or nodes
    pub(crate) names: Vec<String>,

    /// Go on as new ones come
    #[arg(short, long)]
    pub(crate) follow: bool,

    /// Only since then: `10m` ago, or a moment (`2026-01-02T03:04:05Z`)
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<Since>,

    /// Only the last so many; 50 without --since
    #[arg(short = 'n', long, value_name = "EVENTS")]
    pub(crate) tail: Option<u32>,
}

/// Which output.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The services; all without one
    pub(crate) services: Vec<ServiceName>,

    /// Go on as new lines come
    #[arg(short, long)]
    pub(crate) follow: bool,

    /// Only the last so many lines of each instance
    #[arg(short = 'n', long, value_name = "LINES")]
    pub(crate) tail: Option<u32>,

    /// Only since then: `10m` ago, or a moment (`2026-01-02T03:04:05Z`)
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<Since>,

    /// Say when each line was written
    #[arg(short, long)]
    pub(crate) timestamps: bool,
}

/// How to take down.
#[derive(Debug, Args)]
pub(crate) struct Down {
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,

    /// Remove named volumes too, on nodes that stay
    #[arg(long)]
    pub(crate) volumes: bool,
}

/// What to simulate, and where.
#[derive(Debug, Args)]
pub(crate) struct AzureSimulator {
    /// The address to listen at; without one, that of this machine on Docker's own bridge, which
    /// VMs reach too
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Option<IpAddr>,

    /// Another name or address by which it is reached, for which its certificates are valid too;
    /// needed with `--listen 0.0.0.0` by clients elsewhere
    #[arg(long = "name", value_name = "NAME")]
    pub(crate) names: Vec<String>,

    /// The port of everything but Azure Files, over https; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 10_443)]
    pub(crate) https: u16,

    /// The same over http
    #[arg(long, value_name = "PORT", default_value_t = 10_080)]
    pub(crate) http: u16,

    /// The port of Azure Files, over https; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 10_444)]
    pub(crate) files_https: u16,

    /// The same over http
    #[arg(long, value_name = "PORT", default_value_t = 10_081)]
    pub(crate) files_http: u16,

    /// Where the authority to trust and the secrets are written, and what was made is noted; in the
    /// user's configuration directory without
    #[arg(long, value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,

    /// Make no machines: a VM is but a state, and nothing answers at its address
    #[arg(long)]
    pub(crate) state_only: bool,

    /// Add a line of JSON for each request to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_letter_names_the_file_before_the_command_and_follows_after_logs() {
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
