//! How a transaction commits.
//!
//! ```text
//! prewrite   all keys, side by side     every key locked, each lock naming the primary
//! timestamp  from the scheduler         later than every read that may have missed the locks
//! commit     the primary                <- the commit point: here it has happened, for everybody
//! commit     the other keys             in the background: only to save readers a detour
//! ```
//!
//! Before the commit point any failure, and being dropped half-way, rolls everything back, in the
//! background. Once the primary's commit has been sent nothing is rolled back any more unless a store
//! has said that the primary is *not* committed: rolling back a secondary of a committed transaction
//! would tear it. If no store says either, the outcome is undetermined and reported as such.
//!
//! While this goes on, a heartbeat keeps the primary's lock alive, so that others do not take a large
//! transaction for a dead one.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use proto::{KeyRange, Timestamp, kvrpcpb};
use tokio::time::Instant;

use super::{BATCH_BYTES_MAX, BATCH_LEN_MAX, TransactionClient, key_error};
use crate::call::Call;
use crate::error::{Error, ErrorKind, Result};
use crate::request::Shape;
use crate::route::Route;

/// How long a lock lives without a heartbeat. A client that dies keeps others waiting this long.
const LOCK_TTL: Duration = Duration::from_secs(3);
/// How often the lock's life is prolonged; often enough for one heartbeat to be lost.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(1_200);

/// One commit under way.
pub(super) struct TwoPhaseCommit<'a> {
    client: &'a TransactionClient,
    start: Timestamp,
    began: Instant,
    mutations: Vec<kvrpcpb::Mutation>,
    /// The key whose fate is the transaction's.
    primary: Bytes,
}

impl<'a> TwoPhaseCommit<'a> {
    pub(super) fn new(
        client: &'a TransactionClient,
        start: Timestamp,
        began: Instant,
        mutations: Vec<kvrpcpb::Mutation>,
    ) -> Self {
        // Where nothing is locked there is no primary; a check alone is over after the prewrite.
        let primary = mutations.iter().find(|mutation| is_locking(mutation));
        let primary = primary.or(mutations.first()).map(|mutation| mutation.key.clone());
        Self { client, start, began, mutations, primary: primary.unwrap_or_default() }
    }

    /// Commits; returns the commit timestamp, or `None` if nothing was written.
    pub(super) async fn run(self) -> Result<Option<Timestamp>> {
        if self.mutations.is_empty() {
            return Ok(None);
        }
        let mut call = self.client.call("commit");
        let mut rollback = Rollback::new(self.client, self.start, self.locking_keys());
        let commit = self.commit(&mut call, &mut rollback);
        let committed = tokio::select! {
            committed = commit => committed?,
            never = self.heartbeats() => match never {},
        };
        rollback.disarm();
        Ok(committed)
    }

    async fn commit(
        &self,
        call: &mut Call,
        rollback: &mut Rollback<'_>,
    ) -> Result<Option<Timestamp>> {
        self.prewrite(call).await?;
        if !self.mutations.iter().any(is_locking) {
            return Ok(None);
        }
        loop {
            let at = self.client.cluster.timestamp(call).await?;
            rollback.disarm();
            match self.commit_primary(call, at).await {
                Ok(Some(committed)) => {
                    self.commit_others(at, committed);
                    return Ok(Some(at));
                }
                // A reader was promised that this transaction commits later than it reads.
                Ok(None) => rollback.arm(),
                Err(error) => {
                    if !error.is_undetermined() {
                        rollback.arm();
                    }
                    return Err(error);
                }
            }
        }
    }

