//! What is read and written most, and what that comes to on each store.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use serde::Serialize;

use super::{Failure, Json, Reply, Shared, format, serving};
use crate::cluster::{Cluster, RegionRecord};
use crate::flow::{HotPeer, Rates, StoreLoad, Traffic};

/// One hot stream at one store.
#[derive(Serialize)]
struct Shown {
    store_id: u64,
    region_id: u64,
    is_leader: bool,
    hot_degree: u32,
    flow_bytes: f64,
    flow_keys: f64,
    flow_query: f64,
    start_key: String,
    end_key: String,
}

/// A store's load, and which hot streams are part of it.
#[derive(Default, Serialize)]
struct OfStore {
    store_byte_rate: f64,
    store_key_rate: f64,
    store_query_rate: f64,
    total_flow_bytes: f64,
    total_flow_keys: f64,
    total_flow_query: f64,
    regions_count: usize,
    statistics: Vec<Shown>,
}

impl OfStore {
    fn of(load: Rates) -> Self {
        Self {
            store_byte_rate: load.bytes as f64,
            store_key_rate: load.keys as f64,
            store_query_rate: load.queries as f64,
            ..Self::default()
        }
    }

    fn add(&mut self, peer: HotPeer, record: Option<&RegionRecord>) {
        let Rates { bytes, keys, queries } = peer.rates;
        self.total_flow_bytes += bytes as f64;
        self.total_flow_keys += keys as f64;
        self.total_flow_query += queries as f64;
        self.regions_count += 1;
        let key =
            |of: fn(&RegionRecord) -> &[u8]| record.map_or(String::new(), |r| format::hex(of(r)));
        self.statistics.push(Shown {
            store_id: peer.store.0,
            region_id: peer.region.0,
            is_leader: peer.is_leader,
            hot_degree: peer.degree,
            flow_bytes: bytes as f64,
            flow_keys: keys as f64,
            flow_query: queries as f64,
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

fn hot(cluster: &Cluster, traffic: Traffic) -> HotRegions {
    let up = || cluster.stores().iter().filter(|store| !store.is_tombstone());
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
            store.add(peer, record);
        }
        if let Some(store) = as_leader.get_mut(&peer.store.0).filter(|_| peer.is_leader) {
            store.add(peer, record);
        }
    }
    HotRegions { as_peer, as_leader }
}

pub(super) async fn regions(State(node): Shared, Path(traffic): Path<String>) -> Reply<HotRegions> {
    let traffic = match traffic.as_str() {
        "read" => Traffic::Read,
        "write" => Traffic::Write,
        other => return Err(Failure::not_found(format!("{other} is not read or write"))),
    };
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    Ok(Json(hot(affairs.cluster()?, traffic)))
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
