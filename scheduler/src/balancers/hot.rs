//! Hot regions spread over the stores by what is read from and written to them.
//!
//! The load of a store is what its streams come to ([`crate::flow`]). What a hot region adds to it can
//! go elsewhere in two ways: its lead goes to another voter, which takes the reads and the work of
//! leading along, or a peer goes to another store, which takes the writes along (and the reads, if it
//! leads). Each turn looks at reads and writes, both ways, and makes one plan of each kind that helps.
//!
//! ```text
//!   source: its load lies above the average of all by a margin, in bytes or else in keys
//!   region: hot for some reports (degree), free, not too large to be moved
//!   target: may take it; afterwards loaded less than the source was by a margin, and in nothing worse
//!           off than the worse of the two was
//! ```
//!
//! So each move lowers the higher load of two stores in one measure and raises it in none: moves cannot
//! go round in circles. Loads are seen as the hot moves under way will leave them.
//!
//! Left out: hot regions that are too hot for any one store (they are to be split), and processor time.

use std::collections::BTreeMap;

use proto::StoreId;

use crate::cluster::{RegionRecord, StoreRecord};
use crate::flow::{HotPeer, Rates, StoreLoad, Traffic};
use crate::operator::{Operator, Priority, Purpose, Step};
use crate::placement::{
    Candidate, LEADER_SOURCE, LEADER_TARGET, PEER_TARGET, Question, View, excluded, isolation,
};
use crate::scheduling::{Desk, Scheduler, Verdict};

/// A source has this much of the average load, in percent.
const SOURCE_PERCENT: u64 = 105;
/// A target has, afterwards, at most this much of what the source had, in percent.
const TARGET_PERCENT: u64 = 95;
/// Hot streams of one store that are looked at.
const TRIES_PER_STORE: usize = 60;
/// The shortest wait between two looks.
const MIN_INTERVAL_MS: u64 = 1_000;
/// The longest one: streams change with heartbeats, and those come seldom.
const MAX_INTERVAL_MS: u64 = 20_000;

/// In which way a load goes elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    TransferLeader,
    MovePeer,
}

/// What is compared; the first that shows a store above the average counts.
const MEASURES: [fn(&Rates) -> u64; 2] = [|rates| rates.bytes, |rates| rates.keys];

/// Every kind of look, in the order in which they are taken.
const LOOKS: [(Traffic, Way); 4] = [
    (Traffic::Write, Way::MovePeer),
    (Traffic::Read, Way::TransferLeader),
    (Traffic::Write, Way::TransferLeader),
    (Traffic::Read, Way::MovePeer),
];

/// The scheduler of this name.
#[derive(Clone, Debug, Default)]
pub struct HotRegion {
    /// Turns taken: the next begins with another kind of look.
    turns: usize,
}

impl Scheduler for HotRegion {
    fn name(&self) -> &str {
        "balance-hot-region-scheduler"
    }

    fn type_name(&self) -> &'static str {
        "hot-region"
    }

    fn purpose(&self) -> Purpose {
        Purpose::Hot
    }

    fn min_interval_ms(&self) -> u64 {
        MIN_INTERVAL_MS
    }

    fn next_interval_ms(&self, interval_ms: u64) -> u64 {
        (interval_ms + MIN_INTERVAL_MS).min(MAX_INTERVAL_MS)
    }

    fn schedule(&mut self, desk: &mut Desk<'_>) -> Vec<Operator> {
        self.turns = self.turns.wrapping_add(1);
        let hot = Hot::of(desk.view());
        let mut operators = Vec::new();
        for number in 0..LOOKS.len() {
            if desk.room() == 0 {
                break;
            }
            let (traffic, way) = LOOKS[(self.turns + number) % LOOKS.len()];
            operators.extend(look(desk, traffic, way, &hot, &operators));
        }
        operators
    }

    fn verdict(&self, view: View<'_>, record: &RegionRecord) -> Verdict {
        verdict(view, record)
    }

    fn store_verdict(&self, view: View<'_>, store: &Candidate<'_>) -> Verdict {
        let StoreLoad { read, written, .. } = view.flow.load_of(store.store.id());
        if read == Rates::default() && written == Rates::default() {
            return Verdict::Silent;
        }
        let degree = view.policy.hot_region_cache_hits_threshold;
        let hot = |traffic| {
            let hot = view.flow.hot_peers(traffic, degree);
            hot.filter(|peer| peer.store == store.store.id()).count()
        };
        Verdict::says(format!(
            "{} B/s are read from it, {} of its regions hot, and {} B/s are written to it, {} hot",
            read.bytes,
            hot(Traffic::Read),
            written.bytes,
            hot(Traffic::Write)
        ))
    }
}

/// The hot streams of each store.
struct Hot {
    read: BTreeMap<StoreId, Vec<HotPeer>>,
    written: BTreeMap<StoreId, Vec<HotPeer>>,
}

