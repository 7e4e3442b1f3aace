use std::cell::Cell;
use std::rc::Rc;

use super::*;
use crate::command::{Command, Split, SplitPart};
use crate::storage::{FIRST_POSITION, RegionState, applied_state, region_states};

fn regions_of(cluster: &Cluster, store: u64) -> Vec<String> {
    let mut regions: Vec<metapb::Region> = cluster
        .store(store)
        .peers
        .values()
        .filter(|peer| peer.is_initialized())
        .map(|peer| peer.region.clone())
        .collect();
    regions.sort_by(|a, b| a.start_key.cmp(&b.start_key));
    regions.iter().map(|region| region::Readable(region).to_string()).collect()
}

/// S0.30, S0.31: the old id stays with the right part as a rule, the left is new; and all replicas have the
/// same two regions.
#[test]
fn the_new_region_serves_at_once() {
    let mut cluster = Cluster::three();
    cluster.write("a", "1");
    cluster.write("z", "1");
    let leader = cluster.leader(1).unwrap();
    let reply = cluster.split_at(leader, 1, &["m"]);
    let Some(Ok(Answer::Regions(parts))) = cluster.reply(reply).cloned() else {
        panic!("{:?}", cluster.reply(reply));
    };
    assert_eq!(parts.len(), 2);
    // Without a tick: the new region's peers campaigned where the old one leads.
    let new = parts.iter().find(|part| part.id != 1).unwrap().id;
    assert_eq!(cluster.leader(new), Some(leader));
    cluster.ticks(4);
    for store in 1..=3 {
        assert_eq!(
            regions_of(&cluster, store),
            ["r101 [-inf,m) v2.c1 p102@s1 p103@s2 p104@s3", "r1 [m,+inf) v2.c1 p1@s1 p2@s2 p3@s3",]
        );
    }
    cluster.write("a", "2");
    cluster.write("z", "2");
    let told = cluster.reports.iter().filter(
        |(_, report)| matches!(report, Report::RegionsSplit(regions) if regions.len() == 2),
    );
    assert_eq!(told.count(), 1);
}

/// S0.30: or with the left, by configuration.
#[test]
fn the_old_id_may_stay_with_the_left() {
    let config = Config { right_derive_when_split: false, ..Config::default() };
    let mut cluster = Cluster::with_region(1, 1, config);
    cluster.split_at(1, 1, &["m", "g"]);
    assert_eq!(
        regions_of(&cluster, 1),
        ["r1 [-inf,g) v3.c1 p1@s1", "r101 [g,m) v3.c1 p102@s1", "r103 [m,+inf) v3.c1 p104@s1",]
    );
}

#[test]
fn who_knows_the_old_region_is_told_of_both() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    let stale = cluster.target(leader, 1);
    cluster.split_at(leader, 1, &["m"]);
    let reply = cluster.ask_write(leader, stale, "z", "v");
    cluster.run();
    let Some(Refusal::EpochNotMatch { current_regions }) = cluster.refusal(reply) else {
        panic!("{:?}", cluster.reply(reply));
    };
    let ids: Vec<u64> = current_regions.iter().map(|region| region.id).collect();
    assert_eq!(ids, [1, 101]);
}

#[test]
fn writes_that_wait_through_a_split_learn_of_it() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    cluster.hold_applier(leader);
    cluster.split_at(leader, 1, &["m"]);
    let reply = cluster.write_at(leader, 1, "z", "v");
    assert_eq!(cluster.reply(reply), None);
    cluster.release_applier(leader);
    assert!(matches!(cluster.refusal(reply), Some(Refusal::EpochNotMatch { .. })));
    cluster.write("z", "v");
}

#[test]
fn keys_that_do_not_cut_the_region_are_refused() {
    let mut cluster = Cluster::with_region(1, 1, Config::default());
    cluster.split_at(1, 1, &["m"]);
    let outside = cluster.split_at(1, 1, &["a"]);
    assert!(matches!(cluster.refusal(outside), Some(Refusal::KeyNotInRegion { .. })));
    // Cut there already: asking again is no error.
    let again = cluster.split_at(1, 1, &["m"]);
    assert!(matches!(cluster.reply(again), Some(Ok(Answer::Regions(one))) if one.len() == 1));
}

