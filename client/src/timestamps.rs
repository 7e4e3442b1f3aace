//! Timestamps from the scheduler, many callers on one stream.
//!
//! One task owns the stream. While a request is under way the callers that come in gather, and the
//! next request fetches for all of them: the busier the client, the larger the batches, and no timer
//! is involved. When the stream breaks, or an answer does not fit its question, the stream is opened
//! anew (to whoever leads by then) and the same callers are served by it; a timestamp fetched later
//! than asked for is as good.
//!
//! A caller never hangs. The task knows when each has to leave and looks for those whose time is up
//! every [`LOOK_AFTER`]: one timer for all, since setting one for each costs more than the rest of the
//! call. That holds as long as the task runs whenever the caller does, so a caller of another runtime
//! than the task's keeps a timer of its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proto::{Timestamp, pdpb};
use tokio::runtime::{Handle, Id};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
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

/// While a request is under way those whose time is up are looked for so often; so much later than its
/// deadline a caller may hear that nothing came.
const LOOK_AFTER: Duration = Duration::from_millis(10);

/// A caller.
#[derive(Debug)]
struct Waiter {
    answer: oneshot::Sender<Timestamp>,
    /// When it leaves.
    until: Instant,
}

/// The way to the task that fetches timestamps.
#[derive(Clone, Debug)]
pub(crate) struct Timestamps {
    waiters: mpsc::Sender<Waiter>,
    /// Where the task runs.
    runtime: Id,
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
        let source = Source { scheduler, connections, timeout, seed };
        let queue = Queue { inbox, batch: Vec::new(), behind: VecDeque::new() };
        tokio::spawn(run(source, queue, trouble.clone()));
        Self { waiters, runtime: Handle::current().id(), trouble }
    }

    /// A timestamp later than every one given out before this call.
    pub(crate) async fn next(&self, call: &mut Call) -> Result<Timestamp> {
        call.waits_for("a timestamp", None);
        let (answer, answered) = oneshot::channel();
        let waiter = Waiter { answer, until: call.deadline() };
        let is_at_home = Handle::try_current().is_ok_and(|handle| handle.id() == self.runtime);
        let answered = match self.waiters.try_send(waiter) {
            Ok(()) if is_at_home => Ok(answered.await.ok()),
            Ok(()) => call.bounded(async { answered.await.ok() }).await,
            Err(TrySendError::Full(waiter)) => {
                call.bounded(async {
                    self.waiters.send(waiter).await.ok()?;
                    answered.await.ok()
                })
                .await
            }
            Err(TrySendError::Closed(_)) => Ok(None),
        };
        match answered {
            Ok(Some(timestamp)) => Ok(timestamp),
            // The runtime that the client was made in has shut down, and the task with it.
            Ok(None) if !call.remaining().is_zero() => {
                Err(call.fail(ErrorKind::Mistake, "the client's runtime has shut down"))
            }
            Ok(None) | Err(_) => {
                call.waits_for("a timestamp", self.trouble.lock().clone());
                Err(call.timed_out())
            }
        }
    }
}

/// Who waits, in the order of coming.
struct Queue {
    inbox: mpsc::Receiver<Waiter>,
    /// Those whom the next answer, or the one under way, is for.
    batch: Vec<Waiter>,
    /// Those who came meanwhile, as far as they have been looked after.
    behind: VecDeque<Waiter>,
}

impl Queue {
    /// Fills the batch; waits while there is nobody. Returns whether anybody can come any more.
    async fn gather(&mut self) -> bool {
        let room = BATCH_MAX - self.batch.len();
        self.batch.extend(self.behind.drain(..room.min(self.behind.len())));
        if self.batch.is_empty() && self.inbox.recv_many(&mut self.batch, BATCH_MAX).await == 0 {
            return false;
        }
        while self.batch.len() < BATCH_MAX
            && let Ok(waiter) = self.inbox.try_recv()
        {
            self.batch.push(waiter);
        }
        true
    }

