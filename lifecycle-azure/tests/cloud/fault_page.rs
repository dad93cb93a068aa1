//! The page of the documentation that says what comes of each fault.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use lifecycle_core::cloud::NodeChange;

use crate::fault_cases::Case;

const INTRO: &str = "\
# When Azure fails

What comes of each fault at each step of making and starting a node, as the simulator plays it
([azure-simulator.md](azure-simulator.md)). A test runs every row and writes this page: after each of
them the next run without a fault makes the node, once, and taking it down leaves nothing.

Where a step is not named, the fault cannot strike it. “The node runs” means that the same run got
over it. Everything else is what the run says, beginning with what was being done (…), and after the
arrow what to do about it.
";

/// What came of a fault at a step.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) step: &'static str,
    pub(crate) outcome: String,
}

/// What is said of a change that does not end.
pub(crate) fn lasts(says: &str, change: &NodeChange) -> String {
    let says = if says.is_empty() {
        "nothing new is said".to_owned()
    } else {
        format!("“{says}” is said")
    };
    let hint = match change {
        NodeChange::Start { .. } => "start it again",
        _ => "delete the node, and make it again",
    };
    format!("{says} until the deadline (`cloud.deadlines`), and then that it is over → {hint}")
}

/// The page: a table for each fault.
pub(crate) fn page(cases: &[Case], rows: &[(&str, Row)]) -> String {
    let mut page = INTRO.to_owned();
    for case in cases {
        let mut steps: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        let mut order = Vec::new();
        for (_, row) in rows.iter().filter(|(name, _)| *name == case.name) {
            let outcome = row.outcome.replace('|', "\\|");
            if !steps.contains_key(&outcome) {
                order.push(outcome.clone());
            }
            steps.entry(outcome).or_default().push(row.step);
        }
        write!(
            page,
            "\n## {}\n\n{}\n\n| at | what comes of it |\n|---|---|\n",
            case.name, case.about
        )
        .unwrap();
        for outcome in order {
            let at = steps[&outcome].join(", ");
            writeln!(page, "| {at} | {outcome} |").unwrap();
        }
    }
    page
}

/// Compares the page as it is written with what is so.
pub(crate) fn is(page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/azure-faults.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page,
        "docs/azure-faults.md is out of date: run with UPDATE_DOCS=1"
    );
}
