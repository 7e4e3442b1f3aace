//! Lab 4C: scan, check of a transaction's status, rollback, resolving of locks.
//!
//! Look: `kv/src/txn/scanner.rs`, `kv/src/txn/command/check_status.rs`,
//! `kv/src/txn/command/rollback.rs`, `kv/src/txn/command/resolve_lock.rs`.

use kv::txn::record::WriteKind;
use proto::kvrpcpb::{Action, ScanRequest};

use super::transactions::{CURRENT_TS, LOCK_TS, Lab, put, value};

const PUT: WriteKind = WriteKind::Put;
const ROLLBACK: WriteKind = WriteKind::Rollback;

/// A rollback of no keys succeeds and leaves nothing.
#[tokio::test]
async fn test_empty_rollback_4c() {
    let mut lab = Lab::new();
    let request = lab.rollback_request(&[]);
    let answer = lab.transactions.batch_rollback(request).await;
    assert_eq!((answer.error, answer.region_error), (None, None));
    assert_eq!(lab.counts(), (0, 0, 0));
}

/// A prewritten key is rolled back: lock and value are gone, and a rollback record stands at the start
/// timestamp.
#[tokio::test]
async fn test_rollback_4c() {
    let mut lab = Lab::new();
    let request = lab.rollback_request(&[&[3]]);
    lab.data(&[3], 100, value(42)).lock(&[3], &[1], 100, 0);
    assert_eq!(lab.transactions.batch_rollback(request).await.error, None);
    assert_eq!(lab.counts(), (0, 0, 1));
    assert_eq!(lab.write_at(&[3], 100), Some((ROLLBACK, 100)));
}

/// A rollback names one of two keys twice: one record each.
#[tokio::test]
async fn test_rollback_duplicate_keys_4c() {
    let mut lab = Lab::new();
    let request = lab.rollback_request(&[&[3], &[15], &[3]]);
    for key in [3, 15] {
        lab.data(&[key], 100, value(42)).lock(&[key], &[1], 100, 0);
    }
    assert_eq!(lab.transactions.batch_rollback(request).await.error, None);
    assert_eq!(lab.counts(), (0, 0, 2));
    assert_eq!(lab.write_at(&[3], 100), Some((ROLLBACK, 100)));
    assert_eq!(lab.write_at(&[15], 100), Some((ROLLBACK, 100)));
}

/// What was never prewritten is rolled back: a record is left all the same.
///
/// Hint: the prewrite may still be on its way, and must fail when it comes.
#[tokio::test]
async fn test_rollback_missing_prewrite_4c() {
    let mut lab = Lab::new();
    let request = lab.rollback_request(&[&[3]]);
    assert_eq!(lab.transactions.batch_rollback(request).await.error, None);
    assert_eq!(lab.counts(), (0, 0, 1));
    assert_eq!(lab.write_at(&[3], 100), Some((ROLLBACK, 100)));
}

/// (The course's own check of the abort cannot fail; this one can.)
#[tokio::test]
async fn test_rollback_committed_4c() {
    let mut lab = Lab::new();
    let request = lab.rollback_request(&[&[3]]);
    lab.data(&[3], 100, value(42)).write(&[3], 110, PUT, 100);
    let error = lab.transactions.batch_rollback(request).await.error.unwrap();
    assert!(!error.abort.is_empty());
    assert_eq!(lab.counts(), (1, 0, 1));
    lab.assert_untouched();
}

/// What was rolled back is rolled back again: it succeeds and writes nothing.
#[tokio::test]
async fn test_rollback_duplicate_4c() {
    let mut lab = Lab::new();
    let request = lab.rollback_request(&[&[3]]);
    lab.write(&[3], 100, ROLLBACK, 100);
    assert_eq!(lab.transactions.batch_rollback(request).await.error, None);
    assert_eq!(lab.counts(), (0, 0, 1));
    lab.assert_untouched();
}

