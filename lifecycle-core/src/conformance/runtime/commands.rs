//! Checks of commands in containers.

use futures_util::StreamExt;

use super::{RuntimeFixture, done, in_time, is_not_found};
use crate::error::Error;
use crate::runtime::{ExecCommand, ExecOutput, TerminalSize};

/// Checks that a command in a container reports its output by stream, and its exit code last.
pub async fn commands_run_in_containers(fixture: &RuntimeFixture) {
    let runtime = &fixture.runtime;
    let spec = fixture.container("exec", &fixture.runs_long);
    let name = &spec.name;
    let absent = runtime.exec(name, &ExecCommand::new(["true"])).await;
    is_not_found("a command in an absent container", &absent.map(drop));
    fixture.ensure(&spec).await;
    let run = async |command: &[String], terminal: Option<TerminalSize>| {
        let command = ExecCommand {
            terminal,
            ..ExecCommand::new(command)
        };
        let session = done("exec", runtime.exec(name, &command).await);
        let (mut out, mut err, mut code) = (Vec::new(), Vec::new(), None);
        let read = async {
            let mut output = session.output;
            while let Some(piece) = output.next().await {
                assert_eq!(code, None, "the exit code comes last");
                match done("a piece", piece) {
                    ExecOutput::Stdout(bytes) => out.extend_from_slice(&bytes),
                    ExecOutput::Stderr(bytes) => err.extend_from_slice(&bytes),
                    ExecOutput::Exit(ended) => code = Some(ended),
                }
            }
        };
        in_time("a command in a container", read).await;
        (
            String::from_utf8_lossy(&out).into_owned(),
            String::from_utf8_lossy(&err).into_owned(),
            code,
        )
    };
    let output_of = run(&fixture.prints, None).await;
    assert_eq!(output_of, ("out\n".to_owned(), "err\n".to_owned(), Some(0)));
    assert_eq!(run(&fixture.exits_3, None).await.2, Some(3));
    assert_eq!(run(&fixture.exits_0, None).await.2, Some(0));
    // A short command may end before its terminal gets its size.
    let unknown = TerminalSize {
        columns: 0,
        rows: 0,
    };
    for size in [TerminalSize::DEFAULT, unknown] {
        for _ in 0..5 {
            assert_eq!(run(&fixture.exits_3, Some(size)).await.2, Some(3));
        }
    }
    let command = ExecCommand::new(&fixture.runs_long);
    let session = done("exec", runtime.exec(name, &command).await);
    for _ in 0..2 {
        done("ending a command", runtime.end_exec(&session.id).await);
    }
    let pieces = session.output.collect::<Vec<_>>();
    let pieces = in_time("the end of a command", pieces).await;
    let last = pieces.into_iter().last();
    let last = last.map(|piece| done("the exit code", piece));
    assert!(
        matches!(last, Some(ExecOutput::Exit(_))),
        "an ended command: {last:?}"
    );
    let size = TerminalSize::DEFAULT;
    let resized = runtime.resize_exec(&session.id, size).await;
    done("the resize of an ended command", resized);
    fixture.stop(name).await;
    let stopped = runtime.exec(name, &ExecCommand::new(["true"])).await;
    assert!(
        matches!(stopped, Err(Error::Conflict { .. })),
        "a command in a stopped container: {stopped:?}"
    );
    fixture.remove(name).await;
}
