//! What holds of pessimistic locks in memory while commands, handovers, splits and losses of leaders go on at once.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use proto::kvrpcpb::{
    CommitRequest, Context, DeleteRangeRequest, KeyError, MvccGetByKeyRequest,
    PessimisticRollbackRequest, PrewriteRequest, ScanLockRequest,
};
use proto::metapb;

use super::Transactions;
use super::reservations::Led;
use super::tests::{Gated, over, prewrite, put, reserve};
use crate::keys::Key;

/// What the storage of these tests says of its region.
const LED: Led = Led { region_id: 0, term: 7, version: 0 };

/// Commands of a store that leads.
fn leading() -> (Gated, Transactions<Gated>) {
    let storage = Gated::new();
    let transactions = over(storage.clone());
    transactions.reservations().on_leader(LED);
    (storage, transactions)
}

async fn lock(txns: &Transactions<Gated>, start: u64, key: &'static str) -> Vec<KeyError> {
    txns.pessimistic_lock(reserve(start, key, -1)).await.errors
}

/// A prewrite of a key that must be locked.
fn of_locked(start: u64, key: &'static str) -> PrewriteRequest {
    PrewriteRequest {
        for_update_ts: start,
        pessimistic_actions: vec![1],
        ..prewrite(start, vec![put(key, "1")])
    }
}

async fn commit(txns: &Transactions<Gated>, start: u64, key: &'static str, at: u64) {
    let keys = vec![key.into()];
    let request =
        CommitRequest { start_version: start, commit_version: at, keys, ..Default::default() };
    assert!(txns.commit(request).await.error.is_none());
}

async fn unlock(txns: &Transactions<Gated>, start: u64, key: &'static str) {
    let request = PessimisticRollbackRequest {
        start_version: start,
        for_update_ts: start,
        keys: vec![key.into()],
        ..Default::default()
    };
    assert!(txns.pessimistic_rollback(request).await.errors.is_empty());
}

async fn locked_keys(txns: &Transactions<Gated>) -> Vec<Bytes> {
    let request = ScanLockRequest { max_version: 1 << 20, ..Default::default() };
    txns.scan_lock(request).await.locks.into_iter().map(|lock| lock.key).collect()
}

fn is_lost(errors: &[KeyError]) -> bool {
    errors.iter().any(|error| error.abort.contains("PessimisticLockNotFound"))
}

#[tokio::test]
async fn a_lock_that_is_taken_and_given_back_is_never_written() {
    let (storage, txns) = leading();
    assert!(lock(&txns, 10, "k").await.is_empty());
    let waiter = txns.clone();
    let waiting = tokio::spawn(async move { waiter.pessimistic_lock(reserve(20, "k", 0)).await });
    while txns.waiting().entries().is_empty() {
        tokio::task::yield_now().await;
    }
    unlock(&txns, 10, "k").await;
    let woken = waiting.await.unwrap();
    assert_eq!(woken.errors[0].conflict.as_ref().unwrap().conflict_ts, 10);
    assert!(storage.written.lock().is_empty() && txns.reservations().is_empty());
}

#[tokio::test]
async fn nothing_is_kept_in_memory_before_the_store_leads() {
    let storage = Gated::new();
    let txns = over(storage.clone());
    assert!(lock(&txns, 10, "k").await.is_empty());
    assert_eq!(storage.written.lock().len(), 1);
    // Nor is a lock that stands in the log renewed in memory: it would be in two places.
    txns.reservations().on_leader(LED);
    assert!(txns.pessimistic_lock(reserve(10, "k", -1)).await.errors.is_empty());
    let mut again = reserve(10, "k", -1);
    again.for_update_ts = 12;
    assert!(txns.pessimistic_lock(again).await.errors.is_empty());
    assert!(txns.reservations().is_empty());
    unlock(&txns, 10, "k").await;
    assert_eq!(locked_keys(&txns).await, ["k"], "it was locked for a later statement");
}

