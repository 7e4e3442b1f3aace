//! A store's side: tells the detector of its waits, for as long as there are any.
//!
//! While nobody waits nothing is connected. With the first wait the detector is looked for and told of
//! all waits there are, then of each that begins or ends. When the stream ends, or the first region has
//! another leader, it is looked for again.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use proto::deadlock::deadlock_client::DeadlockClient;
use proto::deadlock::{DeadlockRequest, DeadlockRequestType, DeadlockResponse, WaitForEntry};
use proto::{StoreId, region};
use raftstore::driver::Router;
use raftstore::engine::DataEngine;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::Detector;
use crate::net::outbound;
use crate::net::resolver::Resolver;
use crate::scheduler_link::client::SchedulerClient;
use crate::txn::lock_wait::LockWait;

/// How often it is looked who the detector is, while there are waits to tell of. Within the time limit
/// of a wait, so that one which began under the last detector still reaches the next.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// After so long without a wait the stream is closed.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Waits handed to HTTP/2 and not yet taken; more wait in the store's own queue.
const STREAM_DEPTH: usize = 256;

/// Where the detector is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// On this store.
    Here,
    /// At this `host:port`.
    At(String),
}

/// Who knows where the detector is.
pub(crate) trait Whereabouts: Send + Sync + 'static {
    /// Where it is now; `None` when nobody leads the first region, as far as is known.
    fn find(&self) -> impl Future<Output = Option<Place>> + Send;
    /// It was not there.
    fn doubt(&self, place: &Place);
}

/// Why telling one detector ended.
enum Ended {
    /// Nobody will wait any more: the store stops.
    Stopping,
    /// It is not there, or nobody waits.
    LookAgain,
}

/// Tells of waits until the store stops.
pub(crate) async fn run(waits: LockWait, detector: Arc<Detector>, whereabouts: impl Whereabouts) {
    let mut told = waits.listen();
    while told.recv().await.is_some() {
        // A wait has begun; it is among all that are told now.
        loop {
            let ended = match whereabouts.find().await {
                None => Ended::LookAgain,
                Some(Place::Here) => here(&waits, &detector, &whereabouts, &mut told).await,
                Some(place @ Place::At(_)) => there(&waits, &place, &whereabouts, &mut told).await,
            };
            if matches!(ended, Ended::Stopping) {
                return;
            }
            if waits.may_close_circles().is_empty() {
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

fn detect(wait: WaitForEntry) -> DeadlockRequest {
    let tp = DeadlockRequestType::Detect as i32;
    DeadlockRequest { tp, entry: Some(wait), ..Default::default() }
}

async fn here(
    waits: &LockWait,
    detector: &Arc<Detector>,
    whereabouts: &impl Whereabouts,
    told: &mut mpsc::Receiver<DeadlockRequest>,
) -> Ended {
    let teller = detector.teller();
    let hear = |request| {
        if let Some(circle) = teller.tell(request) {
            waits.on_deadlock(circle);
        }
    };
    waits.may_close_circles().into_iter().map(detect).for_each(hear);
    let mut look = tokio::time::interval(LOOK_AGAIN);
    let idle = tokio::time::sleep(IDLE_MAX);
    tokio::pin!(idle);
    loop {
        tokio::select! {
            request = told.recv() => match request {
                None => return Ended::Stopping,
                Some(request) => {
                    idle.as_mut().reset(tokio::time::Instant::now() + IDLE_MAX);
                    hear(request);
                }
            },
            _ = look.tick() => {
                if !detector.is_here() || whereabouts.find().await != Some(Place::Here) {
                    return Ended::LookAgain;
                }
            }
            () = &mut idle => return Ended::LookAgain,
        }
    }
}

async fn there(
    waits: &LockWait,
    place: &Place,
    whereabouts: &impl Whereabouts,
    told: &mut mpsc::Receiver<DeadlockRequest>,
) -> Ended {
    let (out, stream) = mpsc::channel(STREAM_DEPTH);
    let mut circles = match open(place, stream).await {
        Ok(circles) => circles,
        Err(cause) => {
            tracing::debug!(?place, cause, "the deadlock detector is not there");
            whereabouts.doubt(place);
            return Ended::LookAgain;
        }
    };
    for wait in waits.may_close_circles() {
        if out.send(detect(wait)).await.is_err() {
            return Ended::LookAgain;
        }
    }
    let mut look = tokio::time::interval(LOOK_AGAIN);
    let idle = tokio::time::sleep(IDLE_MAX);
    tokio::pin!(idle);
    loop {
        tokio::select! {
            request = told.recv() => match request {
                None => return Ended::Stopping,
                Some(request) => {
                    idle.as_mut().reset(tokio::time::Instant::now() + IDLE_MAX);
                    if out.send(request).await.is_err() {
                        return Ended::LookAgain;
                    }
                }
            },
            circle = circles.message() => match circle {
                Ok(Some(circle)) => waits.on_deadlock(circle),
                Ok(None) | Err(_) => {
                    whereabouts.doubt(place);
                    return Ended::LookAgain;
                }
            },
            _ = look.tick() => {
                let is_moved = async || whereabouts.find().await.as_ref() != Some(place);
                if !waits.may_close_circles().is_empty() && is_moved().await {
                    return Ended::LookAgain;
                }
            }
            () = &mut idle => return Ended::LookAgain,
        }
    }
}

async fn open(
    place: &Place,
    stream: mpsc::Receiver<DeadlockRequest>,
) -> Result<Streaming<DeadlockResponse>, String> {
    let Place::At(address) = place else { return Err("it is here".into()) };
    let mut client = DeadlockClient::new(outbound::channel_to(address).await?);
    let answers = client.detect(ReceiverStream::new(stream)).await;
    Ok(answers.map_err(|status| status.message().to_owned())?.into_inner())
}

/// The leader of the first region, as this store's own replica of it knows, else as the scheduler does.
pub(crate) struct FirstRegion<D> {
    pub(crate) router: Router<D>,
    pub(crate) store_id: StoreId,
    pub(crate) scheduler: Arc<SchedulerClient>,
    pub(crate) resolver: Arc<Resolver<SchedulerClient>>,
}

/// Whether this store leads the first region.
pub(crate) fn leads_first_region<D: DataEngine>(router: &Router<D>) -> bool {
    router.read_views().all().iter().any(|view| view.range.start.is_empty() && view.is_leader)
}

impl<D: DataEngine> FirstRegion<D> {
    async fn leader(&self) -> Option<StoreId> {
        let views = self.router.read_views().all();
        let first = views.iter().find(|view| view.range.start.is_empty() && view.is_initialized);
        let known = match first {
            Some(view) => view.leader,
            None => {
                let (region, leader) =
                    self.scheduler.region_at(Default::default()).await.ok()??;
                leader.filter(|peer| region::peer_by_id(&region, peer.id.into()).is_some())
            }
        };
        known.map(|peer| StoreId(peer.store_id))
    }
}

impl<D: DataEngine> Whereabouts for FirstRegion<D> {
    async fn find(&self) -> Option<Place> {
        let store = self.leader().await?;
        if store == self.store_id {
            return Some(Place::Here);
        }
        self.resolver.address(store).await.ok().map(Place::At)
    }

    fn doubt(&self, _place: &Place) {
        // Addresses that are wrong are doubted by those who send raft messages, all the time.
    }
}
