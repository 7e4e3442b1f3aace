//! What the articles promise of heartbeats, operators and repairs, promise by promise, in one world.

use std::collections::BTreeSet;

use proto::{RegionId, StoreId, metapb};

use super::world::{World, spread};
use crate::cluster::{Cluster, Policy, Refusal, RegionRecord, Verdict, notation};
use crate::operator::store_limit::{StoreRates, UNLIMITED};

fn unlimited() -> Policy {
    let rates = StoreRates { add_peer: UNLIMITED, remove_peer: UNLIMITED };
    Policy { default_store_limit: rates, ..Policy::default() }
}

/// Another member leads: what the log holds is there, and nothing else.
fn new_leader(world: &mut World) {
    let stores: Vec<_> = world.cluster.stores().iter().map(|store| store.meta.clone()).collect();
    let regions: Vec<_> = world.cluster.regions().iter().map(|r| r.region.clone()).collect();
    let policy = world.cluster.policy().clone();
    let version = world.cluster.version().to_string();
    world.cluster = Cluster::load(policy, &version, stores, regions, world.moment);
}

fn hear(world: &mut World, record: &RegionRecord) -> Result<Verdict, Refusal> {
    let heartbeat = notation::heartbeat(record);
    let heard = world.cluster.on_region_heartbeat(heartbeat, &mut world.ids, world.moment)?;
    Ok(heard.verdict)
}

fn voters(world: &World, region: u64) -> BTreeSet<u64> {
    world.regions[&region].voters().map(|voter| voter.store_id).collect()
}

#[test]
fn s0_1_s0_36_a_single_peer_grows_to_three_by_itself() {
    let mut world = World::new(3, unlimited());
    world.add_region(1, &[1], 64);
    world.settle();
    assert_eq!(voters(&world, 1), BTreeSet::from([1, 2, 3]));
    assert_eq!(world.regions[&1].learners().count(), 0);
}

#[test]
fn s0_14_a_move_never_leaves_too_few_and_is_resumed_by_a_new_leader_at_every_step() {
    for crash_after in (0..40).step_by(3) {
        let mut world = World::new(4, unlimited());
        (1..=8).for_each(|id| world.add_region(id, &[1, 2, 3], 64));
        let mut seen = 0;
        for _ in 0..400 {
            world.run(10);
            for record in world.regions.values() {
                assert!(record.voters().count() >= 3, "after {seen} orders: {record:?}");
            }
            if world.obeyed >= crash_after && seen < crash_after {
                new_leader(&mut world);
                (1..=4).for_each(|id| world.store_speaks(id));
                world.all_beat(0);
            }
            seen = world.obeyed;
        }
        world.settle();
        let whole =
            |record: &RegionRecord| record.voters().count() == 3 && record.learners().count() == 0;
        assert!(world.regions.values().all(whole), "crashed after {crash_after}");
        assert!(spread(&world.peers()) <= 2, "{:?}", world.peers());
    }
}

/// S0.27: a region's heartbeat counts when its leader sends it, in the newest term; whoever is none of its
/// peers is refused, and the leader of an older term is not believed.
#[test]
fn s0_27_only_the_leader_of_the_newest_term_is_heard() {
    let mut world = World::new(3, Policy::default());
    world.add_region(1, &[1, 2, 3], 10);
    let known = world.regions[&1].clone();
    let stranger = metapb::Peer { id: 999, store_id: 3, ..Default::default() };
    let forged = RegionRecord { leader: Some(stranger), ..known.clone() };
    assert!(hear(&mut world, &forged).unwrap_err().to_string().contains("is not one of its peers"));
    let deposed =
        RegionRecord { leader: Some(known.region.peers[1]), term: known.term - 1, ..known };
    assert!(matches!(hear(&mut world, &deposed), Ok(Verdict::Stale(_))));
    assert_eq!(
        world.cluster.regions().by_id(RegionId(1)).unwrap().leader_store(),
        Some(StoreId(1))
    );
}

/// S0.28, S4.15: a report whose version or conf version is below the known one changes nothing. S4.14: one
/// without an epoch is no report.
#[test]
fn s0_28_s4_15_a_late_heartbeat_does_not_bring_the_past_back() {
    let mut world = World::new(3, Policy::default());
    world.add_region(1, &[1, 2, 3], 10);
    let old = world.regions[&1].clone();
    for (conf_ver, version) in [(2, 1), (2, 2)] {
        let mut new = old.clone();
        new.region.region_epoch = Some(metapb::RegionEpoch { conf_ver, version });
        assert!(matches!(hear(&mut world, &new), Ok(Verdict::Replaced { .. })));
    }
    // Each part counts for itself: the other one may even be ahead.
    for (conf_ver, version) in [(1, 1), (1, 2), (2, 1), (1, 9), (9, 1)] {
        let mut late = old.clone();
        late.region.region_epoch = Some(metapb::RegionEpoch { conf_ver, version });
        let verdict = hear(&mut world, &late);
        assert!(matches!(verdict, Ok(Verdict::Stale(_))), "v{version}.c{conf_ver}: {verdict:?}");
    }
    let mut without = old;
    without.region.region_epoch = None;
    let why = hear(&mut world, &without).unwrap_err().to_string();
    assert!(why.contains("without an epoch"), "{why}");
    let known = world.cluster.regions().by_id(RegionId(1)).unwrap().epoch();
    assert_eq!((known.conf_ver, known.version), (2, 2));
}