    /// Does something else, and lets those go meanwhile whose time is up.
    async fn while_waiting<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            match tokio::time::timeout(LOOK_AFTER, &mut work).await {
                Ok(done) => return done,
                Err(_) => self.let_go(),
            }
        }
    }

    /// Who has left is forgotten, and whose time is up learns it.
    fn let_go(&mut self) {
        while self.behind.len() < WAITING_MAX
            && let Ok(waiter) = self.inbox.try_recv()
        {
            self.behind.push_back(waiter);
        }
        let now = Instant::now();
        let stays = |waiter: &Waiter| now < waiter.until && !waiter.answer.is_closed();
        self.batch.retain(stays);
        self.behind.retain(stays);
    }

    /// The timestamps for this batch, when it was so large, end with this one.
    fn answer(&mut self, last: Timestamp, count: usize) {
        let first = last.0 - (count as u64 - 1);
        for (number, waiter) in self.batch.drain(..).enumerate() {
            // A caller that has left wastes its timestamp.
            let _ = waiter.answer.send(Timestamp(first + number as u64));
        }
    }
}

/// The task: until nobody can come any more.
async fn run(source: Source, mut queue: Queue, trouble: Arc<Mutex<Option<Cause>>>) {
    let mut stream = None;
    let mut recovery: Option<Call> = None;
    loop {
        if queue.batch.is_empty() {
            recovery = None;
        }
        if !queue.gather().await {
            return;
        }
        let count = queue.batch.len();
        match queue.while_waiting(source.fetch(&mut stream, count)).await {
            Ok(last) => {
                recovery = None;
                queue.answer(last, count);
            }
            Err(error) => {
                tracing::debug!(%error, "timestamps: opening a new stream");
                *trouble.lock() = Some(Cause::Words(error.to_string()));
                stream = None;
                let call = recovery.get_or_insert_with(|| source.search());
                if queue.while_waiting(call.pause(Pause::Scheduler)).await.is_err() {
                    recovery = None;
                }
                queue.let_go();
            }
        }
    }
}

/// Where timestamps come from.
struct Source {
    scheduler: Arc<Scheduler>,
    connections: Arc<Connections>,
    timeout: Duration,
    seed: u64,
}

struct Stream {
    requests: mpsc::Sender<pdpb::TsoRequest>,
    answers: Streaming<pdpb::TsoResponse>,
    leader: String,
}

impl Source {
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
    use std::future::pending;

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

    /// A queue with callers that leave so many milliseconds from now, and their ends.
    fn queue(leave_after: &[u64]) -> (Queue, Vec<oneshot::Receiver<Timestamp>>) {
        let (waiters, inbox) = mpsc::channel(8);
        let ends = leave_after.iter().map(|millis| {
            let (answer, end) = oneshot::channel();
            let until = Instant::now() + Duration::from_millis(*millis);
            waiters.try_send(Waiter { answer, until }).unwrap();
            end
        });
        let ends = ends.collect();
        (Queue { inbox, batch: Vec::new(), behind: VecDeque::new() }, ends)
    }

    #[tokio::test(start_paused = true)]
    async fn whose_time_is_up_is_let_go_while_an_answer_does_not_come() {
        let (mut queue, mut ends) = queue(&[50, 500, 50]);
        // The first two are asked for, the third comes meanwhile.
        let late = queue.inbox.try_recv().unwrap();
        queue.batch.push(late);
        let late = queue.inbox.try_recv().unwrap();
        queue.batch.push(late);
        let waited = queue.while_waiting(pending::<()>());
        assert!(tokio::time::timeout(Duration::from_millis(100), waited).await.is_err());
        assert!(ends[0].try_recv().is_err_and(|why| why == oneshot::error::TryRecvError::Closed));
        assert!(ends[2].try_recv().is_err_and(|why| why == oneshot::error::TryRecvError::Closed));
        assert!(ends[1].try_recv().is_err_and(|why| why == oneshot::error::TryRecvError::Empty));
        // Who is left gets one of the two that were asked for.
        queue.answer(Timestamp(10), 2);
        assert_eq!(ends[1].try_recv(), Ok(Timestamp(9)));
        assert!(!queue.gather().await);
    }

    /// S0.25: while a request is under way others gather for the next one.
    #[tokio::test]
    async fn who_comes_meanwhile_is_in_the_next_batch() {
        let (mut queue, mut ends) = queue(&[60_000, 60_000, 60_000]);
        let first = queue.inbox.try_recv().unwrap();
        queue.batch.push(first);
        queue.let_go();
        queue.answer(Timestamp(7), 1);
        assert!(queue.gather().await);
        queue.answer(Timestamp(9), 2);
        let got: Vec<_> = ends.iter_mut().map(|end| end.try_recv().unwrap().0).collect();
        assert_eq!(got, [7, 8, 9]);
    }
}