/// The key has the lock of another transaction: that lock and its value stay, and a rollback record is left.
#[tokio::test]
async fn test_rollback_other_txn_4c() {
    let mut lab = Lab::new();
    let request = lab.rollback_request(&[&[3]]);
    lab.data(&[3], 80, value(15)).lock(&[3], &[1], 80, 0);
    assert_eq!(lab.transactions.batch_rollback(request).await.error, None);
    assert_eq!(lab.counts(), (1, 1, 1));
    assert_eq!(lab.data_at(&[3], 80), Some(value(15)));
    assert_eq!(lab.lock_on(&[3]).unwrap().start_ts, 80);
    assert_eq!(lab.write_at(&[3], 100), Some((ROLLBACK, 100)));
}

/// The lock's time to live has passed: the transaction is rolled back, and the answer says so.
#[tokio::test]
async fn test_check_txn_status_ttl_expired_4c() {
    let mut lab = Lab::new();
    let request = lab.check_status_request(&[3]);
    lab.data(&[3], LOCK_TS, value(42)).lock(&[3], &[3], LOCK_TS, 8);
    let answer = lab.transactions.check_txn_status(request).await;
    assert_eq!((answer.error.clone(), answer.region_error.clone()), (None, None));
    assert_eq!(answer.action(), Action::TtlExpireRollback);
    assert_eq!((answer.lock_ttl, answer.commit_version), (0, 0));
    assert_eq!(lab.counts(), (0, 0, 1));
    assert_eq!(lab.write_at(&[3], LOCK_TS), Some((ROLLBACK, LOCK_TS)));
}

/// Only milliseconds count: the timestamps are 2^40 apart, but that is 2^22 ms.
#[tokio::test]
async fn test_check_txn_status_ttl_not_expired_4c() {
    let mut lab = Lab::new();
    let request = lab.check_status_request(&[3]);
    let ttl = (1 << 32) + 8;
    lab.data(&[3], LOCK_TS, value(42)).lock(&[3], &[3], LOCK_TS, ttl);
    let answer = lab.transactions.check_txn_status(request).await;
    assert_eq!(answer.action(), Action::NoAction);
    assert_eq!((answer.lock_ttl, answer.commit_version), (ttl, 0));
    assert_eq!(lab.counts(), (1, 1, 0));
    lab.assert_untouched();
}

/// The transaction was rolled back, and the key has the lock of another: the answer says that there is nothing
/// to commit and nothing to wait for; nothing changes.
///
/// Hint: a lock with another start timestamp is not the one that is asked for.
#[tokio::test]
async fn test_check_txn_status_rolled_back_4c() {
    let mut lab = Lab::new();
    let request = lab.check_status_request(&[3]);
    let other = 8 * (1 << 40) + 100;
    lab.data(&[3], other, value(42)).write(&[3], LOCK_TS, ROLLBACK, LOCK_TS).lock(
        &[3],
        &[3],
        other,
        8,
    );
    let answer = lab.transactions.check_txn_status(request).await;
    assert_eq!(answer.action(), Action::NoAction);
    assert_eq!((answer.lock_ttl, answer.commit_version), (0, 0));
    assert_eq!(lab.counts(), (1, 1, 1));
    lab.assert_untouched();
}

/// The transaction was committed: the answer says when, and nothing changes.
#[tokio::test]
async fn test_check_txn_status_committed_4c() {
    let mut lab = Lab::new();
    let request = lab.check_status_request(&[3]);
    let commit_ts = 6 * (1 << 40) + 100;
    lab.data(&[3], LOCK_TS, value(42)).write(&[3], commit_ts, PUT, LOCK_TS);
    let answer = lab.transactions.check_txn_status(request).await;
    assert_eq!(answer.action(), Action::NoAction);
    assert_eq!((answer.lock_ttl, answer.commit_version), (0, commit_ts));
    assert_eq!(lab.counts(), (1, 0, 1));
    lab.assert_untouched();
}

/// Nothing is known of the transaction: a rollback record is left, so that it cannot begin any more.
#[tokio::test]
async fn test_check_txn_status_no_lock_no_write_4c() {
    let mut lab = Lab::new();
    let request = lab.check_status_request(&[3]);
    let answer = lab.transactions.check_txn_status(request).await;
    assert_eq!(answer.action(), Action::LockNotExistRollback);
    assert_eq!((answer.lock_ttl, answer.commit_version), (0, 0));
    assert_eq!(lab.counts(), (0, 0, 1));
    assert_eq!(lab.write_at(&[3], LOCK_TS), Some((ROLLBACK, LOCK_TS)));
}

