//! The logins for the registries of images.

use axum::http::StatusCode;
use lifecycle_core::runtime::ImageLogins;

use super::Api;
use super::request::{self, Whole};
use crate::auth::{Admin, Unlimited};
use crate::problem::Problem;

/// `PUT /v1/image-logins`: replaces the logins.
pub(super) async fn replace(
    _: Unlimited<Admin>,
    api: Api,
    Whole(body): Whole,
) -> Result<StatusCode, Problem> {
    let logins: ImageLogins = serde_json::from_slice(&body).map_err(|error| {
        request::unreadable_body(
            &error,
            "send an object that contains a login for each registry (docs/api.md)",
        )
    })?;
    api.manager.set_image_logins(&logins).await?;
    Ok(StatusCode::NO_CONTENT)
}
