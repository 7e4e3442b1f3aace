//! Every record of an engine, in words: for scripts, and for stories that end badly.

#![allow(clippy::unwrap_used, reason = "an engine that cannot be shown is a failed test")]

use std::fmt::Write as _;

use proto::KeyRange;
use proto::kvrpcpb::LockInfo;
use raftstore::engine::{ColumnFamily, Cursor, DataEngine, Snapshot};

use super::record::{Lock, Write};
use super::reservations::Reservations;
use crate::keys::{self, Key};

/// Every record of the engine.
pub(super) fn dump(engine: &impl DataEngine) -> String {
    let (snapshot, all) = (engine.snapshot(), KeyRange::all());
    let mut out = String::new();
    let mut cursor = snapshot.cursor(ColumnFamily::Lock, &all);
    let mut on_key = cursor.seek_to_first().unwrap();
    while on_key {
        let key = Key::from_encoded(cursor.key()).unwrap();
        let lock = Lock::decode(cursor.value(), &key).unwrap();
        writeln!(out, "lock    {}", lock_in_words(&key, &lock)).unwrap();
        on_key = cursor.next().unwrap();
    }
    let mut cursor = snapshot.cursor(ColumnFamily::Write, &all);
    let mut on_key = cursor.seek_to_first().unwrap();
    while on_key {
        let (encoded, commit_ts) = keys::split_version(cursor.key()).unwrap();
        let key = Key::from_encoded(encoded).unwrap();
        let record = Write::decode(cursor.value(), &key).unwrap();
        let kind = record.kind.to_wire().as_str_name();
        write!(out, "write   {key}@{commit_ts} {kind} by {}", record.start_ts).unwrap();
        if record.is_protected_rollback() {
            out += " protected";
        } else if let Some(value) = &record.short_value {
            write!(out, " value={}", show(value)).unwrap();
        }
        if record.overlapped_rollback {
            out += " overlapped";
        }
        if let Some(fence) = record.gc_fence {
            write!(out, " fence={fence}").unwrap();
        }
        out.push('\n');
        on_key = cursor.next().unwrap();
    }
    let mut cursor = snapshot.cursor(ColumnFamily::Default, &all);
    let mut on_key = cursor.seek_to_first().unwrap();
    while on_key {
        let (encoded, start_ts) = keys::split_version(cursor.key()).unwrap();
        let key = Key::from_encoded(encoded).unwrap();
        writeln!(out, "default {key}@{start_ts} {}", show(cursor.value())).unwrap();
        on_key = cursor.next().unwrap();
    }
    out
}

/// Every lock in memory.
pub(super) fn dump_reserved(reservations: &Reservations) -> String {
    let line = |(key, lock): &(Key, Lock)| format!("memory  {}\n", lock_in_words(key, lock));
    reservations.all().iter().map(line).collect()
}

fn lock_in_words(key: &Key, lock: &Lock) -> String {
    let mut out = lock_info(&lock.info(key));
    if let Some(value) = &lock.short_value {
        write!(out, " value={}", show(value)).unwrap();
    }
    if lock.for_update_ts > 0 {
        write!(out, " for_update={}", lock.for_update_ts).unwrap();
    }
    if lock.locked_with_conflict {
        out += " with_conflict";
    }
    if lock.generation > 0 {
        write!(out, " generation={}", lock.generation).unwrap();
    }
    if !lock.rollback_ts.is_empty() {
        write!(out, " rollbacks={:?}", lock.rollback_ts).unwrap();
    }
    out
}

/// A key or value; long values are one letter, many times.
pub(super) fn show(bytes: &[u8]) -> String {
    match bytes.len() {
        // Long values are one letter, many times.
        300.. => format!("{}*{}", bytes[0] as char, bytes.len()),
        _ => proto::key::Readable(bytes).to_string(),
    }
}

/// A lock as clients are told of it.
pub(super) fn lock_info(info: &LockInfo) -> String {
    let mut out = format!(
        "{} {} by {} primary={} ttl={}",
        show(&info.key),
        info.lock_type().as_str_name(),
        info.lock_version,
        show(&info.primary_lock),
        info.lock_ttl
    );
    if info.min_commit_ts > 0 {
        write!(out, " min_commit={}", info.min_commit_ts).unwrap();
    }
    if info.use_async_commit {
        let keys: Vec<_> = info.secondaries.iter().map(|key| show(key)).collect();
        write!(out, " async[{}]", keys.join(" ")).unwrap();
    }
    out
}
