//! Raft messages to other stores: a bounded queue per store, and one stream that empties it.
//!
//! ```text
//! raft worker ──► queue of s2 ──► BatchRaft stream ══► s2
//!            └──► queue of s3 ──► (no connection: emptied into nothing) ──► "s3 is unreachable"
//! ```
//!
//! - Full queue, broken stream, unknown address: the message is lost. Raft sends again what matters,
//!   and is told that the store is unreachable so that it probes before it sends much.
//! - Messages wait for the first connection, but not for a store that was just found dead: what they
//!   say is old by the time it is back.
//! - Messages are gathered by back-pressure alone: the stream takes all that is there, up to
//!   [`MESSAGES_PER_BATCH_MAX`], whenever HTTP/2 has room for more. No timer.
//! - The bytes are our own generated types all the way; the consensus crate's decoder never sees a
//!   network.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use proto::raft_serverpb::RaftMessage;
use proto::tikvpb::tikv_client::TikvClient;
use proto::{PeerId, RegionId, StoreId, tikvpb};
use raftstore::driver::Pace;
use raftstore::driver::Router;
use raftstore::effects::OutgoingSnapshot;
use raftstore::engine::DataEngine;
use raftstore::transport::Transport;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::Stream;
use tonic::transport::{Channel, Endpoint};

use crate::metrics::Metrics;
use crate::net::incoming::Ear;
use crate::net::resolver::{Directory, Resolver};
use crate::net::snapshot_stream;

/// Messages waiting for one store. At the limit new ones are lost.
const QUEUE_MESSAGES_MAX: usize = 8192;

/// Bytes of entries waiting for one store. At the limit new messages are lost.
const QUEUE_BYTES_MAX: usize = 64 << 20;

/// Raft messages in one gRPC message.
const MESSAGES_PER_BATCH_MAX: usize = 256;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A stream asks this often whether the other store lives. Election timeouts, not this, decide how
/// quickly a dead leader is replaced.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// … and is given up after this long without an answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// After a failure the next attempt waits this long …
const RECONNECT_MIN: Duration = Duration::from_millis(20);
/// … doubling up to this: shorter than an election, so that a store that is back is not missed.
const RECONNECT_MAX: Duration = Duration::from_millis(500);

/// HTTP/2 windows of a stream and of the connection: a batch of appends must not wait for a round
/// trip of window updates.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// See [`STREAM_WINDOW_BYTES`].
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Who wants to know what became of messages.
pub(crate) trait Fates: Send + Sync + 'static {
    /// Nothing gets to this store now.
    fn unreachable(&self, store: StoreId);
    /// A snapshot was taken by the other side, or was not.
    fn snapshot_sent(&self, region: RegionId, to: PeerId, ok: bool);
}

impl<D: DataEngine> Fates for Router<D> {
    fn unreachable(&self, store: StoreId) {
        Router::unreachable(self, store);
    }

    fn snapshot_sent(&self, region: RegionId, to: PeerId, ok: bool) {
        Router::snapshot_sent(self, region, to, ok);
    }
}

/// The sending half of one store's queue.
struct Queue {
    messages: mpsc::Sender<RaftMessage>,
    bytes: Arc<AtomicUsize>,
}

/// Queues to all stores ever written to.
pub(crate) struct Outbound<D> {
    shared: Arc<Shared<D>>,
    queues: Mutex<BTreeMap<StoreId, Queue>>,
    runtime: Handle,
}

struct Shared<D> {
    resolver: Arc<Resolver<D>>,
    fates: OnceLock<Arc<dyn Fates>>,
    /// Places for snapshots on their way out; more wait their turn.
    sending: Semaphore,
    /// How fast they go, all together.
    pace: Arc<Pace>,
    metrics: Arc<Metrics>,
    ear: Ear,
}

impl<D> Shared<D> {
    fn unreachable(&self, store: StoreId) {
        if let Some(fates) = self.fates.get() {
            fates.unreachable(store);
        }
    }
}

