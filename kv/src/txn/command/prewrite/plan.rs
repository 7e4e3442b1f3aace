//! May this mutation's key be locked? By its lock, and by its newest record where that is due:
//!
//! | the key holds | optimistic | pessimistic, to be locked already | pessimistic, not locked before |
//! |---|---|---|---|
//! | another's lock | locked | lost | locked, and may be resolved at once |
//! | own prewrite lock | done before | done before | done before |
//! | own pessimistic lock | mistake | replaced | replaced |
//! | no lock | conflict if written since the start | lost if written since the start | conflict if asked to look |

use bytes::Bytes;
use proto::kvrpcpb::{
    self, Assertion, AssertionLevel, Mutation, Op, PrewriteRequest,
    prewrite_request::PessimisticAction, write_conflict::Reason,
};
use raftstore::engine::Snapshot;

use crate::keys::Key;
use crate::plant::Bug;
use crate::txn::problem::{Abort, KeyProblem, Stop, WriteConflict};
use crate::txn::reader::{OwnRecord, Reader};
use crate::txn::record::{Lock, LockKind, SHORT_VALUE_BYTES_MAX, Write, WriteKind};

/// What is to become of one mutation.
pub(super) enum Plan {
    /// It only checks.
    Nothing,
    /// It is locked by us; its earliest commit when that is an async commit's, else 0.
    AlreadyLocked { min_commit_ts: u64 },
    /// It is free to be locked.
    Lock(Box<Planned>),
}

/// A lock to be.
pub(super) struct Planned {
    pub(super) key: Key,
    pub(super) lock: Lock,
    /// The value, when it is too long for the lock.
    pub(super) long_value: Option<Bytes>,
    /// A pessimistic lock of ours stands there.
    pub(super) replaces_pessimistic: bool,
    /// An earlier generation's long value, which this one does not overwrite.
    pub(super) drops_long_value: bool,
}

/// What a mutation must be checked for when no lock of ours stands on its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Optimistic,
    /// A pessimistic transaction's key without a lock of its own (an index, say).
    Unlocked,
    /// A key whose pessimistic lock must be there.
    MustBeLocked,
    /// A key whose conflicts were left to be found now.
    CheckNow,
}

/// Looks at one mutation after the other.
pub(super) struct Planner<'a, S: Snapshot> {
    reader: &'a mut Reader<S>,
    request: &'a PrewriteRequest,
    is_pessimistic: bool,
    /// Of a pipelined transaction; 0 for all others.
    generation: u64,
}

impl<'a, S: Snapshot> Planner<'a, S> {
    pub(super) fn new(
        reader: &'a mut Reader<S>,
        request: &'a PrewriteRequest,
        generation: u64,
    ) -> Self {
        Self { reader, request, is_pessimistic: request.for_update_ts > 0, generation }
    }

    /// What is to become of this mutation, or why it cannot be.
    pub(super) fn plan(&mut self, index: usize, mutation: &Mutation) -> Result<Plan, Stop> {
        let request = self.request;
        let kind = kind_of(mutation.op(), self.is_pessimistic)?;
        let role = self.role(index)?;
        let key = Key::new(mutation.key.clone());
        let mut replaced = None;
        // Whether the newest record was read; there may be none.
        let mut is_loaded = false;
        match self.reader.lock(&key)? {
            Some(lock) if lock.start_ts != request.start_version => {
                return Err(self.foreign_lock(&key, &lock, role));
            }
            // An earlier generation of ours has locked it, or this one has, if it comes twice.
            Some(lock) if 0 < lock.generation && lock.generation <= self.generation => {
                replaced = Some(lock);
            }
            Some(lock) if !lock.is_pessimistic() => {
                let min_commit_ts = if lock.async_commit { lock.min_commit_ts } else { 0 };
                return Ok(Plan::AlreadyLocked { min_commit_ts });
            }
            Some(lock) => {
                self.check_own_pessimistic(index, &key, &lock, role)?;
                replaced = Some(lock);
            }
            None if role == Role::MustBeLocked => {
                self.amend(&key)?;
                is_loaded = true;
            }
            None if self.must_check(role) => {
                self.check_constraints(&key, mutation, role)?;
                is_loaded = true;
            }
            None => self.check_not_ended(&key)?,
        }
        self.check_assertion(&key, mutation, is_loaded)?;
        let Some(kind) = kind else { return Ok(Plan::Nothing) };

        let mut lock =
            Lock::new(kind, request.primary_lock.clone(), request.start_version, request.lock_ttl);
        lock.for_update_ts = request.for_update_ts;
        lock.txn_size = request.txn_size;
        lock.min_commit_ts = request.min_commit_ts;
        lock.generation = self.generation;
        lock.txn_source = request.context.as_ref().map_or(0, |context| context.txn_source);
        if let Some(old) = &replaced {
            lock.ttl = lock.ttl.max(old.ttl);
            lock.min_commit_ts = lock.min_commit_ts.max(old.min_commit_ts);
            lock.for_update_ts = lock.for_update_ts.max(old.for_update_ts);
        }
        let mut long_value = None;
        if kind == LockKind::Put {
            if mutation.value.len() <= SHORT_VALUE_BYTES_MAX {
                lock.short_value = Some(mutation.value.clone());
            } else {
                long_value = Some(mutation.value.clone());
            }
        }
        let replaces_pessimistic = replaced.as_ref().is_some_and(Lock::is_pessimistic);
        let had_long_value =
            replaced.is_some_and(|old| old.kind == LockKind::Put && old.short_value.is_none());
        let drops_long_value = had_long_value && long_value.is_none();
        Ok(Plan::Lock(Box::new(Planned {
            key,
            lock,
            long_value,
            replaces_pessimistic,
            drops_long_value,
        })))
    }

