//! The one retry loop: send, ask [`Route`] what a refusal means, wait, send again.
//!
//! [`Cluster::attempt`] is one turn of it. On it stand [`Cluster::one`], for a request about one key,
//! and [`Cluster::many`], for a request whose keys lie in several regions: they are grouped by
//! region, sent side by side, and whatever is refused is grouped anew, because the refusal may have
//! redrawn the map. Errors inside an answer (a locked key, a conflict) are no matter of this loop.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use proto::{KeyRange, Refusal, errorpb, kvrpcpb, region};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::batch_stream::{Answer, Batched, Command};
use crate::call::Call;
use crate::cluster::Cluster;
use crate::connection;
use crate::error::{Cause, ErrorKind, Result};
use crate::keyspace::KeyCodec;
use crate::replica_read::ReplicaRead;
use crate::route::{Correction, Fate, Route, Verdict};
use crate::scan::Order;

/// What it means to a caller when a request may have been carried out although no answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing: a read, or a step of a transaction that decides nothing. Sent again.
    None,
    /// The same when done twice. Sent again; if it never succeeds, the outcome is undetermined.
    Idempotent,
    /// Not the same when done twice. Never sent again.
    Once,
}

/// A request to the leader of a region.
pub(crate) trait StoreRequest: Clone + Send + 'static {
    type Answer: Send;
    const NAME: &'static str;
    /// What it does by itself, in one region.
    const EFFECT: Effect;
    /// What the whole call may have done when no answer comes: more than [`Self::EFFECT`] where
    /// this request decides about other regions too.
    fn effect(&self) -> Effect {
        Self::EFFECT
    }
    /// How many times the usual patience one try gets: some requests work through a whole region.
    const PATIENCE: u32;
    /// Whether other replicas than the leader can answer it.
    const IS_READ: bool;
    fn context(&mut self) -> &mut Option<kvrpcpb::Context>;
    fn take_refusal(answer: &mut Self::Answer) -> Option<errorpb::Error>;
    /// The request in the form of the batched stream; back as it came when it has none there.
    fn into_command(self) -> Result<Command, Self>;
    fn from_command(command: Command) -> Option<Self>;
    fn from_answer(answer: Answer) -> Option<Self::Answer>;
    fn send(
        self,
        channel: Channel,
        patience: Duration,
    ) -> impl Future<Output = Result<Self::Answer, Status>> + Send;
}

macro_rules! store_request {
    ($($method:ident $(as $batched:ident)?: $request:ident => $answer:ident,
        $effect:ident, $patience:literal $(, [$read:ident])? $(, $decides:path)?;)*) => {$(
        impl StoreRequest for kvrpcpb::$request {
            type Answer = kvrpcpb::$answer;
            const NAME: &'static str = stringify!($method);
            const EFFECT: Effect = Effect::$effect;
            const PATIENCE: u32 = $patience;
            const IS_READ: bool = !stringify!($($read)?).is_empty();

            $(fn effect(&self) -> Effect {
                if $decides(self) { Effect::Idempotent } else { Self::EFFECT }
            })?

            fn context(&mut self) -> &mut Option<kvrpcpb::Context> {
                &mut self.context
            }

            fn take_refusal(answer: &mut Self::Answer) -> Option<errorpb::Error> {
                answer.region_error.take()
            }

            #[allow(clippy::result_large_err, reason = "a request that comes back is sent as it is")]
            fn into_command(self) -> Result<Command, Self> {
                let request = Err(self);
                $(let request = request.or_else(|request| Ok(Command::$batched(request)));)?
                request
            }

            fn from_command(_command: Command) -> Option<Self> {
                $(if let Command::$batched(request) = _command { return Some(request); })?
                None
            }

            fn from_answer(_answer: Answer) -> Option<Self::Answer> {
                $(if let Answer::$batched(answer) = _answer { return Some(answer); })?
                None
            }

            async fn send(
                self,
                channel: Channel,
                patience: Duration,
            ) -> Result<Self::Answer, Status> {
                let mut request = Request::new(self);
                request.set_timeout(patience);
                Ok(connection::store(channel).$method(request).await?.into_inner())
            }
        }
    )*};
}

