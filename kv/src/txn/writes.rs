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
use super::execution::Execution;
use super::problem::Stop;
use super::reader::Reader;
use super::reads::encoded_range;
use super::record::Lock;
use super::transactions::{Transactions, distinct};
use crate::keys::{self, Key};
use crate::storage::{Storage, check_covered};

/// The answer of each request's type, with a stop put in its two places, and what else it says.
macro_rules! answer_stop {
    ($stop:expr, $response:ident $(, $more:ident)*) => {{
        let (region_error, error) = $stop.into_answer();
        $response { region_error, error, $($more,)* ..Default::default() }
    }};
}

impl<St: Storage> Transactions<St> {
    /// `KvPrewrite`: locks every key, or commits in one phase.
    pub async fn prewrite(&self, request: PrewriteRequest) -> PrewriteResponse {
        let context = request.context.clone().unwrap_or_default();
        let mut execution = Execution::begin(&context);
        let result = self.try_prewrite(&context, request, &mut execution).await;
        let exec_details_v2 = execution.of_write();
        match result {
            Ok(Prewritten::Done { min_commit_ts, one_pc_commit_ts }) => PrewriteResponse {
                min_commit_ts,
                one_pc_commit_ts,
                exec_details_v2,
                ..Default::default()
            },
            Ok(Prewritten::Locked(problems)) => {
                let errors = problems.into_iter().map(KeyError::from).collect();
                PrewriteResponse { errors, exec_details_v2, ..Default::default() }
            }
            Err(stop) => {
                let (region_error, error) = stop.into_answer();
                let errors = error.into_iter().collect();
                PrewriteResponse { region_error, errors, exec_details_v2, ..Default::default() }
            }
        }
    }

    async fn try_prewrite(
        &self,
        context: &kvrpcpb::Context,
        request: PrewriteRequest,
        execution: &mut Execution,
    ) -> Result<Prewritten, Stop> {
        self.check_written_keys(context, request.mutations.iter().map(|mutation| &mutation.key))?;
        let memory = self.memory();
        let admitted = self.safe_points().admit(request.start_version)?;
        let keys = distinct(request.mutations.iter().map(|mutation| mutation.key.clone()));
        for ts in [request.start_version, request.for_update_ts, request.min_commit_ts] {
            memory.check_ahead(ts)?;
        }
        self.before_checks(&request.mutations, request.start_version)?;
        let is_synced = request.use_async_commit || request.try_one_pc;
        self.run_admitted(context, &keys, execution, admitted, is_synced, |reader, writer| {
            prewrite(reader, writer, memory, &request)
        })
        .await
    }

    /// `KvFlush`: locks the keys of one generation of a pipelined transaction.
    pub async fn flush(&self, request: FlushRequest) -> FlushResponse {
        let context = request.context.clone().unwrap_or_default();
        let mut execution = Execution::begin(&context);
        let result = self.try_flush(&context, request, &mut execution).await;
        let exec_details_v2 = execution.of_write();
        match result {
            Ok(Prewritten::Done { .. }) => FlushResponse { exec_details_v2, ..Default::default() },
            Ok(Prewritten::Locked(problems)) => {
                let errors = problems.into_iter().map(KeyError::from).collect();
                FlushResponse { errors, exec_details_v2, ..Default::default() }
            }
            Err(stop) => {
                let (region_error, error) = stop.into_answer();
                let errors = error.into_iter().collect();
                FlushResponse { region_error, errors, exec_details_v2 }
            }
        }
    }

