//! Reads and follows the latest events, and the merged output of several services.

mod followed;

use std::collections::VecDeque;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::time::Instant;

use super::ManagerApi;
use super::wire::{PlatformState, ServiceLogLine, ServiceV1};
use crate::error::{Error, Result, Retry};
use crate::manager::audit;
use crate::model::{Event, EventKind, ServiceName, Subject};
use crate::runtime::LogOptions;

/// The pause before a stream that was interrupted is opened again.
const PAUSE: Duration = Duration::from_millis(500);

/// How long the manager of a platform that is being deleted does not respond before the platform
/// counts as deleted.
const DELETED: Duration = Duration::from_secs(10);

/// The interval at which a follower checks whether the manager of a platform that is being deleted
/// responds, and whether a service runs again.
const WATCH: Duration = Duration::from_secs(2);

/// How long a stream tolerates an outage, for example while the manager's node restarts.
const OUTAGE: Duration = Duration::from_mins(10);

/// A start time: a duration before now (`10m`, `2h 30m`), or a time in RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    Ago(Duration),
    At(DateTime<Utc>),
}

impl Since {
    /// Returns the absolute time, where `now` is the current time.
    pub fn time(self, now: DateTime<Utc>) -> DateTime<Utc> {
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
            "use a duration before now (`10m`, `2h 30m`) or a time (`2026-01-02T03:04:05Z`)"
                .to_owned()
        })
    }
}

/// Selects events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventOptions {
    /// Return only this many of the latest existing events.
    pub tail: Option<u32>,
    /// Return only events from this time on.
    pub since: Option<DateTime<Utc>>,
    /// Continue with new events as they are recorded.
    pub follow: bool,
    /// Return only events about these subjects; for a service, also those about its replicas. If
    /// empty, return all events.
    pub about: Vec<Subject>,
}

impl EventOptions {
    fn selects(&self, event: &Event) -> bool {
        let subject = &event.event.subject;
        let is_about = |selected: &Subject| match (selected, subject) {
            (Subject::Service(service), Subject::Instance(id)) => id.service == *service,
            (selected, subject) => selected == subject,
        };
        (self.about.is_empty() || self.about.iter().any(is_about))
            && self.since.is_none_or(|since| event.event.at >= since)
    }
}

