//! Scattering: a group of regions is spread over the stores, whatever else lies there.
//!
//! Whoever has just cut a table into regions wants them apart before the load comes: they all lie
//! where their parent lay, and balance sees no reason to move what is empty. For each group there is a
//! count of how many peers and leaders the regions scattered so far have on each store. Of each
//! region, every peer goes to the store that may take it and has fewest of the group (or stays, if its
//! own has no more), and the lead to the one of them that leads fewest.
//!
//! A group is forgotten when nothing has been scattered in it for [`GROUP_MS`]. A region that is not
//! whole, or has a plan already, is not scattered, and the caller is told.

use std::collections::{BTreeMap, BTreeSet};

use proto::{StoreId, metapb};

use crate::cluster::{Moment, RegionRecord, StoreRecord};
use crate::ids::{Ids, Taken};
use crate::operator::{Builder, Operator, Purpose, Unbuildable};
use crate::placement::{
    Candidate, LEADER_TARGET, PEER_TARGET, Question, View, excluded, excluded_for_good, isolation,
};

/// What such a plan is called: clients wait until a region's operator has another name.
pub const DESCRIPTION: &str = "scatter-region";

/// How long a group is remembered after its last region.
pub const GROUP_MS: u64 = 3 * 60 * 1_000;

/// Groups that are remembered; for one more the one used longest ago is forgotten.
const GROUPS_MAX: usize = 1_024;

/// What the regions of a group have on each store.
#[derive(Clone, Debug, Default)]
struct Group {
    used_at_ms: u64,
    peers: BTreeMap<StoreId, u64>,
    leaders: BTreeMap<StoreId, u64>,
}

impl Group {
    fn is_old(&self, moment: Moment) -> bool {
        moment.steady_ms.saturating_sub(self.used_at_ms) > GROUP_MS
    }
}

/// All groups.
#[derive(Clone, Debug, Default)]
pub struct Scatterer {
    groups: BTreeMap<String, Group>,
}

/// What became of a wish to scatter a region.
#[derive(Clone, Debug, PartialEq)]
pub enum Scattered {
    /// It is fine where it is; to be [counted](Scatterer::count).
    Stays(Places),
    /// This is to be done; to be counted when it is taken up.
    Moves(Operator, Places),
    /// Save this bound for [`Ids::bound_saved`] and ask again.
    NeedsIds(u64),
}

/// Where a region's peers and lead shall be.
#[derive(Clone, Debug, PartialEq)]
pub struct Places {
    /// From where to where, for each peer that moves.
    moves: Vec<(metapb::Peer, StoreId)>,
    /// The stores of all peers then.
    stores: Vec<StoreId>,
    leader: StoreId,
}

impl Scatterer {
    /// Finds places for a region; an error says why it is not scattered.
    pub fn scatter(
        &self,
        view: View<'_>,
        record: &RegionRecord,
        group: &str,
        skip_store_limits: bool,
        ids: &mut Ids,
    ) -> Result<Scattered, String> {
        check(view, record)?;
        let nothing = Group::default();
        let counts = self.groups.get(group).filter(|group| !group.is_old(view.moment));
        let places = places(view, record, counts.unwrap_or(&nothing))?;
        let mut builder = Builder::new(DESCRIPTION, Purpose::Scatter, record, view.policy);
        let first_id = match places.moves.len() as u64 {
            0 => 0,
            count => match ids.take(count) {
                Taken::Block(block) => *block.start(),
                Taken::NeedBound(bound) => return Ok(Scattered::NeedsIds(bound)),
            },
        };
        for (id, (peer, to)) in (first_id..).zip(&places.moves) {
            builder = builder.remove_peer(StoreId(peer.store_id));
            builder = if proto::region::is_learner(peer) {
                builder.add_learner(*to, id)
            } else {
                builder.add_peer(*to, id)
            };
        }
        let leader = places.leader;
        let built = builder.leader(leader).build(|stays| view.best_leader(record, stays));
        match built {
            Ok(mut operator) => {
                operator.skips_store_limits = skip_store_limits;
                Ok(Scattered::Moves(operator, places))
            }
            Err(Unbuildable::NothingToDo) => Ok(Scattered::Stays(places)),
            Err(why) => Err(why.to_string()),
        }
    }

