//! Measures the example platform on three local nodes while it is idle: CPU time and memory of its
//! manager and agents, and new processes on its nodes. Prints the results without asserting them.
//!
//! `cargo bench -p benches --bench rest -- --minutes 30`. Needs Docker, the built programs, and
//! root for the kernel's process events. The first sixth of the time (half a minute to five
//! minutes) is not measured, so that the platform can settle. The programs of the release profile
//! are used if they exist. The same measurement runs for two minutes in
//! `cli/tests/platform/bring_up.rs`.

#![expect(clippy::print_stdout, reason = "a benchmark prints to the terminal")]

use std::process::ExitCode;
use std::time::Duration;

use benches::at_rest;
use benches::docker;
use benches::example::{Programs, Project};
use clap::Parser;

/// Measures the example platform on three local nodes while it is idle
#[derive(Debug, Parser)]
struct Arguments {
    /// How long to leave the platform idle; the time that it needs to settle is part of this
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
    println!("idle for {alone:.0?}; measured after the first {settle:.0?} …");
    let rest = at_rest::measure(&project.platform()?, settle, alone.saturating_sub(settle))?;
    println!("\n{rest}");
    project.down()
}