/// Returns the selected events, oldest first. With `follow`, the stream survives an outage of the
/// manager of up to 10 minutes, and ends when the platform was deleted.
pub async fn events(
    api: Arc<dyn ManagerApi>,
    options: EventOptions,
) -> Result<BoxStream<'static, Result<Event>>> {
    let last = api.last_event().await?;
    let mut cursor = match (options.since, options.tail) {
        (Some(since), _) => first_since(api.as_ref(), last, since).await?,
        // If subjects are selected, search all stored events.
        (None, Some(tail)) if options.about.is_empty() => last.saturating_sub(tail.into()),
        (None, _) => 0,
    };
    let mut old = VecDeque::new();
    while cursor < last {
        let page = page(api.as_ref(), cursor).await?;
        let Some(latest) = page.last() else { break };
        cursor = latest.id;
        for event in page {
            if !options.selects(&event) {
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
    let new = NewEvents::after(cursor, api, options).await?;
    let new = stream::try_unfold(new, async |mut new| {
        Ok(new.next().await?.map(|event| (event, new)))
    });
    Ok(old.chain(new).boxed())
}

/// Follows the events that are recorded after a cursor, through outages of the manager.
struct NewEvents {
    api: Arc<dyn ManagerApi>,
    options: EventOptions,
    cursor: u64,
    /// The current stream, and when it was opened.
    stream: Option<(BoxStream<'static, Result<Event>>, Instant)>,
    /// The time of the first interruption since the manager was last known to respond.
    interrupted: Option<Instant>,
    /// Whether the platform is being deleted.
    is_deleting: bool,
}

impl NewEvents {
    async fn after(cursor: u64, api: Arc<dyn ManagerApi>, options: EventOptions) -> Result<Self> {
        let is_deleting = api.platform().await?.state == PlatformState::Deleting;
        Ok(Self {
            api,
            options,
            cursor,
            stream: None,
            interrupted: None,
            is_deleting,
        })
    }

    /// Returns the next event; `None` if the platform was deleted.
    async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            let error = match self.received().await {
                Ok(event) => {
                    self.interrupted = None;
                    self.cursor = event.id;
                    self.is_deleting |= audit::is_deletion(&event.event);
                    self.is_deleting &= event.event.kind != EventKind::Declared;
                    if self.options.selects(&event) {
                        return Ok(Some(event));
                    }
                    continue;
                }
                Err(error) => error,
            };
            // A stream that is interrupted again and again is one outage.
            let opened = self.stream.take().map(|(_, opened)| opened);
            if opened.is_some_and(|at| at.elapsed() > DELETED) {
                self.interrupted = None;
            }
            // The manager closes the stream of a client that falls behind.
            let is_closed = opened.is_some()
                && !matches!(error, Error::Denied { .. } | Error::Forbidden { .. });
            let is_temporary = is_closed || matches!(error.retry(), Retry::After(_));
            let outage = self.interrupted.get_or_insert_with(Instant::now).elapsed();
            if self.is_deleting && outage >= DELETED {
                return Ok(None);
            }
            if !self.is_deleting && (!is_temporary || outage >= OUTAGE) {
                return Err(error);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits for the next event of the current stream.
    async fn received(&mut self) -> Result<Event> {
        let stream = match &mut self.stream {
            Some((stream, _)) => stream,
            none => {
                let stream = watch(self.api.as_ref(), self.cursor).await?;
                &mut none.insert((stream, Instant::now())).0
            }
        };
        loop {
            let event = match tokio::time::timeout(WATCH, stream.next()).await {
                Ok(event) => event,
                // The stream of a node that is deleted may never end.
                Err(_) if self.is_deleting => {
                    self.api.health().await?;
                    continue;
                }
                Err(_) => continue,
            };
            return event.unwrap_or_else(|| {
                Err(Error::Interrupted {
                    what: "the stream of events".into(),
                    source: None,
                })
            });
        }
    }
}

/// Opens the stream of the events after a cursor. Events that are no longer stored are skipped.
async fn watch(api: &dyn ManagerApi, after: u64) -> Result<BoxStream<'static, Result<Event>>> {
    match api.watch_events(after).await {
        Err(Error::NotFound { .. }) => api.watch_events(oldest(api, after).await?).await,
        stream => stream,
    }
}

/// Returns the events after a cursor. Events that are no longer stored are skipped.
async fn page(api: &dyn ManagerApi, after: u64) -> Result<Vec<Event>> {
    match api.events(after).await {
        Ok(page) => Ok(page.events),
        Err(Error::NotFound { .. }) => Ok(api.events(oldest(api, after).await?).await?.events),
        Err(error) => Err(error),
    }
}

/// Finds the cursor before the oldest stored event, by bisection. `gone` is a cursor whose events
/// are no longer stored.
async fn oldest(api: &dyn ManagerApi, gone: u64) -> Result<u64> {
    let (mut gone, mut stored) = (gone, api.last_event().await?);
    while stored.saturating_sub(gone) > 1 {
        let middle = gone + (stored - gone) / 2;
        match api.events(middle).await {
            Ok(_) => stored = middle,
            Err(Error::NotFound { .. }) => gone = middle,
            Err(error) => return Err(error),
        }
    }
    Ok(stored)
}

/// Finds the cursor before the first event at or after `since`, by bisection: ids increase with
/// time.
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

/// Returns the merged output of the named services, or of all services if none is named. Lines are
/// in the order in which they arrive. Also returns the names of the replicas. With `follow`, the
/// output survives an outage of the manager of up to 10 minutes, continues when a job runs again while
/// another service is followed, and ends when the platform was deleted.
pub async fn logs(
    api: Arc<dyn ManagerApi>,
    services: &[ServiceName],
    options: &LogOptions,
) -> Result<(Vec<String>, BoxStream<'static, Result<ServiceLogLine>>)> {
    let all = api.services().await?;
    let selected: Vec<&ServiceV1> = if services.is_empty() {
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
    let shared = Arc::default();
    let mut streams = Vec::new();
    for service in &selected {
        streams.push(if options.follow {
            followed::output(&api, &service.name, options, &shared).await?
        } else {
            api.logs(&service.name, options.clone()).await?
        });
    }
    let instances = selected.iter().flat_map(|service| &service.instances);
    let instances = instances.map(|instance| instance.id.clone()).collect();
    let lines = stream::select_all(streams);
    if !options.follow {
        return Ok((instances, lines.boxed()));
    }
    let cursor = api.last_event().await?;
    let events = NewEvents::after(cursor, api, EventOptions::default()).await?;
    Ok((instances, lines.take_until(deletion(events)).boxed()))
}

/// Waits until the platform was deleted.
async fn deletion(mut events: NewEvents) {
    loop {
        match events.next().await {
            Ok(Some(_)) => {}
            Ok(None) => return,
            // The output itself reports the outage. An error may be temporary, for example that the
            // manager's container has ended.
            Err(_) => tokio::time::sleep(WATCH).await,
        }
    }
}

fn unknown_service(name: &str, all: &[ServiceV1]) -> Error {
    let known = all.iter().map(|service| service.name.as_str());
    Error::unknown_name(format!("service {name}"), name, known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_time_is_a_duration_before_now_or_a_time() {
        let now: DateTime<Utc> = "2026-01-02T03:04:05Z".parse().unwrap();
        let of = |text: &str| text.parse::<Since>().map(|since| since.time(now));
        assert_eq!(of("5s"), Ok("2026-01-02T03:04:00Z".parse().unwrap()));
        assert_eq!(of("1h 4m"), Ok("2026-01-02T02:00:05Z".parse().unwrap()));
        let time = "2025-12-31T23:00:00+01:00";
        assert_eq!(of(time), Ok("2025-12-31T22:00:00Z".parse().unwrap()));
        assert_eq!(of("300000years"), Ok(DateTime::UNIX_EPOCH));
        assert!(of("yesterday").is_err());
    }
}
