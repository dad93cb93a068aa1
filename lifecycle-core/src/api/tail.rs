//! The end of what is written on and on: events, and the output of several services at once.

use std::collections::VecDeque;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::time::Instant;

use super::ManagerApi;
use super::wire::{ServiceLogLine, ServiceV1};
use crate::error::{Error, Result, Retry};
use crate::model::{Event, ServiceName, Subject};
use crate::runtime::LogOptions;

/// How often is looked for new events.
const PACE: Duration = Duration::from_millis(500);

/// How long a manager that answered may be silent while its events are followed: it may be
/// replaced meanwhile.
const SILENCE: Duration = Duration::from_mins(1);

/// From when on: `10m`, `2h 30m` back, or a moment in RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// So long ago.
    Ago(Duration),
    /// From this moment on.
    At(DateTime<Utc>),
}

impl Since {
    /// The moment, `now` being now.
    pub fn moment(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::At(at) => at,
            Self::Ago(ago) => chrono::Duration::from_std(ago)
                .ok()
                .and_then(|ago| now.checked_sub_signed(ago))
                .unwrap_or(DateTime::UNIX_EPOCH),
        }
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(at) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::At(at.to_utc()));
        }
        humantime::parse_duration(text).map(Self::Ago).map_err(|_| {
            "write how long ago (`10m`, `2h 30m`) or a moment (`2026-01-02T03:04:05Z`)".to_owned()
        })
    }
}

/// Which events are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventOptions {
    /// Only the last so many that there are now.
    pub tail: Option<u32>,
    /// Only those from this moment on.
    pub since: Option<DateTime<Utc>>,
    /// Go on as new ones come.
    pub follow: bool,
    /// Only those about these: a service stands for its replicas too.
    pub about: Vec<Subject>,
}

impl EventOptions {
    fn wants(&self, event: &Event) -> bool {
        let subject = &event.event.subject;
        let is_about = |wanted: &Subject| match (wanted, subject) {
            (Subject::Service(service), Subject::Instance(id)) => id.service == *service,
            (wanted, subject) => wanted == subject,
        };
        (self.about.is_empty() || self.about.iter().any(is_about))
            && self.since.is_none_or(|since| event.event.at >= since)
    }
}

/// Events, oldest first. A stream that follows outlives a manager that is away for a moment.
pub async fn events(
    api: Arc<dyn ManagerApi>,
    options: EventOptions,
) -> Result<BoxStream<'static, Result<Event>>> {
    let last = api.last_event().await?;
    let mut cursor = match (options.since, options.tail) {
        (Some(since), _) => first_since(api.as_ref(), last, since).await?,
        // Those about something are among all others.
        (None, Some(tail)) if options.about.is_empty() => last.saturating_sub(tail.into()),
        (None, _) => 0,
    };
    let mut old = VecDeque::new();
    while cursor < last {
        let page = page(api.as_ref(), cursor).await?;
        let Some(latest) = page.last() else { break };
        cursor = latest.id;
        for event in page {
            if !options.wants(&event) {
                continue;
            }
            old.push_back(event);
            if options.tail.is_some_and(|tail| old.len() > tail as usize) {
                old.pop_front();
            }
        }
    }
    let old = stream::iter(old).map(Ok);
    if !options.follow {
        return Ok(old.boxed());
    }
    let new = stream::try_unfold(
        (api, cursor, VecDeque::new()),
        move |(api, mut cursor, mut waiting): (_, _, VecDeque<Event>)| {
            let options = options.clone();
            async move {
                let mut heard = Instant::now();
                loop {
                    if let Some(event) = waiting.pop_front() {
                        return Ok(Some((event, (api, cursor, waiting))));
                    }
                    match page(api.as_ref(), cursor).await {
                        Ok(page) => {
                            heard = Instant::now();
                            cursor = page.last().map_or(cursor, |event| event.id);
                            waiting.extend(page.into_iter().filter(|e| options.wants(e)));
                            if !waiting.is_empty() {
                                continue;
                            }
                        }
                        Err(error) => match error.retry() {
                            Retry::After(_) if heard.elapsed() < SILENCE => {}
                            _ => return Err(error),
                        },
                    }
                    tokio::time::sleep(PACE).await;
                }
            }
        },
    );
    Ok(old.chain(new).boxed())
}

/// The events after a cursor; those that are not kept any more are skipped.
async fn page(api: &dyn ManagerApi, after: u64) -> Result<Vec<Event>> {
    match api.events(after).await {
        Ok(page) => Ok(page.events),
        Err(Error::NotFound { .. }) => Ok(api.events(oldest(api, after).await?).await?.events),
        Err(error) => Err(error),
    }
}

/// The cursor before the oldest event that is kept; the one at `gone` is not.
async fn oldest(api: &dyn ManagerApi, gone: u64) -> Result<u64> {
    let (mut gone, mut kept) = (gone, api.last_event().await?);
    while kept.saturating_sub(gone) > 1 {
        let middle = gone + (kept - gone) / 2;
        match api.events(middle).await {
            Ok(_) => kept = middle,
            Err(Error::NotFound { .. }) => gone = middle,
            Err(error) => return Err(error),
        }
    }
    Ok(kept)
}

/// A cursor before the first event since then: events are numbered in the order of time.
async fn first_since(api: &dyn ManagerApi, last: u64, since: DateTime<Utc>) -> Result<u64> {
    let (mut low, mut high) = (0, last);
    while low < high {
        let middle = low + (high - low) / 2;
        let is_before = match api.events(middle).await {
            Ok(page) => page.events.first().is_some_and(|e| e.event.at < since),
            Err(Error::NotFound { .. }) => true,
            Err(error) => return Err(error),
        };
        if is_before {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// The output of several services, interleaved as it comes; of all, if none is named. Gives also
/// the names of their replicas.
pub async fn logs(
    api: &dyn ManagerApi,
    services: &[ServiceName],
    options: &LogOptions,
) -> Result<(Vec<String>, BoxStream<'static, Result<ServiceLogLine>>)> {
    let all = api.services().await?;
    let wanted: Vec<&ServiceV1> = if services.is_empty() {
        all.iter().collect()
    } else {
        services
            .iter()
            .map(|name| {
                let found = all.iter().find(|service| service.name == *name);
                found.ok_or_else(|| unknown_service(name.as_str(), &all))
            })
            .collect::<Result<_>>()?
    };
    let mut streams = Vec::new();
    for service in &wanted {
        streams.push(api.logs(&service.name, options.clone()).await?);
    }
    let instances = wanted.iter().flat_map(|service| &service.instances);
    let instances = instances.map(|instance| instance.id.clone()).collect();
    Ok((instances, stream::select_all(streams).boxed()))
}

fn unknown_service(name: &str, all: &[ServiceV1]) -> Error {
    let known = all.iter().map(|service| service.name.as_str());
    Error::unknown_name(format!("service {name}"), name, known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_said_by_its_distance_or_as_a_moment() {
        let now: DateTime<Utc> = "2026-01-02T03:04:05Z".parse().unwrap();
        let of = |text: &str| text.parse::<Since>().map(|since| since.moment(now));
        assert_eq!(of("5s"), Ok("2026-01-02T03:04:00Z".parse().unwrap()));
        assert_eq!(of("1h 4m"), Ok("2026-01-02T02:00:05Z".parse().unwrap()));
        let moment = "2025-12-31T23:00:00+01:00";
        assert_eq!(of(moment), Ok("2025-12-31T22:00:00Z".parse().unwrap()));
        assert_eq!(of("300000years"), Ok(DateTime::UNIX_EPOCH));
        assert!(of("yesterday").is_err());
    }
}
