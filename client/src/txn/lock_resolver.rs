//! What became of the transactions whose locks are in the way.
//!
//! The primary knows: committed, rolled back, or still under way. A transaction that has outlived its
//! primary's lock is rolled back on the spot, and a living one is waited for. Once a transaction's
//! fate is known it never changes, so it is remembered, and its lock is turned into what it should
//! be: one key at a time for a small transaction, all of a region's for a large one.
//!
//! The fate of a transaction that commits asynchronously is spread over all its keys: committed if
//! every key is still locked or committed, at the latest of the timestamps that their locks name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::{RegionId, Timestamp, kvrpcpb};

use super::{TransactionClient, key_error};
use crate::backoff::Pause;
use crate::call::Call;
use crate::error::{ErrorKind, Result};

/// How many fates are remembered; the oldest is forgotten, and asked for again if need be.
const FINISHED_MAX: usize = 4096;
/// From this many keys on, all locks of a transaction in a region are resolved at once.
const LARGE_TRANSACTION_KEYS: u64 = 16;

/// What became of a transaction, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Committed(Timestamp),
    RolledBack,
}

impl Fate {
    /// As the wire says it: zero for rolled back.
    fn commit_version(self) -> u64 {
        match self {
            Self::Committed(at) => at.0,
            Self::RolledBack => 0,
        }
    }
}

/// What became of a transaction, as far as can be told now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Finished(Fate),
    /// It lives for this long; perhaps it was told to commit after the reader.
    Alive {
        lives: Duration,
        pushed: bool,
    },
}

/// What is left to do after the dead have been cleared away.
#[derive(Debug, Default)]
pub(super) struct Cleared {
    /// Transactions that will commit after the reader, so it may pass their locks.
    pub(super) passed: Vec<u64>,
    /// Some are still under way; the first of them expires after this time.
    pub(super) wait: Option<Duration>,
}

/// Knows how transactions ended.
#[derive(Debug, Default)]
pub(super) struct LockResolver {
    finished: Mutex<Finished>,
}

#[derive(Debug, Default)]
struct Finished {
    fates: BTreeMap<u64, Fate>,
    order: VecDeque<u64>,
}

impl Finished {
    fn remember(&mut self, txn: u64, fate: Fate) {
        if self.fates.insert(txn, fate).is_some() {
            return;
        }
        self.order.push_back(txn);
        if self.order.len() > FINISHED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.fates.remove(&oldest);
        }
    }
}

/// On whose behalf a primary is asked.
#[derive(Clone, Copy)]
struct Asker {
    /// The reader's timestamp; a writer has none, because it cannot pass.
    reader: Option<Timestamp>,
    /// What time it is; `Timestamp::MAX` makes every lock expired.
    now: Timestamp,
}

impl LockResolver {
    /// Clears away the locks of finished and expired transactions.
    pub(super) async fn resolve(
        &self,
        client: &TransactionClient,
        call: &mut Call,
        locks: Vec<kvrpcpb::LockInfo>,
        reader: Option<Timestamp>,
    ) -> Result<Cleared> {
        let now = client.cluster.timestamp(call).await?;
        let asker = Asker { reader, now };
        let mut cleared = Cleared::default();
        let mut whole_regions = BTreeSet::new();
        for lock in locks {
            match self.status(client, call, &lock, asker).await? {
                Status::Finished(fate) => {
                    self.clear_away(client, call, &lock, fate, &mut whole_regions).await?;
                }
                Status::Alive { pushed: true, .. } if reader.is_some() => {
                    cleared.passed.push(lock.lock_version);
                }
                Status::Alive { lives, .. } => {
                    cleared.wait = Some(cleared.wait.map_or(lives, |wait| wait.min(lives)));
                }
            }
        }
        Ok(cleared)
    }

    /// Finishes the transactions of these locks whether or not they are alive.
    pub(super) async fn finish(
        &self,
        client: &TransactionClient,
        call: &mut Call,
        locks: Vec<kvrpcpb::LockInfo>,
    ) -> Result<()> {
        let asker = Asker { reader: None, now: Timestamp::MAX };
        let mut whole_regions = BTreeSet::new();
        for lock in locks {
            loop {
                match self.status(client, call, &lock, asker).await? {
                    Status::Finished(fate) => {
                        self.clear_away(client, call, &lock, fate, &mut whole_regions).await?;
                        break;
                    }
                    Status::Alive { lives, .. } => call.pause(Pause::Lock(lives)).await?,
                }
            }
        }
        Ok(())
    }

