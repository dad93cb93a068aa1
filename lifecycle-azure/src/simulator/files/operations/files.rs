//! Implements the operations on files.

use std::convert::Infallible;
use std::fmt::Write as _;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use futures_util::stream;

use super::super::answer::{Answer, Refusal};
use super::super::call::Call;
use super::super::tree::{File, Share};

/// The number of bytes in each part of a response.
const PART: usize = 1 << 20;

/// The maximum size of a file, in bytes.
const MOST_BYTES: u64 = 4 << 40;

/// The content headers, as (request header that sets the value, header of read responses).
const CONTENT_HEADERS: [(&str, &str); 5] = [
    ("x-ms-content-type", "content-type"),
    ("x-ms-content-encoding", "content-encoding"),
    ("x-ms-content-language", "content-language"),
    ("x-ms-content-disposition", "content-disposition"),
    ("x-ms-cache-control", "cache-control"),
];

fn content_headers(call: &Call) -> Vec<(&'static str, String)> {
    CONTENT_HEADERS
        .iter()
        .filter_map(|(request_header, response_header)| {
            Some((*response_header, call.header(request_header)?.to_owned()))
        })
        .collect()
}

pub(super) fn create(
    call: &Call,
    share: &mut Share,
    now: DateTime<Utc>,
) -> Result<Response, Refusal> {
    match call.header("x-ms-type") {
        Some(kind) if kind.eq_ignore_ascii_case("file") => {}
        Some(_) => return Err(Refusal::bad_header("x-ms-type")),
        None => return Err(Refusal::missing_header("x-ms-type")),
    }
    if !call.body.is_empty() {
        return Err(Refusal::not_simulated("Create File with contents"));
    }
    let size = call
        .number("x-ms-content-length")?
        .ok_or_else(|| Refusal::missing_header("x-ms-content-length"))?;
    if size > MOST_BYTES {
        return Err(Refusal::bad_header("x-ms-content-length"));
    }
    let attributes = match call.header("x-ms-file-attributes") {
        None | Some("" | "none" | "None") => "Archive".to_owned(),
        Some(given) => given.to_owned(),
    };
    let (path, metadata) = (&call.path, call.metadata());
    let created = share.make_file(path, size, content_headers(call), metadata, attributes, now)?;
    let answer = created.headers(Answer::new(StatusCode::CREATED));
    Ok(answer.written())
}

fn with_content_headers(file: &File, answer: Answer) -> Answer {
    let mut answer = file
        .properties
        .headers(answer)
        .header("x-ms-type", "File")
        .header("x-ms-server-encrypted", "true")
        .header("x-ms-lease-status", "unlocked")
        .header("x-ms-lease-state", "available")
        .header("accept-ranges", "bytes")
        .header("content-type", "application/octet-stream");
    for (name, value) in &file.headers {
        answer = answer.header(name, value);
    }
    answer
}

pub(super) fn read(call: &Call, share: &mut Share) -> Result<Response, Refusal> {
    let file = share.file(&call.path)?;
    let size = file.contents.size();
    let (status, start, end) = match call.range()? {
        None => (StatusCode::OK, 0, size),
        Some((start, _)) if start >= size => return Err(Refusal::bad_range()),
        Some((start, end)) => {
            let end = end.map_or(size, |end| end.min(size));
            (StatusCode::PARTIAL_CONTENT, start, end)
        }
    };
    let mut answer = with_content_headers(file, Answer::new(status))
        .header("content-length", (end - start).to_string());
    if status == StatusCode::PARTIAL_CONTENT {
        answer = answer.header("content-range", format!("bytes {start}-{}/{size}", end - 1));
    }
    // Send the response in parts: a large file may consist mostly of zeros, which use no memory
    // until they are read.
    let contents = file.contents.clone();
    let parts = (start..end).step_by(PART).map(move |at| {
        let part = contents.read(at, end.min(at.saturating_add(PART as u64)));
        Ok::<_, Infallible>(part)
    });
    Ok(answer.body(Body::from_stream(stream::iter(parts))))
}

pub(super) fn properties(call: &Call, share: &mut Share) -> Result<Response, Refusal> {
    let file = share.file(&call.path)?;
    let size = file.contents.size().to_string();
    Ok(with_content_headers(file, Answer::new(StatusCode::OK))
        .header("content-length", size)
        .empty())
}

pub(super) fn set_metadata(
    call: &Call,
    share: &mut Share,
    now: DateTime<Utc>,
) -> Result<Response, Refusal> {
    let number = share.change();
    let properties = &mut share.file(&call.path)?.properties;
    properties.metadata = call.metadata();
    properties.change(number, now);
    let answer = properties.stamp(Answer::new(StatusCode::OK));
    Ok(answer.written())
}

pub(super) fn set_properties(
    call: &Call,
    share: &mut Share,
    now: DateTime<Utc>,
) -> Result<Response, Refusal> {
    let size = call.number("x-ms-content-length")?;
    if size.is_some_and(|size| size > MOST_BYTES) {
        return Err(Refusal::bad_header("x-ms-content-length"));
    }
    let number = share.change();
    let file = share.file(&call.path)?;
    file.headers = content_headers(call);
    if let Some(size) = size {
        file.contents.resize(size);
    }
    file.properties.change(number, now);
    let answer = file.properties.headers(Answer::new(StatusCode::OK));
    Ok(answer.written())
}

pub(super) fn delete(call: &Call, share: &mut Share) -> Result<Response, Refusal> {
    share.remove_file(&call.path)?;
    Ok(Answer::new(StatusCode::ACCEPTED).empty())
}

pub(super) fn put_range(
    call: &Call,
    share: &mut Share,
    now: DateTime<Utc>,
) -> Result<Response, Refusal> {
    let Some((start, Some(end))) = call.range()? else {
        return Err(Refusal::missing_header("Range"));
    };
    let update = match call.header("x-ms-write") {
        Some(write) if write.eq_ignore_ascii_case("update") => true,
        Some(write) if write.eq_ignore_ascii_case("clear") => false,
        Some(_) => return Err(Refusal::bad_header("x-ms-write")),
        None => return Err(Refusal::missing_header("x-ms-write")),
    };
    if update && call.body.len() as u64 != end - start || !update && !call.body.is_empty() {
        return Err(Refusal::bad_header("Content-Length"));
    }
    let number = share.change();
    let file = share.file(&call.path)?;
    if end > file.contents.size() {
        return Err(Refusal::bad_range());
    }
    if update {
        file.contents.write(start, call.body.clone());
    } else {
        file.contents.clear(start, end);
    }
    file.properties.change(number, now);
    let answer = file.properties.stamp(Answer::new(StatusCode::CREATED));
    Ok(answer.written())
}

pub(super) fn ranges(call: &Call, share: &mut Share) -> Result<Response, Refusal> {
    let file = share.file(&call.path)?;
    let size = file.contents.size();
    let (from, to) = match call.range()? {
        None => (0, size),
        Some((start, end)) => (start, end.map_or(size, |end| end.min(size))),
    };
    let mut xml = "<?xml version=\"1.0\" encoding=\"utf-8\"?><Ranges>".to_owned();
    for (first, last) in file.contents.ranges() {
        if first < to && last >= from {
            let (first, last) = (first.max(from), last.min(to - 1));
            let _ = write!(
                xml,
                "<Range><Start>{first}</Start><End>{last}</End></Range>"
            );
        }
    }
    xml.push_str("</Ranges>");
    let answer = file.properties.stamp(Answer::new(StatusCode::OK));
    Ok(answer
        .header("x-ms-content-length", size.to_string())
        .xml(xml))
}
