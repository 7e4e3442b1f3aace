//! What the plans under way will still change about each store.
//!
//! Whoever judges how full a store is judges how full it will be: otherwise a store that is about to
//! get a peer looks as empty as before, and gets another, and another.

use std::collections::BTreeMap;

use proto::StoreId;

use super::{Operator, Step};

/// By how much the plans under way will change what a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Influence {
    /// Peers still to come, minus peers still to go.
    pub regions: i64,
    /// The same in MiB.
    pub size_mib: i64,
    /// Leaders still to come, minus leaders still to go.
    pub leaders: i64,
    /// The sizes of their regions in MiB.
    pub leader_size_mib: i64,
    /// Peers being added, without those that go.
    pub adding: usize,
}

impl Influence {
    /// Adds another's, or with a sign of -1 takes it away again.
    pub(crate) fn add(&mut self, other: Self, sign: i64) {
        self.regions += sign * other.regions;
        self.size_mib += sign * other.size_mib;
        self.leaders += sign * other.leaders;
        self.leader_size_mib += sign * other.leader_size_mib;
        self.adding = self.adding.saturating_add_signed(sign as isize * other.adding as isize);
    }

    /// What a plan will still change, by store, in a region of that size.
    pub fn of(operator: &Operator, size_mib: u64) -> BTreeMap<StoreId, Self> {
        let size_mib = i64::try_from(size_mib).unwrap_or(i64::MAX / 4);
        let mut by_store: BTreeMap<StoreId, Self> = BTreeMap::new();
        for step in operator.remaining() {
            match step {
                Step::AddPeer(peer) => {
                    let change = by_store.entry(StoreId(peer.store_id)).or_default();
                    change.regions += 1;
                    change.size_mib += size_mib;
                    change.adding += 1;
                }
                Step::RemovePeer(peer) => {
                    let change = by_store.entry(StoreId(peer.store_id)).or_default();
                    change.regions -= 1;
                    change.size_mib -= size_mib;
                }
                Step::TransferLeader { from, to } => {
                    for (store, sign) in [(from, -1), (to, 1)] {
                        let change = by_store.entry(*store).or_default();
                        change.leaders += sign;
                        change.leader_size_mib += sign * size_mib;
                    }
                }
                Step::PromoteLearner(_)
                | Step::DemoteVoter(_)
                | Step::EnterJoint(_)
                | Step::LeaveJoint(_)
                | Step::Split { .. } => {}
            }
        }
        by_store
    }
}
