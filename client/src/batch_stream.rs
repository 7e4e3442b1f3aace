//! Many requests on one stream to a store.
//!
//! A unary call costs the store and the client far more than its message. Here requests that come
//! while the stream is busy gather, and leave together as soon as it takes more: the busier the
//! client, the larger the batches, and no timer is involved. Answers come back in any order, each
//! with the number of its request.
//!
//! One task owns a stream. Every request is answered exactly once: by the store, or by what ended
//! the stream. A request that nobody waits for any more is forgotten. A store that does not know
//! the method is noted, and its requests are sent one by one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use proto::tikvpb::{
    BatchCommandsRequest, BatchCommandsResponse, batch_commands_request, batch_commands_response,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::connection;

/// A request in the stream's form.
pub(crate) type Command = batch_commands_request::request::Cmd;
/// An answer in the stream's form.
pub(crate) type Answer = batch_commands_response::response::Cmd;

/// How many requests leave together at most; the number that other clients use.
const BATCH_LEN_MAX: usize = 128;
/// How many requests may wait for the stream to take more; further callers wait for room, within
/// their deadlines.
const WAITING_MAX: usize = 8_192;
/// From this many open requests on, those that nobody waits for are looked for and dropped.
const SWEEP_FROM: usize = 1_024;

struct Item {
    command: Command,
    answer: oneshot::Sender<Result<Answer, Status>>,
}

/// What the callers of a stream know of it.
#[derive(Debug)]
struct Health {
    /// The store does not know the method.
    is_unknown: AtomicBool,
    /// The store has answered on it.
    is_known: AtomicBool,
    heard: Mutex<Instant>,
}

/// The way to one store's stream. Cheap to clone.
#[derive(Clone, Debug)]
struct BatchStream {
    items: mpsc::Sender<Item>,
    health: Arc<Health>,
}

/// The streams, by the address of their store.
#[derive(Debug, Default)]
pub(crate) struct BatchStreams {
    streams: Mutex<BTreeMap<String, BatchStream>>,
}

/// What became of a request given to a stream.
pub(crate) enum Batched {
    Answered(Box<Answer>),
    Failed(Status),
    /// Not sent: this store takes requests one by one.
    Unknown(Box<Command>),
}

impl BatchStreams {
    /// Sends a request on the stream to this address, and waits for its answer. The caller bounds the
    /// wait; should it end in vain, [`Self::in_vain`] is to be told.
    pub(crate) async fn send(&self, address: &str, channel: &Channel, command: Command) -> Batched {
        let stream = self.to(address, channel);
        if stream.health.is_unknown.load(Ordering::Relaxed) {
            return Batched::Unknown(Box::new(command));
        }
        let is_known = stream.health.is_known.load(Ordering::Relaxed);
        let again = (!is_known).then(|| command.clone());
        let (answer, answered) = oneshot::channel();
        let ended = || Batched::Failed(Status::unavailable("the stream to the store has ended"));
        if stream.items.send(Item { command, answer }).await.is_err() {
            self.forget(address);
            return ended();
        }
        // A stream that is given up ends when nobody can ask it any more.
        drop(stream);
        match (answered.await, again) {
            (Ok(Ok(answer)), _) => Batched::Answered(Box::new(answer)),
            (Ok(Err(status)), Some(again)) if status.code() == Code::Unimplemented => {
                Batched::Unknown(Box::new(again))
            }
            // A store that knew the method has made way for one that does not.
            (Ok(Err(status)), None) if status.code() == Code::Unimplemented => ended(),
            (Ok(Err(status)), _) => Batched::Failed(status),
            (Err(_), _) => ended(),
        }
    }

    /// A caller has waited this long for an answer. If nothing at all came meanwhile the stream is
    /// given up: what it still carries fails, and the next request opens a new one.
    pub(crate) fn in_vain(&self, address: &str, waited: Duration) {
        let mut streams = self.streams.lock();
        let is_silent = |stream: &BatchStream| stream.health.heard.lock().elapsed() >= waited;
        if streams.get(address).is_some_and(is_silent) {
            streams.remove(address);
        }
    }

    fn forget(&self, address: &str) {
        self.streams.lock().remove(address);
    }

    fn to(&self, address: &str, channel: &Channel) -> BatchStream {
        let mut streams = self.streams.lock();
        if let Some(stream) = streams.get(address)
            && !stream.items.is_closed()
        {
            return stream.clone();
        }
        let (items, inbox) = mpsc::channel(WAITING_MAX);
        let health = Health {
            is_unknown: false.into(),
            is_known: false.into(),
            heard: Mutex::new(Instant::now()),
        };
        let stream = BatchStream { items, health: Arc::new(health) };
        let task = Task {
            channel: channel.clone(),
            inbox,
            health: stream.health.clone(),
            pending: Vec::new(),
            open: BTreeMap::new(),
            next_id: 0,
        };
        tokio::spawn(task.run());
        streams.insert(address.to_owned(), stream.clone());
        stream
    }
}

