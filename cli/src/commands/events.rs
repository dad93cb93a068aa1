//! `events`: prints past events and, with `--follow`, new ones.

use std::time::Duration;

use futures_util::StreamExt as _;
use lifecycle_core::api::tail::{self, EventOptions};
use lifecycle_core::clock::{Clock as _, SystemClock};
use lifecycle_core::model::{Event, EventKind};

use crate::arguments::{Arguments, Events};
use crate::commands;
use crate::failure::Failure;
use crate::paint::{Tone, paint};
use crate::printer;
use crate::progress::ProgressLines;

/// Time limit for reading all pages of the history.
const EVENTS_WITHIN: Duration = Duration::from_mins(10);

/// The number of past events that are shown by default.
const LATEST: u32 = 50;

pub(crate) async fn run(arguments: &Arguments, options: &Events) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    let client = bootstrapper.client(identity.id).await?;
    let mut about = Vec::new();
    for name in &options.names {
        let why = bootstrapper
            .wait("the manager's response", commands::ANSWERED_WITHIN)
            .until(client.why(name))
            .await?;
        about.push(why.subject);
    }
    let latest = options.since.is_none().then_some(LATEST);
    let query = EventOptions {
        tail: options.tail.or(latest),
        since: options.since.map(|since| since.time(SystemClock.now())),
        follow: options.follow,
        about,
    };
    let mut events = bootstrapper
        .wait("the events", EVENTS_WITHIN)
        .until(tail::events(client, query))
        .await?;
    while let Some(event) = events.next().await {
        let event = event?;
        if arguments.json {
            printer::record(&event)?;
        } else {
            printer::data(&text(&event))?;
        }
    }
    if options.follow {
        printer::note("the platform was deleted");
    }
    Ok(())
}

/// Formats an event as one line.
pub(crate) fn text(event: &Event) -> String {
    let event = &event.event;
    let kind = serde_json::to_value(event.kind).unwrap_or_default();
    let kind = format!("{:<14}", kind.as_str().unwrap_or_default());
    let at = event.at.format("%F %T").to_string();
    format!(
        "{} {} {}",
        paint(Tone::Faint, &at),
        paint(tone(event.kind), &kind),
        event.message
    )
}

fn tone(kind: EventKind) -> Tone {
    match kind {
        EventKind::StepSucceeded
        | EventKind::Ready
        | EventKind::NodeKnown
        | EventKind::FirstRoundDone
        | EventKind::DatabaseAvailable => Tone::Good,
        EventKind::StepFailed
        | EventKind::Failed
        | EventKind::NodeUnknown
        | EventKind::DatabaseUnavailable => Tone::Bad,
        EventKind::NotReady => Tone::Caution,
        _ => Tone::Accent,
    }
}
