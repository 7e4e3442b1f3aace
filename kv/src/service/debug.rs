//! What a person asks of one store, as TiKV's `debugpb.Debug`. A refusal is a gRPC status here: there is no
//! place for it in the answers.
//!
//! Left out: everything but the comparison of replicas. What the others show is told by `tessera ctl`, by the
//! status port and by the scheduler.

use std::sync::Arc;
use std::time::Duration;

use proto::debugpb::debug_server::DebugServer;
use proto::debugpb::{RegionConsistencyCheckRequest, RegionConsistencyCheckResponse};
use proto::{Refusal, RegionId, debugpb};
use raftstore::engine::DataEngine;
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use super::Store;

/// How long a check may take to begin: proposing it and applying the proposal. At the end it may begin all the
/// same, which does no harm.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// As tonic serves it.
pub(crate) type Server<D> = DebugServer<Debug<D>>;

/// The gRPC service.
pub(crate) struct Debug<D: DataEngine> {
    store: Arc<Store<D>>,
}

impl<D: DataEngine> Debug<D> {
    pub(super) fn new(store: Arc<Store<D>>) -> Self {
        Self { store }
    }
}

#[tonic::async_trait]
impl<D: DataEngine> debugpb::debug_server::Debug for Debug<D> {
    async fn check_region_consistency(
        &self,
        request: Request<RegionConsistencyCheckRequest>,
    ) -> Result<Response<RegionConsistencyCheckResponse>, Status> {
        self.store.count("check_region_consistency");
        let region_id = RegionId(request.into_inner().region_id);
        let (done, wait) = oneshot::channel();
        self.store.router.check_consistency(region_id, move |answer| {
            // Nobody waits any more when the caller has gone.
            let _ = done.send(answer);
        });
        match tokio::time::timeout(BEGIN_TIMEOUT, wait).await {
            Ok(answer) => answer
                .unwrap_or_else(|_| Err(Refusal::closing()))
                .map(|()| Response::new(RegionConsistencyCheckResponse {}))
                .map_err(|refusal| status_of(&refusal)),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "{region_id}: the check was not applied yet"
            ))),
        }
    }
}

/// Which status says what the refusal says: whether to ask elsewhere, later, or never.
#[expect(clippy::wildcard_enum_match_arm, reason = "every other refusal means to try again")]
fn status_of(refusal: &Refusal) -> Status {
    let words = refusal.to_string();
    match refusal {
        Refusal::RegionNotFound { .. } => Status::not_found(words),
        Refusal::NotLeader { .. } => Status::failed_precondition(words),
        _ => Status::unavailable(words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_tells_whether_to_ask_elsewhere_later_or_never() {
        let code = |refusal| status_of(&refusal).code();
        assert_eq!(code(Refusal::RegionNotFound { region_id: 9 }), tonic::Code::NotFound);
        let elsewhere = Refusal::NotLeader { region_id: 9, leader: None };
        assert_eq!(code(elsewhere), tonic::Code::FailedPrecondition);
        let busy = Refusal::ServerIsBusy { reason: "busy".into(), backoff_ms: 0 };
        assert_eq!(code(busy), tonic::Code::Unavailable);
    }
}
