//! A lock in the way: what became of its transaction, and what follows for the lock.
//!
//! The primary is asked. An async-commit transaction whose time is over is decided by its other keys. The
//! fate is then carried out on the keys that are known.

use bytes::Bytes;
use kv::keys::Key;
use proto::kvrpcpb::{
    Action, CheckSecondaryLocksRequest, CheckTxnStatusRequest, CheckTxnStatusResponse, LockInfo,
    Op, PessimisticRollbackRequest, ResolveLockRequest, ScanLockRequest,
};
use proto::tikvpb::batch_commands_request::request::Cmd as Command;
use proto::{Timestamp, memcomparable};

use super::requests::{Over, Tries, expect_answer};
use super::session::Session;
use super::transaction::next_region;
use crate::sim::events::Instant;
use crate::sim::options::Plant;
use crate::sim::probes::Probe;

/// What is to be done about a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is gone.
    Gone,
    /// It stands, and the reader need not mind.
    Passed,
    /// It stands, and its transaction lives.
    Alive,
}

impl From<Over> for Standing {
    fn from(_: Over) -> Self {
        Self::Alive
    }
}

/// Whether a lock's time is over.
fn is_expired(start_ts: u64, ttl_ms: u64, current_ts: u64) -> bool {
    current_ts == u64::MAX
        || Timestamp(start_ts).physical() + ttl_ms < Timestamp(current_ts).physical()
}

impl Session {
    /// Looks after a lock that is in the way of a reader at `caller_ts`, or of a writer (0).
    pub(super) async fn resolve(
        &self,
        lock: &LockInfo,
        caller_ts: u64,
        deadline: Instant,
    ) -> Result<Standing, Over> {
        let mut lock = lock.clone();
        let mut may_roll_back = false;
        let mut force_sync = false;
        loop {
            if self.now() >= deadline {
                return Err(Over);
            }
            let now_ts = match self.is_collector {
                true => Some(u64::MAX),
                false => self.timestamp(deadline).await,
            };
            let Some(current_ts) = now_ts else { return Err(Over) };
            let is_reservation = lock.lock_type() == Op::PessimisticLock;
            let request = CheckTxnStatusRequest {
                primary_key: lock.primary_lock.clone(),
                lock_ts: lock.lock_version,
                caller_start_ts: caller_ts,
                current_ts,
                rollback_if_not_exist: may_roll_back,
                force_sync_commit: force_sync,
                resolving_pessimistic_lock: is_reservation,
                verify_is_primary: true,
                ..Default::default()
            };
            let primary = Key::new(lock.primary_lock.clone());
            let (_, answer) = self
                .ask(primary.encoded(), deadline, &mut Tries::default(), |context| {
                    let request =
                        CheckTxnStatusRequest { context: Some(context), ..request.clone() };
                    Command::CheckTxnStatus(request)
                })
                .await?;
            let status = expect_answer!(answer, CheckTxnStatus);
            if let Some(error) = &status.error {
                if let Some(mismatch) = &error.primary_mismatch {
                    let stands = mismatch.lock_info.as_ref().expect("it says which lock stands");
                    lock.primary_lock = stands.primary_lock.clone();
                    continue;
                }
                // Not there yet, or never: only when the time is over nobody will come any more.
                if is_expired(lock.lock_version, lock.lock_ttl, current_ts) {
                    may_roll_back = true;
                    continue;
                }
                return Ok(Standing::Alive);
            }
            if status.lock_ttl == 0 {
                self.saw(if status.commit_version > 0 {
                    Probe::LockCommittedByOther
                } else {
                    Probe::LockRolledBackByOther
                });
                return self.settle(&lock, status.commit_version, deadline).await;
            }
            let primary_lock = status.lock_info.clone().unwrap_or_default();
            if primary_lock.use_async_commit && !force_sync {
                if !is_expired(lock.lock_version, status.lock_ttl, current_ts) {
                    return Ok(Standing::Alive);
                }
                match self.ask_secondaries(&primary_lock, deadline).await? {
                    Some(commit_ts) => {
                        self.saw(Probe::AsyncCommitDecidedByOther);
                        return self.settle_all(&primary_lock, commit_ts, deadline).await;
                    }
                    // One of its keys was locked in two phases: so it ends.
                    None => force_sync = true,
                }
                continue;
            }
            return Ok(standing_of(&status, self));
        }
    }

