//! Raw requests on one region, under each api version.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use proto::kvrpcpb::{
    self, Context, KvPair, RawBatchDeleteRequest, RawBatchGetRequest, RawBatchPutRequest,
    RawBatchScanRequest, RawCasRequest, RawChecksumRequest, RawDeleteRangeRequest,
    RawGetKeyTtlRequest, RawGetRequest, RawPutRequest, RawScanRequest,
};
use proto::{KeyRange, Refusal};
use raftstore::engine::memory::MemoryData;

use super::Raw;
use crate::config::ApiVersion;
use crate::storage::local::LocalStorage;

type TestRaw = Raw<LocalStorage<MemoryData>>;

fn raw(version: ApiVersion) -> TestRaw {
    Raw::new(LocalStorage::new(MemoryData::new()), version)
}

fn context(version: ApiVersion) -> Option<Context> {
    Some(Context { api_version: version.to_wire() as i32, ..Default::default() })
}

async fn put(raw: &TestRaw, key: &'static str, value: &'static str) {
    let request = RawPutRequest { key: key.into(), value: value.into(), ..Default::default() };
    let answer = raw.put(request).await;
    assert_eq!((answer.region_error, answer.error.as_str()), (None, ""));
}

fn scan(start: &'static str, end: &'static str, limit: u32, reverse: bool) -> RawScanRequest {
    RawScanRequest {
        start_key: start.into(),
        end_key: end.into(),
        limit,
        reverse,
        ..Default::default()
    }
}

