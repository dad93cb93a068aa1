//! Implements the operations on whole shares.

use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};

use super::super::Account;
use super::super::answer::{Answer, Refusal, http_date};
use super::super::call::Call;
use super::super::tree::{Share, etag};

fn stamp(answer: Answer, share: &Share) -> Answer {
    answer
        .header("etag", etag(share.etag))
        .header("last-modified", http_date(share.modified))
}

pub(super) fn create(
    call: &Call,
    account: &mut Account,
    now: DateTime<Utc>,
) -> Result<Response, Refusal> {
    let name = call.share.as_deref().unwrap_or_default();
    let fine = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let edges = name.starts_with('-') || name.ends_with('-') || name.contains("--");
    if !fine || edges || !(3..=63).contains(&name.len()) {
        return Err(Refusal::bad_name());
    }
    if account.shares.contains_key(name) {
        return Err(Refusal::conflict(
            "ShareAlreadyExists",
            "The specified share already exists.",
        ));
    }
    let share = Share::new(call.metadata(), now);
    let answer = stamp(Answer::new(StatusCode::CREATED), &share);
    account.shares.insert(name.to_owned(), share);
    Ok(answer.empty())
}

pub(super) fn delete(call: &Call, account: &mut Account) -> Result<Response, Refusal> {
    let name = call.share.as_deref().unwrap_or_default();
    match account.shares.remove(name) {
        Some(_) => Ok(Answer::new(StatusCode::ACCEPTED).empty()),
        None => Err(Refusal::not_found("share")),
    }
}

pub(super) fn get(share: &Share) -> Response {
    let mut answer = stamp(Answer::new(StatusCode::OK), share)
        .header("x-ms-share-quota", "5120")
        .header("x-ms-access-tier", "TransactionOptimized")
        .header("x-ms-lease-status", "unlocked")
        .header("x-ms-lease-state", "available");
    for (name, value) in &share.metadata {
        answer = answer.header(&format!("x-ms-meta-{name}"), value);
    }
    answer.empty()
}

pub(super) fn set_metadata(call: &Call, share: &mut Share, now: DateTime<Utc>) -> Response {
    share.metadata = call.metadata();
    share.etag = share.change();
    share.modified = now;
    stamp(Answer::new(StatusCode::OK), share).empty()
}
