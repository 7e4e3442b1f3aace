//! The first phase: a lock on every key; or, on a short cut, the whole commit.

use std::time::Duration;

use bytes::Bytes;
use proto::kvrpcpb::prewrite_request::PessimisticAction;
use proto::{Timestamp, kvrpcpb};

use super::abandon::Abandoned;
use super::{
    ASYNC_KEY_BYTES_MAX, ASYNC_KEYS_MAX, BATCH_BYTES_MAX, BATCH_LEN_MAX, Commit, heartbeat,
    is_locking, key_error,
};
use crate::call::Call;
use crate::error::Result;
use crate::request::Shape;

/// A transaction that takes a short cut commits no later than so long after the timestamp that it took when it
/// began to commit. Otherwise, as after a long wait for a lock, it commits in two phases.
const SHORT_CUT_AHEAD_MAX: Duration = Duration::from_secs(10);

/// Where a transaction stands when every key has been prewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prewritten {
    /// Every key is locked; the second phase decides.
    Locked,
    /// Every key is locked, and that was the commit.
    Asynchronously(Timestamp),
    /// Committed; no lock is left.
    InOnePhase(Timestamp),
}

/// Which short cuts are tried, and what every request needs for them.
struct ShortCuts {
    /// The other keys, in the lock of the primary; absent without async commit.
    secondaries: Option<Vec<Bytes>>,
    one_phase: bool,
    /// The earliest timestamp at which the transaction may commit.
    min_commit: Timestamp,
}

impl ShortCuts {
    fn any(&self) -> bool {
        self.secondaries.is_some() || self.one_phase
    }

    /// A store that would commit later declines the short cut; 0 where there is none. What commits in the future
    /// is not seen by those who read after it.
    fn latest_commit(&self) -> u64 {
        if !self.any() {
            return 0;
        }
        let latest = self.min_commit.physical() + SHORT_CUT_AHEAD_MAX.as_millis() as u64;
        Timestamp::new(latest, 0).0
    }
}

/// What the stores have granted, over all batches.
#[derive(Default)]
struct Granted {
    in_one_phase: Option<Timestamp>,
    /// The latest of the earliest timestamps.
    earliest: Timestamp,
    /// Some store knows of two phases only.
    declined: bool,
}

impl Granted {
    fn take(&mut self, answer: &kvrpcpb::PrewriteResponse) {
        if answer.one_pc_commit_ts > 0 {
            self.in_one_phase = Some(Timestamp(answer.one_pc_commit_ts));
        }
        self.earliest = self.earliest.max(Timestamp(answer.min_commit_ts));
        self.declined |= answer.min_commit_ts == 0 && answer.one_pc_commit_ts == 0;
    }
}

