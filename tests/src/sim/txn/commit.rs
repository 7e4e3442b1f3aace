//! The end of a transaction: two phases, async commit, or one phase.
//!
//! | ending | committed when | unknown when |
//! |---|---|---|
//! | two phases | the primary's commit is applied | that commit was sent and not answered |
//! | async commit | every key is locked | a prewrite was sent and not answered |
//! | one phase | the one prewrite is applied | that prewrite was sent and not answered |
//!
//! What is not answered is asked again. Who gives up while one phase is in doubt first tries to roll the primary
//! back, for one who has rolled back knows. An async commit is left as it is: it may have all its locks, and
//! somebody may be about to commit it for that.

use std::collections::BTreeMap;

use kv::keys::Key;
use proto::Timestamp;
use proto::kvrpcpb::{
    BatchRollbackRequest, CommitRequest, Mutation, PessimisticRollbackRequest, PrewriteRequest,
    prewrite_request::ForUpdateTsConstraint, prewrite_request::PessimisticAction,
};
use proto::tikvpb::batch_commands_request::request::Cmd as Command;

use super::requests::{Over, Tries, expect_answer};
use super::resolver::Standing;
use super::transaction::Txn;
use super::workload::{key_number, user_key};
use crate::sim::events::SECOND;
use crate::sim::options::Plant;
use crate::sim::probes::Probe;
use crate::transactions::Fate;

/// Keys that an async-commit primary names, at most.
const ASYNC_KEYS_MAX: usize = 16;

/// How long a client goes on to ask when it has begun to commit.
const COMMIT_PATIENCE: u64 = 4 * SECOND;

/// How the first phase went.
enum Prewritten {
    /// Every key is locked; the second phase is due.
    Locked,
    /// It is committed.
    Committed(u64),
    /// It cannot be: another was faster, or the time is over.
    Failed,
}

/// What stops a prewrite.
enum Stop {
    Over,
    Failed,
}

impl From<Over> for Stop {
    fn from(_: Over) -> Self {
        Self::Over
    }
}

impl Txn {
    /// Ends it, and says how. The history knows the fate afterwards.
    pub(super) async fn commit(mut self) -> Fate {
        let fate = self.try_commit().await;
        self.is_alive.set(false);
        self.close(fate);
        fate
    }

    /// Gives it up; nothing of it was sent but reservations.
    pub(super) async fn roll_back(self) {
        self.is_alive.set(false);
        self.close(Fate::Aborted);
        if !self.reserved.is_empty() || self.primary.is_some() {
            self.give_back();
        }
    }

    fn close(&self, fate: Fate) {
        let mut shared = self.session.shared_mut();
        let stamp = shared.next_stamp();
        let open = shared.open[self.session.slot].take().expect("it is under way");
        let mut transaction = open.transaction;
        transaction.fate = fate;
        if fate != Fate::Unknown {
            transaction.ended = stamp;
        }
        shared.ledger.close(transaction);
    }

    async fn try_commit(&mut self) -> Fate {
        if self.buffer.is_empty() {
            return Fate::Committed(self.start_ts);
        }
        let mutations = self.mutations();
        let keys: Vec<Key> = mutations.keys().cloned().collect();
        let primary = self.primary.get_or_insert_with(|| keys[0].clone()).clone();
        self.deadline = self.session.now() + COMMIT_PATIENCE;
        let slot = self.session.slot;
        let writes = self.writes();
        self.session.shared_mut().open[slot]
            .as_mut()
            .expect("it is under way")
            .transaction
            .writes = writes;
        self.style.is_one_phase &= self.session.groups(&keys).len() == 1;
        self.style.is_async &= keys.len() <= ASYNC_KEYS_MAX;
        let early_ts = match self.has(Plant::CommitTimestampEarly) {
            true => self.session.timestamp(self.deadline).await,
            false => None,
        };
        if !self.style.is_pessimistic && self.style.has_heartbeat {
            self.keep_alive(&primary);
        }
        let mut tries = Tries::default();
        let prewritten = self.prewrite(&primary, &mutations, &mut tries).await;
        match prewritten {
            Prewritten::Committed(commit_ts) => {
                self.commit_in_background(keys, commit_ts);
                Fate::Committed(commit_ts)
            }
            Prewritten::Locked => self.commit_primary(&primary, keys, early_ts).await,
            Prewritten::Failed => {
                let doubtful = self.style.is_async || self.style.is_one_phase;
                let is_certain = !doubtful || !tries.is_lost;
                if is_certain || !self.style.is_async && self.roll_back_primary(&primary).await {
                    self.roll_back_in_background(keys);
                    return Fate::Aborted;
                }
                if self.has(Plant::UnknownSaidToAbort) { Fate::Aborted } else { Fate::Unknown }
            }
        }
    }

