//! Regions, as their leaders describe them.

use std::sync::Arc;

use axum::extract::{Path, State};
use proto::region::{is_learner, peer_on};
use proto::{RegionId, StoreId, metapb, pdpb};
use serde::Serialize;

use super::keys::{KeyInPath, Parameters};
use super::{Failure, Json, Reply, Shared, format, serving};
use crate::cluster::{RegionRecord, Regions as Picture};
use crate::service::regions::regions_of;

/// Regions a listing returns when no limit is given.
const SCAN_LIMIT: usize = 16;

#[derive(Serialize)]
pub(super) struct Epoch {
    conf_ver: u64,
    version: u64,
}

impl From<metapb::RegionEpoch> for Epoch {
    fn from(epoch: metapb::RegionEpoch) -> Self {
        Self { conf_ver: epoch.conf_ver, version: epoch.version }
    }
}

#[derive(Serialize)]
pub(super) struct Peer {
    id: u64,
    store_id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<i32>,
    role_name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_learner: Option<bool>,
}

impl From<&metapb::Peer> for Peer {
    fn from(peer: &metapb::Peer) -> Self {
        let is_learner = is_learner(peer);
        Self {
            id: peer.id,
            store_id: peer.store_id,
            role: (peer.role != 0).then_some(peer.role),
            role_name: peer.role().as_str_name(),
            is_learner: is_learner.then_some(true),
        }
    }
}

#[derive(Serialize)]
pub(super) struct DownPeer {
    peer: Peer,
    down_seconds: u64,
}

#[derive(Serialize)]
pub(super) struct Region {
    id: u64,
    start_key: String,
    end_key: String,
    epoch: Epoch,
    peers: Vec<Peer>,
    leader: Peer,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    down_peers: Vec<DownPeer>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pending_peers: Vec<Peer>,
    cpu_usage: u64,
    written_bytes: u64,
    read_bytes: u64,
    written_keys: u64,
    read_keys: u64,
    approximate_size: u64,
    approximate_keys: u64,
}

impl From<&RegionRecord> for Region {
    fn from(record: &RegionRecord) -> Self {
        let region = &record.region;
        let down = |down: &pdpb::PeerStats| DownPeer {
            peer: Peer::from(&down.peer.unwrap_or_default()),
            down_seconds: down.down_seconds,
        };
        Self {
            id: region.id,
            start_key: format::hex(&region.start_key),
            end_key: format::hex(&region.end_key),
            epoch: Epoch::from(record.epoch()),
            peers: region.peers.iter().map(Peer::from).collect(),
            leader: Peer::from(&record.leader.unwrap_or_default()),
            down_peers: record.down_peers.iter().map(down).collect(),
            pending_peers: record.pending_peers.iter().map(Peer::from).collect(),
            cpu_usage: record.cpu_usage,
            written_bytes: record.written_bytes,
            read_bytes: record.read_bytes,
            written_keys: record.written_keys,
            read_keys: record.read_keys,
            approximate_size: record.size_mib(),
            approximate_keys: record.approximate_keys,
        }
    }
}

#[derive(Serialize)]
pub(super) struct Regions {
    count: usize,
    regions: Vec<Region>,
}

impl<'a> FromIterator<&'a Arc<RegionRecord>> for Regions {
    fn from_iter<I: IntoIterator<Item = &'a Arc<RegionRecord>>>(records: I) -> Self {
        let regions: Vec<_> =
            records.into_iter().map(|record| Region::from(record.as_ref())).collect();
        Self { count: regions.len(), regions }
    }
}

fn look<T>(node: &crate::server::node::Node, look: impl FnOnce(&Picture) -> T) -> Reply<T> {
    Ok(Json(regions_of(&*serving(node)?, look)?))
}

pub(super) async fn regions(State(node): Shared) -> Reply<Regions> {
    look(&node, |regions| regions.iter().collect())
}

#[derive(Serialize)]
pub(super) struct Count {
    count: usize,
}

pub(super) async fn count(State(node): Shared) -> Reply<Count> {
    look(&node, |regions| Count { count: regions.len() })
}

/// From `key` to `end_key`, at most `limit` of them.
pub(super) async fn scan(State(node): Shared, parameters: Parameters) -> Reply<Regions> {
    let range = parameters.range("key", "end_key")?;
    let limit = parameters.limit(SCAN_LIMIT)?.unwrap_or(0);
    look(&node, |regions| regions.scan(&range, limit).iter().collect())
}

/// Which of a store's regions are wanted, by what its peer of them is; `None` when there is no such part.
fn part(name: &str) -> Option<fn(&RegionRecord, StoreId) -> bool> {
    Some(match name {
        "" | "all" => |_, _| true,
        "leader" => |record, store| record.leader_store() == Some(store),
        "follower" => |record, store| {
            let is_voter = peer_on(&record.region, store).is_some_and(|peer| !is_learner(peer));
            is_voter && record.leader_store() != Some(store)
        },
        "learner" => |record, store| peer_on(&record.region, store).is_some_and(is_learner),
        "pending" => |record, store| record.pending_peers.iter().any(|p| p.store_id == store.0),
        // There are none here.
        "witness" => |_, _| false,
        _ => return None,
    })
}

/// The regions with a peer on the store; with `type` those of which its peer is a `leader`, `follower`,
/// `learner` or `pending`.
pub(super) async fn on_store(
    State(node): Shared,
    Path(id): Path<u64>,
    parameters: Parameters,
) -> Reply<Regions> {
    let name = parameters.text("type")?.unwrap_or_default();
    let is_wanted = part(name)
        .ok_or_else(|| Failure::bad_request(format!("{name:?} is no type of a store's regions")))?;
    look(&node, |regions| {
        let held = regions.on_store(StoreId(id));
        held.filter(|record| is_wanted(record, StoreId(id))).collect()
    })
}

pub(super) async fn siblings(State(node): Shared, Path(id): Path<u64>) -> Reply<Regions> {
    let found = look(&node, |regions| {
        regions.by_id(RegionId(id)).map(|_| {
            let (before, after) = regions.siblings(RegionId(id));
            before.into_iter().chain(after).collect::<Regions>()
        })
    })?;
    found.0.map(Json).ok_or_else(|| Failure::not_found(format!("region {id} not found")))
}

pub(super) async fn by_id(State(node): Shared, Path(id): Path<u64>) -> Reply<Option<Region>> {
    look(&node, |regions| regions.by_id(RegionId(id)).map(|record| Region::from(record.as_ref())))
}

pub(super) async fn by_key(
    State(node): Shared,
    KeyInPath(key): KeyInPath,
) -> Reply<Option<Region>> {
    look(&node, |regions| regions.by_key(&key).map(|record| Region::from(record.as_ref())))
}
