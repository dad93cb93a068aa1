//! Colors text according to its meaning. The printer decides whether colors are used.

use anstyle::{AnsiColor, Style};

/// The meaning of a piece of text, which determines its color.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// A good state.
    Good,
    /// In progress, or a minor problem.
    Caution,
    /// A failure.
    Bad,
    /// Important text.
    Strong,
    /// Less important text.
    Faint,
    /// An instruction to the user.
    Accent,
    /// One of several names. The number selects the color.
    Name(usize),
}

/// The colors for names; none of them suggests a good or a bad state.
const NAMES: [AnsiColor; 6] = [
    AnsiColor::Cyan,
    AnsiColor::Magenta,
    AnsiColor::Blue,
    AnsiColor::BrightCyan,
    AnsiColor::BrightMagenta,
    AnsiColor::BrightBlue,
];

/// Returns `text` in the color of `tone`.
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

/// Returns the tone for a state.
pub(crate) fn of_state(word: &str) -> Tone {
    match word {
        "ready" | "running" | "completed" => Tone::Good,
        "failed" | "unknown" | "absent" | "degraded" => Tone::Bad,
        _ => Tone::Caution,
    }
}
