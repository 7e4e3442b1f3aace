//! Watching global configuration and the meta storage.

use proto::meta_storagepb::event::EventType;
use proto::meta_storagepb::meta_storage_client::MetaStorageClient;
use proto::{meta_storagepb, pdpb};
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use super::{PATIENCE, alone, pd, start};
use crate::SchedulerNode;
use crate::member::history::CHANGES_MAX;

async fn served() -> SchedulerNode {
    let node = start(alone("a")).await;
    assert!(node.wait_until_served(PATIENCE).await);
    node
}

async fn meta(node: &SchedulerNode) -> MetaStorageClient<Channel> {
    MetaStorageClient::new(super::super::links::connect(node.client_url()).await.unwrap())
}

async fn next<T>(stream: &mut Streaming<T>) -> T {
    let next = tokio::time::timeout(PATIENCE, stream.message()).await;
    next.expect("something is told").unwrap().expect("the stream goes on")
}

fn item(name: &str, payload: &'static str) -> pdpb::GlobalConfigItem {
    let kind = match payload {
        "" => pdpb::EventType::Delete,
        _ => pdpb::EventType::Put,
    };
    pdpb::GlobalConfigItem {
        name: name.into(),
        payload: payload.into(),
        kind: kind.into(),
        ..Default::default()
    }
}

/// Writes each change by itself; an empty one deletes.
async fn store(node: &SchedulerNode, changes: Vec<pdpb::GlobalConfigItem>) {
    let request = pdpb::StoreGlobalConfigRequest { changes, ..Default::default() };
    let stored = pd(node).await.store_global_config(request).await.unwrap().into_inner();
    assert_eq!(stored.error, None);
}

async fn watch(node: &SchedulerNode, revision: i64) -> Streaming<pdpb::WatchGlobalConfigResponse> {
    let request = pdpb::WatchGlobalConfigRequest { revision, ..Default::default() };
    pd(node).await.watch_global_config(request).await.unwrap().into_inner()
}

/// The next `count` changes and their revisions.
async fn changes(
    stream: &mut Streaming<pdpb::WatchGlobalConfigResponse>,
    count: usize,
) -> (Vec<(pdpb::EventType, String, String)>, i64) {
    let (mut seen, mut revision) = (Vec::new(), 0);
    while seen.len() < count {
        let told = next(stream).await;
        assert_eq!(told.header.unwrap().error, None);
        assert!(told.revision > revision, "{} comes after {revision}", told.revision);
        revision = told.revision;
        seen.extend(told.changes.into_iter().map(|change| {
            let payload = String::from_utf8(change.payload.to_vec()).unwrap();
            (change.kind(), change.name, payload)
        }));
    }
    (seen, revision)
}

/// A watch tells every change from its revision on, that one included, and of a deleted item what it was. Without a
/// revision it begins with what comes.
#[tokio::test]
async fn every_change_of_configuration_is_told_from_the_revision_on() {
    let node = served().await;
    store(&node, vec![item("old", "0")]).await;
    let mut from_now = watch(&node, 0).await;
    let steps = [("a", "1"), ("b", "2"), ("a", "3"), ("a", ""), ("b", "")];
    for (name, payload) in steps {
        store(&node, vec![item(name, payload)]).await;
    }
    let (put, delete) = (pdpb::EventType::Put, pdpb::EventType::Delete);
    let (a, b) = ("/global/config/a".to_owned(), "/global/config/b".to_owned());
    let expected = vec![
        (put, a.clone(), "1".to_owned()),
        (put, b.clone(), "2".to_owned()),
        (put, a.clone(), "3".to_owned()),
        (delete, a, "3".to_owned()),
        (delete, b, "2".to_owned()),
    ];
    assert_eq!(changes(&mut from_now, 5).await.0, expected);

    // What lies elsewhere is not told; what was done is, to whoever asks from its revision.
    let mut meta = meta(&node).await;
    let elsewhere = meta_storagepb::PutRequest {
        key: "/global/other".into(),
        value: "x".into(),
        ..Default::default()
    };
    meta.put(elsewhere).await.unwrap();
    store(&node, vec![item("c", "4")]).await;
    let (seen, revision) = changes(&mut from_now, 1).await;
    assert_eq!(seen, [(put, "/global/config/c".into(), "4".into())]);
    let mut again = watch(&node, revision).await;
    assert_eq!(changes(&mut again, 1).await, (seen, revision));
    store(&node, vec![item("c", "5")]).await;
    for stream in [&mut again, &mut from_now] {
        let (seen, later) = changes(stream, 1).await;
        assert!(later > revision && seen[0].2 == "5", "{seen:?}");
    }
    node.stop().await;
}