    /// Finishes a transaction of which only its client's memory is left, and turns its locks into
    /// what they should be.
    pub(super) async fn settle(
        &self,
        client: &TransactionClient,
        call: &mut Call,
        start: Timestamp,
        primary: Bytes,
        keys: Vec<Bytes>,
    ) -> Result<()> {
        let asker = Asker { reader: None, now: Timestamp::MAX };
        let lock = kvrpcpb::LockInfo {
            key: primary.clone(),
            primary_lock: primary,
            lock_version: start.0,
            ..Default::default()
        };
        let fate = loop {
            match self.status(client, call, &lock, asker).await? {
                Status::Finished(fate) => break fate,
                Status::Alive { lives, .. } => call.pause(Pause::Lock(lives)).await?,
            }
        };
        let request = |keys: &[Bytes]| kvrpcpb::ResolveLockRequest {
            start_version: start.0,
            commit_version: fate.commit_version(),
            keys: keys.to_vec(),
            ..Default::default()
        };
        let answers = client.cluster.many(call, client.keys(), keys, request).await?;
        for error in answers.into_iter().filter_map(|(_, answer)| answer.error) {
            // Somebody else was faster with one of the keys; the others will be met by readers.
            if error.txn_lock_not_found.is_none() {
                key_error::lock_of(call, &client.codec, error)?;
            }
        }
        Ok(())
    }

    /// Asks the primary.
    async fn status(
        &self,
        client: &TransactionClient,
        call: &mut Call,
        lock: &kvrpcpb::LockInfo,
        asker: Asker,
    ) -> Result<Status> {
        if let Some(fate) = self.finished.lock().fates.get(&lock.lock_version) {
            return Ok(Status::Finished(*fate));
        }
        let lives = remaining_life(lock.lock_version, lock.lock_ttl, asker.now);
        let is_pessimistic = lock.lock_type() == kvrpcpb::Op::PessimisticLock;
        let mut force_sync_commit = false;
        loop {
            let (_, answer) = client
                .cluster
                .one(call, &client.codec, &lock.primary_lock, |_| kvrpcpb::CheckTxnStatusRequest {
                    primary_key: lock.primary_lock.clone(),
                    lock_ts: lock.lock_version,
                    caller_start_ts: asker.reader.map_or(0, |reader| reader.0),
                    current_ts: asker.now.0,
                    // A primary that is not there yet may still be on its way, as long as the lock
                    // that names it lives.
                    rollback_if_not_exist: lives.is_none(),
                    resolving_pessimistic_lock: is_pessimistic,
                    verify_is_primary: true,
                    force_sync_commit,
                    ..Default::default()
                })
                .await?;
            if let Some(error) = answer.error {
                // Not there yet; or the lock names a primary that another retry has replaced. Both
                // end when the lock in the way expires.
                if error.txn_not_found.is_some() || error.primary_mismatch.is_some() {
                    let lives = lives.unwrap_or_default();
                    return Ok(Status::Alive { lives, pushed: false });
                }
                let unexpected = key_error::lock_of(call, &client.codec, error)?;
                let why = format!("the store says: the primary is locked: {unexpected:?}");
                return Err(call.fail(ErrorKind::Rejected, why));
            }
            let fate = if answer.commit_version > 0 {
                Fate::Committed(Timestamp(answer.commit_version))
            } else if answer.lock_ttl == 0 {
                Fate::RolledBack
            } else {
                let lives = remaining_life(lock.lock_version, answer.lock_ttl, asker.now);
                let primary = answer.lock_info.unwrap_or_default();
                if lives.is_none() && primary.use_async_commit && !force_sync_commit {
                    match self.async_commit_fate(client, call, &primary).await? {
                        Some(fate) => fate,
                        // Some key was prewritten the plain way: the primary alone decides.
                        None => {
                            force_sync_commit = true;
                            continue;
                        }
                    }
                } else {
                    let pushed = answer.action == kvrpcpb::Action::MinCommitTsPushed as i32;
                    return Ok(Status::Alive { lives: lives.unwrap_or_default(), pushed });
                }
            };
            // A pessimistic lock may expire before its transaction has decided anything: what became
            // of the lock is not what will become of the transaction.
            if !is_pessimistic {
                self.finished.lock().remember(lock.lock_version, fate);
            }
            return Ok(Status::Finished(fate));
        }
    }

