//! Pessimistic transactions: locks as they go, and what becomes of them.

use std::time::Duration;

use client::{
    Client, Config, ErrorKind, LockWait, PessimisticTransaction, TransactionClient,
    TransactionOptions,
};
use futures_util::future::join_all;

use crate::fake::{Fake, Reaction, two_phases};

const SETTLE: Duration = Duration::from_secs(5);

async fn write(transactions: &TransactionClient, key: &str, value: &'static str) {
    let txn = transactions.begin().await.unwrap();
    txn.put(key, value).unwrap();
    txn.commit().await.unwrap();
}

fn is_free(fake: &Fake) -> bool {
    fake.state.lock().txn.locks.is_empty()
}

async fn settled(fake: &Fake, client: &Client) {
    client.settled(SETTLE).await.unwrap();
    assert!(is_free(fake), "locks are left");
}

fn impatient(client: &Client, lock_wait: LockWait) -> TransactionClient {
    let options = TransactionOptions { lock_wait, ..TransactionOptions::two_phases() };
    client.transactions().with_options(options)
}

#[tokio::test]
async fn reading_for_update_sees_the_latest_and_keeps_it() {
    let fake = Fake::split_at(&["m"]).await;
    let client = fake.client().await;
    let transactions = client.transactions();
    write(&transactions, "a", "old").await;
    let txn = transactions.begin_pessimistic().await.unwrap();
    write(&transactions, "a", "new").await;
    assert_eq!(txn.get("a").await.unwrap(), Some("old".into()), "as it was at the beginning");
    assert_eq!(txn.get_for_update("a").await.unwrap(), Some("new".into()));
    assert_eq!(txn.get_for_update("z").await.unwrap(), None);
    let locked = fake.calls("KvPessimisticLock");
    assert_eq!(txn.get_for_update("a").await.unwrap(), Some("new".into()));
    assert_eq!(fake.calls("KvPessimisticLock"), locked, "it is known and cannot change");
    txn.put("a", "newer").await.unwrap();
    assert_eq!(txn.get_for_update("a").await.unwrap(), Some("newer".into()));
    let at = txn.commit().await.unwrap().unwrap();
    settled(&fake, &client).await;
    let after = transactions.snapshot_at(at);
    assert_eq!(after.get("a").await.unwrap(), Some("newer".into()));
}

#[tokio::test]
async fn what_is_locked_together_is_read_together() {
    let fake = Fake::split_at(&["h", "p"]).await;
    let client = fake.client().await;
    let transactions = client.transactions();
    for key in ["a", "i", "z"] {
        write(&transactions, key, "1").await;
    }
    let txn = transactions.begin_pessimistic().await.unwrap();
    txn.delete("i").await.unwrap();
    let found = txn.batch_get_for_update(["z", "b", "a", "i"]).await.unwrap();
    assert_eq!(found, [("a".into(), "1".into()), ("z".into(), "1".into())]);
    {
        let state = fake.state.lock();
        assert_eq!(state.txn.locks.len(), 4);
        assert!(state.txn.locks.values().all(|lock| lock.primary == "i"), "one primary for all");
    }
    txn.batch_put([("a", "2"), ("q", "2")]).await.unwrap();
    txn.commit().await.unwrap();
    settled(&fake, &client).await;
    let all = transactions.snapshot().await.unwrap().scan(.., 9).await.unwrap();
    let two = || "2".into();
    assert_eq!(all, [("a".into(), two()), ("q".into(), two()), ("z".into(), "1".into())]);
}

#[tokio::test]
async fn the_primary_is_locked_before_any_other_key() {
    let fake = Fake::split_at(&["m"]).await;
    let client = fake.client().await;
    let txn = client.transactions().begin_pessimistic().await.unwrap();
    fake.script("KvPessimisticLock", [Reaction::Hang]);
    tokio::select! {
        _ = txn.lock_keys(["a", "z"]) => panic!("the store does not answer"),
        () = fake.until("a lock was asked for", |state| {
            state.calls.contains_key("KvPessimisticLock")
        }) => {}
    }
    assert!(is_free(&fake));
    assert_eq!(fake.calls("KvPessimisticLock"), 1);
}

#[tokio::test]
async fn counting_up_needs_no_second_run() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let transactions = client.transactions();
    let runs = std::sync::atomic::AtomicUsize::new(0);
    let count = || async {
        transactions
            .run_pessimistic(async |txn: PessimisticTransaction| {
                runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let seen = txn.get_for_update("counter").await?.unwrap_or_default();
                let next = String::from_utf8_lossy(&seen).parse::<u64>().unwrap_or(0) + 1;
                txn.put("counter", next.to_string()).await?;
                Ok(next)
            })
            .await
            .unwrap()
    };
    let mut counted = join_all((0..12).map(|_| count())).await;
    counted.sort();
    assert_eq!(counted, (1..=12).collect::<Vec<_>>());
    assert_eq!(runs.into_inner(), 12);
    settled(&fake, &client).await;
}

