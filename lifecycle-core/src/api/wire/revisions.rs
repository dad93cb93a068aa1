//! Revisions and rollbacks in responses.

use std::collections::BTreeSet;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::manager::RolledBack;
use crate::model::{ServiceName, Subject, VolumeName};
use crate::platform::{
    Difference, DifferenceKind, Part, Restored, Revision, SecretPlace, SecretValue,
};
use crate::reconcile::Plan;

/// A stored revision: a generation of what was declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct RevisionV1 {
    /// The number of the generation.
    pub generation: u64,
    /// When the revision was recorded.
    #[serde(serialize_with = "crate::clock::six_digits::serialize")]
    pub at: DateTime<Utc>,
    /// What was requested, for example `scale to 5`. Absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// What the request was about. Absent if it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// Who requested the change: a token, with its id and the address of the client. Absent if it is not
    /// known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The differences from the previous revision.
    #[serde(default)]
    pub changes: Vec<ChangeV1>,
}

/// A difference between two revisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ChangeV1 {
    /// The service or node that differs, or the platform for everything else.
    pub subject: Subject,
    pub kind: ChangeKindV1,
    /// The parts that were changed: `replicas`, `image`, `environment`, `files`, `scheduling`, or
    /// `settings` for everything else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<String>,
}

/// How a service or node differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ChangeKindV1 {
    Added,
    Removed,
    Changed,
    /// A kind that only a newer manager knows.
    #[serde(other)]
    Unknown,
}

/// The response to `POST /v1/revisions/{generation}/rollback`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct RolledBackV1 {
    /// The current generation.
    pub generation: u64,
    /// Whether the declaration differs from the previous one.
    pub changed: bool,
    /// The id of the operation that ends when the platform has settled. Absent if nothing was changed and
    /// no such operation is in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Uuid>,
    /// The values that were not restored, because they may be secrets.
    pub kept: Vec<SecretV1>,
    /// The values that may be secrets, and were restored, because they have no current value.
    pub without_current: Vec<SecretV1>,
}

/// What a rollback would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct RollbackPlanV1 {
    pub plan: Plan,
    /// The values that would not be restored, because they may be secrets.
    pub kept: Vec<SecretV1>,
    /// The values that may be secrets, and would be restored, because they have no current value.
    pub without_current: Vec<SecretV1>,
}

/// A value that may be a secret: a variable, a file, or options of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SecretV1 {
    pub service: ServiceName,
    /// The name of a variable of the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
    /// The mount point of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// A volume, whose options for its driver may contain a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeName>,
}

impl RollbackPlanV1 {
    /// Creates a response.
    pub(crate) fn new(plan: Plan, restored: Restored) -> Self {
        Self {
            plan,
            kept: secrets(restored.kept),
            without_current: secrets(restored.without_current),
        }
    }
}

fn secrets(values: BTreeSet<SecretValue>) -> Vec<SecretV1> {
    values.into_iter().map(SecretV1::from).collect()
}

impl From<RolledBack> for RolledBackV1 {
    fn from(done: RolledBack) -> Self {
        Self {
            generation: done.applied.generation.0,
            changed: done.applied.changed,
            operation: done.applied.operation.map(|operation| operation.0),
            kept: secrets(done.kept),
            without_current: secrets(done.without_current),
        }
    }
}

impl From<SecretValue> for SecretV1 {
    fn from(value: SecretValue) -> Self {
        let mut one = Self {
            service: value.service,
            variable: None,
            file: None,
            volume: None,
        };
        match value.place {
            SecretPlace::Variable(name) => one.variable = Some(name),
            SecretPlace::File(target) => one.file = Some(target),
            SecretPlace::Volume(volume) => one.volume = Some(volume),
        }
        one
    }
}

impl From<Revision> for RevisionV1 {
    fn from(revision: Revision) -> Self {
        let (request, subject, by, changes) = match revision.note {
            Some(note) => (
                Some(note.request),
                Some(note.subject),
                Some(note.by),
                note.changes,
            ),
            None => (None, None, None, Vec::new()),
        };
        Self {
            generation: revision.generation.0,
            at: revision.at,
            request,
            subject,
            by,
            changes: changes.into_iter().map(ChangeV1::from).collect(),
        }
    }
}

impl From<Difference> for ChangeV1 {
    fn from(difference: Difference) -> Self {
        let (kind, parts) = match difference.kind {
            DifferenceKind::Added => (ChangeKindV1::Added, Vec::new()),
            DifferenceKind::Removed => (ChangeKindV1::Removed, Vec::new()),
            DifferenceKind::Changed(parts) => {
                let parts = parts.iter().map(Part::to_string).collect();
                (ChangeKindV1::Changed, parts)
            }
        };
        Self {
            subject: difference.subject,
            kind,
            parts,
        }
    }
}

impl fmt::Display for ChangeV1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.subject {
            Subject::Service(service) => write!(f, "{service}")?,
            subject => write!(f, "{subject}")?,
        }
        match self.kind {
            ChangeKindV1::Added => f.write_str(" added"),
            ChangeKindV1::Removed => f.write_str(" removed"),
            ChangeKindV1::Changed | ChangeKindV1::Unknown if self.parts.is_empty() => {
                f.write_str(" changed")
            }
            ChangeKindV1::Changed | ChangeKindV1::Unknown => {
                write!(f, " ({})", self.parts.join(", "))
            }
        }
    }
}

impl fmt::Display for SecretV1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.variable, &self.file, &self.volume) {
            (Some(variable), ..) => write!(f, "{variable} of {}", self.service),
            (_, Some(file), _) => write!(f, "{file} of {}", self.service),
            (.., Some(volume)) => write!(f, "options of volume {volume} of {}", self.service),
            (None, None, None) => write!(f, "a value of {}", self.service),
        }
    }
}
