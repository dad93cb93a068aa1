//! Formats tables for the terminal.

use comfy_table::presets;

use crate::paint::{Tone, paint};

/// A table whose rows have colors.
pub(crate) struct Table {
    table: comfy_table::Table,
    tones: Vec<Tone>,
}

impl Table {
    pub(crate) fn of(headings: &[&str]) -> Self {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(headings.to_vec());
        Self {
            table,
            tones: vec![Tone::Faint],
        }
    }

    pub(crate) fn row(&mut self, tone: Tone, cells: Vec<String>) {
        // Replace line breaks, because each cell must be one line.
        let cells = cells.into_iter().map(|cell| cell.replace('\n', " "));
        self.table.add_row(cells.collect::<Vec<_>>());
        self.tones.push(tone);
    }

    /// Formats the table, cut to `width`.
    pub(crate) fn text(&self, width: Option<usize>) -> String {
        let text = self.table.trim_fmt();
        let lines = text.lines().zip(&self.tones);
        let lines = lines.map(|(line, tone)| {
            let line = fitting(line.strip_prefix(' ').unwrap_or(line), width);
            match tone {
                // Rows in a good state have no color.
                Tone::Good => line,
                tone => paint(*tone, &line),
            }
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Cuts a line to the width of the terminal.
fn fitting(line: &str, width: Option<usize>) -> String {
    match width {
        Some(width) if line.chars().count() > width => {
            let kept: String = line.chars().take(width.saturating_sub(1)).collect();
            format!("{kept}…")
        }
        _ => line.to_owned(),
    }
}
