//! What bytes from anywhere are thrown at: each function takes any bytes and must come back.
//!
//! The fuzzer (`fuzz/`, a workspace of its own) calls them for as long as one likes; as property tests they
//! run a bounded number of times with every test run. A panic is a bug; so is a loop without an end.

use std::sync::Arc;

use bytes::Bytes;
use proto::{kvrpcpb, memcomparable};
use raftstore::engine::garbage::{Sieve, Verdict};
use raftstore::engine::memory::MemoryData;

use crate::config::ApiVersion;
use crate::keys::Key;
use crate::raw::Raw;
use crate::raw::value::Value;
use crate::storage::local::LocalStorage;
use crate::txn::record::{Lock, Write};
use crate::txn::{TimestampFuture, TimestampSource, Transactions};

/// Records of all kinds: what reads as one is one, and its bytes say no more than it does.
pub fn records(input: &[u8]) {
    if let Ok(lock) = Lock::decode(input, "fuzz") {
        assert_eq!(Lock::decode(&lock.encode(), "fuzz").ok(), Some(lock));
    }
    let write = Write::decode(input, "fuzz").ok();
    if let Some(write) = &write {
        assert_eq!(Write::decode(&write.encode(), "fuzz").ok().as_ref(), Some(write));
    }
    // Garbage collection reads the same bytes by itself: what it takes for a record must be one.
    let verdict = Sieve::new(u64::MAX).look(&Key::new("k").at(1), input);
    match write {
        None => assert_eq!(verdict, Verdict::Keep),
        Some(write) if !write.kind.is_data() => assert_eq!(verdict, Verdict::Drop),
        Some(_) => assert!(matches!(verdict, Verdict::Keep | Verdict::DropLast)),
    }
    for version in [ApiVersion::V1, ApiVersion::V1Ttl, ApiVersion::V2] {
        // Refused or read; nothing else.
        let _ = Value::decode(Bytes::copy_from_slice(input), version, 0);
    }
}

/// Keys keep their order and come back.
pub fn keys(input: &[u8]) {
    let (at, rest) = input.split_first().map_or((0, input), |(at, rest)| (usize::from(*at), rest));
    let (left, right) = rest.split_at(at.min(rest.len()));
    let (left_key, right_key) = (Key::new(left.to_vec()), Key::new(right.to_vec()));
    assert_eq!(left.cmp(right), left_key.encoded().cmp(right_key.encoded()));
    assert_eq!(Key::from_encoded(left_key.encoded()).as_ref(), Some(&left_key));
    assert_eq!(left_key.version_in(&left_key.at(at as u64)), Some(at as u64));
    if let Some(decoded) = memcomparable::decode(rest) {
        assert_eq!(memcomparable::encode(&decoded), rest);
    }
}

/// A story of transactions whose requests are lost, late, doubled and out of order, held against a model.
pub fn stories(input: &[u8]) {
    crate::txn::replay::play(input);
}

/// Timestamps that are there at once.
struct Oracle;

impl TimestampSource for Oracle {
    fn fresh(&self) -> TimestampFuture {
        Box::pin(async { Ok(1 << 20) })
    }
}

/// A request of any kind, as the network would give it: it is answered, whatever it says. The first byte
/// says which kind, the second under which api version; the rest is the request, and the same again
/// follows until the input ends, so that one request meets what another has left.
pub fn requests(input: &[u8]) {
    let version = match input.get(1).map_or(0, |byte| byte % 3) {
        0 => ApiVersion::V1,
        1 => ApiVersion::V1Ttl,
        _ => ApiVersion::V2,
    };
    let storage = LocalStorage::new(MemoryData::new());
    let transactions = Transactions::new(storage.clone(), version, Arc::new(Oracle));
    let raw = Raw::with_clock(storage, version, Arc::new(|| 1_000));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime on this thread needs nothing that could be missing");
    // Every request ends with the marker or with the input.
    for request in input.get(2..).unwrap_or_default().split(|byte| *byte == 0xa5) {
        let kind = request.first().copied().unwrap_or_default();
        let bytes = Bytes::copy_from_slice(request.get(1..).unwrap_or_default());
        runtime.block_on(answer(kind, bytes, &transactions, &raw));
    }
}

type Here = LocalStorage<MemoryData>;

