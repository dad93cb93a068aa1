//! Measures how long `bootstrapper up` takes for the example platform on local nodes. Compares this
//! time with the time of the same engine calls made directly, in the same run. Prints the results
//! without asserting them.
//!
//! `cargo bench -p benches --bench bring_up`. Needs Docker and the built programs. Each measured
//! run starts with the nodes' image, the base image, and the builder's cache already in the engine.
//! Everything on the nodes is created during the run.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot continue fails, and prints to the terminal"
)]

mod raw;
mod timeline;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use benches::docker;
use benches::example::{Programs, Project};

use crate::timeline::Timeline;

/// The number of measured runs of `up`, and of the raw calls. The median run of each counts: on one
/// machine, twelve runs of the raw calls took from 6.0 s to 11.8 s, so the fastest one is a matter of luck.
const RUNS: usize = 5;

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> Result<(), String> {
    docker::require()?;
    let programs = Programs::find()?;
    println!(
        "one call of the docker command takes {:.0?}; this time is part of every raw call",
        docker::one_call()
    );
    let project = Project::new(&programs)?;
    println!("running once without measurement, to build the nodes' image …");
    timeline::up(&project)?;
    // The raw calls start no manager, so their services use this credential.
    let credential = project.credential()?;
    project.down()?;
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    for run in 1..=RUNS {
        let up = timeline::up(&project)?;
        project.down()?;
        let calls = raw::bring_up(&programs, &credential)?;
        println!("run {run}: up {:.1?}, raw {:.1?}", up.total, calls.total);
        ours.push(up);
        raw.push(calls);
    }
    let (Some(ours), Some(raw)) = (Timeline::median(ours), Timeline::median(raw)) else {
        return Err("nothing was measured".into());
    };
    println!("\n`bootstrapper up` ({} profile)\n{ours}", programs.profile);
    println!("\nthe raw calls\n{raw}");
    println!(
        "\nbring-up ÷ raw calls = {:.1?} ÷ {:.1?} = {:.2}",
        ours.total,
        raw.total,
        ours.total.as_secs_f64() / raw.total.as_secs_f64()
    );
    Ok(())
}

/// Polls until the condition is true, for at most two minutes.
fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_mins(2);
    while !is_so() {
        if Instant::now() > deadline {
            return Err(format!("timed out after two minutes: {what}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
