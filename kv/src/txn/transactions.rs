//! The shell round the commands: latches, a view, a decision, one write, wake-ups. In this order,
//! and each for one reason:
//!
//! ```text
//! latches   alone on these keys …
//! permit    (a bounded number of commands is under way; who waits for latches does not count)
//! view      … and only then look, or what is seen may be changed by the one who was before
//! decide    the command itself: pure
//! write     in the term of the view; goes on to its end even when the caller is gone. Reservations
//!           alone are kept in memory, if there is room
//! wake      whoever waits for locks that are gone now
//! release   memory locks, latches, permit: after the write is applied or certainly will not be
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::{KeyRange, Refusal, kvrpcpb};
use raftstore::engine::WriteBatch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::command::resolve_lock::{BATCH_LOCKS_MAX, Fates, resolve_found};
use super::command::scan_lock::scan_lock;
use super::execution::{Execution, Stage};
use super::horizon::TOLD_EVERY;
use super::latches::{Latched, Latches};
use super::lock_wait::LockWait;
use super::memory_locks::{MemoryLocks, Synced};
use super::problem::Stop;
use super::reader::Reader;
use super::record::Lock;
use super::reservations::{Led, Look, Reservations};
use super::safe_points::{Admitted, SafePoints};
use super::writer::{Writer, Written};
use crate::config::ApiVersion;
use crate::deadline::{Deadline, ToTheEnd};
use crate::keys::{self, Key, KeyMistake, Mode};
use crate::plant::{Bug, Planted};
use crate::storage::{Storage, View};

/// Writing commands under way at once. More of them wait for a place until their deadline: clients
/// take "busy" for a failure.
pub const COMMANDS_MAX: usize = 4096;

/// How long a command waits for a timestamp from the scheduler while it holds its latches. Then it is
/// refused as "not synced", within the time that clients give a call.
pub const SYNC_TIME_MAX: Duration = Duration::from_secs(1);

/// A timestamp's future.
pub type TimestampFuture = Pin<Box<dyn Future<Output = Result<u64, Refusal>> + Send>>;

/// Where fresh timestamps come from: the scheduler.
pub trait TimestampSource: Send + Sync + 'static {
    /// A timestamp larger than any handed out before the call.
    fn fresh(&self) -> TimestampFuture;
}

/// The transactional commands of a store. Clones share everything.
pub struct Transactions<St: Storage> {
    inner: Arc<Inner<St>>,
}

struct Inner<St> {
    storage: St,
    api_version: ApiVersion,
    timestamps: Arc<dyn TimestampSource>,
    latches: Latches,
    memory: MemoryLocks,
    reservations: Reservations,
    waiting: LockWait,
    safe_points: SafePoints,
    permits: Arc<Semaphore>,
    planted: Planted,
}

impl<St: Storage> Clone for Transactions<St> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<St: Storage> Transactions<St> {
    /// The commands over this storage. `timestamps` is asked once per region and term, before the
    /// first async commit there.
    pub fn new(storage: St, api_version: ApiVersion, timestamps: Arc<dyn TimestampSource>) -> Self {
        let inner = Inner {
            storage,
            api_version,
            timestamps,
            latches: Latches::default(),
            memory: MemoryLocks::default(),
            reservations: Reservations::default(),
            waiting: LockWait::default(),
            safe_points: SafePoints::default(),
            permits: Arc::new(Semaphore::new(COMMANDS_MAX)),
            planted: Planted::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The same commands, with these reservations. Before they are shared.
    pub fn with_reservations(mut self, reservations: Reservations) -> Self {
        let inner = Arc::get_mut(&mut self.inner).expect("nobody shares them yet");
        inner.reservations = reservations;
        self
    }

    /// The same commands, with a mistake in them. Before they are shared.
    pub fn planting(mut self, planted: Planted) -> Self {
        let inner = Arc::get_mut(&mut self.inner).expect("nobody shares them yet");
        inner.planted = planted;
        inner.memory = MemoryLocks::default().planting(planted);
        inner.safe_points = SafePoints::default().planting(planted);
        inner.reservations = Reservations::default().planting(planted);
        self
    }

    /// The mistake that they make.
    pub(super) fn planted(&self) -> Planted {
        self.inner.planted
    }

    /// The newest read of this store, and locks on their way into it.
    pub fn memory(&self) -> &MemoryLocks {
        &self.inner.memory
    }

    /// Pessimistic locks that are in memory only. None is until somebody says what this store leads.
    pub fn reservations(&self) -> &Reservations {
        &self.inner.reservations
    }

    /// Who waits for locks on this store.
    pub fn waiting(&self) -> &LockWait {
        &self.inner.waiting
    }

    /// Below which timestamps nobody comes any more.
    pub fn safe_points(&self) -> &SafePoints {
        &self.inner.safe_points
    }

    pub(super) fn check_keys<'a>(
        &self,
        context: &kvrpcpb::Context,
        keys: impl IntoIterator<Item = &'a Bytes>,
    ) -> Result<(), KeyMistake> {
        keys::check_keys(self.inner.api_version, context, Mode::Txn, keys)
    }

    /// [`Self::check_keys`] of keys that may be written.
    pub(super) fn check_written_keys<'a>(
        &self,
        context: &kvrpcpb::Context,
        keys: impl IntoIterator<Item = &'a Bytes, IntoIter: Clone>,
    ) -> Result<(), KeyMistake> {
        keys::check_written_keys(self.inner.api_version, context, Mode::Txn, keys)
    }

