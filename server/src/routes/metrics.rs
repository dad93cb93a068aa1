//! The metrics, for Prometheus.

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use lifecycle_core::Error;
use lifecycle_core::metrics::{self, text};

use super::Api;
use crate::auth::{Unlimited, Viewer};
use crate::problem::Problem;

/// `GET /metrics`: returns all metrics in the OpenMetrics text format.
pub(super) async fn show(_: Unlimited<Viewer>, api: Api) -> Result<Response, Problem> {
    let text = text(api.metrics.families())
        .map_err(|error| Error::failed("writing the metrics", error.to_string()))?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
