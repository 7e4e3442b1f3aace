//! The reading requests: get, batch get, scan, scan of locks, and what a pipelined transaction has
//! flushed itself.
//!
//! A snapshot read says its timestamp first, then looks for locks in memory, and only then takes its
//! view (see [`super::memory_locks`]). It is served by the leader, whatever `replica_read` says:
//! a follower cannot do the first two. A checked read committed does the same, for it must not miss
//! what is about to be written; but a follower may serve it, and then checks what it has applied.
//! Whether a read is too old is asked before it reads and after ([`super::safe_points`]).

use bytes::Bytes;
use proto::kvrpcpb::{
    self, BatchGetRequest, BatchGetResponse, BufferBatchGetRequest, BufferBatchGetResponse,
    GetRequest, GetResponse, IsolationLevel, KvPair, ReadIndexRequest, ReadIndexResponse,
    ScanLockRequest, ScanLockResponse, ScanRequest, ScanResponse,
};
use proto::{KeyRange, RegionId, memcomparable};
use raftstore::storage::applied_state;

use super::command::flush::flushed;
use super::command::get::get;
use super::execution::Execution;
use super::problem::{KeyProblem, Stop};
use super::read_rule::Reading;
use super::reader::{Reader, Version};
use super::scanner::{Scanner, Step};
use super::transactions::{Transactions, check_in_region};
use crate::deadline::Deadline;
use crate::keys::{self, Key};
use crate::plant::Bug;
use crate::storage::Storage;

/// Keys that a scan looks at before it looks at the clock and lets others run.
const KEYS_PER_SLICE: usize = 256;

impl<St: Storage> Transactions<St> {
    /// `KvGet`: one key as of a timestamp.
    pub async fn get(&self, mut request: GetRequest) -> GetResponse {
        let context = request.context.take().unwrap_or_default();
        let mut execution = Execution::begin(&context);
        let result = self.try_get(&context, &request, &mut execution).await;
        let exec_details_v2 = execution.of_read();
        match result {
            Ok(Some(version)) => GetResponse {
                value: version.value,
                commit_ts: if request.need_commit_ts { version.commit_ts } else { 0 },
                exec_details_v2,
                ..Default::default()
            },
            Ok(None) => GetResponse { not_found: true, exec_details_v2, ..Default::default() },
            Err(stop) => {
                let (region_error, error) = stop.into_answer();
                GetResponse { region_error, error, exec_details_v2, ..Default::default() }
            }
        }
    }

    async fn try_get(
        &self,
        context: &kvrpcpb::Context,
        request: &GetRequest,
        execution: &mut Execution,
    ) -> Result<Option<Version>, Stop> {
        self.check_keys(context, [&request.key])?;
        let key = Key::new(request.key.clone());
        let reading = Reading::of_keys(context, request.version);
        let context = self.before_read(context, &reading)?;
        self.check_memory(&key, &reading)?;
        let view = self.view(&context, execution).await?;
        check_in_region(&context, &view.range, std::slice::from_ref(&key))?;
        let mut reader = Reader::new(view.snapshot, versions_of(&key));
        let version = get(&mut reader, &key, &reading);
        execution.looked(&reader);
        let version = version?;
        if let Some(version) = &version {
            execution.found(&key, &version.value);
        }
        self.safe_points().check_read(reading.ts)?;
        Ok(version)
    }

    /// `KvBatchGet`: several keys as of one timestamp; those that do not exist are left out.
    pub async fn batch_get(&self, mut request: BatchGetRequest) -> BatchGetResponse {
        let context = request.context.take().unwrap_or_default();
        let mut execution = Execution::begin(&context);
        let result = self.try_batch_get(&context, &request, &mut execution).await;
        let exec_details_v2 = execution.of_read();
        match result {
            Ok(pairs) => BatchGetResponse { pairs, exec_details_v2, ..Default::default() },
            Err(stop) => {
                let (region_error, error) = stop.into_answer();
                let pairs = error.clone().map(error_pair).into_iter().collect();
                BatchGetResponse { region_error, error, pairs, exec_details_v2 }
            }
        }
    }

