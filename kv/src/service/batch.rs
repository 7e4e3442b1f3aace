//! Many commands on one stream, answered as they finish.
//!
//! ```text
//! client ══► ids + commands ──► try each once here ──► ready: answered at once
//!                                      │
//!                                      └─ not ready, or long: a task of its own ──┐
//! client ◄══ answers that are there, in one message ◄─────────────────────────────┘
//! ```
//!
//! - Each id is answered exactly once, in any order and grouping. A command that panics or is cut off
//!   is answered too: [`Unanswered`] speaks for it when it is dropped.
//! - An answer is of the kind of its request. One bad command never ends the stream.
//! - Answers are grouped by back-pressure alone. The stream is asked for the next message only when
//!   HTTP/2 has room for it; everything that has finished by then goes into that message. No timer.
//! - A reader that does not read stops being read from, at [`IN_FLIGHT_MAX`] commands; commands
//!   already begun go on, so that nobody waits for its latches.
//!
//! - An answer that says how long it took counts from the arrival of its message to the departure of the one
//!   that takes it: who waited behind its neighbours is told so.
//!
//! A point read under a lease never leaves the task that decodes the stream: waking another thread
//! would cost more than the read.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use proto::tikvpb::batch_commands_request::request::Cmd as Command;
use proto::tikvpb::batch_commands_response::{Response, response::Cmd as Answer};
use proto::tikvpb::{BatchCommandsRequest, BatchCommandsResponse};
use proto::{Refusal, errorpb, kvrpcpb};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::Status;

use super::times::{Times, add_times, tells_times};

/// Commands of one stream that are begun and not yet sent back. At the limit the stream is not read
/// until some are: HTTP/2 then holds the client back.
pub(crate) const IN_FLIGHT_MAX: usize = 4096;

/// Answers in one message. At the limit the message leaves and the next one begins.
const ANSWERS_PER_MESSAGE_MAX: usize = 256;

/// How often a store says how it feels, at most.
const FEEDBACK_INTERVAL: Duration = Duration::from_secs(1);

/// A command on its way to its answer.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// What executes the commands of a batch.
pub(crate) trait Commands: Send + Unpin + 'static {
    /// Begins a command. Must answer in the command's own kind.
    fn execute(&self, command: Command) -> Answering;
}

/// A store's health as clients of the batched stream learn it.
#[derive(Debug)]
pub(crate) struct Feedback {
    store_id: u64,
    sequence: AtomicU64,
}

impl Feedback {
    pub(crate) fn new(store_id: u64) -> Self {
        Self { store_id, sequence: AtomicU64::new(0) }
    }

    /// The next report. Slow score 1 is healthy.
    pub(crate) fn next(&self) -> kvrpcpb::HealthFeedback {
        kvrpcpb::HealthFeedback {
            store_id: self.store_id,
            feedback_seq_no: self.sequence.fetch_add(1, Ordering::Relaxed) + 1,
            slow_score: 1,
        }
    }
}

/// A finished command, on its way to the message that takes it.
struct Finished {
    id: u64,
    answer: Answer,
    /// Of one whose answer tells of them.
    times: Option<Times>,
}

/// The answering side of one `BatchCommands` stream.
pub(crate) struct BatchStream<I, C> {
    input: Option<I>,
    commands: C,
    feedback: Arc<Feedback>,
    last_feedback: Option<Instant>,
    /// Answers of commands that needed a task. Bounded by `in_flight`.
    finished: mpsc::UnboundedReceiver<Finished>,
    finish: mpsc::UnboundedSender<Finished>,
    /// Commands on tasks whose answers have not been received yet.
    in_flight: usize,
    /// Commands received but not begun, because a message is full.
    waiting: std::vec::IntoIter<(u64, Command)>,
    /// When they came.
    arrived: Instant,
    ready: BatchCommandsResponse,
    /// Of each answer that is ready.
    times: Vec<Option<Times>>,
    /// Whether one of them is to tell how the store feels.
    feedback_asked: bool,
}

