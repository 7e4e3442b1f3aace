//! What the shell promises: waiting, deadlines, and writes that outlive their callers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::kvrpcpb::{
    self, BatchRollbackRequest, CheckTxnStatusRequest, CommitRequest, Context, GetRequest,
    Mutation, Op, PessimisticLockRequest, PessimisticLockResponse, PrewriteRequest,
    PrewriteResponse, ScanRequest,
};
use proto::{KeyRange, Refusal, Timestamp, errorpb};
use raftstore::engine::memory::MemoryData;
use raftstore::engine::{DataEngine, WriteBatch};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{TimestampFuture, TimestampSource, Transactions};
use crate::config::ApiVersion;
use crate::keys::Key;
use crate::storage::local::LocalStorage;
use crate::storage::{Storage, View};

/// Hands out this number, or refuses.
pub(super) struct Oracle(pub(super) Option<u64>);

impl TimestampSource for Oracle {
    fn fresh(&self) -> TimestampFuture {
        let answer = self.0.ok_or(Refusal::closing());
        Box::pin(async move { answer })
    }
}

/// Something that happens.
type Act = Box<dyn FnOnce() + Send>;

/// Storage whose writes can be held back, and whose contexts are kept.
#[derive(Clone)]
pub(super) struct Gated {
    local: LocalStorage<MemoryData>,
    pub(super) engine: MemoryData,
    pub(super) is_shut: Arc<AtomicBool>,
    pub(super) gate: Arc<Notify>,
    pub(super) written: Arc<Mutex<Vec<Context>>>,
    pub(super) viewed: Arc<Mutex<Vec<Context>>>,
    /// Happens once, when the next view is taken.
    pub(super) on_view: Arc<Mutex<Option<Act>>>,
}

impl Gated {
    pub(super) fn new() -> Self {
        let engine = MemoryData::new();
        Self {
            local: LocalStorage::new(engine.clone()),
            engine,
            is_shut: Arc::default(),
            gate: Arc::default(),
            written: Arc::default(),
            viewed: Arc::default(),
            on_view: Arc::default(),
        }
    }
}

impl Storage for Gated {
    type Snapshot = <MemoryData as DataEngine>::Snapshot;

    async fn view(&self, context: &Context) -> Result<View<Self::Snapshot>, Refusal> {
        self.viewed.lock().push(context.clone());
        if let Some(act) = self.on_view.lock().take() {
            act();
        }
        Ok(View { term: 7, ..self.local.view(context).await? })
    }

    async fn write(&self, context: &Context, batch: WriteBatch) -> Result<(), Refusal> {
        self.written.lock().push(context.clone());
        if self.is_shut.load(Ordering::SeqCst) {
            self.gate.notified().await;
        }
        self.local.write(context, batch).await
    }
}

pub(super) fn over(storage: Gated) -> Transactions<Gated> {
    Transactions::new(storage, ApiVersion::V1, Arc::new(Oracle(Some(100))))
}

pub(super) fn put(key: &'static str, value: &'static str) -> Mutation {
    Mutation { op: Op::Put as i32, key: key.into(), value: value.into(), ..Default::default() }
}

pub(super) fn prewrite(start: u64, mutations: Vec<Mutation>) -> PrewriteRequest {
    PrewriteRequest {
        primary_lock: mutations[0].key.clone(),
        mutations,
        start_version: start,
        lock_ttl: 3000,
        ..Default::default()
    }
}

pub(super) fn get(key: &'static str, ts: u64) -> GetRequest {
    GetRequest { key: key.into(), version: ts, ..Default::default() }
}

fn hurry(ms: u64) -> Option<Context> {
    Some(Context { max_execution_duration_ms: ms, ..Default::default() })
}

pub(super) fn reserve(start: u64, key: &'static str, wait_ms: i64) -> PessimisticLockRequest {
    PessimisticLockRequest {
        mutations: vec![Mutation {
            op: Op::PessimisticLock as i32,
            key: key.into(),
            ..Default::default()
        }],
        primary_lock: key.into(),
        start_version: start,
        for_update_ts: start,
        lock_ttl: 3000,
        wait_timeout: wait_ms,
        ..Default::default()
    }
}

pub(super) fn refusal(error: Option<errorpb::Error>) -> Refusal {
    error.expect("a refusal").into()
}

