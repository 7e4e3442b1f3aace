//! Stores, regions, heartbeats and safe points over the wire.

use std::collections::BTreeSet;

use proto::keyspacepb::keyspace_client::KeyspaceClient;
use proto::schedulerpb::garbage_client::GarbageClient;
use proto::schedulerpb::{CollectRequest, ResolvedRange};
use proto::{keyspacepb, metapb, pdpb};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::{
    PATIENCE, alone, bootstrap, eventually, founders, header, leader, pd, region, start, start_all,
    store,
};
use crate::SchedulerNode;

/// A store's heartbeat stream.
pub(super) struct Heartbeats {
    heartbeats: mpsc::Sender<pdpb::RegionHeartbeatRequest>,
    orders: Streaming<pdpb::RegionHeartbeatResponse>,
    header: Option<pdpb::RequestHeader>,
}

impl Heartbeats {
    pub(super) async fn open(node: &SchedulerNode) -> Self {
        let (heartbeats, stream) = mpsc::channel(16);
        let orders = pd(node).await.region_heartbeat(ReceiverStream::new(stream)).await.unwrap();
        Self { heartbeats, orders: orders.into_inner(), header: header(node) }
    }

    /// The region's first peer speaks for it.
    pub(super) async fn say(&self, region: &metapb::Region) {
        self.say_led_by(region, region.peers.first().copied()).await;
    }

    pub(super) async fn say_led_by(&self, region: &metapb::Region, leader: Option<metapb::Peer>) {
        let heartbeat = pdpb::RegionHeartbeatRequest {
            header: self.header.clone(),
            leader,
            region: Some(region.clone()),
            term: 5,
            approximate_size: 10 << 20,
            ..Default::default()
        };
        self.heartbeats.send(heartbeat).await.unwrap();
    }

    /// The region's first peer tells what was written and read within a minute that ends then.
    pub(super) async fn say_flow(
        &self,
        region: &metapb::Region,
        written: u64,
        read: u64,
        until_s: u64,
    ) {
        let heartbeat = pdpb::RegionHeartbeatRequest {
            header: self.header.clone(),
            leader: region.peers.first().copied(),
            region: Some(region.clone()),
            term: 5,
            approximate_size: 10 << 20,
            bytes_written: written,
            bytes_read: read,
            interval: Some(pdpb::TimeInterval {
                start_timestamp: until_s - 60,
                end_timestamp: until_s,
            }),
            ..Default::default()
        };
        self.heartbeats.send(heartbeat).await.unwrap();
    }

    pub(super) async fn order(&mut self) -> pdpb::RegionHeartbeatResponse {
        let next = tokio::time::timeout(PATIENCE, self.orders.message()).await;
        next.expect("an order comes").unwrap().expect("the stream goes on")
    }
}

pub(super) async fn put_store(node: &SchedulerNode, store: metapb::Store) -> Option<pdpb::Error> {
    let request = pdpb::PutStoreRequest { header: header(node), store: Some(store) };
    pd(node).await.put_store(request).await.unwrap().into_inner().header.unwrap().error
}

pub(super) async fn beat(node: &SchedulerNode, store_id: u64) {
    let stats = pdpb::StoreStats {
        store_id,
        capacity: 100 << 30,
        available: 90 << 30,
        ..Default::default()
    };
    let request = pdpb::StoreHeartbeatRequest {
        header: header(node),
        stats: Some(stats),
        ..Default::default()
    };
    let response = pd(node).await.store_heartbeat(request).await.unwrap().into_inner();
    assert_eq!(response.header.unwrap().error, None);
}

async fn region_of(node: &SchedulerNode, key: &'static str) -> Option<metapb::Region> {
    let request = pdpb::GetRegionRequest {
        header: header(node),
        region_key: key.into(),
        ..Default::default()
    };
    pd(node).await.get_region(request).await.unwrap().into_inner().region
}

async fn served() -> SchedulerNode {
    let node = start(alone("a")).await;
    assert!(node.wait_until_served(PATIENCE).await);
    node
}