async fn answer(kind: u8, bytes: Bytes, transactions: &Transactions<Here>, raw: &Raw<Here>) {
    use prost::Message as _;
    macro_rules! kinds {
        ($($number:literal $request:ident $part:ident . $method:ident,)*) => {
            match kind % 40 {
                $($number => {
                    let Ok(request) = kvrpcpb::$request::decode(bytes) else { return };
                    drop($part.$method(request).await);
                })*
                _ => {
                    let Ok(mut request) = kvrpcpb::PessimisticLockRequest::decode(bytes) else {
                        return;
                    };
                    // Nobody would end the wait.
                    request.wait_timeout = -1;
                    drop(transactions.pessimistic_lock(request).await);
                }
            }
        };
    }
    kinds! {
        0 GetRequest transactions.get,
        1 BatchGetRequest transactions.batch_get,
        2 ScanRequest transactions.scan,
        3 PrewriteRequest transactions.prewrite,
        4 CommitRequest transactions.commit,
        5 CleanupRequest transactions.cleanup,
        6 BatchRollbackRequest transactions.batch_rollback,
        7 PessimisticRollbackRequest transactions.pessimistic_rollback,
        8 TxnHeartBeatRequest transactions.txn_heart_beat,
        9 CheckTxnStatusRequest transactions.check_txn_status,
        10 CheckSecondaryLocksRequest transactions.check_secondary_locks,
        11 ScanLockRequest transactions.scan_lock,
        12 ResolveLockRequest transactions.resolve_lock,
        13 DeleteRangeRequest transactions.delete_range,
        14 FlushRequest transactions.flush,
        15 BufferBatchGetRequest transactions.buffer_batch_get,
        16 MvccGetByKeyRequest transactions.mvcc_get_by_key,
        17 MvccGetByStartTsRequest transactions.mvcc_get_by_start_ts,
        18 RawGetRequest raw.get,
        19 RawBatchGetRequest raw.batch_get,
        20 RawPutRequest raw.put,
        21 RawBatchPutRequest raw.batch_put,
        22 RawDeleteRequest raw.delete,
        23 RawBatchDeleteRequest raw.batch_delete,
        24 RawScanRequest raw.scan,
        25 RawBatchScanRequest raw.batch_scan,
        26 RawDeleteRangeRequest raw.delete_range,
        27 RawGetKeyTtlRequest raw.get_key_ttl,
        28 RawCasRequest raw.compare_and_swap,
        29 RawChecksumRequest raw.checksum,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    /// Bytes that are often something: tags, small numbers, lengths.
    fn bytes(longest: usize) -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![
            3 => 0..16_u8,
            2 => prop::sample::select(b"PDLSRvFlSacfgt\x0a\x12\x1a\x20\xa5".to_vec()),
            1 => any::<u8>(),
        ];
        prop::collection::vec(byte, 0..longest)
    }

    /// Requests that say something: a prewrite, and what may follow it, with small numbers and few keys.
    fn sensible() -> impl Strategy<Value = Vec<u8>> {
        let key = || prop::sample::select(vec!["a", "b", "x\0\0\0k", "t1", ""]);
        let request = (any::<u8>(), key(), 0..40_u64, 0..40_u64, any::<bool>());
        let request = request.prop_map(|(kind, key, start, ts, flag)| {
            let context = Some(kvrpcpb::Context {
                api_version: if key.starts_with('x') { 2 } else { 0 },
                ..Default::default()
            });
            let mutation = kvrpcpb::Mutation {
                op: i32::from(kind % 9),
                key: key.into(),
                value: vec![b'v'; start as usize * 10].into(),
                ..Default::default()
            };
            let prewrite = kvrpcpb::PrewriteRequest {
                context: context.clone(),
                mutations: vec![mutation],
                primary_lock: key.into(),
                start_version: start,
                for_update_ts: if flag { ts } else { 0 },
                use_async_commit: kind & 1 == 0,
                try_one_pc: kind & 2 == 0,
                max_commit_ts: ts / 2,
                ..Default::default()
            };
            let commit = kvrpcpb::CommitRequest {
                context: context.clone(),
                start_version: start,
                keys: vec![key.into()],
                commit_version: ts,
                ..Default::default()
            };
            let resolve = kvrpcpb::ResolveLockRequest {
                context,
                start_version: start,
                commit_version: if flag { ts } else { 0 },
                ..Default::default()
            };
            match kind % 3 {
                0 => [vec![3], prewrite.encode_to_vec()].concat(),
                1 => [vec![4], commit.encode_to_vec()].concat(),
                _ => [vec![12], resolve.encode_to_vec()].concat(),
            }
        });
        prop::collection::vec(request, 0..12).prop_map(|all| all.join(&0xa5))
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_record_or_none(input in bytes(80)) {
            records(&input);
        }

        #[test]
        fn any_keys_keep_their_order(input in bytes(60)) {
            keys(&input);
        }

        #[test]
        fn any_request_is_answered(version in 0..3_u8, input in bytes(120)) {
            requests(&[vec![0, version], input].concat());
        }

        #[test]
        fn any_story_is_answered(version in 0..3_u8, input in sensible()) {
            requests(&[vec![0, version], input].concat());
        }
    }
}
