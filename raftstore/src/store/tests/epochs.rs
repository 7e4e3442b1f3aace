//! What counts in a region's epoch.

use eraftpb::ConfChangeType::{AddLearnerNode, AddNode};

use super::*;

/// conf_ver and version of a region as its leader knows it.
fn counted(cluster: &Cluster, region_id: u64) -> (u64, u64) {
    let leader = cluster.leader(region_id).unwrap();
    let epoch = region::epoch(&cluster.region(leader, region_id));
    (epoch.conf_ver, epoch.version)
}

/// S0.39: each member that a change concerns counts one in conf_ver, each cut one in the version of every part,
/// and nothing else counts. Regions are not merged: an order to do so changes nothing.
#[test]
fn members_changed_and_cuts_made_count_and_nothing_else_does() {
    let mut cluster = Cluster::with_region(4, 3, Config::default());
    assert_eq!(counted(&cluster, 1), (1, 1));
    cluster.write("k", "v");
    let first = cluster.leader(1).unwrap();
    cluster.transfer(1, first % 3 + 1);
    cluster.ticks(4);
    assert_eq!(counted(&cluster, 1), (1, 1), "neither writes nor leaders");

    let leader = cluster.leader(1).unwrap();
    let gone = peer(leader % 3 + 1, leader % 3 + 1);
    cluster.order_change(leader, 1, AddLearnerNode, &peer(4, 4));
    assert_eq!(counted(&cluster, 1), (2, 1), "one is added");
    cluster.until("the data", |cluster| cluster.value(4, "k").is_some());
    cluster.order_changes(leader, 1, &[(AddNode, peer(4, 4)), (AddLearnerNode, gone)]);
    assert_eq!(counted(&cluster, 1), (4, 1), "two change");
    cluster.order_changes(leader, 1, &[]);
    assert_eq!(counted(&cluster, 1), (6, 1), "and are done changing");
    cluster.remove(1, &gone);
    assert_eq!(counted(&cluster, 1), (7, 1), "one is removed");

    let leader = cluster.leader(1).unwrap();
    let reply = cluster.split_at(leader, 1, &["g", "m"]);
    let Some(Ok(Answer::Regions(parts))) = cluster.reply(reply).cloned() else {
        panic!("{:?}", cluster.reply(reply));
    };
    let epochs: Vec<_> = parts.iter().map(region::epoch).collect();
    assert_eq!(epochs, [metapb::RegionEpoch { conf_ver: 7, version: 3 }; 3]);

    let last = cluster.store(leader).peers[&RegionId(1)].group.last_index();
    let neighbour = parts[1].clone();
    cluster.order(leader, 1, |order| {
        order.merge = Some(pdpb::Merge { target: Some(neighbour.clone()) });
    });
    cluster.ticks(4);
    assert_eq!(counted(&cluster, 1), (7, 3));
    assert_eq!(cluster.store(leader).peers[&RegionId(1)].group.last_index(), last);
    for part in &parts {
        assert_eq!(cluster.region(leader, part.id), *part, "as it was");
    }
}
