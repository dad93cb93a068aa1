//! `why`: explains a state. Prints what was declared, observed, and decided, then the
//! evidence.

use std::path::Path;

use lifecycle_core::Error;
use lifecycle_core::api::why::{FactV1, WhyV1};
use lifecycle_core::model::Subject;
use lifecycle_core::reconcile::RecordedPlan;

use crate::arguments::{Arguments, Why};
use crate::commands;
use crate::failure::Failure;
use crate::paint::{Tone, paint};
use crate::printer;
use crate::progress::ProgressLines;

pub(crate) async fn run(arguments: &Arguments, options: &Why) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    let client = bootstrapper.client(identity.id).await?;
    let why = bootstrapper
        .wait("the manager's response", commands::ANSWERED_WITHIN)
        .until(client.why(&options.name))
        .await?;
    if let Some(file) = &options.record {
        let recorded = bootstrapper
            .wait("the manager's response", commands::ANSWERED_WITHIN)
            .until(client.recorded_plan())
            .await?;
        write(file, &recorded)?;
        printer::message(&format!("Wrote the latest plan to {}.", file.display()));
    }
    if arguments.json {
        printer::document(&why)
    } else {
        printer::data(&text(&why))
    }
}

fn write(file: &Path, recorded: &RecordedPlan) -> Result<(), Failure> {
    let failed = |error: String| Error::failed(format!("writing {}", file.display()), error);
    let mut json = serde_json::to_vec_pretty(recorded).map_err(|e| failed(e.to_string()))?;
    json.push(b'\n');
    std::fs::write(file, json).map_err(|error| failed(error.to_string()))?;
    Ok(())
}

fn text(why: &WhyV1) -> String {
    let mut lines = vec![paint(Tone::Strong, &why.answer)];
    let mut section = |name: &str, lines_of: Vec<String>| {
        if lines_of.is_empty() {
            return;
        }
        lines.push(String::new());
        lines.push(paint(Tone::Accent, name));
        lines.extend(lines_of.into_iter().map(|line| format!("  {line}")));
    };
    section("declared", facts(&why.declared, &why.subject));
    section("observed", facts(&why.observed, &why.subject));
    let decided = why.decided.iter();
    let decided = decided.map(|d| with_subject(&d.about, &why.subject, &d.text));
    section("decided", decided.collect());
    let evidence = why.evidence.iter().map(commands::events::text);
    section("evidence", evidence.collect());
    for output in &why.output {
        section(
            &format!("last output of {}", output.about),
            output.lines.clone(),
        );
    }
    lines.join("\n")
}

fn facts(facts: &[FactV1], subject: &Subject) -> Vec<String> {
    let facts = facts.iter();
    facts
        .map(|f| with_subject(&f.about, subject, &f.text))
        .collect()
}

/// Prefixes the text with the subject, unless the user asked about the subject.
fn with_subject(about: &Subject, requested: &Subject, text: &str) -> String {
    if about == requested {
        text.to_owned()
    } else {
        format!("{about}: {text}")
    }
}
