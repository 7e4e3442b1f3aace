//! How a transaction commits.
//!
//! ```text
//! prewrite   all keys, side by side     every key locked, each lock naming the primary
//! timestamp  from the scheduler         later than every read that may have missed the locks
//! commit     the primary                <- the commit point: here it has happened, for everybody
//! commit     the other keys             in the background: only to save readers a detour
//! ```
//!
//! Two short cuts, where the options allow them and the transaction is small enough:
//!
//! - *Async commit.* The primary's lock lists the other keys, and every store says how early the
//!   transaction may commit without being seen too late by a reader that was there. When the last key
//!   is locked the transaction is committed, at the latest of these timestamps: whoever meets one of
//!   the locks can find that out from the others.
//! - *One phase.* All keys lie in one region, so one log entry holds the whole transaction: the store
//!   chooses the timestamp and writes commit records instead of locks.
//!
//! Any store may decline (a lock from an earlier try, no such feature), and then both phases follow.
//! So that a transaction commits later than everything that had ended when its commit was asked for,
//! the earliest timestamp it accepts is a fresh one.
//!
//! Before the commit point any failure, and being dropped half-way, rolls everything back, in the
//! background. Once the commit point may have been reached nothing is rolled back any more unless a
//! store has said that it was *not*: rolling back one key of a committed transaction would tear it.
//! If no store says either, the outcome is undetermined and reported as such. The ways of undoing are
//! in `abandon.rs`.
//!
//! While this goes on, a heartbeat keeps the primary's lock alive, so that others do not take a large
//! transaction for a dead one.

mod abandon;
mod prewrite;

use std::convert::Infallible;

use bytes::Bytes;
use proto::{KeyRange, Timestamp, kvrpcpb};
use tokio::time::Instant;

use super::options::TransactionOptions;
use super::{BATCH_BYTES_MAX, BATCH_LEN_MAX, TransactionClient, heartbeat, key_error};
use crate::call::Call;
use crate::error::{ErrorKind, Result};
use crate::metrics::CommitWay;
use crate::route::Route;
use abandon::Abandoned;
use prewrite::Prewritten;

/// Above this many keys a transaction does not commit asynchronously: whoever finds it abandoned has
/// to look at all of them.
const ASYNC_KEYS_MAX: usize = 256;
/// Nor if its keys are longer than this, in bytes: the primary's lock holds them all.
const ASYNC_KEY_BYTES_MAX: usize = 4 << 10;

/// One commit under way.
pub(super) struct Commit<'a> {
    client: &'a TransactionClient,
    start: Timestamp,
    began: Instant,
    mutations: Vec<kvrpcpb::Mutation>,
    /// The key whose fate is the transaction's.
    primary: Bytes,
    /// Of a pessimistic transaction: its locks were taken at this timestamp at the latest.
    locked_at: Option<Timestamp>,
}

impl<'a> Commit<'a> {
    pub(super) fn new(
        client: &'a TransactionClient,
        start: Timestamp,
        began: Instant,
        mutations: Vec<kvrpcpb::Mutation>,
    ) -> Self {
        // Where nothing is locked there is no primary; a check alone is over after the prewrite.
        let primary = mutations.iter().find(|mutation| is_locking(mutation));
        let primary = primary.or(mutations.first()).map(|mutation| mutation.key.clone());
        let primary = primary.unwrap_or_default();
        Self { client, start, began, mutations, primary, locked_at: None }
    }

    /// The keys are locked already, each lock naming this primary.
    pub(super) fn of_locked(mut self, primary: Bytes, at: Timestamp) -> Self {
        self.primary = primary;
        self.locked_at = Some(at);
        self
    }

    /// Commits; returns the commit timestamp, or `None` if nothing was written.
    pub(super) async fn run(self) -> Result<Option<Timestamp>> {
        if self.mutations.is_empty() {
            return Ok(None);
        }
        let mut call = self.client.call("commit");
        let keys = self.locking_keys();
        let mut abandoned = Abandoned::new(self.client, self.start, &self.primary, keys);
        let commit = self.commit(&mut call, &mut abandoned);
        let beats = async {
            heartbeat::beat(self.client, self.start, self.began, &self.primary).await;
            // The transaction is too old to be kept alive; whether it still commits is seen below.
            std::future::pending::<Infallible>().await
        };
        let committed = tokio::select! {
            committed = commit => committed?,
            never = beats => match never {},
        };
        abandoned.leave();
        Ok(committed)
    }

    async fn commit(
        &self,
        call: &mut Call,
        abandoned: &mut Abandoned<'_>,
    ) -> Result<Option<Timestamp>> {
        let metrics = &self.client.cluster.metrics;
        let at = match self.prewrite(call, abandoned).await? {
            Prewritten::InOnePhase(at) => {
                metrics.commit(CommitWay::OnePhase);
                return Ok(Some(at));
            }
            Prewritten::Asynchronously(at) => {
                metrics.commit(CommitWay::Async);
                self.commit_others(at, Vec::new());
                return Ok(Some(at));
            }
            Prewritten::Locked if self.mutations.iter().any(is_locking) => {
                self.client.cluster.timestamp(call).await?
            }
            Prewritten::Locked => return Ok(None),
        };
        let at = self.second_phase(call, abandoned, at).await?;
        metrics.commit(CommitWay::TwoPhases);
        Ok(Some(at))
    }

    /// Commits what is locked, at `at` or later.
    async fn second_phase(
        &self,
        call: &mut Call,
        abandoned: &mut Abandoned<'_>,
        mut at: Timestamp,
    ) -> Result<Timestamp> {
        loop {
            abandoned.leave();
            match self.commit_primary(call, at).await {
                Ok(Some((committed, at))) => {
                    self.commit_others(at, committed);
                    return Ok(at);
                }
                // A reader was promised that this transaction commits later than it reads.
                Ok(None) => abandoned.roll_back(),
                Err(error) => {
                    if !error.is_undetermined() {
                        abandoned.roll_back();
                    }
                    return Err(error);
                }
            }
            at = self.client.cluster.timestamp(call).await?;
        }
    }

    /// Commits the primary, and with it the keys that one request can carry along. Returns those
    /// keys, and when the transaction is committed: an earlier try whose answer was lost may have done it.
    /// `None`: the timestamp is too early.
    async fn commit_primary(
        &self,
        call: &mut Call,
        at: Timestamp,
    ) -> Result<Option<(Vec<Bytes>, Timestamp)>> {
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
            None => {
                // A store that does not say means the timestamp asked for.
                let said = Timestamp(answer.commit_version);
                let at = if said == Timestamp::ZERO { at } else { said };
                Ok(Some((self.keys_beside_primary(&route), at)))
            }
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
        let use_async_commit = committed.is_empty();
        self.client.cluster.in_background(async move {
            let mut call = client.call("commit of secondaries");
            let request = |keys: &[Bytes]| kvrpcpb::CommitRequest {
                start_version: start.0,
                keys: keys.to_vec(),
                commit_version: at.0,
                primary_key: primary.clone(),
                commit_role: kvrpcpb::CommitRole::Secondary as i32,
                use_async_commit,
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

    fn locking_keys(&self) -> Vec<Bytes> {
        self.mutations.iter().filter(|m| is_locking(m)).map(|m| m.key.clone()).collect()
    }

    fn options(&self) -> TransactionOptions {
        self.client.options
    }
}

/// Whether the mutation leaves a lock; a check that a key does not exist leaves nothing.
fn is_locking(mutation: &kvrpcpb::Mutation) -> bool {
    mutation.op() != kvrpcpb::Op::CheckNotExists
}