store_request! {
    raw_get as RawGet: RawGetRequest => RawGetResponse, None, 1, [read];
    raw_get_key_ttl: RawGetKeyTtlRequest => RawGetKeyTtlResponse, None, 1, [read];
    raw_batch_get as RawBatchGet: RawBatchGetRequest => RawBatchGetResponse, None, 2, [read];
    raw_scan as RawScan: RawScanRequest => RawScanResponse, None, 2, [read];
    raw_checksum: RawChecksumRequest => RawChecksumResponse, None, 10, [read];
    raw_put as RawPut: RawPutRequest => RawPutResponse, Idempotent, 1;
    raw_batch_put as RawBatchPut: RawBatchPutRequest => RawBatchPutResponse, Idempotent, 2;
    raw_delete as RawDelete: RawDeleteRequest => RawDeleteResponse, Idempotent, 1;
    raw_batch_delete as RawBatchDelete:
        RawBatchDeleteRequest => RawBatchDeleteResponse, Idempotent, 2;
    raw_delete_range as RawDeleteRange:
        RawDeleteRangeRequest => RawDeleteRangeResponse, Idempotent, 10;
    raw_compare_and_swap: RawCasRequest => RawCasResponse, Once, 1;
    kv_get as Get: GetRequest => GetResponse, None, 1, [read];
    kv_batch_get as BatchGet: BatchGetRequest => BatchGetResponse, None, 2, [read];
    kv_scan as Scan: ScanRequest => ScanResponse, None, 2, [read];
    kv_scan_lock as ScanLock: ScanLockRequest => ScanLockResponse, None, 5;
    // In two phases nothing has happened until the primary is committed, whatever was locked on the
    // way. Otherwise the last key locked is the commit.
    kv_prewrite as Prewrite: PrewriteRequest => PrewriteResponse, None, 2, commits_at_once;
    // A store lets a request wait for a lock for about a second.
    kv_pessimistic_lock as PessimisticLock:
        PessimisticLockRequest => PessimisticLockResponse, None, 2;
    kv_commit as Commit: CommitRequest => CommitResponse, Idempotent, 2;
    kv_batch_rollback as BatchRollback: BatchRollbackRequest => BatchRollbackResponse, None, 2;
    kv_pessimistic_rollback as PessimisticRollback:
        PessimisticRollbackRequest => PessimisticRollbackResponse, None, 2;
    kv_txn_heart_beat as TxnHeartBeat: TxnHeartBeatRequest => TxnHeartBeatResponse, None, 1;
    kv_check_txn_status as CheckTxnStatus: CheckTxnStatusRequest => CheckTxnStatusResponse, None, 1;
    kv_check_secondary_locks as CheckSecondaryLocks:
        CheckSecondaryLocksRequest => CheckSecondaryLocksResponse, None, 2;
    kv_resolve_lock as ResolveLock: ResolveLockRequest => ResolveLockResponse, None, 5;
    mvcc_get_by_key: MvccGetByKeyRequest => MvccGetByKeyResponse, None, 2;
}

fn commits_at_once(request: &kvrpcpb::PrewriteRequest) -> bool {
    request.use_async_commit || request.try_one_pc
}

impl Cluster {
    /// Sends a request to a route once. `None`: it was refused, the map is corrected and the pause
    /// is over; look for the route again.
    pub(crate) async fn attempt<R: StoreRequest>(
        &self,
        call: &mut Call,
        route: &Route,
        mut request: R,
    ) -> Result<Option<R::Answer>> {
        let wish = if R::IS_READ { call.replica_read() } else { ReplicaRead::Leader };
        let replica = wish.choose(route, self.turn());
        let to_replica = replica.is_some();
        let route = &Route { peer: replica.unwrap_or(route.peer), ..route.clone() };
        let Some(address) = self.address(call, route).await? else { return Ok(None) };
        let patience = call.patience(self.config.store_timeout.saturating_mul(R::PATIENCE))?;
        let context = request.context().get_or_insert_default();
        self.fill_context(route, patience, context);
        context.is_retry_request = call.is_sent_again();
        context.stale_read = to_replica && wish == ReplicaRead::Stale;
        context.replica_read = to_replica && !context.stale_read;
        let effect = request.effect();
        call.sends_to(route.region_id());
        let sent = Instant::now();
        let answer = self.exchange(&address, request, patience).await;
        let took = sent.elapsed();
        self.metrics.request(R::NAME, took);
        let (region, store) = (route.region_id(), route.store_id());
        tracing::trace!(call = call.what(), request = R::NAME, %region, %store, ?took, "asked");
        let (verdict, cause) = match answer {
            Ok(mut answer) => match R::take_refusal(&mut answer) {
                None => {
                    call.settles_outcome();
                    if call.attempts() > 1 && !to_replica {
                        self.confirm(route);
                    }
                    return Ok(Some(answer));
                }
                Some(error) => {
                    let refusal = Refusal::from(error);
                    self.metrics.refusal(&refusal);
                    (route.on_refusal(&refusal), Cause::Refusal(refusal))
                }
            },
            Err(status) => {
                self.metrics.failure();
                self.forget_address(route);
                (route.on_rpc_failure(&status), Cause::Rpc(status))
            }
        };
        // Whatever stands against a replica, the leader can be asked.
        call.reads_from(ReplicaRead::Leader);
        self.follow(call, route, R::NAME, effect, verdict, cause).await?;
        Ok(None)
    }

