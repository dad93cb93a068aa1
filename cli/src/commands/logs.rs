//! `logs`: what a service writes.

use futures_util::StreamExt as _;

use crate::arguments::{Arguments, Logs};
use crate::commands;
use crate::failure::Failure;
use crate::printer;
use crate::progress::ProgressLines;

pub(crate) async fn run(arguments: &Arguments, options: &Logs) -> Result<(), Failure> {
    let progress = ProgressLines::new(arguments.json);
    let (identity, bootstrapper) = commands::running(arguments, progress).await?;
    let client = bootstrapper.client(identity.id).await?;
    let mut lines = client
        .logs(&options.service, options.tail, options.follow)
        .await?;
    while let Some(line) = lines.next().await {
        let line = line?;
        if arguments.json {
            printer::record(&line)?;
        } else if line.notice {
            printer::talk(&format!("warning: {}: {}", line.instance, line.line.text));
        } else {
            printer::data(&format!("{} | {}", line.instance, line.line.text))?;
        }
    }
    Ok(())
}
