//! The reading requests: get, batch get, scan, scan of locks, and a look at all versions of a key.
//!
//! A snapshot read says its timestamp first, then looks for locks in memory, and only then takes its
//! view (see [`super::memory_locks`]). It is served by the leader, whatever `replica_read` says:
//! a follower cannot do the first two.

use bytes::Bytes;
use proto::kvrpcpb::{
    self, BatchGetRequest, BatchGetResponse, GetRequest, GetResponse, IsolationLevel, KvPair,
    MvccGetByKeyRequest, MvccGetByKeyResponse, MvccInfo, MvccLock, MvccValue, MvccWrite,
    ScanLockRequest, ScanLockResponse, ScanRequest, ScanResponse,
};
use proto::{KeyRange, memcomparable};
use raftstore::engine::Snapshot;

use super::command::get::get;
use super::command::scan_lock::scan_lock;
use super::problem::{Stop, refuse};
use super::read_rule::{Reading, Verdict};
use super::reader::{Reader, Version};
use super::scanner::{Scanner, Step};
use super::transactions::{Transactions, check_in_region};
use crate::deadline::Deadline;
use crate::keys::{self, Key};
use crate::storage::Storage;

/// Keys that a scan looks at before it looks at the clock and lets others run.
const KEYS_PER_SLICE: usize = 256;

/// Versions of a key shown to a person; older ones are left out.
const VERSIONS_SHOWN_MAX: usize = 1024;

impl<St: Storage> Transactions<St> {
    /// `KvGet`: one key as of a timestamp.
    pub async fn get(&self, mut request: GetRequest) -> GetResponse {
        let context = request.context.take().unwrap_or_default();
        match self.try_get(&context, &request).await {
            Ok(Some(version)) => GetResponse {
                value: version.value,
                commit_ts: if request.need_commit_ts { version.commit_ts } else { 0 },
                ..Default::default()
            },
            Ok(None) => GetResponse { not_found: true, ..Default::default() },
            Err(stop) => {
                let (region_error, error) = stop.into_answer();
                GetResponse { region_error, error, ..Default::default() }
            }
        }
    }

    async fn try_get(
        &self,
        context: &kvrpcpb::Context,
        request: &GetRequest,
    ) -> Result<Option<Version>, Stop> {
        let deadline = Deadline::of(context);
        self.check_keys(context, [&request.key])?;
        let key = Key::new(request.key.clone());
        let reading = Reading::of_keys(context, request.version);
        let context = self.before_read(context, &reading);
        self.check_memory(&key, &reading)?;
        let view = self.view(&context, deadline).await?;
        check_in_region(&context, &view.range, std::slice::from_ref(&key))?;
        let mut reader = Reader::new(view.snapshot, versions_of(&key));
        get(&mut reader, &key, &reading)
    }

    /// `KvBatchGet`: several keys as of one timestamp; those that do not exist are left out.
    pub async fn batch_get(&self, mut request: BatchGetRequest) -> BatchGetResponse {
        let context = request.context.take().unwrap_or_default();
        match self.try_batch_get(&context, &request).await {
            Ok(pairs) => BatchGetResponse { pairs, ..Default::default() },
            Err(stop) => {
                let (region_error, error) = stop.into_answer();
                let pairs = error.clone().map(error_pair).into_iter().collect();
                BatchGetResponse { region_error, error, pairs, ..Default::default() }
            }
        }
    }

    async fn try_batch_get(
        &self,
        context: &kvrpcpb::Context,
        request: &BatchGetRequest,
    ) -> Result<Vec<KvPair>, Stop> {
        let deadline = Deadline::of(context);
        self.check_keys(context, &request.keys)?;
        let keys: Vec<Key> = request.keys.iter().cloned().map(Key::new).collect();
        let reading = Reading::of_keys(context, request.version);
        let context = self.before_read(context, &reading);
        keys.iter().try_for_each(|key| self.check_memory(key, &reading))?;
        let view = self.view(&context, deadline).await?;
        check_in_region(&context, &view.range, &keys)?;
        let mut reader = Reader::new(view.snapshot, view.range);
        let mut pairs = Vec::new();
        for (number, key) in keys.iter().enumerate() {
            match get(&mut reader, key, &reading) {
                Ok(None) => {}
                Ok(Some(version)) => pairs.push(KvPair {
                    key: key.user().clone(),
                    value: version.value,
                    commit_ts: if request.need_commit_ts { version.commit_ts } else { 0 },
                    ..Default::default()
                }),
                Err(Stop::Key(problem)) => pairs.push(error_pair(problem.into())),
                Err(stop @ (Stop::Refused(_) | Stop::Fault(_))) => return Err(stop),
            }
            rest(number, deadline).await?;
        }
        Ok(pairs)
    }