    /// Sends a request to a store and waits for its answer: on the stream to that store, or by
    /// itself where there is none.
    async fn exchange<R: StoreRequest>(
        &self,
        address: &str,
        request: R,
        patience: Duration,
    ) -> Result<R::Answer, Status> {
        let channel = self
            .connections
            .to(address)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let exchange = async {
            let request =
                if self.config.batch_commands { request.into_command() } else { Err(request) };
            let request = match request {
                Err(request) => request,
                Ok(command) => match self.batches.send(address, &channel, command).await {
                    Batched::Answered(answer) => {
                        let answer = R::from_answer(*answer);
                        return answer.ok_or_else(|| Status::internal("another request's answer"));
                    }
                    Batched::Failed(status) => return Err(status),
                    Batched::Unknown(command) => {
                        R::from_command(*command).expect("it came from such a request")
                    }
                },
            };
            request.send(channel.clone(), patience).await
        };
        match tokio::time::timeout(patience, exchange).await {
            Ok(answer) => answer,
            Err(_) => {
                self.batches.in_vain(address, patience);
                Err(Status::deadline_exceeded(format!("no answer within {patience:?}")))
            }
        }
    }

    /// Does what the route said about a refusal.
    async fn follow(
        &self,
        call: &mut Call,
        route: &Route,
        request: &'static str,
        effect: Effect,
        verdict: Verdict,
        cause: Cause,
    ) -> Result<()> {
        let store = route.store_id();
        tracing::debug!(request, region = %route.region_id(), %store, %cause, "refused");
        let waits_for = match verdict.correction {
            Correction::Keep => format!("{store} to serve {}", region::Readable(&route.region)),
            Correction::Leader(_)
            | Correction::Regions(_)
            | Correction::NextPeer
            | Correction::ForgetRegion
            | Correction::ForgetStore => {
                format!("a leader of {}", region::Readable(&route.region))
            }
        };
        let words = cause.to_string();
        call.waits_for(waits_for, Some(cause));
        call.sends_again();
        self.correct(route, verdict.correction);
        let never_again =
            effect == Effect::Once || (effect == Effect::Idempotent && call.is_strict());
        if verdict.outcome_open && effect != Effect::None {
            call.leaves_outcome_open();
            if never_again {
                return Err(call.fail(ErrorKind::Undetermined, format!("{store} did not answer")));
            }
        }
        match verdict.fate {
            Fate::Again(pause) => call.pause(pause).await,
            Fate::GiveUp(kind) => Err(call.fail(kind, format!("{store} says: {words}"))),
        }
    }

    /// Who is meant, and how long the answer is waited for.
    fn fill_context(&self, route: &Route, patience: Duration, context: &mut kvrpcpb::Context) {
        context.region_id = route.region.id;
        context.region_epoch = route.region.region_epoch;
        context.peer = Some(route.peer);
        context.api_version = self.config.api_version.on_the_wire();
        context.max_execution_duration_ms = patience.as_millis() as u64;
    }

    /// Asks the region that holds `key` (on the wire), until it answers. `build` sees where the
    /// request goes; the answer comes with the route that gave it.
    pub(crate) async fn one<R: StoreRequest>(
        &self,
        call: &mut Call,
        codec: &KeyCodec,
        key: &Bytes,
        mut build: impl FnMut(&Route) -> R + Send,
    ) -> Result<(Route, R::Answer)> {
        let key = codec.scheduler_key(key);
        loop {
            let route = self.locate(call, &key).await?;
            let request = build(&route);
            if let Some(answer) = self.attempt(call, &route, request).await? {
                return Ok((route, answer));
            }
        }
    }

    /// Asks the region at the edge of a range (on the wire): the one that holds its first keys, or
    /// its last.
    pub(crate) async fn at_edge<R: StoreRequest>(
        &self,
        call: &mut Call,
        codec: &KeyCodec,
        range: &KeyRange,
        order: Order,
        mut build: impl FnMut(&Route) -> R + Send,
    ) -> Result<(Route, R::Answer)> {
        loop {
            let route = match order {
                Order::Forward => self.locate(call, &codec.scheduler_key(&range.start)).await?,
                Order::Reverse => self.last_of(call, codec, range).await?,
            };
            let request = build(&route);
            if let Some(answer) = self.attempt(call, &route, request).await? {
                return Ok((route, answer));
            }
        }
    }

    /// The last region that holds keys of the range.
    async fn last_of(&self, call: &mut Call, codec: &KeyCodec, range: &KeyRange) -> Result<Route> {
        let mut end = range.end.as_ref().map(|end| codec.scheduler_key(end));
        loop {
            let route = self.locate_before(call, end.as_deref()).await?;
            let start = codec.wire_bound(&route.region.start_key);
            // A region may begin between a key's encoding and the next: it holds none of our keys.
            let holds_none = range.end.as_ref().is_some_and(|end| start >= *end);
            if !holds_none || route.region.start_key.is_empty() {
                return Ok(route);
            }
            end = Some(route.region.start_key.clone());
        }
    }

