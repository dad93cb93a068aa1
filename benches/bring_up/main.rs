//! How long `bootstrapper up` takes for the example platform on local nodes, as a multiple of the
//! critical path of the same raw engine calls in the same run. Prints, asserts nothing.
//!
//! `cargo bench -p benches --bench bring_up`. Needs Docker and the built programs. Both ways begin
//! with the image of nodes, the base image and the builder's cache of their own engine in place;
//! what is on the nodes themselves they make anew.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a bench that cannot go on fails, and it talks to who runs it"
)]

mod raw;
mod timeline;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use benches::docker;
use benches::example::{Programs, Project};

use crate::timeline::Timeline;

/// How often each way is gone; the quickest counts.
const RUNS: usize = 3;

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
        "one call of the docker command takes {:.0?}; the raw way makes one after the other",
        docker::one_call()
    );
    let project = Project::new(&programs)?;
    println!("once unmeasured, so that the images of nodes are there …");
    timeline::up(&project)?;
    // What the services of the raw way are given in place of a manager.
    let credential = project.credential()?;
    project.down()?;
    let mut ours: Option<Timeline> = None;
    let mut raw: Option<Timeline> = None;
    for run in 1..=RUNS {
        let up = timeline::up(&project)?;
        project.down()?;
        let calls = raw::bring_up(&programs, &credential)?;
        println!("run {run}: up {:.1?}, raw {:.1?}", up.total, calls.total);
        ours = Timeline::quicker(ours, up);
        raw = Timeline::quicker(raw, calls);
    }
    let (Some(ours), Some(raw)) = (ours, raw) else {
        return Err("nothing was run".into());
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

/// Asks until it is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_mins(2);
    while !is_so() {
        if Instant::now() > deadline {
            return Err(format!("not within two minutes: {what}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
