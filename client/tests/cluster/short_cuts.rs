//! Commits in one phase and asynchronous ones: what they save, what they leave, when they decline.

use std::time::Duration;

use bytes::Bytes;
use client::{Client, Config, ErrorKind, Timestamp, TransactionClient, TransactionOptions};
use proto::{Refusal, memcomparable};

use crate::fake::{Fake, Reaction};

const SETTLE: Duration = Duration::from_secs(5);

/// Short cuts wherever they can be taken.
async fn eager(fake: &Fake) -> Client {
    fake.client_with(Config::default()).await
}

async fn put(transactions: &TransactionClient, keys: &[&str]) -> client::Result<Timestamp> {
    let txn = transactions.begin().await?;
    for key in keys {
        txn.put(key, "v")?;
    }
    txn.commit().await.map(|at| at.expect("something was written"))
}

async fn get(transactions: &TransactionClient, key: &str) -> Option<Bytes> {
    transactions.snapshot().await.unwrap().get(key).await.unwrap()
}

fn calls(fake: &Fake) -> (usize, usize) {
    (fake.calls("KvPrewrite"), fake.calls("KvCommit"))
}

#[tokio::test]
async fn one_region_commits_with_one_request() {
    let fake = Fake::start().await;
    let transactions = eager(&fake).await.transactions();
    let before = transactions.timestamp().await.unwrap();
    let at = put(&transactions, &["a", "b", "z"]).await.unwrap();
    assert_eq!(calls(&fake), (1, 0));
    assert!(at > before && fake.state.lock().txn.locks.is_empty());
    assert_eq!(transactions.snapshot_at(at).get("z").await.unwrap(), Some("v".into()));
    assert_eq!(transactions.snapshot_at(at.prev()).get("z").await.unwrap(), None);
}

#[tokio::test]
async fn several_regions_commit_when_the_last_key_is_locked() {
    let fake = Fake::split_at(&["m"]).await;
    let client = eager(&fake).await;
    let transactions = client.transactions();
    // Nobody commits the locks; the transaction is committed all the same.
    let never = Refusal::NotLeader { region_id: 1, leader: None };
    fake.script("KvCommit", (0..10_000).map(|_| Reaction::Refuse(never.clone())));
    let at = put(&transactions, &["a", "z"]).await.unwrap();
    {
        let state = fake.state.lock();
        let primary = &state.txn.locks[&b"a"[..]];
        assert_eq!(primary.async_commit.as_deref(), Some(&["z".into()][..]));
        let earliest = state.txn.locks.values().map(|lock| lock.min_commit).max();
        assert_eq!(earliest, Some(at.0), "the latest of what the stores allow");
    }
    fake.advance(Duration::from_secs(4));
    assert_eq!(transactions.snapshot_at(at).get("z").await.unwrap(), Some("v".into()));
    assert_eq!(transactions.snapshot_at(at.prev()).get("z").await.unwrap(), None);
}

#[tokio::test]
async fn the_locks_of_an_asynchronous_commit_go_in_the_background() {
    let fake = Fake::split_at(&["m"]).await;
    let client = eager(&fake).await;
    put(&client.transactions(), &["a", "z"]).await.unwrap();
    client.settled(SETTLE).await.unwrap();
    assert!(fake.state.lock().txn.locks.is_empty());
    assert_eq!(get(&client.transactions(), "a").await, Some("v".into()));
}

#[tokio::test]
async fn a_commit_is_later_than_every_read_before_it() {
    let fake = Fake::split_at(&["m"]).await;
    let transactions = eager(&fake).await.transactions();
    let txn = transactions.begin().await.unwrap();
    txn.put("a", "v").unwrap();
    txn.put("z", "v").unwrap();
    let reader = transactions.snapshot().await.unwrap();
    assert_eq!(reader.scan(.., 9).await.unwrap(), []);
    let at = txn.commit().await.unwrap().unwrap();
    assert!(at > reader.timestamp());
    assert_eq!(reader.scan(.., 9).await.unwrap(), [], "it reads what it read");
}

#[tokio::test]
async fn a_store_that_knows_two_phases_only_is_served_with_two() {
    for keys in [&["a", "b"][..], &["a", "z"]] {
        let fake = Fake::split_at(&["m"]).await;
        fake.state.lock().txn.is_plain = true;
        let client = eager(&fake).await;
        put(&client.transactions(), keys).await.unwrap();
        client.settled(SETTLE).await.unwrap();
        assert!(fake.calls("KvCommit") > 0 && fake.state.lock().txn.locks.is_empty());
        assert_eq!(get(&client.transactions(), keys[1]).await, Some("v".into()));
    }
}

