//! `logs`: prints the output of services, interleaved.

use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use lifecycle_core::api::tail;
use lifecycle_core::api::wire::ServiceLogLine;
use lifecycle_core::clock::{Clock as _, SystemClock};
use lifecycle_core::runtime::LogOptions;

use crate::arguments::{Arguments, Logs};
use crate::commands;
use crate::failure::Failure;
use crate::paint::{Tone, paint};
use crate::printer;
use crate::progress::ProgressLines;

pub(crate) async fn run(arguments: &Arguments, options: &Logs) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    let client = bootstrapper.client(identity.id).await?;
    let query = LogOptions {
        tail: options.tail,
        follow: options.follow,
        since: options.since.map(|since| since.time(SystemClock.now())),
        timestamps: options.timestamps,
    };
    let (instances, mut lines) = bootstrapper
        .wait("the first lines of output", commands::ANSWERED_WITHIN)
        .until(tail::logs(client, &options.services, &query))
        .await?;
    let mut names = Names::of(instances);
    while let Some(line) = lines.next().await {
        let line = line?;
        if arguments.json {
            printer::record(&line)?;
        } else if line.continues {
            printer::note(&format!("{}: {}", line.instance, line.line.text));
        } else if line.notice {
            printer::warning(&format!("{}: {}", line.instance, line.line.text));
        } else {
            printer::data(&text(&line, &mut names))?;
        }
    }
    Ok(())
}

fn text(line: &ServiceLogLine, names: &mut Names) -> String {
    let at = line.line.at.map_or_else(String::new, |at| {
        let at = at.format("%FT%T%.3fZ").to_string();
        format!("{} ", paint(Tone::Faint, &at))
    });
    let cut = if line.line.cut {
        paint(Tone::Caution, " [cut: the line is too long and continues]")
    } else {
        String::new()
    };
    format!(
        "{} {at}{}{cut}",
        names.prefix(&line.instance),
        line.line.text
    )
}

/// Formats the names of replicas: each in a color, and all padded to the same width.
struct Names {
    numbers: BTreeMap<String, usize>,
    width: usize,
}

impl Names {
    fn of(instances: Vec<String>) -> Self {
        Self {
            width: instances.iter().map(String::len).max().unwrap_or_default(),
            numbers: instances.into_iter().zip(0..).collect(),
        }
    }

    fn prefix(&mut self, instance: &str) -> String {
        let next = self.numbers.len();
        let number = *self.numbers.entry(instance.to_owned()).or_insert(next);
        let width = self.width;
        paint(Tone::Name(number), &format!("{instance:width$} |"))
    }
}
