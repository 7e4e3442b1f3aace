//! Raw keys over several regions, in calm weather.

use bytes::Bytes;
use client::{ApiVersion, Config, ErrorKind, KvPair, Span, Swap, Ttl};
use futures_util::TryStreamExt as _;
use std::time::Duration;

use crate::fake::Fake;

fn pairs(pairs: &[(&'static str, &'static str)]) -> Vec<KvPair> {
    pairs.iter().map(|&(key, value)| (key.into(), value.into())).collect()
}

#[tokio::test]
async fn values_come_back_from_whichever_region_they_went_to() {
    let fake = Fake::split_at(&["h", "p"]).await;
    let raw = fake.client().await.raw();
    for (key, value) in [("a", "1"), ("h", "2"), ("z", "3")] {
        raw.put(key, value).await.unwrap();
    }
    assert_eq!(raw.get("h").await.unwrap(), Some("2".into()));
    assert_eq!(raw.get("missing").await.unwrap(), None);
    raw.delete("h").await.unwrap();
    assert_eq!(raw.get("h").await.unwrap(), None);
}

#[tokio::test]
async fn batches_are_split_by_region() {
    let fake = Fake::split_at(&["h", "p"]).await;
    let raw = fake.client().await.raw();
    let all = pairs(&[("a", "1"), ("b", "2"), ("i", "3"), ("z", "4")]);
    raw.batch_put(all.clone()).await.unwrap();
    assert_eq!(fake.calls("RawBatchPut"), 3);
    assert_eq!(raw.batch_get(["z", "a", "nothing", "i", "b"]).await.unwrap(), all);
    raw.batch_delete(["a", "z"]).await.unwrap();
    assert_eq!(raw.batch_get(["a", "b", "z"]).await.unwrap(), pairs(&[("b", "2")]));
    assert_eq!(raw.batch_get(Vec::<&str>::new()).await.unwrap(), []);
}

#[tokio::test]
async fn scans_cross_regions_in_both_directions() {
    let fake = Fake::split_at(&["c", "m"]).await;
    let raw = fake.client().await.raw();
    let all = pairs(&[("a", "1"), ("c", "2"), ("d", "3"), ("m", "4"), ("z", "5")]);
    raw.batch_put(all.clone()).await.unwrap();
    assert_eq!(raw.scan(.., 100).await.unwrap(), all);
    assert_eq!(raw.scan("b".."m", 100).await.unwrap(), all[1..3]);
    assert_eq!(raw.scan("b"..="m", 100).await.unwrap(), all[1..4]);
    assert_eq!(raw.scan("b".., 2).await.unwrap(), all[1..3]);
    assert_eq!(raw.scan(.., 0).await.unwrap(), []);
    assert_eq!(raw.scan("x".."b", 5).await.unwrap(), []);
    assert_eq!(raw.scan_keys(Span::prefix("d"), 9).await.unwrap(), [Bytes::from("d")]);
    let mut backwards = all.clone();
    backwards.reverse();
    assert_eq!(raw.scan_reverse(.., 100).await.unwrap(), backwards);
    assert_eq!(raw.scan_reverse("b".."m", 100).await.unwrap(), backwards[2..4]);
    assert_eq!(raw.scan_reverse(.., 2).await.unwrap(), backwards[..2]);
    assert_eq!(raw.scan_reverse(.."c", 9).await.unwrap(), backwards[4..]);
}

#[tokio::test]
async fn a_long_scan_comes_in_pages_and_so_does_a_stream() {
    let fake = Fake::split_at(&["k1500", "k1700"]).await;
    let raw = fake.client().await.raw();
    let all: Vec<KvPair> =
        (1000..4000).map(|number| (format!("k{number}").into(), "v".into())).collect();
    raw.batch_put(all.clone()).await.unwrap();
    assert_eq!(raw.scan(.., usize::MAX).await.unwrap(), all);
    let streamed: Vec<KvPair> = raw.stream("k1200".."k3800").try_collect().await.unwrap();
    assert_eq!(streamed, all[200..2800]);
    let backwards = raw.scan_reverse(.., 2500).await.unwrap();
    assert!(backwards.iter().eq(all[500..].iter().rev()));
}

#[tokio::test]
async fn a_range_is_deleted_across_regions() {
    let fake = Fake::split_at(&["h", "p"]).await;
    let raw = fake.client().await.raw();
    let all = pairs(&[("a", "1"), ("g", "2"), ("i", "3"), ("q", "4"), ("z", "5")]);
    raw.batch_put(all.clone()).await.unwrap();
    raw.delete_range("b".."z").await.unwrap();
    assert_eq!(raw.scan(.., 9).await.unwrap(), pairs(&[("a", "1"), ("z", "5")]));
    raw.delete_range(..).await.unwrap();
    assert_eq!(raw.scan(.., 9).await.unwrap(), []);
}

#[tokio::test]
async fn a_swap_tells_what_it_found() {
    let fake = Fake::start().await;
    let raw = fake.client().await.raw();
    let swap = |swapped, previous: Option<&'static str>| Swap {
        swapped,
        previous: previous.map(Bytes::from),
    };
    let none = None::<&str>;
    assert_eq!(raw.compare_and_swap("k", none, "1").await.unwrap(), swap(true, None));
    assert_eq!(raw.compare_and_swap("k", none, "2").await.unwrap(), swap(false, Some("1")));
    assert_eq!(raw.compare_and_swap("k", Some("1"), "2").await.unwrap(), swap(true, Some("1")));
    assert_eq!(raw.compare_and_delete("k", "1").await.unwrap(), swap(false, Some("2")));
    assert_eq!(raw.compare_and_delete("k", "2").await.unwrap(), swap(true, Some("2")));
    assert_eq!(raw.get("k").await.unwrap(), None);
}

