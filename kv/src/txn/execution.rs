//! One request under way: until when, and what it has cost so far.
//!
//! ```text
//! comes ─latches─► alone on its keys ─view─► sees ─process─► has decided ─log─► applied ─process─► answered
//!                                                     │
//!                                                     └─lock wait─► tries again
//! ```
//!
//! Clients ask where the time went when a statement was slow; answers that have a place for it say so
//! (`exec_details_v2`). The clock is read where one stage ends and the next begins, here in the shell; what is
//! counted per key are plain integers ([`Reader::moves`]).
//!
//! How the protocol's words are meant:
//!
//! | word | means |
//! |---|---|
//! | `wait_wall_time` | latches, a place among the commands, a view, a timestamp, and locks of others |
//! | `process_wall_time` | reading and deciding |
//! | `kv_read_wall_time` | of a read: the whole of it |
//! | `total_rpc_wall_time` | from the request's beginning to its answer; on the batched stream, to the message that takes it |
//! | `get_snapshot` | until there was a view: a lease, or a barrier's round |
//! | `commit_log` | from the proposal to the applied write: raft does not tell its own stages apart |
//! | `total_versions` | moves of the cursor over records, as TiKV counts them |
//! | `processed_versions`, `…_size` | values that were found, and the bytes of them with their keys |
//!
//! Left out: what RocksDB counts (blocks, deletions skipped), and the stages inside raft.

use proto::kvrpcpb::{self, ExecDetailsV2, ScanDetailV2, TimeDetail, TimeDetailV2, WriteDetail};
use raftstore::engine::Snapshot;
use tokio::time::Instant;

use super::reader::Reader;
use crate::deadline::Deadline;
use crate::keys::Key;

const NANOS_PER_MILLI: u64 = 1_000_000;

/// Where a request's time goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waits for latches, and for a place among the commands under way.
    Latches,
    /// Waits for a view of the region.
    View,
    /// Waits for a timestamp of the scheduler: once in a term, before the first commit timestamp is computed.
    Timestamp,
    /// Reads and decides.
    Process,
    /// Its write goes through the log.
    Log,
    /// Waits for a lock that stands in its way.
    LockWait,
}

/// How many stages there are.
const STAGES: usize = 6;

/// A request under way.
#[derive(Debug)]
pub(super) struct Execution {
    /// Until when it must be answered.
    pub(super) deadline: Deadline,
    begun: Instant,
    /// Since when the present stage is.
    since: Instant,
    /// Nanoseconds of each stage.
    nanos: [u64; STAGES],
    moves: u64,
    found: u64,
    found_bytes: u64,
}

impl Execution {
    /// The request has just come.
    pub(super) fn begin(context: &kvrpcpb::Context) -> Self {
        let begun = Instant::now();
        Self {
            deadline: Deadline::since(begun, context),
            begun,
            since: begun,
            nanos: [0; STAGES],
            moves: 0,
            found: 0,
            found_bytes: 0,
        }
    }

    /// What has passed since the last stage's end was spent on this one.
    pub(super) fn ends(&mut self, stage: Stage) {
        let now = Instant::now();
        self.nanos[stage as usize] += nanos(self.since, now);
        self.since = now;
    }

    /// Counts what a reader did; once for each reader.
    pub(super) fn looked<S: Snapshot>(&mut self, reader: &Reader<S>) {
        self.moves += reader.moves();
    }

    /// Counts a value that was found.
    pub(super) fn found(&mut self, key: &Key, value: &[u8]) {
        self.found += 1;
        self.found_bytes += (key.encoded().len() + value.len()) as u64;
    }

    /// The read is over: what its answer says of it.
    pub(super) fn of_read(mut self) -> Option<ExecDetailsV2> {
        self.ends(Stage::Process);
        let total = nanos(self.begun, self.since);
        Some(self.details(total, None))
    }

    /// The command is over: what its answer says of it.
    pub(super) fn of_write(mut self) -> Option<ExecDetailsV2> {
        self.ends(Stage::Process);
        let write = WriteDetail {
            latch_wait_nanos: self.of(Stage::Latches),
            process_nanos: self.of(Stage::Process),
            commit_log_nanos: self.of(Stage::Log),
            pessimistic_lock_wait_nanos: self.of(Stage::LockWait),
            ..Default::default()
        };
        Some(self.details(0, Some(write)))
    }

    fn of(&self, stage: Stage) -> u64 {
        self.nanos[stage as usize]
    }

