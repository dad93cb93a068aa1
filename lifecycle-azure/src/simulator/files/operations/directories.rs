//! Implements the operations on directories.

use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};

use super::super::answer::{Answer, Refusal};
use super::super::call::Call;
use super::super::tree::Share;

pub(super) fn create(
    call: &Call,
    share: &mut Share,
    now: DateTime<Utc>,
) -> Result<Response, Refusal> {
    let created = share.make_directory(&call.path, call.metadata(), now)?;
    let answer = created.headers(Answer::new(StatusCode::CREATED));
    Ok(answer.written())
}

pub(super) fn get(call: &Call, share: &mut Share) -> Result<Response, Refusal> {
    let directory = share.directory(&call.path)?;
    let answer = directory.properties.headers(Answer::new(StatusCode::OK));
    Ok(answer.header("x-ms-server-encrypted", "true").empty())
}

pub(super) fn set_metadata(
    call: &Call,
    share: &mut Share,
    now: DateTime<Utc>,
) -> Result<Response, Refusal> {
    let number = share.change();
    let properties = &mut share.directory(&call.path)?.properties;
    properties.metadata = call.metadata();
    properties.change(number, now);
    let answer = properties.stamp(Answer::new(StatusCode::OK));
    Ok(answer.written())
}

pub(super) fn delete(call: &Call, share: &mut Share) -> Result<Response, Refusal> {
    share.remove_directory(&call.path)?;
    Ok(Answer::new(StatusCode::ACCEPTED).empty())
}
