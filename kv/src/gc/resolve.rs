//! The locks that old transactions have left in a region: what became of each transaction, carried out.

use std::collections::BTreeMap;
use std::future::Future;

use bytes::Bytes;
use proto::KeyRange;
use proto::kvrpcpb::{
    CheckSecondaryLocksRequest, CheckSecondaryLocksResponse, CheckTxnStatusRequest,
    CheckTxnStatusResponse, Context, LockInfo, Op,
};

use crate::keys::Key;
use crate::storage::Storage;
use crate::txn::Transactions;
use crate::txn::command::resolve_lock::{BATCH_LOCKS_MAX, Fates};
use crate::txn::problem::Stop;

/// Asks other keys of a transaction, wherever they are. An answer has no region error: those are dealt
/// with. The error says in words why there is no answer now.
pub(crate) trait Ask: Sync {
    /// What became of a transaction, asked of its primary.
    fn check_txn_status(
        &self,
        request: CheckTxnStatusRequest,
    ) -> impl Future<Output = Result<CheckTxnStatusResponse, String>> + Send;

    /// Whether the other keys of an async commit are locked; all keys of a request are of one region.
    fn check_secondary_locks(
        &self,
        keys: Vec<Bytes>,
        start_ts: u64,
    ) -> impl Future<Output = Result<Vec<CheckSecondaryLocksResponse>, String>> + Send;
}

/// Resolves every lock in the region of a transaction that began at or before the safe point; returns how
/// many there were. `Err` says in words why some may be left.
pub(crate) async fn resolve<St: Storage>(
    transactions: &Transactions<St>,
    ask: &impl Ask,
    context: &Context,
    range: &KeyRange,
    safe_point: u64,
) -> Result<u64, String> {
    let mut fates = Fates::new();
    let mut from = range.start.clone();
    let mut count = 0;
    loop {
        let rest = KeyRange { start: from, end: range.end.clone() };
        let found = transactions.old_locks(context, &rest, safe_point, BATCH_LOCKS_MAX).await;
        let locks = found.map_err(in_words)?;
        let Some((last, _)) = locks.last() else { return Ok(count) };
        from = [last.encoded().as_ref(), &[0]].concat().into();
        count += locks.len() as u64;
        let mut of_txn: BTreeMap<u64, LockInfo> = BTreeMap::new();
        for (key, lock) in &locks {
            // A lock that was prewritten names the right primary; one that only reserves may not.
            let is_better = |known: &LockInfo| known.lock_type() == Op::PessimisticLock;
            if of_txn.get(&lock.start_ts).is_none_or(is_better) {
                of_txn.insert(lock.start_ts, lock.info(key));
            }
        }
        for (start_ts, lock) in of_txn {
            if let std::collections::btree_map::Entry::Vacant(unknown) = fates.entry(start_ts) {
                unknown.insert(fate(ask, lock).await?);
            }
        }
        let keys: Vec<Key> = locks.into_iter().map(|(key, _)| key).collect();
        transactions.settle(context, &keys, &fates).await.map_err(in_words)?;
    }
}

fn in_words(stop: Stop) -> String {
    let (region_error, key_error) = stop.into_answer();
    region_error.map_or_else(|| format!("{key_error:?}"), |error| error.message)
}

/// When the transaction of this lock was committed; 0 when it was not, and then it never will be.
async fn fate(ask: &impl Ask, lock: LockInfo) -> Result<u64, String> {
    let start_ts = lock.lock_version;
    let mut primary = lock.primary_lock;
    let mut force_sync_commit = false;
    // Another primary once, and a lock in two phases among async ones once.
    for _ in 0..3 {
        let answer = ask
            .check_txn_status(CheckTxnStatusRequest {
                primary_key: primary.clone(),
                lock_ts: start_ts,
                // Nobody is let in any more who could keep it alive.
                current_ts: u64::MAX,
                rollback_if_not_exist: true,
                force_sync_commit,
                verify_is_primary: true,
                ..Default::default()
            })
            .await?;
        if let Some(error) = answer.error {
            match error.primary_mismatch.and_then(|mismatch| mismatch.lock_info) {
                Some(other) if other.primary_lock != primary => primary = other.primary_lock,
                Some(_) | None => return Err(format!("{start_ts} has no fate: {}", error.abort)),
            }
            continue;
        }
        if answer.commit_version > 0 {
            return Ok(answer.commit_version);
        }
        let Some(primary_lock) = answer.lock_info else { return Ok(0) };
        // It stands although its time is over: an async commit. Its other keys decide.
        match secondaries(ask, &primary_lock).await? {
            Secondaries::Fate(commit_ts) => return Ok(commit_ts),
            Secondaries::InTwoPhases => force_sync_commit = true,
        }
    }
    Err(format!("transaction {start_ts} does not come to an end"))
}

