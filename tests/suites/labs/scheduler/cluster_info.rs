//! Stores, regions and splits as the cluster object keeps them.

use std::sync::Arc;

use proto::{RegionId, StoreId};
use scheduler::cluster::{Policy, Verdict};
use tests::labs::scheduler::{Machine, region, report, stats, store};

/// What the group's log holds is there after a restart: all stores, all regions.
#[test]
fn test_load_cluster_info() {
    let empty = Machine::new(Policy::default());
    assert!(empty.cluster.regions().is_empty());
    let stores: Vec<_> = (1..=10).map(store).collect();
    let regions: Vec<_> =
        (1..=10_u8).map(|id| region(id.into(), &[id], &[id + 1], 1, &[1, 2, 3])).collect();
    let machine = Machine::loaded(Policy::default(), stores.clone(), regions.clone());
    let known: Vec<_> = machine.cluster.stores().iter().map(|store| store.meta.clone()).collect();
    assert_eq!(known, stores);
    let known: Vec<_> = machine.cluster.regions().iter().map(|r| r.region.clone()).collect();
    assert_eq!(known, regions);
}

/// A store that nobody knows is refused; one that has registered is heard, and what it says is kept.
#[test]
fn test_store_heartbeat() {
    let mut machine = Machine::new(Policy::default());
    let moment = machine.moment;
    assert!(machine.cluster.on_store_heartbeat(stats(1), moment).is_err());
    for id in 1..=3 {
        machine.cluster.put_store(store(id), moment).unwrap();
        let known = machine.cluster.stores().find(StoreId(id)).unwrap();
        assert!(!known.was_heard() && known.stats.is_none());
        machine.store_says(stats(id));
        let known = machine.cluster.stores().find(StoreId(id)).unwrap();
        assert_eq!(known.heard_at_wall_ms(), moment.wall_ms);
        assert_eq!(known.stats, Some(stats(id)));
    }
}

/// An epoch is stale when either of its parts is lower.
#[test]
fn test_check_stale_region() {
    let mut machine = Machine::new(Policy { halt_scheduling: true, ..Policy::default() });
    (1..=3).for_each(|id| machine.add_store(id));
    let mut verdict = |version: u64, conf_ver: u64| {
        let mut said = report(region(1, b"", b"", 5, &[1, 2, 3]), 10);
        let epoch = said.region.as_mut().unwrap().region_epoch.as_mut().unwrap();
        (epoch.version, epoch.conf_ver) = (version, conf_ver);
        matches!(machine.hear(&said).unwrap().verdict, Verdict::Stale(_))
    };
    assert!(!verdict(5, 5));
    assert!(verdict(4, 5) && verdict(5, 4) && verdict(6, 4));
    assert!(!verdict(6, 5) && !verdict(6, 6));
    assert!(verdict(5, 6));
}

/// Two parts that follow each other are a split; in the wrong order they are none.
#[test]
fn test_report_split() {
    let mut machine = Machine::new(Policy::default());
    (1..=3).for_each(|id| machine.add_store(id));
    let left = region(1, b"a", b"b", 2, &[1, 2, 3]);
    let right = region(2, b"b", b"c", 2, &[1, 2, 3]);
    assert!(machine.cluster.report_batch_split(vec![right.clone(), left.clone()]).is_err());
    machine.cluster.report_batch_split(vec![left, right]).unwrap();
    assert_eq!((machine.region_of(b"a"), machine.region_of(b"b")), (Some(1), Some(2)));
}

/// Ids for a split are given for what is known: not for keys that nobody has, nor for an epoch that is past.
#[test]
fn test_valid_request_region() {
    let mut machine = Machine::new(Policy { halt_scheduling: true, ..Policy::default() });
    (1..=3).for_each(|id| machine.add_store(id));
    let known = region(1, b"", b"a", 2, &[1, 2, 3]);
    machine.hear(&report(known.clone(), 10)).unwrap();
    let mut ask = |region: &proto::metapb::Region| {
        machine.cluster.ask_batch_split(region, 1, &mut machine.ids).is_ok()
    };
    assert!(!ask(&region(1, b"x", b"", 2, &[1, 2, 3])), "keys that nobody has");
    let past = |version: u64, conf_ver: u64| {
        let mut past = known.clone();
        past.region_epoch = Some(proto::metapb::RegionEpoch { version, conf_ver });
        past
    };
    assert!(!ask(&past(2, 1)) && !ask(&past(1, 2)));
    assert!(ask(&known));
}

/// Whoever asks twice gets ids twice, and never the same.
#[test]
fn test_ask_split() {
    let mut machine = Machine::new(Policy { halt_scheduling: true, ..Policy::default() });
    (1..=3).for_each(|id| machine.add_store(id));
    let known = region(1, b"", b"", 1, &[1, 2, 3]);
    machine.hear(&report(known.clone(), 10)).unwrap();
    let mut ask = || machine.cluster.ask_batch_split(&known, 1, &mut machine.ids).unwrap();
    assert_ne!(ask(), ask());
}

/// Regions beside each other: what is before which, what follows from a new leader, and what an overlap
/// takes away.
#[test]
fn test_regions() {
    let mut machine = Machine::new(Policy { halt_scheduling: true, ..Policy::default() });
    (1..=3).for_each(|id| machine.add_store(id));
    let tile = |id: u8, version| {
        let stores = [u64::from(id) % 3 + 1, u64::from(id + 1) % 3 + 1, u64::from(id + 2) % 3 + 1];
        region(id.into(), &[id], &[id + 1], version, &stores)
    };
    for id in 1..=10 {
        machine.hear(&report(tile(id, 1), 10)).unwrap();
    }
    let picture = machine.cluster.regions();
    assert!(picture.previous_of(&[1]).is_none());
    for id in 2..=10_u8 {
        assert_eq!(picture.previous_of(&[id]).unwrap().id(), RegionId(u64::from(id) - 1));
    }
    let leader = picture.by_id(RegionId(4)).unwrap().leader_store().unwrap();
    let next = picture.by_id(RegionId(4)).unwrap().region.peers[1];
    let mut handed = report(tile(4, 1), 10);
    handed.leader = Some(next);
    machine.hear(&handed).unwrap();
    let leads = |machine: &Machine, store: StoreId| {
        machine.cluster.regions().led_by(store).any(|record| record.id() == RegionId(4))
    };
    assert!(!leads(&machine, leader) && leads(&machine, StoreId(next.store_id)));
    // One that reaches into its neighbour takes its place.
    machine.hear(&report(region(5, &[5], &[7], 2, &[1, 2, 3]), 10)).unwrap();
    let known: Vec<_> = machine.cluster.regions().iter().map(Arc::as_ref).collect();
    assert_eq!(known.len(), 9);
    assert_eq!(machine.region_of(&[6]), Some(5));
}
