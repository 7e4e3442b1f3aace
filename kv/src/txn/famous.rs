//! Bugs of transactions that other systems had, each named by its row in the list of famous bugs.
//!
//! | row | what went wrong there |
//! |---|---|
//! | t2 | a prewrite that came again, after its transaction had ended, locked again |
//! | t3 | a late prewrite slipped past a rollback record that was collapsed or overwritten |
//! | t4 | a transaction whose time was over was rolled back while its client lived, and committed |
//! | t6 | the newest read was lost with a leader, and an async commit went below an earlier read |
//! | t7 | a read on a follower raised no newest read and met no locks in memory |
//! | t8 | what a lagging replica had decided was written after it had lost and regained its place |
//! | t9 | a transaction that began before the safe point was let in |
//! | t10 | commands overtook each other on one key |
//!
//! The others are elsewhere: t1 (blind re-execution) and t5 (outcomes of three values) concern clients.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use proto::kvrpcpb::{
    BatchRollbackRequest, CheckSecondaryLocksRequest, CheckTxnStatusRequest, CleanupRequest,
    CommitRequest, Context, GetRequest, KeyError, Mutation, Op, PessimisticLockRequest,
    PrewriteRequest, ScanRequest, TxnHeartBeatRequest,
};
use proto::{KeyRange, Refusal, Timestamp, metapb};
use raftstore::engine::DataEngine as _;

use super::Transactions;
use super::tests::{Gated, Oracle, get, on_its_way, over, prewrite, put, refusal, reserve};
use crate::config::ApiVersion;

async fn commit(txns: &Transactions<Gated>, start: u64, key: &'static str, at: u64) -> bool {
    let request = CommitRequest {
        start_version: start,
        commit_version: at,
        keys: vec![key.into()],
        ..Default::default()
    };
    txns.commit(request).await.error.is_none()
}

async fn rollback(txns: &Transactions<Gated>, start: u64, key: &'static str) -> bool {
    let keys = vec![key.into()];
    let request = BatchRollbackRequest { start_version: start, keys, ..Default::default() };
    txns.batch_rollback(request).await.error.is_none()
}

async fn errors(txns: &Transactions<Gated>, request: PrewriteRequest) -> Vec<KeyError> {
    txns.prewrite(request).await.errors
}

async fn value(txns: &Transactions<Gated>, key: &'static str, ts: u64) -> Option<String> {
    let answer = txns.get(get(key, ts)).await;
    assert!(answer.error.is_none() && answer.region_error.is_none(), "{answer:?}");
    (!answer.not_found).then(|| String::from_utf8(answer.value.to_vec()).unwrap())
}

#[tokio::test]
async fn bug_t2_a_prewrite_that_comes_again_after_the_end_locks_again() {
    for style in 0..3 {
        let txns = over(Gated::new());
        let request = |start| PrewriteRequest {
            use_async_commit: style == 1,
            try_one_pc: style == 2,
            ..prewrite(start, vec![put("k", "1")])
        };
        // Committed, in each of the ways; the answer was lost and the request comes again, twice.
        let first = txns.prewrite(request(200)).await;
        let commit_ts = match style {
            0 => 210,
            1 => first.min_commit_ts,
            _ => first.one_pc_commit_ts,
        };
        assert!(style == 2 || commit(&txns, 200, "k", commit_ts).await);
        // Who commits it again, later, is told when that was.
        let late = CommitRequest {
            start_version: 200,
            commit_version: commit_ts + 50,
            keys: vec!["k".into()],
            ..Default::default()
        };
        assert_eq!(txns.commit(late).await.commit_version, commit_ts);
        for _ in 0..2 {
            let again = txns.prewrite(request(200)).await;
            assert!(again.errors.is_empty(), "{again:?}");
            // One commit timestamp, whoever asks.
            assert!(again.min_commit_ts == 0 || again.min_commit_ts == commit_ts);
            assert!(again.one_pc_commit_ts == 0 || again.one_pc_commit_ts == commit_ts);
        }
        assert_eq!(value(&txns, "k", u64::MAX).await.as_deref(), Some("1"));
        // Somebody has resolved it meanwhile: rolled back is rolled back.
        assert!(rollback(&txns, 300, "k").await);
        assert_eq!(errors(&txns, request(300)).await.len(), 1);
        assert!(!commit(&txns, 300, "k", 310).await);
        assert_eq!(value(&txns, "k", u64::MAX).await.as_deref(), Some("1"));
    }
}