    fn role(&self, index: usize) -> Result<Role, Stop> {
        if !self.is_pessimistic {
            return Ok(Role::Optimistic);
        }
        let action = self.request.pessimistic_actions.get(index).copied().unwrap_or_default();
        Ok(match PessimisticAction::try_from(action) {
            Ok(PessimisticAction::SkipPessimisticCheck) => Role::Unlocked,
            Ok(PessimisticAction::DoPessimisticCheck) => Role::MustBeLocked,
            Ok(PessimisticAction::DoConstraintCheck) => Role::CheckNow,
            Err(_) => return Err(Abort::InvalidRequest("unknown pessimistic action").into()),
        })
    }

    /// Another transaction's lock. A pessimistic client may resolve it at once: had it been alive,
    /// the key would have been locked by us before.
    fn foreign_lock(&self, key: &Key, lock: &Lock, role: Role) -> Stop {
        match role {
            Role::Optimistic => Stop::locked(lock, key),
            Role::Unlocked | Role::CheckNow => Stop::locked(&Lock { ttl: 0, ..lock.clone() }, key),
            Role::MustBeLocked => self.lock_lost(key),
        }
    }

    fn check_own_pessimistic(
        &self,
        index: usize,
        key: &Key,
        lock: &Lock,
        role: Role,
    ) -> Result<(), Stop> {
        match role {
            Role::Optimistic => Err(Abort::LockTypeNotMatch {
                start_ts: lock.start_ts,
                key: key.user().clone(),
                found: "pessimistic",
            }
            .into()),
            Role::MustBeLocked => {
                let expected = self
                    .request
                    .for_update_ts_constraints
                    .iter()
                    .find(|constraint| constraint.index as usize == index);
                if expected.is_some_and(|c| c.expected_for_update_ts != lock.for_update_ts) {
                    return Err(self.lock_lost(key));
                }
                Ok(())
            }
            Role::Unlocked | Role::CheckNow => Ok(()),
        }
    }

    fn must_check(&self, role: Role) -> bool {
        match role {
            Role::Optimistic => !self.request.skip_constraint_check,
            Role::CheckNow => true,
            // A first request cannot meet its own traces; a repeated one may.
            Role::Unlocked => {
                self.request.context.as_ref().is_some_and(|context| context.is_retry_request)
            }
            Role::MustBeLocked => false,
        }
    }

    /// Even where conflicts do not matter, a prewrite that comes after its transaction's end must
    /// not lock again: nobody would remove the lock.
    fn check_not_ended(&mut self, key: &Key) -> Result<(), Stop> {
        let start_ts = self.request.start_version;
        match self.reader.own_record(key, start_ts)? {
            OwnRecord::Unknown { .. } => Ok(()),
            OwnRecord::Committed { .. } => Err(self.lock_lost(key)),
            OwnRecord::RolledBack => {
                let record = Write::rollback(start_ts, true);
                Err(self.conflict(key, start_ts, &record, Reason::SelfRolledBack))
            }
        }
    }

    fn lock_lost(&self, key: &Key) -> Stop {
        let start_ts = self.request.start_version;
        Abort::PessimisticLockNotFound { start_ts, key: key.user().clone() }.into()
    }

