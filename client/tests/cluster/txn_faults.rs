//! Locks in the way, commits cut short, clients that die.

use std::time::Duration;

use bytes::Bytes;
use client::{Client, Config, ErrorKind, Timestamp, TransactionClient};
use proto::{Refusal, kvrpcpb};

use crate::fake::{Fake, Reaction, two_phases};

const SETTLE: Duration = Duration::from_secs(10);

/// Prewrites the keys as a client would that dies right after; returns its start timestamp.
async fn abandoned(fake: &Fake, client: &Client, keys: &[&'static str]) -> Timestamp {
    let start = client.timestamp().await.unwrap();
    lock(fake, prewrite(start, keys));
    start
}

fn prewrite(start: Timestamp, keys: &[&'static str]) -> kvrpcpb::PrewriteRequest {
    let mutations = keys.iter().map(|key| kvrpcpb::Mutation {
        key: Bytes::from(*key),
        value: "abandoned".into(),
        ..Default::default()
    });
    kvrpcpb::PrewriteRequest {
        mutations: mutations.collect(),
        primary_lock: keys[0].into(),
        start_version: start.0,
        lock_ttl: 3_000,
        txn_size: keys.len() as u64,
        min_commit_ts: start.next().0,
        ..Default::default()
    }
}

fn lock(fake: &Fake, request: kvrpcpb::PrewriteRequest) {
    assert_eq!(fake.state.lock().txn.prewrite(request).errors, []);
}

async fn put(
    transactions: &TransactionClient,
    key: &str,
    value: &'static str,
) -> client::Result<()> {
    let txn = transactions.begin().await?;
    txn.put(key, value)?;
    txn.commit().await.map(drop)
}

async fn get(transactions: &TransactionClient, key: &str) -> Option<Bytes> {
    transactions.snapshot().await.unwrap().get(key).await.unwrap()
}

#[tokio::test]
async fn a_reader_passes_the_lock_of_a_living_transaction() {
    let fake = Fake::split_at(&["m"]).await;
    let client = fake.client().await;
    let transactions = client.transactions();
    put(&transactions, "z", "old").await.unwrap();
    let start = abandoned(&fake, &client, &["a", "z"]).await;
    let snapshot = transactions.snapshot().await.unwrap();
    assert_eq!(snapshot.get("z").await.unwrap(), Some("old".into()));
    assert_eq!(snapshot.batch_get(["a", "z"]).await.unwrap().len(), 1);
    assert_eq!(snapshot.scan(.., 9).await.unwrap().len(), 1);
    assert_eq!(fake.calls("KvCheckTxnStatus"), 1, "it is remembered who was passed");
    // What was passed must commit later than the reader read.
    let lock = fake.state.lock().txn.locks[&b"a"[..]].clone();
    assert!(lock.start == start.0 && lock.min_commit > snapshot.timestamp().0);
}

#[tokio::test]
async fn a_dead_transaction_is_rolled_back_by_whoever_meets_it() {
    let fake = Fake::split_at(&["m"]).await;
    let client = fake.client().await;
    let transactions = client.transactions();
    put(&transactions, "z", "old").await.unwrap();
    abandoned(&fake, &client, &["a", "y", "z"]).await;
    fake.advance(Duration::from_secs(4));
    let snapshot = transactions.snapshot().await.unwrap();
    assert_eq!(snapshot.scan(.., 9).await.unwrap(), [("z".into(), "old".into())]);
    assert!(fake.state.lock().txn.locks.is_empty());
}

#[tokio::test]
async fn a_secondary_of_a_committed_transaction_is_committed_by_its_reader() {
    let fake = Fake::split_at(&["m"]).await;
    let client = fake.client().await;
    let transactions = client.transactions();
    let start = abandoned(&fake, &client, &["a", "z"]).await;
    let at = client.timestamp().await.unwrap();
    fake.state.lock().txn.commit(&["a".into()], start.0, at.0).unwrap();
    assert_eq!(get(&transactions, "z").await, Some("abandoned".into()));
    assert_eq!(transactions.snapshot_at(at.prev()).get("z").await.unwrap(), None);
}

#[tokio::test]
async fn all_locks_of_a_large_transaction_go_at_once() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let keys: Vec<&'static str> =
        (0..40).map(|number| &*Box::leak(format!("k{number:02}").into_boxed_str())).collect();
    abandoned(&fake, &client, &keys).await;
    fake.advance(Duration::from_secs(4));
    let snapshot = client.transactions().snapshot().await.unwrap();
    assert_eq!(snapshot.scan(.., 100).await.unwrap(), []);
    assert_eq!((fake.calls("KvResolveLock"), fake.calls("KvCheckTxnStatus")), (1, 1));
}

#[tokio::test]
async fn a_writer_waits_for_a_living_lock_and_then_conflicts() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let transactions = client.transactions();
    let start = abandoned(&fake, &client, &["k"]).await;
    let writer = tokio::spawn(async move { put(&transactions, "k", "writer").await });
    fake.until("the writer asks about the lock again", |state| {
        state.calls.get("KvCheckTxnStatus").copied().unwrap_or(0) > 2
    })
    .await;
    let at = client.timestamp().await.unwrap();
    fake.state.lock().txn.commit(&["k".into()], start.0, at.0).unwrap();
    let error = writer.await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WriteConflict { .. }), "{error}");
    client.settled(SETTLE).await.unwrap();
    assert!(fake.state.lock().txn.locks.is_empty());
}

