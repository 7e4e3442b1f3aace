//! Reads from peers that do not lead: the leader of a busy region gets help.
//!
//! A follower asks the leader how far it must have applied before it answers, so its answer is as
//! fresh as the leader's. A *stale* read is answered from what the replica has, without asking
//! anybody, and is for snapshots that lie a few seconds back. Whatever a replica refuses is asked of
//! the leader, without blaming the map of regions.

use proto::{metapb, region};

use crate::route::Route;

/// Who answers reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplicaRead {
    /// The leader of the region.
    #[default]
    Leader,
    /// One of the others.
    Follower,
    /// Any of them, in turn.
    Mixed,
    /// Any of them, in turn, without asking the leader. Only for snapshots of the past: a replica
    /// that has not come that far sends the client to the leader. Transactional reads only; raw
    /// keys have no past, and are read as with [`Self::Mixed`].
    Stale,
}

impl ReplicaRead {
    /// Which peer a read goes to, the `turn`-th; `None` is the leader of the route.
    pub(crate) fn choose(self, route: &Route, turn: u64) -> Option<metapb::Peer> {
        let wants_leader = match self {
            Self::Leader => return None,
            Self::Follower => false,
            Self::Mixed | Self::Stale => true,
        };
        let is_leader = |peer: &metapb::Peer| peer.id == route.peer.id;
        let mut peers = route.region.peers.clone();
        // A learner may be new and empty, a witness has no data.
        peers.retain(|peer| !region::is_learner(peer) && !peer.is_witness);
        peers.retain(|peer| wants_leader || !is_leader(peer));
        let count = peers.len() as u64;
        if count == 0 {
            return None;
        }
        let chosen = peers.swap_remove((turn % count) as usize);
        (!is_leader(&chosen) || self == Self::Stale).then_some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn route() -> Route {
        let peer = |id| metapb::Peer { id, store_id: id, ..Default::default() };
        let learner = metapb::Peer { role: metapb::PeerRole::Learner as i32, ..peer(4) };
        let peers = vec![peer(1), peer(2), peer(3), learner];
        let region = metapb::Region { id: 7, peers, ..Default::default() };
        Route { region: Arc::new(region), peer: peer(2) }
    }

    fn chosen(wish: ReplicaRead, turns: u64) -> Vec<Option<u64>> {
        (0..turns).map(|turn| wish.choose(&route(), turn).map(|peer| peer.id)).collect()
    }

    #[test]
    fn peers_take_turns_as_wished() {
        assert_eq!(chosen(ReplicaRead::Leader, 2), [None, None]);
        assert_eq!(chosen(ReplicaRead::Follower, 3), [Some(1), Some(3), Some(1)]);
        assert_eq!(chosen(ReplicaRead::Mixed, 3), [Some(1), None, Some(3)]);
        assert_eq!(chosen(ReplicaRead::Stale, 3), [Some(1), Some(2), Some(3)]);
    }

    #[test]
    fn where_there_is_nobody_else_the_leader_reads() {
        let mut alone = route();
        Arc::make_mut(&mut alone.region).peers.retain(|peer| peer.id == 2);
        assert_eq!(ReplicaRead::Follower.choose(&alone, 0), None);
        assert_eq!(ReplicaRead::Mixed.choose(&alone, 0), None);
    }
}