#[test]
fn a_split_without_ids_is_given_up() {
    let mut cluster = Cluster::with_region(1, 1, Config::default());
    cluster.gives_ids = false;
    let reply = cluster.split_at(1, 1, &["m"]);
    let second = cluster.split_at(1, 1, &["m"]);
    assert!(matches!(cluster.refusal(second), Some(Refusal::ServerIsBusy { .. })));
    cluster.until("an answer", |cluster| cluster.reply(reply).is_some());
    cluster.gives_ids = true;
    cluster.split_at(1, 1, &["m"]);
    assert_eq!(regions_of(&cluster, 1).len(), 2);
}

#[test]
fn a_split_that_waits_for_ids_is_answered_when_its_leader_is_deposed() {
    let mut cluster = Cluster::three();
    cluster.gives_ids = false;
    let leader = cluster.leader(1).unwrap();
    let reply = cluster.split_at(leader, 1, &["m"]);
    assert_eq!(cluster.reply(reply), None);
    cluster.transfer(1, leader % 3 + 1);
    let refusal = cluster.refusal(reply);
    assert!(matches!(refusal, Some(Refusal::NotLeader { .. })), "{refusal:?}");
    // Ids that come late change nothing.
    let ids = vec![pdpb::SplitId { new_region_id: 500, new_peer_ids: vec![501, 502, 503] }];
    let late = StoreMsg::SplitIds { region_id: RegionId(1), ask: 1, ids: Some(ids) };
    cluster.tell(StoreId(leader), late);
    cluster.run();
    assert_eq!(regions_of(&cluster, leader).len(), 1);
}

#[test]
fn a_split_that_was_proposed_is_answered_when_its_leader_is_deposed() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    cluster.isolate(leader);
    let reply = cluster.split_at(leader, 1, &["m"]);
    cluster.until("another leader", |cluster| cluster.leader(1).is_some_and(|new| new != leader));
    cluster.write("k", "v");
    cluster.heal();
    cluster.until("an answer", |cluster| cluster.reply(reply).is_some());
    let refusal = cluster.refusal(reply).unwrap();
    assert!(
        matches!(refusal, Refusal::StaleCommand | Refusal::UndeterminedResult { .. }),
        "{refusal:?}"
    );
    assert_eq!(regions_of(&cluster, leader).len(), 1);
}

#[test]
fn votes_that_come_before_the_split_are_kept() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    let (slow, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.hold_applier(slow);
    cluster.isolate(other);
    cluster.split_at(leader, 1, &["m"]);
    cluster.ticks(1);
    // Two of three are there, and one of them has not split yet.
    assert_eq!(cluster.leader(101), None);
    cluster.release_applier(slow);
    assert_eq!(cluster.leader(101), Some(leader));
}

/// S0.2: a cluster begins as one region, and the one that grows beyond its size splits by itself.
#[test]
fn a_region_that_grows_too_large_is_split() {
    let config = Config {
        region_split_bytes: 3000,
        region_part_bytes: 2000,
        split_check_written_bytes: 500,
        split_check_ticks: 2,
        ..Config::default()
    };
    let mut cluster = Cluster::with_region(3, 3, config);
    for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        cluster.write(key, &"x".repeat(499));
    }
    cluster.until("a split", |cluster| regions_of(cluster, 1).len() == 2);
    cluster.ticks(4);
    assert_eq!(regions_of(&cluster, 1)[0], "r101 [-inf,e) v2.c1 p102@s1 p103@s2 p104@s3");
}

