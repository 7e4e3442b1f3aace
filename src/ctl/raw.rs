//! Raw keys from the command line.

use std::time::Duration;

use client::{KvPair, Span};
use serde_json::json;

use super::keyspace::{connect, failure};
use crate::args::{RawCommand, ScanFlags};
use crate::exit::{Failure, Outcome};
use crate::keys;
use crate::output::{Format, Report, print_bytes};

pub(crate) async fn run(endpoints: &[String], command: RawCommand, format: Format) -> Outcome {
    match command {
        RawCommand::Get { key, keyspace } => {
            let client = connect(endpoints, &keyspace).await?;
            let value = client.raw().get(&key.0).await.map_err(|error| failure(&error))?;
            print_value(&key.0, value.as_deref(), format)
        }
        RawCommand::Put { key, value, ttl, keyspace } => {
            let raw = connect(endpoints, &keyspace).await?.raw();
            match ttl {
                None => raw.put(&key.0, value.0).await,
                Some(seconds) => {
                    raw.put_with_ttl(&key.0, value.0, Duration::from_secs(seconds)).await
                }
            }
            .map_err(|error| failure(&error))
        }
        RawCommand::Delete { key, keyspace } => {
            let client = connect(endpoints, &keyspace).await?;
            client.raw().delete(&key.0).await.map_err(|error| failure(&error))
        }
        RawCommand::Scan(flags) => {
            let raw = connect(endpoints, &flags.keyspace).await?.raw();
            let (span, limit) = (span(&flags), flags.limit as usize);
            let pairs = if flags.reverse {
                raw.scan_reverse(span, limit).await
            } else {
                raw.scan(span, limit).await
            };
            print_pairs(&pairs.map_err(|error| failure(&error))?, &flags, format);
            Ok(())
        }
    }
}

/// The range a scan means; an empty end is none.
pub(crate) fn span(flags: &ScanFlags) -> Span {
    if flags.end.0.is_empty() {
        (flags.start.0.clone()..).into()
    } else {
        (flags.start.0.clone()..flags.end.0.clone()).into()
    }
}

/// The value itself, so that it can be piped; exit code 1 when there is none.
pub(crate) fn print_value(key: &[u8], value: Option<&[u8]>, format: Format) -> Outcome {
    match (value, format) {
        (Some(value), Format::Table) => print_bytes(value),
        (value, Format::Json) => Report::fields(
            Vec::new(),
            json!({ "key": keys::show(key), "value": value.map(keys::show), "found": value.is_some() }),
        )
        .print(format),
        (None, Format::Table) => {}
    }
    match value {
        Some(_) => Ok(()),
        None => Err(Failure::failed(format!("{}: there is no such key", keys::show(key)))),
    }
}

/// Keys and values, each in a form that can be typed in again.
pub(crate) fn print_pairs(pairs: &[KvPair], flags: &ScanFlags, format: Format) {
    let mut report = Report::list("pairs", &["KEY", "VALUE"]);
    for (key, value) in pairs {
        let (key, value) = (keys::show(key), keys::show(value));
        let item = json!({ "key": key, "value": value });
        report.row("pairs", vec![key, value], item);
    }
    report.print(format);
    if pairs.len() == flags.limit as usize {
        eprintln!("there may be more than {} keys: see --limit", flags.limit);
    }
}