#[test]
fn s0_32_both_halves_are_found_right_after_a_split_is_reported() {
    let mut world = World::new(3, Policy::default());
    world.add_region(1, &[1, 2, 3], 10);
    let whole = world.regions[&1].region.clone();
    let epoch = Some(metapb::RegionEpoch { conf_ver: 1, version: 2 });
    let left = metapb::Region {
        id: 50,
        end_key: "        1m".into(),
        region_epoch: epoch,
        ..whole.clone()
    };
    let right = metapb::Region { start_key: "        1m".into(), region_epoch: epoch, ..whole };
    let writes = world.cluster.report_batch_split(vec![left, right]).unwrap();
    assert_eq!(writes.regions.len(), 2, "both go into the log");
    let found = |key: &str| world.cluster.regions().by_key(key.as_bytes()).map(|r| r.id().0);
    assert_eq!((found("        1a"), found("        1z")), (Some(50), Some(1)));
}

#[test]
fn s1_2_a_new_leader_routes_at_once_and_balances_when_it_has_heard_enough() {
    let mut world = World::new(4, unlimited());
    (1..=40).for_each(|id| world.add_region(id, &[1, 2, 3], 64));
    new_leader(&mut world);
    assert_eq!(world.cluster.regions().by_key(b"        7").unwrap().id().0, 7);
    (1..=4).for_each(|id| world.store_speaks(id));
    (1..=35).for_each(|id| world.beat(id, 0));
    world.run(1_000);
    assert_eq!(world.obeyed, 0, "35 of 40 are fewer than nine tenths");
    world.beat(36, 0);
    world.run(1_000);
    assert!(world.obeyed > 0);
    // Or when it has waited for long enough.
    let mut world = World::new(4, unlimited());
    (1..=40).for_each(|id| world.add_region(id, &[1, 2, 3], 64));
    new_leader(&mut world);
    (1..=4).for_each(|id| world.store_speaks(id));
    (1..=30).for_each(|id| world.beat(id, 0));
    world.run(crate::cluster::PREPARED_AFTER_MS + 1_000);
    assert!(world.obeyed > 0);
}

#[test]
fn s1_11_one_too_few_is_added_and_one_too_many_removed_and_learners_do_not_count() {
    let mut world = World::new(4, unlimited());
    world.add_region(1, &[1, 2], 10);
    world.add_region(2, &[1, 2, 3, 4], 10);
    world.settle();
    assert_eq!((voters(&world, 1).len(), voters(&world, 2).len()), (3, 3));
    // Two voters and a learner are one voter too few.
    world.add_region(3, &[1, 2, 3], 10);
    world.regions.get_mut(&3).unwrap().region.peers[2].set_role(metapb::PeerRole::Learner);
    world.regions.get_mut(&3).unwrap().region.region_epoch =
        Some(metapb::RegionEpoch { conf_ver: 2, version: 1 });
    world.beat(3, 0);
    world.settle();
    assert_eq!(voters(&world, 3).len(), 3);
    assert_eq!(world.regions[&3].learners().count(), 0);
}

#[test]
fn s1_12_s3_8_a_lost_stores_peers_are_made_anew_and_never_below_a_quorum() {
    let policy = Policy { max_store_down_time_ms: 30_000, ..unlimited() };
    let mut world = World::new(4, policy);
    (1..=12).for_each(|id| world.add_region(id, &[2, 1, 3], 10));
    world.settle();
    // Store 1 falls silent, and its leaders are elsewhere.
    world.stats.remove(&1);
    for record in world.regions.values_mut() {
        let heir = record.region.peers.iter().find(|peer| peer.store_id != 1).copied();
        if record.leader_store() == Some(StoreId(1)) {
            record.leader = heir;
            record.term += 1;
        }
    }
    world.all_beat(0);
    let mut least = usize::MAX;
    for _ in 0..6_000 {
        world.run(10);
        let alive = |record: &RegionRecord| record.voters().filter(|v| v.store_id != 1).count();
        least = least.min(world.regions.values().map(alive).min().unwrap());
    }
    assert!(least >= 2, "a replacement comes before what it replaces goes");
    for id in 1..=12 {
        assert_eq!(voters(&world, id), BTreeSet::from([2, 3, 4]));
    }
}