impl<D: Directory> Outbound<D> {
    /// Must be called on the runtime that will carry the streams. Everything ends at the cut.
    pub(crate) fn new(
        resolver: Arc<Resolver<D>>,
        metrics: Arc<Metrics>,
        sending_max: usize,
        pace: Arc<Pace>,
        ear: Ear,
    ) -> Self {
        let shared = Arc::new(Shared {
            resolver,
            fates: OnceLock::new(),
            sending: Semaphore::new(sending_max),
            pace,
            metrics,
            ear,
        });
        Self { shared, queues: Mutex::default(), runtime: Handle::current() }
    }

    /// Says who is told what became of messages; once.
    pub(crate) fn report_to(&self, fates: Arc<dyn Fates>) {
        let first = self.shared.fates.set(fates);
        assert!(first.is_ok(), "fates are reported to one place");
    }

    /// Queues messages to a store. Never waits; may lose some or all. Callable from any thread.
    fn queue(&self, to: StoreId, messages: Vec<RaftMessage>) {
        let mut lost = 0;
        {
            let mut queues = self.queues.lock();
            let queue = queues.entry(to).or_insert_with(|| self.open(to));
            for message in messages {
                let bytes = entry_bytes(&message);
                let before = queue.bytes.fetch_add(bytes, Ordering::Relaxed);
                if before + bytes > QUEUE_BYTES_MAX || queue.messages.try_send(message).is_err() {
                    queue.bytes.fetch_sub(bytes, Ordering::Relaxed);
                    lost += 1;
                }
            }
        }
        if lost > 0 {
            self.shared.metrics.raft_messages_lost.inc_by(lost);
            self.shared.unreachable(to);
        }
    }

    fn open(&self, to: StoreId) -> Queue {
        let (messages, waiting) = mpsc::channel(QUEUE_MESSAGES_MAX);
        let bytes = Arc::new(AtomicUsize::new(0));
        let waiting = Arc::new(Mutex::new(Waiting { messages: waiting, bytes: bytes.clone() }));
        let shared = self.shared.clone();
        self.runtime.spawn(async move {
            shared.ear.clone().or(carry(&shared, to, waiting)).await;
        });
        Queue { messages, bytes }
    }
}

impl<D: Directory> Transport for Outbound<D> {
    fn send(&self, to: StoreId, messages: Vec<RaftMessage>) {
        self.queue(to, messages);
    }

    fn send_snapshot(&self, snapshot: OutgoingSnapshot) {
        let shared = self.shared.clone();
        self.runtime.spawn(async move {
            shared.ear.clone().or(carry_snapshot(&shared, snapshot)).await;
        });
    }
}

/// Sends a snapshot, several times if need be, and says what became of it.
async fn carry_snapshot<D: Directory>(shared: &Shared<D>, snapshot: OutgoingSnapshot) {
    let region = RegionId(snapshot.message.region_id);
    let to = snapshot.message.to_peer.unwrap_or_default();
    let store = StoreId(to.store_id);
    let send_once = async || {
        let _place = shared.sending.acquire().await.expect("the semaphore is never closed");
        let address = shared.resolver.address(store).await.map_err(|error| error.to_string())?;
        snapshot_stream::send(&address, &snapshot, &shared.pace).await
    };
    let mut sent = send_once().await;
    for tries in 1..snapshot_stream::TRIES_MAX {
        let Err(cause) = &sent else { break };
        tracing::debug!(%region, %store, cause, tries, "a snapshot is sent again");
        tokio::time::sleep(snapshot_stream::TRY_AGAIN_AFTER * tries).await;
        sent = send_once().await;
    }
    match &sent {
        Ok(()) => {
            shared.metrics.snapshots_sent.inc();
            tracing::info!(%region, %store, "sent a snapshot");
        }
        Err(cause) => tracing::info!(%region, %store, cause, "a snapshot did not get through"),
    }
    if let Some(fates) = shared.fates.get() {
        fates.snapshot_sent(region, PeerId(to.id), sent.is_ok());
    }
}

