//! Lists of regions: those that something is wrong with, those that are on top of something, and sums.
//!
//! | kind of `/regions/check/{kind}` | a region is in it when |
//! |---|---|
//! | `miss-peer` | it has fewer peers than the rules, or else `max-replicas`, want |
//! | `extra-peer` | it has more |
//! | `down-peer` | its leader has not heard a peer for a while |
//! | `pending-peer` | a peer is catching up |
//! | `offline-peer` | a peer is on a store that is leaving |
//! | `learner-peer` | a peer has no vote |
//! | `empty-region` | it holds next to nothing |
//! | `oversized-region`, `undersized-region` | its store should have split it, or it could be merged |
//! | `hist-size`, `hist-keys` | not a list: how many regions there are of which size |

use std::collections::BTreeMap;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use proto::StoreId;
use proto::region::is_learner;
use serde::Serialize;

use super::keys::Parameters;
use super::regions::Regions;
use super::{Failure, Json, Reply, Shared, serving};
use crate::cluster::{Cluster, RegionRecord};
use crate::placement::View;

/// Regions in a list of the topmost when no limit is given.
const TOP_LIMIT: usize = 16;
/// Regions in a list of the topmost; more are not shown.
const TOP_LIMIT_MAX: usize = 10_240;
/// A region of at most this size is empty.
const EMPTY_MIB: u64 = 1;
/// A region from this size on should have been split.
const OVERSIZED_MIB: u64 = 144;
/// A region from this many keys on should have been split.
const OVERSIZED_KEYS: u64 = 1_440_000;
/// A region up to this size, and so many keys, could be merged.
const UNDERSIZED_MIB: u64 = 54;
const UNDERSIZED_KEYS: u64 = 540_000;
/// The classes of a histogram when nothing else is asked for: MiB, and keys.
const SIZE_BOUND: u64 = 10;
const KEYS_BOUND: u64 = 10_000;
/// The smallest classes of a histogram that may be asked for.
const SIZE_BOUND_MIN: u64 = 1;
const KEYS_BOUND_MIN: u64 = 1_000;

/// Peers that the region should have.
fn wanted(view: View<'_>, record: &RegionRecord) -> usize {
    match view.rules_of(record) {
        Some(rules) => rules.iter().map(|rule| rule.count).sum(),
        None => view.policy.max_replicas,
    }
}

/// Whether the region is of that kind; `None` when there is no such kind.
fn is_of(kind: &str, view: View<'_>, record: &RegionRecord) -> Option<bool> {
    let peers = &record.region.peers;
    let (size_mib, keys) = (record.size_mib(), record.approximate_keys);
    let is_leaving =
        |store: u64| view.stores.find(StoreId(store)).is_some_and(|store| store.is_offline());
    Some(match kind {
        "miss-peer" => peers.len() < wanted(view, record),
        "extra-peer" => peers.len() > wanted(view, record),
        "down-peer" => !record.down_peers.is_empty(),
        "pending-peer" => !record.pending_peers.is_empty(),
        "offline-peer" => peers.iter().any(|peer| is_leaving(peer.store_id)),
        "learner-peer" => peers.iter().any(is_learner),
        "empty-region" => size_mib <= EMPTY_MIB,
        "oversized-region" => size_mib >= OVERSIZED_MIB || keys >= OVERSIZED_KEYS,
        "undersized-region" => size_mib <= UNDERSIZED_MIB && keys <= UNDERSIZED_KEYS,
        _ => return None,
    })
}

/// One class of a histogram.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Class {
    start: u64,
    end: u64,
    count: u64,
}

/// How many of the amounts lie in each class of this width; classes without any are left out.
fn histogram(amounts: impl Iterator<Item = u64>, width: u64) -> Vec<Class> {
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for amount in amounts {
        *counts.entry(amount / width).or_default() += 1;
    }
    let class = |(class, count): (u64, u64)| Class {
        start: class * width,
        end: (class + 1).saturating_mul(width).saturating_sub(1),
        count,
    };
    counts.into_iter().map(class).collect()
}

fn number(query: &BTreeMap<String, String>, name: &str, default: u64) -> Result<u64, Failure> {
    query.get(name).map_or(Ok(default), |text| {
        text.parse().map_err(|_| Failure::bad_request(format!("{name} {text:?} is not a number")))
    })
}

