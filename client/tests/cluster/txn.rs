//! Transactions in calm weather.

use bytes::Bytes;
use client::txn::Deed;
use client::{ErrorKind, KvPair, Transaction, TransactionClient};
use futures_util::TryStreamExt as _;
use futures_util::future::join_all;
use std::time::Duration;

use crate::fake::Fake;

fn pairs(pairs: &[(&'static str, &'static str)]) -> Vec<KvPair> {
    pairs.iter().map(|&(key, value)| (key.into(), value.into())).collect()
}

async fn write(transactions: &TransactionClient, all: &[(&'static str, &'static str)]) {
    let txn = transactions.begin().await.unwrap();
    for (key, value) in all {
        txn.put(key, *value).unwrap();
    }
    txn.commit().await.unwrap();
}

#[tokio::test]
async fn a_commit_is_seen_after_its_timestamp_and_not_before() {
    let fake = Fake::split_at(&["h", "p"]).await;
    let client = fake.client().await;
    let transactions = client.transactions();
    let before = transactions.snapshot().await.unwrap();
    let txn = transactions.begin().await.unwrap();
    for key in ["a", "i", "z"] {
        txn.put(key, "1").unwrap();
    }
    assert_eq!(txn.changes(), 3);
    let at = txn.commit().await.unwrap().unwrap();
    assert!(at > txn.start_timestamp());
    let all = pairs(&[("a", "1"), ("i", "1"), ("z", "1")]);
    let after = transactions.snapshot_at(at);
    assert_eq!(after.scan(.., 9).await.unwrap(), all);
    assert_eq!(after.batch_get(["z", "a", "b", "i"]).await.unwrap(), all);
    assert_eq!(after.get("i").await.unwrap(), Some("1".into()));
    assert_eq!(before.scan(.., 9).await.unwrap(), []);
    assert_eq!(transactions.snapshot_at(at.prev()).get("i").await.unwrap(), None);
    client.settled(Duration::from_secs(5)).await.unwrap();
    assert!(fake.state.lock().txn.locks.is_empty(), "the secondaries follow in the background");
}

#[tokio::test]
async fn a_transaction_sees_its_own_writes_among_the_stored_ones() {
    let fake = Fake::split_at(&["c", "f"]).await;
    let transactions = fake.client().await.transactions();
    write(&transactions, &[("a", "1"), ("c", "1"), ("e", "1"), ("g", "1")]).await;
    let txn = transactions.begin().await.unwrap();
    txn.put("b", "2").unwrap();
    txn.put("c", "2").unwrap();
    txn.delete("e").unwrap();
    txn.put("h", "2").unwrap();
    let seen = pairs(&[("a", "1"), ("b", "2"), ("c", "2"), ("g", "1"), ("h", "2")]);
    assert_eq!(txn.scan(.., 9).await.unwrap(), seen);
    assert_eq!(txn.scan(.., 3).await.unwrap(), seen[..3]);
    assert_eq!(txn.scan("b".."h", 9).await.unwrap(), seen[1..4]);
    let streamed: Vec<KvPair> = txn.stream(..).try_collect().await.unwrap();
    assert_eq!(streamed, seen);
    let backwards: Vec<_> = seen.iter().rev().cloned().collect();
    let streamed: Vec<KvPair> = txn.stream_reverse("a"..).try_collect().await.unwrap();
    assert_eq!(streamed, backwards);
    assert_eq!(txn.scan_reverse(.., 9).await.unwrap(), backwards);
    assert_eq!(txn.scan_reverse(.., 2).await.unwrap(), backwards[..2]);
    assert_eq!(txn.batch_get(["e", "b", "a"]).await.unwrap(), [seen[0].clone(), seen[1].clone()]);
    assert_eq!(txn.get("e").await.unwrap(), None);
    assert_eq!(txn.get("c").await.unwrap(), Some("2".into()));
    txn.rollback();
    let untouched = transactions.snapshot().await.unwrap();
    assert_eq!(untouched.scan(.., 9).await.unwrap().len(), 4);
    assert_eq!(fake.calls("KvBatchRollback"), 0, "nothing was sent, nothing is undone");
}

