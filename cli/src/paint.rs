//! What colours mean here. Whether they are seen is the printer's business.

use anstyle::{AnsiColor, Style};

/// What a piece of text says beside its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// Not yet, or not quite.
    Caution,
    /// Wrong.
    Bad,
    /// What matters most.
    Strong,
    /// What matters less.
    Faint,
    /// What to do.
    Accent,
    /// One of several that are told apart, by its number.
    Name(usize),
}

/// The colours of names, none of which says good or bad.
const NAMES: [AnsiColor; 6] = [
    AnsiColor::Cyan,
    AnsiColor::Magenta,
    AnsiColor::Blue,
    AnsiColor::BrightCyan,
    AnsiColor::BrightMagenta,
    AnsiColor::BrightBlue,
];

/// Paints a text.
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

/// The tone of a state's word.
pub(crate) fn of_state(word: &str) -> Tone {
    match word {
        "ready" | "running" | "completed" => Tone::Good,
        "failed" | "unknown" | "absent" | "degraded" => Tone::Bad,
        _ => Tone::Caution,
    }
}