/// Bytes of the entries a message carries: what makes messages large.
fn entry_bytes(message: &RaftMessage) -> usize {
    let entries = message.message.as_ref().map_or(&[][..], |message| &message.entries);
    entries.iter().map(|entry| entry.data.len() + entry.context.len()).sum()
}

/// The receiving half of a queue.
struct Waiting {
    messages: mpsc::Receiver<RaftMessage>,
    bytes: Arc<AtomicUsize>,
}

impl Waiting {
    /// Takes all that is there, up to one batch; `None` when nobody will write any more.
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Option<Vec<RaftMessage>>> {
        let mut batch = Vec::new();
        match self.messages.poll_recv_many(cx, &mut batch, MESSAGES_PER_BATCH_MAX) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(0) => Poll::Ready(None),
            Poll::Ready(_) => {
                self.bytes.fetch_sub(batch.iter().map(entry_bytes).sum(), Ordering::Relaxed);
                Poll::Ready(Some(batch))
            }
        }
    }

    /// Forgets all that is there; says how many.
    fn drain(&mut self) -> u64 {
        let mut lost = 0;
        while let Ok(message) = self.messages.try_recv() {
            self.bytes.fetch_sub(entry_bytes(&message), Ordering::Relaxed);
            lost += 1;
        }
        lost
    }
}

/// Keeps one stream to a store, for as long as there is somebody to write to it.
async fn carry<D: Directory>(shared: &Shared<D>, to: StoreId, waiting: Arc<Mutex<Waiting>>) {
    let mut wait = RECONNECT_MIN;
    loop {
        let began = tokio::time::Instant::now();
        let cause = match connect(shared, to).await {
            Ok(client) => stream(client, &waiting).await,
            Err(cause) => cause,
        };
        if waiting.lock().messages.is_closed() {
            return;
        }
        tracing::debug!(store = %to, cause, "no way to another store");
        shared.resolver.doubt(to);
        shared.metrics.raft_messages_lost.inc_by(waiting.lock().drain());
        shared.unreachable(to);
        // A stream that held for a while was a good one: come back at once.
        wait = if began.elapsed() > RECONNECT_MAX { RECONNECT_MIN } else { wait };
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RECONNECT_MAX);
        shared.metrics.raft_messages_lost.inc_by(waiting.lock().drain());
    }
}

async fn connect<D: Directory>(
    shared: &Shared<D>,
    to: StoreId,
) -> Result<TikvClient<Channel>, String> {
    let address = shared.resolver.address(to).await.map_err(|error| error.to_string())?;
    open_channel(&address).await
}

/// [`channel_to`] another store's commands.
pub(crate) async fn open_channel(address: &str) -> Result<TikvClient<Channel>, String> {
    channel_to(address).await.map(TikvClient::new)
}

/// A connection to another store, with windows fit for appends and snapshots.
pub(crate) async fn channel_to(address: &str) -> Result<Channel, String> {
    endpoint_of(address)?.connect().await.map_err(|error| error.to_string())
}