#[tokio::test]
async fn a_snapshot_streams_a_long_range() {
    let fake = Fake::split_at(&["k1500"]).await;
    let transactions = fake.client().await.transactions();
    let txn = transactions.begin().await.unwrap();
    for number in 1000..3500 {
        txn.put(format!("k{number}"), "v").unwrap();
    }
    txn.commit().await.unwrap();
    let snapshot = transactions.snapshot().await.unwrap();
    let seen: Vec<KvPair> = snapshot.stream(..).try_collect().await.unwrap();
    assert_eq!(seen.len(), 2500);
    assert!(seen.is_sorted());
    let mut streamed: Vec<KvPair> = snapshot.stream_reverse(..).try_collect().await.unwrap();
    streamed.reverse();
    assert_eq!(streamed, seen);
    let keys: Vec<Bytes> = snapshot.stream_keys("k3400"..).try_collect().await.unwrap();
    assert_eq!((keys.len(), &keys[0][..]), (100, &b"k3400"[..]));
    assert_eq!(snapshot.scan_reverse(.., 2000).await.unwrap().len(), 2000);
    assert_eq!(snapshot.scan_keys("k34".., 500).await.unwrap().len(), 100);
}

#[tokio::test]
async fn a_stream_goes_on_across_splits_and_new_leaders() {
    let fake = Fake::start().await;
    let transactions = fake.client().await.transactions();
    let txn = transactions.begin().await.unwrap();
    for number in 1000..6000 {
        txn.put(format!("k{number}"), "v").unwrap();
    }
    txn.commit().await.unwrap();
    let snapshot = transactions.snapshot().await.unwrap();
    for reverse in [false, true] {
        let mut stream = if reverse { snapshot.stream_reverse(..) } else { snapshot.stream(..) };
        let mut seen: Vec<Bytes> = Vec::new();
        while let Some((key, _)) = stream.try_next().await.unwrap() {
            // Twice within each page, and where the stream has yet to come.
            if seen.len().is_multiple_of(500) {
                let number = 1000 + (seen.len() as u64 * 7 + u64::from(reverse) * 3) % 5000;
                let cut = proto::memcomparable::encode(format!("k{number}").as_bytes());
                fake.split(&cut);
                fake.move_leader(&cut, 1 + number % 3);
            }
            seen.push(key);
        }
        if reverse {
            seen.reverse();
        }
        assert_eq!(seen.len(), 5000);
        assert!(seen.is_sorted());
    }
}

#[tokio::test]
async fn a_moment_in_the_past_is_read_as_it_was() {
    let fake = Fake::start().await;
    let transactions = fake.client().await.transactions();
    write(&transactions, &[("k", "old")]).await;
    fake.advance(Duration::from_secs(10));
    write(&transactions, &[("k", "new")]).await;
    let read = async |at: &str| {
        let snapshot = transactions.snapshot_as_of(at.parse().unwrap()).await.unwrap();
        snapshot.get("k").await.unwrap()
    };
    assert_eq!(read("now").await, Some("new".into()));
    assert_eq!(read("5s ago").await, Some("old".into()));
    assert_eq!(read("1h ago").await, None);
}

#[tokio::test]
async fn everything_about_a_key_can_be_seen() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let transactions = client.transactions();
    write(&transactions, &[("k", "first")]).await;
    let txn = transactions.begin().await.unwrap();
    txn.delete("k").unwrap();
    let deleted = txn.commit().await.unwrap().unwrap();
    let dead = client.timestamp().await.unwrap();
    fake.state.lock().txn.rollback(&["k".into()], dead.0).unwrap();
    let holder = transactions.begin_pessimistic().await.unwrap();
    holder.lock_keys(["a", "k"]).await.unwrap();
    let versions = transactions.versions("k").await.unwrap();
    let lock = versions.lock.unwrap();
    assert_eq!((lock.deed, lock.start), (Deed::Pessimistic, holder.start_timestamp()));
    assert_eq!((&lock.primary[..], lock.value), (&b"a"[..], None));
    let deeds: Vec<_> = versions.writes.iter().map(|write| write.deed).collect();
    assert_eq!(deeds, [Deed::Rollback, Deed::Delete, Deed::Put]);
    assert_eq!(versions.writes[1].commit, deleted);
    assert_eq!(versions.writes[2].value, Some("first".into()));
    assert_eq!(versions.stray_values, []);
}