    async fn try_batch_get(
        &self,
        context: &kvrpcpb::Context,
        request: &BatchGetRequest,
        execution: &mut Execution,
    ) -> Result<Vec<KvPair>, Stop> {
        self.check_keys(context, &request.keys)?;
        let keys: Vec<Key> = request.keys.iter().cloned().map(Key::new).collect();
        let reading = Reading::of_keys(context, request.version);
        let context = self.before_read(context, &reading)?;
        keys.iter().try_for_each(|key| self.check_memory(key, &reading))?;
        let view = self.view(&context, execution).await?;
        check_in_region(&context, &view.range, &keys)?;
        let mut reader = Reader::new(view.snapshot, view.range);
        let mut pairs = Vec::new();
        for (number, key) in keys.iter().enumerate() {
            match get(&mut reader, key, &reading) {
                Ok(None) => {}
                Ok(Some(version)) => {
                    execution.found(key, &version.value);
                    pairs.push(KvPair {
                        key: key.user().clone(),
                        value: version.value,
                        commit_ts: if request.need_commit_ts { version.commit_ts } else { 0 },
                        ..Default::default()
                    });
                }
                Err(Stop::Key(problem)) => pairs.push(error_pair(problem.into())),
                Err(stop @ (Stop::Refused(_) | Stop::Fault(_))) => return Err(stop),
            }
            rest(number, execution.deadline).await?;
        }
        execution.looked(&reader);
        self.safe_points().check_read(reading.ts)?;
        Ok(pairs)
    }

    /// `KvBufferBatchGet`: what a pipelined transaction has flushed to these keys; an empty value is a
    /// deletion, and keys that it has not written are left out.
    pub async fn buffer_batch_get(
        &self,
        mut request: BufferBatchGetRequest,
    ) -> BufferBatchGetResponse {
        let context = request.context.take().unwrap_or_default();
        let mut execution = Execution::begin(&context);
        let result = self.try_buffer_batch_get(&context, &request, &mut execution).await;
        let exec_details_v2 = execution.of_read();
        match result {
            Ok(pairs) => BufferBatchGetResponse { pairs, exec_details_v2, ..Default::default() },
            Err(stop) => {
                let (region_error, error) = stop.into_answer();
                BufferBatchGetResponse { region_error, error, pairs: Vec::new(), exec_details_v2 }
            }
        }
    }