#[tokio::test]
async fn a_lock_stays_in_memory_until_what_replaces_it_is_applied() {
    let (storage, txns) = leading();
    assert!(lock(&txns, 10, "k").await.is_empty());
    storage.is_shut.store(true, Ordering::SeqCst);
    let writer = txns.clone();
    let write = tokio::spawn(async move { writer.prewrite(of_locked(10, "k")).await });
    while storage.written.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(locked_keys(&txns).await, ["k"]);
    // A handover at this moment waits for it, and does not write the old lock over the new one.
    let saver = txns.clone();
    let save = tokio::spawn(async move { saver.save_reservations(&Context::default()).await });
    tokio::task::yield_now().await;
    storage.is_shut.store(false, Ordering::SeqCst);
    storage.gate.notify_one();
    assert!(write.await.unwrap().errors.is_empty());
    save.await.unwrap().unwrap();
    assert_eq!(storage.written.lock().len(), 1);
    assert!(txns.reservations().is_empty());
    commit(&txns, 10, "k", 20).await;
    assert!(locked_keys(&txns).await.is_empty());
}

#[tokio::test]
async fn what_is_saved_outlives_its_leader() {
    let (storage, txns) = leading();
    for key in ["a", "b", "c"] {
        assert!(lock(&txns, 10, key).await.is_empty());
    }
    txns.save_reservations(&Context::default()).await.unwrap();
    assert_eq!(storage.written.lock().len(), 1);
    // Until leadership moves new ones are written too.
    assert!(lock(&txns, 10, "d").await.is_empty());
    txns.reservations().on_leader_lost(LED.region_id, LED.term);
    assert_eq!(locked_keys(&txns).await, ["a", "b", "c", "d"]);
    assert!(lock(&txns, 11, "a").await[0].locked.is_some());
    assert!(txns.prewrite(of_locked(10, "a")).await.errors.is_empty());
    commit(&txns, 10, "a", 20).await;
}

#[tokio::test]
async fn what_is_saved_is_met_in_the_regions_that_a_split_makes() {
    let (_, txns) = leading();
    for key in ["a", "z"] {
        assert!(lock(&txns, 10, key).await.is_empty());
    }
    txns.save_reservations(&Context::default()).await.unwrap();
    let epoch = metapb::RegionEpoch { version: 1, conf_ver: 0 };
    for (region_id, key) in [(0, "z"), (5, "a")] {
        txns.reservations().on_leader(Led { region_id, version: 1, ..LED });
        let context = Context { region_id, region_epoch: Some(epoch), ..Default::default() };
        let mut other = reserve(11, key, -1);
        other.context = Some(context.clone());
        assert!(txns.pessimistic_lock(other).await.errors[0].locked.is_some(), "{key}");
        let request = PrewriteRequest { context: Some(context), ..of_locked(10, key) };
        assert!(txns.prewrite(request).await.errors.is_empty());
    }
}

#[tokio::test]
async fn whose_lock_was_lost_goes_on_only_if_nobody_has_written() {
    let (_, txns) = leading();
    for key in ["a", "b", "c"] {
        assert!(lock(&txns, 10, key).await.is_empty());
    }
    txns.reservations().on_leader_lost(LED.region_id, LED.term);
    txns.reservations().on_leader(LED);
    assert!(locked_keys(&txns).await.is_empty());
    // Another has written b meanwhile, and has locked c.
    assert!(lock(&txns, 11, "b").await.is_empty());
    assert!(txns.prewrite(of_locked(11, "b")).await.errors.is_empty());
    commit(&txns, 11, "b", 12).await;
    assert!(lock(&txns, 13, "c").await.is_empty());
    assert!(txns.prewrite(of_locked(10, "a")).await.errors.is_empty());
    assert!(is_lost(&txns.prewrite(of_locked(10, "b")).await.errors));
    assert!(is_lost(&txns.prewrite(of_locked(10, "c")).await.errors));
}

#[tokio::test]
async fn a_person_sees_them_and_a_deleted_range_takes_them_along() {
    let (_, txns) = leading();
    for key in ["a", "b"] {
        assert!(lock(&txns, 10, key).await.is_empty());
    }
    let request = |key: &'static str| MvccGetByKeyRequest { key: key.into(), ..Default::default() };
    let info = txns.mvcc_get_by_key(request("b")).await.info.unwrap();
    assert_eq!(info.lock.unwrap().start_ts, 10);
    let request =
        DeleteRangeRequest { start_key: "b".into(), end_key: "c".into(), ..Default::default() };
    assert!(txns.delete_range(request).await.error.is_empty());
    assert_eq!(locked_keys(&txns).await, ["a"]);
    txns.reservations()
        .remove_in(&proto::KeyRange { start: Key::new("a").encoded().clone(), end: None });
    assert!(locked_keys(&txns).await.is_empty());
}