    /// The fate of an async-commit transaction, by its other keys; `None` when it is not one after all.
    async fn ask_secondaries(
        &self,
        primary: &LockInfo,
        deadline: Instant,
    ) -> Result<Option<u64>, Over> {
        let keys: Vec<Key> = primary.secondaries.iter().cloned().map(Key::new).collect();
        let mut commit_ts = primary.min_commit_ts;
        let mut decided = None;
        let mut is_async = true;
        let planted = self.shared().ledger.plant == Some(Plant::SecondariesNotAsked);
        let asked: &[Key] = if planted { &[] } else { &keys };
        self.ask_all(
            asked,
            deadline,
            &mut Tries::default(),
            |context, keys| {
                Command::CheckSecondaryLocks(CheckSecondaryLocksRequest {
                    context: Some(context),
                    keys: keys.iter().map(|key| key.user().clone()).collect(),
                    start_version: primary.lock_version,
                })
            },
            |keys, answer| {
                let answer = expect_answer!(answer, CheckSecondaryLocks);
                if answer.locks.len() < keys.len() {
                    decided.get_or_insert(answer.commit_ts);
                }
                for lock in &answer.locks {
                    is_async &= lock.use_async_commit;
                    commit_ts = commit_ts.max(lock.min_commit_ts);
                }
                Ok::<(), Over>(())
            },
        )
        .await?;
        Ok(match decided {
            Some(fate) => Some(fate),
            None => is_async.then_some(commit_ts),
        })
    }

    /// Carries a fate out on every key of an async-commit transaction.
    async fn settle_all(
        &self,
        primary: &LockInfo,
        commit_ts: u64,
        deadline: Instant,
    ) -> Result<Standing, Over> {
        let mut keys: Vec<Key> = primary.secondaries.iter().cloned().map(Key::new).collect();
        keys.push(Key::new(primary.primary_lock.clone()));
        self.carry_out(&keys, primary.lock_version, commit_ts, deadline).await?;
        Ok(Standing::Gone)
    }

    /// Carries a fate out on the one lock that was met.
    async fn settle(
        &self,
        lock: &LockInfo,
        commit_ts: u64,
        deadline: Instant,
    ) -> Result<Standing, Over> {
        let keys = [Key::new(lock.key.clone())];
        if lock.lock_type() != Op::PessimisticLock {
            self.carry_out(&keys, lock.lock_version, commit_ts, deadline).await?;
            return Ok(Standing::Gone);
        }
        let request = PessimisticRollbackRequest {
            start_version: lock.lock_version,
            for_update_ts: lock.lock_for_update_ts,
            keys: vec![lock.key.clone()],
            ..Default::default()
        };
        self.ask(keys[0].encoded(), deadline, &mut Tries::default(), |context| {
            let request = PessimisticRollbackRequest { context: Some(context), ..request.clone() };
            Command::PessimisticRollback(request)
        })
        .await?;
        Ok(Standing::Gone)
    }

    /// Looks after every lock of transactions that began so early, for as long as it takes; says whether that
    /// was long enough.
    pub(super) async fn resolve_all(&self, max_version: u64, patience: Instant) -> bool {
        let deadline = self.now() + patience;
        let mut from = Bytes::new();
        while self.now() < deadline {
            let start = memcomparable::encode(&from);
            let mut tries = Tries::default();
            let asked = self.ask(&start, deadline, &mut tries, |context| {
                Command::ScanLock(ScanLockRequest {
                    context: Some(context),
                    max_version,
                    start_key: from.clone(),
                    limit: 32,
                    ..Default::default()
                })
            });
            let Ok((region, answer)) = asked.await else { return false };
            let answer = expect_answer!(answer, ScanLock);
            let lock = answer.error.and_then(|error| error.locked);
            let locks: Vec<LockInfo> = answer.locks.into_iter().chain(lock).collect();
            if locks.is_empty() {
                match next_region(&region) {
                    Some(next) => from = next,
                    None => return true,
                }
                continue;
            }
            for lock in locks {
                if self.resolve(&lock, 0, deadline).await != Ok(Standing::Gone) {
                    self.rest().await;
                }
            }
        }
        false
    }

    /// What is wrong with a key is no concern of ours: somebody else was there.
    pub(super) async fn carry_out(
        &self,
        keys: &[Key],
        start_version: u64,
        commit_version: u64,
        deadline: Instant,
    ) -> Result<(), Over> {
        // One in three leaves it to the region to find the locks.
        let by_region = self.happens(300);
        self.ask_all(
            keys,
            deadline,
            &mut Tries::default(),
            |context, keys| {
                let named = keys.iter().map(|key| key.user().clone()).collect();
                Command::ResolveLock(ResolveLockRequest {
                    context: Some(context),
                    start_version,
                    commit_version,
                    keys: if by_region { Vec::new() } else { named },
                    ..Default::default()
                })
            },
            |_, _| Ok(()),
        )
        .await
    }
}

fn standing_of(status: &CheckTxnStatusResponse, session: &Session) -> Standing {
    if status.action() == Action::MinCommitTsPushed {
        session.saw(Probe::CommitPushed);
        return Standing::Passed;
    }
    Standing::Alive
}