/// A resolve in an empty store succeeds and leaves nothing.
#[tokio::test]
async fn test_empty_resolve_4c() {
    let lab = Lab::new();
    let answer = lab.transactions.resolve_lock(lab.resolve_request(0, 0)).await;
    assert_eq!((answer.error, answer.region_error), (None, None));
    assert_eq!(lab.counts(), (0, 0, 0));
}

/// Locks of transaction 100 on 3 and 7, of 110 on 200.
fn locked() -> Lab {
    let lab = Lab::new();
    for (key, start_ts) in [(3, 100), (7, 100), (200, 110)] {
        lab.data(&[key], start_ts, value(42)).lock(&[key], &[], start_ts, 0);
    }
    lab
}

/// Two keys have the locks of transaction 100, a third one that of another: resolved with a commit timestamp,
/// the two are committed and the third is as it was.
#[tokio::test]
async fn test_resolve_commit_4c() {
    let lab = locked();
    let answer = lab.transactions.resolve_lock(lab.resolve_request(100, 120)).await;
    assert_eq!(answer.error, None);
    assert_eq!(lab.counts(), (3, 1, 2));
    assert_eq!(lab.write_at(&[3], 120), Some((PUT, 100)));
    assert_eq!(lab.write_at(&[7], 120), Some((PUT, 100)));
    lab.assert_key_untouched(&[200]);
}

/// Two keys have the locks of transaction 100, a third one that of another: resolved without a commit
/// timestamp, the two are rolled back and the third is as it was.
#[tokio::test]
async fn test_resolve_rollback_4c() {
    let lab = locked();
    let answer = lab.transactions.resolve_lock(lab.resolve_request(100, 0)).await;
    assert_eq!(answer.error, None);
    assert_eq!(lab.counts(), (1, 1, 2));
    assert_eq!(lab.write_at(&[3], 100), Some((ROLLBACK, 100)));
    assert_eq!(lab.write_at(&[7], 100), Some((ROLLBACK, 100)));
    lab.assert_key_untouched(&[200]);
}

/// All keys of the transaction are committed: resolving to a commit changes nothing.
#[tokio::test]
async fn test_resolve_commit_written_4c() {
    let lab = Lab::new();
    lab.committed(&[3], 100, 120, 42)
        .committed(&[201], 100, 120, 42)
        .data(&[200], 110, value(42))
        .lock(&[200], &[], 110, 0);
    let answer = lab.transactions.resolve_lock(lab.resolve_request(100, 120)).await;
    assert_eq!(answer.error, None);
    assert_eq!(lab.counts(), (3, 1, 2));
    lab.assert_untouched();
}

/// All keys of the transaction are rolled back: resolving to a rollback changes nothing.
#[tokio::test]
async fn test_resolve_rollback_written_4c() {
    let lab = Lab::new();
    lab.data(&[3], 100, value(42))
        .write(&[3], 100, ROLLBACK, 100)
        .data(&[201], 100, value(42))
        .write(&[201], 100, ROLLBACK, 100)
        .data(&[200], 110, value(42))
        .lock(&[200], &[], 110, 0);
    let answer = lab.transactions.resolve_lock(lab.resolve_request(100, 0)).await;
    assert_eq!(answer.error, None);
    assert_eq!(lab.counts(), (3, 1, 2));
    lab.assert_untouched();
}

fn scan_data() -> Lab {
    let lab = Lab::new();
    let early: [(&[u8], u8); 10] = [
        (&[1], 50),
        (&[1, 23], 55),
        (&[3], 51),
        (&[3, 45], 56),
        (&[3, 46], 57),
        (&[3, 47], 58),
        (&[3, 48], 59),
        (&[4], 52),
        (&[120], 53),
        (&[199], 54),
    ];
    for (key, byte) in early {
        lab.committed(key, 80, 99, byte);
    }
    for last in 45..=48 {
        lab.committed(&[4, last], 110, 116, last + 11);
        lab.committed(&[5, last], 97, 101, last + 11);
    }
    lab.committed(&[150], 80, 99, 42).write(&[150], 101, WriteKind::Delete, 97).committed(
        &[150],
        110,
        116,
        64,
    );
    lab
}

