//! Handing leaders over before a store stops, so that nobody waits for an election.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::{Duration, Instant};

use proto::pdpb::{RegionHeartbeatResponse, TransferLeader};
use proto::{metapb, region};
use raftstore::driver::Router;
use raftstore::engine::DataEngine;

/// How often it is looked who still leads, and asked again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Another candidate is named after so many looks; when all were named in vain, nobody is there.
const LOOKS_PER_CANDIDATE: usize = 10;

/// See [`hand_over_leaders`].
pub(crate) type Draining = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Asks every leader here to step down in favour of another voter, the way the scheduler would.
/// Ends when nobody leads here any more, when all candidates were tried, or at the timeout.
pub(crate) fn hand_over_leaders<D: DataEngine>(router: Router<D>, timeout: Duration) -> Draining {
    let deadline = Instant::now() + timeout;
    Box::pin(async move {
        let mut look = 0;
        let mut asked = BTreeSet::new();
        loop {
            let orders = orders(&router, look / LOOKS_PER_CANDIDATE);
            if orders.is_empty() || Instant::now() >= deadline {
                return;
            }
            if look % LOOKS_PER_CANDIDATE == 0 {
                asked.clear();
            }
            for order in orders {
                if asked.insert(order.region_id) {
                    router.order(order);
                }
            }
            look += 1;
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    })
}

/// One order for each region led here that has another voter left to try.
fn orders<D: DataEngine>(router: &Router<D>, attempt: usize) -> Vec<RegionHeartbeatResponse> {
    let views = router.read_views().all();
    let led = views.iter().filter(|view| view.is_leader);
    led.filter_map(|view| order(&view.region, &view.peer, attempt)).collect()
}

fn order(
    region: &metapb::Region,
    leader: &metapb::Peer,
    attempt: usize,
) -> Option<RegionHeartbeatResponse> {
    let candidate = *region
        .peers
        .iter()
        .filter(|peer| peer.id != leader.id && !region::is_learner(peer))
        .nth(attempt)?;
    Some(RegionHeartbeatResponse {
        region_id: region.id,
        region_epoch: region.region_epoch,
        target_peer: Some(*leader),
        transfer_leader: Some(TransferLeader { peer: Some(candidate), ..Default::default() }),
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_voter_is_tried_once_and_never_a_learner() {
        let peer = |id, role: metapb::PeerRole| metapb::Peer {
            id,
            store_id: id,
            role: role.into(),
            ..Default::default()
        };
        let mut region = metapb::Region {
            id: 1,
            peers: vec![
                peer(1, metapb::PeerRole::Voter),
                peer(2, metapb::PeerRole::Voter),
                peer(3, metapb::PeerRole::Learner),
                peer(4, metapb::PeerRole::Voter),
            ],
            ..Default::default()
        };
        let leader = region.peers[0];
        let candidates: Vec<u64> = (0..9)
            .filter_map(|attempt| order(&region, &leader, attempt))
            .map(|order| order.transfer_leader.unwrap().peer.unwrap().id)
            .collect();
        assert_eq!(candidates, [2, 4]);
        region.peers.truncate(1);
        assert!(order(&region, &leader, 0).is_none());
    }
}