    async fn try_flush(
        &self,
        context: &kvrpcpb::Context,
        request: FlushRequest,
        execution: &mut Execution,
    ) -> Result<Prewritten, Stop> {
        self.check_written_keys(context, request.mutations.iter().map(|mutation| &mutation.key))?;
        let admitted = self.safe_points().admit(request.start_ts)?;
        let keys = distinct(request.mutations.iter().map(|mutation| mutation.key.clone()));
        let memory = self.memory();
        memory.check_ahead(request.start_ts)?;
        self.before_checks(&request.mutations, request.start_ts)?;
        self.run_admitted(context, &keys, execution, admitted, false, |reader, writer| {
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
        let mut execution = Execution::begin(&context);
        let (start_ts, commit_version) = (request.start_version, request.commit_version);
        let safe_points = self.safe_points().clone();
        let result = self
            .run_on_keys(&context, &mut execution, request.keys, |reader, writer, keys| {
                commit(reader, writer, keys, start_ts, commit_version, safe_points.bound())
            })
            .await;
        let exec_details_v2 = execution.of_write();
        match result {
            Ok(commit_version) => {
                CommitResponse { commit_version, exec_details_v2, ..Default::default() }
            }
            Err(stop) => answer_stop!(stop, CommitResponse, exec_details_v2),
        }
    }

    /// `KvBatchRollback`: undoes a transaction on these keys.
    pub async fn batch_rollback(&self, mut request: BatchRollbackRequest) -> BatchRollbackResponse {
        let context = request.context.take().unwrap_or_default();
        let mut execution = Execution::begin(&context);
        let start_ts = request.start_version;
        let safe_points = self.safe_points().clone();
        let result = self
            .run_on_keys(&context, &mut execution, request.keys, |reader, writer, keys| {
                batch_rollback(reader, writer, keys, start_ts, safe_points.bound())
            })
            .await;
        let exec_details_v2 = execution.of_write();
        match result {
            Ok(()) => BatchRollbackResponse { exec_details_v2, ..Default::default() },
            Err(stop) => {
                let (region_error, error) = stop.into_answer();
                BatchRollbackResponse { region_error, error, exec_details_v2 }
            }
        }
    }

    /// `KvCleanup`: undoes an abandoned transaction on one key.
    pub async fn cleanup(&self, mut request: CleanupRequest) -> CleanupResponse {
        let context = request.context.take().unwrap_or_default();
        let mut execution = Execution::begin(&context);
        let (start_ts, current_ts) = (request.start_version, request.current_ts);
        if let Err(stop) = self.before_asking(&[start_ts, current_ts]) {
            return answer_stop!(stop, CleanupResponse);
        }
        let result = self
            .run_on_keys(&context, &mut execution, [request.key], |reader, writer, keys| {
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
        let mut execution = Execution::begin(&context);
        let said = [request.lock_ts, request.current_ts, request.caller_start_ts];
        if let Err(stop) = self.before_asking(&said) {
            return answer_stop!(stop, CheckTxnStatusResponse);
        }
        let primary = Key::new(request.primary_key.clone());
        let result = self
            .run_on_keys(
                &context,
                &mut execution,
                [request.primary_key.clone()],
                |reader, writer, keys| check_status(reader, writer, &keys[0], &request),
            )
            .await;
        let exec_details_v2 = execution.of_write();
        match result {
            Ok(Status::Alive { lock, is_pushed }) => CheckTxnStatusResponse {
                // A time to live of 0 would read as "rolled back".
                lock_ttl: lock.ttl.max(1),
                action: if is_pushed { Action::MinCommitTsPushed } else { Action::NoAction } as i32,
                lock_info: Some(lock.info(&primary)),
                exec_details_v2,
                ..Default::default()
            },
            Ok(Status::Committed { commit_ts: commit_version }) => {
                CheckTxnStatusResponse { commit_version, exec_details_v2, ..Default::default() }
            }
            Ok(Status::Gone(action)) => {
                let action = action as i32;
                CheckTxnStatusResponse { action, exec_details_v2, ..Default::default() }
            }
            Err(stop) => answer_stop!(stop, CheckTxnStatusResponse, exec_details_v2),
        }
    }

    /// `KvCheckSecondaryLocks`: whether an async-commit transaction has locked all its keys.
    pub async fn check_secondary_locks(
        &self,
        mut request: CheckSecondaryLocksRequest,
    ) -> CheckSecondaryLocksResponse {
        let context = request.context.take().unwrap_or_default();
        let mut execution = Execution::begin(&context);
        let start_ts = request.start_version;
        if let Err(stop) = self.before_asking(&[start_ts]) {
            return answer_stop!(stop, CheckSecondaryLocksResponse);
        }
        let result = self
            .run_on_keys(&context, &mut execution, request.keys, |reader, writer, keys| {
                check_secondaries(reader, writer, keys, start_ts)
            })
            .await;
        let exec_details_v2 = execution.of_write();
        match result {
            Ok(Secondaries::Locked(locks)) => {
                CheckSecondaryLocksResponse { locks, exec_details_v2, ..Default::default() }
            }
            Ok(Secondaries::Committed(commit_ts)) => {
                CheckSecondaryLocksResponse { commit_ts, exec_details_v2, ..Default::default() }
            }
            Ok(Secondaries::RolledBack) => {
                CheckSecondaryLocksResponse { exec_details_v2, ..Default::default() }
            }
            Err(stop) => answer_stop!(stop, CheckSecondaryLocksResponse, exec_details_v2),
        }
    }

    /// `KvTxnHeartBeat`: the transaction is alive.
    pub async fn txn_heart_beat(&self, mut request: TxnHeartBeatRequest) -> TxnHeartBeatResponse {
        let context = request.context.take().unwrap_or_default();
        let mut execution = Execution::begin(&context);
        let result = self
            .run_on_keys(
                &context,
                &mut execution,
                [request.primary_lock.clone()],
                |reader, writer, keys| {
                    heartbeat(
                        reader,
                        writer,
                        &keys[0],
                        request.start_version,
                        request.advise_lock_ttl,
                        request.min_commit_ts,
                    )
                },
            )
            .await;
        let exec_details_v2 = execution.of_write();
        match result {
            Ok(lock) => {
                let lock_ttl = lock.ttl;
                TxnHeartBeatResponse { lock_ttl, exec_details_v2, ..Default::default() }
            }
            Err(stop) => answer_stop!(stop, TxnHeartBeatResponse, exec_details_v2),
        }
    }

    /// `KvResolveLock`: carries out transactions' fates on these keys, or wherever in the region
    /// they left locks.
    pub async fn resolve_lock(&self, mut request: ResolveLockRequest) -> ResolveLockResponse {
        let context = request.context.take().unwrap_or_default();
        let mut execution = Execution::begin(&context);
        let result = if request.keys.is_empty() {
            self.resolve_region(&context, &request, &mut execution).await
        } else {
            let (start_ts, commit_ts) = (request.start_version, request.commit_version);
            self.run_on_keys(&context, &mut execution, request.keys, |reader, writer, keys| {
                resolve_keys(reader, writer, keys, start_ts, commit_ts)
            })
            .await
        };
        let exec_details_v2 = execution.of_write();
        match result {
            Ok(()) => ResolveLockResponse { exec_details_v2, ..Default::default() },
            Err(stop) => {
                let (region_error, error) = stop.into_answer();
                ResolveLockResponse { region_error, error, exec_details_v2 }
            }
        }
    }

    async fn resolve_region(
        &self,
        context: &kvrpcpb::Context,
        request: &ResolveLockRequest,
        execution: &mut Execution,
    ) -> Result<(), Stop> {
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
            let view = self.view(context, execution).await?;
            let (found, may_be_more) =
                self.reader(context, look, view).locks(&rest, BATCH_LOCKS_MAX, is_wanted)?;
            let keys: Vec<Key> = found.into_iter().map(|(key, _)| key).collect();
            let Some(last) = keys.last() else { return Ok(()) };
            from = [last.encoded().as_ref(), &[0]].concat().into();
            self.run(context, &keys, execution, |reader, writer| {
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
        let mut execution = Execution::begin(context);
        self.check_range(context, &request.start_key, &request.end_key)?;
        keys::check_order(&request.start_key, &request.end_key)?;
        let view = self.view(context, &mut execution).await?;
        let range = encoded_range(&request.start_key, &request.end_key);
        check_covered(context, &view.range, &range)?;
        if request.notify_only || range.is_empty() {
            return Ok(());
        }
        let mut batch = WriteBatch::new();
        for cf in ColumnFamily::DATA {
            batch.delete_range(cf, range.clone());
        }
        self.write_batch(context, view.term, execution.deadline, batch).await?;
        self.reservations().remove_in(&range);
        Ok(())
    }

    /// Runs a command on the request's keys, each once.
    async fn run_on_keys<R>(
        &self,
        context: &kvrpcpb::Context,
        execution: &mut Execution,
        keys: impl IntoIterator<Item = Bytes>,
        command: impl FnOnce(
            &mut Reader<St::Snapshot>,
            &mut super::writer::Writer,
            &[Key],
        ) -> Result<R, Stop>,
    ) -> Result<R, Stop> {
        let keys = distinct(keys);
        self.check_written_keys(context, keys.iter().map(Key::user))?;
        self.run(context, &keys, execution, |reader, writer| command(reader, writer, &keys)).await
    }
}
