//! The one table printer: plain text for terminals and logs, Markdown for reports.

use std::borrow::Cow;

use comfy_table::{CellAlignment, ContentArrangement, Table as TextTable};

use super::printable;

/// How a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Align {
    /// Text.
    #[default]
    Left,
    /// Numbers.
    Right,
}

/// Stands in for a figure that is missing.
pub const ABSENT: &str = "–";

/// Rows of text under named, aligned columns.
#[derive(Debug, Clone, Default)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns and no rows yet.
    pub fn new<S: Into<String>>(columns: impl IntoIterator<Item = (S, Align)>) -> Self {
        let columns = columns.into_iter().map(|(name, align)| (cell(name), align)).collect();
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row. Text that steers a terminal is shown escaped.
    ///
    /// # Panics
    /// If the row does not have one cell a column.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let row: Vec<String> = cells.into_iter().map(cell).collect();
        assert_eq!(row.len(), self.columns.len(), "a row has one cell a column");
        self.rows.push(row);
    }

    /// The columns' names and alignments.
    pub fn columns(&self) -> &[(String, Align)] {
        &self.columns
    }

    /// The rows' cells.
    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    /// The table for a terminal: aligned columns, no frame, a rule under the header.
    pub fn to_text(&self) -> String {
        self.render(comfy_table::presets::NOTHING, true)
    }

    /// The table as GitHub-flavoured Markdown.
    pub fn to_markdown(&self) -> String {
        let cell = |text: &str| text.replace('|', "\\|");
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut text = line(self.columns.iter().map(|(name, _)| cell(name)).collect());
        text += &line(
            self.columns
                .iter()
                .map(|(_, align)| if *align == Align::Right { "---:" } else { "---" }.to_string())
                .collect(),
        );
        for row in &self.rows {
            text += &line(row.iter().map(|text| cell(text)).collect());
        }
        text
    }

    fn render(&self, preset: &str, rule: bool) -> String {
        let mut table = TextTable::new();
        table.load_preset(preset).set_content_arrangement(ContentArrangement::Disabled);
        if rule {
            table.set_style(comfy_table::TableComponent::HeaderLines, '-');
        }
        table.set_header(self.columns.iter().map(|(name, _)| name));
        for row in &self.rows {
            table.add_row(row);
        }
        for (index, (_, align)) in self.columns.iter().enumerate() {
            if let (Align::Right, Some(column)) = (align, table.column_mut(index)) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.to_string().lines().map(|line| line.trim_end().to_string() + "\n").collect()
    }
}

fn cell(text: impl Into<String>) -> String {
    let text = text.into();
    match printable::one_line(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(escaped) => escaped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_cannot_steer_a_terminal() {
        let mut table = Table::new([("a\u{7}", Align::Left)]);
        table.row(["b\u{1b}[31m\nc"]);
        assert_eq!(table.to_text().lines().next(), Some(" a\\u{7}"));
        assert!(table.to_text().ends_with("\n b\\u{1b}[31m\\nc\n"), "{}", table.to_text());
    }

    #[test]
    fn both_styles_hold_every_cell() {
        let mut table = Table::new([("tensor", Align::Left), ("size", Align::Right)]);
        table.row(["a|b", "12"]);
        assert!(table.to_text().contains("a|b"));
        assert_eq!(table.to_markdown(), "| tensor | size |\n| --- | ---: |\n| a\\|b | 12 |\n");
    }
}
