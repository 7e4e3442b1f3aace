//! Versions and locks, as short as they can be written.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::{Timestamp, kvrpcpb};

#[derive(Clone, Debug)]
pub(crate) struct Lock {
    pub(crate) primary: Bytes,
    pub(crate) start: u64,
    pub(crate) ttl: u64,
    pub(crate) op: kvrpcpb::Op,
    pub(crate) value: Bytes,
    pub(crate) min_commit: u64,
    pub(crate) txn_size: u64,
    /// Of a pessimistic transaction: when it was taken.
    pub(crate) for_update: u64,
    /// Present when the transaction commits asynchronously; the keys, in the primary's lock only.
    pub(crate) async_commit: Option<Vec<Bytes>>,
}

#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) start: u64,
    pub(super) op: kvrpcpb::Op,
    value: Bytes,
}

#[derive(Default)]
pub(crate) struct Percolator {
    pub(crate) locks: BTreeMap<Bytes, Lock>,
    writes: BTreeMap<(Bytes, Reverse<u64>), Write>,
    /// The newest read; commits that choose their own timestamp stay behind it.
    pub(crate) newest_read: u64,
    /// Knows of commits in two phases only, as stores once did.
    pub(crate) is_plain: bool,
    /// Who waits for whom.
    pub(super) waits: BTreeMap<u64, u64>,
}

pub(super) type Failed = kvrpcpb::KeyError;

impl Percolator {
    pub(crate) fn keys(&self) -> Vec<Bytes> {
        let written = self.writes.keys().map(|(key, _)| key.clone());
        let keys: BTreeSet<_> = written.chain(self.locks.keys().cloned()).collect();
        keys.into_iter().collect()
    }

    pub(crate) fn locks(&self, up_to: u64) -> Vec<kvrpcpb::LockInfo> {
        let old = self.locks.iter().filter(|(_, lock)| lock.start <= up_to);
        old.map(|(key, lock)| described(key, lock)).collect()
    }

    pub(crate) fn read_at(&mut self, at: u64) {
        if at != u64::MAX {
            self.newest_read = self.newest_read.max(at);
        }
    }

    pub(crate) fn get(
        &self,
        key: &Bytes,
        at: u64,
        ignored: &[u64],
    ) -> Result<Option<Bytes>, Failed> {
        if let Some(lock) = self.locks.get(key)
            && lock.start <= at
            && !matches!(lock.op, kvrpcpb::Op::Lock | kvrpcpb::Op::PessimisticLock)
            && lock.min_commit <= at
            && !ignored.contains(&lock.start)
        {
            return Err(locked(key, lock));
        }
        let newest = self
            .versions(key)
            .find(|(commit, write)| *commit <= at && is_data(write.op))
            .filter(|(_, write)| write.op == kvrpcpb::Op::Put);
        Ok(newest.map(|(_, write)| write.value.clone()))
    }

    pub(super) fn versions(&self, key: &Bytes) -> impl Iterator<Item = (u64, &Write)> {
        let from = (key.clone(), Reverse(u64::MAX));
        self.writes
            .range(from..)
            .take_while(move |((other, _), _)| other == key)
            .map(|((_, Reverse(commit)), write)| (*commit, write))
    }

    /// Committed at, or rolled back (zero), or nothing known.
    pub(super) fn record(&self, key: &Bytes, start: u64) -> Option<u64> {
        let own = self.versions(key).find(|(_, write)| write.start == start);
        own.map(|(commit, write)| if write.op == kvrpcpb::Op::Rollback { 0 } else { commit })
    }

    /// What of a transaction's fate is known on this key: committed at, or rolled back (zero).
    fn prewrite_again(&self, request: &kvrpcpb::PrewriteRequest) -> Option<u64> {
        let key = &request.mutations.first()?.key;
        self.record(key, request.start_version).filter(|commit| *commit > 0)
    }