#[tokio::test]
async fn a_circle_of_waits_is_broken_and_run_again() {
    let fake = Fake::split_at(&["m"]).await;
    let client = fake.client().await;
    let transactions = client.transactions();
    let first = transactions.begin_pessimistic().await.unwrap();
    let second = transactions.begin_pessimistic().await.unwrap();
    first.put("a", "1").await.unwrap();
    second.put("z", "2").await.unwrap();
    let waits = async {
        let waited = first.put("z", "1").await;
        waited.unwrap();
        first.commit().await.unwrap();
    };
    let closes = async {
        let holder = first.start_timestamp();
        fake.until("one waits for the other", |state| {
            state.calls.get("KvPessimisticLock").copied().unwrap_or(0) > 3
        })
        .await;
        let error = second.put("a", "2").await.unwrap_err();
        let ErrorKind::Deadlock { key, holder: held_by, chain } = error.kind() else {
            panic!("{error}")
        };
        assert_eq!((&key[..], *held_by), (&b"a"[..], holder));
        assert_eq!(chain[0].holder, second.start_timestamp());
        assert!(error.is_retryable());
        second.rollback().await.unwrap();
    };
    tokio::join!(waits, closes);
    settled(&fake, &client).await;
    let seen = transactions.snapshot().await.unwrap().get("z").await.unwrap();
    assert_eq!(seen, Some("1".into()));
}

#[tokio::test]
async fn how_long_a_lock_is_waited_for_can_be_chosen() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let holder = client.transactions().begin_pessimistic().await.unwrap();
    holder.put("k", "holder").await.unwrap();
    for lock_wait in [LockWait::No, LockWait::For(Duration::from_millis(200))] {
        let txn = impatient(&client, lock_wait).begin_pessimistic().await.unwrap();
        txn.put("other", "kept").await.unwrap();
        let error = txn.put("k", "v").await.unwrap_err();
        let holder = holder.start_timestamp();
        assert_eq!(*error.kind(), ErrorKind::Locked { key: "k".into(), holder }, "{error}");
        assert!(error.is_retryable());
        // Only that call has failed.
        txn.commit().await.unwrap().unwrap();
    }
    holder.rollback().await.unwrap();
    settled(&fake, &client).await;
}

#[tokio::test]
async fn the_lock_of_a_dead_transaction_is_no_reason_to_wait() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let dead = client.transactions().begin_pessimistic().await.unwrap();
    dead.put("k", "dead").await.unwrap();
    // Its heartbeat does not come through, and it does not know.
    fake.script("KvTxnHeartBeat", (0..99).map(|_| Reaction::Hang));
    fake.advance(Duration::from_secs(4));
    let txn = impatient(&client, LockWait::No).begin_pessimistic().await.unwrap();
    txn.put("k", "living").await.unwrap();
    txn.commit().await.unwrap();
    let error = dead.commit().await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::RolledBack, "{error}");
    let seen = client.transactions().snapshot().await.unwrap().get("k").await.unwrap();
    assert_eq!(seen, Some("living".into()));
}

#[tokio::test]
async fn an_idle_transaction_keeps_its_locks_alive() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let txn = client.transactions().begin_pessimistic().await.unwrap();
    txn.put("k", "v").await.unwrap();
    let before = fake.state.lock().txn.locks[&b"k"[..]].ttl;
    fake.until("the lock was prolonged", |state| state.txn.locks[&b"k"[..]].ttl > before).await;
    txn.commit().await.unwrap();
}

#[tokio::test]
async fn an_insert_finds_out_at_once() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let transactions = client.transactions();
    write(&transactions, "there", "1").await;
    let txn = transactions.begin_pessimistic().await.unwrap();
    let exists = ErrorKind::KeyExists { key: "there".into() };
    assert_eq!(*txn.insert("there", "2").await.unwrap_err().kind(), exists);
    txn.insert("new", "2").await.unwrap();
    assert!(matches!(
        txn.insert("new", "3").await.unwrap_err().kind(),
        ErrorKind::KeyExists { .. }
    ));
    txn.lock_keys(["there"]).await.unwrap();
    assert_eq!(*txn.insert("there", "2").await.unwrap_err().kind(), exists, "locked before");
    txn.delete("there").await.unwrap();
    txn.insert("there", "4").await.unwrap();
    txn.commit().await.unwrap();
    settled(&fake, &client).await;
    let all = transactions.snapshot().await.unwrap().scan(.., 9).await.unwrap();
    assert_eq!(all, [("new".into(), "2".into()), ("there".into(), "4".into())]);
}