#[test]
fn a_region_with_too_many_records_is_split() {
    let config = Config {
        region_split_keys: 10,
        region_part_keys: 6,
        split_check_ticks: 2,
        ..Config::default()
    };
    let mut cluster = Cluster::with_region(1, 1, config);
    let record = |cluster: &mut Cluster, key: u8| {
        let key = [&[key][..], &[0; 8]].concat();
        let mut batch = WriteBatch::new();
        batch.put(ColumnFamily::Write, key, "w");
        let (target, reply) = (cluster.target(1, 1), cluster.new_reply());
        cluster.tell(StoreId(1), StoreMsg::Write { target, batch, reply });
        cluster.run();
        cluster.until("the record", |cluster| cluster.is_done(reply));
    };
    // Raw keys do not count.
    for key in ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"] {
        cluster.write(key, "v");
    }
    (b'a'..=b'j').for_each(|key| record(&mut cluster, key));
    cluster.ticks(10);
    assert_eq!(regions_of(&cluster, 1).len(), 1);
    record(&mut cluster, b'k');
    cluster.until("a split", |cluster| regions_of(cluster, 1).len() == 2);
    assert_eq!(regions_of(&cluster, 1)[0], "r101 [-inf,g) v2.c1 p102@s1");
}

#[test]
fn the_scheduler_may_order_a_split_in_the_middle() {
    for policy in [pdpb::CheckPolicy::Scan, pdpb::CheckPolicy::Approximate] {
        let mut cluster = Cluster::with_region(1, 1, Config::default());
        ["a", "b", "c", "d"].into_iter().for_each(|key| cluster.write(key, "v"));
        cluster.order(1, 1, |order| {
            let policy = policy.into();
            order.split_region = Some(pdpb::SplitRegion { policy, ..Default::default() });
        });
        let found = regions_of(&cluster, 1);
        assert_eq!(found, ["r101 [-inf,c) v2.c1 p102@s1", "r1 [c,+inf) v2.c1 p1@s1"]);
    }
}

#[test]
fn the_scheduler_may_order_a_split_at_keys() {
    let mut cluster = Cluster::with_region(1, 1, Config::default());
    cluster.order(1, 1, |order| {
        let keys = vec!["m".into(), "g".into(), "m".into()];
        let policy = pdpb::CheckPolicy::Usekey.into();
        order.split_region = Some(pdpb::SplitRegion { policy, keys });
    });
    assert_eq!(
        regions_of(&cluster, 1),
        ["r101 [-inf,g) v3.c1 p102@s1", "r103 [g,m) v3.c1 p104@s1", "r1 [m,+inf) v3.c1 p1@s1"]
    );
}

#[test]
fn a_membership_change_right_behind_a_split_knows_of_it() {
    let mut cluster = Cluster::with_region(4, 3, Config::default());
    cluster.write("a", "1");
    let leader = cluster.leader(1).unwrap();
    let slow = leader % 3 + 1;
    cluster.isolate(slow);
    cluster.split_at(leader, 1, &["m"]);
    cluster.add(1, &peer(4, 4));
    // Both come to the slow one in one batch.
    cluster.heal();
    cluster.until("both", |cluster| cluster.region(slow, 1).peers.len() == 4);
    let region = cluster.region(slow, 1);
    assert_eq!(region.start_key, "m");
    assert_eq!(region, cluster.region(leader, 1));
    assert_eq!(cluster.region(slow, 101).peers.len(), 3);
    cluster.stop(slow);
    cluster.start(slow);
    assert_eq!(cluster.region(slow, 1), region);
}

#[test]
fn a_new_regions_log_is_not_durable_before_its_split_is() {
    for right_derive_when_split in [true, false] {
        let config = Config { right_derive_when_split, ..Config::default() };
        let mut cluster = Cluster::with_region(3, 3, config);
        let leader = cluster.leader(1).unwrap();
        let slow = leader % 3 + 1;
        cluster.write("a", "1");
        cluster.hold_background(slow);
        cluster.split_at(leader, 1, &["m"]);
        cluster.ticks(4);
        assert!(cluster.has_region(slow, 101));
        let log = cluster.nodes[&StoreId(slow)].log.clone();
        assert_eq!(log.state(RegionId(101)).unwrap(), None);
        // The split is lost with the power and replayed: there must be no log without a region.
        cluster.lose_power(slow, 0);
        cluster.start(slow);
        cluster.until("both regions", |cluster| cluster.has_region(slow, 101));
        cluster.write("a", "2");
        cluster.until("its log", |_| log.state(RegionId(101)).unwrap().is_some());
    }
}