/// Who asks for changes that are forgotten is told from where on they are known, and the stream ends.
#[tokio::test]
async fn a_watcher_of_what_is_forgotten_is_told_so() {
    let node = served().await;
    let mut stream = watch(&node, 0).await;
    store(&node, vec![item("first", "1")]).await;
    let (_, revision) = changes(&mut stream, 1).await;
    for half in 0..2 {
        let many = (0..CHANGES_MAX / 2).map(|number| item(&format!("{half}-{number}"), "x"));
        store(&node, many.collect()).await;
    }
    let mut late = watch(&node, revision).await;
    let told = next(&mut late).await;
    let error = told.header.unwrap().error.unwrap();
    assert_eq!(error.r#type(), pdpb::ErrorType::DataCompacted);
    assert!(error.message.contains("required watch revision"), "{}", error.message);
    assert!(told.revision > revision);
    let ended = tokio::time::timeout(PATIENCE, late.message()).await.expect("it ends");
    assert_eq!(ended.unwrap_err().code(), Code::OutOfRange);
    // From what it was told, it goes on.
    let (seen, _) = changes(&mut watch(&node, told.revision).await, CHANGES_MAX).await;
    assert!(seen[0].1.ends_with("/0-0"), "{:?}", seen[0]);

    let request = meta_storagepb::WatchRequest {
        key: "k".into(),
        start_revision: revision,
        ..Default::default()
    };
    let mut late = meta(&node).await.watch(request).await.unwrap().into_inner();
    let told = next(&mut late).await;
    let error = told.header.unwrap().error.unwrap();
    assert_eq!(error.r#type(), meta_storagepb::ErrorType::DataCompacted);
    assert!(told.compact_revision > revision);
    node.stop().await;
}

/// The meta storage is watched by key or range, with what was before for those who want it; what lies under another root
/// than that of global configuration can be read as such.
#[tokio::test]
async fn the_meta_storage_is_watched_and_read_as_configuration() {
    let node = served().await;
    let mut meta = meta(&node).await;
    let watch = |range_end: &'static str, prev_kv| meta_storagepb::WatchRequest {
        key: "OtherConfigPath/".into(),
        range_end: range_end.into(),
        prev_kv,
        ..Default::default()
    };
    let mut ranged = meta.watch(watch("OtherConfigPath0", true)).await.unwrap().into_inner();
    let mut single = meta.watch(watch("", false)).await.unwrap().into_inner();
    let put = |key: &'static str, value: &'static str| meta_storagepb::PutRequest {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    };
    meta.put(put("OtherConfigPath/0", "0")).await.unwrap();
    meta.put(put("elsewhere", "9")).await.unwrap();
    let second = meta.put(put("OtherConfigPath/0", "1")).await.unwrap().into_inner();
    let loaded = pdpb::LoadGlobalConfigRequest {
        names: vec!["0".into(), "absent".into()],
        config_path: "OtherConfigPath".into(),
    };
    let loaded = pd(&node).await.load_global_config(loaded).await.unwrap().into_inner();
    assert_eq!((&loaded.items[0].name[..], &loaded.items[0].payload[..]), ("0", &b"1"[..]));
    assert!(loaded.items[1].error.is_some());
    let all = pdpb::LoadGlobalConfigRequest {
        config_path: "OtherConfigPath".into(),
        ..Default::default()
    };
    let all = pd(&node).await.load_global_config(all).await.unwrap().into_inner();
    assert_eq!(all.items[0].name, "OtherConfigPath/0");
    let write = pdpb::StoreGlobalConfigRequest {
        changes: vec![item("0", "2")],
        config_path: "OtherConfigPath".into(),
    };
    let refused = pd(&node).await.store_global_config(write).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    let delete =
        meta_storagepb::DeleteRequest { key: "OtherConfigPath/0".into(), ..Default::default() };
    meta.delete(delete).await.unwrap();
    meta.put(put("OtherConfigPath/", "root")).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let told = next(&mut ranged).await;
        let header = told.header.unwrap();
        assert!(header.error.is_none() && header.cluster_id == node.cluster_id());
        seen.extend(told.events.into_iter().map(|event| {
            let text = |kv: meta_storagepb::KeyValue| String::from_utf8(kv.value.to_vec()).unwrap();
            let kind = event.r#type();
            let kv = event.kv.unwrap();
            assert!(kv.mod_revision > 0 && kv.mod_revision <= header.revision);
            (kind, text(kv), event.prev_kv.map(text))
        }));
    }
    let (zero, one) = (Some("0".to_owned()), Some("1".to_owned()));
    let expected = [
        (EventType::Put, "0".to_owned(), None),
        (EventType::Put, "1".to_owned(), zero),
        (EventType::Delete, String::new(), one),
        (EventType::Put, "root".to_owned(), None),
    ];
    assert_eq!(seen, expected);
    let told = next(&mut single).await;
    assert_eq!(told.events.len(), 1, "of one key only");
    assert_eq!(told.events[0].kv.as_ref().unwrap().value, "root");

    let from = meta_storagepb::WatchRequest {
        start_revision: second.header.unwrap().revision,
        ..watch("OtherConfigPath0", false)
    };
    let told = next(&mut meta.watch(from).await.unwrap().into_inner()).await;
    let first = &told.events[0];
    assert_eq!(first.kv.as_ref().unwrap().value, "1", "the revision of a write is its own");
    assert_eq!(first.prev_kv, None);
    node.stop().await;
}
