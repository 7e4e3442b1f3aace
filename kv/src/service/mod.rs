//! The RPCs of a store: check, call, answer.
//!
//! ```text
//! commands.rs   one table: which command is whose, alone or in a batch
//! batch.rs      many commands on one stream; times.rs: how long each was on its way
//! debug.rs      what a person asks of this store
//! peers.rs      what other stores send: raft messages and snapshots
//! regions.rs    splits, and locks below the replication
//! destroy.rs    ranges that nobody needs any more
//! ```
//!
//! Region errors and key errors are part of an answer; a gRPC status is only for requests that no
//! store could ever serve: another cluster's, or of a kind that is left out on purpose. Those say so
//! in words: there is no coprocessor here, garbage is collected by the scheduler's safe point, and
//! flashback, import and lock observers do not exist.

pub(crate) mod batch;
mod commands;
mod debug;
mod destroy;
mod peers;
mod regions;
mod times;

use std::pin::Pin;
use std::sync::Arc;

use proto::tikvpb::tikv_server::{Tikv, TikvServer};
use proto::{StoreId, coprocessor, kvrpcpb, raft_serverpb, tikvpb};
use raftstore::driver::Router;
use raftstore::engine::DataEngine;
use tokio::sync::{Semaphore, mpsc};
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status, Streaming};

use crate::config::{ApiVersion, Config};
use crate::deadlock::{self, Detector};
use crate::metrics::{Metrics, RpcLabels};
use crate::net::incoming::{Ear, UntilHeard};
use crate::net::snapshot_stream::Place;
use crate::raw::Raw;
use crate::scheduler_link::client::{Backoff, SchedulerClient};
use crate::storage::replicated::Replicated;
use crate::txn::{TimestampFuture, TimestampSource, Transactions};

/// The longest message taken or given: above any batch of entries (8 MiB each) and any scan. A
/// longer one is refused with OUT_OF_RANGE before it is read.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// The transactional commands over this storage.
pub(crate) fn transactions<D: DataEngine>(
    config: &Config,
    storage: &Replicated<D>,
    scheduler: Arc<SchedulerClient>,
) -> Transactions<Replicated<D>> {
    Transactions::new(storage.clone(), config.api_version, Arc::new(FreshTimestamps(scheduler)))
}

/// The raw commands over this storage.
pub(crate) fn raw<D: DataEngine>(config: &Config, storage: &Replicated<D>) -> Raw<Replicated<D>> {
    Raw::new(storage.clone(), config.api_version)
}

/// Timestamps of the scheduler, waited for until there is one: the asker has the deadline.
struct FreshTimestamps(Arc<SchedulerClient>);

impl TimestampSource for FreshTimestamps {
    fn fresh(&self) -> TimestampFuture {
        let scheduler = self.0.clone();
        Box::pin(async move {
            let mut backoff = Backoff::new();
            loop {
                match scheduler.timestamp().await {
                    Ok(timestamp) => return Ok(timestamp.0),
                    Err(error) => tracing::debug!(%error, "no timestamp yet"),
                }
                backoff.wait().await;
            }
        })
    }
}

/// Everything an RPC needs.
pub(crate) struct Store<D: DataEngine> {
    pub(crate) cluster_id: u64,
    pub(crate) store_id: StoreId,
    pub(crate) api_version: ApiVersion,
    pub(crate) transactions: Transactions<Replicated<D>>,
    pub(crate) raw: Raw<Replicated<D>>,
    pub(crate) storage: Replicated<D>,
    pub(crate) router: Router<D>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) feedback: Arc<batch::Feedback>,
    /// Places for snapshots on their way in.
    pub(crate) receiving: Semaphore,
    /// Where they are put.
    pub(crate) snapshot_place: Place,
    /// Who waits for whom on all stores, while this one leads the first region.
    pub(crate) detector: Arc<Detector>,
    /// Streams end when this hears that there shall be no more requests.
    pub(crate) no_more: Ear,
    /// Held while anybody can reach the engines through this; the node waits for its end.
    pub(crate) _in_use: mpsc::Sender<()>,
}

/// The gRPC service. Clones are the same store.
pub(crate) struct Service<D: DataEngine> {
    store: Arc<Store<D>>,
}

impl<D: DataEngine> Service<D> {
    pub(crate) fn new(store: Arc<Store<D>>) -> Self {
        Self { store }
    }

    /// The other service of the port, for a person.
    pub(crate) fn debug_server(&self) -> debug::Server<D> {
        debug::Server::new(debug::Debug::new(self.store.clone()))
    }

    /// Where other stores tell of waits.
    pub(crate) fn deadlock_server(&self) -> deadlock::service::Server {
        let Store { detector, transactions, no_more, .. } = &*self.store;
        let waits = transactions.waiting().clone();
        let service = deadlock::service::Service::new(detector.clone(), waits, no_more.clone());
        deadlock::service::Server::new(service)
    }

