//! The agent of the service network, and how the manager feeds it.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use lifecycle_core::Result;
use lifecycle_core::agent::{self, AgentOptions};

use crate::serve::asked_to_stop;

#[derive(Debug, Args)]
pub(crate) struct AgentArguments {
    #[command(subcommand)]
    command: Option<AgentCommand>,
    /// Where the last table, the sockets and the containers' resolv.conf are kept
    #[arg(long, default_value = "/var/lib/lifecycle/agent", global = true)]
    state: PathBuf,
    /// The resolv.conf that names the node's own resolvers
    #[arg(long, default_value = "/etc/resolv.conf")]
    resolvers: PathBuf,
    /// The port at which DNS is answered
    #[arg(long, default_value_t = 53)]
    dns_port: u16,
    /// Leave the routes alone: the block leads to this node anyway
    #[arg(long)]
    no_route: bool,
    /// How many threads carry traffic [default: as many as there are processors]
    #[arg(long)]
    threads: Option<NonZeroUsize>,
}

#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// Copy tables from standard input to the agent, and its reports to standard output
    Feed,
    /// Succeed if an agent runs and a table is in force
    Check,
}

pub(crate) async fn run(arguments: AgentArguments) -> Result<()> {
    match arguments.command {
        Some(AgentCommand::Feed) => {
            agent::feed(&arguments.state, tokio::io::stdin(), tokio::io::stdout()).await
        }
        Some(AgentCommand::Check) => agent::check(&arguments.state).await,
        None => {
            let options = AgentOptions {
                resolvers: arguments.resolvers,
                dns_port: arguments.dns_port,
                route: !arguments.no_route,
                threads: arguments.threads,
                ..AgentOptions::new(arguments.state)
            };
            tokio::select! {
                ended = agent::run(options) => ended,
                stopped = asked_to_stop() => stopped,
            }
        }
    }
}