    async fn try_buffer_batch_get(
        &self,
        context: &kvrpcpb::Context,
        request: &BufferBatchGetRequest,
        execution: &mut Execution,
    ) -> Result<Vec<KvPair>, Stop> {
        self.check_keys(context, &request.keys)?;
        let keys: Vec<Key> = request.keys.iter().cloned().map(Key::new).collect();
        let view = self.view(&leader_only(context), execution).await?;
        check_in_region(context, &view.range, &keys)?;
        let reader = Reader::new(view.snapshot, view.range);
        let mut pairs = Vec::new();
        for (number, key) in keys.iter().enumerate() {
            if let Some(value) = flushed(&reader, key, request.version)? {
                execution.found(key, &value);
                let key = key.user().clone();
                pairs.push(KvPair { key, value, ..Default::default() });
            }
            rest(number, execution.deadline).await?;
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
        let mut execution = Execution::begin(context);
        let (lower, upper) = if request.reverse {
            (&request.end_key, &request.start_key)
        } else {
            (&request.start_key, &request.end_key)
        };
        // The Java client gives a scan no end, also where keys have keyspaces.
        let upper = &keys::end_of_scan(context, lower, upper);
        self.check_range(context, lower, upper)?;
        let limit = request.limit as usize;
        let range = encoded_range(lower, upper);
        let reading = Reading::new(context, request.version);
        let context = self.before_read(context, &reading)?;
        let view = {
            let region_or_more = &range;
            self.check_memory_in(region_or_more, &reading)?;
            self.view(&context, &mut execution).await?
        };
        if limit == 0 {
            // Not before: it is a promise to read nothing, not to be nowhere.
            return Ok(Vec::new());
        }
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
                Step::Locked { key, lock } => {
                    pairs.push(error_pair(KeyProblem::locked(lock.info(&key)).into()));
                }
            }
            if pairs.len() >= limit {
                break;
            }
            rest(number, execution.deadline).await?;
        }
        self.safe_points().check_read(request.version)?;
        Ok(pairs)
    }

    /// `KvScanLock`: locks of old transactions, for garbage collection.
    pub async fn scan_lock(&self, mut request: ScanLockRequest) -> ScanLockResponse {
        let context = request.context.take().unwrap_or_default();
        let mut execution = Execution::begin(&context);
        let result = self.try_scan_lock(&context, &request, &mut execution).await;
        let exec_details_v2 = execution.of_read();
        match result {
            Ok(locks) => ScanLockResponse { locks, exec_details_v2, ..Default::default() },
            Err(stop) => {
                let (region_error, error) = stop.into_answer();
                ScanLockResponse { region_error, error, locks: Vec::new(), exec_details_v2 }
            }
        }
    }

    async fn try_scan_lock(
        &self,
        context: &kvrpcpb::Context,
        request: &ScanLockRequest,
        execution: &mut Execution,
    ) -> Result<Vec<kvrpcpb::LockInfo>, Stop> {
        let range = encoded_range(&request.start_key, &request.end_key);
        let (context, limit) = (leader_only(context), request.limit as usize);
        let max_ts = request.max_version;
        let locks = self.find_old_locks(&context, &range, max_ts, limit, execution).await?;
        Ok(locks.iter().map(|(key, lock)| lock.info(key)).collect())
    }

    /// `ReadIndex`: how far a replica elsewhere must have applied before it may be read at a timestamp. The
    /// leader promises that no transaction will commit below it which it does not know of yet.
    pub async fn read_index(&self, mut request: ReadIndexRequest) -> ReadIndexResponse {
        let context = request.context.take().unwrap_or_default();
        match self.try_read_index(&context, &request).await {
            Ok(read_index) => ReadIndexResponse { read_index, ..Default::default() },
            Err(stop) => {
                let (region_error, error) = stop.into_answer();
                let locked = error.and_then(|error| error.locked);
                ReadIndexResponse { region_error, locked, ..Default::default() }
            }
        }
    }

    async fn try_read_index(
        &self,
        context: &kvrpcpb::Context,
        request: &ReadIndexRequest,
    ) -> Result<u64, Stop> {
        let reading = Reading::new(context, request.start_ts);
        self.memory().on_read(reading.ts)?;
        for range in &request.ranges {
            let range = encoded_range(&range.start_key, &range.end_key);
            self.check_memory_in(&range, &reading)?;
        }
        let view = self.view(&leader_only(context), &mut Execution::begin(context)).await?;
        let applied = applied_state(&view.snapshot, RegionId(context.region_id))?;
        Ok(applied.map_or(0, |applied| applied.index))
    }

    /// Says the read's timestamp, unless it is too old; returns the context to take the view with.
    fn before_read(
        &self,
        context: &kvrpcpb::Context,
        reading: &Reading,
    ) -> Result<kvrpcpb::Context, Stop> {
        self.safe_points().check_read(reading.ts)?;
        let says_so = match reading.isolation {
            IsolationLevel::Si | IsolationLevel::RcCheckTs => true,
            IsolationLevel::Rc => false,
        };
        if says_so && !self.planted().has(Bug::ReadUnsaid) {
            self.memory().on_read(reading.ts)?;
        }
        Ok(match reading.isolation {
            IsolationLevel::Si => leader_only(context),
            IsolationLevel::Rc | IsolationLevel::RcCheckTs => context.clone(),
        })
    }

    fn check_memory(&self, key: &Key, reading: &Reading) -> Result<(), Stop> {
        match self.memory().find(key, |lock| reading.is_stopped_by(key, lock)) {
            None => Ok(()),
            Some(lock) => Err(reading.stopped_by(key, &lock)),
        }
    }

    fn check_memory_in(&self, range: &KeyRange, reading: &Reading) -> Result<(), Stop> {
        match self.memory().find_in(range, |key, lock| reading.is_stopped_by(key, lock)) {
            None => Ok(()),
            Some((key, lock)) => Err(reading.stopped_by(&key, &lock)),
        }
    }
}

pub(super) fn leader_only(context: &kvrpcpb::Context) -> kvrpcpb::Context {
    kvrpcpb::Context { replica_read: false, ..context.clone() }
}

/// Now and then: has the deadline passed, and does anybody else want to run?
pub(super) async fn rest(number: usize, deadline: Deadline) -> Result<(), Stop> {
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