/// A scan that begins behind the last key returns nothing.
#[tokio::test]
async fn test_scan_empty_4c() {
    assert!(scan_data().scan(&[200], 10_000, 100).await.is_empty());
}

/// No limit means no pair.
#[tokio::test]
async fn test_scan_limit_zero_4c() {
    assert!(scan_data().scan(&[3], 0, 100).await.is_empty());
}

/// A scan of everything returns the eleven keys that are visible at its timestamp, in order.
///
/// Hint: one pair a user key; a key may be the beginning of another.
#[tokio::test]
async fn test_scan_all_4c() {
    let pairs = scan_data().scan(&[0], 10_000, 100).await;
    assert_eq!(pairs.len(), 11);
    assert_eq!(pairs[0], (vec![1], 50));
    assert_eq!(pairs[10], (vec![199], 54));
}

/// A scan begins at a key that is not there and has a limit of six: six pairs from the next key on.
#[tokio::test]
async fn test_scan_limit_4c() {
    let pairs = scan_data().scan(&[2], 6, 100).await;
    assert_eq!(pairs.len(), 6);
    assert_eq!(pairs[0], (vec![3], 51));
    assert_eq!(pairs[5], (vec![4], 52));
}

/// A key is there, deleted, and there again: scans at three timestamps return it, leave it out, return it.
///
/// Hint: what is left out does not count towards the limit.
#[tokio::test]
async fn test_scan_deleted_4c() {
    let mut lab = scan_data();
    let pairs = lab.scan(&[100], 10_000, 100).await;
    assert_eq!((pairs.len(), &pairs[1]), (3, &(vec![150], 42)));
    let pairs = lab.scan(&[100], 10_000, 105).await;
    let keys: Vec<_> = pairs.iter().map(|(key, _)| key[0]).collect();
    assert_eq!(keys, [120, 199]);
    let pairs = lab.scan(&[100], 10_000, 120).await;
    assert_eq!((pairs.len(), &pairs[1]), (3, &(vec![150], 64)));
}

/// Beyond the course: a scan reports a lock in its key's place and goes on; rollbacks do not show.
#[tokio::test]
async fn scan_meets_locks_and_rollbacks() {
    let lab = scan_data();
    lab.lock(&[120], &[120], 90, 0).write(&[199], 100, ROLLBACK, 100);
    let request =
        ScanRequest { start_key: vec![100].into(), limit: 10, version: 100, ..Default::default() };
    let pairs = lab.transactions.scan(request).await.pairs;
    assert_eq!(pairs.len(), 3);
    let locked = pairs[0].error.as_ref().unwrap().locked.as_ref().unwrap();
    assert_eq!((locked.key[..].to_vec(), locked.lock_version), (vec![120], 90));
    assert_eq!(pairs[2].value, value(54));
}

/// Beyond the course: who is alive is not rolled back, and later commits.
#[tokio::test]
async fn a_live_transaction_survives_being_asked_for() {
    let mut lab = Lab::new();
    let mut request = lab.prewrite_request(vec![put(&[1], 42)]);
    request.start_version = LOCK_TS;
    request.lock_ttl = 1 << 32;
    assert!(lab.transactions.prewrite(request).await.errors.is_empty());
    let request = lab.check_status_request(&[1]);
    assert_eq!(lab.transactions.check_txn_status(request).await.lock_ttl, 1 << 32);
    let mut request = lab.commit_request(&[&[1]]);
    request.start_version = LOCK_TS;
    request.commit_version = CURRENT_TS;
    assert_eq!(lab.transactions.commit(request).await.error, None);
    assert_eq!(lab.get_value(&[1], CURRENT_TS).await, Some(value(42)));
}