#[tokio::test]
async fn a_large_transaction_goes_through_both_phases() {
    let fake = Fake::split_at(&["k0150"]).await;
    let client = eager(&fake).await;
    let keys: Vec<_> = (0..300).map(|number| format!("k{number:04}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    put(&client.transactions(), &keys).await.unwrap();
    client.settled(SETTLE).await.unwrap();
    assert_eq!(calls(&fake), (2, 2));
}

#[tokio::test]
async fn a_check_for_absence_is_no_part_of_an_asynchronous_commit() {
    let fake = Fake::split_at(&["m"]).await;
    let client = eager(&fake).await;
    let transactions = client.transactions();
    put(&transactions, &["z"]).await.unwrap();
    let txn = transactions.begin().await.unwrap();
    txn.put("a", "torn").unwrap();
    txn.insert("z", "v").unwrap();
    txn.delete("z").unwrap();
    let error = txn.commit().await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::KeyExists { key: "z".into() });
    client.settled(SETTLE).await.unwrap();
    fake.advance(Duration::from_secs(4));
    assert_eq!(get(&transactions, "a").await, None);
}

#[tokio::test]
async fn an_answer_lost_is_asked_for_again_and_found() {
    for keys in [&["a", "b"][..], &["a", "z"]] {
        let fake = Fake::split_at(&["m"]).await;
        let transactions = eager(&fake).await.transactions();
        fake.script("KvPrewrite", [Reaction::DoThenBreak]);
        let at = put(&transactions, keys).await.unwrap();
        let read = transactions.snapshot_at(at).get(keys[0]).await.unwrap();
        assert_eq!(read, Some("v".into()));
    }
}

#[tokio::test]
async fn a_region_split_after_a_lost_answer_does_not_commit_twice() {
    let fake = Fake::start().await;
    let client = eager(&fake).await;
    let transactions = client.transactions();
    // Done, in one phase; then the region is two, and no single request is the whole transaction.
    fake.script("KvPrewrite", [Reaction::DoThenBreak]);
    let split = async {
        fake.until("it was done", |state| !state.txn.keys().is_empty()).await;
        fake.split(&memcomparable::encode(b"m"));
    };
    let (at, ()) = tokio::join!(put(&transactions, &["a", "z"]), split);
    let at = at.unwrap();
    client.settled(SETTLE).await.unwrap();
    for key in ["a", "z"] {
        let read = |at| transactions.snapshot_at(at);
        assert_eq!(read(at).get(key).await.unwrap(), Some("v".into()));
        assert_eq!(read(at.prev()).get(key).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_short_cut_never_answered_is_undetermined_and_not_rolled_back() {
    for keys in [&["a", "b"][..], &["a", "z"]] {
        let fake = Fake::split_at(&["m"]).await;
        let config = Config { store_timeout: Duration::from_millis(100), ..Default::default() };
        let client = fake.client_with(config).await;
        let transactions = client.transactions().with_timeout(Duration::from_secs(2));
        // Every one is done: which region's is asked again first is a matter of luck.
        fake.script("KvPrewrite", (0..999).map(|_| Reaction::DoThenBreak));
        let error = put(&transactions, keys).await.unwrap_err();
        assert!(error.is_undetermined() && !error.is_retryable(), "{error}");
        client.settled(SETTLE).await.unwrap();
        assert_eq!(fake.calls("KvBatchRollback"), 0);
        fake.advance(Duration::from_secs(4));
        let snapshot = client.transactions().snapshot().await.unwrap();
        let seen = snapshot.batch_get(keys).await.unwrap().len();
        assert_eq!(seen, keys.len(), "it did happen, and readers agree on it");
    }
}

#[tokio::test]
async fn a_short_cut_only_refused_has_certainly_not_been_taken() {
    let fake = Fake::start().await;
    let client = eager(&fake).await;
    let transactions = client.transactions().with_timeout(Duration::from_secs(1));
    let refusal = Refusal::NotLeader { region_id: 1, leader: None };
    fake.script("KvPrewrite", (0..999).map(|_| Reaction::Refuse(refusal.clone())));
    let error = put(&transactions, &["a"]).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Timeout, "{error}");
}

#[tokio::test]
async fn a_commit_dropped_on_a_short_cut_is_settled_as_it_went() {
    // Every key is locked: it has happened, although nobody knows.
    let fake = Fake::split_at(&["m"]).await;
    let client = eager(&fake).await;
    let transactions = client.transactions();
    let abandon = async |reactions: Vec<Reaction>, locked: usize| {
        fake.script("KvPrewrite", reactions);
        let txn = transactions.begin().await.unwrap();
        txn.put("a", "v").unwrap();
        txn.put("z", "v").unwrap();
        tokio::select! {
            _ = txn.commit() => panic!("one store never answers"),
            () = fake.until("the keys are locked", |state| {
                state.txn.locks.len() == locked && state.script["KvPrewrite"].is_empty()
            }) => {}
        }
        client.settled(SETTLE).await.unwrap();
        assert!(fake.state.lock().txn.locks.is_empty());
        transactions.snapshot().await.unwrap().scan(.., 9).await.unwrap().len()
    };
    assert_eq!(abandon(vec![Reaction::Do, Reaction::Hang], 1).await, 0);
    assert_eq!(abandon(vec![Reaction::Do, Reaction::DoThenHang], 2).await, 2);
    assert_eq!(fake.calls("KvBatchRollback"), 0);
}

#[tokio::test]
async fn each_short_cut_can_be_switched_off() {
    let fake = Fake::start().await;
    let client = eager(&fake).await;
    let one_phase = TransactionOptions { async_commit: false, ..Default::default() };
    put(&client.transactions().with_options(one_phase), &["a", "b"]).await.unwrap();
    assert_eq!(calls(&fake), (1, 0));
    let is_async = TransactionOptions { one_phase_commit: false, ..Default::default() };
    put(&client.transactions().with_options(is_async), &["a", "b"]).await.unwrap();
    client.settled(SETTLE).await.unwrap();
    assert_eq!(calls(&fake), (2, 1));
}