/// How another store is connected to.
pub(super) fn endpoint_of(address: &str) -> Result<Endpoint, String> {
    Ok(Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

/// Streams until the stream breaks; says why it did.
async fn stream(mut client: TikvClient<Channel>, waiting: &Arc<Mutex<Waiting>>) -> String {
    let is_open = Arc::new(AtomicBool::new(true));
    let batches = Batches { waiting: waiting.clone(), is_open: is_open.clone() };
    let result = client.batch_raft(batches).await;
    // The broken stream may linger inside HTTP/2; it must not take messages from its successor.
    is_open.store(false, Ordering::Relaxed);
    match result {
        Ok(_) => "the other store ended the stream".into(),
        Err(status) => status.message().into(),
    }
}

/// What is in the queue, in batches.
struct Batches {
    waiting: Arc<Mutex<Waiting>>,
    is_open: Arc<AtomicBool>,
}

impl Stream for Batches {
    type Item = tikvpb::BatchRaftMessage;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !self.is_open.load(Ordering::Relaxed) {
            return Poll::Ready(None);
        }
        self.waiting.lock().poll_batch(cx).map(|batch| {
            let msgs = batch?;
            Some(tikvpb::BatchRaftMessage { msgs, ..Default::default() })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::incoming::Cut;
    use crate::scheduler_link::client::CallError;
    use proto::{eraftpb, metapb};

    /// A directory with one answer.
    struct At(Option<String>);

    impl Directory for At {
        async fn store(&self, _: u64) -> Result<metapb::Store, CallError> {
            let address =
                self.0.clone().ok_or_else(|| CallError::Unreachable("not known".into()))?;
            Ok(metapb::Store { address, ..Default::default() })
        }
    }

    /// Passes on who was said to be unreachable.
    struct Heard(mpsc::UnboundedSender<StoreId>);

    impl Fates for Heard {
        fn unreachable(&self, store: StoreId) {
            let _ = self.0.send(store);
        }

        fn snapshot_sent(&self, _: RegionId, _: PeerId, _: bool) {}
    }

    fn outbound(directory: At) -> (Outbound<At>, mpsc::UnboundedReceiver<StoreId>, Cut) {
        let cut = Cut::new();
        let resolver = Arc::new(Resolver::new(Arc::new(directory)));
        let outbound =
            Outbound::new(resolver, Arc::new(Metrics::new()), 1, Arc::new(Pace::new(0)), cut.ear());
        let (tx, rx) = mpsc::unbounded_channel();
        outbound.report_to(Arc::new(Heard(tx)));
        (outbound, rx, cut)
    }

    fn message(bytes: usize) -> RaftMessage {
        let entry = eraftpb::Entry { data: vec![0; bytes].into(), ..Default::default() };
        let message = eraftpb::Message { entries: vec![entry], ..Default::default() };
        RaftMessage { message: Some(message), ..Default::default() }
    }

    #[tokio::test]
    async fn a_full_queue_loses_messages_and_says_so() {
        let (outbound, mut unreachable, _cut) = outbound(At(None));
        // Nothing is taken out before this task yields.
        outbound.send(StoreId(2), vec![message(0); QUEUE_MESSAGES_MAX]);
        assert!(unreachable.try_recv().is_err());
        outbound.send(StoreId(2), vec![message(0); 3]);
        assert_eq!(unreachable.try_recv().unwrap(), StoreId(2));
        assert_eq!(outbound.shared.metrics.raft_messages_lost.get(), 3);
    }

    #[tokio::test]
    async fn a_queue_is_full_by_bytes_too() {
        let (outbound, mut unreachable, _cut) = outbound(At(None));
        outbound.send(StoreId(2), vec![message(QUEUE_BYTES_MAX / 2); 3]);
        assert_eq!(unreachable.try_recv().unwrap(), StoreId(2));
        assert_eq!(outbound.shared.metrics.raft_messages_lost.get(), 1);
    }

    #[tokio::test]
    async fn messages_to_a_store_without_address_are_lost_and_the_queue_is_empty_again() {
        let (outbound, mut unreachable, _cut) = outbound(At(None));
        outbound.send(StoreId(2), vec![message(5); 7]);
        assert_eq!(unreachable.recv().await.unwrap(), StoreId(2));
        assert_eq!(outbound.shared.metrics.raft_messages_lost.get(), 7);
        let queues = outbound.queues.lock();
        assert_eq!(queues[&StoreId(2)].bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_batch_takes_what_is_there_and_no_more_than_its_limit() {
        let (messages, waiting) = mpsc::channel(1000);
        let bytes = Arc::new(AtomicUsize::new(300));
        let mut waiting = Waiting { messages: waiting, bytes: bytes.clone() };
        for _ in 0..300 {
            messages.try_send(message(1)).unwrap();
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let sizes = [(); 2].map(|()| match waiting.poll_batch(&mut cx) {
            Poll::Ready(Some(batch)) => batch.len(),
            Poll::Ready(None) | Poll::Pending => 0,
        });
        assert_eq!(sizes, [256, 44]);
        assert_eq!(bytes.load(Ordering::Relaxed), 0);
        assert!(waiting.poll_batch(&mut cx).is_pending());
    }
}