/// S0.31: a store that loses its power anywhere in a split comes to the same two regions.
#[test]
fn a_split_is_replayed_after_a_loss_of_power() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    let victim = leader % 3 + 1;
    cluster.write("a", "1");
    // Nothing is synced there, so the new peer keeps still.
    cluster.nodes.get_mut(&StoreId(victim)).unwrap().held_background = Some(Vec::new());
    cluster.split_at(leader, 1, &["m"]);
    cluster.write("a", "2");
    cluster.write("z", "2");
    cluster.ticks(4);
    let unsynced = cluster.nodes[&StoreId(victim)].data.unsynced_writes();
    assert!(unsynced > 3);
    for keep in (0..=unsynced).rev() {
        let term = cluster.store(victim).peers[&RegionId(101)].group.term();
        cluster.lose_power(victim, keep);
        cluster.start(victim);
        cluster.until("both regions", |cluster| {
            cluster.value(victim, "a") == Some("2".into())
                && cluster.value(victim, "z") == Some("2".into())
        });
        assert!(cluster.store(victim).peers[&RegionId(101)].group.term() >= term);
        assert_eq!(regions_of(&cluster, victim), regions_of(&cluster, leader));
        cluster.write("a", "2");
        cluster.write("z", "2");
        cluster.ticks(2);
    }
}

/// S0.43: who never saw the split may be sent the new region as a snapshot after all.
#[test]
fn a_follower_that_missed_a_split_gets_both_regions_by_snapshot() {
    let config = Config {
        compact_log_ticks: 4,
        compact_log_entries_min: 5,
        compact_log_entries_max: 10,
        ..Config::default()
    };
    let mut cluster = Cluster::with_region(3, 3, config);
    cluster.write("a", "1");
    cluster.write("z", "1");
    cluster.ticks(4);
    let slow = cluster.leader(1).unwrap() % 3 + 1;
    cluster.isolate(slow);
    let leader = cluster.leader(1).unwrap();
    cluster.split_at(leader, 1, &["m"]);
    for n in 0..30 {
        cluster.write("a", &n.to_string());
        cluster.write("z", &n.to_string());
    }
    cluster.ticks(20);
    cluster.heal();
    cluster.until("it caught up", |cluster| {
        cluster.value(slow, "a") == Some("29".into())
            && cluster.value(slow, "z") == Some("29".into())
    });
    assert_eq!(regions_of(&cluster, slow), regions_of(&cluster, leader));
}

#[test]
fn a_slow_split_leaves_a_newer_peer_of_the_new_region_alone() {
    let mut cluster = Cluster::with_region(4, 3, Config::default());
    let leader = cluster.leader(1).unwrap();
    let slow = leader % 3 + 1;
    cluster.hold_applier(slow);
    // The applier is held before the split is handed to it: the store has not heard of it at all.
    cluster.isolate(slow);
    cluster.split_at(leader, 1, &["m"]);
    let known = cluster.region_at(leader, "a").unwrap();
    let there = region::peer_on(&known, StoreId(slow)).cloned().unwrap();
    cluster.remove(101, &there);
    cluster.add(101, &peer(900, slow));
    cluster.write("a", "v");
    // Messages for the newer peer come first, and cannot create it: the old region is in the way.
    cluster.filter = Some(Box::new(move |_, message| message.region_id != 1));
    cluster.cut.clear();
    cluster.ticks(10);
    assert!(!cluster.store(slow).peers.contains_key(&RegionId(101)));
    cluster.heal();
    cluster.ticks(6);
    cluster.release_applier(slow);
    cluster.until("the newer peer has the data", |cluster| {
        let newer = cluster.store(slow).peers.get(&RegionId(101));
        newer.is_some_and(|peer| peer.meta.id == 900 && peer.is_initialized())
            && cluster.value(slow, "a") == Some("v".into())
    });
}

