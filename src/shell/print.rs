//! What a statement gave, on stdout: in plain words and tables, or one JSON document a line.

#![allow(clippy::print_stdout, reason = "stdout is where data goes")]

use std::io::Write as _;

use client::raw::Ttl;
use serde_json::{Value, json};

use super::session::Said;
use crate::ctl::mvcc;
use crate::keys::show;
use crate::output::{Format, Report};

impl Said {
    /// Prints the data; talk goes to stderr, and only to a person.
    pub(super) fn print(&self, format: Format, to_a_person: bool) {
        let talk = |words: &str| {
            if to_a_person {
                eprintln!("{words}");
            }
        };
        if format == Format::Json {
            return line(&self.document().to_string());
        }
        match self {
            Self::Value { value: Some(value), .. } => line(&show(value)),
            Self::Value { value: None, .. } => talk("(no such key)"),
            Self::Pairs { pairs, scan } => {
                let header: &[_] = if scan.keys_only { &["KEY"] } else { &["KEY", "VALUE"] };
                let mut report = Report::list("pairs", header);
                for (key, value) in pairs {
                    let mut cells = vec![show(key)];
                    cells.extend((!scan.keys_only).then(|| show(value)));
                    report.row("pairs", cells, Value::Null);
                }
                if !pairs.is_empty() {
                    report.print(format);
                }
                match pairs.len() {
                    0 => talk("(no keys)"),
                    shown if shown == scan.limit => {
                        talk(&format!("(the first {shown}; there may be more: limit N)"));
                    }
                    shown => talk(&format!("({shown} keys)")),
                }
            }
            Self::Count(count) => line(&count.to_string()),
            Self::Swapped(swap) => {
                line(if swap.swapped { "swapped" } else { "not swapped" });
                match &swap.previous {
                    Some(previous) => talk(&format!("(it was {})", show(previous))),
                    None => talk("(there was none)"),
                }
            }
            Self::Ttl(Ttl::Missing) => talk("(no such key)"),
            Self::Ttl(Ttl::Forever) => line("forever"),
            Self::Ttl(Ttl::Remaining(left)) => line(&format!("{} s", left.as_secs())),
            Self::Versions { key, versions } => mvcc::report(key, versions).print(format),
            Self::Timestamp(at) => line(&at.to_string()),
            Self::Committed(Some(at)) => talk(&format!("committed at {at}")),
            Self::Committed(None) => talk("committed; nothing was written"),
            Self::Done(words) => talk(words),
        }
    }

    fn document(&self) -> Value {
        match self {
            Self::Value { key, value } => json!({
                "key": show(key),
                "value": value.as_deref().map(show),
                "found": value.is_some(),
            }),
            Self::Pairs { pairs, scan } => {
                let pair = |(key, value): &client::KvPair| {
                    let value = (!scan.keys_only).then(|| show(value));
                    json!({ "key": show(key), "value": value })
                };
                json!({
                    "pairs": pairs.iter().map(pair).collect::<Vec<_>>(),
                    "more": pairs.len() == scan.limit,
                })
            }
            Self::Count(count) => json!({ "count": count }),
            Self::Swapped(swap) => json!({
                "swapped": swap.swapped,
                "previous": swap.previous.as_deref().map(show),
            }),
            Self::Ttl(Ttl::Missing) => json!({ "found": false }),
            Self::Ttl(Ttl::Forever) => json!({ "found": true, "ttl": null }),
            Self::Ttl(Ttl::Remaining(left)) => json!({ "found": true, "ttl": left.as_secs() }),
            Self::Versions { key, versions } => mvcc::document(key, versions),
            Self::Timestamp(at) => json!({ "timestamp": at.0 }),
            Self::Committed(at) => json!({ "committed": at.map(|at| at.0) }),
            Self::Done(words) => json!({ "done": words }),
        }
    }
}

/// A closed pipe is the reader's choice, not an error.
pub(super) fn line(text: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}