impl Commit<'_> {
    pub(super) async fn prewrite(
        &self,
        call: &mut Call,
        abandoned: &mut Abandoned<'_>,
    ) -> Result<Prewritten> {
        let short_cuts = self.short_cuts(call).await?;
        if short_cuts.any() {
            abandoned.settle();
        }
        match self.lock_all(call, &short_cuts).await {
            Ok(granted) => {
                if let Some(at) = granted.in_one_phase {
                    return Ok(Prewritten::InOnePhase(at));
                }
                // Not granted, but known: an earlier try did commit in one phase, and its answer was
                // lost. Or every key is locked, and that is the commit.
                if short_cuts.any() && !granted.declined && granted.earliest > Timestamp::ZERO {
                    return Ok(Prewritten::Asynchronously(granted.earliest));
                }
                abandoned.roll_back();
                Ok(Prewritten::Locked)
            }
            Err(error) => {
                if error.is_undetermined() {
                    abandoned.leave();
                } else {
                    abandoned.roll_back();
                }
                Err(error)
            }
        }
    }

    async fn short_cuts(&self, call: &mut Call) -> Result<ShortCuts> {
        let options = self.options();
        // A check that fails in one region would come too late for keys locked in another.
        let all_lock = self.mutations.iter().all(is_locking);
        let any_lock = self.mutations.iter().any(is_locking);
        let key_bytes: usize = self.mutations.iter().map(|mutation| mutation.key.len()).sum();
        let is_async = options.async_commit
            && all_lock
            && self.mutations.len() <= ASYNC_KEYS_MAX
            && key_bytes <= ASYNC_KEY_BYTES_MAX;
        let bytes: usize = self.mutations.iter().map(size).sum();
        let one_phase = options.one_phase_commit
            && any_lock
            && self.mutations.len() <= BATCH_LEN_MAX
            && bytes <= BATCH_BYTES_MAX;
        let earliest = self.locked_at.unwrap_or_default().max(self.start);
        let min_commit = if is_async || one_phase {
            self.client.cluster.timestamp(call).await?.max(earliest).next()
        } else {
            // Lets readers push the commit behind their timestamp instead of waiting for it.
            earliest.next()
        };
        let secondaries = is_async.then(|| {
            let mut keys = self.locking_keys();
            keys.retain(|key| *key != self.primary);
            keys
        });
        Ok(ShortCuts { secondaries, one_phase, min_commit })
    }

    /// Locks every key, waiting for the locks of others and clearing away those of the dead.
    async fn lock_all(&self, call: &mut Call, short_cuts: &ShortCuts) -> Result<Granted> {
        let client = self.client;
        let mut granted = Granted::default();
        let mut mutations = self.mutations.clone();
        while !mutations.is_empty() {
            let shape = Shape {
                codec: &client.codec,
                key: |mutation: &kvrpcpb::Mutation| &mutation.key,
                size,
                batch_bytes_max: BATCH_BYTES_MAX,
                batch_len_max: BATCH_LEN_MAX,
            };
            let request = |batch: &[kvrpcpb::Mutation]| self.request(batch, short_cuts);
            let answers = client.cluster.many(call, shape, mutations, request).await?;
            mutations = Vec::new();
            let mut locks = Vec::new();
            for (batch, answer) in answers {
                if answer.errors.is_empty() {
                    granted.take(&answer);
                    continue;
                }
                // Nothing of this batch was written; all of it is tried again.
                mutations.extend(batch);
                for error in answer.errors {
                    locks.push(key_error::lock_of(call, &client.codec, error)?);
                }
            }
            if !locks.is_empty() {
                client.clear(call, locks, None).await?;
            }
        }
        Ok(granted)
    }

    fn request(
        &self,
        batch: &[kvrpcpb::Mutation],
        short_cuts: &ShortCuts,
    ) -> kvrpcpb::PrewriteRequest {
        let holds_primary = || batch.iter().any(|mutation| mutation.key == self.primary);
        let secondaries = match &short_cuts.secondaries {
            Some(secondaries) if holds_primary() => secondaries.clone(),
            Some(_) | None => Vec::new(),
        };
        let pessimistic_actions = match self.locked_at {
            Some(_) => vec![PessimisticAction::DoPessimisticCheck as i32; batch.len()],
            None => Vec::new(),
        };
        kvrpcpb::PrewriteRequest {
            mutations: batch.to_vec(),
            primary_lock: self.primary.clone(),
            start_version: self.start.0,
            lock_ttl: heartbeat::lock_ttl_ms(self.began),
            txn_size: self.mutations.len() as u64,
            for_update_ts: self.locked_at.map_or(0, |at| at.0),
            pessimistic_actions,
            min_commit_ts: short_cuts.min_commit.0,
            max_commit_ts: short_cuts.latest_commit(),
            use_async_commit: short_cuts.secondaries.is_some(),
            secondaries,
            // Only where this one request is the whole transaction.
            try_one_pc: short_cuts.one_phase && batch.len() == self.mutations.len(),
            ..Default::default()
        }
    }
}

fn size(mutation: &kvrpcpb::Mutation) -> usize {
    mutation.key.len() + mutation.value.len()
}
