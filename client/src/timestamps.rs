//! Timestamps from the scheduler, many callers on one stream.
//!
//! One task owns the stream. While a request is under way the callers that come in gather, and the
//! next request fetches for all of them: the busier the client, the larger the batches, and no timer
//! is involved. When the stream breaks, or an answer does not fit its question, the stream is opened
//! anew (to whoever leads by then) and the same callers are served by it; a timestamp fetched later
//! than asked for is as good. A caller never hangs: it has its own deadline, and dropping its end is
//! how it leaves.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proto::{Timestamp, pdpb};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::backoff::Pause;
use crate::call::Call;
use crate::connection::{self, Connections};
use crate::error::{Cause, Error, ErrorKind, Result};
use crate::scheduler::Scheduler;

/// How many callers one request serves; more wait for the next. A millisecond has 2^18 timestamps.
const BATCH_MAX: usize = 4096;
/// How many callers may wait; more wait for room, within their deadlines.
const WAITING_MAX: usize = 65_536;
/// How long the task goes on looking for a leader before it looks whether anybody still waits.
const SEARCH_PATIENCE: Duration = Duration::from_secs(3);

type Waiter = oneshot::Sender<Timestamp>;

/// The way to the task that fetches timestamps.
#[derive(Clone, Debug)]
pub(crate) struct Timestamps {
    waiters: mpsc::Sender<Waiter>,
    /// What went wrong last, for the message of callers that time out.
    trouble: Arc<Mutex<Option<Cause>>>,
}

impl Timestamps {
    /// Starts the task; it ends when the last `Timestamps` is dropped.
    pub(crate) fn start(
        scheduler: Arc<Scheduler>,
        connections: Arc<Connections>,
        timeout: Duration,
        seed: u64,
    ) -> Self {
        let (waiters, inbox) = mpsc::channel(WAITING_MAX);
        let trouble = Arc::new(Mutex::new(None));
        let task = Task { scheduler, connections, timeout, seed, inbox, trouble: trouble.clone() };
        tokio::spawn(task.run());
        Self { waiters, trouble }
    }

    /// A timestamp later than every one given out before this call.
    pub(crate) async fn next(&self, call: &mut Call) -> Result<Timestamp> {
        call.waits_for("a timestamp", None);
        let (tx, rx) = oneshot::channel();
        let answered = call
            .bounded(async {
                self.waiters.send(tx).await.ok()?;
                rx.await.ok()
            })
            .await;
        match answered {
            Ok(Some(timestamp)) => Ok(timestamp),
            // The runtime that the client was made in has shut down, and the task with it.
            Ok(None) => Err(call.fail(ErrorKind::Mistake, "the client's runtime has shut down")),
            Err(_) => {
                call.waits_for("a timestamp", self.trouble.lock().clone());
                Err(call.timed_out())
            }
        }
    }
}

struct Task {
    scheduler: Arc<Scheduler>,
    connections: Arc<Connections>,
    timeout: Duration,
    seed: u64,
    inbox: mpsc::Receiver<Waiter>,
    trouble: Arc<Mutex<Option<Cause>>>,
}

struct Stream {
    requests: mpsc::Sender<pdpb::TsoRequest>,
    answers: Streaming<pdpb::TsoResponse>,
    leader: String,
}

impl Task {
    async fn run(mut self) {
        let mut stream = None;
        let mut waiting: Vec<Waiter> = Vec::new();
        let mut recovery: Option<Call> = None;
        loop {
            waiting.retain(|waiter| !waiter.is_closed());
            if waiting.is_empty() {
                recovery = None;
                let room = BATCH_MAX;
                if self.inbox.recv_many(&mut waiting, room).await == 0 {
                    return;
                }
            }
            while waiting.len() < BATCH_MAX
                && let Ok(waiter) = self.inbox.try_recv()
            {
                waiting.push(waiter);
            }
            match self.fetch(&mut stream, waiting.len()).await {
                Ok(last) => {
                    recovery = None;
                    let first = last.0 - (waiting.len() as u64 - 1);
                    for (number, waiter) in waiting.drain(..).enumerate() {
                        // A caller that has left wastes its timestamp.
                        let _ = waiter.send(Timestamp(first + number as u64));
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "timestamps: opening a new stream");
                    *self.trouble.lock() = Some(Cause::Words(error.to_string()));
                    stream = None;
                    let call = recovery.get_or_insert_with(|| self.search());
                    if call.pause(Pause::Scheduler).await.is_err() {
                        recovery = None;
                    }
                }
            }
        }
    }