enum Secondaries {
    Fate(u64),
    /// One of them fell back to two phases: the primary decides after all.
    InTwoPhases,
}

async fn secondaries(ask: &impl Ask, primary: &LockInfo) -> Result<Secondaries, String> {
    let keys = primary.secondaries.clone();
    let mut commit_ts = primary.min_commit_ts;
    let mut locked = 0;
    for answer in ask.check_secondary_locks(keys.clone(), primary.lock_version).await? {
        if let Some(error) = answer.error {
            return Err(format!("{error:?}"));
        }
        if answer.commit_ts > 0 {
            return Ok(Secondaries::Fate(answer.commit_ts));
        }
        if answer.locks.iter().any(|lock| !lock.use_async_commit) {
            return Ok(Secondaries::InTwoPhases);
        }
        locked += answer.locks.len();
        commit_ts = answer.locks.iter().fold(commit_ts, |ts, lock| ts.max(lock.min_commit_ts));
    }
    // One that is not locked was rolled back by being asked.
    Ok(Secondaries::Fate(if locked == keys.len() { commit_ts } else { 0 }))
}

/// The request for these keys.
pub(super) fn of_secondaries(
    context: Context,
    keys: Vec<Bytes>,
    start_version: u64,
) -> CheckSecondaryLocksRequest {
    CheckSecondaryLocksRequest { context: Some(context), keys, start_version }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::kvrpcpb::{
        CommitRequest, GetRequest, Mutation, PessimisticLockRequest, PrewriteRequest,
    };
    use raftstore::engine::memory::MemoryData;

    use super::*;
    use crate::config::ApiVersion;
    use crate::storage::local::LocalStorage;
    use crate::txn::{TimestampFuture, TimestampSource};

    type Here = Transactions<LocalStorage<MemoryData>>;

    struct First;

    impl TimestampSource for First {
        fn fresh(&self) -> TimestampFuture {
            Box::pin(async { Ok(1) })
        }
    }

    fn here() -> Here {
        let storage = LocalStorage::new(MemoryData::new());
        Transactions::new(storage, ApiVersion::V1, Arc::new(First))
    }

    impl Ask for Here {
        async fn check_txn_status(
            &self,
            request: CheckTxnStatusRequest,
        ) -> Result<CheckTxnStatusResponse, String> {
            Ok(Transactions::check_txn_status(self, request).await)
        }

        async fn check_secondary_locks(
            &self,
            keys: Vec<Bytes>,
            start_ts: u64,
        ) -> Result<Vec<CheckSecondaryLocksResponse>, String> {
            // As if each key had its region.
            let mut answers = Vec::new();
            for key in keys {
                let request = of_secondaries(Context::default(), vec![key], start_ts);
                answers.push(Transactions::check_secondary_locks(self, request).await);
            }
            Ok(answers)
        }
    }

    fn put(key: &'static str) -> Mutation {
        Mutation { key: key.into(), value: "v".into(), ..Default::default() }
    }

    async fn prewrite(txns: &Here, start_version: u64, keys: &[&'static str], is_async: bool) {
        let request = PrewriteRequest {
            mutations: keys.iter().map(|key| put(key)).collect(),
            primary_lock: keys[0].into(),
            start_version,
            lock_ttl: u64::MAX >> 20,
            use_async_commit: is_async,
            secondaries: keys[1..].iter().map(|key| (*key).into()).collect(),
            ..Default::default()
        };
        let answer = txns.prewrite(request).await;
        assert!(answer.errors.is_empty() && (answer.min_commit_ts > 0) == is_async, "{answer:?}");
    }

    async fn commit(txns: &Here, start_version: u64, key: &'static str, commit_version: u64) {
        let keys = vec![key.into()];
        let request = CommitRequest { start_version, commit_version, keys, ..Default::default() };
        assert!(txns.commit(request).await.error.is_none());
    }

    async fn exists(txns: &Here, key: &'static str) -> bool {
        let request = GetRequest { key: key.into(), version: 1000, ..Default::default() };
        let answer = txns.get(request).await;
        assert!(answer.error.is_none(), "{answer:?}");
        !answer.not_found
    }

    #[tokio::test]
    async fn every_kind_of_old_lock_comes_to_the_fate_of_its_transaction() {
        let txns = here();
        // Committed at its primary; its other key does not know yet.
        prewrite(&txns, 10, &["a1", "a2"], false).await;
        commit(&txns, 10, "a1", 11).await;
        // Given up, though its time is not over.
        prewrite(&txns, 12, &["b1", "b2"], false).await;
        // Committed by being locked everywhere; and one whose last key never was.
        prewrite(&txns, 14, &["c1", "c2"], true).await;
        let request = PrewriteRequest {
            mutations: vec![put("d1")],
            primary_lock: "d1".into(),
            start_version: 16,
            use_async_commit: true,
            secondaries: vec!["d2".into()],
            ..Default::default()
        };
        assert!(txns.prewrite(request).await.errors.is_empty());
        // A reservation that names a primary which was never locked.
        let request = PessimisticLockRequest {
            mutations: vec![Mutation { op: Op::PessimisticLock as i32, ..put("e2") }],
            primary_lock: "e1".into(),
            start_version: 18,
            for_update_ts: 18,
            lock_ttl: 9,
            ..Default::default()
        };
        assert!(txns.pessimistic_lock(request).await.errors.is_empty());
        // Younger: not ours to judge.
        prewrite(&txns, 30, &["f"], false).await;

        let (context, all) = (Context::default(), KeyRange::all());
        assert_eq!(resolve(&txns, &txns, &context, &all, 20).await, Ok(7));
        for (key, is_there) in [
            ("a1", true),
            ("a2", true),
            ("b1", false),
            ("b2", false),
            ("c1", true),
            ("c2", true),
            ("d1", false),
            ("d2", false),
            ("e1", false),
            ("e2", false),
        ] {
            assert_eq!(exists(&txns, key).await, is_there, "{key}");
        }
        assert_eq!(resolve(&txns, &txns, &context, &all, 20).await, Ok(0));
        assert_eq!(resolve(&txns, &txns, &context, &all, 30).await, Ok(1));
    }

    #[tokio::test]
    async fn a_primary_that_names_another_is_followed() {
        let txns = here();
        // The second statement was tried again with another primary: b is prewritten, and names c.
        prewrite(&txns, 10, &["c", "b"], false).await;
        commit(&txns, 10, "c", 11).await;
        let request = PessimisticLockRequest {
            mutations: vec![Mutation { op: Op::PessimisticLock as i32, ..put("a") }],
            primary_lock: "b".into(),
            start_version: 10,
            for_update_ts: 10,
            lock_ttl: 9,
            ..Default::default()
        };
        assert!(txns.pessimistic_lock(request).await.errors.is_empty());
        let (context, all) = (Context::default(), KeyRange::all());
        let only_a = KeyRange { start: Bytes::new(), end: Some(Key::new("b").encoded().clone()) };
        assert_eq!(resolve(&txns, &txns, &context, &only_a, 20).await, Ok(1));
        assert_eq!(resolve(&txns, &txns, &context, &all, 20).await, Ok(1));
        assert!(exists(&txns, "b").await && exists(&txns, "c").await);
        assert!(!exists(&txns, "a").await);
    }

    #[tokio::test]
    async fn many_locks_are_resolved_in_batches() {
        let txns = here();
        let keys: Vec<Mutation> = (0..600)
            .map(|n| Mutation {
                key: format!("k{n:04}").into(),
                value: "v".into(),
                ..Default::default()
            })
            .collect();
        let request = PrewriteRequest {
            primary_lock: keys[599].key.clone(),
            mutations: keys,
            start_version: 5,
            ..Default::default()
        };
        assert!(txns.prewrite(request).await.errors.is_empty());
        let (context, all) = (Context::default(), KeyRange::all());
        assert_eq!(resolve(&txns, &txns, &context, &all, 20).await, Ok(600));
        assert_eq!(resolve(&txns, &txns, &context, &all, 20).await, Ok(0));
    }
}