#[tokio::test]
async fn a_write_keeps_its_latches_when_its_caller_is_gone() {
    let storage = Gated::new();
    let transactions = over(storage.clone());
    storage.is_shut.store(true, Ordering::SeqCst);
    let request = PrewriteRequest { context: hurry(5), ..prewrite(10, vec![put("k", "1")]) };
    let answer = transactions.prewrite(request).await;
    assert!(matches!(refusal(answer.region_error), Refusal::UndeterminedResult { .. }));

    // The next command on the key must not look before that write's fate is known.
    let request = PrewriteRequest { context: hurry(5), ..prewrite(11, vec![put("k", "2")]) };
    let answer = transactions.prewrite(request).await;
    assert_eq!(refusal(answer.region_error), Refusal::deadline_exceeded());

    storage.is_shut.store(false, Ordering::SeqCst);
    storage.gate.notify_one();
    let answer = transactions.prewrite(prewrite(11, vec![put("k", "2")])).await;
    assert_eq!(answer.errors[0].locked.as_ref().unwrap().lock_version, 10);
}

#[tokio::test]
async fn what_was_decided_is_written_in_the_term_of_the_view() {
    let storage = Gated::new();
    over(storage.clone()).prewrite(prewrite(10, vec![put("k", "1")])).await;
    assert_eq!(storage.written.lock()[0].term, 7);
}

/// An async commit by 110 of `k`: its lock is in memory until the gate opens.
pub(super) async fn on_its_way(
    storage: &Gated,
    transactions: &Transactions<Gated>,
) -> JoinHandle<PrewriteResponse> {
    storage.is_shut.store(true, Ordering::SeqCst);
    let writer = transactions.clone();
    let request = PrewriteRequest { use_async_commit: true, ..prewrite(110, vec![put("k", "1")]) };
    let write = tokio::spawn(async move { writer.prewrite(request).await });
    while storage.written.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    write
}

#[tokio::test]
async fn readers_meet_async_commit_locks_before_they_are_applied() {
    let storage = Gated::new();
    let transactions = over(storage.clone());
    let write = on_its_way(&storage, &transactions).await;

    let answer = transactions.get(get("k", 200)).await;
    let lock = answer.error.unwrap().locked.unwrap();
    assert_eq!((lock.lock_version, lock.min_commit_ts), (110, 111));
    let answer = transactions.get(get("k", u64::MAX)).await;
    assert!(answer.error.unwrap().locked.is_some());
    let scan = ScanRequest { version: 200, limit: 10, ..Default::default() };
    let answer = transactions.scan(scan).await;
    assert!(answer.error.is_some() && answer.pairs[0].error.is_some());
    assert!(transactions.get(get("k", 110)).await.not_found);
    assert!(transactions.get(get("l", 200)).await.not_found);

    storage.gate.notify_one();
    assert_eq!(write.await.unwrap().min_commit_ts, 111);
    assert_eq!(transactions.memory().find(&Key::new("k"), |_| true), None);
}

#[tokio::test]
async fn a_new_leader_asks_for_a_timestamp_before_it_computes_one() {
    let transactions = over(Gated::new());
    let request =
        |start| PrewriteRequest { try_one_pc: true, ..prewrite(start, vec![put("k", "1")]) };
    let answer = transactions.prewrite(request(10)).await;
    assert_eq!(answer.one_pc_commit_ts, 101);

    let storage = Gated::new();
    let deaf = Transactions::new(storage, ApiVersion::V1, Arc::new(Oracle(None)));
    let answer = deaf.prewrite(request(10)).await;
    assert_eq!(refusal(answer.region_error), Refusal::MaxTimestampNotSynced);
    assert!(deaf.prewrite(prewrite(11, vec![put("k", "1")])).await.errors.is_empty());
}

