//! The writing requests: check, run the command under its latches, answer.

use bytes::Bytes;
use proto::kvrpcpb::{
    self, Action, BatchRollbackRequest, BatchRollbackResponse, CheckSecondaryLocksRequest,
    CheckSecondaryLocksResponse, CheckTxnStatusRequest, CheckTxnStatusResponse, CleanupRequest,
    CleanupResponse, CommitRequest, CommitResponse, DeleteRangeRequest, DeleteRangeResponse,
    FlushRequest, FlushResponse, KeyError, Op, PrewriteRequest, PrewriteResponse,
    ResolveLockRequest, ResolveLockResponse, TxnHeartBeatRequest, TxnHeartBeatResponse,
};
use proto::{KeyRange, Refusal};
use raftstore::engine::{ColumnFamily, WriteBatch};

use super::command::check_secondaries::{Secondaries, check_secondaries};
use super::command::check_status::{Status, check_status};
use super::command::cleanup::cleanup;
use super::command::commit::commit;
use super::command::flush::flush;
use super::command::heartbeat::heartbeat;
use super::command::prewrite::{Prewritten, prewrite};
use super::command::resolve_lock::{BATCH_LOCKS_MAX, Fates, resolve_found, resolve_keys};
use super::command::rollback::batch_rollback;
use super::problem::Stop;
use super::reader::Reader;
use super::reads::encoded_range;
use super::record::Lock;
use super::transactions::{Transactions, distinct};
use crate::deadline::Deadline;
use crate::keys::{self, Key};
use crate::storage::{Storage, check_covered};

/// The answer of each request's type, with a stop put in its two places.
macro_rules! answer_stop {
    ($stop:expr, $response:ident) => {{
        let (region_error, error) = $stop.into_answer();
        $response { region_error, error, ..Default::default() }
    }};
}

impl<St: Storage> Transactions<St> {
    /// `KvPrewrite`: locks every key, or commits in one phase.
    pub async fn prewrite(&self, request: PrewriteRequest) -> PrewriteResponse {
        match self.try_prewrite(request).await {
            Ok(Prewritten::Done { min_commit_ts, one_pc_commit_ts }) => {
                PrewriteResponse { min_commit_ts, one_pc_commit_ts, ..Default::default() }
            }
            Ok(Prewritten::Locked(problems)) => {
                let errors = problems.into_iter().map(KeyError::from).collect();
                PrewriteResponse { errors, ..Default::default() }
            }
            Err(stop) => {
                let (region_error, error) = stop.into_answer();
                let errors = error.into_iter().collect();
                PrewriteResponse { region_error, errors, ..Default::default() }
            }
        }
    }

    async fn try_prewrite(&self, request: PrewriteRequest) -> Result<Prewritten, Stop> {
        let context = request.context.clone().unwrap_or_default();
        let (deadline, memory) = (Deadline::of(&context), self.memory());
        self.check_written_keys(&context, request.mutations.iter().map(|mutation| &mutation.key))?;
        let admitted = self.safe_points().admit(request.start_version)?;
        let keys = distinct(request.mutations.iter().map(|mutation| mutation.key.clone()));
        for ts in [request.start_version, request.for_update_ts, request.min_commit_ts] {
            memory.check_ahead(ts)?;
        }
        self.before_checks(&request.mutations, request.start_version)?;
        let is_synced = request.use_async_commit || request.try_one_pc;
        self.run_admitted(&context, &keys, deadline, admitted, is_synced, |reader, writer| {
            prewrite(reader, writer, memory, &request)
        })
        .await
    }

    /// `KvFlush`: locks the keys of one generation of a pipelined transaction.
    pub async fn flush(&self, request: FlushRequest) -> FlushResponse {
        match self.try_flush(request).await {
            Ok(Prewritten::Done { .. }) => FlushResponse::default(),
            Ok(Prewritten::Locked(problems)) => {
                let errors = problems.into_iter().map(KeyError::from).collect();
                FlushResponse { errors, ..Default::default() }
            }
            Err(stop) => {
                let (region_error, error) = stop.into_answer();
                let errors = error.into_iter().collect();
                FlushResponse { region_error, errors, ..Default::default() }
            }
        }
    }

    async fn try_flush(&self, request: FlushRequest) -> Result<Prewritten, Stop> {
        let context = request.context.clone().unwrap_or_default();
        let deadline = Deadline::of(&context);
        self.check_written_keys(&context, request.mutations.iter().map(|mutation| &mutation.key))?;
        let admitted = self.safe_points().admit(request.start_ts)?;
        let keys = distinct(request.mutations.iter().map(|mutation| mutation.key.clone()));
        let memory = self.memory();
        memory.check_ahead(request.start_ts)?;
        self.before_checks(&request.mutations, request.start_ts)?;
        self.run_admitted(&context, &keys, deadline, admitted, false, |reader, writer| {
            flush(reader, writer, memory, &request)
        })
        .await
    }