    /// `KvScan`: keys of a range as of a timestamp, in order, either way.
    pub async fn scan(&self, mut request: ScanRequest) -> ScanResponse {
        let context = request.context.take().unwrap_or_default();
        match self.try_scan(&context, &request).await {
            Ok(pairs) => ScanResponse { pairs, ..Default::default() },
            Err(stop) => {
                let (region_error, error) = stop.into_answer();
                let pairs = error.clone().map(error_pair).into_iter().collect();
                ScanResponse { region_error, error, pairs }
            }
        }
    }

    async fn try_scan(
        &self,
        context: &kvrpcpb::Context,
        request: &ScanRequest,
    ) -> Result<Vec<KvPair>, Stop> {
        let deadline = Deadline::of(context);
        let (lower, upper) = if request.reverse {
            (&request.end_key, &request.start_key)
        } else {
            (&request.start_key, &request.end_key)
        };
        // The Java client gives a scan no end, also where keys have keyspaces.
        let upper = &keys::end_of_scan(context, lower, upper);
        self.check_range(context, lower, upper)?;
        let limit = request.limit as usize;
        if limit == 0 {
            return Ok(Vec::new());
        }
        let range = encoded_range(lower, upper);
        let reading = Reading::new(context, request.version);
        let context = self.before_read(context, &reading);
        let view = {
            let region_or_more = &range;
            self.check_memory_in(region_or_more, &reading)?;
            self.view(&context, deadline).await?
        };
        // Clients ask beyond the region's end and go on with the next region.
        let range = range.intersection(&view.range);
        let mut scanner =
            Scanner::new(view.snapshot, range, reading, request.key_only, request.reverse)?;
        let sample_step = request.sample_step.max(1) as usize;
        let (mut pairs, mut live) = (Vec::new(), 0_usize);
        for number in 0.. {
            match scanner.step()? {
                Step::End => break,
                Step::Nothing => {}
                Step::Pair { key, value, commit_ts: _ } => {
                    if live.is_multiple_of(sample_step) {
                        pairs.push(KvPair { key: key.user().clone(), value, ..Default::default() });
                    }
                    live += 1;
                }
                Step::Stopped { stop: Stop::Key(problem), .. } => {
                    pairs.push(error_pair(problem.into()));
                }
                Step::Stopped { stop, .. } => return Err(stop),
            }
            if pairs.len() >= limit {
                break;
            }
            rest(number, deadline).await?;
        }
        Ok(pairs)
    }

    /// `KvScanLock`: locks of old transactions, for garbage collection.
    pub async fn scan_lock(&self, mut request: ScanLockRequest) -> ScanLockResponse {
        let context = request.context.take().unwrap_or_default();
        match self.try_scan_lock(&context, &request).await {
            Ok(locks) => ScanLockResponse { locks, ..Default::default() },
            Err(stop) => {
                let (region_error, error) = stop.into_answer();
                ScanLockResponse { region_error, error, ..Default::default() }
            }
        }
    }

    async fn try_scan_lock(
        &self,
        context: &kvrpcpb::Context,
        request: &ScanLockRequest,
    ) -> Result<Vec<kvrpcpb::LockInfo>, Stop> {
        let deadline = Deadline::of(context);
        // A transaction that locks later must commit later: its lock may be missing in the answer.
        self.memory().on_read(request.max_version);
        let range = encoded_range(&request.start_key, &request.end_key);
        let in_memory =
            self.memory().find_in(&range, |_, lock| lock.start_ts <= request.max_version);
        if let Some((key, lock)) = in_memory {
            return Err(Stop::locked(&lock, &key));
        }
        let view = self.view(&leader_only(context), deadline).await?;
        let reader = Reader::new(view.snapshot, view.range);
        let locks = scan_lock(&reader, &range, request.max_version, request.limit as usize)?;
        Ok(locks.iter().map(|(key, lock)| lock.info(key)).collect())
    }