/// S3.4, where it ends: what followers are asked for are raw keys. Transactions are read where the leader is.
///
/// A follower cannot tell the leader at which timestamp it has read, and would not meet the leader's locks in
/// memory: what it showed could lie above a commit that comes later.
#[tokio::test]
async fn bug_l9_a_follower_shows_more_than_a_later_read_of_the_leader() {
    let replica_read = || Some(Context { replica_read: true, ..Context::default() });
    let one_pc = || PrewriteRequest { try_one_pc: true, ..prewrite(110, vec![put("k", "1")]) };
    let async_commit =
        || PrewriteRequest { use_async_commit: true, ..prewrite(110, vec![put("k", "1")]) };
    for prewrite in [one_pc(), async_commit()] {
        let storage = Gated::new();
        let transactions = over(storage.clone());
        let read = GetRequest { context: replica_read(), ..get("k", 200) };
        assert!(transactions.get(read).await.not_found);
        let keys = vec!["k".into()];
        let version = 300;
        let read = kvrpcpb::BatchGetRequest {
            context: replica_read(),
            keys,
            version,
            ..Default::default()
        };
        assert!(transactions.batch_get(read).await.pairs.is_empty());
        let scan = ScanRequest { version: 400, limit: 10, ..Default::default() };
        let scan = ScanRequest { context: replica_read(), ..scan };
        assert!(transactions.scan(scan).await.pairs.is_empty());
        let viewed = storage.viewed.lock().clone();
        assert_eq!(viewed.len(), 3);
        assert!(viewed.iter().all(|context| !context.replica_read), "a leader is asked");
        // And the leader keeps its word to each of them.
        let answer = transactions.prewrite(prewrite).await;
        assert!(answer.one_pc_commit_ts > 400 || answer.min_commit_ts > 400, "{answer:?}");
    }
}

#[tokio::test]
async fn bug_l10_a_read_of_the_latest_passes_by_the_lock_of_an_async_commit() {
    let latest = |key| get(key, u64::MAX);
    let storage = Gated::new();
    let transactions = over(storage.clone());
    let request = |use_async_commit, start, key| PrewriteRequest {
        use_async_commit,
        ..prewrite(start, vec![put(key, "1")])
    };
    // While it is on its way into the log, and once it is written: it may be committed already.
    storage.is_shut.store(true, Ordering::SeqCst);
    let writer = transactions.clone();
    let write = tokio::spawn(async move { writer.prewrite(request(true, 110, "k")).await });
    while storage.written.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    let meets = async |key: &'static str| {
        let batch = kvrpcpb::BatchGetRequest {
            keys: vec![key.into()],
            version: u64::MAX,
            ..Default::default()
        };
        let batch = transactions.batch_get(batch).await;
        let of_batch = batch.error.is_some() || batch.pairs.iter().any(|pair| pair.error.is_some());
        let of_get = transactions.get(latest(key)).await.error;
        assert_eq!(of_batch, of_get.is_some());
        of_get.is_some_and(|error| error.locked.is_some())
    };
    assert!(meets("k").await);
    storage.is_shut.store(false, Ordering::SeqCst);
    storage.gate.notify_one();
    assert!(write.await.unwrap().errors.is_empty());
    assert!(meets("k").await);
    // The primary of two phases is passed by: while its lock stands nothing is committed.
    assert!(transactions.prewrite(request(false, 120, "p")).await.errors.is_empty());
    assert!(!meets("p").await);
}

#[tokio::test]
async fn who_asks_how_far_to_apply_meets_locks_on_their_way_and_raises_the_newest_read() {
    let storage = Gated::new();
    let transactions = over(storage.clone());
    let ask = |start_ts, start_key: &'static str| kvrpcpb::ReadIndexRequest {
        start_ts,
        ranges: vec![kvrpcpb::KeyRange { start_key: start_key.into(), end_key: "z".into() }],
        ..Default::default()
    };
    let answer = transactions.read_index(ask(400, "a")).await;
    assert!(answer.locked.is_none() && answer.region_error.is_none());
    let write = on_its_way(&storage, &transactions).await;
    assert_eq!(transactions.read_index(ask(500, "a")).await.locked.unwrap().lock_version, 110);
    assert!(transactions.read_index(ask(500, "l")).await.locked.is_none(), "not in its ranges");
    storage.is_shut.store(false, Ordering::SeqCst);
    storage.gate.notify_one();
    assert!(write.await.unwrap().min_commit_ts > 400);
}