fn show(pairs: &[KvPair]) -> String {
    let one = |pair: &KvPair| {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        match &pair.error {
            Some(error) => error.abort.clone(),
            None => format!("{}={}", text(&pair.key), text(&pair.value)),
        }
    };
    pairs.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn scans_go_both_ways_and_stop_at_their_bounds() {
    let raw = raw(ApiVersion::V1);
    for (key, value) in [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")] {
        put(&raw, key, value).await;
    }
    let show = async |request| show(&raw.scan(request).await.kvs);
    assert_eq!(show(scan("b", "d", 9, false)).await, "b=2 c=3");
    assert_eq!(show(scan("", "", 3, false)).await, "a=1 b=2 c=3");
    assert_eq!(show(scan("d", "b", 9, true)).await, "c=3 b=2");
    assert_eq!(show(scan("", "", 2, true)).await, "d=4 c=3");
    assert_eq!(show(scan("", "", 0, false)).await, "");
    let keys = RawScanRequest { key_only: true, ..scan("", "", 2, false) };
    assert_eq!(show(keys).await, "a= b=");
}

#[tokio::test]
async fn a_batch_scan_takes_missing_ends_from_the_next_range() {
    let raw = raw(ApiVersion::V1);
    for (key, value) in [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")] {
        put(&raw, key, value).await;
    }
    let range = |start: &'static str, end: &'static str| kvrpcpb::KeyRange {
        start_key: start.into(),
        end_key: end.into(),
    };
    let request =
        |ranges, each_limit| RawBatchScanRequest { ranges, each_limit, ..Default::default() };
    let ranges = vec![range("a", ""), range("c", "")];
    assert_eq!(show(&raw.batch_scan(request(ranges.clone(), 9)).await.kvs), "a=1 b=2 c=3 d=4");
    assert_eq!(show(&raw.batch_scan(request(ranges.clone(), 1)).await.kvs), "a=1 c=3");
    assert_eq!(show(&raw.batch_scan(request(ranges, 0)).await.kvs), "");
    let wrong = raw.batch_scan(request(vec![range("c", "a")], 9)).await;
    assert_eq!(show(&wrong.kvs), "Invalid KeyRanges");
}

#[tokio::test]
async fn a_walk_must_begin_in_the_region_and_is_cut_at_its_end() {
    let range = KeyRange::from_wire("b", "d");
    let raw = Raw::new(LocalStorage::with_range(MemoryData::new(), range), ApiVersion::V1);
    put(&raw, "b", "2").await;
    put(&raw, "c", "3").await;
    assert_eq!(show(&raw.scan(scan("b", "z", 9, false)).await.kvs), "b=2 c=3");
    assert_eq!(show(&raw.scan(scan("d", "a", 9, true)).await.kvs), "c=3 b=2");
    for request in [scan("a", "z", 9, false), scan("z", "a", 9, true), scan("d", "", 9, false)] {
        let refusal = Refusal::from(raw.scan(request).await.region_error.unwrap());
        assert!(matches!(refusal, Refusal::KeyNotInRegion { .. }));
    }
    let outside = RawPutRequest { key: "x".into(), ..Default::default() };
    assert!(raw.put(outside).await.region_error.is_some());
    let delete = async |start: &'static str, end: &'static str| {
        let request = RawDeleteRangeRequest {
            start_key: start.into(),
            end_key: end.into(),
            ..Default::default()
        };
        raw.delete_range(request).await
    };
    for (start, end) in [("b", "e"), ("b", ""), ("a", "c"), ("", "c"), ("x", "x")] {
        let refusal = Refusal::from(delete(start, end).await.region_error.unwrap());
        assert!(matches!(refusal, Refusal::KeyNotInRegion { .. }), "{start}..{end}");
    }
    let text = delete("c", "b").await.error;
    assert_eq!(text, "invalid delete range command, start_key: c, end_key: b");
    let answer = delete("c", "c").await;
    assert_eq!((answer.region_error, answer.error.as_str()), (None, ""));
    assert_eq!(show(&raw.scan(scan("b", "d", 9, false)).await.kvs), "b=2 c=3");
}

#[tokio::test]
async fn a_key_that_is_too_long_is_not_written_and_not_found() {
    let raw = raw(ApiVersion::V1);
    let key = Bytes::from(vec![b'k'; 9000]);
    let request = RawPutRequest { key: key.clone(), ..Default::default() };
    assert!(raw.put(request).await.error.contains("KeyTooLarge"));
    assert!(raw.get(RawGetRequest { key, ..Default::default() }).await.not_found);
}

#[tokio::test]
async fn many_keys_at_once() {
    let raw = raw(ApiVersion::V1);
    let pair = |key: &'static str, value: &'static str| KvPair {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    };
    let request = RawBatchPutRequest {
        pairs: vec![pair("a", "1"), pair("b", "2"), pair("c", "3")],
        ..Default::default()
    };
    assert_eq!(raw.batch_put(request).await.error, "");
    let get = |keys: [&'static str; 3]| RawBatchGetRequest {
        keys: keys.map(Bytes::from).into(),
        ..Default::default()
    };
    assert_eq!(show(&raw.batch_get(get(["c", "x", "a"])).await.pairs), "c=3 a=1");
    let delete = RawBatchDeleteRequest { keys: vec!["a".into(), "x".into()], ..Default::default() };
    assert_eq!(raw.batch_delete(delete).await.error, "");
    assert_eq!(show(&raw.batch_get(get(["a", "b", "c"])).await.pairs), "b=2 c=3");
    let checksum =
        RawChecksumRequest { ranges: vec![kvrpcpb::KeyRange::default()], ..Default::default() };
    let sum = raw.checksum(checksum).await;
    assert_eq!((sum.total_kvs, sum.total_bytes), (2, 4));
    let delete =
        RawDeleteRangeRequest { start_key: "b".into(), end_key: "c".into(), ..Default::default() };
    assert_eq!(raw.delete_range(delete).await.error, "");
    assert_eq!(show(&raw.scan(scan("", "", 9, false)).await.kvs), "c=3");
}

#[tokio::test]
async fn what_has_expired_is_gone_for_everybody() {
    let time = Arc::new(AtomicU64::new(1000));
    let clock = time.clone();
    let raw = Raw::with_clock(
        LocalStorage::new(MemoryData::new()),
        ApiVersion::V2,
        Arc::new(move || clock.load(Ordering::SeqCst)),
    );
    let context = context(ApiVersion::V2);
    let key = Bytes::from("r\0\0\0k");
    let put = RawPutRequest {
        context: context.clone(),
        key: key.clone(),
        value: "v".into(),
        ttl: 10,
        ..Default::default()
    };
    assert_eq!(raw.put(put).await.error, "");
    let ttl =
        || RawGetKeyTtlRequest { context: context.clone(), key: key.clone(), ..Default::default() };
    let get = || RawGetRequest { context: context.clone(), key: key.clone(), ..Default::default() };
    time.store(1009, Ordering::SeqCst);
    assert_eq!(raw.get_key_ttl(ttl()).await.ttl, 1);
    assert_eq!(raw.get(get()).await.value, "v");
    time.store(1010, Ordering::SeqCst);
    assert!(raw.get_key_ttl(ttl()).await.not_found);
    assert!(raw.get(get()).await.not_found);
    let all = RawScanRequest { context: context.clone(), ..scan("r", "s", 9, false) };
    assert!(raw.scan(all).await.kvs.is_empty());
    // Absent is what a swap may expect.
    let swap = RawCasRequest {
        context: context.clone(),
        key: key.clone(),
        value: "w".into(),
        previous_not_exist: true,
        ..Default::default()
    };
    assert!(raw.compare_and_swap(swap).await.succeed);
    assert_eq!(raw.get(get()).await.value, "w");
}

#[tokio::test]
async fn times_to_live_need_a_version_that_has_them_and_one_each() {
    let plain = raw(ApiVersion::V1);
    let request = RawPutRequest { key: "k".into(), ttl: 1, ..Default::default() };
    assert!(plain.put(request).await.error.contains("ttl is not enabled"));
    let request = RawGetKeyTtlRequest { key: "k".into(), ..Default::default() };
    assert!(!plain.get_key_ttl(request).await.error.is_empty());

    let with_ttl = raw(ApiVersion::V1Ttl);
    let pair = || KvPair { key: "k".into(), value: "v".into(), ..Default::default() };
    let request = RawBatchPutRequest {
        pairs: vec![pair(), pair(), pair()],
        ttls: vec![1, 2],
        ..Default::default()
    };
    let error = with_ttl.batch_put(request).await.error;
    assert_eq!(error, "The length of ttls does not equal to the length of pairs");
    let request = RawBatchPutRequest { pairs: vec![pair()], ttls: vec![20], ..Default::default() };
    assert_eq!(with_ttl.batch_put(request).await.error, "");
    let request = RawGetKeyTtlRequest { key: "k".into(), ..Default::default() };
    let ttl = with_ttl.get_key_ttl(request).await.ttl;
    assert!((15..=20).contains(&ttl));
}

#[tokio::test]
async fn a_swap_compares_first_and_says_what_was_there() {
    let raw = raw(ApiVersion::V1);
    let swap = |previous: Option<&'static str>, value: &'static str| RawCasRequest {
        key: "k".into(),
        value: value.into(),
        previous_not_exist: previous.is_none(),
        previous_value: previous.unwrap_or_default().into(),
        ..Default::default()
    };
    let answer = raw.compare_and_swap(swap(Some("x"), "1")).await;
    assert!(!answer.succeed && answer.previous_not_exist);
    let answer = raw.compare_and_swap(swap(None, "1")).await;
    assert!(answer.succeed && answer.previous_not_exist);
    let answer = raw.compare_and_swap(swap(None, "2")).await;
    assert!(!answer.succeed);
    assert_eq!(answer.previous_value, "1");
    let delete = RawCasRequest { delete: true, ..swap(Some("1"), "") };
    assert!(raw.compare_and_swap(delete).await.succeed);
    let get = RawGetRequest { key: "k".into(), ..Default::default() };
    assert!(raw.get(get).await.not_found);
}

#[tokio::test]
async fn of_many_swaps_at_once_each_counts() {
    let raw = raw(ApiVersion::V1);
    put(&raw, "n", "0").await;
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let raw = raw.clone();
        tasks.push(tokio::spawn(async move {
            let mut done = 0;
            while done < 5 {
                let get = RawGetRequest { key: "n".into(), ..Default::default() };
                let previous_value = raw.get(get).await.value;
                let number: u64 = std::str::from_utf8(&previous_value).unwrap().parse().unwrap();
                let swap = RawCasRequest {
                    key: "n".into(),
                    value: (number + 1).to_string().into(),
                    previous_value,
                    ..Default::default()
                };
                if raw.compare_and_swap(swap).await.succeed {
                    done += 1;
                }
                tokio::task::yield_now().await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let get = RawGetRequest { key: "n".into(), ..Default::default() };
    assert_eq!(raw.get(get).await.value, "40");
}

#[tokio::test]
async fn families_are_known_by_name_under_the_first_version_only() {
    let raw_v1 = raw(ApiVersion::V1);
    let request = RawGetRequest { key: "k".into(), cf: "nonsense".into(), ..Default::default() };
    assert!(raw_v1.get(request).await.error.contains("InvalidCf"));
    let request =
        RawGetRequest { context: context(ApiVersion::V2), key: "rk".into(), cf: "default".into() };
    assert!(raw(ApiVersion::V2).get(request).await.error.contains("deprecated"));
}