#[tokio::test]
async fn bug_t3_a_late_prewrite_slips_past_a_collapsed_rollback() {
    let txns = over(Gated::new());
    // Three rolled back in a row: the later records may collapse the earlier ones, but not the fates.
    for start in [10, 20, 30] {
        assert!(rollback(&txns, start, "k").await);
    }
    for start in [10, 20, 30] {
        let refused = errors(&txns, prewrite(start, vec![put("k", "late")])).await;
        assert!(refused[0].conflict.is_some(), "{start}: {refused:?}");
    }
    assert_eq!(value(&txns, "k", 99).await, None);
}

#[tokio::test]
async fn bug_t3_a_commit_overwrites_the_rollback_at_its_timestamp() {
    let txns = over(Gated::new());
    // An async commit by 110 that may commit at 150, where another transaction begins.
    let request = PrewriteRequest {
        use_async_commit: true,
        min_commit_ts: 150,
        ..prewrite(110, vec![put("k", "async")])
    };
    assert!(errors(&txns, request).await.is_empty());
    let status = CheckTxnStatusRequest {
        primary_key: "k".into(),
        lock_ts: 150,
        current_ts: u64::MAX,
        rollback_if_not_exist: true,
        ..Default::default()
    };
    assert!(txns.check_txn_status(status.clone()).await.error.is_none());
    assert!(commit(&txns, 110, "k", 150).await);
    // The record at 150 is the commit's; that 150 was rolled back is not forgotten.
    let refused = errors(&txns, prewrite(150, vec![put("k", "late")])).await;
    assert!(refused[0].conflict.is_some(), "{refused:?}");
    let again = txns.check_txn_status(status).await;
    assert_eq!((again.commit_version, again.lock_ttl), (0, 0));
    assert_eq!(value(&txns, "k", 150).await.as_deref(), Some("async"));
}

#[tokio::test]
async fn bug_t4_a_transaction_is_given_up_while_its_client_lives_and_commits() {
    let ms = |physical| Timestamp::new(physical, 0).0;
    let txns = over(Gated::new());
    let begin = |start| PrewriteRequest { lock_ttl: 100, ..prewrite(start, vec![put("k", "1")]) };
    let status = |start, now| CheckTxnStatusRequest {
        primary_key: "k".into(),
        lock_ts: start,
        current_ts: now,
        rollback_if_not_exist: true,
        ..Default::default()
    };
    // One that says that it lives is not given up.
    let alive = ms(1_000);
    assert!(errors(&txns, begin(alive)).await.is_empty());
    let heartbeat = TxnHeartBeatRequest {
        primary_lock: "k".into(),
        start_version: alive,
        advise_lock_ttl: 10_000,
        ..Default::default()
    };
    assert_eq!(txns.txn_heart_beat(heartbeat).await.lock_ttl, 10_000);
    assert!(txns.check_txn_status(status(alive, ms(5_000))).await.lock_ttl > 0);
    assert!(commit(&txns, alive, "k", ms(5_001)).await);
    // One that was silent is, and its commit fails: never both.
    let silent = ms(6_000);
    assert!(errors(&txns, begin(silent)).await.is_empty());
    assert_eq!(txns.check_txn_status(status(silent, ms(7_000))).await.lock_ttl, 0);
    assert!(!commit(&txns, silent, "k", ms(7_001)).await);
    let heartbeat = TxnHeartBeatRequest {
        primary_lock: "k".into(),
        start_version: silent,
        advise_lock_ttl: 10_000,
        ..Default::default()
    };
    assert!(txns.txn_heart_beat(heartbeat).await.error.unwrap().txn_not_found.is_some());
}