impl Hot {
    fn of(view: View<'_>) -> Self {
        let degree = view.policy.hot_region_cache_hits_threshold;
        let by_store = |traffic| {
            let mut by_store: BTreeMap<StoreId, Vec<HotPeer>> = BTreeMap::new();
            for peer in view.flow.hot_peers(traffic, degree) {
                by_store.entry(peer.store).or_default().push(peer);
            }
            by_store
        };
        Self { read: by_store(Traffic::Read), written: by_store(Traffic::Write) }
    }

    /// Those of the store that can go this way, the hottest first.
    fn hottest(
        &self,
        traffic: Traffic,
        way: Way,
        store: StoreId,
        measure: fn(&Rates) -> u64,
    ) -> Vec<HotPeer> {
        let by_store = match traffic {
            Traffic::Read => &self.read,
            Traffic::Write => &self.written,
        };
        let all = by_store.get(&store).into_iter().flatten();
        let mut hot: Vec<_> =
            all.filter(|peer| way == Way::MovePeer || peer.is_leader).copied().collect();
        hot.sort_by_key(|peer| (std::cmp::Reverse(measure(&peer.rates)), peer.region));
        hot.truncate(TRIES_PER_STORE);
        hot
    }
}

/// The part of a store's load that goes this way.
fn part(load: &StoreLoad, traffic: Traffic, way: Way) -> Rates {
    match (traffic, way) {
        (Traffic::Read, _) => load.read,
        (Traffic::Write, Way::MovePeer) => load.written,
        (Traffic::Write, Way::TransferLeader) => load.written_as_leader,
    }
}

/// The loads of all stores that stay, as the hot moves under way and those just planned will leave
/// them.
fn loads(
    view: View<'_>,
    traffic: Traffic,
    way: Way,
    planned: &[Operator],
) -> BTreeMap<StoreId, Rates> {
    let up = view.stores.iter().filter(|store| store.is_up()).map(|store| store.id());
    let mut loads: BTreeMap<_, _> =
        up.map(|store| (store, part(&view.flow.load_of(store), traffic, way))).collect();
    let running = view.operators.running().filter(|operator| operator.purpose == Purpose::Hot);
    for operator in running.chain(planned) {
        let Some(record) = view.regions.by_id(operator.region) else { continue };
        let (written, read) = view.flow.of(operator.region);
        let read = record.leader_store().and_then(|leads| read.get(&leads).copied());
        let moved = match traffic {
            Traffic::Read => read.unwrap_or_default(),
            Traffic::Write => written,
        };
        let goes_with_the_lead = traffic == Traffic::Read || way == Way::TransferLeader;
        for step in operator.remaining() {
            let (from, to) = match step {
                Step::TransferLeader { from, to } if goes_with_the_lead => (Some(*from), Some(*to)),
                Step::AddPeer(peer) if !goes_with_the_lead => (None, Some(StoreId(peer.store_id))),
                Step::RemovePeer(peer) if !goes_with_the_lead => {
                    (Some(StoreId(peer.store_id)), None)
                }
                Step::TransferLeader { .. }
                | Step::AddPeer(_)
                | Step::RemovePeer(_)
                | Step::PromoteLearner(_)
                | Step::DemoteVoter(_)
                | Step::EnterJoint(_)
                | Step::LeaveJoint(_)
                | Step::Split { .. } => continue,
            };
            if let Some(load) = from.and_then(|store| loads.get_mut(&store)) {
                *load = load.minus(moved);
            }
            if let Some(load) = to.and_then(|store| loads.get_mut(&store)) {
                *load = load.plus(moved);
            }
        }
    }
    loads
}

/// One plan of this kind that helps.
fn look(
    desk: &mut Desk<'_>,
    traffic: Traffic,
    way: Way,
    hot: &Hot,
    planned: &[Operator],
) -> Option<Operator> {
    let view = desk.view();
    let loads = loads(view, traffic, way, planned);
    let count = loads.len() as u64;
    for measure in MEASURES {
        let sum: u64 = loads.values().map(measure).sum();
        let average = sum.checked_div(count)?;
        let mut sources: Vec<_> =
            loads.iter().map(|(store, load)| (*store, measure(load))).collect();
        sources.retain(|(_, load)| *load > 0 && *load * 100 > average * SOURCE_PERCENT);
        sources.sort_by_key(|(store, load)| (std::cmp::Reverse(*load), *store));
        for (source, _) in sources {
            let found = hot.hottest(traffic, way, source, measure).into_iter().find_map(|peer| {
                let record = view.regions.by_id(peer.region)?;
                let is_open =
                    desk.is_free(peer.region) && why_not_movable(view, record, way).is_none();
                let may_go = is_open && may_go(desk, record, source, way);
                let to = target_of(desk, record, &peer, way, &loads, measure)?;
                may_go.then(|| (record.clone(), to))
            });
            if let Some((record, to)) = found {
                let name = description(traffic, way);
                let plan = match way {
                    Way::TransferLeader => desk.transfer_leader(name, Purpose::Hot, &record, to),
                    Way::MovePeer => desk.move_peer(name, Purpose::Hot, &record, source, to),
                };
                return plan.map(|operator| operator.with_priority(Priority::High));
            }
        }
    }
    None
}

