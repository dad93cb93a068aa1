//! Provides one error of each kind, for tests of code that stores or sends errors.

use std::time::Duration;

use crate::error::{BuildPlace, Error};
use crate::model::{Epoch, NodeName};

/// Returns one error of each kind, with all optional fields set.
pub fn one_of_each() -> Vec<Error> {
    let mut all = vec![Error::not_found_with_hint(
        "service bd",
        "did you mean `db`?",
    )];
    while let Some(next) = all.last().and_then(after) {
        all.push(next);
    }
    all
}

/// Returns an error of the next kind after that of `previous`. Each new kind must be added here.
fn after(previous: &Error) -> Option<Error> {
    let (what, why, hint) = ("the subject", "the reason", "the hint");
    Some(match previous {
        Error::NotFound { .. } => Error::conflict(what, why),
        Error::Conflict { .. } => Error::invalid(what, why, hint),
        Error::Invalid { .. } => Error::unsupported(what, "the local provider"),
        Error::Unsupported { .. } => Error::denied(what, why, hint),
        Error::Denied { .. } => Error::forbidden(what, why, hint),
        Error::Forbidden { .. } => Error::unreachable(what, Some("connection refused".into())),
        Error::Unreachable { .. } => Error::NotReady {
            what: what.into(),
            why: why.into(),
            after: Duration::from_millis(2_500),
        },
        Error::NotReady { .. } => Error::timed_out(what, Duration::from_millis(1_250)),
        Error::TimedOut { .. } => {
            let reported = Some("Creating".into());
            Error::overdue(what, Duration::from_mins(20), reported, hint)
        }
        Error::Overdue { .. } => Error::throttled(what, Some(Duration::from_secs(7))),
        Error::Throttled { .. } => Error::exhausted(what, why, hint),
        Error::Exhausted { .. } => Error::failed_by(what, why, "exit code 3".into()),
        Error::Failed { .. } => Error::build(
            what,
            BuildPlace::at_instruction("Dockerfile", 3, "RUN false"),
            why,
        ),
        Error::Build { .. } => Error::interrupted(what, Some("the connection broke".into())),
        Error::Interrupted { .. } => Error::corrupt(what, why),
        Error::Corrupt { .. } => Error::stale_epoch(Epoch(3), Epoch(4)),
        Error::StaleEpoch { .. } => Error::Name(NodeName::try_from("not a name").err()?),
        Error::Name(_) => Error::io(
            "writing /var/lib/x",
            std::io::Error::other("no space left on device"),
        ),
        Error::Io { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_is_in_the_list_and_keeps_its_fields() {
        // serde lists all known kinds in its error about an unknown kind.
        let unknown = serde_json::from_str::<Error>(r#"{"kind": "?"}"#).unwrap_err();
        let unknown = unknown.to_string();
        let (_, known) = unknown.split_once("expected one of").unwrap();
        let known: BTreeSet<String> = known
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect();
        assert!(known.contains("not-found"), "{unknown}");
        let mut listed = BTreeSet::new();
        for error in one_of_each() {
            let json = serde_json::to_value(&error).unwrap();
            listed.insert(json["kind"].as_str().unwrap().to_owned());
            let read: Error = serde_json::from_value(json.clone()).unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap(), json);
            assert_eq!(read.chain(), error.chain());
            assert_eq!(read.hint(), error.hint());
            assert_eq!(read.retry(), error.retry());
        }
        assert_eq!(listed, known);
    }
}
