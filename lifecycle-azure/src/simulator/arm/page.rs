//! Splits lists into pages that link to each other.

use axum::http::StatusCode;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::answer::Answer;
use super::call::Call;
use super::id::Key;
use super::problem::{Problem, Refusal};

/// Returns a page of `items`, which are sorted by key. The link to the next page contains the last
/// key of this page. Resources that are created or deleted between two pages therefore cause no
/// repeated or skipped items.
pub(crate) fn paged(
    call: &Call<'_>,
    items: impl Iterator<Item = (Key, Value)>,
) -> Result<Answer, Refusal> {
    let bad = |name: &str, value: &str| {
        let message = format!("The query parameter '{name}' has an invalid value: '{value}'.");
        Problem::new("InvalidQueryParameterValue", message).with(StatusCode::BAD_REQUEST)
    };
    let size = match call.parameter("$top") {
        None => call.cloud.options.page_size,
        Some(top) => match top.parse() {
            Ok(count) if count > 0 => call.cloud.options.page_size.min(count),
            _ => return Err(bad("$top", top)),
        },
    };
    let after = call.parameter("$skiptoken");
    let mut page: Vec<(Key, Value)> = items
        .filter(|(key, _)| after.is_none_or(|after| key.as_str() > after))
        .take(size + 1)
        .collect();
    let more = page.len() > size;
    page.truncate(size);
    let next = page.last().filter(|_| more).map(|(last, _)| {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in call.query {
            if !name.eq_ignore_ascii_case("$skiptoken") {
                query.append_pair(name, value);
            }
        }
        query.append_pair("$skiptoken", last);
        format!("{}{}?{}", call.origin, call.path, query.finish())
    });
    let values: Vec<Value> = page.into_iter().map(|(_, value)| value).collect();
    let mut body = json!({ "value": values });
    if let Some(next) = next {
        body["nextLink"] = next.into();
    }
    Ok(Answer::ok(body))
}
