//! A store: checks of the request's route as a real one makes them, then the deed.

use bytes::Bytes;
use proto::{KeyRange, Refusal, errorpb, kvrpcpb, memcomparable, region, tikvpb};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;

use super::serve::{Here, no_such_method, unary};
use super::{Reaction, State, batch};

pub(super) type Command = tikvpb::batch_commands_request::request::Cmd;
pub(super) type Answer = tikvpb::batch_commands_response::response::Cmd;

/// What the checks need of a request and its answer.
trait Asked {
    type Answer: Default;
    fn context(&self) -> Option<&kvrpcpb::Context>;
    fn refuse(answer: &mut Self::Answer, error: errorpb::Error);
}

macro_rules! store_methods {
    ($($rpc:literal $([as $command:ident])? $request:ident => $answer:ident, $act:path;)*) => {
        $(impl Asked for kvrpcpb::$request {
            type Answer = kvrpcpb::$answer;

            fn context(&self) -> Option<&kvrpcpb::Context> {
                self.context.as_ref()
            }

            fn refuse(answer: &mut Self::Answer, error: errorpb::Error) {
                answer.region_error = Some(error);
            }
        })*

        pub(super) async fn answer(
            here: Here,
            method: &str,
            call: http::Request<Body>,
        ) -> http::Response<Body> {
            match method {
                "BatchCommands" if here.fake.state.lock().knows_batches => {
                    batch::answer(here, call).await
                }
                "UnsafeDestroyRange" => {
                    unary(call, move |request| std::future::ready(destroy(&here, request))).await
                }
                $($rpc => unary(call, move |request: kvrpcpb::$request| {
                    serve(here, $rpc, request, $act)
                }).await,)*
                _ => no_such_method(),
            }
        }

        /// The same commands, as they come on the batched stream.
        #[allow(clippy::wildcard_enum_match_arm, reason = "the client sends only some of them")]
        pub(super) async fn command(here: Here, command: Command) -> Result<Answer, Status> {
            match command {
                $($(Command::$command(request) => {
                    serve(here, $rpc, request, $act).await.map(Answer::$command)
                })?)*
                other => panic!("the client does not send this on the stream: {other:?}"),
            }
        }
    };
}

store_methods! {
    "RawGet" [as RawGet] RawGetRequest => RawGetResponse, raw_get;
    "RawGetKeyTTL" RawGetKeyTtlRequest => RawGetKeyTtlResponse, raw_ttl;
    "RawBatchGet" [as RawBatchGet] RawBatchGetRequest => RawBatchGetResponse, raw_batch_get;
    "RawScan" [as RawScan] RawScanRequest => RawScanResponse, raw_scan;
    "RawChecksum" RawChecksumRequest => RawChecksumResponse, raw_checksum;
    "RawPut" [as RawPut] RawPutRequest => RawPutResponse, raw_put;
    "RawBatchPut" [as RawBatchPut] RawBatchPutRequest => RawBatchPutResponse, raw_batch_put;
    "RawDelete" [as RawDelete] RawDeleteRequest => RawDeleteResponse, raw_delete;
    "RawBatchDelete" [as RawBatchDelete] RawBatchDeleteRequest => RawBatchDeleteResponse, raw_batch_delete;
    "RawDeleteRange" [as RawDeleteRange] RawDeleteRangeRequest => RawDeleteRangeResponse, raw_delete_range;
    "RawCompareAndSwap" RawCasRequest => RawCasResponse, raw_swap;
    "KvGet" [as Get] GetRequest => GetResponse, kv_get;
    "KvBatchGet" [as BatchGet] BatchGetRequest => BatchGetResponse, kv_batch_get;
    "KvScan" [as Scan] ScanRequest => ScanResponse, kv_scan;
    "KvScanLock" [as ScanLock] ScanLockRequest => ScanLockResponse, kv_scan_lock;
    "KvPrewrite" [as Prewrite] PrewriteRequest => PrewriteResponse, kv_prewrite;
    "KvPessimisticLock" [as PessimisticLock] PessimisticLockRequest => PessimisticLockResponse, kv_lock;
    "KVPessimisticRollback" [as PessimisticRollback] PessimisticRollbackRequest => PessimisticRollbackResponse, kv_unlock;
    "KvCommit" [as Commit] CommitRequest => CommitResponse, kv_commit;
    "KvBatchRollback" [as BatchRollback] BatchRollbackRequest => BatchRollbackResponse, kv_rollback;
    "KvTxnHeartBeat" [as TxnHeartBeat] TxnHeartBeatRequest => TxnHeartBeatResponse, kv_heart_beat;
    "KvCheckTxnStatus" [as CheckTxnStatus] CheckTxnStatusRequest => CheckTxnStatusResponse, kv_check_status;
    "KvCheckSecondaryLocks" [as CheckSecondaryLocks] CheckSecondaryLocksRequest => CheckSecondaryLocksResponse,
        kv_check_secondaries;
    "MvccGetByKey" MvccGetByKeyRequest => MvccGetByKeyResponse, mvcc;
    "KvResolveLock" [as ResolveLock] ResolveLockRequest => ResolveLockResponse, kv_resolve;
}