    /// A region of the group has these places now, or will.
    pub fn count(&mut self, group: &str, places: &Places, moment: Moment) {
        self.groups.retain(|_, group| !group.is_old(moment));
        if !self.groups.contains_key(group) && self.groups.len() >= GROUPS_MAX {
            let oldest = self.groups.iter().min_by_key(|(_, group)| group.used_at_ms);
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                self.groups.remove(&name);
            }
        }
        let counts = self.groups.entry(group.to_owned()).or_default();
        counts.used_at_ms = moment.steady_ms;
        for &store in &places.stores {
            *counts.peers.entry(store).or_default() += 1;
        }
        *counts.leaders.entry(places.leader).or_default() += 1;
    }
}

/// Only a region that needs no repair is scattered.
fn check(view: View<'_>, record: &RegionRecord) -> Result<(), String> {
    if record.leader.is_none() {
        return Err("no leader has spoken for it".into());
    }
    if let Some(why) = view.why_not_complete(record) {
        return Err(why);
    }
    if !record.down_peers.is_empty() || !record.pending_peers.is_empty() {
        return Err("some of its peers are silent or behind".into());
    }
    if let Some(operator) = view.operators.of(record.id()) {
        return Err(format!("{} is under way", operator.description));
    }
    Ok(())
}

fn places(view: View<'_>, record: &RegionRecord, counts: &Group) -> Result<Places, String> {
    let candidates = view.candidates();
    let of =
        |counts: &BTreeMap<StoreId, u64>, store: StoreId| counts.get(&store).copied().unwrap_or(0);
    let mut stores: Vec<StoreId> =
        record.region.peers.iter().map(|peer| StoreId(peer.store_id)).collect();
    let mut taken: BTreeSet<StoreId> = stores.iter().copied().collect();
    let mut moves = Vec::new();
    for (number, peer) in record.region.peers.iter().enumerate() {
        let from = StoreId(peer.store_id);
        let others = stores.iter().enumerate().filter(|(other, _)| *other != number);
        let others = others.filter_map(|(_, store)| view.stores.find(*store)).collect();
        let question = Question { record, others, view };
        let apart = |store: &StoreRecord| isolation(store, &question.others, view.policy);
        let apart_now = view.stores.find(from).map_or(0, apart);
        let may_come = |candidate: &&Candidate<'_>| {
            !taken.contains(&candidate.store.id())
                && excluded_for_good(PEER_TARGET, candidate, &question).is_none()
                && apart(candidate.store) >= apart_now
        };
        let best = candidates
            .iter()
            .filter(may_come)
            .min_by_key(|c| (of(&counts.peers, c.store.id()), c.load()))
            .map(|candidate| candidate.store.id());
        if let Some(to) = best.filter(|to| of(&counts.peers, *to) < of(&counts.peers, from)) {
            moves.push((*peer, to));
            taken.insert(to);
            stores[number] = to;
        }
    }
    let leads = record.leader_store();
    let voters = record.region.peers.iter().zip(&stores);
    let voters =
        voters.filter(|(peer, _)| !proto::region::is_learner(peer)).map(|(_, store)| *store);
    let may_lead = |store: &StoreId| {
        let Some(candidate) = candidates.iter().find(|c| c.store.id() == *store) else {
            return false;
        };
        // A store that only gets its peer is judged by all but the peer.
        let stands_in = RegionRecord { region: with_peer_on(record, *store), ..record.clone() };
        let question = Question { record: &stands_in, others: Vec::new(), view };
        excluded(LEADER_TARGET, candidate, &question).is_none()
    };
    let leader = voters
        .filter(may_lead)
        .min_by_key(|store| (of(&counts.leaders, *store), Some(*store) != leads, *store))
        .ok_or("no store could lead it")?;
    Ok(Places { moves, stores, leader })
}

/// The region as if it had a voter on that store.
fn with_peer_on(record: &RegionRecord, store: StoreId) -> metapb::Region {
    let mut region = record.region.clone();
    if record.peer_on(store).is_none() {
        region.peers.push(metapb::Peer { store_id: store.0, ..Default::default() });
    }
    region
}

#[cfg(test)]
mod tests;
