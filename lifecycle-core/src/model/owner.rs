//! The platform that a machine or container belongs to.

use serde::{Deserialize, Serialize};

use super::{PlatformId, PlatformName};

/// The platform that a machine or container belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The platform's id, which identifies its resources.
    pub id: PlatformId,
    /// The platform's name, for people.
    pub name: PlatformName,
}