    /// The first phase. Locks in the way are looked after, for a while.
    async fn prewrite(
        &mut self,
        primary: &Key,
        mutations: &BTreeMap<Key, Mutation>,
        tries: &mut Tries,
    ) -> Prewritten {
        let mut min_commit_ts = if self.style.may_be_pushed { self.start_ts + 1 } else { 0 };
        let skips_time_limit = !self.session.happens(150);
        if self.style.is_async || self.style.is_one_phase {
            min_commit_ts = self.start_ts.max(self.for_update_ts) + 1;
            if self.style.is_linear {
                let Some(ts) = self.session.timestamp(self.deadline).await else {
                    return Prewritten::Failed;
                };
                min_commit_ts = ts;
            }
            let slot = self.session.slot;
            let mut shared = self.session.shared_mut();
            shared.open[slot].as_mut().expect("it is under way").may_be_committed = true;
        }
        let max_commit_ts = match skips_time_limit {
            true => 0,
            false => {
                Timestamp::new(Timestamp(min_commit_ts.max(self.start_ts)).physical() + 20, 0).0
            }
        };
        let mut left: Vec<Key> = mutations.keys().cloned().collect();
        let (mut promised, mut one_phase_ts) = (0, 0);
        loop {
            // One phase is for one request: the rest of one, or several, end in another way.
            let groups = self.session.groups(&left).len();
            if self.style.is_one_phase && (groups != 1 || left.len() < mutations.len()) {
                if tries.is_repeated {
                    return Prewritten::Failed;
                }
                self.style.is_one_phase = false;
            }
            let (mut done, mut falls_back) = (Vec::new(), false);
            let style = self.style;
            let make = |context, keys: &[Key]| {
                let mut request = self.prewrite_request(primary, mutations, keys);
                request.context = Some(context);
                request.min_commit_ts = min_commit_ts;
                request.max_commit_ts = max_commit_ts;
                Command::Prewrite(request)
            };
            let mut locked = Vec::new();
            let took = |keys: &[Key], answer| {
                let answer = expect_answer!(answer, Prewrite);
                if answer.errors.is_empty() {
                    done.extend(keys.to_vec());
                    promised = promised.max(answer.min_commit_ts);
                    one_phase_ts = one_phase_ts.max(answer.one_pc_commit_ts);
                    falls_back |=
                        style.is_async && answer.min_commit_ts == 0 && answer.one_pc_commit_ts == 0;
                    return Ok(());
                }
                if answer.errors.iter().all(|error| error.locked.is_some()) {
                    locked.extend(answer.errors);
                    return Ok(());
                }
                Err(Stop::Failed)
            };
            let verdict = if style.is_one_phase {
                self.one_try(&left, tries, make, took).await
            } else {
                self.session.ask_all(&left, self.deadline, tries, make, took).await
            };
            if one_phase_ts > 0 {
                self.session.saw(Probe::CommittedInOnePhase);
                return Prewritten::Committed(one_phase_ts);
            }
            if falls_back {
                self.session.saw(Probe::AsyncCommitGivenUp);
                self.style.is_async = false;
            }
            left.retain(|key| !done.contains(key));
            match verdict {
                Err(Stop::Over | Stop::Failed) => return Prewritten::Failed,
                Ok(()) => {}
            }
            if left.is_empty() {
                if style.is_one_phase {
                    // It was locked as for two phases, or for async commit.
                    self.style.is_one_phase = false;
                }
                if self.style.is_async && promised > 0 {
                    self.session.saw(Probe::CommittedAsync);
                    return Prewritten::Committed(promised);
                }
                self.style.is_async = false;
                return Prewritten::Locked;
            }
            for error in locked {
                let Some(lock) = error.locked else { continue };
                match self.session.resolve(&lock, 0, self.deadline).await {
                    Ok(Standing::Gone) => {}
                    Ok(Standing::Passed | Standing::Alive) => self.session.rest().await,
                    Err(Over) => return Prewritten::Failed,
                }
            }
            if self.session.now() >= self.deadline {
                return Prewritten::Failed;
            }
        }
    }