    /// "It does not exist" is a read.
    fn before_checks(&self, mutations: &[kvrpcpb::Mutation], start_ts: u64) -> Result<(), Refusal> {
        let looks = |op| matches!(op, Op::Insert | Op::CheckNotExists);
        if mutations.iter().any(|mutation| looks(mutation.op())) {
            self.memory().on_read(start_ts)?;
        }
        Ok(())
    }

    /// Whoever asks for a transaction's fate says these timestamps.
    fn before_asking(&self, timestamps: &[u64]) -> Result<(), Stop> {
        timestamps.iter().try_for_each(|ts| self.memory().on_read(*ts)).map_err(Stop::from)
    }

    /// `KvCommit`: turns locks into commit records.
    pub async fn commit(&self, mut request: CommitRequest) -> CommitResponse {
        let context = request.context.take().unwrap_or_default();
        let (start_ts, commit_version) = (request.start_version, request.commit_version);
        let safe_points = self.safe_points().clone();
        let result = self
            .run_on_keys(&context, request.keys, |reader, writer, keys| {
                commit(reader, writer, keys, start_ts, commit_version, safe_points.bound())
            })
            .await;
        match result {
            Ok(()) => CommitResponse { commit_version, ..Default::default() },
            Err(stop) => answer_stop!(stop, CommitResponse),
        }
    }

    /// `KvBatchRollback`: undoes a transaction on these keys.
    pub async fn batch_rollback(&self, mut request: BatchRollbackRequest) -> BatchRollbackResponse {
        let context = request.context.take().unwrap_or_default();
        let start_ts = request.start_version;
        let safe_points = self.safe_points().clone();
        let result = self
            .run_on_keys(&context, request.keys, |reader, writer, keys| {
                batch_rollback(reader, writer, keys, start_ts, safe_points.bound())
            })
            .await;
        match result {
            Ok(()) => BatchRollbackResponse::default(),
            Err(stop) => answer_stop!(stop, BatchRollbackResponse),
        }
    }

    /// `KvCleanup`: undoes an abandoned transaction on one key.
    pub async fn cleanup(&self, mut request: CleanupRequest) -> CleanupResponse {
        let context = request.context.take().unwrap_or_default();
        let (start_ts, current_ts) = (request.start_version, request.current_ts);
        if let Err(stop) = self.before_asking(&[start_ts, current_ts]) {
            return answer_stop!(stop, CleanupResponse);
        }
        let result = self
            .run_on_keys(&context, [request.key], |reader, writer, keys| {
                cleanup(reader, writer, &keys[0], start_ts, current_ts)
            })
            .await;
        match result {
            Ok(commit_version) => CleanupResponse { commit_version, ..Default::default() },
            Err(stop) => answer_stop!(stop, CleanupResponse),
        }
    }

    /// `KvCheckTxnStatus`: what became of a transaction, asked of its primary key.
    pub async fn check_txn_status(
        &self,
        mut request: CheckTxnStatusRequest,
    ) -> CheckTxnStatusResponse {
        let context = request.context.take().unwrap_or_default();
        let said = [request.lock_ts, request.current_ts, request.caller_start_ts];
        if let Err(stop) = self.before_asking(&said) {
            return answer_stop!(stop, CheckTxnStatusResponse);
        }
        let primary = Key::new(request.primary_key.clone());
        let result = self
            .run_on_keys(&context, [request.primary_key.clone()], |reader, writer, keys| {
                check_status(reader, writer, &keys[0], &request)
            })
            .await;
        match result {
            Ok(Status::Alive { lock, is_pushed }) => CheckTxnStatusResponse {
                // A time to live of 0 would read as "rolled back".
                lock_ttl: lock.ttl.max(1),
                action: if is_pushed { Action::MinCommitTsPushed } else { Action::NoAction } as i32,
                lock_info: Some(lock.info(&primary)),
                ..Default::default()
            },
            Ok(Status::Committed { commit_ts }) => {
                CheckTxnStatusResponse { commit_version: commit_ts, ..Default::default() }
            }
            Ok(Status::Gone(action)) => {
                CheckTxnStatusResponse { action: action as i32, ..Default::default() }
            }
            Err(stop) => answer_stop!(stop, CheckTxnStatusResponse),
        }
    }

    /// `KvCheckSecondaryLocks`: whether an async-commit transaction has locked all its keys.
    pub async fn check_secondary_locks(
        &self,
        mut request: CheckSecondaryLocksRequest,
    ) -> CheckSecondaryLocksResponse {
        let context = request.context.take().unwrap_or_default();
        let start_ts = request.start_version;
        if let Err(stop) = self.before_asking(&[start_ts]) {
            return answer_stop!(stop, CheckSecondaryLocksResponse);
        }
        let result = self
            .run_on_keys(&context, request.keys, |reader, writer, keys| {
                check_secondaries(reader, writer, keys, start_ts)
            })
            .await;
        match result {
            Ok(Secondaries::Locked(locks)) => {
                CheckSecondaryLocksResponse { locks, ..Default::default() }
            }
            Ok(Secondaries::Committed(commit_ts)) => {
                CheckSecondaryLocksResponse { commit_ts, ..Default::default() }
            }
            Ok(Secondaries::RolledBack) => CheckSecondaryLocksResponse::default(),
            Err(stop) => answer_stop!(stop, CheckSecondaryLocksResponse),
        }
    }