impl<I, C> BatchStream<I, C>
where
    I: Stream<Item = Result<BatchCommandsRequest, Status>> + Send + Unpin + 'static,
    C: Commands,
{
    pub(crate) fn new(input: I, commands: C, feedback: Arc<Feedback>) -> Self {
        let (finish, finished) = mpsc::unbounded_channel();
        Self {
            input: Some(input),
            commands,
            feedback,
            last_feedback: None,
            finished,
            finish,
            in_flight: 0,
            waiting: Vec::new().into_iter(),
            arrived: Instant::now(),
            ready: BatchCommandsResponse::default(),
            times: Vec::new(),
            feedback_asked: false,
        }
    }

    fn is_full(&self) -> bool {
        self.ready.request_ids.len() >= ANSWERS_PER_MESSAGE_MAX
    }

    fn answer(&mut self, Finished { id, answer, times }: Finished) {
        self.feedback_asked |= matches!(answer, Answer::GetHealthFeedback(_));
        self.ready.request_ids.push(id);
        self.ready.responses.push(Response { cmd: Some(answer) });
        self.times.push(times);
    }

    /// The message that leaves now.
    fn departing(&mut self) -> BatchCommandsResponse {
        let now = Instant::now();
        for (response, times) in self.ready.responses.iter_mut().zip(self.times.drain(..)) {
            if let (Some(answer), Some(times)) = (&mut response.cmd, times) {
                add_times(answer, times, now);
            }
        }
        let is_due = |last| now.duration_since(last) >= FEEDBACK_INTERVAL;
        if self.feedback_asked || self.last_feedback.is_none_or(is_due) {
            self.last_feedback = Some(now);
            self.feed_back();
        }
        std::mem::take(&mut self.ready)
    }

    /// Says how the store feels: once in the message, and the same to everybody in it who asks.
    fn feed_back(&mut self) {
        let feedback = self.feedback.next();
        if std::mem::take(&mut self.feedback_asked) {
            for response in &mut self.ready.responses {
                if let Some(Answer::GetHealthFeedback(answer)) = &mut response.cmd
                    && answer.region_error.is_none()
                {
                    answer.health_feedback = Some(feedback);
                }
            }
        }
        self.ready.health_feedback = Some(feedback);
    }

    /// Begins a command: here when it can be answered without waiting, else on a task.
    fn begin(&mut self, id: u64, command: Command, cx: &mut Context<'_>) {
        let arrived = self.arrived;
        let times = tells_times(&command).then(|| Times { arrived, begun: Instant::now() });
        let unanswered = Unanswered {
            id,
            times,
            answer_for_lost: answer_for_lost(&command),
            finish: Some(self.finish.clone()),
        };
        let is_long = is_long(&command);
        let mut answering = self.commands.execute(command);
        if !is_long && let Poll::Ready(answer) = answering.as_mut().poll(cx) {
            unanswered.answered_elsewhere();
            self.answer(Finished { id, answer, times });
            return;
        }
        self.in_flight += 1;
        tokio::spawn(async move { unanswered.answer(answering.await) });
    }

    /// Takes what is there: finished commands first, then new ones. `false` when the input ended.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<bool, Status> {
        loop {
            while !self.is_full()
                && let Poll::Ready(Some(finished)) = self.finished.poll_recv(cx)
            {
                self.in_flight -= 1;
                self.answer(finished);
            }
            while !self.is_full()
                && self.in_flight < IN_FLIGHT_MAX
                && let Some((id, command)) = self.waiting.next()
            {
                self.begin(id, command, cx);
            }
            if self.is_full() || self.in_flight >= IN_FLIGHT_MAX || self.waiting.len() > 0 {
                return Ok(true);
            }
            let Some(input) = &mut self.input else { return Ok(false) };
            match Pin::new(input).poll_next(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(None) => {
                    // The client has said all it wants to say; what it asked is still answered.
                    self.input = None;
                    return Ok(false);
                }
                Poll::Ready(Some(Err(status))) => return Err(status),
                Poll::Ready(Some(Ok(message))) => {
                    self.arrived = Instant::now();
                    self.waiting = pair(message)?.into_iter();
                }
            }
        }
    }
}

/// Commands with their ids. A message whose counts differ cannot be answered id by id.
fn pair(message: BatchCommandsRequest) -> Result<Vec<(u64, Command)>, Status> {
    if message.requests.len() != message.request_ids.len() {
        return Err(Status::invalid_argument(format!(
            "{} requests with {} ids",
            message.requests.len(),
            message.request_ids.len()
        )));
    }
    // A request without a command is answered like an empty one.
    let empty = || Command::Empty(proto::tikvpb::BatchCommandsEmptyRequest::default());
    Ok(message
        .request_ids
        .into_iter()
        .zip(message.requests)
        .map(|(id, request)| (id, request.cmd.unwrap_or_else(empty)))
        .collect())
}