    pub(crate) fn prewrite(
        &mut self,
        request: kvrpcpb::PrewriteRequest,
    ) -> kvrpcpb::PrewriteResponse {
        if let Some(at) = self.prewrite_again(&request) {
            let in_one_phase = if request.try_one_pc { at } else { 0 };
            return kvrpcpb::PrewriteResponse {
                min_commit_ts: at - in_one_phase,
                one_pc_commit_ts: in_one_phase,
                ..Default::default()
            };
        }
        let earliest = self.newest_read.max(request.start_version).max(request.for_update_ts) + 1;
        let earliest = earliest.max(request.min_commit_ts);
        let one_phase = request.try_one_pc && !self.is_plain;
        let is_async = request.use_async_commit && !one_phase && !self.is_plain;
        let taken = match self.plan(&request, is_async, earliest) {
            Ok(taken) => taken,
            Err(errors) => return kvrpcpb::PrewriteResponse { errors, ..Default::default() },
        };
        if one_phase {
            for (key, lock) in taken {
                self.locks.remove(&key);
                let write = Write { start: lock.start, op: lock.op, value: lock.value };
                self.writes.insert((key, Reverse(earliest)), write);
            }
            return kvrpcpb::PrewriteResponse { one_pc_commit_ts: earliest, ..Default::default() };
        }
        self.locks.extend(taken);
        let min_commit_ts = if is_async { earliest } else { 0 };
        kvrpcpb::PrewriteResponse { min_commit_ts, ..Default::default() }
    }

    fn plan(
        &self,
        request: &kvrpcpb::PrewriteRequest,
        is_async: bool,
        earliest: u64,
    ) -> Result<Vec<(Bytes, Lock)>, Vec<Failed>> {
        let start = request.start_version;
        let is_pessimistic = request.for_update_ts > 0;
        let mut errors = Vec::new();
        let mut taken = Vec::new();
        for mutation in &request.mutations {
            let key = mutation.key.clone();
            let mut is_held = false;
            match self.locks.get(&key) {
                Some(lock) if lock.start == start => {
                    if lock.op != kvrpcpb::Op::PessimisticLock {
                        continue;
                    }
                    assert!(is_pessimistic, "a prewrite says that its locks are there already");
                    is_held = true;
                }
                Some(lock) => {
                    errors.push(locked(&key, lock));
                    continue;
                }
                None => {}
            }
            let newest = self.versions(&key).next().map(|(commit, write)| (commit, write.start));
            if let Some((commit, other)) = newest
                && !is_held
                && (commit > start || self.record(&key, start) == Some(0))
            {
                if is_pessimistic {
                    let abort = "PessimisticLockNotFound".into();
                    return Err(vec![Failed { abort, ..Default::default() }]);
                }
                return Err(vec![conflict(&key, start, other, commit)]);
            }
            let op = mutation.op();
            let demands_absence = matches!(op, kvrpcpb::Op::Insert | kvrpcpb::Op::CheckNotExists);
            if demands_absence && self.get(&key, u64::MAX, &[]).unwrap().is_some() {
                let already_exist = Some(kvrpcpb::AlreadyExist { key });
                return Err(vec![Failed { already_exist, ..Default::default() }]);
            }
            if op == kvrpcpb::Op::CheckNotExists {
                continue;
            }
            let lock = Lock {
                primary: request.primary_lock.clone(),
                start,
                ttl: request.lock_ttl,
                op: if op == kvrpcpb::Op::Insert { kvrpcpb::Op::Put } else { op },
                value: mutation.value.clone(),
                min_commit: if is_async { earliest } else { request.min_commit_ts },
                txn_size: request.txn_size,
                for_update: request.for_update_ts,
                async_commit: is_async.then(|| {
                    if key == request.primary_lock { request.secondaries.clone() } else { vec![] }
                }),
            };
            taken.push((key, lock));
        }
        if errors.is_empty() { Ok(taken) } else { Err(errors) }
    }

