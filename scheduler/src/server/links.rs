//! Raft messages to the other members: a queue and a stream for each.
//!
//! A link may lose everything: a full queue, a broken stream and an unknown address all drop what
//! is there, and raft sends it again. What must not happen is that old messages wait for a
//! connection and then arrive as news, so a link that does not connect empties its queue.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proto::eraftpb;
use proto::schedulerpb::RaftBatch;
use proto::schedulerpb::peer_client::PeerClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::node::{Node, REMOVED, Said};

/// Messages waiting for one member; more are dropped.
const QUEUE_MESSAGES_MAX: usize = 4_096;
/// Messages in one batch on the wire.
const BATCH_MESSAGES_MAX: usize = 256;
/// Batches handed to the connection and not yet written; more wait in the queue.
const BATCHES_MAX: usize = 8;
/// A member that does not take a connection in this time is unreachable.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait after a failure. Short: elections depend on members finding each other.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// A silent connection is asked for a sign of life this often…
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// … and is broken if none comes in this time.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// All links of this member.
#[derive(Debug, Default)]
pub(crate) struct Links {
    queues: Mutex<BTreeMap<u64, mpsc::Sender<eraftpb::Message>>>,
}

impl Links {
    /// Queues messages; drops those that find no room. Called by the member's thread.
    pub(crate) fn send(&self, node: &Arc<Node>, messages: Vec<eraftpb::Message>) {
        let mut queues = self.queues.lock();
        for message in messages {
            let to = message.to;
            let queue = queues.entry(to).or_insert_with(|| {
                let (queue, waiting) = mpsc::channel(QUEUE_MESSAGES_MAX);
                node.runtime.spawn(run(node.clone(), to, waiting));
                queue
            });
            // Full: lost. Closed: the member stops.
            queue.try_send(message).ok();
        }
    }

    /// Ends the links to members that are gone.
    pub(crate) fn keep_only(&self, is_member: impl Fn(u64) -> bool) {
        self.queues.lock().retain(|&id, _| is_member(id));
    }
}

/// A connection to a member, with the settings that all of them share.
pub(crate) async fn connect(url: &str) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(url.to_owned())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(super::front::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(super::front::CONNECTION_WINDOW_BYTES)
        .connect()
        .await
}

/// A client for a member's peer service, without limits on message sizes: snapshots are large.
pub(crate) fn client(channel: Channel) -> PeerClient<Channel> {
    PeerClient::new(channel)
        .max_decoding_message_size(super::front::MESSAGE_BYTES_MAX)
        .max_encoding_message_size(super::front::MESSAGE_BYTES_MAX)
}

async fn run(node: Arc<Node>, to: u64, mut queue: mpsc::Receiver<eraftpb::Message>) {
    let mut said = String::new();
    // The first message says that there is somebody to talk to.
    let mut first = queue.recv().await;
    while let Some(message) = first.take() {
        let mut problem = format!("no address of member {to:x} is known");
        let mut waiting = Some(message);
        for url in node.peer_urls(to) {
            match connect(&url).await {
                Err(error) => problem = format!("connect to {url}: {error}"),
                Ok(channel) => {
                    problem = match stream(&node, channel, waiting.take(), &mut queue).await {
                        Some(problem) => format!("{url}: {problem}"),
                        None => return,
                    };
                    break;
                }
            }
        }
        // Said once and not at every try: the other member may simply not have started yet.
        if problem != said {
            tracing::info!(member = %format!("{to:x}"), problem, "no link to a member");
            said = problem;
        }
        node.tell(Said::Unreachable { member: to });
        tokio::time::sleep(RETRY_AFTER).await;
        while queue.try_recv().is_ok() {}
        first = queue.recv().await;
    }
}

/// Streams until the connection breaks, which is told as text, or the queue is closed.
async fn stream(
    node: &Arc<Node>,
    channel: Channel,
    first: Option<eraftpb::Message>,
    queue: &mut mpsc::Receiver<eraftpb::Message>,
) -> Option<String> {
    let (batches, outgoing) = mpsc::channel(BATCHES_MAX);
    let hello = node.batch(first.into_iter().collect(), true);
    if batches.send(hello).await.is_err() {
        return Some("closed".into());
    }
    let mut client = client(channel);
    let call = client.raft(ReceiverStream::new(outgoing));
    let pump = async {
        let mut messages: Vec<eraftpb::Message> = Vec::new();
        while queue.recv_many(&mut messages, BATCH_MESSAGES_MAX).await > 0 {
            let batch: RaftBatch = node.batch(std::mem::take(&mut messages), false);
            if batches.send(batch).await.is_err() {
                // The connection is broken; the call says why.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        biased;
        result = call => Some(match result {
            Ok(_) => "the member ended the stream".into(),
            Err(status) => {
                if status.code() == Code::PermissionDenied && status.message() == REMOVED {
                    node.tell(Said::Removed);
                }
                status.message().to_owned()
            }
        }),
        () = pump => None,
    }
}
