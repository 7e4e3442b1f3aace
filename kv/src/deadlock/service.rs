//! What other stores tell the detector, and what anybody may ask about waits: `deadlock.Deadlock`.

use std::sync::Arc;

use proto::deadlock::deadlock_server::{Deadlock, DeadlockServer};
use proto::deadlock::{
    DeadlockRequest, DeadlockResponse, WaitForEntriesRequest, WaitForEntriesResponse,
};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Detector;
use crate::net::incoming::Ear;
use crate::txn::lock_wait::LockWait;

/// Circles found and not yet taken by the store that closed them; at the limit its stream waits.
const FOUND_MAX: usize = 64;

/// As tonic serves it.
pub(crate) type Server = DeadlockServer<Service>;

/// The gRPC service.
pub(crate) struct Service {
    detector: Arc<Detector>,
    waits: LockWait,
    no_more: Ear,
}

impl Service {
    pub(crate) fn new(detector: Arc<Detector>, waits: LockWait, no_more: Ear) -> Self {
        Self { detector, waits, no_more }
    }
}

fn not_here() -> Status {
    Status::failed_precondition("this store does not lead the first region")
}

#[tonic::async_trait]
impl Deadlock for Service {
    type DetectStream = ReceiverStream<Result<DeadlockResponse, Status>>;

    /// Only circles are answered. The stream ends when this store is not the detector, so that its
    /// caller looks for the right one.
    async fn detect(
        &self,
        request: Request<Streaming<DeadlockRequest>>,
    ) -> Result<Response<Self::DetectStream>, Status> {
        if !self.detector.is_here() {
            return Err(not_here());
        }
        let detector = Arc::clone(&self.detector);
        let mut told = self.no_more.clone().until(request.into_inner());
        let (found, answers) = mpsc::channel(FOUND_MAX);
        tokio::spawn(async move {
            let teller = detector.teller();
            while let Some(Ok(request)) = told.next().await {
                if !detector.is_here() {
                    // A caller that has gone does not mind.
                    let _ = found.send(Err(not_here())).await;
                    return;
                }
                if let Some(circle) = teller.tell(request)
                    && found.send(Ok(circle)).await.is_err()
                {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn get_wait_for_entries(
        &self,
        _request: Request<WaitForEntriesRequest>,
    ) -> Result<Response<WaitForEntriesResponse>, Status> {
        Ok(Response::new(WaitForEntriesResponse { entries: self.waits.entries() }))
    }
}