    pub(crate) fn commit(&mut self, keys: &[Bytes], start: u64, at: u64) -> Result<(), Failed> {
        for key in keys {
            match self.locks.get(key) {
                Some(lock) if lock.start == start && lock.min_commit > at => {
                    let commit_ts_expired = Some(kvrpcpb::CommitTsExpired {
                        start_ts: start,
                        attempted_commit_ts: at,
                        key: key.clone(),
                        min_commit_ts: lock.min_commit,
                    });
                    return Err(Failed { commit_ts_expired, ..Default::default() });
                }
                Some(lock) if lock.start == start => {}
                Some(_) | None => {
                    if self.record(key, start).is_none_or(|commit| commit == 0) {
                        return Err(Failed {
                            retryable: "TxnLockNotFound".into(),
                            txn_lock_not_found: Some(kvrpcpb::TxnLockNotFound { key: key.clone() }),
                            ..Default::default()
                        });
                    }
                }
            }
        }
        for key in keys {
            // Committed before: the lock that stands there now may be another transaction's.
            if self.locks.get(key).is_some_and(|lock| lock.start == start)
                && let Some(lock) = self.locks.remove(key)
            {
                let write = Write { start, op: lock.op, value: lock.value };
                self.writes.insert((key.clone(), Reverse(at)), write);
            }
        }
        Ok(())
    }

    pub(crate) fn rollback(&mut self, keys: &[Bytes], start: u64) -> Result<(), Failed> {
        for key in keys {
            if self.record(key, start).is_some_and(|commit| commit > 0) {
                return Err(Failed { abort: "Committed".into(), ..Default::default() });
            }
            if self.locks.get(key).is_some_and(|lock| lock.start == start) {
                self.locks.remove(key);
            }
            self.waits.remove(&start);
            let write = Write { start, op: kvrpcpb::Op::Rollback, value: Bytes::new() };
            self.writes.entry((key.clone(), Reverse(start))).or_insert(write);
        }
        Ok(())
    }

    pub(crate) fn heart_beat(
        &mut self,
        request: kvrpcpb::TxnHeartBeatRequest,
    ) -> kvrpcpb::TxnHeartBeatResponse {
        let lock = self.locks.get_mut(&request.primary_lock);
        match lock.filter(|lock| lock.start == request.start_version) {
            Some(lock) => {
                lock.ttl = lock.ttl.max(request.advise_lock_ttl);
                kvrpcpb::TxnHeartBeatResponse { lock_ttl: lock.ttl, ..Default::default() }
            }
            None => kvrpcpb::TxnHeartBeatResponse {
                error: Some(not_found(request.start_version, request.primary_lock)),
                ..Default::default()
            },
        }
    }

    pub(crate) fn check_status(
        &mut self,
        request: kvrpcpb::CheckTxnStatusRequest,
    ) -> kvrpcpb::CheckTxnStatusResponse {
        use kvrpcpb::Action;
        let key = request.primary_key;
        let start = request.lock_ts;
        let mut answer = kvrpcpb::CheckTxnStatusResponse::default();
        let lock = self.locks.get_mut(&key).filter(|lock| lock.start == start);
        if let Some(lock) = lock {
            let expires = Timestamp(start).physical() + lock.ttl;
            if lock.async_commit.is_some() && !request.force_sync_commit {
                answer.lock_ttl = lock.ttl;
                answer.lock_info = Some(described(&key, lock));
                return answer;
            }
            if expires < Timestamp(request.current_ts).physical()
                && lock.op == kvrpcpb::Op::PessimisticLock
                && request.resolving_pessimistic_lock
            {
                self.locks.remove(&key);
                answer.action = Action::TtlExpirePessimisticRollback as i32;
                return answer;
            }
            if expires < Timestamp(request.current_ts).physical() {
                self.rollback(&[key], start).unwrap();
                answer.action = Action::TtlExpireRollback as i32;
                return answer;
            }
            if lock.min_commit != 0 && request.caller_start_ts >= lock.min_commit {
                lock.min_commit = (request.caller_start_ts + 1).max(request.current_ts);
            }
            if request.caller_start_ts != 0 && lock.min_commit > request.caller_start_ts {
                answer.action = Action::MinCommitTsPushed as i32;
            }
            answer.lock_ttl = lock.ttl;
            answer.lock_info = Some(described(&key, lock));
            return answer;
        }
        match self.record(&key, start) {
            Some(commit) => answer.commit_version = commit,
            None if request.rollback_if_not_exist && request.resolving_pessimistic_lock => {
                answer.action = Action::LockNotExistDoNothing as i32;
            }
            None if request.rollback_if_not_exist => {
                self.rollback(&[key], start).unwrap();
                answer.action = Action::LockNotExistRollback as i32;
            }
            None => answer.error = Some(not_found(start, key)),
        }
        answer
    }
}