#[tokio::test]
async fn a_ttl_is_missing_forever_or_remaining() {
    let fake = Fake::start().await;
    let raw = fake.client().await.raw();
    raw.put("forever", "v").await.unwrap();
    raw.put_with_ttl("soon", "v", Duration::from_millis(9_500)).await.unwrap();
    assert_eq!(raw.ttl("missing").await.unwrap(), Ttl::Missing);
    assert_eq!(raw.ttl("forever").await.unwrap(), Ttl::Forever);
    assert_eq!(raw.ttl("soon").await.unwrap(), Ttl::Remaining(Duration::from_secs(10)));
}

#[tokio::test]
async fn what_the_store_will_never_take_is_rejected_in_its_own_words() {
    let fake = Fake::start().await;
    let error = fake.client().await.raw().put("refused", "v").await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Rejected);
    assert!(error.to_string().contains("key not allowed"), "{error}");
}

#[tokio::test]
async fn a_keyspace_keeps_raw_and_transactional_keys_apart() {
    let fake = Fake::start().await;
    fake.state.lock().is_v2 = true;
    for bound in [&b"r\0\0\x07"[..], b"r\0\0\x07m", b"r\0\0\x08", b"x\0\0\x07", b"x\0\0\x08"] {
        fake.split(&proto::memcomparable::encode(bound));
    }
    let config =
        Config { api_version: ApiVersion::V2, keyspace: "tenant".into(), ..Default::default() };
    let client = fake.client_with(config).await;
    let (raw, transactions) = (client.raw(), client.transactions());
    raw.batch_put(pairs(&[("a", "1"), ("z", "2")])).await.unwrap();
    let txn = transactions.begin().await.unwrap();
    txn.put("a", "3").unwrap();
    txn.commit().await.unwrap();
    assert_eq!(raw.scan(.., 9).await.unwrap(), pairs(&[("a", "1"), ("z", "2")]));
    assert_eq!(raw.scan_reverse(.., 9).await.unwrap(), pairs(&[("z", "2"), ("a", "1")]));
    let snapshot = transactions.snapshot().await.unwrap();
    assert_eq!(snapshot.scan(.., 9).await.unwrap(), pairs(&[("a", "3")]));
    assert!(fake.state.lock().raw.contains_key(&b"r\0\0\x07a"[..]));
}

#[tokio::test]
async fn an_unknown_keyspace_is_rejected() {
    let fake = Fake::start().await;
    let config = Config { api_version: ApiVersion::V2, ..Default::default() };
    let error = client::Client::connect_with(fake.endpoints(), config).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Rejected);
    assert!(error.to_string().contains("no such keyspace"), "{error}");
}

#[tokio::test]
async fn ranges_are_read_in_every_way() {
    let fake = Fake::split_at(&["h", "p"]).await;
    let raw = fake.client().await.raw();
    let keys = ["a", "c", "i", "q", "z"];
    raw.batch_put(keys.map(|key| (key, "v"))).await.unwrap();
    let backwards: Vec<_> = keys.iter().rev().map(|key| Bytes::from(*key)).collect();
    assert_eq!(raw.scan_keys_reverse(.., 9).await.unwrap(), backwards);
    assert_eq!(raw.scan_keys_reverse("b".."r", 2).await.unwrap(), backwards[1..3]);
    let streamed: Vec<KvPair> = raw.stream_reverse(..).try_collect().await.unwrap();
    assert_eq!(streamed.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), backwards);
    let scans = raw.batch_scan(["a".."d", "p".."zz", "x".."y"], 2).await.unwrap();
    assert_eq!(scans.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 0]);
}

#[tokio::test]
async fn a_checksum_does_not_see_regions() {
    let (whole, parts) = (Fake::start().await, Fake::split_at(&["h", "p"]).await);
    let mut sums = Vec::new();
    for fake in [whole, parts] {
        let raw = fake.client().await.raw();
        raw.batch_put(["a", "c", "i", "q", "z"].map(|key| (key, "value"))).await.unwrap();
        let sum = raw.checksum(..).await.unwrap();
        assert_eq!((sum.pairs, sum.bytes), (5, 30));
        assert_eq!(raw.checksum("b".."j").await.unwrap().pairs, 2);
        sums.push(sum);
    }
    assert_eq!(sums[0], sums[1]);
}

#[tokio::test]
async fn values_expire_each_in_its_own_time() {
    let fake = Fake::split_at(&["m"]).await;
    let raw = fake.client().await.raw();
    let hour = Duration::from_secs(3600);
    raw.batch_put_with_ttls([("a", "v", Some(hour)), ("b", "v", None), ("z", "v", Some(hour * 2))])
        .await
        .unwrap();
    assert_eq!(raw.ttl("a").await.unwrap(), Ttl::Remaining(hour));
    assert_eq!(raw.ttl("b").await.unwrap(), Ttl::Forever);
    assert_eq!(raw.ttl("z").await.unwrap(), Ttl::Remaining(hour * 2));
    let swap = raw.compare_and_swap_with_ttl("b", Some("v"), "w", hour).await.unwrap();
    assert!(swap.swapped);
    assert_eq!(raw.ttl("b").await.unwrap(), Ttl::Remaining(hour));
}
