//! Transactions: snapshot isolation over the whole key space, without a coordinator.
//!
//! A transaction reads at the timestamp at which it began and keeps its writes to itself until it
//! commits. The commit locks every key it writes (`commit/`), one of them being the
//! *primary*: the moment the primary's lock becomes a commit record, the transaction is committed,
//! and every other lock is only a pointer to that decision. Whoever meets a lock asks the primary
//! what became of it (`lock_resolver.rs`), so a client that dies leaves nothing that others cannot
//! clean up.
//!
//! A *pessimistic* transaction (`pessimistic.rs`) takes its locks earlier, when it reads for update or
//! writes, and so knows before its commit that nobody was faster.
//!
//! Left out: savepoints; flushing the changes of a transaction before its commit, so it has to fit
//! into memory; shared locks.

mod at;
mod buffer;
mod commit;
mod heartbeat;
mod key_error;
mod lock_resolver;
mod options;
mod pessimistic;
mod snapshot;
mod transaction;
mod versions;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::{KeyRange, Timestamp, kvrpcpb};

use crate::backoff::Pause;
use crate::call::Call;
use crate::cluster::Cluster;
use crate::error::{Cause, Error, ErrorKind, Result};
use crate::keyspace::KeyCodec;
use crate::request::Shape;
use crate::scan::Order;
use crate::span::Span;
pub use at::At;
use lock_resolver::LockResolver;
pub use options::{LockWait, TransactionOptions};
pub use pessimistic::PessimisticTransaction;
pub use snapshot::Snapshot;
pub use transaction::Transaction;
pub use versions::{Deed, LockRecord, Versions, WriteRecord};

/// How large a batch of changes may get; a store takes no more than 8 MiB as one log entry.
const BATCH_BYTES_MAX: usize = 64 << 10;
/// How many keys go into one batch.
const BATCH_LEN_MAX: usize = 4096;
/// How many locks are fetched at a time when a range is cleared.
const LOCKS_PAGE_MAX: u32 = 1024;

/// Begins transactions and snapshots. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TransactionClient {
    cluster: Arc<Cluster>,
    codec: KeyCodec,
    resolver: Arc<LockResolver>,
    timeout: Duration,
    options: TransactionOptions,
}

impl TransactionClient {
    pub(crate) fn new(cluster: Arc<Cluster>, codec: KeyCodec) -> Self {
        let timeout = cluster.config.timeout;
        let options = cluster.config.transaction;
        Self { cluster, codec, resolver: Arc::default(), timeout, options }
    }

    /// The same client with another deadline for each call, a commit being one call.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The same client, whose transactions lock and commit as these options say.
    pub fn with_options(&self, options: TransactionOptions) -> Self {
        Self { options, ..self.clone() }
    }

    /// Begins a transaction: it sees what was committed before now.
    pub async fn begin(&self) -> Result<Transaction> {
        let at = self.timestamp().await?;
        Ok(Transaction::new(Snapshot::at(self, at)))
    }

    /// Begins a transaction that locks what it writes, and what it reads for update, right away.
    pub async fn begin_pessimistic(&self) -> Result<PessimisticTransaction> {
        self.begin().await.map(PessimisticTransaction::new)
    }