impl<I, C> Stream for BatchStream<I, C>
where
    I: Stream<Item = Result<BatchCommandsRequest, Status>> + Send + Unpin + 'static,
    C: Commands,
{
    type Item = Result<BatchCommandsResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let is_open = match this.gather(cx) {
            Ok(is_open) => is_open,
            Err(status) => return Poll::Ready(Some(Err(status))),
        };
        if this.ready.request_ids.is_empty() {
            return if is_open || this.in_flight > 0 { Poll::Pending } else { Poll::Ready(None) };
        }
        Poll::Ready(Some(Ok(this.departing())))
    }
}

/// The duty to answer one id. Dropped unfulfilled (a panic, a runtime that stops), it answers that
/// nobody knows.
struct Unanswered {
    id: u64,
    times: Option<Times>,
    answer_for_lost: fn() -> Answer,
    finish: Option<mpsc::UnboundedSender<Finished>>,
}

impl Unanswered {
    fn answer(mut self, answer: Answer) {
        if let Some(finish) = self.finish.take() {
            // A closed channel: the client has gone.
            let _ = finish.send(Finished { id: self.id, answer, times: self.times });
        }
    }

    fn answered_elsewhere(mut self) {
        self.finish = None;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(finish) = self.finish.take() {
            let (id, times) = (self.id, self.times);
            let _ = finish.send(Finished { id, answer: (self.answer_for_lost)(), times });
        }
    }
}

/// Commands that may take long enough to hold up their neighbours on the stream.
fn is_long(command: &Command) -> bool {
    matches!(
        command,
        Command::Scan(_)
            | Command::BatchGet(_)
            | Command::BufferBatchGet(_)
            | Command::ScanLock(_)
            | Command::ResolveLock(_)
            | Command::RawScan(_)
            | Command::RawBatchGet(_)
            | Command::RawBatchScan(_)
    )
}