    async fn prewrite(&self, call: &mut Call) -> Result<()> {
        let client = self.client;
        let mut mutations = self.mutations.clone();
        while !mutations.is_empty() {
            let shape = Shape {
                codec: &client.codec,
                key: |mutation: &kvrpcpb::Mutation| &mutation.key,
                size: |mutation: &kvrpcpb::Mutation| mutation.key.len() + mutation.value.len(),
                batch_bytes_max: BATCH_BYTES_MAX,
                batch_len_max: BATCH_LEN_MAX,
            };
            let request = |batch: &[kvrpcpb::Mutation]| kvrpcpb::PrewriteRequest {
                mutations: batch.to_vec(),
                primary_lock: self.primary.clone(),
                start_version: self.start.0,
                lock_ttl: self.lock_ttl_ms(),
                txn_size: self.mutations.len() as u64,
                // Lets readers push the commit behind their timestamp instead of waiting for it.
                min_commit_ts: self.start.next().0,
                ..Default::default()
            };
            let answers = client.cluster.many(call, shape, mutations, request).await?;
            mutations = Vec::new();
            let mut locks = Vec::new();
            for (batch, answer) in answers {
                if answer.errors.is_empty() {
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
        Ok(())
    }

    /// Commits the primary, and with it the keys that one request can carry along. Returns those
    /// keys; `None`: the timestamp is too early.
    async fn commit_primary(&self, call: &mut Call, at: Timestamp) -> Result<Option<Vec<Bytes>>> {
        let client = self.client;
        let (route, answer) = client
            .cluster
            .one(call, &client.codec, &self.primary, |route| kvrpcpb::CommitRequest {
                start_version: self.start.0,
                keys: self.keys_beside_primary(route),
                commit_version: at.0,
                primary_key: self.primary.clone(),
                commit_role: kvrpcpb::CommitRole::Primary as i32,
                ..Default::default()
            })
            .await?;
        match answer.error {
            None => Ok(Some(self.keys_beside_primary(&route))),
            Some(error) if error.commit_ts_expired.is_some() => Ok(None),
            Some(error) => {
                let lock = key_error::lock_of(call, &client.codec, error)?;
                let why = format!("the store says: the primary is locked: {lock:?}");
                Err(call.fail(ErrorKind::Rejected, why))
            }
        }
    }

    /// The primary and those keys of its region that are committed together with it: one request is
    /// one log entry, so they cannot be told apart.
    fn keys_beside_primary(&self, route: &Route) -> Vec<Bytes> {
        let region = self.client.codec.wire_range(&KeyRange::of(&route.region));
        let others = self
            .locking_keys()
            .into_iter()
            .filter(|key| *key != self.primary && region.contains(key))
            .take(BATCH_LEN_MAX - 1);
        std::iter::once(self.primary.clone()).chain(others).collect()
    }

    /// Commits the other keys, in the background: the transaction is committed already.
    fn commit_others(&self, at: Timestamp, mut committed: Vec<Bytes>) {
        committed.sort();
        let mut others = self.locking_keys();
        others.retain(|key| committed.binary_search(key).is_err());
        if others.is_empty() {
            return;
        }
        let client = self.client.clone();
        let start = self.start;
        let primary = self.primary.clone();
        self.client.cluster.in_background(async move {
            let mut call = client.call("commit of secondaries");
            let request = |keys: &[Bytes]| kvrpcpb::CommitRequest {
                start_version: start.0,
                keys: keys.to_vec(),
                commit_version: at.0,
                primary_key: primary.clone(),
                commit_role: kvrpcpb::CommitRole::Secondary as i32,
                ..Default::default()
            };
            match client.cluster.many(&mut call, client.keys(), others, request).await {
                Ok(answers) => {
                    for error in answers.into_iter().filter_map(|(_, answer)| answer.error) {
                        tracing::warn!(%start, ?error, "a secondary did not commit");
                    }
                }
                // Whoever meets the locks that are left asks the primary.
                Err(error) => tracing::debug!(%start, %error, "left secondaries to be resolved"),
            }
        });
    }

    /// Keeps the primary's lock alive until dropped.
    async fn heartbeats(&self) -> Infallible {
        let client = self.client;
        loop {
            tokio::time::sleep(HEARTBEAT_INTERVAL).await;
            let mut call = client.cluster.call_within("heartbeat", LOCK_TTL);
            let beat = client
                .cluster
                .one(&mut call, &client.codec, &self.primary, |_| kvrpcpb::TxnHeartBeatRequest {
                    primary_lock: self.primary.clone(),
                    start_version: self.start.0,
                    advise_lock_ttl: self.lock_ttl_ms(),
                    ..Default::default()
                })
                .await;
            // Not locked yet, or rolled back by another: the commit itself will notice.
            match beat {
                Ok((_, answer)) => {
                    let (ttl, error) = (answer.lock_ttl, answer.error);
                    tracing::debug!(start = %self.start, ttl, ?error, "heartbeat");
                }
                Err(error) => tracing::debug!(start = %self.start, %error, "heartbeat lost"),
            }
        }
    }

    /// A lock's life counts from the start of the transaction, which may have thought for a while.
    fn lock_ttl_ms(&self) -> u64 {
        (self.began.elapsed() + LOCK_TTL).as_millis() as u64
    }

    fn locking_keys(&self) -> Vec<Bytes> {
        self.mutations.iter().filter(|m| is_locking(m)).map(|m| m.key.clone()).collect()
    }
}

/// Whether the mutation leaves a lock; a check that a key does not exist leaves nothing.
fn is_locking(mutation: &kvrpcpb::Mutation) -> bool {
    mutation.op() != kvrpcpb::Op::CheckNotExists
}

/// Rolls a transaction back when dropped, unless disarmed.
struct Rollback<'a> {
    client: &'a TransactionClient,
    start: Timestamp,
    keys: Vec<Bytes>,
    armed: bool,
}

impl<'a> Rollback<'a> {
    fn new(client: &'a TransactionClient, start: Timestamp, keys: Vec<Bytes>) -> Self {
        Self { client, start, keys, armed: true }
    }

    fn arm(&mut self) {
        self.armed = true;
    }

    fn disarm(&mut self) {
        self.armed = false;
    }
}

impl Drop for Rollback<'_> {
    fn drop(&mut self) {
        if !self.armed || self.keys.is_empty() {
            return;
        }
        let client = self.client.clone();
        let start = self.start;
        let keys = std::mem::take(&mut self.keys);
        self.client.cluster.in_background(async move {
            if let Err(error) = roll_back(&client, start, keys).await {
                // The locks expire, and whoever meets them does the rest.
                tracing::debug!(%start, %error, "left a transaction to be rolled back by others");
            }
        });
    }
}

async fn roll_back(client: &TransactionClient, start: Timestamp, keys: Vec<Bytes>) -> Result<()> {
    let mut call = client.call("rollback");
    let request = |keys: &[Bytes]| kvrpcpb::BatchRollbackRequest {
        start_version: start.0,
        keys: keys.to_vec(),
        ..Default::default()
    };
    let answers = client.cluster.many(&mut call, client.keys(), keys, request).await?;
    match answers.into_iter().find_map(|(_, answer)| answer.error) {
        None => Ok(()),
        Some(error) => Err(Error::rejected(format!("{error:?}"))),
    }
}
