//! What goes wrong on purpose, and who does it.

use std::cell::Cell;
use std::rc::Rc;

use proto::{StoreId, region};

use super::members::peer;
use super::tasks::Cluster;
use crate::sim::events::{Instant, MILLISECOND};

/// A partition lasts so long.
const PARTITION_LASTS: std::ops::Range<Instant> = 500 * MILLISECOND..700 * MILLISECOND;

/// Between two changes of membership.
const CHANGE_PAUSE: std::ops::Range<Instant> = 1..200 * MILLISECOND;

/// Says when to stop. Clones say the same.
#[derive(Clone, Debug, Default)]
pub struct Stop(Rc<Cell<bool>>);

impl Stop {
    /// It is time.
    pub fn now(&self) {
        self.0.set(true);
    }

    /// Whether it is time.
    pub fn is_due(&self) -> bool {
        self.0.get()
    }
}

impl Cluster {
    /// No message passes between the two groups of stores; a store of neither is not concerned.
    pub fn partition(&self, left: &[u64], right: &[u64]) {
        self.world.borrow_mut().partition(left, right);
    }

    /// From now on one message in ten between stores is lost.
    pub fn lose_messages(&self) {
        self.world.borrow_mut().lose_messages();
    }

    /// The network between stores is whole again.
    pub fn clear_filters(&self) {
        self.world.borrow_mut().clear_filters();
    }

    /// Whether every message between stores arrives.
    pub(super) fn is_network_whole(&self) -> bool {
        self.world.borrow().is_network_whole
    }

    /// The power fails on a store: what it had not synced may be gone.
    pub fn power_off(&self, store: u64) {
        self.world.borrow_mut().power_off(store);
    }

    /// A store starts on what its disks hold. Nothing happens if it runs.
    pub fn start(&self, store: u64) {
        self.world.borrow_mut().start(store);
    }

    /// The ids of all stores.
    pub fn stores(&self) -> Vec<u64> {
        self.world.borrow().stores()
    }
}

/// Two camps, other ones every time; and lost messages, if wanted. One camp may be empty.
pub(super) async fn trouble_network(
    cluster: Cluster,
    with_partitions: bool,
    with_losses: bool,
    stop: Stop,
) {
    let mut dice = cluster.dice(&format!("trouble in the network at {}", cluster.now()));
    while !stop.is_due() {
        cluster.clear_filters();
        if with_partitions {
            let (left, right): (Vec<u64>, Vec<u64>) =
                cluster.stores().into_iter().partition(|_| dice.happens(500));
            cluster.partition(&left, &right);
        }
        if with_losses {
            cluster.lose_messages();
        }
        cluster.pause(dice.within(PARTITION_LASTS)).await;
    }
    cluster.clear_filters();
}

/// A peer of some region comes on some store, or goes from there; the last one stays. The leader is not
/// spared. Returns how many changes there were.
pub(super) async fn change_members(cluster: Cluster, stop: Stop) -> u64 {
    let mut changes = 0;
    let mut dice = cluster.dice(&format!("changes of membership at {}", cluster.now()));
    let stores = cluster.stores();
    while !stop.is_due() {
        let regions = cluster.regions();
        if let (Some(region), Some(store)) = (dice.one_of(&regions), dice.one_of(&stores)) {
            match region::peer_on(region, StoreId(*store)) {
                Some(there) if region.peers.len() > 1 => {
                    cluster.must_remove_peer(region.id, *there).await;
                    changes += 1;
                }
                Some(_) => {}
                None => {
                    let added = peer(*store, cluster.new_id());
                    cluster.must_add_peer(region.id, added).await;
                    changes += 1;
                }
            }
        }
        cluster.pause(dice.within(CHANGE_PAUSE)).await;
    }
    changes
}
