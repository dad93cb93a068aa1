//! Defines how containers behave. A test can specify the behavior for each service. Otherwise the
//! container's command determines when the container exits; with an unknown command, the container
//! becomes ready soon and runs forever.

use std::time::Duration;

use crate::model::Protocol;
use crate::runtime::LogLine;

/// How a container exits on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The time from the container's start to its exit.
    pub after: Duration,
    pub code: i64,
}

/// Specifies how the containers of a service behave from their next start on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// The time from the container's start until it answers; random by default.
    pub ready_after: Option<Duration>,
    /// Whether the container never answers and always fails its health check.
    pub never_ready: bool,
    /// When and how the container exits on its own, if it does.
    pub exits: Option<Exit>,
    /// The time from the container's start until it stops answering and fails its health check.
    pub unhealthy_after: Option<Duration>,
    /// Whether the container's image has a health check.
    pub has_healthcheck: bool,
    /// The ports that the container's image exposes.
    pub exposed: Vec<(u16, Protocol)>,
}

impl Behaviour {
    /// Makes the container answer this long after its start.
    #[must_use]
    pub fn ready_after(mut self, after: Duration) -> Self {
        self.ready_after = Some(after);
        self
    }

    /// Makes the container never answer.
    #[must_use]
    pub fn never_ready(mut self) -> Self {
        self.never_ready = true;
        self
    }

    /// Makes the container exit on its own.
    #[must_use]
    pub fn exits(mut self, after: Duration, code: i64) -> Self {
        self.exits = Some(Exit { after, code });
        self
    }

    /// Makes the container stop answering this long after its start.
    #[must_use]
    pub fn unhealthy_after(mut self, after: Duration) -> Self {
        self.unhealthy_after = Some(after);
        self
    }

    /// Gives the container's image a health check.
    #[must_use]
    pub fn with_healthcheck(mut self) -> Self {
        self.has_healthcheck = true;
        self
    }

    /// Makes the container's image expose this TCP port.
    #[must_use]
    pub fn exposes(mut self, port: u16) -> Self {
        self.exposed.push((port, Protocol::Tcp));
        self
    }
}

/// The effects of a command that the simulation can interpret.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Simulated {
    pub(super) lines: Vec<LogLine>,
    pub(super) exit: Option<Exit>,
}

impl Simulated {
    fn ending(mut self, after: Duration, code: i64) -> Self {
        self.exit = Some(Exit { after, code });
        self
    }
}

/// The duration of a command that does nothing.
const MOMENT: Duration = Duration::from_millis(5);

/// Interprets `true`, `false`, `sleep N`, and shell lines that consist of `echo … [>&2]`, `sleep N`
/// and `exit N`. Other commands run forever.
pub(super) fn simulate(command: &[String]) -> Simulated {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let words = match words.split_first() {
        Some((first, rest)) if program(first) == "busybox" => rest,
        _ => &words[..],
    };
    match words {
        [shell, "-c", line] if program(shell) == "sh" => shell_line(line),
        [] => Simulated::default(),
        words => {
            let mut performance = Simulated::default();
            let mut passed = MOMENT;
            match statement(words, &mut performance.lines, &mut passed) {
                Then::Continues => performance.ending(passed, 0),
                Then::Ends(code) => performance.ending(passed, code),
                Then::NeverEnds => performance,
            }
        }
    }
}

fn shell_line(line: &str) -> Simulated {
    let mut performance = Simulated::default();
    let mut passed = MOMENT;
    for part in line.split(';').flat_map(|part| part.split("&&")) {
        let words: Vec<&str> = part.split_whitespace().collect();
        match statement(&words, &mut performance.lines, &mut passed) {
            Then::Continues => {}
            Then::Ends(code) => return performance.ending(passed, code),
            Then::NeverEnds => return performance,
        }
    }
    performance.ending(passed, 0)
}

enum Then {
    Continues,
    Ends(i64),
    NeverEnds,
}

fn statement(words: &[&str], lines: &mut Vec<LogLine>, passed: &mut Duration) -> Then {
    match words {
        [] => Then::Continues,
        ["exec", rest @ ..] => match statement(rest, lines, passed) {
            Then::Continues => Then::Ends(0),
            then => then,
        },
        ["echo", words @ ..] => {
            let (stderr, words) = match words {
                [words @ .., ">&2" | "1>&2"] => (true, words),
                words => (false, words),
            };
            lines.push(LogLine {
                stderr,
                text: words.join(" ").replace(['"', '\''], ""),
                ..LogLine::default()
            });
            Then::Continues
        }
        ["sleep", seconds] => {
            let seconds = seconds.parse().ok();
            match seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()) {
                Some(sleeps) => {
                    *passed = passed.saturating_add(sleeps);
                    Then::Continues
                }
                None => Then::NeverEnds,
            }
        }
        ["exit", code] => code.parse().map_or(Then::NeverEnds, Then::Ends),
        [word] if program(word) == "true" => Then::Continues,
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
        simulate(&command)
            .exit
            .map(|exit| (exit.after.as_secs(), exit.code))
    }

    #[test]
    fn commands_exit_like_real_ones() {
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
    fn echo_writes_to_the_log() {
        let command = ["sh", "-c", "echo one two; echo 'three' >&2"].map(str::to_owned);
        let lines = simulate(&command).lines;
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (lines[0].stderr, lines[0].text.as_str()),
            (false, "one two")
        );
        assert_eq!((lines[1].stderr, lines[1].text.as_str()), (true, "three"));
    }
}