    /// The key's pessimistic lock is gone (it may have been lost with a leader). That does no harm
    /// while nobody has written since the transaction began.
    fn amend(&mut self, key: &Key) -> Result<(), Stop> {
        match self.reader.write_at_or_before(key, u64::MAX)? {
            Some((commit_ts, _))
                if commit_ts >= self.request.start_version
                    && !self.reader.has(Bug::LostLockAmended) =>
            {
                Err(self.lock_lost(key))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The newest record decides whether the key may be locked.
    fn check_constraints(
        &mut self,
        key: &Key,
        mutation: &Mutation,
        role: Role,
    ) -> Result<(), Stop> {
        let start_ts = self.request.start_version;
        let Some((mut commit_ts, mut write)) = self.reader.write_at_or_before(key, u64::MAX)?
        else {
            return Ok(());
        };
        loop {
            let is_rollback = write.kind == WriteKind::Rollback;
            let is_ours = commit_ts == start_ts && (is_rollback || write.overlapped_rollback);
            if is_ours && !self.reader.has(Bug::OwnRollbackOverlooked) {
                return Err(self.conflict(key, commit_ts, &write, Reason::SelfRolledBack));
            }
            let is_checked = !self.reader.has(Bug::ConflictUnchecked);
            if role == Role::Optimistic && commit_ts > start_ts && is_checked {
                return Err(self.conflict(key, commit_ts, &write, Reason::Optimistic));
            }
            if role == Role::CheckNow && commit_ts > start_ts {
                return Err(self.conflict(key, commit_ts, &write, Reason::LazyUniquenessCheck));
            }
            if self.is_pessimistic && commit_ts > self.request.for_update_ts {
                if !is_rollback {
                    return Err(self.lock_lost(key));
                }
                // Others' rollbacks say nothing about the data.
                match self.reader.write_at_or_before(key, commit_ts - 1)? {
                    Some(older) => (commit_ts, write) = older,
                    None => return Ok(()),
                }
                continue;
            }
            break;
        }
        if matches!(mutation.op(), Op::Insert | Op::CheckNotExists)
            && self.reader.exists(key, u64::MAX)?
        {
            return Err(KeyProblem::AlreadyExist { key: key.user().clone() }.into());
        }
        Ok(())
    }

    fn conflict(&self, key: &Key, commit_ts: u64, write: &Write, reason: Reason) -> Stop {
        KeyProblem::WriteConflict(Box::new(WriteConflict {
            start_ts: self.request.start_version,
            conflict_start_ts: write.start_ts,
            conflict_commit_ts: commit_ts,
            key: key.user().clone(),
            primary: self.request.primary_lock.clone(),
            reason,
        }))
        .into()
    }

    /// `is_loaded`: the newest record was looked for anyway; the fast level checks only then.
    fn check_assertion(
        &mut self,
        key: &Key,
        mutation: &Mutation,
        is_loaded: bool,
    ) -> Result<(), Stop> {
        let is_due = match self.request.assertion_level() {
            AssertionLevel::Off => false,
            AssertionLevel::Fast => is_loaded,
            AssertionLevel::Strict => true,
        };
        if !is_due || mutation.assertion() == Assertion::None {
            return Ok(());
        }
        let data = self.reader.data_at_or_before(key, u64::MAX)?;
        let exists = data.as_ref().is_some_and(|(_, write)| write.kind == WriteKind::Put);
        if exists == (mutation.assertion() == Assertion::Exist) {
            return Ok(());
        }
        let (existing_commit_ts, existing_start_ts) =
            data.map_or((0, 0), |(commit_ts, write)| (commit_ts, write.start_ts));
        Err(KeyProblem::AssertionFailed(Box::new(kvrpcpb::AssertionFailed {
            start_ts: self.request.start_version,
            key: key.user().clone(),
            assertion: mutation.assertion,
            existing_start_ts,
            existing_commit_ts,
        }))
        .into())
    }

    /// Whether the problem comes from our own commit, which the caller did not hear of.
    pub(super) fn own_commit(
        &mut self,
        mutation: &Mutation,
        problem: &KeyProblem,
    ) -> Result<Option<u64>, Stop> {
        let start_ts = self.request.start_version;
        let may_be_ours = match problem {
            KeyProblem::WriteConflict(conflict) => conflict.conflict_commit_ts > start_ts,
            KeyProblem::Locked(_) | KeyProblem::Abort(Abort::PessimisticLockNotFound { .. }) => {
                true
            }
            KeyProblem::AlreadyExist { .. }
            | KeyProblem::TxnLockNotFound { .. }
            | KeyProblem::TxnNotFound { .. }
            | KeyProblem::CommitTsExpired { .. }
            | KeyProblem::AssertionFailed(_)
            | KeyProblem::PrimaryMismatch(_)
            | KeyProblem::Deadlock(_)
            | KeyProblem::Abort(_) => false,
        };
        if !may_be_ours {
            return Ok(None);
        }
        match self.reader.own_record(&Key::new(mutation.key.clone()), start_ts)? {
            OwnRecord::Committed { commit_ts, .. } => Ok(Some(commit_ts)),
            OwnRecord::RolledBack | OwnRecord::Unknown { .. } => Ok(None),
        }
    }
}

/// The lock a mutation turns into; `None` when it only checks.
fn kind_of(op: Op, is_pessimistic: bool) -> Result<Option<LockKind>, Stop> {
    match op {
        Op::Put | Op::Insert => Ok(Some(LockKind::Put)),
        Op::Del => Ok(Some(LockKind::Delete)),
        Op::Lock => Ok(Some(LockKind::Lock)),
        Op::CheckNotExists if !is_pessimistic => Ok(None),
        Op::CheckNotExists => {
            Err(Abort::InvalidRequest("a pessimistic prewrite cannot only check").into())
        }
        Op::SharedLock | Op::SharedPessimisticLock => {
            Err(Abort::InvalidRequest("shared locks are not supported").into())
        }
        Op::Rollback | Op::PessimisticLock => {
            Err(Abort::InvalidRequest("not an operation of a prewrite").into())
        }
    }
}