fn description(traffic: Traffic, way: Way) -> &'static str {
    match (traffic, way) {
        (Traffic::Read, Way::TransferLeader) => "transfer-hot-read-leader",
        (Traffic::Read, Way::MovePeer) => "move-hot-read-peer",
        (Traffic::Write, Way::TransferLeader) => "transfer-hot-write-leader",
        (Traffic::Write, Way::MovePeer) => "move-hot-write-peer",
    }
}

/// What keeps the region from being moved at all.
fn why_not_movable(view: View<'_>, record: &RegionRecord, way: Way) -> Option<String> {
    let max_mib = view.policy.max_movable_hot_peer_size_mib;
    if record.leader.is_none() {
        Some("no leader has spoken for it".into())
    } else if !record.down_peers.is_empty() || !record.pending_peers.is_empty() {
        Some("some of its peers are silent or behind".into())
    } else if let Some(why) = view.why_not_complete(record) {
        Some(why)
    } else if way == Way::MovePeer && record.size_mib() > max_mib {
        Some(format!("it holds {} MiB, and more than {max_mib} are not moved", record.size_mib()))
    } else {
        None
    }
}

/// Whether the source lets it go.
fn may_go(desk: &Desk<'_>, record: &RegionRecord, source: StoreId, way: Way) -> bool {
    let question = Question { record, others: Vec::new(), view: desk.view() };
    let leads = record.leader_store() == Some(source);
    let candidate = desk.candidate(source);
    let leader_stays =
        candidate.is_none_or(|source| excluded(LEADER_SOURCE, source, &question).is_some());
    match way {
        Way::TransferLeader => !leader_stays,
        Way::MovePeer => !(leads && leader_stays),
    }
}

/// The store that is best off with the stream, if any is better off than the source.
fn target_of(
    desk: &Desk<'_>,
    record: &RegionRecord,
    peer: &HotPeer,
    way: Way,
    loads: &BTreeMap<StoreId, Rates>,
    measure: fn(&Rates) -> u64,
) -> Option<StoreId> {
    let view = desk.view();
    let source = loads.get(&peer.store)?;
    let helps = |target: &Rates| {
        let (would_have, would_keep) = (target.plus(peer.rates), source.minus(peer.rates));
        let is_better = measure(&would_have) * 100 <= measure(source) * TARGET_PERCENT;
        let is_nowhere_worse = MEASURES
            .iter()
            .all(|of| of(&would_have).max(of(&would_keep)) <= of(source).max(of(target)));
        is_better && is_nowhere_worse
    };
    let apart = Question::new_peer(view, record, Some(peer.store));
    let may_take = |candidate: &&Candidate<'_>| match way {
        Way::TransferLeader => excluded(LEADER_TARGET, candidate, &apart).is_none(),
        Way::MovePeer => {
            let apart_from = |store: &StoreRecord| isolation(store, &apart.others, view.policy);
            let apart_now = view.stores.find(peer.store).map_or(0, apart_from);
            excluded(PEER_TARGET, candidate, &apart).is_none()
                && apart_from(candidate.store) >= apart_now
        }
    };
    let targets = desk.candidates().iter().filter(|target| target.store.id() != peer.store);
    targets
        .filter(may_take)
        .filter_map(|target| Some((target.store.id(), loads.get(&target.store.id())?)))
        .filter(|(_, load)| helps(load))
        .min_by_key(|(store, load)| (measure(load), *store))
        .map(|(store, _)| store)
}

/// How hot the region is, and what keeps it where it is.
fn verdict(view: View<'_>, record: &RegionRecord) -> Verdict {
    let needed = view.policy.hot_region_cache_hits_threshold;
    let mut words = Vec::new();
    for (traffic, verb) in [(Traffic::Write, "written"), (Traffic::Read, "read")] {
        let streams = view.flow.peers(traffic).filter(|peer| peer.region == record.id());
        let Some(hottest) = streams.max_by_key(|peer| (peer.degree, peer.rates.bytes)) else {
            continue;
        };
        let Rates { bytes, keys, .. } = hottest.rates;
        if bytes == 0 && keys == 0 {
            continue;
        }
        let how = if hottest.degree >= needed.max(1) {
            format!("hot for {} reports", hottest.degree)
        } else {
            format!("not hot: for {} of {needed} reports", hottest.degree)
        };
        words.push(format!("{verb} at {bytes} B/s, {keys} keys/s, {how}"));
    }
    if words.is_empty() {
        return Verdict::Silent;
    }
    if let Some(why) = why_not_movable(view, record, Way::MovePeer) {
        words.push(format!("its peers stay: {why}"));
    }
    Verdict::says(words.join("; "))
}