#[tokio::test]
async fn bug_t6_the_newest_read_is_lost_with_a_leader() {
    // Another store led until now and served a read at 500; this one has seen none.
    let ways: [fn(u64) -> PrewriteRequest; 2] = [
        |start| PrewriteRequest { try_one_pc: true, ..prewrite(start, vec![put("k", "1")]) },
        |start| PrewriteRequest { use_async_commit: true, ..prewrite(start, vec![put("k", "1")]) },
    ];
    for way in ways {
        let storage = Gated::new();
        let txns = Transactions::new(storage.clone(), ApiVersion::V1, Arc::new(Oracle(Some(600))));
        let answer = txns.prewrite(way(10)).await;
        assert!(answer.one_pc_commit_ts.max(answer.min_commit_ts) > 600, "{answer:?}");
        // In the same leadership it is known; after a split or a merge, or in a new term, it is not.
        let moved = |version| Context {
            region_epoch: Some(metapb::RegionEpoch { version, conf_ver: 1 }),
            ..Default::default()
        };
        let deaf = Transactions::new(storage, ApiVersion::V1, Arc::new(Oracle(None)));
        let request = PrewriteRequest { context: Some(moved(2)), ..way(20) };
        let answer = deaf.prewrite(request).await;
        assert_eq!(refusal(answer.region_error), Refusal::MaxTimestampNotSynced);
    }
}

#[tokio::test]
async fn bug_t7_a_follower_is_read_without_the_leader_knowing() {
    let storage = Gated::new();
    let txns = over(storage.clone());
    let on_a_follower = Some(Context { replica_read: true, ..Context::default() });
    let read = GetRequest { context: on_a_follower.clone(), ..get("k", 400) };
    assert!(txns.get(read).await.not_found);
    assert!(storage.viewed.lock().iter().all(|context| !context.replica_read));
    let write = on_its_way(&storage, &txns).await;
    // The lock is on its way into the log: a reader meets it, wherever it asks.
    let read = GetRequest { context: on_a_follower, ..get("k", 500) };
    assert!(txns.get(read).await.error.unwrap().locked.is_some());
    storage.is_shut.store(false, Ordering::SeqCst);
    storage.gate.notify_one();
    assert!(write.await.unwrap().min_commit_ts > 400);
}

#[tokio::test]
async fn bug_t8_a_decision_outlives_the_leadership_in_which_it_was_made() {
    let storage = Gated::new();
    let txns = over(storage.clone());
    assert!(errors(&txns, prewrite(10, vec![put("k", "1")])).await.is_empty());
    let resolve = proto::kvrpcpb::ResolveLockRequest {
        start_version: 10,
        commit_version: 20,
        ..Default::default()
    };
    assert!(txns.resolve_lock(resolve).await.error.is_none());
    // Whatever was decided from a view is only written in the term of that view.
    assert!(storage.written.lock().iter().all(|context| context.term == 7));
}

#[tokio::test]
async fn bug_t9_a_transaction_of_before_the_safe_point_is_let_in() {
    let txns = over(Gated::new());
    let one = PrewriteRequest { try_one_pc: true, ..prewrite(110, vec![put("k", "1")]) };
    assert!(errors(&txns, one).await.is_empty());
    txns.safe_points().adopt(200, 150);
    let refused = txns.get(get("k", 199)).await.error.unwrap();
    assert!(refused.abort.contains("GC life time is shorter than transaction duration"));
    let scan = ScanRequest { version: 199, limit: 1, ..Default::default() };
    assert!(!txns.scan(scan).await.error.unwrap().abort.is_empty());
    assert!(!errors(&txns, prewrite(200, vec![put("k", "2")])).await[0].abort.is_empty());
    let lock: PessimisticLockRequest = reserve(200, "k", -1);
    assert!(!txns.pessimistic_lock(lock).await.errors[0].abort.is_empty());
    assert_eq!(value(&txns, "k", 200).await.as_deref(), Some("1"));
    assert!(errors(&txns, prewrite(201, vec![put("k", "2")])).await.is_empty());
}