/// The state, and the range of the region that was asked.
struct Scene<'a> {
    state: &'a mut State,
    range: KeyRange,
}

impl Scene<'_> {
    /// The part of a range of keys on the wire that the region holds.
    fn inside(&self, key: &Bytes, is_txn: bool) -> bool {
        let encoded = is_txn || self.state.is_v2;
        let key = if encoded { memcomparable::encode(key) } else { key.clone() };
        self.range.contains(&key)
    }

    fn require(&self, key: &Bytes, is_txn: bool) {
        assert!(self.inside(key, is_txn), "{key:?} is not in {}", self.range);
    }
}

async fn serve<Q: Asked>(
    here: Here,
    rpc: &'static str,
    request: Q,
    act: fn(&mut Scene<'_>, Q) -> Q::Answer,
) -> Result<Q::Answer, Status> {
    let reaction = here.fake.record(rpc);
    here.fake.state.lock().served.push((rpc, here.number));
    let mut refusal = None;
    match reaction {
        Reaction::Hang => std::future::pending().await,
        Reaction::Break => return Err(Status::unavailable("broken")),
        Reaction::Refuse(ref scripted) => refusal = Some(scripted.clone()),
        Reaction::DoThenBreak | Reaction::DoThenHang | Reaction::Do => {}
    }
    let answer = {
        let mut state = here.fake.state.lock();
        let range = check(&state, here.number, request.context());
        match (refusal, range) {
            (Some(refusal), _) | (None, Err(refusal)) => {
                let mut answer = Q::Answer::default();
                Q::refuse(&mut answer, refusal.into());
                answer
            }
            (None, Ok(range)) => act(&mut Scene { state: &mut state, range }, request),
        }
    };
    here.fake.note();
    match reaction {
        Reaction::DoThenBreak => Err(Status::unavailable("broken after the deed")),
        Reaction::DoThenHang => std::future::pending().await,
        Reaction::Hang | Reaction::Break | Reaction::Refuse(_) | Reaction::Do => Ok(answer),
    }
}

fn check(
    state: &State,
    store: u64,
    context: Option<&kvrpcpb::Context>,
) -> Result<KeyRange, Refusal> {
    let context = context.expect("every request has a context");
    assert!(context.max_execution_duration_ms > 0, "every request has a deadline");
    let asked = context.peer.expect("every request names its peer");
    if asked.store_id != store {
        return Err(Refusal::StoreNotMatch { requested: asked.store_id, actual: store });
    }
    let region_id = context.region_id;
    let found = state.regions.iter().find(|region| region.meta.id == region_id);
    let region = found.ok_or(Refusal::RegionNotFound { region_id })?;
    let mine = region.meta.peers.iter().find(|peer| peer.store_id == store).expect("three peers");
    if mine.id != asked.id {
        return Err(Refusal::MismatchPeerId { requested: asked.id, actual: mine.id });
    }
    let reads_here = context.replica_read || context.stale_read;
    if context.stale_read && !state.has_safe_time {
        let (region_id, peer_id) = (region_id, asked.id);
        return Err(Refusal::DataIsNotReady { region_id, peer_id, safe_ts: 0 });
    }
    if region.leader.id != asked.id && !reads_here {
        return Err(Refusal::NotLeader { region_id, leader: Some(region.leader) });
    }
    let version = context.region_epoch.expect("every request has an epoch").version;
    if version != region::epoch(&region.meta).version && !state.tells_regions {
        return Err(Refusal::StaleCommand);
    }
    if version != region::epoch(&region.meta).version {
        let mut current_regions = vec![region.meta.clone()];
        current_regions.extend(
            state
                .regions
                .iter()
                .filter(|sibling| sibling.meta.id != region_id)
                .map(|sibling| sibling.meta.clone()),
        );
        return Err(Refusal::EpochNotMatch { current_regions });
    }
    Ok(KeyRange::of(&region.meta))
}

fn raw_get(scene: &mut Scene<'_>, request: kvrpcpb::RawGetRequest) -> kvrpcpb::RawGetResponse {
    scene.require(&request.key, false);
    let value = scene.state.raw.get(&request.key).cloned();
    kvrpcpb::RawGetResponse {
        not_found: value.is_none(),
        value: value.unwrap_or_default(),
        ..Default::default()
    }
}

fn raw_ttl(
    scene: &mut Scene<'_>,
    request: kvrpcpb::RawGetKeyTtlRequest,
) -> kvrpcpb::RawGetKeyTtlResponse {
    kvrpcpb::RawGetKeyTtlResponse {
        not_found: !scene.state.raw.contains_key(&request.key),
        ttl: scene.state.ttls.get(&request.key).copied().unwrap_or(0),
        ..Default::default()
    }
}

fn raw_batch_get(
    scene: &mut Scene<'_>,
    request: kvrpcpb::RawBatchGetRequest,
) -> kvrpcpb::RawBatchGetResponse {
    let mut pairs = Vec::new();
    for key in request.keys {
        scene.require(&key, false);
        if let Some(value) = scene.state.raw.get(&key).cloned() {
            pairs.push(kvrpcpb::KvPair { key, value, ..Default::default() });
        }
    }
    kvrpcpb::RawBatchGetResponse { pairs, ..Default::default() }
}

fn raw_scan(scene: &mut Scene<'_>, request: kvrpcpb::RawScanRequest) -> kvrpcpb::RawScanResponse {
    assert!(request.limit <= 10_240, "stores refuse larger pages");
    let (start, end) = if request.reverse {
        (request.end_key, request.start_key)
    } else {
        (request.start_key, request.end_key)
    };
    let asked = KeyRange::from_wire(start, end);
    let inside = |key: &&Bytes| asked.contains(key) && scene.inside(key, false);
    let mut keys: Vec<_> = scene.state.raw.keys().filter(inside).cloned().collect();
    if request.reverse {
        keys.reverse();
    }
    keys.truncate(request.limit as usize);
    let pair = |key: Bytes| kvrpcpb::KvPair {
        value: if request.key_only { Bytes::new() } else { scene.state.raw[&key].clone() },
        key,
        ..Default::default()
    };
    kvrpcpb::RawScanResponse { kvs: keys.into_iter().map(pair).collect(), ..Default::default() }
}

/// A sum that any order of the pairs gives, as the real one; another one than the real one.
fn raw_checksum(
    scene: &mut Scene<'_>,
    request: kvrpcpb::RawChecksumRequest,
) -> kvrpcpb::RawChecksumResponse {
    let mut answer = kvrpcpb::RawChecksumResponse::default();
    for range in request.ranges {
        scene.require(&range.start_key, false);
        let asked = KeyRange::from_wire(range.start_key, range.end_key);
        let inside = |key: &&Bytes| asked.contains(key) && scene.inside(key, false);
        for key in scene.state.raw.keys().filter(inside) {
            let value = &scene.state.raw[key];
            let add = |sum: u64, byte: &u8| sum.wrapping_mul(31).wrapping_add(u64::from(*byte));
            answer.checksum ^= key.iter().chain(value).fold(7, add);
            answer.total_kvs += 1;
            answer.total_bytes += (key.len() + value.len()) as u64;
        }
    }
    answer
}

fn raw_put(scene: &mut Scene<'_>, request: kvrpcpb::RawPutRequest) -> kvrpcpb::RawPutResponse {
    scene.require(&request.key, false);
    if request.key == "refused" {
        let error = "key not allowed".into();
        return kvrpcpb::RawPutResponse { error, ..Default::default() };
    }
    if request.ttl > 0 {
        scene.state.ttls.insert(request.key.clone(), request.ttl);
    }
    scene.state.raw.insert(request.key, request.value);
    kvrpcpb::RawPutResponse::default()
}

fn raw_batch_put(
    scene: &mut Scene<'_>,
    request: kvrpcpb::RawBatchPutRequest,
) -> kvrpcpb::RawBatchPutResponse {
    assert!(request.ttls.is_empty() || request.ttls.len() == request.pairs.len());
    for (number, pair) in request.pairs.into_iter().enumerate() {
        scene.require(&pair.key, false);
        if let Some(ttl) = request.ttls.get(number).filter(|ttl| **ttl > 0) {
            scene.state.ttls.insert(pair.key.clone(), *ttl);
        }
        scene.state.raw.insert(pair.key, pair.value);
    }
    kvrpcpb::RawBatchPutResponse::default()
}

fn raw_delete(
    scene: &mut Scene<'_>,
    request: kvrpcpb::RawDeleteRequest,
) -> kvrpcpb::RawDeleteResponse {
    scene.require(&request.key, false);
    scene.state.raw.remove(&request.key);
    kvrpcpb::RawDeleteResponse::default()
}

fn raw_batch_delete(
    scene: &mut Scene<'_>,
    request: kvrpcpb::RawBatchDeleteRequest,
) -> kvrpcpb::RawBatchDeleteResponse {
    for key in request.keys {
        scene.require(&key, false);
        scene.state.raw.remove(&key);
    }
    kvrpcpb::RawBatchDeleteResponse::default()
}

fn raw_delete_range(
    scene: &mut Scene<'_>,
    request: kvrpcpb::RawDeleteRangeRequest,
) -> kvrpcpb::RawDeleteRangeResponse {
    scene.require(&request.start_key, false);
    let asked = KeyRange::from_wire(request.start_key, request.end_key);
    scene.state.raw.retain(|key, _| !asked.contains(key));
    kvrpcpb::RawDeleteRangeResponse::default()
}

fn raw_swap(scene: &mut Scene<'_>, request: kvrpcpb::RawCasRequest) -> kvrpcpb::RawCasResponse {
    scene.require(&request.key, false);
    let previous = scene.state.raw.get(&request.key).cloned();
    let expected = (!request.previous_not_exist).then_some(request.previous_value);
    let succeed = previous == expected;
    if succeed && request.delete {
        scene.state.raw.remove(&request.key);
    } else if succeed {
        if request.ttl > 0 {
            scene.state.ttls.insert(request.key.clone(), request.ttl);
        }
        scene.state.raw.insert(request.key, request.value);
    }
    kvrpcpb::RawCasResponse {
        succeed,
        previous_not_exist: previous.is_none(),
        previous_value: previous.unwrap_or_default(),
        ..Default::default()
    }
}

fn ignored(context: &Option<kvrpcpb::Context>) -> Vec<u64> {
    context.as_ref().map(|context| context.resolved_locks.clone()).unwrap_or_default()
}

fn kv_get(scene: &mut Scene<'_>, request: kvrpcpb::GetRequest) -> kvrpcpb::GetResponse {
    scene.require(&request.key, true);
    let ignored = ignored(&request.context);
    scene.state.txn.read_at(request.version);
    match scene.state.txn.get(&request.key, request.version, &ignored) {
        Ok(value) => kvrpcpb::GetResponse {
            not_found: value.is_none(),
            value: value.unwrap_or_default(),
            ..Default::default()
        },
        Err(error) => kvrpcpb::GetResponse { error: Some(error), ..Default::default() },
    }
}

fn pair_of(
    state: &mut State,
    key: Bytes,
    version: u64,
    ignored: &[u64],
) -> Option<kvrpcpb::KvPair> {
    match state.txn.get(&key, version, ignored) {
        Ok(value) => value.map(|value| kvrpcpb::KvPair { key, value, ..Default::default() }),
        // As stores do: the key is named by the error only.
        Err(error) => Some(kvrpcpb::KvPair { error: Some(error), ..Default::default() }),
    }
}

fn kv_batch_get(
    scene: &mut Scene<'_>,
    request: kvrpcpb::BatchGetRequest,
) -> kvrpcpb::BatchGetResponse {
    let ignored = ignored(&request.context);
    scene.state.txn.read_at(request.version);
    let mut pairs = Vec::new();
    for key in request.keys {
        scene.require(&key, true);
        pairs.extend(pair_of(scene.state, key, request.version, &ignored));
    }
    kvrpcpb::BatchGetResponse { pairs, ..Default::default() }
}

fn kv_scan(scene: &mut Scene<'_>, request: kvrpcpb::ScanRequest) -> kvrpcpb::ScanResponse {
    let ignored = ignored(&request.context);
    let (start, end) = if request.reverse {
        (request.end_key, request.start_key)
    } else {
        (request.start_key, request.end_key)
    };
    scene.state.txn.read_at(request.version);
    let asked = KeyRange::from_wire(start, end);
    let mut keys = scene.state.txn.keys();
    keys.retain(|key| asked.contains(key) && scene.inside(key, true));
    if request.reverse {
        keys.reverse();
    }
    let mut pairs = Vec::new();
    for key in keys {
        if pairs.len() < request.limit as usize {
            pairs.extend(pair_of(scene.state, key, request.version, &ignored));
        }
    }
    kvrpcpb::ScanResponse { pairs, ..Default::default() }
}

fn kv_scan_lock(
    scene: &mut Scene<'_>,
    request: kvrpcpb::ScanLockRequest,
) -> kvrpcpb::ScanLockResponse {
    let asked = KeyRange::from_wire(request.start_key, request.end_key);
    let mut locks = scene.state.txn.locks(request.max_version);
    locks.retain(|lock| asked.contains(&lock.key) && scene.inside(&lock.key, true));
    locks.truncate(request.limit as usize);
    kvrpcpb::ScanLockResponse { locks, ..Default::default() }
}

fn kv_prewrite(
    scene: &mut Scene<'_>,
    request: kvrpcpb::PrewriteRequest,
) -> kvrpcpb::PrewriteResponse {
    for mutation in &request.mutations {
        scene.require(&mutation.key, true);
    }
    scene.state.txn.prewrite(request)
}

fn kv_lock(
    scene: &mut Scene<'_>,
    request: kvrpcpb::PessimisticLockRequest,
) -> kvrpcpb::PessimisticLockResponse {
    for mutation in &request.mutations {
        scene.require(&mutation.key, true);
    }
    scene.state.txn.pessimistic_lock(&request)
}

fn kv_unlock(
    scene: &mut Scene<'_>,
    request: kvrpcpb::PessimisticRollbackRequest,
) -> kvrpcpb::PessimisticRollbackResponse {
    for key in &request.keys {
        scene.require(key, true);
    }
    scene.state.txn.pessimistic_rollback(&request);
    kvrpcpb::PessimisticRollbackResponse::default()
}

fn kv_commit(scene: &mut Scene<'_>, request: kvrpcpb::CommitRequest) -> kvrpcpb::CommitResponse {
    for key in &request.keys {
        scene.require(key, true);
    }
    let (start, at) = (request.start_version, request.commit_version);
    let error = scene.state.txn.commit(&request.keys, start, at).err();
    kvrpcpb::CommitResponse { error, commit_version: at, ..Default::default() }
}

fn kv_rollback(
    scene: &mut Scene<'_>,
    request: kvrpcpb::BatchRollbackRequest,
) -> kvrpcpb::BatchRollbackResponse {
    let error = scene.state.txn.rollback(&request.keys, request.start_version).err();
    kvrpcpb::BatchRollbackResponse { error, ..Default::default() }
}

fn kv_heart_beat(
    scene: &mut Scene<'_>,
    request: kvrpcpb::TxnHeartBeatRequest,
) -> kvrpcpb::TxnHeartBeatResponse {
    scene.state.txn.heart_beat(request)
}

fn kv_check_status(
    scene: &mut Scene<'_>,
    request: kvrpcpb::CheckTxnStatusRequest,
) -> kvrpcpb::CheckTxnStatusResponse {
    scene.require(&request.primary_key, true);
    scene.state.txn.check_status(request)
}

fn kv_check_secondaries(
    scene: &mut Scene<'_>,
    request: kvrpcpb::CheckSecondaryLocksRequest,
) -> kvrpcpb::CheckSecondaryLocksResponse {
    for key in &request.keys {
        scene.require(key, true);
    }
    scene.state.txn.check_secondaries(request)
}

fn kv_resolve(
    scene: &mut Scene<'_>,
    request: kvrpcpb::ResolveLockRequest,
) -> kvrpcpb::ResolveLockResponse {
    let (start, at) = (request.start_version, request.commit_version);
    let mut keys = request.keys;
    if keys.is_empty() {
        let mut locks = scene.state.txn.locks(start);
        locks.retain(|lock| lock.lock_version == start && scene.inside(&lock.key, true));
        keys = locks.into_iter().map(|lock| lock.key).collect();
    }
    let resolved = match at {
        0 => scene.state.txn.rollback(&keys, start),
        at => scene.state.txn.commit(&keys, start, at),
    };
    kvrpcpb::ResolveLockResponse { error: resolved.err(), ..Default::default() }
}

fn mvcc(
    scene: &mut Scene<'_>,
    request: kvrpcpb::MvccGetByKeyRequest,
) -> kvrpcpb::MvccGetByKeyResponse {
    scene.require(&request.key, true);
    let info = Some(scene.state.txn.records(&request.key));
    kvrpcpb::MvccGetByKeyResponse { info, ..Default::default() }
}

fn destroy(
    here: &Here,
    request: kvrpcpb::UnsafeDestroyRangeRequest,
) -> Result<kvrpcpb::UnsafeDestroyRangeResponse, Status> {
    let reaction = here.fake.record("UnsafeDestroyRange");
    if let Reaction::Break = reaction {
        return Err(Status::unavailable("broken"));
    }
    let mut state = here.fake.state.lock();
    state.served.push(("UnsafeDestroyRange", here.number));
    state.txn.destroy(&KeyRange::from_wire(request.start_key, request.end_key));
    Ok(kvrpcpb::UnsafeDestroyRangeResponse::default())
}