#[tokio::test]
async fn a_checked_read_and_a_scan_for_nothing_meet_locks_on_their_way() {
    let storage = Gated::new();
    let transactions = over(storage.clone());
    let write = on_its_way(&storage, &transactions).await;
    let checked = Context {
        isolation_level: kvrpcpb::IsolationLevel::RcCheckTs as i32,
        ..Default::default()
    };
    let request = GetRequest { context: Some(checked.clone()), ..get("k", 90) };
    let conflict = transactions.get(request).await.error.unwrap().conflict.unwrap();
    assert_eq!(conflict.reason(), kvrpcpb::write_conflict::Reason::RcCheckTs);
    assert_eq!((conflict.conflict_ts, conflict.conflict_commit_ts), (110, 0));
    assert_eq!((conflict.key.as_ref(), conflict.primary.as_ref()), (&b"k"[..], &b"k"[..]));
    let scan = ScanRequest { version: 90, limit: 10, ..Default::default() };
    let answer =
        transactions.scan(ScanRequest { context: Some(checked), ..scan.clone() }).await.error;
    assert!(answer.unwrap().conflict.is_some());
    // A snapshot read below the lock passes it by; one above meets it, even if it wants no keys.
    assert!(transactions.scan(scan).await.error.is_none());
    let nothing = ScanRequest { version: u64::MAX, limit: 0, ..Default::default() };
    let met = transactions.scan(nothing.clone()).await.error.unwrap().locked.unwrap();
    assert_eq!(met.lock_version, 110);
    storage.is_shut.store(false, Ordering::SeqCst);
    storage.gate.notify_one();
    assert!(write.await.unwrap().errors.is_empty());
    // And the region is asked, though its keys are not.
    storage.viewed.lock().clear();
    let answer = transactions.scan(nothing).await;
    assert!(answer.error.is_none() && answer.pairs.is_empty());
    assert_eq!(storage.viewed.lock().len(), 1);
}

#[tokio::test]
async fn a_key_of_another_region_is_refused() {
    let range = KeyRange { start: Key::new("b").encoded().clone(), end: None };
    let storage = LocalStorage::with_range(MemoryData::new(), range);
    let transactions = Transactions::new(storage, ApiVersion::V1, Arc::new(Oracle(Some(1))));
    let answer = transactions.get(get("a", 1)).await;
    assert!(matches!(refusal(answer.region_error), Refusal::KeyNotInRegion { .. }));
    let answer = transactions.prewrite(prewrite(10, vec![put("c", "1"), put("a", "1")])).await;
    assert!(matches!(refusal(answer.region_error), Refusal::KeyNotInRegion { .. }));
    // A scan that begins before the region is cut to it.
    let scan = ScanRequest { version: 20, limit: 10, ..Default::default() };
    assert!(transactions.scan(scan).await.region_error.is_none());
}

#[tokio::test]
async fn keys_must_fit_the_clusters_api_version() {
    let storage = LocalStorage::new(MemoryData::new());
    let transactions = Transactions::new(storage, ApiVersion::V2, Arc::new(Oracle(Some(1))));
    let answer = transactions.get(get("k", 1)).await;
    assert!(answer.error.unwrap().abort.contains("InvalidKeyMode"));
    let context = Context { api_version: kvrpcpb::ApiVersion::V2 as i32, ..Default::default() };
    let request = GetRequest { context: Some(context), ..get("x\0\0\0k", 1) };
    assert!(transactions.get(request).await.not_found);
}

#[tokio::test]
async fn a_key_that_is_too_long_is_not_written_and_not_found() {
    let transactions = over(Gated::new());
    let key = Bytes::from(vec![b'x'; 9000]);
    let long = Mutation { key: key.clone(), ..put("", "") };
    let answer: PrewriteResponse = transactions.prewrite(prewrite(1, vec![long])).await;
    assert!(answer.errors[0].abort.contains("KeyTooLarge"));
    let mut lock = reserve(1, "", 0);
    lock.mutations[0].key = key.clone();
    let answer = transactions.pessimistic_lock(lock).await;
    assert!(answer.errors[0].abort.contains("KeyTooLarge"));
    let request = GetRequest { key: key.clone(), version: 10, ..Default::default() };
    assert!(transactions.get(request).await.not_found);
    let request = kvrpcpb::BatchGetRequest { keys: vec![key], version: 10, ..Default::default() };
    let answer = transactions.batch_get(request).await;
    assert!(answer.error.is_none() && answer.pairs.is_empty());
}