/// The answer to a commit was lost, and the record of the commit has gone since.
#[tokio::test]
async fn bug_t9_a_commit_of_before_the_safe_point_is_said_to_have_failed() {
    let storage = Gated::new();
    let txns = over(storage.clone());
    let lock = Mutation { op: Op::Lock as i32, key: "k".into(), ..Default::default() };
    assert!(errors(&txns, prewrite(110, vec![lock])).await.is_empty());
    let request = |start, at| CommitRequest {
        start_version: start,
        commit_version: at,
        keys: vec!["k".into()],
        ..Default::default()
    };
    for _ in 0..2 {
        assert!(txns.commit(request(110, 120)).await.error.is_none());
    }
    txns.safe_points().adopt(200, 200);
    storage.engine.raise_safe_point(200).unwrap();
    assert_eq!(storage.engine.collect_garbage(&KeyRange::all()).unwrap(), 1);
    let unknown = txns.commit(request(110, 120)).await.error.unwrap();
    assert!(unknown.abort.contains("GC safe point is 200"), "{unknown:?}");
    // Behind the safe point everything is known.
    let failed = txns.commit(request(110, 201)).await.error.unwrap();
    assert!(failed.retryable.contains("TxnLockNotFound"), "{failed:?}");
}

/// A read that is under way when the safe point passes it may have missed versions: it does not count.
#[tokio::test]
async fn bug_t9_the_safe_point_passes_a_read_under_way() {
    let storage = Gated::new();
    let txns = over(storage.clone());
    let one = PrewriteRequest { try_one_pc: true, ..prewrite(110, vec![put("k", "1")]) };
    assert!(errors(&txns, one).await.is_empty());
    let points = txns.safe_points().clone();
    *storage.on_view.lock() = Some(Box::new(move || points.adopt(300, 300)));
    let refused = txns.get(get("k", 299)).await.error.unwrap();
    assert!(refused.abort.contains("GC safe point is 300"), "{refused:?}");
}

#[tokio::test]
async fn bug_t10_commands_overtake_each_other_on_one_key() {
    // Keys of two commands overlap in every order; each command holds one key that another wants.
    let storage = Gated::new();
    let txns = over(storage.clone());
    let keys = ["a", "b", "c", "d"];
    let mut running = Vec::new();
    for start in 0..24_u64 {
        let first = keys[(start % 4) as usize];
        let second = keys[((start / 4 + start) % 4) as usize];
        let txns = txns.clone();
        running.push(tokio::spawn(async move {
            let ts = 1_000 + start * 10;
            let request = prewrite(ts, vec![put(first, "1"), put(second, "1")]);
            let is_locked = txns.prewrite(request).await.errors.is_empty();
            let secondaries = CheckSecondaryLocksRequest {
                keys: vec![second.into()],
                start_version: ts,
                ..Default::default()
            };
            let cleanup =
                CleanupRequest { key: first.into(), start_version: ts, ..Default::default() };
            // One decides, the other hears; whichever comes first.
            let (_, cleaned) =
                tokio::join!(txns.check_secondary_locks(secondaries), txns.cleanup(cleanup));
            assert!(cleaned.error.is_none(), "{cleaned:?}");
            assert!(!commit(&txns, ts, first, ts + 5).await, "it was cleaned up");
            assert!(rollback(&txns, ts, second).await);
            is_locked
        }));
    }
    let mut locked = 0;
    for command in running {
        locked += usize::from(command.await.unwrap());
    }
    assert!(locked > 0, "somebody gets through");
    for key in keys {
        assert_eq!(value(&txns, key, u64::MAX).await, None);
    }
}
