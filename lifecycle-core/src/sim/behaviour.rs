//! How containers behave: as the test says for a service, else as their command says, else
//! they run for ever and are ready after a moment.

use std::time::Duration;

use crate::model::Protocol;
use crate::runtime::LogLine;

/// How a container ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// So long after its start.
    pub after: Duration,
    /// With this code.
    pub code: i64,
}

/// How the containers of a service behave, from their next start on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// How long after its start it answers; drawn without one.
    pub ready_after: Option<Duration>,
    /// It never answers, and its health check fails.
    pub never_ready: bool,
    /// It ends by itself.
    pub exits: Option<Exit>,
    /// So long after its start it answers no more, and its health check fails.
    pub unhealthy_after: Option<Duration>,
    /// Its image declares a health check.
    pub has_healthcheck: bool,
    /// Ports that its image declares.
    pub exposed: Vec<(u16, Protocol)>,
}

impl Behaviour {
    /// It answers so long after its start.
    #[must_use]
    pub fn ready_after(mut self, after: Duration) -> Self {
        self.ready_after = Some(after);
        self
    }

    /// It never answers.
    #[must_use]
    pub fn never_ready(mut self) -> Self {
        self.never_ready = true;
        self
    }

    /// It ends by itself.
    #[must_use]
    pub fn exits(mut self, after: Duration, code: i64) -> Self {
        self.exits = Some(Exit { after, code });
        self
    }

    /// It answers no more so long after its start.
    #[must_use]
    pub fn unhealthy_after(mut self, after: Duration) -> Self {
        self.unhealthy_after = Some(after);
        self
    }

    /// Its image declares a health check.
    #[must_use]
    pub fn with_healthcheck(mut self) -> Self {
        self.has_healthcheck = true;
        self
    }

    /// Its image declares this TCP port.
    #[must_use]
    pub fn exposes(mut self, port: u16) -> Self {
        self.exposed.push((port, Protocol::Tcp));
        self
    }
}

/// What a command does, as far as the simulation understands commands.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Performance {
    pub(super) lines: Vec<LogLine>,
    pub(super) exit: Option<Exit>,
}

impl Performance {
    fn ending(mut self, after: Duration, code: i64) -> Self {
        self.exit = Some(Exit { after, code });
        self
    }
}

/// How long a command takes that does nothing.
const MOMENT: Duration = Duration::from_millis(5);

/// Reads `true`, `false`, `sleep N` and shell lines of `echo … [>&2]`, `sleep N` and `exit N`;
/// anything else runs for ever.
pub(super) fn perform(command: &[String]) -> Performance {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let words = match words.split_first() {
        Some((first, rest)) if program(first) == "busybox" => rest,
        _ => &words[..],
    };
    match words {
        [shell, "-c", line] if program(shell) == "sh" => shell_line(line),
        [] => Performance::default(),
        words => {
            let mut performance = Performance::default();
            let mut passed = MOMENT;
            match statement(words, &mut performance.lines, &mut passed) {
                Then::GoesOn => performance.ending(passed, 0),
                Then::Ends(code) => performance.ending(passed, code),
                Then::NeverEnds => performance,
            }
        }
    }
}

fn shell_line(line: &str) -> Performance {
    let mut performance = Performance::default();
    let mut passed = MOMENT;
    for part in line.split(';').flat_map(|part| part.split("&&")) {
        let words: Vec<&str> = part.split_whitespace().collect();
        match statement(&words, &mut performance.lines, &mut passed) {
            Then::GoesOn => {}
            Then::Ends(code) => return performance.ending(passed, code),
            Then::NeverEnds => return performance,
        }
    }
    performance.ending(passed, 0)
}

/// What comes after a statement.
enum Then {
    GoesOn,
    Ends(i64),
    NeverEnds,
}

fn statement(words: &[&str], lines: &mut Vec<LogLine>, passed: &mut Duration) -> Then {
    match words {
        [] => Then::GoesOn,
        ["exec", rest @ ..] => match statement(rest, lines, passed) {
            Then::GoesOn => Then::Ends(0),
            then => then,
        },
        ["echo", said @ ..] => {
            let (stderr, said) = match said {
                [said @ .., ">&2" | "1>&2"] => (true, said),
                said => (false, said),
            };
            lines.push(LogLine {
                at: None,
                stderr,
                text: said.join(" ").replace(['"', '\''], ""),
            });
            Then::GoesOn
        }
        ["sleep", seconds] => {
            let seconds = seconds.parse().ok();
            match seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()) {
                Some(sleeps) => {
                    *passed = passed.saturating_add(sleeps);
                    Then::GoesOn
                }
                None => Then::NeverEnds,
            }
        }
        ["exit", code] => code.parse().map_or(Then::NeverEnds, Then::Ends),
        [word] if program(word) == "true" => Then::GoesOn,
        [word] if program(word) == "false" => Then::Ends(1),
        _ => Then::NeverEnds,
    }
}

fn program(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit_of(command: &[&str]) -> Option<(u64, i64)> {
        let command: Vec<String> = command.iter().map(|w| (*w).to_owned()).collect();
        perform(&command)
            .exit
            .map(|exit| (exit.after.as_secs(), exit.code))
    }

    #[test]
    fn commands_end_as_they_would() {
        assert_eq!(exit_of(&["true"]), Some((0, 0)));
        assert_eq!(exit_of(&["/bin/false"]), Some((0, 1)));
        assert_eq!(exit_of(&["/bin/busybox", "sleep", "9"]), Some((9, 0)));
        assert_eq!(exit_of(&["sh", "-c", "sleep 2; exit 3"]), Some((2, 3)));
        assert_eq!(
            exit_of(&["sh", "-c", "echo a && exec sleep 4"]),
            Some((4, 0))
        );
        assert_eq!(exit_of(&["sleep", "infinity"]), None);
        assert_eq!(exit_of(&["/usr/bin/server", "--port", "80"]), None);
        assert_eq!(exit_of(&[]), None);
    }

    #[test]
    fn what_is_echoed_is_logged() {
        let command = ["sh", "-c", "echo one two; echo 'three' >&2"].map(str::to_owned);
        let lines = perform(&command).lines;
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (lines[0].stderr, lines[0].text.as_str()),
            (false, "one two")
        );
        assert_eq!((lines[1].stderr, lines[1].text.as_str()), (true, "three"));
    }
}
