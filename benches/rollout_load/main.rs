//! A server that drains when it is stopped, and clients that count failed requests. The test of
//! rollouts (`cli/tests/platform/rollouts.rs`) runs both as services of a platform.
//!
//!     rollout-load server PORT
//!     rollout-load clients NAME:PORT[,NAME:PORT...] REPORT_PORT

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the output is the log of a service"
)]

mod clients;
mod http;
mod ledger;
mod server;

use std::error::Error;
use std::process::ExitCode;

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match arguments {
        [mode, port] if mode == "server" => runtime.block_on(server::run(port.parse()?)),
        [mode, targets, port] if mode == "clients" => {
            runtime.block_on(clients::run(targets, port.parse()?))
        }
        _ => Err(
            "usage: rollout-load server PORT | clients NAME:PORT[,NAME:PORT...] REPORT_PORT".into(),
        ),
    }
}
