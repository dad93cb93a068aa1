//! Measures the idle example platform on three local nodes: the resources that the manager and the
//! agents use, and new processes on the nodes. Prints the results without asserting them.
//!
//! `cargo bench -p benches --bench rest -- --minutes 30`. Needs Docker, the built programs
//! (preferably with the release profile), and root for the kernel's process events. The first sixth
//! of the time (half a minute to five minutes) is not measured, so that the platform can settle.

#![expect(clippy::print_stdout, reason = "a benchmark prints to the terminal")]

use std::process::ExitCode;
use std::time::Duration;

use benches::at_rest;
use benches::docker;
use benches::example::{Programs, Project};
use clap::Parser;

/// Measures the idle example platform on three local nodes
#[derive(Debug, Parser)]
struct Arguments {
    /// How long the platform is idle, including the time that it needs to settle
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: &Arguments) -> Result<(), String> {
    docker::require()?;
    let programs = Programs::find()?;
    let project = Project::new(&programs)?;
    println!(
        "bringing the example platform up ({} profile) …",
        programs.profile
    );
    project.up(|_, _| {})?;
    let alone = Duration::from_mins(1) * arguments.minutes;
    let settle = (alone / 6).clamp(Duration::from_secs(30), Duration::from_mins(5));
    println!("idle for {alone:.0?}; the measurement starts after {settle:.0?} …");
    let rest = at_rest::measure(&project.platform()?, settle, alone.saturating_sub(settle))?;
    println!("\n{rest}");
    project.down()
}