#[tokio::test]
async fn a_writer_clears_a_dead_lock_out_of_its_way() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let transactions = client.transactions();
    abandoned(&fake, &client, &["k"]).await;
    fake.advance(Duration::from_secs(4));
    put(&transactions, "k", "writer").await.unwrap();
    assert_eq!(get(&transactions, "k").await, Some("writer".into()));
}

#[tokio::test]
async fn waiting_for_a_lock_ends_at_the_deadline_and_names_the_holder() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let holder = abandoned(&fake, &client, &["k"]).await;
    let transactions = client.transactions().with_timeout(Duration::from_millis(300));
    let error = put(&transactions, "k", "writer").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Locked { key: "k".into(), holder });
    assert!(error.is_retryable());
}

#[tokio::test]
async fn run_outlasts_a_lock() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    abandoned(&fake, &client, &["k"]).await;
    let transactions = client.transactions().with_timeout(Duration::from_millis(200));
    let run = tokio::spawn(async move {
        transactions.run(async |txn: client::Transaction| txn.put("k", "v")).await
    });
    fake.until("it was run a second time", |state| {
        state.calls.get("KvBatchRollback").copied().unwrap_or(0) > 0
    })
    .await;
    fake.advance(Duration::from_secs(4));
    run.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_commit_cut_off_is_asked_for_again() {
    let fake = Fake::start().await;
    let transactions = fake.client().await.transactions();
    fake.script("KvPrewrite", [Reaction::DoThenBreak]);
    fake.script("KvCommit", [Reaction::DoThenBreak]);
    put(&transactions, "k", "v").await.unwrap();
    assert!(fake.calls("KvPrewrite") > 1 && fake.calls("KvCommit") > 1);
    assert_eq!(get(&transactions, "k").await, Some("v".into()));
}

#[tokio::test]
async fn a_commit_never_answered_is_undetermined_and_not_rolled_back() {
    let fake = Fake::split_at(&["m"]).await;
    let config = Config { store_timeout: Duration::from_millis(100), ..two_phases() };
    let client = fake.client_with(config).await;
    let transactions = client.transactions().with_timeout(Duration::from_millis(500));
    fake.script("KvCommit", std::iter::once(Reaction::DoThenBreak));
    fake.script("KvCommit", (0..99).map(|_| Reaction::Break));
    let txn = transactions.begin().await.unwrap();
    txn.put("a", "v").unwrap();
    txn.put("z", "v").unwrap();
    let error = txn.commit().await.unwrap_err();
    assert!(error.is_undetermined() && !error.is_retryable(), "{error}");
    client.settled(SETTLE).await.unwrap();
    assert_eq!(fake.calls("KvBatchRollback"), 0);
    // It did happen, and readers agree on it.
    assert_eq!(get(&transactions, "z").await, Some("v".into()));
}