    /// What is committed now, to read from.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        let at = self.timestamp().await?;
        Ok(Snapshot::at(self, at))
    }

    /// What was committed at a timestamp. Old versions are kept for a while only.
    pub fn snapshot_at(&self, at: Timestamp) -> Snapshot {
        Snapshot::at(self, at)
    }

    /// What was committed this long ago, by the scheduler's clock.
    pub async fn snapshot_ago(&self, ago: Duration) -> Result<Snapshot> {
        self.snapshot_as_of(At::Ago(ago)).await
    }

    /// What was committed at a moment.
    pub async fn snapshot_as_of(&self, at: At) -> Result<Snapshot> {
        let at = match at {
            At::Timestamp(at) => at,
            At::Now | At::Ago(_) => at.timestamp(self.timestamp().await?),
        };
        Ok(Snapshot::at(self, at))
    }

    /// A timestamp later than every one given out before.
    pub async fn timestamp(&self) -> Result<Timestamp> {
        self.cluster.timestamp(&mut self.call("timestamp")).await
    }

    /// Runs a transaction: begins one, gives it to `body`, and commits what `body` has written.
    /// When another transaction was in the way, all of it is done again, `body` included, until
    /// [`Config::run_timeout`](crate::Config::run_timeout) has passed; then the last conflict is the
    /// error. Every other error ends it at once, and the transaction is rolled back. `body` should
    /// have no effects of its own.
    pub async fn run<T, F, Fut>(&self, mut body: F) -> Result<T>
    where
        F: FnMut(Transaction) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let mut call = self.cluster.call_within("transaction", self.cluster.config.run_timeout);
        loop {
            let txn = self.begin().await?;
            call.waits_for("the closure given to run", None);
            let outcome = call.bounded(body(txn.clone())).await.and_then(|outcome| outcome);
            let outcome = match outcome {
                // From here on only the commit itself may say whether it has happened.
                Ok(value) => txn.commit().await.map(|_| value),
                Err(error) => Err(error),
            };
            txn.rollback();
            match outcome {
                Err(error) if is_conflict(&error) && self.again(&mut call, &error).await => {}
                outcome => return outcome,
            }
        }
    }

    /// As [`Self::run`], with a transaction that locks as it goes. It is run again only when
    /// transactions wait for each other in a circle, or a lock was not to be had in time.
    pub async fn run_pessimistic<T, F, Fut>(&self, mut body: F) -> Result<T>
    where
        F: FnMut(PessimisticTransaction) -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let mut call = self.cluster.call_within("transaction", self.cluster.config.run_timeout);
        loop {
            let txn = self.begin_pessimistic().await?;
            call.waits_for("the closure given to run", None);
            let outcome = call.bounded(body(txn.clone())).await.and_then(|outcome| outcome);
            let outcome = match outcome {
                Ok(value) => txn.commit().await.map(|_| value),
                Err(error) => Err(error),
            };
            if outcome.is_err()
                && let Err(error) = txn.rollback().await
            {
                tracing::debug!(%error, "left locks to expire");
            }
            match outcome {
                Err(error) if is_conflict(&error) && self.again(&mut call, &error).await => {}
                outcome => return outcome,
            }
        }
    }

    /// Whether there is time to run a transaction again, after a pause.
    async fn again(&self, call: &mut Call, error: &Error) -> bool {
        tracing::debug!(%error, "transaction: running it again");
        call.pause(Pause::Conflict).await.is_ok()
    }

    /// Removes the locks in a range that transactions begun before a timestamp have left behind, by
    /// finishing those transactions one way or the other, whether or not they are still alive.
    /// Returns how many there were.
    pub async fn clear_locks(&self, range: impl Into<Span>, before: Timestamp) -> Result<usize> {
        let mut call = self.call("clear locks");
        let mut cleared = 0;
        let mut rest = Some(self.codec.encode_range(&range.into().0));
        while let Some(range) = rest.take()
            && !range.is_empty()
        {
            let (route, mut answer) = self
                .cluster
                .at_edge(&mut call, &self.codec, &range, Order::Forward, |route| {
                    let part = self.part(&route.region, &range);
                    kvrpcpb::ScanLockRequest {
                        max_version: before.0,
                        end_key: part.wire_end(),
                        start_key: part.start,
                        limit: LOCKS_PAGE_MAX,
                        ..Default::default()
                    }
                })
                .await?;
            let part = self.part(&route.region, &range);
            if let Some(error) = answer.error.take() {
                let lock = key_error::lock_of(&call, &self.codec, error)?;
                self.clear(&mut call, vec![lock], None).await?;
                rest = Some(range);
                continue;
            }
            let full = answer.locks.len() >= LOCKS_PAGE_MAX as usize;
            let last = answer.locks.last().map(|lock| lock.key.clone());
            cleared += answer.locks.len();
            self.resolver.finish(self, &mut call, answer.locks).await?;
            rest = Order::Forward.rest(&range, &part, last.filter(|_| full));
        }
        Ok(cleared)
    }

    /// Allows old versions to be removed: clears all locks of transactions begun up to `safe_point`
    /// and tells the scheduler, which returns the point that holds now (it never goes back).
    pub async fn gc(&self, safe_point: Timestamp) -> Result<Timestamp> {
        self.clear_locks(.., safe_point).await?;
        let mut call = self.call("gc");
        self.cluster.scheduler.update_gc_safe_point(&mut call, safe_point).await
    }

    /// Finishes one of our own transactions whose commit was cut short, the way it turns out to
    /// have gone.
    async fn settle(&self, start: Timestamp, primary: Bytes, keys: Vec<Bytes>) -> Result<()> {
        let mut call = self.call("settle a commit cut short");
        self.resolver.settle(self, &mut call, start, primary, keys).await
    }

    fn call(&self, what: &'static str) -> Call {
        self.cluster.call_within(what, self.timeout)
    }

    /// What of the range lies in the region.
    fn part(&self, region: &proto::metapb::Region, range: &KeyRange) -> KeyRange {
        self.codec.wire_range(&KeyRange::of(region)).intersection(range)
    }

    fn keys(&self) -> Shape<'_, Bytes> {
        Shape {
            codec: &self.codec,
            key: |key: &Bytes| key,
            size: |key: &Bytes| key.len(),
            batch_bytes_max: BATCH_BYTES_MAX,
            batch_len_max: BATCH_LEN_MAX,
        }
    }

    /// Deals with locks that are in the way: finishes what is dead, waits a little for what lives.
    /// A reader (with its timestamp) may be allowed past a living one; the transactions that do not
    /// concern it are returned.
    async fn clear(
        &self,
        call: &mut Call,
        locks: Vec<kvrpcpb::LockInfo>,
        reader: Option<Timestamp>,
    ) -> Result<Vec<u64>> {
        let first = locks.first().cloned().unwrap_or_default();
        let holder = Timestamp(first.lock_version);
        let key = self.codec.decode(first.key);
        let readable = proto::key::Readable(&key);
        let what = format!("the lock of transaction {holder} on {readable}");
        call.waits_for(what.clone(), Some(Cause::Words("it is locked".into())));
        let cleared = self.resolver.resolve(self, call, locks, reader).await;
        let cleared = match cleared {
            Ok(lock_resolver::Cleared { passed, wait: None }) => Ok(passed),
            Ok(lock_resolver::Cleared { passed, wait: Some(lives) }) => {
                call.waits_for(what, None);
                call.pause(Pause::Lock(lives)).await.map(|()| passed)
            }
            Err(error) => Err(error),
        };
        cleared.map_err(|error| {
            if *error.kind() == ErrorKind::Timeout {
                let why = format!("waiting for the lock of transaction {holder}");
                call.fail(ErrorKind::Locked { key: key.clone(), holder }, why)
            } else {
                error
            }
        })
    }
}

/// Whether the transaction may succeed when it is run again, because only others were in its way.
fn is_conflict(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::WriteConflict { .. }
        | ErrorKind::Locked { .. }
        | ErrorKind::Deadlock { .. }
        | ErrorKind::RolledBack => true,
        ErrorKind::Mistake
        | ErrorKind::Timeout
        | ErrorKind::Undetermined
        | ErrorKind::KeyExists { .. }
        | ErrorKind::TooLarge
        | ErrorKind::Rejected
        | ErrorKind::Stopped => false,
    }
}
