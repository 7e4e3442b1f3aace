//! Which command is whose: the batched stream's table, and the short answers.

use std::sync::Arc;
use std::time::Duration;

use proto::tikvpb::batch_commands_request::request::Cmd as Command;
use proto::tikvpb::batch_commands_response::response::Cmd as Answer;
use proto::{Refusal, coprocessor, errorpb, kvrpcpb, tikvpb};
use raftstore::engine::DataEngine;

use super::Store;
use super::batch::{Answering, Commands};

/// The longest delay an empty command may ask for.
const EMPTY_DELAY_MAX: Duration = Duration::from_secs(60);

/// What a coprocessor request is told, in the protocol's own terms.
pub(super) fn no_coprocessor() -> coprocessor::Response {
    coprocessor::Response {
        other_error: "the coprocessor is not supported by this store".into(),
        ..Default::default()
    }
}

fn not_supported(what: &str) -> String {
    format!("{what} is not supported by this store")
}

impl<D: DataEngine> Store<D> {
    pub(super) async fn raw_coprocessor(
        &self,
        _request: kvrpcpb::RawCoprocessorRequest,
    ) -> kvrpcpb::RawCoprocessorResponse {
        let error = not_supported("the raw coprocessor");
        kvrpcpb::RawCoprocessorResponse { error, ..Default::default() }
    }

    /// A hint for caches that do not exist here.
    pub(super) async fn broadcast_txn_status(
        &self,
        _request: kvrpcpb::BroadcastTxnStatusRequest,
    ) -> kvrpcpb::BroadcastTxnStatusResponse {
        kvrpcpb::BroadcastTxnStatusResponse::default()
    }

    /// Who waits for whose lock on this store now.
    pub(super) async fn get_lock_wait_info(
        &self,
        _request: kvrpcpb::GetLockWaitInfoRequest,
    ) -> kvrpcpb::GetLockWaitInfoResponse {
        let entries = self.transactions.waiting().entries();
        kvrpcpb::GetLockWaitInfoResponse { entries, ..Default::default() }
    }

    /// Who waited for whose lock on this store lately.
    pub(super) async fn get_lock_wait_history(
        &self,
        _request: kvrpcpb::GetLockWaitHistoryRequest,
    ) -> kvrpcpb::GetLockWaitHistoryResponse {
        let entries = self.transactions.waiting().history();
        kvrpcpb::GetLockWaitHistoryResponse { entries, ..Default::default() }
    }

    pub(super) async fn get_health_feedback(
        &self,
        _request: kvrpcpb::GetHealthFeedbackRequest,
    ) -> kvrpcpb::GetHealthFeedbackResponse {
        let health_feedback = Some(self.feedback.next());
        kvrpcpb::GetHealthFeedbackResponse { health_feedback, ..Default::default() }
    }

    /// In a batch a request for another cluster is refused by a region error: the stream lives on.
    fn meant_for_another(&self, context: Option<&kvrpcpb::Context>) -> Option<errorpb::Error> {
        let status = self.check(context).err()?;
        Some(Refusal::Other { message: status.message().into() }.into())
    }
}

