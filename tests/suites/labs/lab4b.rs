//! Lab 4B: get, prewrite and commit.
//!
//! Look: `kv/src/txn/reads.rs`, `kv/src/txn/read_rule.rs` (which lock stands in a reader's way),
//! `kv/src/txn/command/prewrite/`, `kv/src/txn/command/commit.rs`, `kv/src/txn/latches.rs`.

use kv::txn::record::{LockKind, WriteKind};

use super::transactions::{Lab, delete, put, value};

const PUT: WriteKind = WriteKind::Put;

/// A committed value is read at the largest timestamp.
#[tokio::test]
async fn test_get_value_4b() {
    let lab = Lab::new();
    lab.committed(&[99], 50, 54, 42);
    assert_eq!(lab.get_value(&[99], u64::MAX).await, Some(value(42)));
}

/// The course reads three times at the same timestamp; here they differ.
#[tokio::test]
async fn test_get_value_ts_4b() {
    let lab = Lab::new();
    lab.committed(&[99], 50, 54, 42);
    for ts in [54, 100, 101] {
        assert_eq!(lab.get_value(&[99], ts).await, Some(value(42)));
    }
}

/// An empty store is read: not found, and no error.
#[tokio::test]
async fn test_get_empty_4b() {
    assert!(Lab::new().get(&[100], u64::MAX).await.not_found);
}

/// Between two keys that are there a third is read: not found.
///
/// Hint: a search for the newest version may land on a neighbour.
#[tokio::test]
async fn test_get_none_4b() {
    let lab = Lab::new();
    lab.committed(&[99], 50, 54, 42).committed(&[101], 50, 54, 42);
    assert!(lab.get(&[100], u64::MAX).await.not_found);
}

/// Three values committed at 54, 66 and 122 are read before, between and at their commits: each read sees the
/// newest that was committed by then.
#[tokio::test]
async fn test_get_versions_4b() {
    let lab = Lab::new();
    lab.committed(&[99], 50, 54, 42).committed(&[99], 60, 66, 43).committed(&[99], 120, 122, 44);
    assert_eq!(lab.get_value(&[99], 40).await, None);
    for ts in [56, 60, 65] {
        assert_eq!(lab.get_value(&[99], ts).await, Some(value(42)));
    }
    for ts in [66, 100] {
        assert_eq!(lab.get_value(&[99], ts).await, Some(value(43)));
    }
}

/// A value committed at 54, deleted at 66, written again at 122: reads see it, see nothing, see the new one.
#[tokio::test]
async fn test_get_deleted_4b() {
    let lab = Lab::new();
    lab.committed(&[99], 50, 54, 42).write(&[99], 66, WriteKind::Delete, 60).committed(
        &[99],
        120,
        122,
        44,
    );
    for ts in [54, 60, 65] {
        assert_eq!(lab.get_value(&[99], ts).await, Some(value(42)));
    }
    for ts in [66, 67] {
        assert_eq!(lab.get_value(&[99], ts).await, None);
    }
    assert_eq!(lab.get_value(&[99], 122).await, Some(value(44)));
}

/// A key has a value, and a lock of transaction 200: a read at 55 sees the value, one at 300 is told of the lock
/// and whose it is.
///
/// Hint: the lock of a younger transaction cannot commit before the read.
#[tokio::test]
async fn test_get_locked_4b() {
    let lab = Lab::new();
    lab.committed(&[99], 50, 54, 42).lock(&[99], &[99], 200, 0);
    assert_eq!(lab.get_value(&[99], 55).await, Some(value(42)));
    let locked = lab.get(&[99], 300).await.error.unwrap().locked.unwrap();
    assert_eq!((locked.key[..].to_vec(), locked.primary_lock[..].to_vec()), (vec![99], vec![99]));
    assert_eq!(locked.lock_version, 200);
}

/// A prewrite of nothing succeeds and leaves nothing.
#[tokio::test]
async fn test_empty_prewrite_4b() {
    let mut lab = Lab::new();
    let request = lab.prewrite_request(Vec::new());
    let answer = lab.transactions.prewrite(request).await;
    assert!(answer.errors.is_empty() && answer.region_error.is_none());
    assert_eq!(lab.counts(), (0, 0, 0));
}

/// One put is prewritten: its value stands under the start timestamp, and a lock with the primary, the start
/// and the time to live.
#[tokio::test]
async fn test_single_prewrite_4b() {
    let mut lab = Lab::new();
    let mut request = lab.prewrite_request(vec![put(&[3], 42)]);
    request.lock_ttl = 1000;
    assert!(lab.transactions.prewrite(request).await.errors.is_empty());
    assert_eq!(lab.counts(), (1, 1, 0));
    assert_eq!(lab.data_at(&[3], 100), Some(value(42)));
    let lock = lab.lock_on(&[3]).unwrap();
    assert_eq!((lock.primary[..].to_vec(), lock.kind), (vec![1], LockKind::Put));
    assert_eq!((lock.start_ts, lock.ttl), (100, 1000));
}