/// How to answer a command whose execution was cut off.
fn answer_for_lost(command: &Command) -> fn() -> Answer {
    fn lost() -> Option<errorpb::Error> {
        let message = "the command was cut off inside the store".to_owned();
        Some(Refusal::UndeterminedResult { message }.into())
    }
    macro_rules! answers {
        ($($kind:ident => $response:ident,)*) => {
            match command {
                $(Command::$kind(_) => || {
                    let region_error = lost();
                    Answer::$kind(kvrpcpb::$response { region_error, ..Default::default() })
                },)*
                Command::Coprocessor(_) => || {
                    let region_error = lost();
                    Answer::Coprocessor(proto::coprocessor::Response {
                        region_error,
                        ..Default::default()
                    })
                },
                Command::BroadcastTxnStatus(_) => {
                    || Answer::BroadcastTxnStatus(kvrpcpb::BroadcastTxnStatusResponse::default())
                }
                Command::Empty(_) => {
                    || Answer::Empty(proto::tikvpb::BatchCommandsEmptyResponse::default())
                }
            }
        };
    }
    answers! {
        Get => GetResponse,
        Scan => ScanResponse,
        Prewrite => PrewriteResponse,
        Commit => CommitResponse,
        Import => ImportResponse,
        Cleanup => CleanupResponse,
        BatchGet => BatchGetResponse,
        BatchRollback => BatchRollbackResponse,
        ScanLock => ScanLockResponse,
        ResolveLock => ResolveLockResponse,
        Gc => GcResponse,
        DeleteRange => DeleteRangeResponse,
        RawGet => RawGetResponse,
        RawBatchGet => RawBatchGetResponse,
        RawPut => RawPutResponse,
        RawBatchPut => RawBatchPutResponse,
        RawDelete => RawDeleteResponse,
        RawBatchDelete => RawBatchDeleteResponse,
        RawScan => RawScanResponse,
        RawDeleteRange => RawDeleteRangeResponse,
        RawBatchScan => RawBatchScanResponse,
        PessimisticLock => PessimisticLockResponse,
        PessimisticRollback => PessimisticRollbackResponse,
        CheckTxnStatus => CheckTxnStatusResponse,
        TxnHeartBeat => TxnHeartBeatResponse,
        CheckSecondaryLocks => CheckSecondaryLocksResponse,
        RawCoprocessor => RawCoprocessorResponse,
        FlashbackToVersion => FlashbackToVersionResponse,
        PrepareFlashbackToVersion => PrepareFlashbackToVersionResponse,
        Flush => FlushResponse,
        BufferBatchGet => BufferBatchGetResponse,
        GetHealthFeedback => GetHealthFeedbackResponse,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proto::tikvpb::batch_commands_request::Request;
    use tokio_stream::StreamExt as _;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    /// What each `Get` says that it took.
    const EXECUTED_NS: u64 = 1;

    /// Answers by the key: `now`, `later` (after a yield), `boom` (panics), `never` (until dropped).
    struct ByKey;

    impl Commands for ByKey {
        fn execute(&self, command: Command) -> Answering {
            Box::pin(async move {
                if let Command::RawGet(get) = command {
                    return raw_get(get).await;
                }
                if let Command::Get(get) = command {
                    if get.key == "later" {
                        tokio::task::yield_now().await;
                    }
                    return Answer::Get(kvrpcpb::GetResponse {
                        exec_details_v2: Some(executed()),
                        ..Default::default()
                    });
                }
                if let Command::GetHealthFeedback(_) = command {
                    return Answer::GetHealthFeedback(Default::default());
                }
                if let Command::RawScan(_) = command {
                    return Answer::RawScan(kvrpcpb::RawScanResponse::default());
                }
                let Command::Empty(empty) = command else { unreachable!("sent by no test") };
                let test_id = empty.test_id;
                Answer::Empty(proto::tikvpb::BatchCommandsEmptyResponse { test_id })
            })
        }
    }

    fn executed() -> kvrpcpb::ExecDetailsV2 {
        let total_rpc_wall_time_ns = EXECUTED_NS;
        kvrpcpb::ExecDetailsV2 {
            time_detail: Some(kvrpcpb::TimeDetail { total_rpc_wall_time_ns, ..Default::default() }),
            time_detail_v2: Some(kvrpcpb::TimeDetailV2 {
                total_rpc_wall_time_ns,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    async fn raw_get(get: kvrpcpb::RawGetRequest) -> Answer {
        match &get.key[..] {
            b"later" => tokio::task::yield_now().await,
            b"boom" => {
                tokio::task::yield_now().await;
                panic!("boom");
            }
            b"never" => std::future::pending().await,
            _ => {}
        }
        Answer::RawGet(kvrpcpb::RawGetResponse { value: get.key, ..Default::default() })
    }

    fn get(key: &'static str) -> Option<Command> {
        Some(Command::RawGet(kvrpcpb::RawGetRequest { key: key.into(), ..Default::default() }))
    }

    fn message(commands: Vec<(u64, Option<Command>)>) -> BatchCommandsRequest {
        let (request_ids, requests) =
            commands.into_iter().map(|(id, cmd)| (id, Request { cmd })).unzip();
        BatchCommandsRequest { requests, request_ids, ..Default::default() }
    }

    type Input = mpsc::Sender<Result<BatchCommandsRequest, Status>>;

    fn stream() -> (Input, BatchStream<ReceiverStream<Result<BatchCommandsRequest, Status>>, ByKey>)
    {
        let (tx, rx) = mpsc::channel(64);
        let feedback = Arc::new(Feedback::new(1));
        (tx, BatchStream::new(ReceiverStream::new(rx), ByKey, feedback))
    }

    /// Everything the stream says until its end, by id.
    async fn collect(
        mut stream: impl Stream<Item = Result<BatchCommandsResponse, Status>> + Unpin,
    ) -> BTreeMap<u64, Vec<Answer>> {
        let mut answers: BTreeMap<u64, Vec<Answer>> = BTreeMap::new();
        while let Some(response) = stream.next().await {
            let response = response.unwrap();
            assert_eq!(response.request_ids.len(), response.responses.len());
            for (id, answer) in response.request_ids.into_iter().zip(response.responses) {
                answers.entry(id).or_default().push(answer.cmd.unwrap());
            }
        }
        answers
    }

    #[tokio::test]
    async fn every_id_is_answered_exactly_once_even_when_commands_fail_in_between() {
        let (tx, stream) = stream();
        let mut sent = Vec::new();
        for base in (0..3000).step_by(6) {
            let scan = Some(Command::RawScan(kvrpcpb::RawScanRequest::default()));
            let commands = vec![
                (base, get("now")),
                (base + 1, get("later")),
                (base + 2, get("boom")),
                (base + 3, scan),
                (base + 4, None),
                (base + 5, get("now")),
            ];
            sent.push(message(commands));
        }
        let feed = async move {
            for message in sent {
                tx.send(Ok(message)).await.unwrap();
            }
        };
        let (answers, ()) = tokio::join!(collect(stream), feed);
        assert_eq!(answers.len(), 3000);
        for (id, answers) in answers {
            let [answer] = answers.as_slice() else { panic!("{id} has {answers:?}") };
            match (id % 6, answer) {
                (0 | 5, Answer::RawGet(get)) => assert_eq!(get.value, "now"),
                (1, Answer::RawGet(get)) => assert_eq!(get.value, "later"),
                (2, Answer::RawGet(get)) => {
                    let error = get.region_error.as_ref().unwrap();
                    assert!(error.undetermined_result.is_some(), "a lost command is undetermined");
                }
                (3, Answer::RawScan(_)) | (4, Answer::Empty(_)) => {}
                (_, other) => panic!("{id} is answered with another kind: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn an_answer_tells_of_its_whole_way_through_the_stream() {
        let (tx, stream) = stream();
        let of_key = |key: &'static str| {
            Some(Command::Get(kvrpcpb::GetRequest { key: key.into(), ..Default::default() }))
        };
        let commands = vec![(1, of_key("now")), (2, of_key("later")), (3, get("now"))];
        tx.send(Ok(message(commands))).await.unwrap();
        drop(tx);
        let answers = collect(stream).await;
        assert_eq!(answers.len(), 3);
        for id in [1, 2] {
            let [Answer::Get(get)] = answers[&id].as_slice() else { panic!("{answers:?}") };
            let details = get.exec_details_v2.as_ref().unwrap();
            let time = details.time_detail_v2.as_ref().unwrap();
            assert!(time.kv_grpc_process_time_ns > 0 && time.kv_grpc_wait_time_ns > 0, "{time:?}");
            let parts = time.kv_grpc_process_time_ns + time.kv_grpc_wait_time_ns + EXECUTED_NS;
            assert_eq!(time.total_rpc_wall_time_ns, parts);
            let older = details.time_detail.as_ref().unwrap();
            assert_eq!(older.total_rpc_wall_time_ns, parts);
        }
    }

    #[tokio::test]
    async fn who_asks_how_the_store_feels_is_told_what_the_message_says() {
        let (tx, mut stream) = stream();
        let ask = || Some(Command::GetHealthFeedback(kvrpcpb::GetHealthFeedbackRequest::default()));
        let mut seen = 0;
        for id in [10, 20] {
            // Long before it would be said unasked.
            stream.last_feedback = Some(Instant::now() + Duration::from_secs(3600));
            tx.send(Ok(message(vec![(id, ask()), (id + 1, ask()), (id + 2, get("now"))])))
                .await
                .unwrap();
            let response = stream.next().await.unwrap().unwrap();
            let said = response.health_feedback.unwrap();
            assert_eq!((said.store_id, said.slow_score), (1, 1));
            assert!(said.feedback_seq_no > seen);
            seen = said.feedback_seq_no;
            for answer in &response.responses[..2] {
                let Some(Answer::GetHealthFeedback(answer)) = &answer.cmd else {
                    panic!("{answer:?}")
                };
                assert_eq!(answer.health_feedback, Some(said));
            }
            assert!(matches!(response.responses[2].cmd, Some(Answer::RawGet(_))));
        }
        stream.last_feedback = Some(Instant::now() + Duration::from_secs(3600));
        tx.send(Ok(message(vec![(30, get("now"))]))).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap().health_feedback, None);
    }

    #[tokio::test]
    async fn a_command_that_waits_does_not_hold_up_the_others() {
        let (tx, mut stream) = stream();
        tx.send(Ok(message(vec![(1, get("never")), (2, get("now"))]))).await.unwrap();
        let response = stream.next().await.unwrap().unwrap();
        assert_eq!(response.request_ids, [2]);
        assert!(response.health_feedback.is_some());
        tx.send(Ok(message(vec![(3, get("later"))]))).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap().request_ids, [3]);
    }

    #[tokio::test]
    async fn at_the_limit_the_input_is_left_alone() {
        let (tx, mut stream) = stream();
        let commands: Vec<_> = (0..IN_FLIGHT_MAX as u64).map(|id| (id, get("never"))).collect();
        tx.send(Ok(message(commands))).await.unwrap();
        tx.send(Ok(message(vec![(9999, get("now"))]))).await.unwrap();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut stream).poll_next(&mut cx).is_pending());
        assert_eq!(stream.in_flight, IN_FLIGHT_MAX);
        assert_eq!(tx.capacity(), tx.max_capacity() - 1, "the second message is not read");
    }

    #[tokio::test]
    async fn ids_without_commands_end_the_stream_with_a_reason() {
        let (tx, mut stream) = stream();
        let odd = BatchCommandsRequest { request_ids: vec![1], ..Default::default() };
        tx.send(Ok(odd)).await.unwrap();
        let status = stream.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
    }
}
