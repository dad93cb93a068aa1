//! Colours and what they mean. The printer decides whether they are used.

use anstyle::{AnsiColor, Style};

/// What a piece of text expresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// In progress, or a minor problem.
    Caution,
    /// A failure.
    Bad,
    /// Important.
    Strong,
    /// Less important.
    Faint,
    /// An instruction.
    Accent,
    /// One of several names, by its index.
    Name(usize),
}

/// The colours of names; none of them suggests good or bad.
const NAMES: [AnsiColor; 6] = [
    AnsiColor::Cyan,
    AnsiColor::Magenta,
    AnsiColor::Blue,
    AnsiColor::BrightCyan,
    AnsiColor::BrightMagenta,
    AnsiColor::BrightBlue,
];

/// Colours a text.
pub(crate) fn paint(tone: Tone, text: &str) -> String {
    let style = match tone {
        Tone::Good => AnsiColor::Green.on_default(),
        Tone::Caution => AnsiColor::Yellow.on_default(),
        Tone::Bad => AnsiColor::Red.on_default().bold(),
        Tone::Strong => Style::new().bold(),
        Tone::Faint => Style::new().dimmed(),
        Tone::Accent => AnsiColor::Cyan.on_default(),
        Tone::Name(number) => NAMES[number % NAMES.len()].on_default(),
    };
    format!("{style}{text}{style:#}")
}

/// The tone of a state.
pub(crate) fn of_state(word: &str) -> Tone {
    match word {
        "ready" | "running" | "completed" => Tone::Good,
        "failed" | "unknown" | "absent" | "degraded" => Tone::Bad,
        _ => Tone::Caution,
    }
}
