//! What clients believe of the cluster: which region holds a key, and who leads it.

use std::collections::BTreeMap;

use proto::{KeyRange, Refusal, metapb, region};

/// Regions and leaders, as far as somebody was told.
#[derive(Clone, Debug, Default)]
pub struct RegionMap {
    regions: BTreeMap<u64, metapb::Region>,
    leaders: BTreeMap<u64, u64>,
}

impl RegionMap {
    /// Told of a region, by an answer or by the scheduler. Newer epochs replace what they overlap.
    pub fn learn(&mut self, new: &metapb::Region) {
        let range = KeyRange::of(new);
        let older = |known: &metapb::Region| {
            region::compare_epochs(&region::epoch(known), &region::epoch(new)).is_lt()
        };
        if self.regions.get(&new.id).is_some_and(|known| !older(known)) {
            return;
        }
        self.regions.remove(&new.id);
        self.regions.retain(|_, known| !KeyRange::of(known).overlaps(&range));
        self.regions.insert(new.id, new.clone());
    }

    /// Told who leads.
    pub fn learn_leader(&mut self, region: u64, store: u64) {
        self.leaders.insert(region, store);
    }

    /// Told why a store did not serve a request.
    pub fn learn_from(&mut self, store: u64, refusal: &Refusal) {
        match refusal {
            Refusal::NotLeader { region_id, leader: Some(leader) } => {
                self.leaders.insert(*region_id, leader.store_id);
            }
            Refusal::EpochNotMatch { current_regions } => {
                current_regions.iter().for_each(|region| self.learn(region));
            }
            // Whatever else it says: not there, not now.
            Refusal::NotLeader { .. }
            | Refusal::RegionNotFound { .. }
            | Refusal::KeyNotInRegion { .. }
            | Refusal::ServerIsBusy { .. }
            | Refusal::StaleCommand
            | Refusal::StoreNotMatch { .. }
            | Refusal::RaftEntryTooLarge { .. }
            | Refusal::MaxTimestampNotSynced
            | Refusal::ReadIndexNotReady { .. }
            | Refusal::ProposalInMergingMode { .. }
            | Refusal::DataIsNotReady { .. }
            | Refusal::RegionNotInitialized { .. }
            | Refusal::DiskFull { .. }
            | Refusal::MismatchPeerId { .. }
            | Refusal::UndeterminedResult { .. }
            | Refusal::Other { .. } => self.leaders.retain(|_, leader| *leader != store),
        }
    }

    /// Nobody is believed to lead any more.
    pub fn forget_leaders(&mut self) {
        self.leaders.clear();
    }

    /// The region that holds a key (in the engine's form).
    pub fn region_of(&self, key: &[u8]) -> Option<&metapb::Region> {
        self.regions.values().find(|region| KeyRange::of(region).contains(key))
    }

    /// Who leads a region.
    pub fn leader_of(&self, region: u64) -> Option<u64> {
        self.leaders.get(&region).copied()
    }
}
