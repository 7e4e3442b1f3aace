//! What goes to stdout: data only, as an aligned table or as JSON. Talk goes to stderr.

#![allow(clippy::print_stdout, reason = "stdout is where a command's data goes")]

use std::io::Write as _;

use serde_json::{Value, json};

/// The version of the JSON documents; it grows when a field changes its meaning.
const SCHEMA: u32 = 1;

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns, a header line.
    #[default]
    Table,
    /// One JSON document with a `schema` field.
    Json,
}

/// Rows under a header, and the same as JSON.
pub(crate) struct Report {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    document: Value,
}

impl Report {
    /// A list: `name` is its field in the JSON document.
    pub(crate) fn list(name: &str, header: &[&'static str]) -> Self {
        let mut document = json!({ "schema": SCHEMA });
        document[name] = json!([]);
        Self { header: header.to_vec(), rows: Vec::new(), document }
    }

    /// Adds a row to the table, and an item to the list of that name.
    pub(crate) fn row(&mut self, name: &str, cells: Vec<String>, item: Value) {
        self.rows.push(cells);
        if let Some(items) = self.document[name].as_array_mut() {
            items.push(item);
        }
    }

    /// One thing: lines of field and value, and the same as a JSON object.
    pub(crate) fn fields(fields: Vec<(&'static str, String)>, mut document: Value) -> Self {
        document["schema"] = json!(SCHEMA);
        let rows = fields.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
        Self { header: Vec::new(), rows, document }
    }

    /// Adds a field to the JSON document.
    pub(crate) fn with(mut self, name: &str, value: Value) -> Self {
        self.document[name] = value;
        self
    }

    /// Prints to stdout. A closed pipe is the reader's choice, not an error.
    pub(crate) fn print(&self, format: Format) {
        let text = match format {
            Format::Json => format!("{:#}", self.document),
            Format::Table => self.table(),
        };
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }

    fn table(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        if !self.header.is_empty() {
            table.set_header(self.header.clone());
        }
        for row in &self.rows {
            table.add_row(row.clone());
        }
        table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }
}

/// Prints bytes as they are, and a line end: what `get` gives.
pub(crate) fn print_bytes(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(bytes).and_then(|()| out.write_all(b"\n"));
}
