//! Everything about one key: its lock, its records, its versions, told in plain words.

use std::time::Duration;

use client::txn::{Deed, LockRecord, WriteRecord};
use client::{Timestamp, Versions};
use serde_json::{Value, json};

use super::keyspace::{connect, failure};
use crate::args::KeyspaceFlags;
use crate::exit::Outcome;
use crate::keys::{self, Key, show};
use crate::output::{Format, Report};

pub(crate) async fn run(
    endpoints: &[String],
    key: Key,
    keyspace: &KeyspaceFlags,
    format: Format,
) -> Outcome {
    let transactions = connect(endpoints, keyspace).await?.transactions();
    let versions = transactions.versions(&key.0).await.map_err(|error| failure(&error))?;
    report(&key.0, &versions).print(format);
    Ok(())
}

/// Lines for a person, and the same as JSON.
pub(crate) fn report(key: &[u8], versions: &Versions) -> Report {
    let mut lines = vec![("key", show(key))];
    if let Some(lock) = &versions.lock {
        lines.push(("lock", lock_in_words(key, lock)));
    }
    lines.extend(versions.writes.iter().map(|write| ("record", write_in_words(write))));
    for (start, value) in &versions.stray_values {
        let when = when(*start);
        lines.push((
            "value",
            format!("{} of transaction {start} ({when}), with no record", show(value)),
        ));
    }
    if lines.len() == 1 {
        lines.push(("", "nothing is kept about it: never written, or all of it removed".into()));
    }
    Report::fields(lines, document(key, versions))
}

fn lock_in_words(key: &[u8], lock: &LockRecord) -> String {
    let (start, when_begun) = (lock.start, when(lock.start));
    let deed = match (lock.deed, &lock.value) {
        (Deed::Put, Some(value)) => format!("will put {}", show(value)),
        (Deed::Put, None) => "will put a value".into(),
        (Deed::Delete, _) => "will remove it".into(),
        (Deed::Lock, _) => "keeps others from writing it".into(),
        (Deed::Pessimistic, _) => {
            format!("has taken it for update at {}, not written yet", lock.for_update)
        }
        (Deed::Rollback | Deed::Unknown, _) => "does something unknown with it".into(),
    };
    let primary = if lock.primary == key {
        "the primary: this key decides".to_owned()
    } else {
        format!("the primary is {}", show(&lock.primary))
    };
    let lives = Duration::from_millis(lock.ttl_ms);
    let mut words = format!(
        "transaction {start} ({when_begun}) {deed}; {primary}; lives {:.1} s from its start",
        lives.as_secs_f64()
    );
    if lock.async_commit {
        let others = match lock.secondaries.len() {
            0 => String::new(),
            count => format!(", {count} others named here"),
        };
        words.push_str(&format!("; committed as soon as all its keys are locked{others}"));
    }
    words
}

fn write_in_words(write: &WriteRecord) -> String {
    let (start, commit, when) = (write.start, write.commit, when(write.commit));
    let mut words = match (write.deed, &write.value) {
        (Deed::Put, value) => {
            let value = value.as_deref().map(show).unwrap_or_default();
            format!("{value}  put at {commit} ({when}) by transaction {start}")
        }
        (Deed::Delete, _) => format!("removed at {commit} ({when}) by transaction {start}"),
        (Deed::Lock, _) => {
            format!("only locked by transaction {start}, committed at {commit} ({when})")
        }
        (Deed::Rollback, _) => format!("transaction {start} ({when}) was rolled back"),
        (Deed::Pessimistic | Deed::Unknown, _) => {
            format!("something unknown at {commit} ({when}) by transaction {start}")
        }
    };
    if write.overlaps_rollback {
        words.push_str(&format!("; a transaction that began at {commit} was rolled back"));
    }
    words
}