/// S0.31: a split is an entry of the log, and takes effect on each replica where that entry is applied.
#[test]
fn a_split_is_an_entry_and_takes_effect_where_it_is_applied() {
    let mut cluster = Cluster::three();
    cluster.write("a", "1");
    cluster.ticks(2);
    let leader = cluster.leader(1).unwrap();
    let slow = leader % 3 + 1;
    let last = cluster.store(slow).peers[&RegionId(1)].group.last_index();
    cluster.hold_applier(slow);
    cluster.split_at(leader, 1, &["m"]);
    cluster.ticks(1);
    let log = cluster.nodes[&StoreId(slow)].log.clone();
    let entries = log.entries(RegionId(1), last + 1, last + 2, u64::MAX).unwrap();
    let command = Command::decode(entries[0].data.clone()).unwrap();
    assert!(matches!(command, Command::Split(_)), "{command:?}");
    // It has the entry, and the leader has cut the region; here it is whole until the entry is applied.
    assert_eq!(regions_of(&cluster, leader).len(), 2);
    assert_eq!(regions_of(&cluster, slow), ["r1 [-inf,+inf) v1.c1 p1@s1 p2@s2 p3@s3"]);
    cluster.release_applier(slow);
    assert_eq!(regions_of(&cluster, slow), regions_of(&cluster, leader));
}

/// S0.43: where the old region is, the peers of the new one begin at the first position with the data in
/// place, and nobody is sent a snapshot.
#[test]
fn a_region_that_a_split_made_begins_at_the_first_position_and_needs_no_snapshot() {
    let mut cluster = Cluster::three();
    cluster.write("a", "1");
    cluster.write("z", "1");
    cluster.ticks(2);
    let snapshots = Rc::new(Cell::new(0));
    let sent = snapshots.clone();
    cluster.filter = Some(Box::new(move |_, message| {
        sent.set(sent.get() + u32::from(is_type(message, eraftpb::MessageType::MsgSnapshot)));
        true
    }));
    let leader = cluster.leader(1).unwrap();
    cluster.split_at(leader, 1, &["m"]);
    cluster.write("a", "2");
    cluster.write("z", "2");
    cluster.ticks(10);
    for store in 1..=3 {
        let new = &cluster.store(store).peers[&RegionId(101)];
        assert_eq!(new.group.log().truncated(), FIRST_POSITION);
        assert_eq!(cluster.value(store, "a"), Some("2".into()));
        assert_eq!(cluster.value(store, "z"), Some("2".into()));
    }
    assert_eq!(snapshots.get(), 0);
}

/// S4.11: the descriptions of both parts, each of the next version, and where the new one begins, are one
/// write: whatever a loss of power leaves on the disk is the whole region or both parts.
#[test]
fn the_parts_of_a_split_reach_the_disk_together() {
    let mut seen = BTreeSet::new();
    for keep in 0..8 {
        let mut cluster = Cluster::three();
        let leader = cluster.leader(1).unwrap();
        let victim = leader % 3 + 1;
        cluster.hold_background(victim);
        cluster.write("a", "1");
        cluster.split_at(leader, 1, &["m"]);
        cluster.ticks(2);
        assert_eq!(regions_of(&cluster, victim).len(), 2);
        cluster.lose_power(victim, keep);
        let data = &cluster.nodes[&StoreId(victim)].data;
        let snapshot = data.snapshot();
        let mut found = Vec::new();
        for (region_id, state) in region_states(data).unwrap() {
            let RegionState::Normal(region) = state else { panic!("{state:?}") };
            let applied = applied_state(&snapshot, region_id).unwrap();
            let applied = applied.expect("every region has applied something");
            assert!(region_id == RegionId(1) || applied == FIRST_POSITION, "{applied}");
            found.push(region::Readable(&region).to_string());
        }
        seen.insert(found);
    }
    let whole = vec!["r1 [-inf,+inf) v1.c1 p1@s1 p2@s2 p3@s3".to_owned()];
    let parts = vec![
        "r1 [m,+inf) v2.c1 p1@s1 p2@s2 p3@s3".to_owned(),
        "r101 [-inf,m) v2.c1 p102@s1 p103@s2 p104@s3".to_owned(),
    ];
    assert_eq!(seen, BTreeSet::from([whole, parts]));
}