/// Two transactions prewrite the same key: the first one succeeds, the second is told of its lock and changes
/// nothing.
#[tokio::test]
async fn test_prewrite_locked_4b() {
    let mut lab = Lab::new();
    let first = lab.prewrite_request(vec![put(&[3], 42)]);
    let second = lab.prewrite_request(vec![put(&[3], 53)]);
    assert!(lab.transactions.prewrite(first).await.errors.is_empty());
    let answer = lab.transactions.prewrite(second).await;
    assert_eq!(answer.errors.len(), 1);
    assert!(answer.errors[0].locked.is_some());
    assert_eq!(lab.counts(), (1, 1, 0));
    assert_eq!(lab.data_at(&[3], 100), Some(value(42)));
    assert_eq!(lab.lock_on(&[3]).unwrap().start_ts, 100);
}

/// A key was committed at 101, and a transaction that began at 100 prewrites it: a conflict, and nothing changes.
///
/// Hint: what was committed after the start was not seen by the transaction.
#[tokio::test]
async fn test_prewrite_written_4b() {
    let mut lab = Lab::new();
    let request = lab.prewrite_request(vec![put(&[3], 42)]);
    lab.data(&[3], 80, value(5)).write(&[3], 101, PUT, 80);
    let answer = lab.transactions.prewrite(request).await;
    assert_eq!(answer.errors.len(), 1);
    assert!(answer.errors[0].conflict.is_some());
    assert_eq!(lab.counts(), (1, 0, 1));
    lab.assert_untouched();
}

/// A key was committed at 90, and a transaction that began at 100 prewrites it: it succeeds.
#[tokio::test]
async fn test_prewrite_written_no_conflict_4b() {
    let mut lab = Lab::new();
    let request = lab.prewrite_request(vec![put(&[3], 42)]);
    lab.data(&[3], 80, value(5)).write(&[3], 90, PUT, 80);
    assert!(lab.transactions.prewrite(request).await.errors.is_empty());
    assert_eq!(lab.counts(), (2, 1, 1));
    assert_eq!(lab.data_at(&[3], 100), Some(value(42)));
}

/// Two transactions prewrite different keys: both succeed.
#[tokio::test]
async fn test_multiple_prewrites_4b() {
    let mut lab = Lab::new();
    for (key, byte) in [(3, 42), (4, 53)] {
        let request = lab.prewrite_request(vec![put(&[key], byte)]);
        assert!(lab.transactions.prewrite(request).await.errors.is_empty());
    }
    assert_eq!(lab.counts(), (2, 2, 0));
    assert_eq!(lab.data_at(&[3], 100), Some(value(42)));
    assert_eq!(lab.data_at(&[4], 101), Some(value(53)));
}

/// A request does not stand in its own way; the last mutation of a key wins.
#[tokio::test]
async fn test_prewrite_overwrite_4b() {
    let mut lab = Lab::new();
    let request = lab.prewrite_request(vec![put(&[3], 42), put(&[3], 45)]);
    assert!(lab.transactions.prewrite(request).await.errors.is_empty());
    assert_eq!(lab.counts(), (1, 1, 0));
    assert_eq!(lab.data_at(&[3], 100), Some(value(45)));
}

/// One request puts four keys, deletes one of them and puts it again: what came last counts.
#[tokio::test]
async fn test_prewrite_multiple_4b() {
    let mut lab = Lab::new();
    let mutations = vec![
        put(&[3], 42),
        put(&[4], 43),
        put(&[5], 44),
        delete(&[4]),
        put(&[4], 135),
        put(&[255], 45),
    ];
    let request = lab.prewrite_request(mutations);
    assert!(lab.transactions.prewrite(request).await.errors.is_empty());
    assert_eq!(lab.counts(), (4, 4, 0));
    assert_eq!(lab.data_at(&[4], 100), Some(value(135)));
}

/// A commit of no keys succeeds and leaves nothing.
#[tokio::test]
async fn test_empty_commit_4b() {
    let mut lab = Lab::new();
    let request = lab.commit_request(&[]);
    let answer = lab.transactions.commit(request).await;
    assert_eq!((answer.error, answer.region_error), (None, None));
    assert_eq!(lab.counts(), (0, 0, 0));
}

/// A prewritten key is committed: the lock is gone, a commit record stands at the commit timestamp, the value is
/// as it was.
#[tokio::test]
async fn test_single_commit_4b() {
    let mut lab = Lab::new();
    let request = lab.commit_request(&[&[3]]);
    lab.data(&[3], 100, value(42)).lock(&[3], &[], 100, 0);
    assert_eq!(lab.transactions.commit(request).await.error, None);
    assert_eq!(lab.counts(), (1, 0, 1));
    assert_eq!(lab.write_at(&[3], 110), Some((PUT, 100)));
    assert_eq!(lab.data_at(&[3], 100), Some(value(42)));
}

/// A key with an older commit is prewritten and committed: both records are there.
#[tokio::test]
async fn test_commit_overwrite_4b() {
    let mut lab = Lab::new();
    let request = lab.commit_request(&[&[3]]);
    lab.committed(&[3], 80, 84, 15).data(&[3], 100, value(42)).lock(&[3], &[], 100, 0);
    assert_eq!(lab.transactions.commit(request).await.error, None);
    assert_eq!(lab.counts(), (2, 0, 2));
    assert_eq!(lab.write_at(&[3], 110), Some((PUT, 100)));
}

