//! Sends logins for registries of images to the engine.

use bollard::auth::DockerCredentials;
use hyper::HeaderMap;
use hyper::header::HeaderValue;
use lifecycle_core::runtime::{ImageLogin, ImageRegistry};

/// The headers that contain logins: for one registry, and for several.
const HEADERS: [&str; 2] = ["x-registry-auth", "x-registry-config"];

pub(super) fn credentials(registry: &ImageRegistry, login: &ImageLogin) -> DockerCredentials {
    let mut credentials = DockerCredentials {
        serveraddress: Some(registry.address().to_owned()),
        ..DockerCredentials::default()
    };
    match login {
        ImageLogin::Password { user, password } => {
            credentials.username = Some(user.clone());
            credentials.password = Some(password.expose().to_owned());
        }
        ImageLogin::IdentityToken(token) => {
            credentials.identitytoken = Some(token.expose().to_owned());
        }
        ImageLogin::RegistryToken(token) => {
            credentials.registrytoken = Some(token.expose().to_owned());
        }
    }
    credentials
}

/// Corrects the encoding of logins in a request, and marks them as sensitive.
///
/// The engine's client encodes them with the alphabet of base64 that has `+` and `/`. The engine
/// expects the one with `-` and `_`, and otherwise ignores the login without an error.
pub(super) fn correct_encoding(headers: &mut HeaderMap) {
    for name in HEADERS {
        let Some(value) = headers.get_mut(name) else {
            continue;
        };
        let bytes: Vec<u8> = value
            .as_bytes()
            .iter()
            .map(|byte| match byte {
                b'+' => b'-',
                b'/' => b'_',
                other => *other,
            })
            .collect();
        if let Ok(corrected) = HeaderValue::from_bytes(&bytes) {
            *value = corrected;
            value.set_sensitive(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_encoded_as_the_engine_expects_and_hidden_in_debug_output() {
        let mut headers = HeaderMap::new();
        headers.insert("x-registry-auth", HeaderValue::from_static("ab+/=="));
        headers.insert("x-other", HeaderValue::from_static("ab+/=="));
        correct_encoding(&mut headers);
        assert_eq!(headers["x-registry-auth"], "ab-_==");
        assert_eq!(headers["x-other"], "ab+/==");
        let shown = format!("{headers:?}");
        assert!(!shown.contains("ab-_"), "{shown}");
    }
}
