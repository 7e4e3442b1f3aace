//! Three stores, three regions of three peers each, and what must be believed of them.
//!
//! Nothing is scheduled here: `halt-scheduling` is on, so that a region without a replica stays as the
//! test left it.

use std::collections::BTreeSet;

use proto::{RegionId, StoreId, pdpb};
use scheduler::cluster::{Policy, RegionRecord, Verdict};

use super::{Machine, region, region_in, report};

/// The stores of the fixture.
pub const STORES: [u64; 3] = [1, 2, 3];
/// The epoch that its regions begin with, both parts.
const EPOCH: u64 = 2;
/// What they hold, in MiB.
const SIZE_MIB: u64 = 10;

/// The three regions: region i holds the keys of byte i - 1, and its peers are on the stores i, i + 1, i + 2
/// in a circle, the first of which leads.
pub fn three_regions() -> Vec<pdpb::RegionHeartbeatRequest> {
    (0..3_u8)
        .map(|n| {
            let stores: Vec<u64> = (0..3).map(|peer| 1 + (u64::from(n) + peer) % 3).collect();
            report(region(u64::from(n) + 1, &[n], &[n + 1], EPOCH, &stores), SIZE_MIB)
        })
        .collect()
}

/// A scheduler that only listens, with the three stores.
pub fn listener() -> Machine {
    let mut machine = Machine::new(Policy { halt_scheduling: true, ..Policy::default() });
    STORES.into_iter().for_each(|id| machine.add_store(id));
    machine
}

/// The same when it has heard the three regions, one by one, and believed each.
pub fn three_heard() -> (Machine, Vec<pdpb::RegionHeartbeatRequest>) {
    let mut machine = listener();
    let regions = three_regions();
    for heard in 1..=regions.len() {
        believed(&mut machine, &regions[heard - 1]);
        assert_believed(&machine, &regions[..heard]);
    }
    (machine, regions)
}

/// A report that must be believed.
pub fn believed(machine: &mut Machine, report: &pdpb::RegionHeartbeatRequest) {
    let heard = machine.hear(report).expect("the report is sound");
    assert!(!matches!(heard.verdict, Verdict::Stale(_)), "{:?}", heard.verdict);
}

/// A report that must not. (The course answers with an error; a store of ours hears nothing and says more the
/// next time.)
pub fn refused(machine: &mut Machine, report: &pdpb::RegionHeartbeatRequest) {
    let heard = machine.hear(report).expect("the report is sound");
    assert!(matches!(heard.verdict, Verdict::Stale(_)), "{:?}", heard.verdict);
    assert!(heard.writes.is_empty() && heard.order.is_none(), "{heard:?}");
}

/// The picture holds these regions and no other, and every index of it agrees.
pub fn assert_believed(machine: &Machine, expected: &[pdpb::RegionHeartbeatRequest]) {
    let regions = machine.cluster.regions();
    assert_eq!(regions.len(), expected.len());
    for report in expected {
        let id = RegionId(region_in(report).id);
        assert_says(regions.by_id(id).expect("the region is known"), report);
    }
    for store in STORES {
        let id = StoreId(store);
        let with = |wanted: fn(&pdpb::RegionHeartbeatRequest, u64) -> bool| -> BTreeSet<u64> {
            let chosen = expected.iter().filter(|report| wanted(report, store));
            chosen.map(|report| region_in(report).id).collect()
        };
        let has_peer = |report: &pdpb::RegionHeartbeatRequest, store| {
            region_in(report).peers.iter().any(|peer| peer.store_id == store)
        };
        let leads = |report: &pdpb::RegionHeartbeatRequest, store| {
            report.leader.is_some_and(|leader| leader.store_id == store)
        };
        let here = with(has_peer);
        let led = with(leads);
        let followed: BTreeSet<u64> = here.difference(&led).copied().collect();
        assert_eq!(ids(regions.on_store(id)), here, "on s{store}");
        assert_eq!(ids(regions.led_by(id)), led, "led by s{store}");
        assert_eq!(ids(regions.followed_by(id)), followed, "followed by s{store}");
        let counts = regions.counts(id);
        assert_eq!((counts.regions, counts.leaders), (here.len(), led.len()), "s{store}");
        let pending = expected
            .iter()
            .flat_map(|report| &report.pending_peers)
            .filter(|peer| peer.store_id == store);
        assert_eq!(counts.pending, pending.count(), "pending on s{store}");
        // Whatever an index finds is the region itself.
        for record in regions.on_store(id) {
            let same = expected.iter().find(|report| region_in(report).id == record.id().0);
            assert_says(record, same.expect("it is one of those expected"));
        }
    }
}

fn ids<'a, R>(records: impl Iterator<Item = &'a R>) -> BTreeSet<u64>
where
    R: AsRef<RegionRecord> + 'a,
{
    records.map(|record| record.as_ref().id().0).collect()
}

/// The picture of a region is what its leader said.
fn assert_says(record: &RegionRecord, report: &pdpb::RegionHeartbeatRequest) {
    assert_eq!(record.region, *region_in(report));
    assert_eq!(record.leader, report.leader);
    assert_eq!(record.pending_peers, report.pending_peers);
    assert_eq!(record.approximate_bytes, report.approximate_size);
}