#[tokio::test]
async fn a_reservation_waits_for_the_holder_and_is_told_to_look_again() {
    let transactions = over(Gated::new());
    assert!(transactions.pessimistic_lock(reserve(10, "k", 0)).await.errors.is_empty());
    let waiter = transactions.clone();
    let waiting = tokio::spawn(async move { waiter.pessimistic_lock(reserve(20, "k", 0)).await });
    while transactions.waiting().entries().is_empty() {
        tokio::task::yield_now().await;
    }
    let mut first = prewrite(10, vec![put("k", "1")]);
    first.for_update_ts = 10;
    first.pessimistic_actions = vec![1];
    assert!(transactions.prewrite(first).await.errors.is_empty());
    let commit = CommitRequest {
        start_version: 10,
        commit_version: 30,
        keys: vec!["k".into()],
        ..Default::default()
    };
    assert!(transactions.commit(commit).await.error.is_none());
    let answer: PessimisticLockResponse = waiting.await.unwrap();
    let conflict = answer.errors[0].conflict.as_ref().unwrap();
    assert_eq!((conflict.conflict_ts, conflict.conflict_commit_ts), (10, 30));
    assert!(transactions.waiting().entries().is_empty());
}

#[tokio::test]
async fn a_forced_reservation_is_granted_when_the_holder_goes() {
    let transactions = over(Gated::new());
    transactions.pessimistic_lock(reserve(10, "k", 0)).await;
    let waiter = transactions.clone();
    let waiting = tokio::spawn(async move {
        let mut request = reserve(20, "k", 0);
        request.wake_up_mode = 1;
        waiter.pessimistic_lock(request).await
    });
    while transactions.waiting().entries().is_empty() {
        tokio::task::yield_now().await;
    }
    let rollback =
        BatchRollbackRequest { start_version: 10, keys: vec!["k".into()], ..Default::default() };
    transactions.batch_rollback(rollback).await;
    let answer = waiting.await.unwrap();
    assert!(answer.errors.is_empty(), "{answer:?}");
    assert_eq!(answer.results.len(), 1);
}

#[tokio::test]
async fn waiting_for_a_lock_has_an_end() {
    let transactions = over(Gated::new());
    transactions.pessimistic_lock(reserve(10, "k", 0)).await;
    let begun = tokio::time::Instant::now();
    let answer = transactions.pessimistic_lock(reserve(20, "k", 30)).await;
    assert!(answer.errors[0].locked.is_some());
    assert!(begun.elapsed() >= Duration::from_millis(30));
    let answer = transactions.pessimistic_lock(reserve(20, "k", -1)).await;
    assert!(answer.errors[0].locked.is_some());
}

#[tokio::test]
async fn a_circle_of_waiting_transactions_is_broken_at_once() {
    let transactions = over(Gated::new());
    transactions.pessimistic_lock(reserve(10, "a", 0)).await;
    transactions.pessimistic_lock(reserve(20, "b", 0)).await;
    let waiter = transactions.clone();
    let waiting = tokio::spawn(async move { waiter.pessimistic_lock(reserve(10, "b", 0)).await });
    while transactions.waiting().entries().is_empty() {
        tokio::task::yield_now().await;
    }
    let answer = transactions.pessimistic_lock(reserve(20, "a", 0)).await;
    let deadlock = answer.errors[0].deadlock.as_ref().unwrap();
    assert_eq!((deadlock.lock_ts, deadlock.lock_key.as_ref()), (10, b"a".as_ref()));
    assert_eq!(deadlock.wait_chain.len(), 2);
    // The hash of the key that the last of the circle waits for: "b", as clients compute it.
    assert_eq!(deadlock.deadlock_key_hash, farmhash::fingerprint64(b"b"));
    waiting.abort();
}

#[tokio::test]
async fn a_transaction_larger_than_a_batch_is_resolved_in_batches() {
    let transactions = over(Gated::new());
    let keys = 600;
    let mutations = (0..keys)
        .map(|number| Mutation {
            op: Op::Put as i32,
            key: format!("k{number:04}").into(),
            value: "v".into(),
            ..Default::default()
        })
        .collect();
    assert!(transactions.prewrite(prewrite(10, mutations)).await.errors.is_empty());
    let resolve =
        kvrpcpb::ResolveLockRequest { start_version: 10, commit_version: 20, ..Default::default() };
    assert!(transactions.resolve_lock(resolve).await.error.is_none());
    let scan = ScanRequest { version: 20, limit: 1000, ..Default::default() };
    assert_eq!(transactions.scan(scan).await.pairs.len(), keys);
}

