//! Plans again from a recorded input and compares the result with the recorded plan, byte for
//! byte. `bootstrapper why NAME --record FILE` writes such a file.
//!
//! `cargo run -p examples --example replay -- FILE`; without FILE, a recording of
//! `examples/replay/compose.yaml` on local nodes.
#![expect(clippy::print_stdout, reason = "an example prints what it finds")]

use std::path::PathBuf;
use std::process::ExitCode;

use lifecycle_core::reconcile::{RecordedPlan, plan};

type Failure = Box<dyn std::error::Error>;

/// Whether the recorded input still gives the recorded plan.
fn replays(recorded: &RecordedPlan) -> Result<bool, Failure> {
    let planned = plan(&recorded.input);
    println!("{planned}");
    Ok(serde_json::to_vec(&planned)? == serde_json::to_vec(&recorded.plan)?)
}

fn default_recording() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("replay/recorded-plan.json")
}

fn main() -> Result<ExitCode, Failure> {
    let file = std::env::args_os().nth(1);
    let file = file.map_or_else(default_recording, PathBuf::from);
    let recorded: RecordedPlan = serde_json::from_slice(&std::fs::read(&file)?)?;
    if replays(&recorded)? {
        println!("{}: the same plan as recorded", file.display());
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}: another plan than recorded", file.display());
    println!("recorded: {}", recorded.plan);
    Ok(ExitCode::FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recording_of_a_real_run_gives_the_same_plan_and_a_changed_one_does_not() {
        let text = std::fs::read(default_recording()).unwrap();
        let mut recorded: RecordedPlan = serde_json::from_slice(&text).unwrap();
        assert!(replays(&recorded).unwrap());
        std::sync::Arc::make_mut(&mut recorded.plan).settled ^= true;
        assert!(!replays(&recorded).unwrap());
    }
}
