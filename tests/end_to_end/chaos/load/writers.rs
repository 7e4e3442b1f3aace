//! Users who write each key once, and those who only ask for the time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use client::{Client, Timestamp};

use super::{AUDIT_BATCH, Books, pace};

pub(super) async fn write(client: Client, writer: usize, books: Arc<Books>) {
    let (raw, transactions) = (client.raw(), client.transactions());
    let mut pace = pace();
    let mut number = 0_u64;
    while !books.is_over() {
        pace.tick().await;
        number += 1;
        let is_transaction = number.is_multiple_of(2);
        let kind = if is_transaction { "t" } else { "w" };
        let key = format!("{kind}/{writer}/{number:07}");
        let written = if is_transaction {
            let Ok(txn) = books.watch.call("begin", "of a writer", transactions.begin()).await
            else {
                continue;
            };
            txn.put(&key, key.clone()).unwrap();
            books.watch.call("commit of", &key, txn.commit()).await.map(drop)
        } else {
            books.watch.call("raw put of", &key, raw.put(&key, key.clone())).await
        };
        if written.is_ok() {
            books.notes().written.push(key);
        }
    }
}

/// Acknowledged keys that are not there, or hold something else.
pub(super) async fn missing(client: &Client, written: &[String]) -> Vec<String> {
    let snapshot = client.transactions().snapshot().await.expect("a healed cluster answers");
    let raw = client.raw();
    let mut wrong = Vec::new();
    for batch in written.chunks(AUDIT_BATCH) {
        let (transactional, plain): (Vec<&String>, Vec<&String>) =
            batch.iter().partition(|key| key.starts_with('t'));
        let mut found: BTreeMap<_, _> =
            raw.batch_get(&plain).await.expect("a healed cluster answers").into_iter().collect();
        found.extend(snapshot.batch_get(&transactional).await.expect("a healed cluster answers"));
        for key in batch {
            let value = found.get(key.as_bytes());
            if value.map(|value| value.as_ref()) != Some(key.as_bytes()) {
                wrong.push(format!("{key} was acknowledged, and is {value:?} at the end"));
            }
        }
    }
    wrong
}

/// Asks for timestamps, one after the other: later than every one that was answered before it was asked for.
pub(super) async fn ask_time(client: Client, latest: Arc<Mutex<Timestamp>>, books: Arc<Books>) {
    let mut pace = pace();
    while !books.is_over() {
        pace.tick().await;
        let before = *latest.lock().unwrap();
        let Ok(now) = books.watch.call("timestamp", "", client.timestamp()).await else { continue };
        let mut notes = books.notes();
        notes.timestamps += 1;
        if now <= before {
            notes.wrong.push(format!("timestamp {now} came after {before}"));
        }
        drop(notes);
        let mut latest = latest.lock().unwrap();
        *latest = now.max(*latest);
    }
}