/// S0.35: three stores start at once.
#[tokio::test]
async fn of_stores_that_bootstrap_at_once_one_wins() {
    let node = served().await;
    let attempts = (1..=3).map(|id| {
        let request = pdpb::BootstrapRequest {
            header: header(&node),
            store: Some(store(id)),
            region: Some(region(10 + id, "", "", 1, &[id])),
        };
        let node = &node;
        async move { pd(node).await.bootstrap(request).await.unwrap().into_inner() }
    });
    let answers = futures_util::future::join_all(attempts).await;
    let errors: Vec<_> =
        answers.into_iter().filter_map(|answer| answer.header.unwrap().error).collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    for error in errors {
        assert_eq!(error.r#type(), pdpb::ErrorType::AlreadyBootstrapped);
    }
    // The others go on and register.
    for id in 1..=3 {
        assert_eq!(put_store(&node, store(id)).await, None);
    }
}

#[tokio::test]
async fn a_cluster_is_bootstrapped_once() {
    let node = served().await;
    let mut client = pd(&node).await;
    let ask = pdpb::IsBootstrappedRequest { header: header(&node) };
    assert!(!client.is_bootstrapped(ask.clone()).await.unwrap().into_inner().bootstrapped);
    let too_early = pdpb::GetRegionRequest { header: header(&node), ..Default::default() };
    let refused = client.get_region(too_early).await.unwrap().into_inner();
    let error = refused.header.unwrap().error.unwrap();
    assert_eq!(error.r#type(), pdpb::ErrorType::NotBootstrapped);
    bootstrap(&node).await;
    assert!(client.is_bootstrapped(ask).await.unwrap().into_inner().bootstrapped);
    let again = pdpb::BootstrapRequest {
        header: header(&node),
        store: Some(store(3)),
        region: Some(region(4, "", "", 1, &[3])),
    };
    let refused = client.bootstrap(again).await.unwrap().into_inner();
    let error = refused.header.unwrap().error.unwrap();
    assert_eq!(error.r#type(), pdpb::ErrorType::AlreadyBootstrapped);
}

#[tokio::test]
async fn stores_register_and_are_found() {
    let node = served().await;
    bootstrap(&node).await;
    assert_eq!(put_store(&node, store(2)).await, None);
    let clash = metapb::Store { id: 3, ..store(2) };
    assert!(put_store(&node, clash).await.unwrap().message.contains("duplicated store address"));
    let mut client = pd(&node).await;
    let all = pdpb::GetAllStoresRequest { header: header(&node), ..Default::default() };
    assert_eq!(client.get_all_stores(all).await.unwrap().into_inner().stores.len(), 2);
    let unknown = pdpb::GetStoreRequest { header: header(&node), store_id: 9 };
    let refused = client.get_store(unknown).await.unwrap().into_inner();
    assert_eq!(refused.header.unwrap().error.unwrap().message, "invalid store ID 9, not found");
    beat(&node, 2).await;
}

/// S0.36, S1.1: what the scheduler wants travels in the answers to heartbeats, and nowhere else.
#[tokio::test]
async fn a_region_with_too_few_peers_is_told_to_add_one() {
    let node = served().await;
    bootstrap(&node).await;
    for id in [2, 3] {
        assert_eq!(put_store(&node, store(id)).await, None);
    }
    for id in 1..=3 {
        beat(&node, id).await;
    }
    let mut stream = Heartbeats::open(&node).await;
    stream.say(&region(2, "", "", 1, &[1])).await;
    let order = stream.order().await;
    assert_eq!(order.region_id, 2);
    assert_eq!(order.header.unwrap().cluster_id, node.cluster_id());
    assert_eq!(order.target_peer.unwrap().store_id, 1);
    let change = order.change_peer.expect("a peer is to be added");
    let peer = change.peer.unwrap();
    assert!([2, 3].contains(&peer.store_id) && peer.id != 0);
}

#[tokio::test]
async fn heartbeats_of_unknown_stores_end_the_stream_and_of_the_past_change_nothing() {
    let node = served().await;
    bootstrap(&node).await;
    let mut stream = Heartbeats::open(&node).await;
    stream.say(&region(2, "", "", 1, &[7])).await;
    let ended = tokio::time::timeout(PATIENCE, stream.orders.message()).await.unwrap();
    assert!(ended.unwrap_err().message().contains("invalid store ID 7, not found"));

    let stream = Heartbeats::open(&node).await;
    stream.say(&region(2, "", "m", 2, &[1])).await;
    stream.say(&region(3, "m", "", 2, &[1])).await;
    stream.say(&region(2, "", "", 1, &[1])).await;
    stream.say(&region(4, "x", "", 3, &[1])).await;
    eventually("the last heartbeat is heard", async || {
        region_of(&node, "y").await.is_some_and(|region| region.id == 4)
    })
    .await;
    assert_eq!(region_of(&node, "a").await.unwrap().end_key, "m");
    assert_eq!(region_of(&node, "n").await, None, "region 3 gave way to a newer one");
}

#[tokio::test]
async fn regions_are_found_in_every_way_that_clients_ask() {
    let node = served().await;
    bootstrap(&node).await;
    let halves = vec![region(5, "", "m", 2, &[1]), region(2, "m", "", 2, &[1])];
    let mut client = pd(&node).await;
    let report = pdpb::ReportBatchSplitRequest { header: header(&node), regions: halves };
    let reported = client.report_batch_split(report).await.unwrap().into_inner();
    assert_eq!(reported.header.unwrap().error, None);
    assert_eq!(region_of(&node, "a").await.unwrap().id, 5, "found at once");

    let prev = pdpb::GetRegionRequest {
        header: header(&node),
        region_key: "z".into(),
        ..Default::default()
    };
    let prev = client.get_prev_region(prev).await.unwrap().into_inner();
    assert_eq!(prev.region.unwrap().id, 5);
    let by_id =
        pdpb::GetRegionByIdRequest { header: header(&node), region_id: 2, ..Default::default() };
    let by_id = client.get_region_by_id(by_id).await.unwrap().into_inner();
    assert_eq!(by_id.region.unwrap().start_key, "m");
    let scan = pdpb::ScanRegionsRequest { header: header(&node), ..Default::default() };
    let scan = client.scan_regions(scan).await.unwrap().into_inner();
    assert_eq!((scan.region_metas.len(), scan.leaders.len(), scan.regions.len()), (2, 2, 2));

    let query = pdpb::QueryRegionRequest {
        header: header(&node),
        keys: vec!["a".into(), "z".into()],
        prev_keys: vec!["z".into(), "a".into()],
        ids: vec![2, 99],
        ..Default::default()
    };
    let (queries, stream) = mpsc::channel(4);
    let mut answers = client.query_region(ReceiverStream::new(stream)).await.unwrap().into_inner();
    for _ in 0..2 {
        queries.send(query.clone()).await.unwrap();
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!((answer.key_id_map, answer.prev_key_id_map), (vec![5, 2], vec![5, 0]));
        assert_eq!(answer.regions_by_id.keys().copied().collect::<Vec<_>>(), [2, 5]);
    }
    drop(queries);
    assert_eq!(answers.message().await.unwrap(), None);
}

/// What stores report of buckets is given with a region to whoever asks for it, in every way that clients ask.
#[tokio::test]
async fn buckets_are_given_with_the_region_to_those_who_want_them() {
    let node = served().await;
    bootstrap(&node).await;
    let mut client = pd(&node).await;
    let buckets = |version, keys: &[&'static str]| pdpb::ReportBucketsRequest {
        header: header(&node),
        region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 1 }),
        buckets: Some(metapb::Buckets {
            region_id: 2,
            version,
            keys: keys.iter().map(|&key| key.into()).collect(),
            ..Default::default()
        }),
    };
    let reports = [
        buckets(1, &["", "f", ""]),
        buckets(3, &["", "f", "m", ""]),
        buckets(2, &["", "x", ""]),
        pdpb::ReportBucketsRequest { header: header(&node), ..Default::default() },
    ];
    let reported = client.report_buckets(tokio_stream::iter(reports)).await.unwrap().into_inner();
    assert_eq!(reported.header.unwrap().error, None);

    for need_buckets in [true, false] {
        let get =
            pdpb::GetRegionRequest { header: header(&node), region_key: "a".into(), need_buckets };
        let by_key = client.get_region(get).await.unwrap().into_inner();
        let get = pdpb::GetRegionByIdRequest { header: header(&node), region_id: 2, need_buckets };
        let by_id = client.get_region_by_id(get).await.unwrap().into_inner();
        let scan = pdpb::BatchScanRegionsRequest {
            header: header(&node),
            need_buckets,
            ranges: vec![pdpb::KeyRange::default()],
            ..Default::default()
        };
        let scanned = client.batch_scan_regions(scan).await.unwrap().into_inner();
        let query = pdpb::QueryRegionRequest {
            header: header(&node),
            need_buckets,
            ids: vec![2],
            ..Default::default()
        };
        let queried = client.query_region(tokio_stream::once(query)).await.unwrap();
        let queried = queried.into_inner().message().await.unwrap().unwrap();
        let found = [
            by_key.buckets,
            by_id.buckets,
            scanned.regions[0].buckets.clone(),
            queried.regions_by_id[&2].buckets.clone(),
        ];
        for buckets in found {
            let keys = buckets.map(|buckets| (buckets.version, buckets.keys.len()));
            assert_eq!(keys, need_buckets.then_some((3, 4)));
        }
    }
    node.stop().await;
}

/// S0.32, S0.38: a store asks for the ids of a split and reports what has become of the region, in two as well as in
/// many: who asks twice gets other ids, a report is believed at once, and one that cannot be is refused.
#[tokio::test]
async fn a_split_in_two_is_asked_for_and_reported() {
    let node = served().await;
    bootstrap(&node).await;
    let mut client = pd(&node).await;
    let whole = region(2, "", "", 1, &[1]);
    let mut ask = async |region: &metapb::Region| {
        let region = Some(region.clone());
        let request = pdpb::AskSplitRequest { header: header(&node), region };
        client.ask_split(request).await.unwrap().into_inner()
    };
    let (first, second) = (ask(&whole).await, ask(&whole).await);
    let new = |ids: &pdpb::AskSplitResponse| [ids.new_region_id, ids.new_peer_ids[0]];
    assert_eq!((first.new_peer_ids.len(), second.new_peer_ids.len()), (1, 1));
    let different: BTreeSet<u64> = new(&first).into_iter().chain(new(&second)).collect();
    assert_eq!(different.len(), 4, "{first:?} {second:?}");
    let report = async |left: metapb::Region, right: metapb::Region| {
        let (left, right) = (Some(left), Some(right));
        let request = pdpb::ReportSplitRequest { header: header(&node), left, right };
        pd(&node).await.report_split(request).await.unwrap().into_inner().header.unwrap().error
    };
    let left = region(first.new_region_id, "", "m", 2, &[1]);
    let right = region(2, "m", "", 2, &[1]);
    assert!(report(right.clone(), left.clone()).await.is_some(), "they do not follow each other");
    assert_eq!(region_of(&node, "a").await, Some(whole.clone()));
    assert_eq!(report(left.clone(), right.clone()).await, None);
    assert_eq!(region_of(&node, "a").await, Some(left));
    assert_eq!(region_of(&node, "z").await, Some(right));
    // What was split is no more to be split as it was.
    let refused = ask(&whole).await;
    assert!(refused.new_region_id == 0 && refused.header.unwrap().error.is_some());
    node.stop().await;
}

/// S0.38: for a split into many at once, too, nobody gets an id that another has.
#[tokio::test]
async fn ids_for_splits_are_the_regions_alone() {
    let node = served().await;
    bootstrap(&node).await;
    let mut client = pd(&node).await;
    let ask = pdpb::AskBatchSplitRequest {
        header: header(&node),
        region: Some(region(2, "", "", 1, &[1])),
        split_count: 2_000,
        ..Default::default()
    };
    let mut seen = BTreeSet::new();
    for _ in 0..2 {
        let response = client.ask_batch_split(ask.clone()).await.unwrap().into_inner();
        assert_eq!(response.ids.len(), 2_000);
        for ids in response.ids {
            assert_eq!(ids.new_peer_ids.len(), 1);
            assert!(seen.insert(ids.new_region_id) && seen.insert(ids.new_peer_ids[0]));
        }
    }
    let alloc = pdpb::AllocIdRequest { header: header(&node), count: 0 };
    let alloc = client.alloc_id(alloc).await.unwrap().into_inner();
    assert!(seen.insert(alloc.id) && alloc.count == 0);
}

#[tokio::test]
async fn a_split_that_a_client_asks_for_is_ordered_and_awaited() {
    let node = served().await;
    bootstrap(&node).await;
    let mut stream = Heartbeats::open(&node).await;
    stream.say(&region(2, "", "", 1, &[1])).await;
    let mut client = pd(&node).await;
    let request = pdpb::SplitRegionsRequest {
        header: header(&node),
        split_keys: vec!["m".into()],
        ..Default::default()
    };
    let split = tokio::spawn(async move { client.split_regions(request).await });
    let order = loop {
        let order = stream.order().await;
        if let Some(split) = order.split_region {
            break split;
        }
    };
    assert_eq!(order.keys, ["m"]);
    stream.say(&region(5, "", "m", 2, &[1])).await;
    stream.say(&region(2, "m", "", 2, &[1])).await;
    let response = split.await.unwrap().unwrap().into_inner();
    assert_eq!((response.finished_percentage, response.regions_id), (100, vec![2]));
}

#[tokio::test]
async fn the_gc_safe_point_follows_when_stores_have_resolved_their_locks() {
    let node = served().await;
    bootstrap(&node).await;
    let mut client = pd(&node).await;
    let advance = pdpb::AdvanceTxnSafePointRequest {
        header: header(&node),
        target: 100,
        ..Default::default()
    };
    client.advance_txn_safe_point(advance).await.unwrap();
    let channel = super::super::links::connect(node.client_url()).await.unwrap();
    let mut garbage = GarbageClient::new(channel);
    let mut report = async |txn_safe_point, resolved: Vec<(&'static str, &'static str)>| {
        let range = |(start, end): (&'static str, &'static str)| ResolvedRange {
            start_key: start.into(),
            end_key: end.into(),
        };
        let request = CollectRequest {
            cluster_id: node.cluster_id(),
            store_id: 1,
            txn_safe_point,
            resolved: resolved.into_iter().map(range).collect(),
        };
        garbage.collect(request).await.unwrap().into_inner()
    };
    let told = report(0, vec![]).await;
    assert_eq!((told.txn_safe_point, told.gc_safe_point), (100, 0));
    report(100, vec![("m", "")]).await;
    assert_eq!(report(100, vec![]).await.gc_safe_point, 0);
    report(100, vec![("", "m")]).await;
    eventually("the GC safe point to follow", async || {
        let ask = pdpb::GetGcSafePointRequest { header: header(&node) };
        pd(&node).await.get_gc_safe_point(ask).await.unwrap().into_inner().safe_point == 100
    })
    .await;
    let request = CollectRequest { cluster_id: 7, store_id: 1, ..Default::default() };
    assert!(garbage.collect(request).await.is_err(), "another cluster's store");
    node.stop().await;
}

#[tokio::test]
async fn safe_points_and_barriers_move_as_agreed() {
    let node = served().await;
    bootstrap(&node).await;
    let mut client = pd(&node).await;
    let update = pdpb::UpdateGcSafePointRequest { header: header(&node), safe_point: 42 };
    let updated = client.update_gc_safe_point(update).await.unwrap().into_inner();
    assert_eq!(updated.new_safe_point, 42);
    let barrier = pdpb::SetGcBarrierRequest {
        header: header(&node),
        barrier_id: "backup".into(),
        barrier_ts: 100,
        ttl_seconds: 60,
        ..Default::default()
    };
    client.set_gc_barrier(barrier).await.unwrap();
    let advance = pdpb::AdvanceTxnSafePointRequest {
        header: header(&node),
        target: 200,
        ..Default::default()
    };
    let advanced = client.advance_txn_safe_point(advance).await.unwrap().into_inner();
    assert_eq!(advanced.new_txn_safe_point, 100);
    assert!(advanced.blocker_description.contains("backup"));
    let state = pdpb::GetGcStateRequest { header: header(&node), ..Default::default() };
    let state = client.get_gc_state(state).await.unwrap().into_inner().gc_state.unwrap();
    assert_eq!((state.txn_safe_point, state.gc_safe_point), (100, 42));
    assert_eq!(state.gc_barriers[0].barrier_id, "backup");

    // What is refused has the name that clients look for.
    let back = pdpb::AdvanceTxnSafePointRequest {
        header: header(&node),
        target: 99,
        ..Default::default()
    };
    let refused = client.advance_txn_safe_point(back).await.unwrap().into_inner();
    let why = refused.header.unwrap().error.unwrap().message;
    assert!(why.contains("PD:gc:ErrDecreasingTxnSafePoint") && why.contains("99"), "{why}");
    let reserved = pdpb::DeleteGcBarrierRequest {
        header: header(&node),
        barrier_id: "gc_worker".into(),
        ..Default::default()
    };
    let refused = client.delete_gc_barrier(reserved).await.unwrap().into_inner();
    let why = refused.header.unwrap().error.unwrap().message;
    assert!(why.contains("ErrReservedGCBarrierID"), "{why}");
    node.stop().await;
}

/// Where the states of all keyspaces are asked for, the shared one comes under the id of no keyspace, and each
/// enabled keyspace says that it shares it.
#[tokio::test]
async fn every_enabled_keyspace_is_listed_with_the_garbage_collection_it_shares() {
    let node = served().await;
    bootstrap(&node).await;
    for (path, body) in [
        ("/pd/api/v2/keyspaces", r#"{"name": "on"}"#),
        ("/pd/api/v2/keyspaces", r#"{"name": "off"}"#),
    ] {
        let (head, body) = super::port::http(&node, "POST", path, body).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head} {body}");
    }
    let channel = super::super::links::connect(node.client_url()).await.unwrap();
    let mut keyspaces = KeyspaceClient::new(channel);
    let disable = keyspacepb::UpdateKeyspaceStateRequest {
        header: header(&node),
        keyspace: Some(keyspacepb::update_keyspace_state_request::Keyspace::Id(2)),
        state: keyspacepb::KeyspaceState::Disabled.into(),
    };
    let disabled = keyspaces.update_keyspace_state(disable).await.unwrap().into_inner();
    assert_eq!(disabled.header.unwrap().error, None);
    let mut client = pd(&node).await;
    let advance =
        pdpb::AdvanceTxnSafePointRequest { header: header(&node), target: 7, ..Default::default() };
    client.advance_txn_safe_point(advance).await.unwrap();
    let all = pdpb::GetAllKeyspacesGcStatesRequest { header: header(&node), ..Default::default() };
    let all = client.get_all_keyspaces_gc_states(all).await.unwrap().into_inner();
    assert_eq!(all.header.unwrap().error, None);
    let listed = all.gc_states.into_iter().map(|state| {
        assert!(!state.is_keyspace_level_gc);
        let Some(pdpb::keyspace_scope::Keyspace::KeyspaceId(id)) =
            state.keyspace_scope.unwrap().keyspace
        else {
            panic!("every entry names its keyspace");
        };
        (id, state.txn_safe_point)
    });
    assert_eq!(listed.collect::<Vec<_>>(), [(u32::MAX, 7), (0, 0), (1, 0)]);
    node.stop().await;
}

#[tokio::test]
async fn the_default_keyspace_and_settings_of_clients_are_kept() {
    let node = served().await;
    bootstrap(&node).await;
    let channel = super::super::links::connect(node.client_url()).await.unwrap();
    let mut keyspaces = KeyspaceClient::new(channel);
    let load = |name: &str| keyspacepb::LoadKeyspaceRequest {
        header: header(&node),
        name: name.into(),
        ..Default::default()
    };
    let loaded = keyspaces.load_keyspace(load("DEFAULT")).await.unwrap().into_inner();
    let loaded = loaded.keyspace.unwrap();
    assert_eq!(loaded.state(), keyspacepb::KeyspaceState::Enabled);
    let unknown = keyspaces.load_keyspace(load("nobody")).await.unwrap().into_inner();
    let error = unknown.header.unwrap().error.unwrap();
    assert_eq!(error.r#type(), pdpb::ErrorType::EntryNotFound);
    let watch = keyspacepb::WatchKeyspacesRequest { header: header(&node) };
    let mut watch = keyspaces.watch_keyspaces(watch).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!(first.keyspaces[0].name, "DEFAULT");

    let mut client = pd(&node).await;
    let item = pdpb::GlobalConfigItem {
        name: "source_id".into(),
        payload: "7".into(),
        ..Default::default()
    };
    let put = pdpb::StoreGlobalConfigRequest { changes: vec![item], ..Default::default() };
    assert_eq!(client.store_global_config(put).await.unwrap().into_inner().error, None);
    let get = pdpb::LoadGlobalConfigRequest {
        names: vec!["source_id".into(), "absent".into()],
        ..Default::default()
    };
    let items = client.load_global_config(get).await.unwrap().into_inner().items;
    assert_eq!(items[0].payload, "7");
    assert!(items[1].error.is_some());
}

#[tokio::test]
async fn what_was_agreed_outlives_the_leader() {
    let mut nodes = start_all(founders(&["a", "b", "c"])).await;
    let node = leader(&nodes).await;
    bootstrap(node).await;
    let stream = Heartbeats::open(node).await;
    stream.say(&region(2, "", "m", 2, &[1])).await;
    stream.say(&region(3, "m", "", 2, &[1])).await;
    eventually("a quorum knows the halves", async || {
        let known = nodes.iter().filter(|node| node.node.state.read().region(3).is_some());
        known.count() >= 2
    })
    .await;
    let update = pdpb::UpdateGcSafePointRequest { header: header(node), safe_point: 42 };
    pd(node).await.update_gc_safe_point(update).await.unwrap();
    let name = node.name().to_owned();
    let at = nodes.iter().position(|node| node.name() == name).unwrap();
    nodes.remove(at).kill().await;
    let node = leader(&nodes).await;
    assert_eq!(region_of(node, "z").await.unwrap().id, 3);
    let ask = pdpb::GetGcSafePointRequest { header: header(node) };
    assert_eq!(pd(node).await.get_gc_safe_point(ask).await.unwrap().into_inner().safe_point, 42);
}

#[tokio::test]
async fn regions_are_cut_at_the_bounds_of_keyspaces_where_stores_need_it() {
    let node = start(crate::Config { split_keyspaces: true, ..alone("a") }).await;
    assert!(node.wait_until_served(PATIENCE).await);
    bootstrap(&node).await;
    let mut stream = Heartbeats::open(&node).await;
    stream.say(&region(2, "", "", 1, &[1])).await;
    let split = loop {
        let order = stream.order().await;
        if let Some(split) = order.split_region {
            break split;
        }
    };
    assert_eq!(split.keys, crate::keyspaces::bounds(0));
}