    /// As tonic serves it.
    pub(crate) fn into_server(self, compress_answers: bool) -> TikvServer<Self> {
        let server = TikvServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
            .accept_compressed(CompressionEncoding::Gzip);
        if compress_answers { server.send_compressed(CompressionEncoding::Gzip) } else { server }
    }
}

impl<D: DataEngine> Store<D> {
    /// Refuses a request that was meant for another cluster.
    fn check(&self, context: Option<&kvrpcpb::Context>) -> Result<(), Status> {
        match context.map_or(0, |context| context.cluster_id) {
            0 => Ok(()),
            id if id == self.cluster_id => Ok(()),
            id => Err(Status::invalid_argument(format!(
                "the request is for cluster {id}, this is cluster {}",
                self.cluster_id
            ))),
        }
    }

    fn count(&self, rpc: &'static str) {
        self.metrics.rpcs.get_or_create(&RpcLabels { rpc }).inc();
    }
}

type Unary<'a, T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send + 'a>>;

/// RPCs with a context: check it, call, answer.
macro_rules! served {
    ($($rpc:ident: $request:ident => $response:ident = $($part:ident).+;)*) => {
        $(fn $rpc<'a, 'b>(
            &'a self,
            request: Request<kvrpcpb::$request>,
        ) -> Unary<'b, kvrpcpb::$response>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async move {
                let request = request.into_inner();
                self.store.check(request.context.as_ref())?;
                self.store.count(stringify!($rpc));
                Ok(Response::new(self.store.$($part).+(request).await))
            })
        })*
    };
}

/// RPCs that are left out, and why.
macro_rules! left_out {
    ($($rpc:ident: $request:ident => $response:ident, $why:literal;)*) => {
        $(fn $rpc<'a, 'b>(
            &'a self,
            _request: Request<kvrpcpb::$request>,
        ) -> Unary<'b, kvrpcpb::$response>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async { Err(Status::unimplemented($why)) })
        })*
    };
}

#[tonic::async_trait]
impl<D: DataEngine> Tikv for Service<D> {
    served! {
        kv_get: GetRequest => GetResponse = transactions.get;
        kv_batch_get: BatchGetRequest => BatchGetResponse = transactions.batch_get;
        kv_scan: ScanRequest => ScanResponse = transactions.scan;
        kv_prewrite: PrewriteRequest => PrewriteResponse = transactions.prewrite;
        kv_commit: CommitRequest => CommitResponse = transactions.commit;
        kv_cleanup: CleanupRequest => CleanupResponse = transactions.cleanup;
        kv_batch_rollback: BatchRollbackRequest => BatchRollbackResponse = transactions.batch_rollback;
        kv_pessimistic_lock: PessimisticLockRequest => PessimisticLockResponse
            = transactions.pessimistic_lock;
        kv_pessimistic_rollback: PessimisticRollbackRequest => PessimisticRollbackResponse
            = transactions.pessimistic_rollback;
        kv_txn_heart_beat: TxnHeartBeatRequest => TxnHeartBeatResponse = transactions.txn_heart_beat;
        kv_check_txn_status: CheckTxnStatusRequest => CheckTxnStatusResponse
            = transactions.check_txn_status;
        kv_check_secondary_locks: CheckSecondaryLocksRequest => CheckSecondaryLocksResponse
            = transactions.check_secondary_locks;
        kv_scan_lock: ScanLockRequest => ScanLockResponse = transactions.scan_lock;
        kv_resolve_lock: ResolveLockRequest => ResolveLockResponse = transactions.resolve_lock;
        kv_delete_range: DeleteRangeRequest => DeleteRangeResponse = transactions.delete_range;
        kv_flush: FlushRequest => FlushResponse = transactions.flush;
        kv_buffer_batch_get: BufferBatchGetRequest => BufferBatchGetResponse
            = transactions.buffer_batch_get;
        read_index: ReadIndexRequest => ReadIndexResponse = transactions.read_index;
        physical_scan_lock: PhysicalScanLockRequest => PhysicalScanLockResponse = physical_scan_lock;
        get_lock_wait_info: GetLockWaitInfoRequest => GetLockWaitInfoResponse = get_lock_wait_info;
        get_lock_wait_history: GetLockWaitHistoryRequest => GetLockWaitHistoryResponse
            = get_lock_wait_history;
        mvcc_get_by_key: MvccGetByKeyRequest => MvccGetByKeyResponse = transactions.mvcc_get_by_key;
        mvcc_get_by_start_ts: MvccGetByStartTsRequest => MvccGetByStartTsResponse
            = transactions.mvcc_get_by_start_ts;
        raw_get: RawGetRequest => RawGetResponse = raw.get;
        raw_batch_get: RawBatchGetRequest => RawBatchGetResponse = raw.batch_get;
        raw_put: RawPutRequest => RawPutResponse = raw.put;
        raw_batch_put: RawBatchPutRequest => RawBatchPutResponse = raw.batch_put;
        raw_delete: RawDeleteRequest => RawDeleteResponse = raw.delete;
        raw_batch_delete: RawBatchDeleteRequest => RawBatchDeleteResponse = raw.batch_delete;
        raw_scan: RawScanRequest => RawScanResponse = raw.scan;
        raw_batch_scan: RawBatchScanRequest => RawBatchScanResponse = raw.batch_scan;
        raw_delete_range: RawDeleteRangeRequest => RawDeleteRangeResponse = raw.delete_range;
        raw_get_key_ttl: RawGetKeyTtlRequest => RawGetKeyTtlResponse = raw.get_key_ttl;
        raw_compare_and_swap: RawCasRequest => RawCasResponse = raw.compare_and_swap;
        raw_checksum: RawChecksumRequest => RawChecksumResponse = raw.checksum;
        raw_coprocessor: RawCoprocessorRequest => RawCoprocessorResponse = raw_coprocessor;
        unsafe_destroy_range: UnsafeDestroyRangeRequest => UnsafeDestroyRangeResponse
            = unsafe_destroy_range;
        split_region: SplitRegionRequest => SplitRegionResponse = split_region;
        broadcast_txn_status: BroadcastTxnStatusRequest => BroadcastTxnStatusResponse
            = broadcast_txn_status;
        get_health_feedback: GetHealthFeedbackRequest => GetHealthFeedbackResponse
            = get_health_feedback;
    }

