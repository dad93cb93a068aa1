//! Formats lists as XML, in pages.

use std::fmt::Write as _;

use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quick_xml::escape::escape;

use super::Account;
use super::answer::{Answer, Refusal, file_time, http_date};
use super::call::Call;
use super::tree::{Directory, Entry, etag};

/// A page of a list, and the marker of the next page.
struct Page<T> {
    items: Vec<T>,
    next: Option<String>,
}

/// Selects a page of `all`, whose items are sorted by key. The marker contains characters that must
/// be escaped in a URL, so that tests detect clients that do not escape the marker.
fn page<T>(
    call: &Call,
    most: usize,
    all: impl Iterator<Item = (String, T)>,
) -> Result<Page<T>, Refusal> {
    let expected = match call.parameter("maxresults") {
        None => most,
        Some(text) => match text.parse::<usize>() {
            Ok(number) if number > 0 => number.min(most),
            _ => return Err(Refusal::bad_parameter("maxresults")),
        },
    };
    let from = match call.parameter("marker") {
        None | Some("") => String::new(),
        Some(marker) => read_marker(marker).ok_or_else(|| Refusal::bad_parameter("marker"))?,
    };
    let mut rest = all.skip_while(|(key, _)| *key < from).peekable();
    let items = rest.by_ref().take(expected).map(|(_, item)| item).collect();
    let next = rest.peek().map(|(key, _)| marker(key));
    Ok(Page { items, next })
}

fn marker(key: &str) -> String {
    let name = STANDARD.encode(key);
    format!("2!{}!{name}=?&+", name.len())
}

fn read_marker(marker: &str) -> Option<String> {
    let name = marker.strip_suffix("=?&+")?.rsplit('!').next()?;
    String::from_utf8(STANDARD.decode(name).ok()?).ok()
}

/// Returns the parameters of a list request, which Azure repeats in the response.
fn asked(call: &Call) -> String {
    let mut xml = String::new();
    for (parameter, element) in [
        ("prefix", "Prefix"),
        ("marker", "Marker"),
        ("maxresults", "MaxResults"),
    ] {
        match call.parameter(parameter) {
            Some(value) if !value.is_empty() => {
                let value = escape(value);
                let _ = write!(xml, "<{element}>{value}</{element}>");
            }
            _ => {}
        }
    }
    xml
}

fn end(next: Option<&str>) -> String {
    match next {
        Some(marker) => format!("<NextMarker>{}</NextMarker>", escape(marker)),
        None => "<NextMarker />".to_owned(),
    }
}

/// Returns the list of a directory's entries.
pub(super) fn directory(
    call: &Call,
    most: usize,
    directory: &Directory,
) -> Result<Response, Refusal> {
    let prefix = call.parameter("prefix").unwrap_or_default().to_lowercase();
    let entries = directory
        .entries
        .iter()
        .filter(|(key, _)| key.starts_with(&prefix))
        .map(|(key, entry)| (key.clone(), entry));
    let page = page(call, most, entries)?;
    let include = call.parameter("include").unwrap_or_default().to_lowercase();
    let extended = !include.is_empty() || call.header("x-ms-file-extended-info").is_some();
    let host = call.header("host").unwrap_or_default();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults \
         ServiceEndpoint=\"https://{}/\" ShareName=\"{}\" DirectoryPath=\"{}\">{}",
        escape(host),
        escape(call.share.as_deref().unwrap_or_default()),
        escape(call.path.join("/")),
        asked(call),
    );
    if extended {
        let _ = write!(
            xml,
            "<DirectoryId>{}</DirectoryId>",
            directory.properties.id
        );
    }
    xml.push_str("<Entries>");
    for entry in page.items {
        let properties = entry.properties();
        let (element, size) = match entry {
            Entry::Directory(_) => ("Directory", None),
            Entry::File(file) => ("File", Some(file.contents.size())),
        };
        let _ = write!(xml, "<{element}><Name>{}</Name>", escape(&properties.name));
        if extended {
            let _ = write!(xml, "<FileId>{}</FileId>", properties.id);
        }
        xml.push_str("<Properties>");
        if let Some(size) = size {
            let _ = write!(xml, "<Content-Length>{size}</Content-Length>");
        }
        if include.contains("timestamps") {
            let modified = file_time(properties.modified);
            let _ = write!(
                xml,
                "<CreationTime>{}</CreationTime><LastAccessTime>{modified}</LastAccessTime>\
                 <LastWriteTime>{modified}</LastWriteTime><ChangeTime>{modified}</ChangeTime>\
                 <Last-Modified>{}</Last-Modified>",
                file_time(properties.created),
                http_date(properties.modified),
            );
        }
        if include.contains("etag") {
            let _ = write!(xml, "<Etag>{}</Etag>", escape(etag(properties.etag)));
        }
        xml.push_str("</Properties>");
        if include.contains("attributes") {
            let _ = write!(xml, "<Attributes>{}</Attributes>", properties.attributes);
        }
        let _ = write!(xml, "</{element}>");
    }
    let _ = write!(
        xml,
        "</Entries>{}</EnumerationResults>",
        end(page.next.as_deref())
    );
    Ok(Answer::new(StatusCode::OK).xml(xml))
}

/// Returns the list of an account's shares.
pub(super) fn shares(call: &Call, most: usize, account: &Account) -> Result<Response, Refusal> {
    let prefix = call.parameter("prefix").unwrap_or_default();
    let shares = account
        .shares
        .iter()
        .filter(|(name, _)| name.starts_with(prefix))
        .map(|(name, share)| (name.clone(), (name, share)));
    let page = page(call, most, shares)?;
    let host = call.header("host").unwrap_or_default();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults \
         ServiceEndpoint=\"https://{}/\">{}<Shares>",
        escape(host),
        asked(call)
    );
    let with_metadata = call
        .parameter("include")
        .is_some_and(|include| include.contains("metadata"));
    for (name, share) in page.items {
        let _ = write!(
            xml,
            "<Share><Name>{}</Name><Properties><Last-Modified>{}</Last-Modified>\
             <Etag>{}</Etag><Quota>5120</Quota><AccessTier>TransactionOptimized</AccessTier>\
             </Properties>",
            escape(name),
            http_date(share.modified),
            escape(etag(share.etag)),
        );
        if with_metadata {
            xml.push_str("<Metadata>");
            for (name, value) in &share.metadata {
                let _ = write!(xml, "<{name}>{}</{name}>", escape(value));
            }
            xml.push_str("</Metadata>");
        }
        xml.push_str("</Share>");
    }
    let _ = write!(
        xml,
        "</Shares>{}</EnumerationResults>",
        end(page.next.as_deref())
    );
    Ok(Answer::new(StatusCode::OK).xml(xml))
}