pub(super) async fn check(
    State(node): Shared,
    Path(kind): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, Failure> {
    let moment = node.clock.moment();
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    let cluster: &Cluster = affairs.cluster()?;
    let regions = cluster.regions();
    match kind.as_str() {
        "hist-size" => {
            let width = number(&query, "bound", SIZE_BOUND)?.max(SIZE_BOUND_MIN);
            let sizes = regions.iter().map(|record| record.size_mib());
            return Ok(Json(histogram(sizes, width)).into_response());
        }
        "hist-keys" => {
            let width = number(&query, "bound", KEYS_BOUND)?.max(KEYS_BOUND_MIN);
            let keys = regions.iter().map(|record| record.approximate_keys);
            return Ok(Json(histogram(keys, width)).into_response());
        }
        _ => {}
    }
    let view = cluster.view(moment);
    let nothing = RegionRecord::default();
    if is_of(&kind, view, &nothing).is_none() {
        return Err(Failure::not_found(format!("there is no check {kind:?}")));
    }
    let found: Regions =
        regions.iter().filter(|record| is_of(&kind, view, record) == Some(true)).collect();
    Ok(Json(found).into_response())
}

/// What a list of the topmost goes by; `None` when there is no such list.
fn order_of(list: &str) -> Option<fn(&RegionRecord) -> u64> {
    Some(match list {
        "writeflow" => |record| record.written_bytes,
        "readflow" => |record| record.read_bytes,
        "confver" => |record| record.epoch().conf_ver,
        "version" => |record| record.epoch().version,
        "size" => RegionRecord::size_mib,
        "keys" => |record| record.approximate_keys,
        "cpu" => |record| record.cpu_usage,
        _ => return None,
    })
}

/// The topmost regions, by what the list's name says.
pub(super) async fn top(
    State(node): Shared,
    Path(list): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Reply<Regions> {
    let order = order_of(&list)
        .ok_or_else(|| Failure::not_found(format!("there is no list of regions by {list:?}")))?;
    let limit = number(&query, "limit", TOP_LIMIT as u64)?;
    let limit = usize::try_from(limit).unwrap_or(TOP_LIMIT_MAX).min(TOP_LIMIT_MAX);
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    let mut all: Vec<_> = affairs.cluster()?.regions().iter().collect();
    all.sort_by_key(|record| (std::cmp::Reverse(order(record)), record.id()));
    Ok(Json(all.into_iter().take(limit).collect()))
}

/// Sums over the regions of a range.
#[derive(Default, Serialize)]
pub(super) struct Statistics {
    count: u64,
    empty_count: u64,
    storage_size: u64,
    storage_keys: u64,
    store_leader_count: BTreeMap<u64, u64>,
    store_peer_count: BTreeMap<u64, u64>,
    store_leader_size: BTreeMap<u64, u64>,
    store_leader_keys: BTreeMap<u64, u64>,
    store_peer_size: BTreeMap<u64, u64>,
    store_peer_keys: BTreeMap<u64, u64>,
}

impl Statistics {
    fn add(&mut self, record: &RegionRecord) {
        let (size, keys) = (record.size_mib(), record.approximate_keys);
        self.count += 1;
        self.empty_count += u64::from(size <= EMPTY_MIB);
        self.storage_size += size;
        self.storage_keys += keys;
        if let Some(StoreId(store)) = record.leader_store() {
            *self.store_leader_count.entry(store).or_default() += 1;
            *self.store_leader_size.entry(store).or_default() += size;
            *self.store_leader_keys.entry(store).or_default() += keys;
        }
        for peer in &record.region.peers {
            *self.store_peer_count.entry(peer.store_id).or_default() += 1;
            *self.store_peer_size.entry(peer.store_id).or_default() += size;
            *self.store_peer_keys.entry(peer.store_id).or_default() += keys;
        }
    }
}

/// From `start_key` to `end_key`; all regions without them. With `count` nothing but how many there are.
pub(super) async fn statistics(State(node): Shared, parameters: Parameters) -> Reply<Statistics> {
    let range = parameters.range("start_key", "end_key")?;
    let serving = serving(&node)?;
    let mut affairs = serving.lock();
    let found = affairs.cluster()?.regions().scan(&range, 0);
    if parameters.has("count") {
        return Ok(Json(Statistics { count: found.len() as u64, ..Statistics::default() }));
    }
    let mut sums = Statistics::default();
    found.iter().for_each(|record| sums.add(record));
    Ok(Json(sums))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_by_classes() {
        let class = |start, end, count| Class { start, end, count };
        assert_eq!(
            histogram([0, 3, 9, 10, 96, 97].into_iter(), 10),
            [class(0, 9, 3), class(10, 19, 1), class(90, 99, 2)]
        );
        assert!(histogram(std::iter::empty(), 10).is_empty());
    }
}
