//! The registries that images are pulled from, and the logins for them.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::secret::Sensitive;

/// The registry of images whose names contain no registry.
const DOCKER_HUB: &str = "docker.io";

/// A registry of images: a host, with a port if one is given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct ImageRegistry(String);

impl ImageRegistry {
    /// Returns the registry of the image with this name.
    ///
    /// ```
    /// use lifecycle_core::runtime::ImageRegistry;
    ///
    /// for (image, registry) in [
    ///     ("nginx:1.27", "docker.io"),
    ///     ("grafana/grafana", "docker.io"),
    ///     ("index.docker.io/library/nginx", "docker.io"),
    ///     ("ghcr.io/acme/web@sha256:00", "ghcr.io"),
    ///     ("localhost/web", "localhost"),
    ///     ("registry:5000/web:1", "registry:5000"),
    ///     ("[fd00::1]:5000/web", "[fd00::1]:5000"),
    /// ] {
    ///     assert_eq!(ImageRegistry::of(image).to_string(), registry);
    /// }
    /// ```
    pub fn of(image: &str) -> Self {
        // The same rule as in Docker: a first part without `.` and `:` is a user of Docker Hub,
        // unless it has capital letters, which the name of a user cannot have.
        let is_host = |first: &str| {
            first == "localhost"
                || first.contains(['.', ':'])
                || first.chars().any(char::is_uppercase)
        };
        match image.split_once('/') {
            Some(("index.docker.io", _)) => Self(DOCKER_HUB.into()),
            Some((first, _)) if is_host(first) => Self(first.into()),
            _ => Self(DOCKER_HUB.into()),
        }
    }

    /// Returns the command that stores a login for the registry on the user's machine.
    pub fn login_command(&self) -> String {
        if self.0 == DOCKER_HUB {
            "docker login".into()
        } else {
            format!("docker login {self}")
        }
    }

    /// Returns the address by which Docker's tools and engines identify the registry.
    pub fn address(&self) -> &str {
        if self.0 == DOCKER_HUB {
            "https://index.docker.io/v1/"
        } else {
            &self.0
        }
    }
}

impl fmt::Display for ImageRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A login for a registry of images.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ImageLogin {
    #[cfg_attr(feature = "schema", schemars(with = "PasswordLogin"))]
    Password { user: String, password: Sensitive },
    /// A token from which the engine gets tokens for single requests.
    IdentityToken(Sensitive),
    /// A token that the engine sends to the registry.
    RegistryToken(Sensitive),
}

/// A login with a password. Has a schema of its own, because some generators of clients reject
/// objects that are defined inside of others.
#[cfg(feature = "schema")]
#[derive(schemars::JsonSchema)]
#[expect(dead_code, reason = "describes the members in the schema")]
struct PasswordLogin {
    user: String,
    password: Sensitive,
}

/// Describes the login without its secret. Some registries expect a token as the name of the user, so
/// the name is not shown either.
impl fmt::Display for ImageLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { .. } => f.write_str("a user name and password"),
            Self::IdentityToken(_) => f.write_str("an identity token"),
            Self::RegistryToken(_) => f.write_str("a registry token"),
        }
    }
}

impl fmt::Debug for ImageLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Logins, by registry.
pub type ImageLogins = BTreeMap<ImageRegistry, ImageLogin>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_described_without_its_secret() {
        let secret = Sensitive::new("planted");
        let password = ImageLogin::Password {
            user: "planted".into(),
            password: secret.clone(),
        };
        assert_eq!(password.to_string(), "a user name and password");
        for login in [
            password,
            ImageLogin::IdentityToken(secret.clone()),
            ImageLogin::RegistryToken(secret),
        ] {
            assert!(!format!("{login} {login:?}").contains("planted"));
        }
    }

    #[test]
    fn only_docker_hub_has_an_address_other_than_its_host() {
        let address = |image| ImageRegistry::of(image).address().to_owned();
        assert_eq!(address("nginx"), "https://index.docker.io/v1/");
        assert_eq!(address("localhost:5000/x"), "localhost:5000");
    }
}