struct Task {
    channel: Channel,
    inbox: mpsc::Receiver<Item>,
    health: Arc<Health>,
    /// Came in, not sent yet.
    pending: Vec<Item>,
    /// Sent, not answered yet.
    open: BTreeMap<u64, oneshot::Sender<Result<Answer, Status>>>,
    next_id: u64,
}

impl Task {
    /// Opens a stream when there is something to say, over and over, until nobody can ask any more.
    async fn run(mut self) {
        while self.gather().await {
            let (requests, outbound) = mpsc::channel(1);
            // A server may answer the call itself only when it has something to say.
            let first = self.take_batch();
            requests.try_send(first).expect("the new queue has room for one");
            let mut client = connection::store(self.channel.clone());
            let status = match client.batch_commands(ReceiverStream::new(outbound)).await {
                Ok(answers) => match self.serve(requests, answers.into_inner()).await {
                    Some(status) => status,
                    None => return,
                },
                Err(status) => status,
            };
            if status.code() == Code::Unimplemented {
                self.health.is_unknown.store(true, Ordering::Relaxed);
                // They were not sent, and are told the same.
                for item in self.pending.drain(..) {
                    let _ = item.answer.send(Err(status.clone()));
                }
            }
            tracing::debug!(%status, open = self.open.len(), "a stream to a store has ended");
            for (_, answer) in std::mem::take(&mut self.open) {
                let _ = answer.send(Err(status.clone()));
            }
        }
    }

    /// Waits for something to send. `false`: there will be nothing more.
    async fn gather(&mut self) -> bool {
        self.pending.retain(|item| !item.answer.is_closed());
        if self.pending.is_empty() {
            match self.inbox.recv().await {
                Some(item) => self.pending.push(item),
                None => return false,
            }
        }
        self.take_more();
        true
    }

    /// Takes what else has come in, without waiting.
    fn take_more(&mut self) {
        while self.pending.len() < BATCH_LEN_MAX
            && let Ok(item) = self.inbox.try_recv()
        {
            self.pending.push(item);
        }
    }

    /// All that waits, as one message.
    fn take_batch(&mut self) -> BatchCommandsRequest {
        if self.open.len() >= SWEEP_FROM {
            self.open.retain(|_, answer| !answer.is_closed());
        }
        let mut batch = BatchCommandsRequest::default();
        for item in self.pending.drain(..) {
            if item.answer.is_closed() {
                continue;
            }
            self.next_id += 1;
            batch.request_ids.push(self.next_id);
            batch.requests.push(batch_commands_request::Request { cmd: Some(item.command) });
            self.open.insert(self.next_id, item.answer);
        }
        batch
    }

    /// Carries requests and answers until the stream ends, for the reason returned. `None`: nobody
    /// can ask any more, or the stream was given up.
    async fn serve(
        &mut self,
        requests: mpsc::Sender<BatchCommandsRequest>,
        mut answers: Streaming<BatchCommandsResponse>,
    ) -> Option<Status> {
        loop {
            tokio::select! {
                answer = answers.message() => match answer {
                    Ok(Some(batch)) => self.answer(batch),
                    Ok(None) => return Some(Status::unavailable("the store has ended the stream")),
                    Err(status) => return Some(status),
                },
                room = requests.reserve(), if !self.pending.is_empty() => match room {
                    Ok(room) => {
                        self.take_more();
                        room.send(self.take_batch());
                    }
                    Err(_) => return Some(Status::unavailable("the stream has ended")),
                },
                item = self.inbox.recv(), if self.pending.len() < BATCH_LEN_MAX => match item {
                    Some(item) => {
                        self.pending.push(item);
                        self.take_more();
                    }
                    None => return None,
                },
            }
        }
    }

    fn answer(&mut self, batch: BatchCommandsResponse) {
        *self.health.heard.lock() = Instant::now();
        self.health.is_known.store(true, Ordering::Relaxed);
        for (id, response) in batch.request_ids.into_iter().zip(batch.responses) {
            // Whoever asked may have left.
            let Some(answer) = self.open.remove(&id) else { continue };
            let cmd = response.cmd.ok_or_else(|| Status::internal("an answer without a command"));
            let _ = answer.send(cmd);
        }
    }
}
