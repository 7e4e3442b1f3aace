//! Orders that must not leave yet.
//!
//! An order follows from what a heartbeat showed, and what a heartbeat shows about a region's peers is
//! written to the group's log. Until it is there, a new leader of the scheduler would know the region
//! as it was, and the two could have it do different things. So an order waits here until the log
//! holds its region with the order's epoch, whatever it was that thought of the order.

use std::collections::BTreeMap;

use proto::{pdpb, region};

use crate::member::machine::State;

/// An order for a region's leader.
pub(crate) type Order = pdpb::RegionHeartbeatResponse;

/// The orders that wait, one a region: a later one takes the place of an earlier.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: BTreeMap<u64, Order>,
}

impl Outbox {
    /// Gives the order back if it may leave now, and keeps it otherwise.
    pub(crate) fn offer(&mut self, order: Order, state: &State) -> Option<Order> {
        if may_leave(&order, state) {
            self.waiting.remove(&order.region_id);
            return Some(order);
        }
        self.waiting.insert(order.region_id, order);
        None
    }

    /// More has come into the log: what may leave now.
    pub(crate) fn release(&mut self, state: &State) -> Vec<Order> {
        let released: Vec<u64> = self
            .waiting
            .values()
            .filter(|order| may_leave(order, state))
            .map(|order| order.region_id)
            .collect();
        released.iter().filter_map(|id| self.waiting.remove(id)).collect()
    }

    /// Nothing leaves any more.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }
}

fn may_leave(order: &Order, state: &State) -> bool {
    let wanted = order.region_epoch.unwrap_or_default();
    let known = state.region(order.region_id).map(region::epoch);
    known.is_some_and(|known| !region::is_epoch_stale(&known, &wanted))
}

#[cfg(test)]
mod tests {
    use proto::metapb;
    use proto::schedulerpb::Change;

    use super::*;

    fn region(conf_ver: u64, version: u64) -> metapb::Region {
        metapb::Region {
            id: 7,
            region_epoch: Some(metapb::RegionEpoch { conf_ver, version }),
            ..Default::default()
        }
    }

    fn order(conf_ver: u64, version: u64) -> Order {
        let described = region(conf_ver, version);
        Order {
            region_id: described.id,
            region_epoch: described.region_epoch,
            ..Default::default()
        }
    }

    fn log(state: &mut State, region: metapb::Region) {
        let index = state.index() + 1;
        state.apply(index, 1, Change { put_regions: vec![region], ..Change::default() });
    }

    #[test]
    fn an_order_waits_until_the_log_holds_what_it_follows_from() {
        let mut state = State::founding([], 1, 1);
        let mut outbox = Outbox::default();
        assert_eq!(outbox.offer(order(1, 1), &state), None, "the log knows nothing yet");
        assert_eq!(outbox.release(&state), []);
        log(&mut state, region(1, 1));
        assert_eq!(outbox.release(&state), [order(1, 1)]);
        assert_eq!(outbox.release(&state), [], "once");
        // What a heartbeat has just shown, and a tick repeats, is not there for being repeated.
        assert_eq!(outbox.offer(order(2, 1), &state), None);
        assert_eq!(outbox.offer(order(2, 1), &state), None);
        log(&mut state, region(2, 1));
        assert_eq!(outbox.release(&state), [order(2, 1)]);
        // An order for the region as it was may leave: its store drops it.
        assert_eq!(outbox.offer(order(1, 1), &state), Some(order(1, 1)));
    }

    #[test]
    fn a_later_order_takes_the_place_of_one_that_waits() {
        let mut state = State::founding([], 1, 1);
        let mut outbox = Outbox::default();
        outbox.offer(order(2, 1), &state);
        outbox.offer(order(2, 2), &state);
        log(&mut state, region(2, 1));
        assert_eq!(outbox.release(&state), []);
        log(&mut state, region(2, 2));
        assert_eq!(outbox.offer(order(2, 2), &state), Some(order(2, 2)));
        assert_eq!(outbox.release(&state), [], "it has left");
        outbox.offer(order(3, 3), &state);
        outbox.clear();
        log(&mut state, region(3, 3));
        assert_eq!(outbox.release(&state), []);
    }
}