impl Percolator {
    /// Everything about a key; values longer than a byte stand apart from their records.
    pub(crate) fn records(&self, key: &Bytes) -> kvrpcpb::MvccInfo {
        let mut info = kvrpcpb::MvccInfo::default();
        let mut split = |start_ts: u64, value: &Bytes| {
            if value.len() < 2 {
                return value.clone();
            }
            info.values.push(kvrpcpb::MvccValue { start_ts, value: value.clone() });
            Bytes::new()
        };
        let lock = self.locks.get(key).map(|lock| kvrpcpb::MvccLock {
            r#type: lock.op as i32,
            start_ts: lock.start,
            primary: lock.primary.clone(),
            short_value: split(lock.start, &lock.value),
            ttl: lock.ttl,
            for_update_ts: lock.for_update,
            txn_size: lock.txn_size,
            use_async_commit: lock.async_commit.is_some(),
            secondaries: lock.async_commit.clone().unwrap_or_default(),
            ..Default::default()
        });
        let writes = self.versions(key).map(|(commit_ts, write)| kvrpcpb::MvccWrite {
            r#type: write.op as i32,
            start_ts: write.start,
            commit_ts,
            short_value: split(write.start, &write.value),
            ..Default::default()
        });
        let writes = writes.collect();
        kvrpcpb::MvccInfo { lock, writes, values: info.values }
    }

    /// Asked of an asynchronous commit's secondaries; a key that is not locked can never be.
    pub(crate) fn check_secondaries(
        &mut self,
        request: kvrpcpb::CheckSecondaryLocksRequest,
    ) -> kvrpcpb::CheckSecondaryLocksResponse {
        let start = request.start_version;
        let mut answer = kvrpcpb::CheckSecondaryLocksResponse::default();
        for key in request.keys {
            if let Some(lock) = self.locks.get(&key).filter(|lock| lock.start == start) {
                answer.locks.push(described(&key, lock));
                continue;
            }
            answer.locks.clear();
            match self.record(&key, start) {
                Some(commit) => answer.commit_ts = commit,
                None => self.rollback(&[key], start).unwrap(),
            }
            break;
        }
        answer
    }
}

fn is_data(op: kvrpcpb::Op) -> bool {
    matches!(op, kvrpcpb::Op::Put | kvrpcpb::Op::Del)
}

pub(super) fn described(key: &Bytes, lock: &Lock) -> kvrpcpb::LockInfo {
    kvrpcpb::LockInfo {
        primary_lock: lock.primary.clone(),
        lock_version: lock.start,
        key: key.clone(),
        lock_ttl: lock.ttl,
        lock_type: lock.op as i32,
        lock_for_update_ts: lock.for_update,
        min_commit_ts: lock.min_commit,
        txn_size: lock.txn_size,
        use_async_commit: lock.async_commit.is_some(),
        secondaries: lock.async_commit.clone().unwrap_or_default(),
        ..Default::default()
    }
}

pub(super) fn locked(key: &Bytes, lock: &Lock) -> Failed {
    Failed { locked: Some(described(key, lock)), ..Default::default() }
}

pub(super) fn conflict(key: &Bytes, start: u64, other: u64, commit: u64) -> Failed {
    Failed {
        retryable: "WriteConflict".into(),
        conflict: Some(kvrpcpb::WriteConflict {
            start_ts: start,
            conflict_ts: other,
            key: key.clone(),
            conflict_commit_ts: commit,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn not_found(start_ts: u64, primary_key: Bytes) -> Failed {
    let txn_not_found = Some(kvrpcpb::TxnNotFound { start_ts, primary_key });
    Failed { txn_not_found, ..Default::default() }
}