    pub(super) fn check_range(
        &self,
        context: &kvrpcpb::Context,
        lower: &Bytes,
        upper: &Bytes,
    ) -> Result<(), KeyMistake> {
        keys::check_range(self.inner.api_version, context, Mode::Txn, lower, upper)
    }

    /// What the region looks like now.
    pub(super) async fn view(
        &self,
        context: &kvrpcpb::Context,
        execution: &mut Execution,
    ) -> Result<View<St::Snapshot>, Stop> {
        let view = execution.deadline.bound(self.inner.storage.view(context)).await;
        execution.ends(Stage::View);
        Ok(view??)
    }

    /// Runs a writing command on these keys.
    pub(super) async fn run<R>(
        &self,
        context: &kvrpcpb::Context,
        keys: &[Key],
        execution: &mut Execution,
        decide: impl FnOnce(&mut Reader<St::Snapshot>, &mut Writer) -> Result<R, Stop>,
    ) -> Result<R, Stop> {
        let entered = self.enter(keys, execution).await?;
        let view = self.view(context, execution).await?;
        self.decide_and_write(context, keys, execution, entered, view, decide).await
    }

    /// [`Self::run`] for commands that lock keys. One that computes a commit timestamp (`is_synced`) first
    /// makes sure that the newest read covers what was served by earlier leaders.
    pub(super) async fn run_admitted<R>(
        &self,
        context: &kvrpcpb::Context,
        keys: &[Key],
        execution: &mut Execution,
        admitted: Admitted,
        is_synced: bool,
        decide: impl FnOnce(&mut Reader<St::Snapshot>, &mut Writer) -> Result<R, Stop>,
    ) -> Result<R, Stop> {
        let entered = self.enter(keys, execution).await?.with_admitted(admitted);
        let view = self.view(context, execution).await?;
        if is_synced {
            self.sync_newest_read(context, view.term, execution).await?;
        }
        self.decide_and_write(context, keys, execution, entered, view, decide).await
    }

    /// The keys' latches, and a place among the commands under way.
    pub(super) async fn enter(
        &self,
        keys: &[Key],
        execution: &mut Execution,
    ) -> Result<Entered, Stop> {
        let entered = self.try_enter(keys, execution.deadline).await;
        execution.ends(Stage::Latches);
        entered
    }

    async fn try_enter(&self, keys: &[Key], deadline: Deadline) -> Result<Entered, Stop> {
        let latched = deadline.bound(self.inner.latches.acquire_keys(keys)).await?;
        let permits = self.inner.permits.clone();
        let permit =
            deadline.bound(permits.acquire_owned()).await?.expect("the semaphore is never closed");
        Ok(Entered { _latched: latched, _permit: permit, _admitted: None })
    }

    /// Asks the scheduler for the time now and then, for ever: what lies too far ahead of it is refused.
    pub async fn keep_time(&self) {
        loop {
            let fresh = tokio::time::timeout(SYNC_TIME_MAX, self.inner.timestamps.fresh());
            if let Ok(Ok(ts)) = fresh.await {
                self.memory().on_told(ts);
            }
            tokio::time::sleep(TOLD_EVERY).await;
        }
    }

