//! Generates the documentation page that lists the result of each fault.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use lifecycle_core::cloud::NodeChange;

use crate::fault_cases::Case;

const INTRO: &str = "\
# When Azure fails

This page lists the result of each fault at each step of creating and starting a node, in the simulator
([azure-simulator.md](azure-simulator.md)). A test runs every row and writes this page. After each row,
the test also checks that the next run without a fault ends with exactly one complete node, and that deleting
the node leaves nothing behind.

If a step is not listed, the fault cannot occur there. “The node is running” means that the same run
recovered. All other results show the error of the run: the attempted operation (shown as …), the reason, and
the hint after the arrow.
";

/// The result of a fault in a step.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) step: &'static str,
    pub(crate) outcome: String,
}

/// Describes a change that never ends.
pub(crate) fn lasts(says: &str, change: &NodeChange) -> String {
    let says = if says.is_empty() {
        "reports no progress".to_owned()
    } else {
        format!("reports “{says}”")
    };
    let hint = match change {
        NodeChange::Start { .. } => "start the node again",
        _ => "delete the node, and create it again",
    };
    format!(
        "{says} until the deadline (`cloud.deadlines`), then fails because the deadline \
         has passed → {hint}"
    )
}

/// Returns the page, with one table for each fault.
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
            "\n## {}\n\n{}\n\n| at | result |\n|---|---|\n",
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

/// Checks that the committed page equals the generated one.
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