    left_out! {
        kv_gc: GcRequest => GcResponse,
            "garbage is collected by the scheduler's safe point, not by request";
        kv_flashback_to_version: FlashbackToVersionRequest => FlashbackToVersionResponse,
            "flashback is not supported";
        kv_prepare_flashback_to_version: PrepareFlashbackToVersionRequest
            => PrepareFlashbackToVersionResponse, "flashback is not supported";
        register_lock_observer: RegisterLockObserverRequest => RegisterLockObserverResponse,
            "lock observers are not supported: use ScanLock";
        check_lock_observer: CheckLockObserverRequest => CheckLockObserverResponse,
            "lock observers are not supported: use ScanLock";
        remove_lock_observer: RemoveLockObserverRequest => RemoveLockObserverResponse,
            "lock observers are not supported: use ScanLock";
        check_leader: CheckLeaderRequest => CheckLeaderResponse,
            "stale reads are not supported, so nobody resolves timestamps";
    }

    async fn coprocessor(
        &self,
        _request: Request<coprocessor::Request>,
    ) -> Result<Response<coprocessor::Response>, Status> {
        Ok(Response::new(commands::no_coprocessor()))
    }

    type CoprocessorStreamStream = tokio_stream::Once<Result<coprocessor::Response, Status>>;

    async fn coprocessor_stream(
        &self,
        _request: Request<coprocessor::Request>,
    ) -> Result<Response<Self::CoprocessorStreamStream>, Status> {
        Ok(Response::new(tokio_stream::once(Ok(commands::no_coprocessor()))))
    }

    /// 0 is "none yet": clients then read from leaders.
    async fn get_store_safe_ts(
        &self,
        _request: Request<kvrpcpb::StoreSafeTsRequest>,
    ) -> Result<Response<kvrpcpb::StoreSafeTsResponse>, Status> {
        Ok(Response::new(kvrpcpb::StoreSafeTsResponse { safe_ts: 0 }))
    }

    type BatchCommandsStream =
        batch::BatchStream<UntilHeard<Streaming<tikvpb::BatchCommandsRequest>>, Arc<Store<D>>>;

    async fn batch_commands(
        &self,
        request: Request<Streaming<tikvpb::BatchCommandsRequest>>,
    ) -> Result<Response<Self::BatchCommandsStream>, Status> {
        let feedback = self.store.feedback.clone();
        let input = self.store.no_more.clone().until(request.into_inner());
        let stream = batch::BatchStream::new(input, self.store.clone(), feedback);
        Ok(Response::new(stream))
    }

    async fn raft(
        &self,
        request: Request<Streaming<raft_serverpb::RaftMessage>>,
    ) -> Result<Response<raft_serverpb::Done>, Status> {
        let messages = self.store.no_more.clone().until(request.into_inner());
        self.store.receive_raft(messages).await.map(Response::new)
    }

    async fn batch_raft(
        &self,
        request: Request<Streaming<tikvpb::BatchRaftMessage>>,
    ) -> Result<Response<raft_serverpb::Done>, Status> {
        let batches = self.store.no_more.clone().until(request.into_inner());
        self.store.receive_batch_raft(batches).await.map(Response::new)
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<raft_serverpb::SnapshotChunk>>,
    ) -> Result<Response<raft_serverpb::Done>, Status> {
        self.store.receive_snapshot(request.into_inner()).await.map(Response::new)
    }
}