    /// One phase: all keys in one request, again and again as long as they have one region.
    async fn one_try(
        &self,
        keys: &[Key],
        tries: &mut Tries,
        make: impl Fn(proto::kvrpcpb::Context, &[Key]) -> Command,
        mut took: impl FnMut(
            &[Key],
            proto::tikvpb::batch_commands_response::response::Cmd,
        ) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        while self.session.now() < self.deadline {
            if self.session.groups(keys).len() != 1 {
                return if tries.is_lost { Err(Stop::Over) } else { Ok(()) };
            }
            let until_answered_once = self.session.now();
            let answer = self
                .session
                .ask(keys[0].encoded(), until_answered_once, tries, |context| make(context, keys))
                .await;
            match answer {
                Ok((_, answer)) => return took(keys, answer),
                Err(Over) => self.session.rest().await,
            }
        }
        Err(Stop::Over)
    }

    fn prewrite_request(
        &self,
        primary: &Key,
        mutations: &BTreeMap<Key, Mutation>,
        keys: &[Key],
    ) -> PrewriteRequest {
        let is_primary_here = keys.contains(primary);
        let others = || mutations.keys().filter(|key| *key != primary);
        let secondaries = match self.style.is_async && is_primary_here {
            true => others().map(|key| key.user().clone()).collect(),
            false => Vec::new(),
        };
        let mut request = PrewriteRequest {
            mutations: keys.iter().map(|key| mutations[key].clone()).collect(),
            primary_lock: primary.user().clone(),
            start_version: self.start_ts,
            lock_ttl: self.ttl_ms(),
            txn_size: mutations.len() as u64,
            use_async_commit: self.style.is_async,
            try_one_pc: self.style.is_one_phase,
            secondaries,
            ..Default::default()
        };
        if self.style.is_pessimistic {
            request.for_update_ts = self.for_update_ts;
            for (index, key) in keys.iter().enumerate() {
                let is_reserved = self.reserved.contains_key(&key_number(key.user()));
                request.pessimistic_actions.push(match is_reserved {
                    true => PessimisticAction::DoPessimisticCheck as i32,
                    false => PessimisticAction::SkipPessimisticCheck as i32,
                });
                if self.style.forces && is_reserved {
                    request.for_update_ts_constraints.push(ForUpdateTsConstraint {
                        index: index as u32,
                        expected_for_update_ts: self.reserved[&key_number(key.user())].since,
                    });
                }
            }
        }
        request
    }

    /// The second phase: the moment of the commit.
    async fn commit_primary(
        &mut self,
        primary: &Key,
        keys: Vec<Key>,
        early_ts: Option<u64>,
    ) -> Fate {
        let mut tries = Tries::default();
        loop {
            let ts = match early_ts {
                Some(ts) => Some(ts),
                None => self.session.timestamp(self.deadline).await,
            };
            // Nothing was sent under this timestamp; what was sent under an earlier one was refused.
            let Some(commit_version) = ts else { return Fate::Aborted };
            if self.has(Plant::SecondariesFirst) {
                self.commit_secondaries(keys.clone(), commit_version).await;
            }
            let slot = self.session.slot;
            self.session.shared_mut().open[slot]
                .as_mut()
                .expect("it is under way")
                .may_be_committed = true;
            let asked = self
                .session
                .ask(primary.encoded(), self.deadline, &mut tries, |context| {
                    Command::Commit(CommitRequest {
                        context: Some(context),
                        start_version: self.start_ts,
                        keys: vec![primary.user().clone()],
                        commit_version,
                        ..Default::default()
                    })
                })
                .await;
            let Ok((_, answer)) = asked else {
                return match self.has(Plant::UnknownSaidToAbort) || !tries.is_lost {
                    true => Fate::Aborted,
                    false => Fate::Unknown,
                };
            };
            let answer = expect_answer!(answer, Commit);
            match answer.error {
                None => {
                    self.commit_in_background(keys, commit_version);
                    return Fate::Committed(commit_version);
                }
                Some(error) if error.commit_ts_expired.is_some() => {
                    self.session.saw(Probe::CommitTooEarly);
                }
                // Its record, if there was one, is gone with the old versions.
                Some(error) if tries.is_lost && error.abort.contains("GCTooEarly") => {
                    return Fate::Unknown;
                }
                // Rolled back by somebody who thought that the client was gone.
                Some(_) => {
                    self.session.saw(Probe::CommitFoundRollback);
                    self.roll_back_in_background(keys);
                    return Fate::Aborted;
                }
            }
        }
    }