/// S4.12: the new peer is there on every store, readers find it, and the scheduler hears of both parts within
/// a tick.
#[test]
fn the_new_region_is_found_and_both_are_reported_within_a_tick() {
    let mut cluster = Cluster::three();
    cluster.ticks(2);
    let leader = cluster.leader(1).unwrap();
    cluster.reports.clear();
    cluster.split_at(leader, 1, &["m"]);
    cluster.tick();
    let reported: BTreeMap<u64, (u64, u64)> = cluster
        .reports
        .iter()
        .filter_map(|(store, report)| {
            let Report::RegionHeartbeat(heartbeat) = report else { return None };
            let region = heartbeat.region.as_ref()?;
            let version = region::epoch(region).version;
            (version == 2).then_some((region.id, (store.0, heartbeat.leader?.store_id)))
        })
        .collect();
    assert_eq!(reported, BTreeMap::from([(1, (leader, leader)), (101, (leader, leader))]));
    for store in 1..=3 {
        assert!(cluster.has_region(store, 101));
        let view = cluster.store(store).read_views().by_id(RegionId(101)).unwrap();
        assert_eq!(view.region, cluster.region(store, 101));
    }
}

/// S4.10: what a split must be is looked at again where it is applied, by every replica alike: the epoch, the
/// keys, how many ids there are, and whether they are new.
#[test]
fn a_split_is_checked_again_where_it_is_applied() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    cluster.split_at(leader, 1, &["m"]);
    cluster.ticks(2);
    let right = cluster.region(leader, 1);
    let before = regions_of(&cluster, leader);
    let epoch = region::epoch(&right);
    let old = metapb::RegionEpoch { version: epoch.version - 1, ..epoch };
    let part = |key: &'static str, id, peers: &[u64]| SplitPart {
        key: key.into(),
        region_id: RegionId(id),
        peer_ids: peers.iter().copied().map(PeerId).collect(),
    };
    let ids = [201, 202, 203];
    let outside = Refusal::KeyNotInRegion {
        key: "a".into(),
        region_id: 1,
        start_key: "m".into(),
        end_key: Bytes::new(),
    };
    let other = |message: &str| Refusal::Other { message: message.into() };
    let cases = [
        (epoch, part("a", 200, &ids), outside),
        (epoch, part("t", 200, &ids[..2]), other("as many peer ids as peers are needed")),
        (epoch, part("t", 1, &ids), other("the id of a new region is used twice")),
        (old, part("t", 200, &ids), Refusal::EpochNotMatch { current_regions: vec![right] }),
    ];
    for (number, (epoch, part, wanted)) in cases.into_iter().enumerate() {
        let split = Split { epoch, right_derive: true, parts: vec![part] };
        let reply = ReplyId(900 + number as u64);
        let machine = cluster.nodes.get_mut(&StoreId(leader)).unwrap().machine.as_mut().unwrap();
        let peer = machine.store.peers.get_mut(&RegionId(1)).unwrap();
        let at = peer.group.propose(Command::Split(split).encode()).unwrap();
        peer.proposals.push(at, vec![reply]);
        machine.store.touched.insert(RegionId(1));
        cluster.ticks(2);
        let mut refusal = cluster.refusal(reply).cloned().unwrap();
        if let Refusal::EpochNotMatch { current_regions } = &mut refusal {
            current_regions.truncate(1);
        }
        assert_eq!(refusal, wanted);
        for store in 1..=3 {
            assert_eq!(regions_of(&cluster, store), before);
        }
    }
    cluster.write("z", "v");
}