    async fn sync_newest_read(
        &self,
        context: &kvrpcpb::Context,
        term: u64,
        execution: &mut Execution,
    ) -> Result<(), Stop> {
        let version = context.region_epoch.as_ref().map_or(0, |epoch| epoch.version);
        let leadership = Synced { term, version };
        if self.inner.memory.is_synced(context.region_id, leadership) {
            return Ok(());
        }
        // Some clients give up for good on "not synced", so it is waited for.
        let fresh = tokio::time::timeout(SYNC_TIME_MAX, self.inner.timestamps.fresh());
        let fresh = execution.deadline.bound(fresh).await;
        execution.ends(Stage::Timestamp);
        let Ok(Ok(fresh_ts)) = fresh? else {
            return Err(Refusal::MaxTimestampNotSynced.into());
        };
        self.inner.memory.on_synced(context.region_id, leadership, fresh_ts);
        Ok(())
    }

    async fn decide_and_write<R>(
        &self,
        context: &kvrpcpb::Context,
        keys: &[Key],
        execution: &mut Execution,
        entered: Entered,
        view: View<St::Snapshot>,
        decide: impl FnOnce(&mut Reader<St::Snapshot>, &mut Writer) -> Result<R, Stop>,
    ) -> Result<R, Stop> {
        let (answer, writer) = self.decide(context, keys, &view, execution, decide)?;
        self.write(context, view.term, execution, entered, writer).await?;
        Ok(answer)
    }

    /// Lets a command decide from a view; the keys must be the region's, and latched.
    pub(super) fn decide<R>(
        &self,
        context: &kvrpcpb::Context,
        keys: &[Key],
        view: &View<St::Snapshot>,
        execution: &mut Execution,
        decide: impl FnOnce(&mut Reader<St::Snapshot>, &mut Writer) -> Result<R, Stop>,
    ) -> Result<(R, Writer), Stop> {
        check_in_region(context, &view.range, keys)?;
        let held = self.reservations().on_keys(Led::of(context, view.term), keys);
        let mut writer = Writer::with_in_memory(held.keys().cloned());
        let reader = Reader::new(view.snapshot.clone(), view.range.clone());
        let mut reader = reader.holding(held);
        reader.plant(self.planted());
        let answer = decide(&mut reader, &mut writer);
        execution.looked(&reader);
        execution.ends(Stage::Process);
        Ok((answer?, writer))
    }

    /// A reader of a view that was taken without latches, after this look at what is in memory.
    pub(super) fn reader(
        &self,
        context: &kvrpcpb::Context,
        look: Look,
        view: View<St::Snapshot>,
    ) -> Reader<St::Snapshot> {
        let held = look.under(Led::of(context, view.term));
        Reader::new(view.snapshot, view.range).holding(held)
    }

    /// Performs a command's writes; what it holds is released afterwards.
    pub(super) async fn write(
        &self,
        context: &kvrpcpb::Context,
        term: u64,
        execution: &mut Execution,
        entered: Entered,
        writer: Writer,
    ) -> Result<(), Refusal> {
        if writer.is_empty() {
            return Ok(());
        }
        execution.deadline.check()?;
        let led = Led::of(context, term);
        let mut written = writer.into_written();
        if written.batch.is_empty()
            && self.reservations().put(led, &written.reserved, Instant::now())
        {
            self.reservations().remove(led, &written.leaving);
            self.waiting().on_released(written.released);
            return Ok(());
        }
        written.reserve_in_log();
        let Written { batch, released, published, leaving, .. } = written;
        let context = kvrpcpb::Context { term, ..context.clone() };
        let inner = self.inner.clone();
        let mut entered = Some(entered);
        if self.planted().has(Bug::LatchesLetGoEarly) {
            entered = None;
        }
        let to_the_end = ToTheEnd::new(async move {
            let result = inner.storage.write(&context, batch).await;
            if result.is_ok() {
                inner.reservations.remove(led, &leaving);
                inner.waiting.on_released(released);
            }
            drop(published);
            drop(entered);
            result
        });
        let result = execution.deadline.bound_write(to_the_end).await;
        execution.ends(Stage::Log);
        result
    }
}

