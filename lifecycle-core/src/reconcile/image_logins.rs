//! The logins for the registries of images: stores them encrypted in the registry, and adds them to
//! the errors of pulls.

use crate::error::{Error, Result};
use crate::registry::{Change, Registry};
use crate::runtime::{ImageLogin, ImageLogins, ImageRegistry};
use crate::secret::Sensitive;

/// The name under which the registry stores the logins.
const NAME: &str = "image-logins";

/// Returns the stored logins; `None` if none were ever stored.
pub(crate) async fn stored(registry: &dyn Registry) -> Result<Option<ImageLogins>> {
    let Some(text) = registry.credential(NAME).await? else {
        return Ok(None);
    };
    let logins = serde_json::from_str(text.expose()).map_err(|error| Error::Corrupt {
        what: "the stored logins for the registries of images".into(),
        // The message of the parser may contain a secret.
        why: format!("line {}, column {}", error.line(), error.column()),
    })?;
    Ok(Some(logins))
}

/// Returns the change that stores these logins instead of the previous ones.
pub(crate) fn change(logins: &ImageLogins) -> Result<Change> {
    let text = serde_json::to_string(logins).map_err(|error| {
        let what = "serializing the logins for the registries of images";
        Error::failed(what, error.to_string())
    })?;
    Ok(Change::PutCredential {
        name: NAME.into(),
        credential: Sensitive::new(text),
    })
}

/// If a registry denied the pull of `image`, adds the registry and the login to the error.
pub(super) fn explained(error: Error, image: &str, login: Option<&ImageLogin>) -> Error {
    let Error::Denied { what, why, .. } = error else {
        return error;
    };
    let registry = ImageRegistry::of(image);
    let why = match login {
        Some(login) => format!("the registry {registry} rejected {login}: {why}"),
        None => format!(
            "the registry {registry} denied access, and `up` found no credentials for it: {why}"
        ),
    };
    let hint = format!(
        "check the image's name; if the image is private, run `{}`, then `bootstrapper up`",
        registry.login_command()
    );
    Error::Denied { what, why, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_pull_names_the_registry_and_the_login() {
        let denied = || Error::denied("pulling image x", "unauthorized", "");
        let login = ImageLogin::Password {
            user: "ann".into(),
            password: Sensitive::new("planted"),
        };
        let error = explained(denied(), "registry:5000/x:1", Some(&login));
        assert_eq!(
            error.to_string(),
            "pulling image x was refused: the registry registry:5000 rejected a user name and \
             password: unauthorized"
        );
        assert_eq!(
            error.hint().unwrap(),
            "check the image's name; if the image is private, run `docker login registry:5000`, \
             then `bootstrapper up`"
        );
        let error = explained(denied(), "acme/x:1", None);
        let text = error.to_string();
        assert!(text.contains("docker.io denied access"), "{text}");
        assert!(
            error.hint().unwrap().contains("`docker login`"),
            "{error:?}"
        );
        let other = explained(Error::not_found("image x"), "x:1", None);
        assert!(matches!(other, Error::NotFound { .. }), "{other:?}");
    }
}