    fn details(&self, read_ns: u64, write_detail: Option<WriteDetail>) -> ExecDetailsV2 {
        let waits = [Stage::Latches, Stage::View, Stage::Timestamp, Stage::LockWait];
        let wait_ns = waits.iter().map(|stage| self.of(*stage)).sum();
        let process_ns = self.of(Stage::Process);
        let total_ns = nanos(self.begun, self.since);
        ExecDetailsV2 {
            time_detail: Some(TimeDetail {
                wait_wall_time_ms: wait_ns / NANOS_PER_MILLI,
                process_wall_time_ms: process_ns / NANOS_PER_MILLI,
                kv_read_wall_time_ms: read_ns / NANOS_PER_MILLI,
                total_rpc_wall_time_ns: total_ns,
            }),
            time_detail_v2: Some(TimeDetailV2 {
                wait_wall_time_ns: wait_ns,
                process_wall_time_ns: process_ns,
                kv_read_wall_time_ns: read_ns,
                total_rpc_wall_time_ns: total_ns,
                ..Default::default()
            }),
            scan_detail_v2: Some(ScanDetailV2 {
                total_versions: self.moves,
                processed_versions: self.found,
                processed_versions_size: self.found_bytes,
                get_snapshot_nanos: self.of(Stage::View),
                ..Default::default()
            }),
            write_detail,
            ..Default::default()
        }
    }
}