#[tokio::test]
async fn a_deleted_range_leaves_no_version() {
    let transactions = over(Gated::new());
    let request = PrewriteRequest {
        try_one_pc: true,
        ..prewrite(10, vec![put("a", "1"), put("b", "1"), put("c", "1")])
    };
    transactions.prewrite(request).await;
    let request = kvrpcpb::DeleteRangeRequest {
        start_key: "a".into(),
        end_key: "c".into(),
        ..Default::default()
    };
    assert!(transactions.delete_range(request).await.error.is_empty());
    let scan = ScanRequest { version: 1000, limit: 10, ..Default::default() };
    let pairs = transactions.scan(scan).await.pairs;
    assert_eq!(pairs.len(), 1);
    assert_eq!(pairs[0].key, "c");
}

#[tokio::test]
async fn a_range_to_be_deleted_lies_in_the_region_and_begins_before_it_ends() {
    let inside = |key| Key::new(key).encoded().clone();
    let range = KeyRange { start: inside("b"), end: Some(inside("m")) };
    let storage = LocalStorage::with_range(MemoryData::new(), range);
    let transactions = Transactions::new(storage, ApiVersion::V1, Arc::new(Oracle(Some(1))));
    let delete = async |start: &'static str, end: &'static str, notify_only| {
        let request = kvrpcpb::DeleteRangeRequest {
            start_key: start.into(),
            end_key: end.into(),
            notify_only,
            ..Default::default()
        };
        transactions.delete_range(request).await
    };
    for notify_only in [false, true] {
        for (start, end) in [("a", "c"), ("c", "n"), ("c", ""), ("", "c"), ("x", "y")] {
            let refusal = refusal(delete(start, end, notify_only).await.region_error);
            assert!(matches!(refusal, Refusal::KeyNotInRegion { .. }), "{start}..{end}");
        }
        let answer = delete("d", "c", notify_only).await;
        assert_eq!(answer.error, "invalid delete range command, start_key: d, end_key: c");
        for (start, end) in [("b", "m"), ("c", "d"), ("c", "c")] {
            let answer = delete(start, end, notify_only).await;
            assert_eq!((answer.region_error, answer.error.as_str()), (None, ""), "{start}..{end}");
        }
    }
}

#[tokio::test]
async fn a_timestamp_that_nobody_was_given_puts_no_commit_into_the_future() {
    let at = |seconds: u64| Timestamp::new(1_000_000 + seconds * 1000, 0).0;
    let source = Arc::new(Oracle(Some(at(0))));
    let transactions = Transactions::new(Gated::new(), ApiVersion::V1, source);
    let short = |start, value: &'static str| PrewriteRequest {
        try_one_pc: true,
        ..prewrite(start, vec![put("k", value)])
    };
    let committed = transactions.prewrite(short(at(0), "1")).await.one_pc_commit_ts;
    assert_eq!(committed, at(0) + 1);

    let mut refused = Vec::new();
    for ts in [at(3600), u64::MAX - 1] {
        refused.push(transactions.get(get("k", ts)).await.region_error);
        let request = CheckTxnStatusRequest {
            primary_key: "k".into(),
            lock_ts: at(1),
            caller_start_ts: ts,
            ..Default::default()
        };
        refused.push(transactions.check_txn_status(request).await.region_error);
        let request = PessimisticLockRequest { return_values: true, ..reserve(ts, "k", -1) };
        refused.push(transactions.pessimistic_lock(request).await.region_error);
        refused.push(transactions.prewrite(short(ts, "2")).await.region_error);
    }
    // The maximum is what readers ask for, and nobody else.
    assert_eq!(transactions.get(get("k", u64::MAX)).await.region_error, None);
    refused.push(transactions.prewrite(short(u64::MAX, "2")).await.region_error);
    for error in refused {
        let refusal = refusal(error).to_string();
        assert!(refusal.starts_with("invalid max_ts update: "), "{refusal}");
    }

    let committed = transactions.prewrite(short(at(1), "3")).await.one_pc_commit_ts;
    assert_eq!(committed, at(1) + 1, "nobody has read later");
    // Clocks run apart a little.
    assert_eq!(transactions.get(get("k", at(30))).await.value, "3");
    let committed = transactions.prewrite(short(at(2), "4")).await.one_pc_commit_ts;
    assert_eq!(committed, at(30) + 1);
}