/// S4.16: every region that an unknown one overlaps goes, however many there are, unless one of them has
/// a higher version; S4.15: so it is when the region is known.
#[test]
fn s4_16_what_a_region_overlaps_goes_also_when_the_region_is_known() {
    let mut world = World::new(3, Policy::default());
    for id in 3..=20 {
        world.add_region(id, &[1, 2, 3], 10);
    }
    let mut unknown = world.regions[&3].clone();
    unknown.region.id = 99;
    unknown.region.end_key = world.regions[&20].region.end_key.clone();
    unknown.region.region_epoch = Some(metapb::RegionEpoch { conf_ver: 1, version: 2 });
    // Of a lower version than one of those that it overlaps, it is from the past itself.
    let mut ahead = world.regions[&12].clone();
    ahead.region.region_epoch = Some(metapb::RegionEpoch { conf_ver: 1, version: 3 });
    hear(&mut world, &ahead).unwrap();
    assert!(matches!(hear(&mut world, &unknown), Ok(Verdict::Stale(_))));
    unknown.region.region_epoch = Some(metapb::RegionEpoch { conf_ver: 1, version: 3 });
    let verdict = hear(&mut world, &unknown).unwrap();
    assert_eq!(verdict, Verdict::Replaced { removed: (3..=20).map(RegionId).collect() });
    assert_eq!(world.cluster.regions().len(), 1);

    let mut world = World::new(3, Policy::default());
    world.add_region(1, &[1, 2, 3], 10);
    world.add_region(2, &[1, 2, 3], 10);
    // A merge: the first takes the second's keys.
    let mut merged = world.regions[&1].clone();
    merged.region.end_key = world.regions[&2].region.end_key.clone();
    merged.region.region_epoch = Some(metapb::RegionEpoch { conf_ver: 1, version: 2 });
    let verdict = hear(&mut world, &merged).unwrap();
    assert_eq!(verdict, Verdict::Replaced { removed: vec![RegionId(2)] });
    // The second, of a lower version, does not come back.
    let second = world.regions[&2].clone();
    assert!(matches!(hear(&mut world, &second), Ok(Verdict::Stale(_))));
    assert_eq!(world.cluster.regions().len(), 1);
}

/// S4.17: a new leader, new pending peers and a new size are taken over in memory; a new version, conf
/// version or set of peers is written to the group's log as well. The same once more, in a message of its
/// own, is neither.
#[test]
fn s4_17_only_what_is_new_is_taken_over_and_only_a_description_is_written() {
    let mut world = World::new(3, Policy::default());
    world.add_region(1, &[1, 2, 3], 10);
    let known = world.regions[&1].clone();
    let second = known.region.peers[1];
    let led = RegionRecord { leader: Some(second), term: known.term + 1, ..known };
    let pending = RegionRecord { pending_peers: vec![second], ..led.clone() };
    let grown = RegionRecord { approximate_bytes: 20 << 20, ..pending.clone() };
    let at = |record: &RegionRecord, conf_ver, version| {
        let mut record = record.clone();
        record.region.region_epoch = Some(metapb::RegionEpoch { conf_ver, version });
        record
    };
    let split = at(&grown, 1, 2);
    let mut moved = at(&split, 2, 2);
    moved.region.peers.truncate(2);
    let mut say = |record: &RegionRecord| {
        let heartbeat = notation::heartbeat(record);
        let World { cluster, ids, moment, .. } = &mut world;
        let heard = cluster.on_region_heartbeat(heartbeat, ids, *moment).unwrap();
        assert_eq!(**cluster.regions().by_id(RegionId(1)).unwrap(), *record);
        (heard.verdict, heard.writes.regions)
    };
    for changed in [&led, &pending, &grown] {
        assert_eq!(say(changed), (Verdict::Updated, Vec::new()));
        assert_eq!(say(changed), (Verdict::Unchanged, Vec::new()));
    }
    for changed in [&split, &moved] {
        let news = (Verdict::Replaced { removed: Vec::new() }, vec![changed.region.clone()]);
        assert_eq!(say(changed), news);
        assert_eq!(say(changed), (Verdict::Unchanged, Vec::new()));
    }
}

/// S4.18: stores that have been silent for longer than `max-store-down-time` give nothing, however full
/// they are. (Sorted by size: `s4_18_the_fullest_suitable_store_gives`.)
#[test]
fn s4_18_stores_that_are_down_or_leaving_are_no_sources_of_balance() {
    let policy = Policy { max_store_down_time_ms: 30_000, max_replicas: 1, ..unlimited() };
    let mut world = World::new(3, policy);
    world.cluster.pause_checker("all", 3_600, world.moment).unwrap();
    // Nothing is balanced before both have been silent for long enough, or leave.
    world.cluster.pause_scheduler("all", 40, world.moment).unwrap();
    (1..=20).for_each(|id| world.add_region(id, &[1], 64));
    (21..=40).for_each(|id| world.add_region(id, &[2], 64));
    let lost = world.stats.remove(&1).unwrap();
    world.cluster.take_store_offline(StoreId(2), false).unwrap();
    world.run(100_000);
    assert_eq!((world.held(1), world.held(2), world.held(3)), (20, 20, 0));
    // Back again, both give.
    world.stats.insert(1, lost);
    world.store_speaks(1);
    world.cluster.bring_store_up(StoreId(2)).unwrap();
    world.settle();
    assert!(spread(&world.peers()) <= 4, "{:?}", world.peers());
    assert!(world.held(3) > 9, "{:?}", world.peers());
}
