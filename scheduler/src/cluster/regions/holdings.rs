//! What each store holds: which regions it leads, follows, learns of; how many, and how large.
//!
//! Kept beside the regions and changed with each of them, so that a judge of stores never walks over
//! all regions. A pick "from anywhere" begins at an id that chance has chosen and goes round once: as
//! good as a draw, in the time of a look-up.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::region::is_learner;
use proto::{RegionId, StoreId};

use super::{RegionRecord, Regions};

/// What a store holds, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreCounts {
    /// Regions it leads.
    pub leaders: usize,
    /// Peers of every kind.
    pub regions: usize,
    /// Peers without a vote.
    pub learners: usize,
    /// Peers that are catching up.
    pub pending: usize,
    /// Sum of the sizes of the regions it leads, in MiB.
    pub leader_size_mib: u64,
    /// Sum of the sizes of its regions, in MiB.
    pub region_size_mib: u64,
}

/// What one store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holding {
    leaders: BTreeSet<RegionId>,
    followers: BTreeSet<RegionId>,
    learners: BTreeSet<RegionId>,
    pending: BTreeSet<RegionId>,
    leader_size_mib: u64,
    region_size_mib: u64,
}

impl Holding {
    fn is_empty(&self) -> bool {
        self.leaders.is_empty() && self.followers.is_empty() && self.learners.is_empty()
    }
}

impl Regions {
    /// The regions with a peer of any kind on the store.
    pub fn on_store(&self, store: StoreId) -> impl Iterator<Item = &Arc<RegionRecord>> {
        self.held(store, |holding| [&holding.leaders, &holding.followers, &holding.learners])
    }

    /// The regions that the store leads.
    pub fn led_by(&self, store: StoreId) -> impl Iterator<Item = &Arc<RegionRecord>> {
        self.held(store, |holding| [&holding.leaders])
    }

    /// The regions with a voter on the store that does not lead.
    pub fn followed_by(&self, store: StoreId) -> impl Iterator<Item = &Arc<RegionRecord>> {
        self.held(store, |holding| [&holding.followers])
    }

    /// The regions that the store leads, all of them once, beginning anywhere: `start` decides
    /// where, and 0 is the lowest id.
    pub fn led_from(&self, store: StoreId, start: u64) -> impl Iterator<Item = &Arc<RegionRecord>> {
        self.held_from(store, start, |holding| &holding.leaders)
    }

    /// The same of the regions with a voter on the store that does not lead.
    pub fn followed_from(
        &self,
        store: StoreId,
        start: u64,
    ) -> impl Iterator<Item = &Arc<RegionRecord>> {
        self.held_from(store, start, |holding| &holding.followers)
    }

    fn held_from(
        &self,
        store: StoreId,
        start: u64,
        which: impl Fn(&Holding) -> &BTreeSet<RegionId>,
    ) -> impl Iterator<Item = &Arc<RegionRecord>> {
        let set = self.holdings.get(&store).map(which);
        let first = set.and_then(|set| match (set.first(), set.last()) {
            (Some(first), Some(last)) => {
                Some(RegionId(first.0 + start % (last.0 - first.0).saturating_add(1).max(1)))
            }
            _ => None,
        });
        let first = first.unwrap_or(RegionId(0));
        let around =
            set.into_iter().flat_map(move |set| set.range(first..).chain(set.range(..first)));
        around.map(|id| &self.by_id[id])
    }

    /// The average size of a region, in MiB.
    pub fn average_size_mib(&self) -> i64 {
        let average = self.size_mib.checked_div(self.by_id.len() as u64).unwrap_or(0);
        i64::try_from(average).unwrap_or(i64::MAX / 4)
    }

    /// The regions whose peer on the store is catching up.
    pub fn pending_on(&self, store: StoreId) -> impl Iterator<Item = &Arc<RegionRecord>> {
        self.held(store, |holding| [&holding.pending])
    }

    /// What the store holds, in numbers; a store nobody ever mentioned holds nothing.
    pub fn counts(&self, store: StoreId) -> StoreCounts {
        self.holdings.get(&store).map_or_else(StoreCounts::default, |holding| StoreCounts {
            leaders: holding.leaders.len(),
            regions: holding.leaders.len() + holding.followers.len() + holding.learners.len(),
            learners: holding.learners.len(),
            pending: holding.pending.len(),
            leader_size_mib: holding.leader_size_mib,
            region_size_mib: holding.region_size_mib,
        })
    }

    fn held<const N: usize>(
        &self,
        store: StoreId,
        which: impl Fn(&Holding) -> [&BTreeSet<RegionId>; N],
    ) -> impl Iterator<Item = &Arc<RegionRecord>> {
        let sets = self.holdings.get(&store).map(which);
        sets.into_iter().flatten().flatten().map(|id| &self.by_id[id])
    }

    /// Adds the region to what its stores hold, or takes it away again.
    pub(super) fn count(&mut self, record: &RegionRecord, add: bool) {
        let (id, size_mib) = (record.id(), record.size_mib());
        let change = |set: &mut BTreeSet<RegionId>| {
            if add {
                set.insert(id)
            } else {
                set.remove(&id)
            };
        };
        let change_size = |sum: &mut u64| {
            *sum = if add { *sum + size_mib } else { *sum - size_mib };
        };
        change_size(&mut self.size_mib);
        let leader_store = record.leader_store();
        for peer in &record.region.peers {
            let store = StoreId(peer.store_id);
            let holding = self.holdings.entry(store).or_default();
            change_size(&mut holding.region_size_mib);
            if leader_store == Some(store) {
                change(&mut holding.leaders);
                change_size(&mut holding.leader_size_mib);
            } else if is_learner(peer) {
                change(&mut holding.learners);
            } else {
                change(&mut holding.followers);
            }
            if record.is_pending(peer.id) {
                change(&mut holding.pending);
            }
            if holding.is_empty() {
                self.holdings.remove(&store);
            }
        }
    }
}