#[tokio::test]
async fn the_second_writer_of_a_key_loses() {
    let fake = Fake::start().await;
    let transactions = fake.client().await.transactions();
    let loser = transactions.begin().await.unwrap();
    write(&transactions, &[("k", "winner")]).await;
    loser.put("k", "loser").unwrap();
    let error = loser.commit().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WriteConflict { .. }) && error.is_retryable());
    assert_eq!(error.key(), Some(&Bytes::from("k")));
    let snapshot = transactions.snapshot().await.unwrap();
    assert_eq!(snapshot.get("k").await.unwrap(), Some("winner".into()));
}

#[tokio::test]
async fn a_locked_key_guards_a_decision() {
    let fake = Fake::start().await;
    let transactions = fake.client().await.transactions();
    let txn = transactions.begin().await.unwrap();
    txn.lock("limit").unwrap();
    txn.put("order", "1").unwrap();
    write(&transactions, &[("limit", "0")]).await;
    let error = txn.commit().await.unwrap_err();
    assert_eq!(error.key(), Some(&Bytes::from("limit")), "{error}");
}

#[tokio::test]
async fn an_insert_wants_a_key_that_is_not_there() {
    let fake = Fake::start().await;
    let transactions = fake.client().await.transactions();
    write(&transactions, &[("there", "1")]).await;
    let insert = async |key: &'static str, and_delete: bool| {
        let txn = transactions.begin().await.unwrap();
        txn.insert(key, "2").unwrap();
        if and_delete {
            txn.delete(key).unwrap();
        }
        txn.commit().await
    };
    insert("new", false).await.unwrap();
    assert_eq!(insert("free", true).await.unwrap(), None, "nothing was written");
    for and_delete in [false, true] {
        let error = insert("there", and_delete).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::KeyExists { key: "there".into() });
        assert!(!error.is_retryable());
    }
    let txn = transactions.begin().await.unwrap();
    txn.put("twice", "1").unwrap();
    assert!(matches!(txn.insert("twice", "2").unwrap_err().kind(), ErrorKind::KeyExists { .. }));
    txn.rollback();
}

#[tokio::test]
async fn a_finished_transaction_is_finished() {
    let fake = Fake::start().await;
    let transactions = fake.client().await.transactions();
    let txn = transactions.begin().await.unwrap();
    assert_eq!(txn.commit().await.unwrap(), None, "nothing was written");
    for error in [
        txn.commit().await.unwrap_err(),
        txn.put("k", "v").unwrap_err(),
        txn.get("k").await.unwrap_err(),
    ] {
        assert_eq!(*error.kind(), ErrorKind::Mistake);
        assert!(error.to_string().contains("committed"), "{error}");
    }
}

async fn increment(txn: Transaction) -> client::Result<u64> {
    let seen = txn.get("counter").await?.unwrap_or_default();
    let next = String::from_utf8_lossy(&seen).parse::<u64>().unwrap_or(0) + 1;
    txn.put("counter", next.to_string())?;
    Ok(next)
}

#[tokio::test]
async fn run_repeats_what_conflicts_until_all_have_been_counted() {
    let fake = Fake::start().await;
    let transactions = fake.client().await.transactions();
    let counted = join_all((0..20).map(|_| transactions.run(increment))).await;
    let mut counted: Vec<_> = counted.into_iter().map(Result::unwrap).collect();
    counted.sort();
    assert_eq!(counted, (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn run_leaves_nothing_behind_when_the_closure_gives_up() {
    let fake = Fake::start().await;
    let transactions = fake.client().await.transactions();
    let error = transactions
        .run(async |txn: Transaction| {
            txn.put("k", "v")?;
            Err::<(), _>(client::Error::stop("not today"))
        })
        .await
        .unwrap_err();
    assert_eq!((error.kind(), error.to_string()), (&ErrorKind::Stopped, "not today".into()));
    assert_eq!(fake.calls("KvPrewrite"), 0);
}

#[test]
fn a_transaction_may_be_dropped_anywhere() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (txn, _fake) = runtime.block_on(async {
        let fake = Fake::start().await;
        let txn = fake.client().await.transactions().begin().await.unwrap();
        txn.put("k", "v").unwrap();
        (txn, fake)
    });
    drop(runtime);
    drop(txn);
}