    /// `KvTxnHeartBeat`: the transaction is alive.
    pub async fn txn_heart_beat(&self, mut request: TxnHeartBeatRequest) -> TxnHeartBeatResponse {
        let context = request.context.take().unwrap_or_default();
        let result = self
            .run_on_keys(&context, [request.primary_lock.clone()], |reader, writer, keys| {
                heartbeat(
                    reader,
                    writer,
                    &keys[0],
                    request.start_version,
                    request.advise_lock_ttl,
                    request.min_commit_ts,
                )
            })
            .await;
        match result {
            Ok(lock) => TxnHeartBeatResponse { lock_ttl: lock.ttl, ..Default::default() },
            Err(stop) => answer_stop!(stop, TxnHeartBeatResponse),
        }
    }

    /// `KvResolveLock`: carries out transactions' fates on these keys, or wherever in the region
    /// they left locks.
    pub async fn resolve_lock(&self, mut request: ResolveLockRequest) -> ResolveLockResponse {
        let context = request.context.take().unwrap_or_default();
        let result = if request.keys.is_empty() {
            self.resolve_region(&context, &request).await
        } else {
            let (start_ts, commit_ts) = (request.start_version, request.commit_version);
            self.run_on_keys(&context, request.keys, |reader, writer, keys| {
                resolve_keys(reader, writer, keys, start_ts, commit_ts)
            })
            .await
        };
        match result {
            Ok(()) => ResolveLockResponse::default(),
            Err(stop) => answer_stop!(stop, ResolveLockResponse),
        }
    }

    async fn resolve_region(
        &self,
        context: &kvrpcpb::Context,
        request: &ResolveLockRequest,
    ) -> Result<(), Stop> {
        let deadline = Deadline::of(context);
        let mut fates: Fates =
            request.txn_infos.iter().map(|info| (info.txn, info.status)).collect();
        if request.start_version > 0 {
            fates.insert(request.start_version, request.commit_version);
        }
        let mut from = Bytes::new();
        loop {
            let rest = KeyRange { start: from, end: None };
            let is_wanted = |lock: &Lock| fates.contains_key(&lock.start_ts);
            let look = self.reservations().look(context.region_id, &rest, is_wanted);
            let view = self.view(context, deadline).await?;
            let (found, may_be_more) =
                self.reader(context, look, view).locks(&rest, BATCH_LOCKS_MAX, is_wanted)?;
            let keys: Vec<Key> = found.into_iter().map(|(key, _)| key).collect();
            let Some(last) = keys.last() else { return Ok(()) };
            from = [last.encoded().as_ref(), &[0]].concat().into();
            self.run(context, &keys, deadline, |reader, writer| {
                resolve_found(reader, writer, &keys, &fates)
            })
            .await?;
            if !may_be_more {
                return Ok(());
            }
        }
    }

    /// `KvDeleteRange`: removes every version and lock of a range of keys, as if they had never
    /// been. The range must lie in the region. With `notify_only` nothing happens.
    pub async fn delete_range(&self, mut request: DeleteRangeRequest) -> DeleteRangeResponse {
        let context = request.context.take().unwrap_or_default();
        match self.try_delete_range(&context, &request).await {
            Ok(()) => DeleteRangeResponse::default(),
            Err(stop) => {
                let (region_error, error) = stop.into_answer();
                let error = error.map_or_else(String::new, |error| error.abort);
                DeleteRangeResponse { region_error, error }
            }
        }
    }

    async fn try_delete_range(
        &self,
        context: &kvrpcpb::Context,
        request: &DeleteRangeRequest,
    ) -> Result<(), Stop> {
        let deadline = Deadline::of(context);
        self.check_range(context, &request.start_key, &request.end_key)?;
        keys::check_order(&request.start_key, &request.end_key)?;
        let view = self.view(context, deadline).await?;
        let range = encoded_range(&request.start_key, &request.end_key);
        check_covered(context, &view.range, &range)?;
        if request.notify_only || range.is_empty() {
            return Ok(());
        }
        let mut batch = WriteBatch::new();
        for cf in ColumnFamily::DATA {
            batch.delete_range(cf, range.clone());
        }
        self.write_batch(context, view.term, deadline, batch).await?;
        self.reservations().remove_in(&range);
        Ok(())
    }

    /// Runs a command on the request's keys, each once.
    async fn run_on_keys<R>(
        &self,
        context: &kvrpcpb::Context,
        keys: impl IntoIterator<Item = Bytes>,
        command: impl FnOnce(
            &mut Reader<St::Snapshot>,
            &mut super::writer::Writer,
            &[Key],
        ) -> Result<R, Stop>,
    ) -> Result<R, Stop> {
        let deadline = Deadline::of(context);
        let keys = distinct(keys);
        self.check_written_keys(context, keys.iter().map(Key::user))?;
        self.run(context, &keys, deadline, |reader, writer| command(reader, writer, &keys)).await
    }
}