    /// Asks all regions that hold these items, side by side. Each answer comes with its items. The
    /// first failure ends the call; what other regions have done by then stays done.
    pub(crate) async fn many<T, R>(
        &self,
        call: &mut Call,
        shape: Shape<'_, T>,
        items: Vec<T>,
        build: impl Fn(&[T]) -> R + Sync,
    ) -> Result<Vec<(Vec<T>, R::Answer)>>
    where
        T: Send,
        R: StoreRequest,
    {
        let build = &build;
        let shape = &shape;
        let mut answers = Vec::new();
        let mut ready: Vec<(Call, Work<T>)> = vec![(call.fork(), Work::Group(items))];
        let mut under_way: FuturesUnordered<BoxFuture<'_, _>> = FuturesUnordered::new();
        loop {
            while under_way.len() < self.config.concurrency_max.max(1)
                && let Some((mut part, work)) = ready.pop()
            {
                under_way.push(Box::pin(async move {
                    let step = self.advance::<T, R>(&mut part, shape, work, build).await;
                    step.map(|step| (part, step))
                }));
            }
            match under_way.next().await {
                None => return Ok(answers),
                Some(Ok((_, Step::Done(items, answer)))) => answers.push((items, answer)),
                Some(Ok((mut part, Step::Next(work)))) => {
                    ready.extend(work.into_iter().map(|work| (part.fork(), work)));
                }
                Some(Err(error)) => {
                    let others = !answers.is_empty() || !under_way.is_empty();
                    // A timeout says that nothing was done; another region may well have.
                    let timed_out = *error.kind() == ErrorKind::Timeout;
                    return Err(if others && timed_out && R::EFFECT != Effect::None {
                        error.into_undetermined()
                    } else {
                        error
                    });
                }
            }
        }
    }

    async fn advance<T: Send, R: StoreRequest>(
        &self,
        call: &mut Call,
        shape: &Shape<'_, T>,
        work: Work<T>,
        build: &(impl Fn(&[T]) -> R + Sync),
    ) -> Result<Step<T, R::Answer>> {
        match work {
            Work::Group(items) => self.group(call, shape, items).await.map(Step::Next),
            Work::Send(route, items) => {
                let request = build(&items);
                Ok(match self.attempt(call, &route, request).await? {
                    Some(answer) => Step::Done(items, answer),
                    None => Step::Next(vec![Work::Group(items)]),
                })
            }
        }
    }

    /// Sorts items into batches, each of one region and of bounded size.
    async fn group<T: Send>(
        &self,
        call: &mut Call,
        shape: &Shape<'_, T>,
        items: Vec<T>,
    ) -> Result<Vec<Work<T>>> {
        let mut keyed: Vec<_> = items
            .into_iter()
            .map(|item| (shape.codec.scheduler_key((shape.key)(&item)), item))
            .collect();
        keyed.sort_by(|a, b| a.0.cmp(&b.0));
        let mut batches: Vec<Work<T>> = Vec::new();
        let mut current: Option<(Route, KeyRange, Vec<T>, usize)> = None;
        for (key, item) in keyed {
            let size = (shape.size)(&item);
            if let Some((_, range, batch, bytes)) = &mut current
                && range.contains(&key)
                && *bytes + size <= shape.batch_bytes_max
                && batch.len() < shape.batch_len_max
            {
                batch.push(item);
                *bytes += size;
                continue;
            }
            if let Some((route, _, batch, _)) = current.take() {
                batches.push(Work::Send(route, batch));
            }
            let route = self.locate(call, &key).await?;
            let range = KeyRange::of(&route.region);
            current = Some((route, range, vec![item], size));
        }
        if let Some((route, _, batch, _)) = current {
            batches.push(Work::Send(route, batch));
        }
        Ok(batches)
    }
}

/// How the items of a request to many regions are told apart and packed.
pub(crate) struct Shape<'a, T> {
    pub(crate) codec: &'a KeyCodec,
    /// The item's key on the wire.
    pub(crate) key: fn(&T) -> &Bytes,
    /// The item's size in a request.
    pub(crate) size: fn(&T) -> usize,
    /// A batch is closed before it exceeds this; one larger item is a batch of its own.
    pub(crate) batch_bytes_max: usize,
    /// A batch is closed when it has this many items.
    pub(crate) batch_len_max: usize,
}

enum Work<T> {
    Group(Vec<T>),
    Send(Route, Vec<T>),
}

enum Step<T, A> {
    Done(Vec<T>, A),
    Next(Vec<Work<T>>),
}
