//! Computes a plan again from a recorded input and compares the result with the recorded plan, byte
//! for byte. `bootstrapper why NAME --record FILE` writes a recording.
//!
//! `cargo run -p examples --example replay -- FILE`. Without FILE, uses a recording of the platform
//! in `examples/replay/compose.yaml` on local nodes.
#![expect(clippy::print_stdout, reason = "an example prints what it finds")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lifecycle_core::reconcile::{RecordedPlan, plan};

type Failure = Box<dyn std::error::Error>;

/// Prints the plan for the recorded input. Returns whether the two plans are equal.
fn replays(recorded: &RecordedPlan) -> Result<bool, Failure> {
    let planned = plan(&recorded.input);
    println!("{planned}");
    Ok(serde_json::to_vec(&planned)? == serde_json::to_vec(&recorded.plan)?)
}

fn read(file: &Path) -> Result<RecordedPlan, Failure> {
    let json = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    serde_json::from_slice(&json).map_err(|error| {
        let hint =
            "only the version of the program that wrote a recording can read it; record it again";
        format!("{}: {error}\nhint: {hint}", file.display()).into()
    })
}

fn default_recording() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("replay/recorded-plan.json")
}

fn main() -> Result<ExitCode, Failure> {
    let file = std::env::args_os().nth(1);
    let file = file.map_or_else(default_recording, PathBuf::from);
    let recorded = read(&file)?;
    if replays(&recorded)? {
        println!("{}: the same plan as recorded", file.display());
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}: the plan differs from the recorded one", file.display());
    println!("recorded: {}", recorded.plan);
    Ok(ExitCode::FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replay_accepts_the_recorded_plan_and_rejects_a_changed_one() {
        let mut recorded = read(&default_recording()).unwrap();
        assert!(replays(&recorded).unwrap());
        std::sync::Arc::make_mut(&mut recorded.plan).settled ^= true;
        assert!(!replays(&recorded).unwrap());
    }
}
