//! The kinds of objects that can have separate databases.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ServiceClass;

/// A kind of object. All objects of one kind can be stored in a separate database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Nodes,
    /// Services of the class `microservice`, with their instances and endpoints.
    Microservices,
    /// Services of the class `application`.
    Applications,
    /// Services of the class `model`.
    Models,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [
        Self::Nodes,
        Self::Microservices,
        Self::Applications,
        Self::Models,
    ];

    /// Returns the kind to which services of this class belong.
    pub const fn of(class: ServiceClass) -> Self {
        match class {
            ServiceClass::Microservice => Self::Microservices,
            ServiceClass::Application => Self::Applications,
            ServiceClass::Model => Self::Models,
        }
    }

    /// Returns the name of the kind, as in `platform.toml`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Microservices => "microservices",
            Self::Applications => "applications",
            Self::Models => "models",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
