//! Orders to the scheduler, and waiting for what comes of them.
//!
//! An order is carried out by a leader that hears of it in the answer to its next heartbeat. It is waited
//! for as long as the network is whole: during a partition nothing can be promised. A new member need not
//! have caught up.

use proto::{PeerId, metapb, region};

use super::client::POLL_PAUSE;
use super::scheduler::{Scheduler, Wish};
use super::tasks::Cluster;
use crate::sim::events::{Instant, SECOND};

/// What is wanted comes true within this time.
const PATIENCE: Instant = 5 * SECOND;

/// A peer with this id on this store.
pub fn peer(store_id: u64, id: u64) -> metapb::Peer {
    metapb::Peer { id, store_id, ..Default::default() }
}

impl Cluster {
    /// The region with this id, as the scheduler knows it.
    pub fn region(&self, id: u64) -> Option<metapb::Region> {
        self.world.borrow().scheduler.region(id).cloned()
    }

    /// All regions in key order, as the scheduler knows them.
    pub fn regions(&self) -> Vec<metapb::Region> {
        self.world.borrow().scheduler.regions().cloned().collect()
    }

    /// An id that was never given before.
    pub fn new_id(&self) -> u64 {
        self.world.borrow_mut().scheduler.next_id()
    }

    /// Whether the leader says that this peer waits for a snapshot.
    pub fn is_pending(&self, region_id: u64, peer: metapb::Peer) -> bool {
        self.world.borrow().scheduler.is_pending(region_id, peer.id)
    }

    /// The peer leads. Panics when it does not come to that.
    pub async fn must_transfer_leader(&self, region_id: u64, to: metapb::Peer) {
        self.must(region_id, Wish::Lead(to), |scheduler| {
            let leader = scheduler.leader(region_id);
            leader.is_some_and(|leader| (leader.id, leader.store_id) == (to.id, to.store_id))
        })
        .await;
    }

    /// The peer is a member. Panics when it does not become one.
    pub async fn must_add_peer(&self, region_id: u64, added: metapb::Peer) {
        self.must(region_id, Wish::Add(added), |scheduler| {
            let known = scheduler.region(region_id);
            known
                .and_then(|known| region::peer_by_id(known, PeerId(added.id)))
                .is_some_and(|peer| peer.store_id == added.store_id)
        })
        .await;
    }

    /// The peer is no member. Panics when it stays one.
    pub async fn must_remove_peer(&self, region_id: u64, removed: metapb::Peer) {
        self.must(region_id, Wish::Remove(removed), |scheduler| {
            let known = scheduler.region(region_id);
            known.is_some_and(|known| region::peer_by_id(known, PeerId(removed.id)).is_none())
        })
        .await;
    }

    /// Wants something of a region, and waits until it is so.
    async fn must(&self, region_id: u64, wish: Wish, is_so: impl Fn(&Scheduler) -> bool) {
        self.world.borrow_mut().scheduler.want(region_id, wish);
        let mut waited = 0;
        while !is_so(&self.world.borrow().scheduler) {
            assert!(waited < PATIENCE, "region {region_id}: {wish:?} does not come true");
            self.pause(POLL_PAUSE).await;
            if self.is_network_whole() {
                waited += POLL_PAUSE;
            } else {
                waited = 0;
            }
        }
    }
}