#[tokio::test]
async fn a_slow_commit_keeps_its_locks_alive() {
    let fake = Fake::start().await;
    let config = Config { store_timeout: Duration::from_secs(5), ..two_phases() };
    let transactions = fake.client_with(config).await.transactions();
    fake.script("KvCommit", [Reaction::Hang]);
    let txn = transactions.begin().await.unwrap();
    txn.put("k", "v").unwrap();
    let before = async {
        fake.until("the key is locked", |state| !state.txn.locks.is_empty()).await;
        fake.state.lock().txn.locks[&b"k"[..]].ttl
    };
    tokio::select! {
        _ = txn.commit() => panic!("the store does not answer"),
        () = async {
            let before = before.await;
            fake.until("the lock was prolonged", |state| {
                state.txn.locks[&b"k"[..]].ttl > before
            })
            .await;
        } => {}
    }
}

#[tokio::test]
async fn a_commit_only_refused_is_rolled_back() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let transactions = client.transactions().with_timeout(Duration::from_secs(1));
    let refusal = Refusal::NotLeader { region_id: 1, leader: None };
    fake.script("KvCommit", (0..500).map(|_| Reaction::Refuse(refusal.clone())));
    let error = put(&transactions, "k", "v").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Timeout);
    client.settled(SETTLE).await.unwrap();
    assert!(fake.calls("KvBatchRollback") > 0 && fake.state.lock().txn.locks.is_empty());
}

#[tokio::test]
async fn a_failed_prewrite_leaves_no_locks() {
    let fake = Fake::split_at(&["m"]).await;
    let client = fake.client().await;
    let transactions = client.transactions();
    let txn = transactions.begin().await.unwrap();
    put(&transactions, "z", "first").await.unwrap();
    txn.put("a", "v").unwrap();
    txn.put("z", "v").unwrap();
    assert!(txn.commit().await.unwrap_err().is_retryable());
    client.settled(SETTLE).await.unwrap();
    assert!(fake.state.lock().txn.locks.is_empty());
    assert_eq!(get(&transactions, "a").await, None);
}

#[tokio::test]
async fn a_commit_dropped_half_way_is_rolled_back() {
    let fake = Fake::split_at(&["m"]).await;
    let client = fake.client().await;
    let transactions = client.transactions();
    fake.script("KvPrewrite", [Reaction::Do, Reaction::Hang]);
    let txn = transactions.begin().await.unwrap();
    txn.put("a", "v").unwrap();
    txn.put("z", "v").unwrap();
    tokio::select! {
        _ = txn.commit() => panic!("one store never answers"),
        () = fake.until("one key is locked", |state| {
            state.calls.get("KvPrewrite") == Some(&2) && !state.txn.locks.is_empty()
        }) => {}
    }
    client.settled(SETTLE).await.unwrap();
    assert!(fake.state.lock().txn.locks.is_empty());
    assert_eq!(fake.calls("KvCommit"), 0);
}

#[tokio::test]
async fn a_transaction_rolled_back_by_another_is_told_so() {
    let fake = Fake::start().await;
    let transactions = fake.client().await.transactions();
    let txn = transactions.begin().await.unwrap();
    txn.put("k", "v").unwrap();
    let start = txn.start_timestamp();
    fake.state.lock().txn.rollback(&["k".into()], start.0).unwrap();
    let error = txn.commit().await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test]
async fn a_reader_that_pushes_a_commit_only_delays_it() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let transactions = client.transactions();
    // The commit's first timestamp is older than a reader that passes its lock meanwhile.
    fake.script("KvCommit", [Reaction::Refuse(Refusal::proposal_dropped())]);
    let writer = transactions.clone();
    let write = async { put(&writer, "k", "v").await };
    let read = async {
        fake.until("the key is locked", |state| !state.txn.locks.is_empty()).await;
        get(&transactions, "k").await
    };
    let (written, _seen) = tokio::join!(write, read);
    written.unwrap();
    assert_eq!(get(&transactions, "k").await, Some("v".into()));
}

