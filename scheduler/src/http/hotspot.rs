//! What is read and written most, and what that comes to on each store.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::{Path, Query, State};
use proto::StoreId;
use proto::region::{is_learner, peer_on};
use serde::Serialize;

use super::{Failure, Json, Reply, Shared, format, serving};
use crate::cluster::{Cluster, Moment, RegionRecord};
use crate::flow::{HotPeer, Rates, StoreLoad, Traffic};

/// One hot stream at one store.
#[derive(Serialize)]
struct Shown {
    store_id: u64,
    /// Where the region has peers.
    stores: Vec<u64>,
    is_leader: bool,
    is_learner: bool,
    region_id: u64,
    hot_degree: u32,
    flow_bytes: f64,
    flow_keys: f64,
    flow_query: f64,
    anti_count: u32,
    last_update_time: String,
    start_key: String,
    end_key: String,
}

/// A store's load, and which hot streams are part of it.
#[derive(Default, Serialize)]
struct OfStore {
    store_bytes: f64,
    store_keys: f64,
    store_query: f64,
    total_flow_bytes: f64,
    total_flow_keys: f64,
    total_flow_query: f64,
    regions_count: usize,
    statistics: Vec<Shown>,
}

impl OfStore {
    fn of(load: Rates) -> Self {
        Self {
            store_bytes: load.bytes as f64,
            store_keys: load.keys as f64,
            store_query: load.queries as f64,
            ..Self::default()
        }
    }

    fn add(&mut self, peer: HotPeer, record: Option<&RegionRecord>, moment: Moment) {
        let Rates { bytes, keys, queries } = peer.rates;
        self.total_flow_bytes += bytes as f64;
        self.total_flow_keys += keys as f64;
        self.total_flow_query += queries as f64;
        self.regions_count += 1;
        let key =
            |of: fn(&RegionRecord) -> &[u8]| record.map_or(String::new(), |r| format::hex(of(r)));
        let peers = record.map_or(&[][..], |record| &record.region.peers);
        let learns =
            |record: &RegionRecord| peer_on(&record.region, peer.store).is_some_and(is_learner);
        // Said on the steady clock, shown on the other.
        let heard_ago_ms = peer.heard_at_ms.map(|at_ms| moment.steady_ms.saturating_sub(at_ms));
        self.statistics.push(Shown {
            store_id: peer.store.0,
            stores: peers.iter().map(|peer| peer.store_id).collect(),
            is_leader: peer.is_leader,
            is_learner: record.is_some_and(learns),
            region_id: peer.region.0,
            hot_degree: peer.degree,
            flow_bytes: bytes as f64,
            flow_keys: keys as f64,
            flow_query: queries as f64,
            anti_count: peer.anti_count,
            last_update_time: heard_ago_ms.map_or(format::NO_TIME.to_owned(), |ago_ms| {
                format::time(moment.wall_ms.saturating_sub(ago_ms))
            }),
            start_key: key(|record| &record.region.start_key),
            end_key: key(|record| &record.region.end_key),
        });
    }
}

/// By store, of all peers and of leaders alone.
#[derive(Serialize)]
pub(super) struct HotRegions {
    as_peer: BTreeMap<u64, OfStore>,
    as_leader: BTreeMap<u64, OfStore>,
}

fn hot(
    cluster: &Cluster,
    traffic: Traffic,
    wanted: &BTreeSet<StoreId>,
    moment: Moment,
) -> HotRegions {
    let is_shown = |store: &&crate::cluster::StoreRecord| {
        !store.is_tombstone() && (wanted.is_empty() || wanted.contains(&store.id()))
    };
    let up = || cluster.stores().iter().filter(is_shown);
    let loads = |part: fn(StoreLoad) -> Rates| {
        let of = |store: &crate::cluster::StoreRecord| {
            (store.id().0, OfStore::of(part(cluster.flow().load_of(store.id()))))
        };
        up().map(of).collect::<BTreeMap<_, _>>()
    };
    let (mut as_peer, mut as_leader) = match traffic {
        Traffic::Read => (loads(|load| load.read), loads(|load| load.read)),
        Traffic::Write => (loads(|load| load.written), loads(|load| load.written_as_leader)),
    };
    let degree = cluster.policy().hot_region_cache_hits_threshold;
    for peer in cluster.flow().hot_peers(traffic, degree) {
        let record = cluster.regions().by_id(peer.region).map(AsRef::as_ref);
        if let Some(store) = as_peer.get_mut(&peer.store.0) {
            store.add(peer, record, moment);
        }
        if let Some(store) = as_leader.get_mut(&peer.store.0).filter(|_| peer.is_leader) {
            store.add(peer, record, moment);
        }
    }
    HotRegions { as_peer, as_leader }
}

/// What was hot at some time. Nothing of that is kept, so the list is empty.
#[derive(Serialize)]
pub(super) struct History {
    history_hot_region: [(); 0],
}

/// Whatever the body asks for.
pub(super) async fn history() -> Json<History> {
    Json(History { history_hot_region: [] })
}

/// Of all stores, or of those that `store_id` names, once or more.
pub(super) async fn regions(
    State(node): Shared,
    Path(traffic): Path<String>,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Reply<HotRegions> {
    let traffic = match traffic.as_str() {
        "read" => Traffic::Read,
        "write" => Traffic::Write,
        other => return Err(Failure::not_found(format!("{other} is not read or write"))),
    };
    let moment = node.clock.moment();
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    let cluster = affairs.cluster()?;
    let mut wanted = BTreeSet::new();
    for (_, text) in pairs.iter().filter(|(name, _)| name == "store_id") {
        let id = text.parse().map(StoreId);
        let id = id.map_err(|_| Failure::bad_request(format!("invalid store id: {text}")))?;
        cluster.stores().get(id)?;
        wanted.insert(id);
    }
    Ok(Json(hot(cluster, traffic, &wanted, moment)))
}

type ByStore = BTreeMap<u64, f64>;

/// What all streams of each store come to, in a second.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Loads {
    bytes_write_rate: ByStore,
    bytes_read_rate: ByStore,
    keys_write_rate: ByStore,
    keys_read_rate: ByStore,
    query_write_rate: ByStore,
    query_read_rate: ByStore,
}

pub(super) async fn stores(State(node): Shared) -> Reply<Loads> {
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    let cluster = affairs.cluster()?;
    let by_store = |rate: fn(StoreLoad) -> u64| {
        let up = cluster.stores().iter().filter(|store| !store.is_tombstone());
        up.map(|s| (s.id().0, rate(cluster.flow().load_of(s.id())) as f64)).collect::<ByStore>()
    };
    Ok(Json(Loads {
        bytes_write_rate: by_store(|load| load.written.bytes),
        bytes_read_rate: by_store(|load| load.read.bytes),
        keys_write_rate: by_store(|load| load.written.keys),
        keys_read_rate: by_store(|load| load.read.keys),
        query_write_rate: by_store(|load| load.written.queries),
        query_read_rate: by_store(|load| load.read.queries),
    }))
}