impl<D: DataEngine> Commands for Arc<Store<D>> {
    fn execute(&self, command: Command) -> Answering {
        let store = self.clone();
        store.metrics.batch_commands.inc();
        macro_rules! answer {
            ($($kind:ident: $response:ident = $($part:ident).+,)*; $($special:tt)*) => {
                match command {
                    $(Command::$kind(request) => Box::pin(async move {
                        let region_error = store.meant_for_another(request.context.as_ref());
                        Answer::$kind(match region_error {
                            None => store.$($part).+(request).await,
                            region_error => {
                                kvrpcpb::$response { region_error, ..Default::default() }
                            }
                        })
                    }),)*
                    $($special)*
                }
            };
        }
        answer! {
            Get: GetResponse = transactions.get,
            Scan: ScanResponse = transactions.scan,
            Prewrite: PrewriteResponse = transactions.prewrite,
            Commit: CommitResponse = transactions.commit,
            Cleanup: CleanupResponse = transactions.cleanup,
            BatchGet: BatchGetResponse = transactions.batch_get,
            BatchRollback: BatchRollbackResponse = transactions.batch_rollback,
            ScanLock: ScanLockResponse = transactions.scan_lock,
            ResolveLock: ResolveLockResponse = transactions.resolve_lock,
            DeleteRange: DeleteRangeResponse = transactions.delete_range,
            PessimisticLock: PessimisticLockResponse = transactions.pessimistic_lock,
            PessimisticRollback: PessimisticRollbackResponse = transactions.pessimistic_rollback,
            CheckTxnStatus: CheckTxnStatusResponse = transactions.check_txn_status,
            TxnHeartBeat: TxnHeartBeatResponse = transactions.txn_heart_beat,
            CheckSecondaryLocks: CheckSecondaryLocksResponse = transactions.check_secondary_locks,
            Flush: FlushResponse = transactions.flush,
            BufferBatchGet: BufferBatchGetResponse = transactions.buffer_batch_get,
            RawGet: RawGetResponse = raw.get,
            RawBatchGet: RawBatchGetResponse = raw.batch_get,
            RawPut: RawPutResponse = raw.put,
            RawBatchPut: RawBatchPutResponse = raw.batch_put,
            RawDelete: RawDeleteResponse = raw.delete,
            RawBatchDelete: RawBatchDeleteResponse = raw.batch_delete,
            RawScan: RawScanResponse = raw.scan,
            RawDeleteRange: RawDeleteRangeResponse = raw.delete_range,
            RawBatchScan: RawBatchScanResponse = raw.batch_scan,
            RawCoprocessor: RawCoprocessorResponse = raw_coprocessor,
            ;
            // The stream fills it in: the same as in the message that takes the answer.
            Command::GetHealthFeedback(request) => Box::pin(async move {
                let region_error = store.meant_for_another(request.context.as_ref());
                Answer::GetHealthFeedback(kvrpcpb::GetHealthFeedbackResponse {
                    region_error,
                    ..Default::default()
                })
            }),
            // Left out. TiKV gives such a command no answer at all and lets the client run into its
            // deadline; an error in the answer is kinder.
            Command::Import(_) => Box::pin(async {
                let error = not_supported("import");
                Answer::Import(kvrpcpb::ImportResponse { error, ..Default::default() })
            }),
            Command::Gc(_) => Box::pin(async {
                let abort = not_supported("collecting garbage by request");
                let error = Some(kvrpcpb::KeyError { abort, ..Default::default() });
                Answer::Gc(kvrpcpb::GcResponse { error, ..Default::default() })
            }),
            Command::FlashbackToVersion(_) => Box::pin(async {
                let error = not_supported("flashback");
                Answer::FlashbackToVersion(kvrpcpb::FlashbackToVersionResponse {
                    error,
                    ..Default::default()
                })
            }),
            Command::PrepareFlashbackToVersion(_) => Box::pin(async {
                let error = not_supported("flashback");
                Answer::PrepareFlashbackToVersion(kvrpcpb::PrepareFlashbackToVersionResponse {
                    error,
                    ..Default::default()
                })
            }),
            Command::Coprocessor(_) => Box::pin(async { Answer::Coprocessor(no_coprocessor()) }),
            Command::BroadcastTxnStatus(request) => Box::pin(async move {
                Answer::BroadcastTxnStatus(store.broadcast_txn_status(request).await)
            }),
            Command::Empty(request) => Box::pin(async move {
                if request.delay_time > 0 {
                    let delay = Duration::from_millis(request.delay_time);
                    tokio::time::sleep(delay.min(EMPTY_DELAY_MAX)).await;
                }
                let test_id = request.test_id;
                Answer::Empty(tikvpb::BatchCommandsEmptyResponse { test_id })
            }),
        }
    }
}