#[tokio::test]
async fn locks_alone_are_released_and_not_committed() {
    let fake = Fake::split_at(&["m"]).await;
    let client = fake.client().await;
    let txn = client.transactions().begin_pessimistic().await.unwrap();
    txn.lock_keys(["a", "z"]).await.unwrap();
    assert_eq!(txn.commit().await.unwrap(), None);
    assert!(is_free(&fake) && fake.calls("KvPrewrite") == 0);
}

#[tokio::test]
async fn a_dropped_transaction_releases_its_locks() {
    let fake = Fake::split_at(&["m"]).await;
    let client = fake.client().await;
    let txn = client.transactions().begin_pessimistic().await.unwrap();
    txn.put("a", "1").await.unwrap();
    txn.put("z", "1").await.unwrap();
    drop(txn.clone());
    assert!(!is_free(&fake), "one handle of two");
    drop(txn);
    settled(&fake, &client).await;
}

#[tokio::test]
async fn a_call_dropped_half_way_leaves_no_lock() {
    let fake = Fake::split_at(&["m"]).await;
    let client = fake.client().await;
    let txn = client.transactions().begin_pessimistic().await.unwrap();
    txn.put("c", "kept").await.unwrap();
    fake.script("KvPessimisticLock", [Reaction::Do, Reaction::DoThenHang]);
    tokio::select! {
        _ = txn.lock_keys(["a", "z"]) => panic!("one store does not answer"),
        () = fake.until("both are locked", |state| state.txn.locks.len() == 3) => {}
    }
    client.settled(SETTLE).await.unwrap();
    assert_eq!(fake.state.lock().txn.locks.len(), 1, "what was locked before stays");
    // The same keys can be locked again, at a later timestamp than the release's.
    txn.batch_put([("a", "1"), ("z", "1")]).await.unwrap();
    txn.commit().await.unwrap();
    settled(&fake, &client).await;
}

#[tokio::test]
async fn an_answer_lost_is_no_obstacle() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let txn = client.transactions().begin_pessimistic().await.unwrap();
    fake.script("KvPessimisticLock", [Reaction::DoThenBreak]);
    assert_eq!(txn.get_for_update("k").await.unwrap(), None);
    fake.script("KvPrewrite", [Reaction::DoThenBreak]);
    fake.script("KvCommit", [Reaction::DoThenBreak]);
    txn.put("k", "v").await.unwrap();
    txn.commit().await.unwrap();
    settled(&fake, &client).await;
}

#[tokio::test]
async fn pessimistic_transactions_take_short_cuts_too() {
    let fake = Fake::split_at(&["m"]).await;
    let client = fake.client_with(Config::default()).await;
    let transactions = client.transactions();
    for (keys, commits) in [(["a", "b"], 0), (["a", "z"], 2)] {
        let txn = transactions.begin_pessimistic().await.unwrap();
        txn.batch_put(keys.map(|key| (key, "v"))).await.unwrap();
        let for_update = fake.state.lock().txn.locks[&b"a"[..]].for_update;
        let at = txn.commit().await.unwrap().unwrap();
        assert!(at.0 > for_update);
        settled(&fake, &client).await;
        assert_eq!(fake.calls("KvCommit"), commits);
    }
}

#[tokio::test]
async fn a_split_between_lock_and_commit_is_no_obstacle() {
    let fake = Fake::start().await;
    let client = fake.client_with(two_phases()).await;
    let txn = client.transactions().begin_pessimistic().await.unwrap();
    txn.batch_put([("a", "v"), ("z", "v")]).await.unwrap();
    fake.split(&proto::memcomparable::encode(b"m"));
    assert_eq!(txn.get_for_update("b").await.unwrap(), None);
    txn.commit().await.unwrap();
    settled(&fake, &client).await;
}

#[tokio::test]
async fn a_finished_transaction_locks_nothing_more() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let txn = client.transactions().begin_pessimistic().await.unwrap();
    txn.put("k", "v").await.unwrap();
    txn.rollback().await.unwrap();
    assert_eq!(*txn.put("k", "v").await.unwrap_err().kind(), ErrorKind::Mistake);
    assert_eq!(*txn.get_for_update("k").await.unwrap_err().kind(), ErrorKind::Mistake);
    assert_eq!(*txn.commit().await.unwrap_err().kind(), ErrorKind::Mistake);
    assert!(is_free(&fake));
}