    /// The fate of a transaction that commits asynchronously, and whose client is gone. Asking makes
    /// it final: keys that were not locked yet can never be.
    async fn async_commit_fate(
        &self,
        client: &TransactionClient,
        call: &mut Call,
        primary: &kvrpcpb::LockInfo,
    ) -> Result<Option<Fate>> {
        let start_version = primary.lock_version;
        let request = |keys: &[Bytes]| kvrpcpb::CheckSecondaryLocksRequest {
            keys: keys.to_vec(),
            start_version,
            ..Default::default()
        };
        let secondaries = primary.secondaries.clone();
        let answers = client.cluster.many(call, client.keys(), secondaries, request).await?;
        let mut commit_at = primary.min_commit_ts;
        for (keys, answer) in answers {
            if let Some(error) = answer.error {
                key_error::lock_of(call, &client.codec, error)?;
            }
            if answer.commit_ts > 0 {
                return Ok(Some(Fate::Committed(Timestamp(answer.commit_ts))));
            }
            if answer.locks.len() < keys.len() {
                return Ok(Some(Fate::RolledBack));
            }
            if answer.locks.iter().any(|lock| !lock.use_async_commit) {
                return Ok(None);
            }
            let latest = answer.locks.iter().map(|lock| lock.min_commit_ts).max();
            commit_at = commit_at.max(latest.unwrap_or(0));
        }
        Ok(Some(Fate::Committed(Timestamp(commit_at))))
    }

    /// Turns a lock into what its transaction's fate makes of it.
    async fn clear_away(
        &self,
        client: &TransactionClient,
        call: &mut Call,
        lock: &kvrpcpb::LockInfo,
        fate: Fate,
        whole_regions: &mut BTreeSet<(RegionId, u64, u64)>,
    ) -> Result<()> {
        let (cluster, codec) = (&client.cluster, &client.codec);
        if lock.lock_type() == kvrpcpb::Op::PessimisticLock {
            let request = |_: &_| kvrpcpb::PessimisticRollbackRequest {
                start_version: lock.lock_version,
                for_update_ts: lock.lock_for_update_ts.max(lock.lock_version),
                keys: vec![lock.key.clone()],
                ..Default::default()
            };
            let (_, answer) = cluster.one(call, codec, &lock.key, request).await?;
            return match answer.errors.into_iter().next() {
                None => Ok(()),
                Some(error) => key_error::lock_of(call, codec, error).map(drop),
            };
        }
        let is_large = lock.txn_size >= LARGE_TRANSACTION_KEYS;
        if is_large {
            let key = codec.scheduler_key(&lock.key);
            let route = cluster.locate(call, &key).await?;
            let version = route.region.region_epoch.unwrap_or_default().version;
            if !whole_regions.insert((route.region_id(), version, lock.lock_version)) {
                return Ok(());
            }
        }
        let request = |_: &_| kvrpcpb::ResolveLockRequest {
            start_version: lock.lock_version,
            commit_version: fate.commit_version(),
            keys: if is_large { vec![] } else { vec![lock.key.clone()] },
            ..Default::default()
        };
        let (_, answer) = cluster.one(call, codec, &lock.key, request).await?;
        match answer.error {
            None => Ok(()),
            // Somebody else was faster with this key; whether it is free now will be seen.
            Some(error) if error.txn_lock_not_found.is_some() => Ok(()),
            Some(error) => key_error::lock_of(call, codec, error).map(drop),
        }
    }
}

/// How long a lock still lives; `None` when it has expired.
fn remaining_life(start: u64, ttl_ms: u64, now: Timestamp) -> Option<Duration> {
    let expires = Timestamp(start).physical().saturating_add(ttl_ms);
    (expires >= now.physical()).then(|| Duration::from_millis(expires - now.physical()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_lives_as_long_as_its_ttl_says() {
        let start = Timestamp::new(1_000, 5);
        let at = |physical| remaining_life(start.0, 300, Timestamp::new(physical, 0));
        assert_eq!(at(1_100), Some(Duration::from_millis(200)));
        assert_eq!(at(1_300), Some(Duration::ZERO));
        assert_eq!(at(1_301), None);
        assert!(remaining_life(start.0, u64::MAX, Timestamp::new(1, 0)).is_some());
        assert_eq!(remaining_life(start.0, 300, Timestamp::MAX), None);
    }

    #[test]
    fn only_so_many_fates_are_remembered() {
        let mut finished = Finished::default();
        for txn in 0..=FINISHED_MAX as u64 {
            finished.remember(txn, Fate::RolledBack);
        }
        assert_eq!(finished.fates.len(), FINISHED_MAX);
        assert!(!finished.fates.contains_key(&0));
    }
}