/// Three prewritten keys are committed, among committed ones and those of another transaction: these do not
/// change.
#[tokio::test]
async fn test_commit_multiple_keys_4b() {
    let mut lab = Lab::new();
    let keys: [&[u8]; 3] = [&[3], &[12, 4, 0], &[15]];
    let request = lab.commit_request(&keys);
    for key in keys {
        lab.data(key, 100, value(42)).lock(key, &[], 100, 0);
    }
    let others: [&[u8]; 2] = [&[4], &[3, 0]];
    for key in others {
        lab.committed(key, 80, 84, 15);
    }
    let foreign: [&[u8]; 2] = [&[2], &[43, 6]];
    for key in foreign {
        lab.data(key, 99, value(9)).lock(key, &[], 99, 0);
    }
    assert_eq!(lab.transactions.commit(request).await.error, None);
    assert_eq!(lab.counts(), (7, 2, 5));
    for key in keys {
        assert_eq!(lab.write_at(key, 110), Some((PUT, 100)));
    }
    for key in others.into_iter().chain(foreign) {
        lab.assert_key_untouched(key);
    }
}

/// One request commits the same key twice: it is committed once, and that is no error.
#[tokio::test]
async fn test_recommit_key_4b() {
    let mut lab = Lab::new();
    let request = lab.commit_request(&[&[3], &[3]]);
    lab.data(&[3], 100, value(42)).lock(&[3], &[], 100, 0);
    assert_eq!(lab.transactions.commit(request).await.error, None);
    assert_eq!(lab.counts(), (1, 0, 1));
    assert_eq!(lab.write_at(&[3], 110), Some((PUT, 100)));
}

/// A transaction that was rolled back is committed: an error, and nothing changes.
///
/// Hint: the record at the start timestamp says what became of it.
#[tokio::test]
async fn test_commit_conflict_rollback_4b() {
    let mut lab = Lab::new();
    let request = lab.commit_request(&[&[3]]);
    lab.write(&[3], 110, WriteKind::Rollback, 100);
    assert!(lab.transactions.commit(request).await.error.is_some());
    assert_eq!(lab.counts(), (0, 0, 1));
    lab.assert_untouched();
}

/// The key has the lock of another transaction: the commit fails, may be tried again, and changes nothing.
#[tokio::test]
async fn test_commit_conflict_race_4b() {
    let mut lab = Lab::new();
    let request = lab.commit_request(&[&[3]]);
    lab.data(&[3], 90, value(110)).lock(&[3], &[], 90, 0);
    let error = lab.transactions.commit(request).await.error.unwrap();
    assert!(!error.retryable.is_empty());
    assert_eq!(lab.counts(), (1, 1, 0));
    lab.assert_untouched();
}

/// A committed transaction is committed again: it succeeds and writes nothing.
///
/// Hint: the answer to the first one may have been lost.
#[tokio::test]
async fn test_commit_conflict_repeat_4b() {
    let mut lab = Lab::new();
    let request = lab.commit_request(&[&[3]]);
    lab.data(&[3], 100, value(42)).write(&[3], 110, PUT, 100);
    assert_eq!(lab.transactions.commit(request).await.error, None);
    assert_eq!(lab.counts(), (1, 0, 1));
    lab.assert_untouched();
}

/// The course takes a commit of a key that was never prewritten for a success. TiKV's rule holds:
/// the lock is not found, and the client must not believe that it has committed.
#[tokio::test]
async fn test_commit_missing_prewrite_4b() {
    let mut lab = Lab::new();
    let request = lab.commit_request(&[&[3]]);
    lab.committed(&[4], 80, 84, 15).committed(&[3, 0], 80, 84, 150);
    let error = lab.transactions.commit(request).await.error.unwrap();
    assert!(error.retryable.contains("TxnLockNotFound"));
    assert_eq!(lab.counts(), (2, 0, 2));
    lab.assert_untouched();
}

/// Beyond the course: what was rolled back cannot be prewritten again.
#[tokio::test]
async fn prewrite_after_rollback_fails() {
    let mut lab = Lab::new();
    let rollback = lab.rollback_request(&[&[3]]);
    assert_eq!(lab.transactions.batch_rollback(rollback).await.error, None);
    let mut late = lab.prewrite_request(vec![put(&[3], 42)]);
    late.start_version = 100;
    let answer = lab.transactions.prewrite(late).await;
    assert!(answer.errors[0].conflict.is_some());
    assert_eq!(lab.counts(), (0, 0, 1));
}

/// Beyond the course: a transaction cannot commit before it began.
#[tokio::test]
async fn commit_before_its_start_fails() {
    let mut lab = Lab::new();
    let mut request = lab.commit_request(&[&[3]]);
    lab.data(&[3], 100, value(42)).lock(&[3], &[], 100, 0);
    request.commit_version = 100;
    assert!(!lab.transactions.commit(request).await.error.unwrap().abort.is_empty());
    lab.assert_untouched();
}
