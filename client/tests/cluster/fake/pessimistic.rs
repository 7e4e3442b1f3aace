//! Locks taken before the commit. A store of the fake never waits: it says at once who is in the way.

use std::collections::btree_map::Entry;

use bytes::Bytes;
use proto::{deadlock, kvrpcpb};

use super::percolator::{Failed, Lock, Percolator, conflict, locked};

impl Percolator {
    pub(super) fn pessimistic_lock(
        &mut self,
        request: &kvrpcpb::PessimisticLockRequest,
    ) -> kvrpcpb::PessimisticLockResponse {
        let start = request.start_version;
        for mutation in &request.mutations {
            assert_eq!(mutation.op(), kvrpcpb::Op::PessimisticLock);
            if let Err(error) = self.may_lock(request, mutation) {
                return kvrpcpb::PessimisticLockResponse {
                    errors: vec![error],
                    ..Default::default()
                };
            }
        }
        self.waits.remove(&start);
        let mut answer = kvrpcpb::PessimisticLockResponse::default();
        for mutation in &request.mutations {
            let key = &mutation.key;
            let fresh = Lock {
                primary: request.primary_lock.clone(),
                start,
                ttl: request.lock_ttl,
                op: kvrpcpb::Op::PessimisticLock,
                value: Bytes::new(),
                min_commit: request.min_commit_ts,
                txn_size: 0,
                for_update: request.for_update_ts,
                async_commit: None,
            };
            match self.locks.entry(key.clone()) {
                Entry::Vacant(entry) => drop(entry.insert(fresh)),
                Entry::Occupied(mut entry) => {
                    let lock = entry.get_mut();
                    lock.for_update = lock.for_update.max(request.for_update_ts);
                    lock.ttl = lock.ttl.max(request.lock_ttl);
                }
            }
            if request.return_values {
                let value = self.get(key, u64::MAX, &[]).unwrap();
                answer.not_founds.push(value.is_none());
                answer.values.push(value.unwrap_or_default());
            }
        }
        answer
    }

    fn may_lock(
        &mut self,
        request: &kvrpcpb::PessimisticLockRequest,
        mutation: &kvrpcpb::Mutation,
    ) -> Result<(), Failed> {
        let (key, start) = (&mutation.key, request.start_version);
        match self.locks.get(key) {
            Some(lock) if lock.start == start => return Ok(()),
            Some(lock) => {
                let (holder, error) = (lock.start, locked(key, lock));
                if !request.is_first_lock {
                    self.waits_for(start, holder, key)?;
                }
                return Err(error);
            }
            None => {}
        }
        if self.record(key, start) == Some(0) {
            let abort = "PessimisticLockRolledBack".into();
            return Err(Failed { abort, ..Default::default() });
        }
        let newest = self.versions(key).next().map(|(commit, write)| (commit, write.start));
        if let Some((commit, other)) = newest
            && commit > request.for_update_ts
        {
            let mut error = conflict(key, start, other, commit);
            error.conflict.as_mut().unwrap().reason =
                kvrpcpb::write_conflict::Reason::PessimisticRetry as i32;
            return Err(error);
        }
        let must_not_exist = mutation.assertion() == kvrpcpb::Assertion::NotExist;
        if must_not_exist && self.get(key, u64::MAX, &[]).unwrap().is_some() {
            let already_exist = Some(kvrpcpb::AlreadyExist { key: key.clone() });
            return Err(Failed { already_exist, ..Default::default() });
        }
        Ok(())
    }

    fn waits_for(&mut self, waiter: u64, holder: u64, key: &Bytes) -> Result<(), Failed> {
        let mut chain = Vec::new();
        let mut at = holder;
        while let Some(next) = self.waits.get(&at) {
            chain.push(deadlock::WaitForEntry {
                txn: at,
                wait_for_txn: *next,
                ..Default::default()
            });
            if *next == waiter {
                let deadlock = kvrpcpb::Deadlock {
                    lock_ts: holder,
                    lock_key: key.clone(),
                    wait_chain: chain,
                    ..Default::default()
                };
                return Err(Failed { deadlock: Some(deadlock), ..Default::default() });
            }
            at = *next;
        }
        self.waits.insert(waiter, holder);
        Ok(())
    }

    pub(super) fn pessimistic_rollback(&mut self, request: &kvrpcpb::PessimisticRollbackRequest) {
        let start = request.start_version;
        self.waits.remove(&start);
        for key in &request.keys {
            let is_released = |lock: &mut Lock| {
                lock.start == start
                    && lock.op == kvrpcpb::Op::PessimisticLock
                    && lock.for_update <= request.for_update_ts
            };
            if self.locks.get_mut(key).is_some_and(is_released) {
                self.locks.remove(key);
            }
        }
    }
}