    /// `MvccGetByKey`: everything there is about a key, for a person.
    pub async fn mvcc_get_by_key(&self, mut request: MvccGetByKeyRequest) -> MvccGetByKeyResponse {
        let context = request.context.take().unwrap_or_default();
        let key = Key::new(request.key);
        let answer = async {
            let view = self.view(&context, Deadline::of(&context)).await?;
            check_in_region(&context, &view.range, std::slice::from_ref(&key))?;
            Ok(mvcc_info(&mut Reader::new(view.snapshot, view.range), &key)?)
        };
        match answer.await {
            Ok(info) => MvccGetByKeyResponse { info: Some(info), ..Default::default() },
            Err(Stop::Refused(refusal)) => {
                MvccGetByKeyResponse { region_error: Some(refusal.into()), ..Default::default() }
            }
            Err(Stop::Fault(fault)) => MvccGetByKeyResponse {
                region_error: Some(refuse(&fault).into()),
                ..Default::default()
            },
            Err(Stop::Key(problem)) => MvccGetByKeyResponse {
                error: kvrpcpb::KeyError::from(problem).abort,
                ..Default::default()
            },
        }
    }

    /// Says the read's timestamp; returns the context to take the view with.
    fn before_read(&self, context: &kvrpcpb::Context, reading: &Reading) -> kvrpcpb::Context {
        if reading.isolation != IsolationLevel::Si {
            return context.clone();
        }
        self.memory().on_read(reading.ts);
        leader_only(context)
    }

    fn check_memory(&self, key: &Key, reading: &Reading) -> Result<(), Stop> {
        let in_the_way = |lock: &_| reading.verdict(key, lock) == Verdict::Blocked;
        match self.memory().find(key, in_the_way) {
            None => Ok(()),
            Some(lock) => Err(Stop::locked(&lock, key)),
        }
    }

    fn check_memory_in(&self, range: &KeyRange, reading: &Reading) -> Result<(), Stop> {
        let in_the_way = |key: &_, lock: &_| reading.verdict(key, lock) == Verdict::Blocked;
        match self.memory().find_in(range, in_the_way) {
            None => Ok(()),
            Some((key, lock)) => Err(Stop::locked(&lock, &key)),
        }
    }
}

fn leader_only(context: &kvrpcpb::Context) -> kvrpcpb::Context {
    kvrpcpb::Context { replica_read: false, ..context.clone() }
}

/// Now and then: has the deadline passed, and does anybody else want to run?
async fn rest(number: usize, deadline: Deadline) -> Result<(), Stop> {
    if (number + 1).is_multiple_of(KEYS_PER_SLICE) {
        deadline.check()?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

fn error_pair(error: kvrpcpb::KeyError) -> KvPair {
    KvPair { error: Some(error), ..Default::default() }
}

/// All versions of one key, in the engine's form.
fn versions_of(key: &Key) -> KeyRange {
    KeyRange { start: key.encoded().clone(), end: Some(keys::after_versions(key.encoded())) }
}

/// A range of user keys, whose empty bounds are infinite, in the engine's form.
pub(super) fn encoded_range(lower: &Bytes, upper: &Bytes) -> KeyRange {
    KeyRange {
        start: if lower.is_empty() { Bytes::new() } else { memcomparable::encode(lower) },
        end: (!upper.is_empty()).then(|| memcomparable::encode(upper)),
    }
}

fn mvcc_info<S: Snapshot>(
    reader: &mut Reader<S>,
    key: &Key,
) -> Result<MvccInfo, raftstore::error::Fault> {
    let lock = reader.lock(key)?.map(|lock| MvccLock {
        r#type: lock.kind.to_wire() as i32,
        start_ts: lock.start_ts,
        primary: lock.primary,
        short_value: lock.short_value.unwrap_or_default(),
        ttl: lock.ttl,
        for_update_ts: lock.for_update_ts,
        txn_size: lock.txn_size,
        use_async_commit: lock.async_commit,
        secondaries: lock.secondaries,
        rollback_ts: lock.rollback_ts,
        ..Default::default()
    });
    let writes = reader
        .writes(key, VERSIONS_SHOWN_MAX)?
        .into_iter()
        .map(|(commit_ts, write)| MvccWrite {
            r#type: write.kind.to_wire() as i32,
            start_ts: write.start_ts,
            commit_ts,
            short_value: write.short_value.unwrap_or_default(),
            has_overlapped_rollback: write.overlapped_rollback,
            has_gc_fence: write.gc_fence.is_some(),
            gc_fence: write.gc_fence.unwrap_or(0),
            ..Default::default()
        })
        .collect();
    let values = reader
        .long_values(key, VERSIONS_SHOWN_MAX)?
        .into_iter()
        .map(|(start_ts, value)| MvccValue { start_ts, value })
        .collect();
    Ok(MvccInfo { lock, writes, values })
}