/// Nanoseconds between two moments; half a thousand years fit.
fn nanos(from: Instant, to: Instant) -> u64 {
    to.saturating_duration_since(from).as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use proto::kvrpcpb::{
        BatchGetRequest, BatchRollbackRequest, BufferBatchGetRequest, CheckSecondaryLocksRequest,
        CheckTxnStatusRequest, CommitRequest, FlushRequest, PessimisticRollbackRequest,
        ResolveLockRequest, ScanLockRequest, TxnHeartBeatRequest,
    };

    use super::super::Transactions;
    use super::super::reservations::Led;
    use super::super::tests::{Gated, get, over, prewrite, put, reserve};
    use super::*;

    /// What every answer tells: that time has passed, and on what.
    fn scanned(details: Option<&ExecDetailsV2>) -> ScanDetailV2 {
        let details = details.expect("every answer tells what it cost");
        let time = details.time_detail_v2.unwrap();
        assert!(time.wait_wall_time_ns > 0 && time.process_wall_time_ns > 0, "{time:?}");
        assert!(
            time.total_rpc_wall_time_ns >= time.wait_wall_time_ns + time.process_wall_time_ns,
            "{time:?}"
        );
        let older = details.time_detail.unwrap();
        assert_eq!(older.total_rpc_wall_time_ns, time.total_rpc_wall_time_ns);
        assert_eq!(older.wait_wall_time_ms, time.wait_wall_time_ns / 1_000_000);
        let scan = details.scan_detail_v2.unwrap();
        assert!(scan.get_snapshot_nanos > 0, "{scan:?}");
        scan
    }

    fn written(details: Option<&ExecDetailsV2>) -> WriteDetail {
        scanned(details);
        let write = details.and_then(|details| details.write_detail).unwrap();
        assert!(write.process_nanos > 0 && write.latch_wait_nanos > 0, "{write:?}");
        write
    }

    async fn write(txns: &Transactions<Gated>, start: u64, key: &'static str, value: &'static str) {
        let answer = txns.prewrite(prewrite(start, vec![put(key, value)])).await;
        assert!(written(answer.exec_details_v2.as_ref()).commit_log_nanos > 0);
        let (start_version, commit_version) = (start, start + 1);
        let keys = vec![key.into()];
        let commit = CommitRequest { start_version, commit_version, keys, ..Default::default() };
        let answer = txns.commit(commit).await;
        assert!(written(answer.exec_details_v2.as_ref()).commit_log_nanos > 0);
    }

    #[tokio::test]
    async fn a_read_tells_how_many_records_it_moved_over_and_what_it_found() {
        let txns = over(Gated::new());
        write(&txns, 10, "k", "value").await;
        write(&txns, 20, "l", "v").await;
        let answer = txns.get(get("k", 50)).await;
        let scan = scanned(answer.exec_details_v2.as_ref());
        assert_eq!((scan.total_versions, scan.processed_versions), (1, 1));
        let bytes = |key, value: &str| (Key::new(key).encoded().len() + value.len()) as u64;
        assert_eq!(scan.processed_versions_size, bytes("k", "value"));
        let time = answer.exec_details_v2.unwrap().time_detail_v2.unwrap();
        assert_eq!(time.kv_read_wall_time_ns, time.total_rpc_wall_time_ns);

        // A lock record lies over the value.
        let op = proto::kvrpcpb::Op::Lock as i32;
        let lock_only = proto::kvrpcpb::Mutation { op, ..put("k", "") };
        let one_pc =
            proto::kvrpcpb::PrewriteRequest { try_one_pc: true, ..prewrite(30, vec![lock_only]) };
        assert!(txns.prewrite(one_pc).await.one_pc_commit_ts > 0);
        let keys = vec!["k".into(), "l".into(), "none".into()];
        let version = 1 << 20;
        let batch = BatchGetRequest { keys, version, ..Default::default() };
        let scan = scanned(txns.batch_get(batch).await.exec_details_v2.as_ref());
        assert_eq!((scan.total_versions, scan.processed_versions), (4, 2));
        assert_eq!(scan.processed_versions_size, bytes("k", "value") + bytes("l", "v"));
    }

    #[tokio::test]
    async fn a_wait_for_a_lock_is_told_and_a_lock_in_memory_took_no_log() {
        let storage = Gated::new();
        let txns = over(storage.clone());
        txns.reservations().on_leader(Led { region_id: 0, term: 7, version: 0 });
        let held = txns.pessimistic_lock(reserve(10, "k", -1)).await;
        let write = written(held.exec_details_v2.as_ref());
        assert_eq!((write.commit_log_nanos, write.pessimistic_lock_wait_nanos), (0, 0));
        let waiter = txns.clone();
        let waiting =
            tokio::spawn(async move { waiter.pessimistic_lock(reserve(20, "k", 0)).await });
        while txns.waiting().entries().is_empty() {
            tokio::task::yield_now().await;
        }
        let (start_version, for_update_ts, keys) = (10, 10, vec!["k".into()]);
        let back =
            PessimisticRollbackRequest { start_version, for_update_ts, keys, ..Default::default() };
        written(txns.pessimistic_rollback(back).await.exec_details_v2.as_ref());
        let waited = waiting.await.unwrap();
        let details = waited.exec_details_v2.as_ref();
        let waited_ns = written(details).pessimistic_lock_wait_nanos;
        let time = details.unwrap().time_detail_v2.unwrap();
        assert!(waited_ns > 0 && time.wait_wall_time_ns >= waited_ns, "{time:?}");
        assert!(storage.written.lock().is_empty());
    }

    #[tokio::test]
    async fn every_answer_with_a_place_for_it_tells_what_it_cost() {
        let txns = over(Gated::new());
        let keys = || vec!["k".into()];
        let flush = FlushRequest {
            mutations: vec![put("k", "1")],
            primary_key: "k".into(),
            start_ts: 10,
            generation: 1,
            lock_ttl: 3000,
            ..Default::default()
        };
        written(txns.flush(flush).await.exec_details_v2.as_ref());
        let buffered = BufferBatchGetRequest { keys: keys(), version: 10, ..Default::default() };
        let found = scanned(txns.buffer_batch_get(buffered).await.exec_details_v2.as_ref());
        assert_eq!(found.processed_versions, 1);
        let alive = TxnHeartBeatRequest {
            primary_lock: "k".into(),
            start_version: 10,
            advise_lock_ttl: 9000,
            ..Default::default()
        };
        written(txns.txn_heart_beat(alive).await.exec_details_v2.as_ref());
        let check =
            CheckTxnStatusRequest { primary_key: "k".into(), lock_ts: 10, ..Default::default() };
        written(txns.check_txn_status(check).await.exec_details_v2.as_ref());
        let locks = ScanLockRequest { max_version: 50, ..Default::default() };
        scanned(txns.scan_lock(locks).await.exec_details_v2.as_ref());
        let roll_back =
            BatchRollbackRequest { start_version: 10, keys: keys(), ..Default::default() };
        written(txns.batch_rollback(roll_back).await.exec_details_v2.as_ref());
        let resolve = ResolveLockRequest { start_version: 10, ..Default::default() };
        scanned(txns.resolve_lock(resolve).await.exec_details_v2.as_ref());
        let secondaries =
            CheckSecondaryLocksRequest { keys: keys(), start_version: 10, ..Default::default() };
        written(txns.check_secondary_locks(secondaries).await.exec_details_v2.as_ref());
        // A refusal costs time too.
        let too_long = prewrite(60, vec![put(String::leak("k".repeat(1 << 20)), "1")]);
        let answer = txns.prewrite(too_long).await;
        assert!(!answer.errors.is_empty());
        let time = answer.exec_details_v2.unwrap().time_detail_v2.unwrap();
        assert!(time.total_rpc_wall_time_ns > 0 && time.wait_wall_time_ns == 0, "{time:?}");
    }

    #[tokio::test]
    async fn the_log_is_waited_for_apart() {
        let storage = Gated::new();
        let txns = over(storage.clone());
        storage.is_shut.store(true, Ordering::SeqCst);
        let writer = txns.clone();
        let write =
            tokio::spawn(async move { writer.prewrite(prewrite(10, vec![put("k", "1")])).await });
        while storage.written.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        let shut = std::time::Instant::now();
        tokio::task::yield_now().await;
        let shut_ns = shut.elapsed().as_nanos() as u64;
        storage.gate.notify_one();
        let answer = write.await.unwrap();
        let details = answer.exec_details_v2.unwrap();
        let (time, write) = (details.time_detail_v2.unwrap(), details.write_detail.unwrap());
        assert!(write.commit_log_nanos >= shut_ns, "{write:?}");
        assert!(
            time.wait_wall_time_ns + time.process_wall_time_ns
                <= time.total_rpc_wall_time_ns - shut_ns
        );
    }
}