#[tokio::test]
async fn a_split_between_prewrite_and_commit_is_no_obstacle() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let transactions = client.transactions();
    let txn = transactions.begin().await.unwrap();
    for key in ["a", "c", "x", "z"] {
        txn.put(key, "v").unwrap();
    }
    fake.script("KvCommit", [Reaction::Refuse(Refusal::StaleCommand)]);
    let split = async {
        fake.until("the keys are locked", |state| !state.txn.locks.is_empty()).await;
        fake.split(&proto::memcomparable::encode(b"m"));
    };
    let (committed, ()) = tokio::join!(txn.commit(), split);
    committed.unwrap();
    client.settled(SETTLE).await.unwrap();
    assert!(fake.state.lock().txn.locks.is_empty());
    assert_eq!(transactions.snapshot().await.unwrap().scan(.., 9).await.unwrap().len(), 4);
}

#[tokio::test]
async fn garbage_collection_finishes_what_is_left_over() {
    let fake = Fake::split_at(&["m"]).await;
    let client = fake.client().await;
    let transactions = client.transactions();
    abandoned(&fake, &client, &["a", "z"]).await;
    let committed = abandoned(&fake, &client, &["b", "y"]).await;
    let at = client.timestamp().await.unwrap();
    fake.state.lock().txn.commit(&["b".into()], committed.0, at.0).unwrap();
    let now = client.timestamp().await.unwrap();
    assert_eq!(transactions.gc(now).await.unwrap(), now);
    assert!(fake.state.lock().txn.locks.is_empty());
    assert_eq!(get(&transactions, "y").await, Some("abandoned".into()));
    assert_eq!(get(&transactions, "z").await, None);
}

/// Prewrites some of a transaction's keys, which was to commit asynchronously.
async fn async_commit(fake: &Fake, client: &Client, locked: &[&'static str]) -> Timestamp {
    let start = client.timestamp().await.unwrap();
    lock(
        fake,
        kvrpcpb::PrewriteRequest {
            use_async_commit: true,
            secondaries: vec!["b".into(), "z".into()],
            ..prewrite(start, locked)
        },
    );
    start
}

#[tokio::test]
async fn an_asynchronous_commit_whose_keys_are_all_locked_has_happened() {
    let fake = Fake::split_at(&["m"]).await;
    let client = fake.client().await;
    async_commit(&fake, &client, &["a", "b", "z"]).await;
    fake.advance(Duration::from_secs(4));
    assert_eq!(get(&client.transactions(), "z").await, Some("abandoned".into()));
    assert_eq!(get(&client.transactions(), "a").await, Some("abandoned".into()));
}

#[tokio::test]
async fn an_asynchronous_commit_that_lacks_a_key_never_happens() {
    let fake = Fake::split_at(&["m"]).await;
    let client = fake.client().await;
    async_commit(&fake, &client, &["a", "b"]).await;
    fake.advance(Duration::from_secs(4));
    assert_eq!(get(&client.transactions(), "b").await, None);
    assert_eq!(get(&client.transactions(), "a").await, None);
}

#[tokio::test]
async fn an_asynchronous_commit_that_went_on_in_the_plain_way_is_its_primarys_decision() {
    let fake = Fake::split_at(&["m"]).await;
    let client = fake.client().await;
    let start = async_commit(&fake, &client, &["a", "b"]).await;
    let plain = kvrpcpb::PrewriteRequest { primary_lock: "a".into(), ..prewrite(start, &["z"]) };
    lock(&fake, plain);
    fake.advance(Duration::from_secs(4));
    assert_eq!(get(&client.transactions(), "z").await, None);
    assert_eq!(get(&client.transactions(), "b").await, None);
}