/// The JSON document.
pub(crate) fn document(key: &[u8], versions: &Versions) -> Value {
    let lock = versions.lock.as_ref().map(|lock| {
        json!({
            "does": name(lock.deed),
            "start": lock.start.0,
            "started": when(lock.start),
            "value": lock.value.as_deref().map(show),
            "primary": show(&lock.primary),
            "ttl_ms": lock.ttl_ms,
            "for_update": (lock.for_update != Timestamp::ZERO).then_some(lock.for_update.0),
            "txn_size": lock.txn_size,
            "async_commit": lock.async_commit,
            "secondaries": lock.secondaries.iter().map(|key| show(key)).collect::<Vec<_>>(),
        })
    });
    let write = |write: &WriteRecord| {
        json!({
            "does": name(write.deed),
            "start": write.start.0,
            "commit": write.commit.0,
            "committed": when(write.commit),
            "value": write.value.as_deref().map(show),
            "overlaps_rollback": write.overlaps_rollback,
        })
    };
    let stray = |(start, value): &(Timestamp, bytes::Bytes)| json!({ "start": start.0, "value": keys::show(value) });
    json!({
        "key": show(key),
        "lock": lock,
        "records": versions.writes.iter().map(write).collect::<Vec<_>>(),
        "stray_values": versions.stray_values.iter().map(stray).collect::<Vec<_>>(),
    })
}

fn name(deed: Deed) -> &'static str {
    match deed {
        Deed::Put => "put",
        Deed::Delete => "delete",
        Deed::Lock => "lock",
        Deed::Rollback => "rollback",
        Deed::Pessimistic => "pessimistic lock",
        Deed::Unknown => "unknown",
    }
}

/// The moment of a timestamp, in UTC.
fn when(at: Timestamp) -> String {
    let millis = at.physical();
    let (seconds, millis) = (millis / 1_000, millis % 1_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millis:03} UTC")
}

/// Days since 1970 as a date. Years begin in March here, so that the leap day comes last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(deed: Deed, value: Option<&'static str>) -> WriteRecord {
        WriteRecord {
            deed,
            start: Timestamp::new(1_764_122_400_000, 1),
            commit: Timestamp::new(1_764_122_400_250, 0),
            value: value.map(Into::into),
            overlaps_rollback: false,
        }
    }

    #[test]
    fn a_timestamp_is_a_moment() {
        assert_eq!(when(Timestamp::new(0, 5)), "1970-01-01 00:00:00.000 UTC");
        assert_eq!(when(Timestamp::new(951_826_152_007, 0)), "2000-02-29 12:09:12.007 UTC");
        assert_eq!(when(Timestamp::new(1_764_122_400_250, 0)), "2025-11-26 02:00:00.250 UTC");
        assert_eq!(when(Timestamp::new(4_107_542_400_000, 0)), "2100-03-01 00:00:00.000 UTC");
    }

    #[test]
    fn each_record_is_a_sentence() {
        let put = write_in_words(&write(Deed::Put, Some("100")));
        assert!(put.starts_with("100  put at ") && put.contains("02:00:00.250 UTC"), "{put}");
        let words = |deed| write_in_words(&write(deed, None));
        assert!(words(Deed::Delete).starts_with("removed at"));
        assert!(words(Deed::Rollback).ends_with("was rolled back"));
        assert!(words(Deed::Lock).starts_with("only locked"));
    }

    #[test]
    fn a_lock_says_what_will_happen_and_who_decides() {
        let lock = LockRecord {
            deed: Deed::Put,
            start: Timestamp::new(1_764_122_400_000, 1),
            primary: "a".into(),
            value: Some("7".into()),
            ttl_ms: 3_000,
            for_update: Timestamp::ZERO,
            txn_size: 2,
            async_commit: true,
            secondaries: vec!["b".into()],
        };
        let words = lock_in_words(b"a", &lock);
        assert!(words.contains("will put 7") && words.contains("this key decides"), "{words}");
        assert!(words.contains("1 others named here") && words.contains("lives 3.0 s"), "{words}");
        assert!(lock_in_words(b"b", &lock).contains("the primary is a"));
        let versions = Versions { lock: Some(lock), ..Default::default() };
        let document = document(b"b", &versions);
        assert_eq!(document["lock"]["does"], "put");
        assert_eq!(document["lock"]["for_update"], Value::Null);
    }
}