    /// The other keys follow whenever they may; some are left to whoever meets their locks.
    fn commit_in_background(&self, keys: Vec<Key>, commit_version: u64) {
        if self.session.happens(150) {
            return;
        }
        let session = self.session.clone();
        let (start_ts, deadline) = (self.start_ts, self.session.now() + COMMIT_PATIENCE);
        self.session.spawn(async move {
            commit_keys(&session, keys, start_ts, commit_version, deadline).await;
        });
    }

    async fn commit_secondaries(&self, keys: Vec<Key>, commit_version: u64) {
        let others = keys.into_iter().filter(|key| Some(key) != self.primary.as_ref()).collect();
        commit_keys(&self.session, others, self.start_ts, commit_version, self.deadline).await;
    }

    /// Whether it is certain that nobody can commit it any more.
    async fn roll_back_primary(&self, primary: &Key) -> bool {
        let deadline = self.session.now() + COMMIT_PATIENCE;
        let asked = self
            .session
            .ask(primary.encoded(), deadline, &mut Tries::default(), |context| {
                Command::BatchRollback(BatchRollbackRequest {
                    context: Some(context),
                    start_version: self.start_ts,
                    keys: vec![primary.user().clone()],
                    ..Default::default()
                })
            })
            .await;
        asked.is_ok_and(|(_, answer)| expect_answer!(answer, BatchRollback).error.is_none())
    }

    fn roll_back_in_background(&self, keys: Vec<Key>) {
        if self.session.happens(150) {
            return;
        }
        let session = self.session.clone();
        let (start_version, deadline) = (self.start_ts, self.session.now() + COMMIT_PATIENCE);
        self.session.spawn(async move {
            let make = |context, keys: &[Key]| {
                Command::BatchRollback(BatchRollbackRequest {
                    context: Some(context),
                    start_version,
                    keys: keys.iter().map(|key| key.user().clone()).collect(),
                    ..Default::default()
                })
            };
            let took = |_: &[Key], _| Ok::<(), Over>(());
            // Whoever meets its locks does it otherwise.
            let _ = session.ask_all(&keys, deadline, &mut Tries::default(), make, took).await;
        });
    }

    /// Reserved keys are given back, or left to whoever meets their locks.
    fn give_back(&self) {
        if self.session.happens(150) {
            return;
        }
        let keys: Vec<Key> = self.reserved.keys().map(|key| Key::new(user_key(*key))).collect();
        let session = self.session.clone();
        let (start_version, for_update_ts) = (self.start_ts, self.for_update_ts);
        let deadline = self.session.now() + COMMIT_PATIENCE;
        self.session.spawn(async move {
            let make = |context, keys: &[Key]| {
                Command::PessimisticRollback(PessimisticRollbackRequest {
                    context: Some(context),
                    start_version,
                    for_update_ts,
                    keys: keys.iter().map(|key| key.user().clone()).collect(),
                })
            };
            let took = |_: &[Key], _| Ok::<(), Over>(());
            let _ = session.ask_all(&keys, deadline, &mut Tries::default(), make, took).await;
        });
    }
}

async fn commit_keys(
    session: &super::session::Session,
    keys: Vec<Key>,
    start_version: u64,
    commit_version: u64,
    deadline: u64,
) {
    let make = |context, keys: &[Key]| {
        Command::Commit(CommitRequest {
            context: Some(context),
            start_version,
            keys: keys.iter().map(|key| key.user().clone()).collect(),
            commit_version,
            ..Default::default()
        })
    };
    let took = |_: &[Key], _| Ok::<(), Over>(());
    let _ = session.ask_all(&keys, deadline, &mut Tries::default(), make, took).await;
}
