//! Turns and lanes: what is done side by side looks as if it were done one after the other.

use super::*;

/// A store alone with many regions, all led here.
fn many_regions(lanes: usize) -> Cluster {
    let config = Config { raft_workers: lanes, ..Config::default() };
    let mut cluster = Cluster::with_region(1, 1, config);
    let keys = ["b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    let split = cluster.split_at(1, 1, &keys);
    cluster.until("the split", |cluster| cluster.reply(split).is_some());
    cluster.until("leaders", |cluster| {
        cluster.store(1).peers.values().all(|peer| peer.leader().is_some())
            && cluster.store(1).peers.len() == keys.len() + 1
    });
    cluster
}

#[test]
fn a_round_of_many_regions_is_the_same_in_any_number_of_lanes() {
    let run = |lanes| {
        let mut cluster = many_regions(lanes);
        cluster.digest = Some(DefaultHasher::new());
        let mut asked = Vec::new();
        for round in 0..5 {
            // The keys go up and the regions' ids do not.
            for key in ["l", "a", "k", "b", "j", "c", "i", "d", "h", "e", "g", "f"] {
                let region = cluster.region_at(1, key).unwrap().id;
                let target = cluster.target(1, region);
                asked.push(cluster.ask_write(1, target, key, &round.to_string()));
            }
            cluster.run();
        }
        cluster.ticks(3);
        assert!(asked.iter().all(|reply| cluster.is_done(*reply)));
        assert_eq!(cluster.value(1, "l"), Some("4".into()));
        cluster.digest.unwrap().finish()
    };
    let alone = run(1);
    for lanes in [2, 3, 4, 12, 40] {
        assert_eq!(run(lanes), alone, "in {lanes} lanes");
    }
}

#[test]
fn mail_is_read_before_its_peer_goes() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    let target = cluster.target(leader, 1);
    let region = cluster.region(leader, 1);
    let other = *region.peers.iter().find(|peer| peer.store_id != leader).unwrap();
    let own = *region::peer_on(&region, StoreId(leader)).unwrap();
    let mut epoch = region::epoch(&region);
    epoch.conf_ver += 1;
    // Both in one round: the write waits in the mail when the peer is told to go.
    let write = cluster.ask_write(leader, target.clone(), "a", "1");
    let removed = RaftMessage {
        region_id: 1,
        from_peer: Some(other),
        to_peer: Some(own),
        region_epoch: Some(epoch),
        is_tombstone: true,
        ..Default::default()
    };
    cluster.tell(StoreId(leader), StoreMsg::Raft(Box::new(removed)));
    let too_late = cluster.ask_write(leader, target, "a", "2");
    cluster.run();
    assert!(!cluster.store(leader).peers.contains_key(&RegionId(1)));
    for reply in [write, too_late] {
        assert_eq!(cluster.refusal(reply), Some(&Refusal::RegionNotFound { region_id: 1 }));
    }
}