    fn search(&self) -> Call {
        Call::new("timestamp", SEARCH_PATIENCE, self.seed)
    }

    /// Fetches `count` timestamps; returns the last of them.
    async fn fetch(&self, stream: &mut Option<Stream>, count: usize) -> Result<Timestamp> {
        let leader = match stream {
            Some(open) => open.leader.clone(),
            None => self.scheduler.leader(&mut self.search()).await?,
        };
        let count = u32::try_from(count).expect("a batch is at most BATCH_MAX");
        let exchange = self.exchange(stream, &leader, count);
        let failure = match tokio::time::timeout(self.timeout, exchange).await {
            Ok(Ok(timestamp)) => return Ok(timestamp),
            Ok(Err(failure)) => failure,
            Err(_) => {
                self.connections.close(&leader);
                format!("no answer within {:?}", self.timeout)
            }
        };
        self.scheduler.forget_leader(&leader);
        Err(Error::new(ErrorKind::Timeout, format!("timestamps from {leader}: {failure}")))
    }

    /// One question and its answer. The failure is in words: every one has the same cure.
    async fn exchange(
        &self,
        stream: &mut Option<Stream>,
        leader: &str,
        count: u32,
    ) -> Result<Timestamp, String> {
        let header = Some(self.scheduler.header());
        let request = pdpb::TsoRequest { header, count, ..Default::default() };
        let open = match stream {
            Some(open) => {
                open.requests.send(request).await.map_err(|_| "the stream is closed")?;
                open
            }
            None => stream.insert(self.open(leader, request).await?),
        };
        match open.answers.message().await {
            Ok(Some(answer)) => last_of(answer, count),
            Ok(None) => Err("the stream ended".into()),
            Err(status) => Err(in_words(&status)),
        }
    }

    /// A new stream, with its first request on the way: a server may answer the call itself only
    /// when it has something to say.
    async fn open(&self, leader: &str, first: pdpb::TsoRequest) -> Result<Stream, String> {
        let channel = self.connections.to(leader).map_err(|error| error.to_string())?;
        let (requests, outbound) = mpsc::channel(1);
        requests.try_send(first).expect("the new queue has room for one");
        let mut client = connection::scheduler(channel);
        let answers = client.tso(ReceiverStream::new(outbound)).await;
        let answers = answers.map_err(|status| in_words(&status))?.into_inner();
        Ok(Stream { requests, answers, leader: leader.to_owned() })
    }
}

fn in_words(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// The last timestamp of the batch that was asked for; all of it lies within one millisecond.
fn last_of(answer: pdpb::TsoResponse, count: u32) -> Result<Timestamp, String> {
    if answer.count != count {
        return Err(format!("asked for {count} timestamps, got {}", answer.count));
    }
    let last = answer.timestamp.ok_or("an answer without a timestamp")?;
    let (Ok(physical), Ok(logical)) = (u64::try_from(last.physical), u64::try_from(last.logical))
    else {
        return Err(format!("{}.{} is no timestamp", last.physical, last.logical));
    };
    if logical >> proto::timestamp::LOGICAL_BITS != 0 || logical + 1 < u64::from(count) {
        return Err(format!("a batch of {count} cannot end at {physical}.{logical}"));
    }
    Ok(Timestamp::new(physical, logical))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(count: u32, logical: i64) -> pdpb::TsoResponse {
        let timestamp = pdpb::Timestamp { physical: 5, logical, ..Default::default() };
        pdpb::TsoResponse { count, timestamp: Some(timestamp), ..Default::default() }
    }

    #[test]
    fn an_answer_names_the_last_of_its_batch() {
        assert_eq!(last_of(answer(3, 2), 3), Ok(Timestamp::new(5, 2)));
    }

    #[test]
    fn an_answer_that_does_not_fit_is_not_used() {
        assert!(last_of(answer(2, 9), 3).is_err());
        assert!(last_of(answer(3, 1), 3).is_err());
        assert!(last_of(answer(1, 1 << 18), 1).is_err());
        assert!(last_of(answer(1, -1), 1).is_err());
    }
}
