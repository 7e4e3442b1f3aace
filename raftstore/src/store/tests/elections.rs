use super::*;

#[test]
fn one_of_three_is_elected_and_all_agree() {
    let cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    for store in 1..=3 {
        let view = cluster.store(store).read_views().by_id(RegionId(1)).unwrap();
        assert_eq!(view.leader.as_ref().map(|peer| peer.store_id), Some(leader));
        assert_eq!(view.is_leader, store == leader);
    }
    let told = cluster.reports.iter().filter(|(store, report)| {
        matches!(report, Report::LeaderChanged { is_leader: true, .. }) && store.0 == leader
    });
    assert_eq!(told.count(), 1);
}

#[test]
fn a_region_whose_only_voter_is_here_has_a_leader_at_once() {
    let mut cluster = Cluster::new(1, Config::default());
    let data = cluster.nodes[&StoreId(1)].data.clone();
    bootstrap::prepare_first_region(&data, StoreId(1), RegionId(1), PeerId(2)).unwrap();
    cluster.start(1);
    assert_eq!(cluster.leader(1), Some(1));
    let reply = cluster.write_at(1, 1, "k", "v");
    assert!(cluster.is_done(reply));
}

#[test]
fn a_cut_off_leader_is_replaced_and_steps_down() {
    let mut cluster = Cluster::three();
    let old = cluster.leader(1).unwrap();
    cluster.isolate(old);
    cluster.until("another leader", |cluster| cluster.leader(1).is_some_and(|new| new != old));
    cluster.ticks(20);
    assert!(cluster.store(old).peers[&RegionId(1)].leader().is_none());
    cluster.heal();
    cluster.ticks(10);
    let leader = cluster.leader(1).unwrap();
    assert_ne!(leader, old);
    assert_eq!(cluster.store(old).peers[&RegionId(1)].group.leader(), Some(PeerId(leader)));
}

#[test]
fn a_lost_request_for_a_vote_costs_no_election_timeout() {
    let mut cluster = Cluster::three();
    let old = cluster.leader(1).unwrap();
    let term = cluster.store(old).peers[&RegionId(1)].group.term();
    let mut lost = 0;
    // The only vote that can decide it: of the first campaign, and of the probing before.
    cluster.filter = Some(Box::new(move |_, message| {
        let asks = is_type(message, eraftpb::MessageType::MsgRequestVote)
            || is_type(message, eraftpb::MessageType::MsgRequestPreVoteResponse);
        let to = message.to_peer.as_ref().map_or(0, |to| to.store_id);
        lost += u32::from(asks && to != old);
        !asks || to == old || lost > 2
    }));
    cluster.isolate(old);
    cluster.until("another leader", |cluster| cluster.leader(1).is_some_and(|new| new != old));
    let new = cluster.leader(1).unwrap();
    assert_eq!(cluster.store(new).peers[&RegionId(1)].group.term(), term + 1, "one campaign");
}

#[test]
fn leadership_is_handed_over_on_order() {
    let mut cluster = Cluster::three();
    cluster.write("k", "v");
    let old = cluster.leader(1).unwrap();
    let last = cluster.store(old).peers[&RegionId(1)].group.last_index();
    let new = old % 3 + 1;
    cluster.transfer(1, new);
    // Nothing was written for it but the new leader's first entry.
    assert_eq!(cluster.store(new).peers[&RegionId(1)].group.last_index(), last + 1);
    cluster.write("k", "w");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = || {
        let mut cluster = Cluster::three();
        let leader = cluster.leader(1).unwrap();
        cluster.isolate(leader);
        cluster.until("another", |cluster| cluster.leader(1).is_some_and(|new| new != leader));
        (leader, cluster.leader(1), cluster.now)
    };
    assert_eq!(run(), run());
}

#[test]
fn an_empty_peer_never_campaigns() {
    let mut cluster = Cluster::with_region(2, 1, Config::default());
    cluster.order_change(1, 1, eraftpb::ConfChangeType::AddNode, &peer(2, 2));
    // It is made by a heartbeat, and then hears nothing more.
    cluster.filter =
        Some(Box::new(|_, message| is_type(message, eraftpb::MessageType::MsgHeartbeat)));
    cluster.until("an empty peer", |cluster| cluster.store(2).peers.contains_key(&RegionId(1)));
    cluster.isolate(1);
    cluster.ticks(100);
    let empty = &cluster.store(2).peers[&RegionId(1)];
    assert!(!empty.is_initialized());
    assert_eq!(empty.group.raft().state, raft::StateRole::Follower);
}

#[test]
fn nonsense_from_the_network_does_no_harm() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    let follower = leader % 3 + 1;
    let term = cluster.store(leader).peers[&RegionId(1)].group.term();
    let epoch = Some(region::epoch(&cluster.region(leader, 1)));
    let kinds = (0..20).chain([99, -1]);
    for (kind, value) in kinds.flat_map(|kind| [(kind, 0), (kind, 7), (kind, u64::MAX)]) {
        for (from, to) in [(leader, follower), (follower, leader)] {
            let entries = vec![eraftpb::Entry { index: value, term: value, ..Default::default() }];
            let inner = eraftpb::Message {
                msg_type: kind,
                from,
                to,
                term: if value == 7 { term } else { value },
                index: value.saturating_add(100),
                log_term: value,
                commit: value.saturating_add(1000),
                entries,
                snapshot: Some(eraftpb::Snapshot::default()),
                request_snapshot: value,
                ..Default::default()
            };
            for region_id in [1, 9, 0] {
                let message = RaftMessage {
                    region_id,
                    from_peer: Some(peer(from, from)),
                    to_peer: Some(peer(to, to)),
                    region_epoch: epoch,
                    message: Some(inner.clone()),
                    ..Default::default()
                };
                let mut lame = message.clone();
                lame.from_peer = None;
                let source = crate::msg::SnapshotSource::Bytes(Bytes::new());
                cluster.tell(StoreId(to), StoreMsg::Raft(Box::new(message.clone())));
                cluster.tell(StoreId(to), StoreMsg::Raft(Box::new(lame)));
                let message = Box::new(message);
                cluster.tell(StoreId(to), StoreMsg::SnapshotReceived { message, source });
                cluster.run();
            }
        }
    }
    cluster.ticks(40);
    cluster.write("k", "v");
}
