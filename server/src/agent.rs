//! The subcommands for the agent of the service network: run the agent, send tables to it, and
//! check it.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use lifecycle_core::Result;
use lifecycle_core::agent::{self, AgentOptions};

use crate::serve::stop_signal;

#[derive(Debug, Args)]
pub(crate) struct AgentArguments {
    #[command(subcommand)]
    command: Option<AgentCommand>,
    /// The directory for the latest table, the sockets and the containers' resolv.conf
    #[arg(long, default_value = "/var/lib/lifecycle/agent", global = true)]
    state: PathBuf,
    /// The agent's name. An agent takes over from a running one only if the file `current` in the
    /// directory contains its name
    #[arg(long)]
    name: Option<String>,
    /// The resolv.conf with the node's own resolvers
    #[arg(long, default_value = "/etc/resolv.conf")]
    resolvers: PathBuf,
    /// The port of the DNS server
    #[arg(long, default_value_t = 53)]
    dns_port: u16,
    /// Do not add a route for the platform's address block; use this if that block is already
    /// routed to this node
    #[arg(long)]
    no_route: bool,
    /// The number of threads that forward traffic [default: the number of processors]
    #[arg(long)]
    threads: Option<NonZeroUsize>,
}

#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// Copy tables from standard input to the agent, and the agent's reports to standard output
    Feed,
    /// Succeed if an agent is running and has a table
    Check,
    /// Wait until the agent with this name serves
    Serves { name: String },
}

/// How long [`AgentCommand::Serves`] waits.
const SERVES_WITHIN: Duration = Duration::from_secs(15);

pub(crate) async fn run(arguments: AgentArguments) -> Result<()> {
    match arguments.command {
        Some(AgentCommand::Feed) => {
            agent::feed(&arguments.state, tokio::io::stdin(), tokio::io::stdout()).await
        }
        Some(AgentCommand::Check) => agent::check(&arguments.state).await,
        Some(AgentCommand::Serves { name }) => {
            agent::serves(&arguments.state, &name, SERVES_WITHIN).await
        }
        None => {
            let options = AgentOptions {
                name: arguments.name,
                resolvers: arguments.resolvers,
                dns_port: arguments.dns_port,
                route: !arguments.no_route,
                threads: arguments.threads,
                ..AgentOptions::new(arguments.state)
            };
            tokio::select! {
                ended = agent::run(options) => ended,
                stopped = stop_signal() => stopped,
            }
        }
    }
}