impl<St: Storage> Transactions<St> {
    /// Locks in a part of the region (engine form) of transactions that began at or before `max_ts`, keys
    /// ascending. Transactions that lock later commit later.
    pub(crate) async fn old_locks(
        &self,
        context: &kvrpcpb::Context,
        range: &KeyRange,
        max_ts: u64,
        limit: usize,
    ) -> Result<Vec<(Key, Lock)>, Stop> {
        let mut execution = Execution::begin(context);
        self.find_old_locks(context, range, max_ts, limit, &mut execution).await
    }

    /// [`Self::old_locks`], for a request whose cost is told.
    pub(super) async fn find_old_locks(
        &self,
        context: &kvrpcpb::Context,
        range: &KeyRange,
        max_ts: u64,
        limit: usize,
        execution: &mut Execution,
    ) -> Result<Vec<(Key, Lock)>, Stop> {
        self.memory().on_read(max_ts)?;
        if let Some((key, lock)) = self.memory().find_in(range, |_, lock| lock.start_ts <= max_ts) {
            return Err(Stop::locked(&lock, &key));
        }
        let is_old = |lock: &Lock| lock.start_ts <= max_ts;
        let look = self.reservations().look(context.region_id, range, is_old);
        let view = self.view(context, execution).await?;
        let reader = self.reader(context, look, view);
        scan_lock(&reader, range, max_ts, limit)
    }

    /// Carries out transactions' fates on these keys, as far as their locks still stand.
    pub(crate) async fn settle(
        &self,
        context: &kvrpcpb::Context,
        keys: &[Key],
        fates: &Fates,
    ) -> Result<(), Stop> {
        self.run(context, keys, &mut Execution::begin(context), |reader, writer| {
            resolve_found(reader, writer, keys, fates)
        })
        .await
    }

    /// Writes what is reserved in memory into the log, because the region is about to be handed over or split.
    /// Nothing new is kept in memory for a while ([`CLOSED_FOR`](super::reservations::CLOSED_FOR)).
    ///
    /// A refusal means that some of it is not in the log, and will be lost with the leader: its transactions
    /// find out when they prewrite.
    pub async fn save_reservations(&self, context: &kvrpcpb::Context) -> Result<(), Stop> {
        let mut execution = Execution::begin(context);
        let version = Led::of(context, 0).version;
        let keys = self.reservations().close(context.region_id, version, Instant::now());
        for keys in keys.chunks(BATCH_LOCKS_MAX) {
            // What was given back or prewritten meanwhile is not there any more.
            let save = |reader: &mut Reader<_>, writer: &mut Writer| {
                for key in keys {
                    if let Some(lock) = reader.held(key) {
                        writer.put_lock(key, lock);
                    }
                }
                Ok(())
            };
            self.run(context, keys, &mut execution, save).await?;
        }
        Ok(())
    }

    /// Writes a batch that no command decided.
    pub(super) async fn write_batch(
        &self,
        context: &kvrpcpb::Context,
        term: u64,
        deadline: Deadline,
        batch: WriteBatch,
    ) -> Result<(), Refusal> {
        let context = kvrpcpb::Context { term, ..context.clone() };
        deadline.bound_write(self.inner.storage.write(&context, batch)).await
    }
}

/// A place among the commands under way and latches, held together.
pub(super) struct Entered {
    _latched: Latched,
    _permit: OwnedSemaphorePermit,
    /// Of a command that locks keys.
    _admitted: Option<Admitted>,
}

impl Entered {
    pub(super) fn with_admitted(self, admitted: Admitted) -> Self {
        Self { _admitted: Some(admitted), ..self }
    }
}

/// Whether every key lies in the region.
pub(super) fn check_in_region(
    context: &kvrpcpb::Context,
    range: &KeyRange,
    keys: &[Key],
) -> Result<(), Refusal> {
    match keys.iter().find(|key| !range.contains(key.encoded())) {
        None => Ok(()),
        Some(key) => Err(crate::storage::outside(context, range, key.encoded().clone())),
    }
}

/// The keys, each once, in the order in which they came.
pub(super) fn distinct(keys: impl IntoIterator<Item = Bytes>) -> Vec<Key> {
    let mut seen = std::collections::BTreeSet::new();
    keys.into_iter().filter(|key| seen.insert(key.clone())).map(Key::new).collect()
}
