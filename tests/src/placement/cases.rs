//! The situations, and how each must end.
//!
//! Every case is asked the same three things besides its own: the cluster comes to rest, the scheduler's
//! picture is then what is, and in the ten minutes that follow nothing moves.

use std::collections::{BTreeMap, BTreeSet};

use scheduler::cluster::Policy;

use super::tally::{Outcome, Tally, least_moves};
use super::world::World;
use crate::sim::events::{Instant, MILLISECOND, SECOND};

/// A minute of virtual time.
const MINUTE: Instant = 60 * SECOND;
/// A cluster that has not come to rest after so long never does.
const REST_WITHIN: Instant = 60 * MINUTE;
/// After it has, nothing may move for so long.
const STILL_FOR: Instant = 10 * MINUTE;
/// What a region holds where all hold the same.
const SIZE_MIB: u64 = 96;

/// A situation.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its name, as `cargo xtask sim --scheduling NAME` takes it.
    pub name: &'static str,
    /// Runs it from a seed, and judges it.
    pub run: fn(u64) -> Outcome,
}

/// All of them.
pub const CASES: &[Case] = &[
    Case { name: "hundred-regions", run: hundred_regions },
    Case { name: "store-added", run: store_added },
    Case { name: "store-drained", run: store_drained },
    Case { name: "store-killed", run: store_killed },
    Case { name: "three-zones", run: three_zones },
    Case { name: "zone-store-killed", run: zone_store_killed },
    Case { name: "skewed-sizes", run: skewed_sizes },
    Case { name: "hot-key", run: hot_key },
    Case { name: "scheduler-changed", run: scheduler_changed },
];

/// A run that is being watched.
struct Watch {
    case: &'static str,
    world: World,
    began: Instant,
    least_peers: u64,
    least_leaders: u64,
}

fn peers(world: &World) -> BTreeMap<u64, u64> {
    world.by_store(|_, _| 1)
}

fn leaders(world: &World) -> BTreeMap<u64, u64> {
    world.by_store(|region, peer| u64::from(region.leader().id == peer.id))
}

fn mib(world: &World) -> BTreeMap<u64, u64> {
    world.by_store(|region, _| region.said.approximate_size >> 20)
}

impl Watch {
    /// From now on what moves is counted; the least that must is what the stores have above their share.
    fn begin(case: &'static str, mut world: World) -> Self {
        world.tally = Tally::default();
        let least_peers = least_moves(peers(&world).values());
        let least_leaders = least_moves(leaders(&world).values());
        let began = world.moment().steady_ms * MILLISECOND;
        Self { case, world, began, least_peers, least_leaders }
    }

    /// The cluster comes to rest, its picture is right, and it stays as it is.
    fn end(mut self) -> (Outcome, World) {
        let (case, world) = (self.case, &mut self.world);
        let rests = world.run_until_rest(REST_WITHIN);
        assert!(rests, "{case}: does not come to rest\n{}", world.restless());
        world.check_picture();
        let converged_ms = (world.moved_at() - self.began) / MILLISECOND;
        let tally = std::mem::take(&mut world.tally);
        world.run(STILL_FOR);
        let after = &world.tally;
        assert!(!after.moved_anything(), "{case}: moves in the ten minutes after: {after:?}");
        let outcome = Outcome {
            case,
            converged_ms,
            tally,
            least_peers: self.least_peers,
            least_leaders: self.least_leaders,
            peers: peers(world),
            leaders: leaders(world),
            mib: mib(world),
        };
        (outcome, self.world)
    }
}

/// Stores 1 to `count` without labels.
fn stores(seed: u64, policy: Policy, count: u64) -> World {
    let mut world = World::new(seed, policy);
    (1..=count).for_each(|id| world.add_store(id, &[]));
    world
}

/// Regions 1 to `count` of three peers, spread in a circle over so many stores.
fn regions_on(world: &mut World, count: u64, stores: u64, size_mib: impl Fn(u64) -> u64) {
    for id in 1..=count {
        let on: Vec<u64> = (0..3).map(|peer| 1 + (id + peer) % stores).collect();
        world.add_region(id, &on, size_mib(id));
    }
}

/// Every region has three voters, all of them on stores that live, and no peer more.
fn assert_three_healthy_voters(case: &str, world: &World) {
    for region in world.regions() {
        let voters = region.voters().filter(|voter| world.is_alive(voter.store_id)).count();
        let all = region.region().peers.len();
        assert_eq!((voters, all), (3, 3), "{case}: r{} {:?}", region.id(), region.region().peers);
    }
}

/// The difference between the fullest store and the emptiest.
fn assert_span(case: &str, what: &str, of: &BTreeMap<u64, u64>, most: u64) {
    let (least, greatest) = Outcome::span(of);
    assert!(greatest - least <= most, "{case}: {what} from {least} to {greatest}: {of:?}");
}

/// By how much leaders may differ in the end: what the policy leaves alone, on both sides.
fn leaders_differ() -> u64 {
    2 * Policy::default().leader_balance_tolerance as u64
}

/// S3.1. A hundred regions on three stores, and three stores that are empty: fifty peers each. S3.3: their leaders
/// are even within the tolerance. S4.20: then nothing moves any more.
fn hundred_regions(seed: u64) -> Outcome {
    let mut world = stores(seed, Policy::default(), 6);
    regions_on(&mut world, 100, 3, |_| SIZE_MIB);
    let watch = Watch::begin("hundred-regions", world);
    let (outcome, world) = watch.end();
    for (store, peers) in &outcome.peers {
        assert!((48..=52).contains(peers), "{}: s{store} has {peers} peers", outcome.case);
    }
    assert_span(outcome.case, "leaders", &outcome.leaders, leaders_differ());
    assert_three_healthy_voters(outcome.case, &world);
    outcome
}

/// S0.3. A fourth store beside three that hold everything.
fn store_added(seed: u64) -> Outcome {
    let mut world = stores(seed, Policy::default(), 3);
    regions_on(&mut world, 80, 3, |_| SIZE_MIB);
    assert!(world.run_until_rest(REST_WITHIN));
    world.add_store(4, &[]);
    let watch = Watch::begin("store-added", world);
    let (outcome, world) = watch.end();
    assert_span(outcome.case, "peers", &outcome.peers, 4);
    assert_span(outcome.case, "leaders", &outcome.leaders, leaders_differ());
    assert_three_healthy_voters(outcome.case, &world);
    outcome
}

/// A store of five is drained and buried, and what it held is even on the others.
fn store_drained(seed: u64) -> Outcome {
    let mut world = stores(seed, Policy::default(), 5);
    regions_on(&mut world, 100, 5, |_| SIZE_MIB);
    assert!(world.run_until_rest(REST_WITHIN));
    let leaves = peers(&world)[&5];
    world.drain_store(5);
    let mut watch = Watch::begin("store-drained", world);
    watch.least_peers = leaves;
    let (outcome, world) = watch.end();
    assert!(world.is_buried(5), "{}: the store is not buried", outcome.case);
    assert_span(outcome.case, "peers", &outcome.peers, 4);
    assert_three_healthy_voters(outcome.case, &world);
    outcome
}

/// A store of five dies: after it has been silent for long enough, every region is whole again.
fn store_killed(seed: u64) -> Outcome {
    let policy = Policy { max_store_down_time_ms: 5 * MINUTE / MILLISECOND, ..Policy::default() };
    let mut world = stores(seed, policy, 5);
    regions_on(&mut world, 100, 5, |_| SIZE_MIB);
    assert!(world.run_until_rest(REST_WITHIN));
    let lost = peers(&world)[&3];
    world.kill_store(3);
    let mut watch = Watch::begin("store-killed", world);
    watch.least_peers = lost;
    // Until the store counts as lost, nothing is moved for it.
    watch.world.run(4 * MINUTE);
    assert_eq!(watch.world.tally.peers_added, 0, "a store that may come back is waited for");
    watch.world.run(2 * MINUTE);
    let (outcome, world) = watch.end();
    assert_span(outcome.case, "peers", &outcome.peers, 4);
    assert_three_healthy_voters(outcome.case, &world);
    outcome
}

const ZONES: [&str; 3] = ["a", "b", "c"];

/// Stores 1 to `count`, in three zones in turn.
fn zoned(seed: u64, policy: Policy, count: u64) -> World {
    let labels = vec!["zone".to_owned()];
    let mut world = World::new(seed, Policy { location_labels: labels, ..policy });
    (1..=count).for_each(|id| add_zoned(&mut world, id));
    world
}

fn add_zoned(world: &mut World, id: u64) {
    world.add_store(id, &[("zone", ZONES[(id % 3) as usize])]);
}

fn assert_in_three_zones(case: &str, world: &World) {
    for region in world.regions() {
        let zones: BTreeSet<_> =
            region.voters().map(|voter| world.label(voter.store_id, "zone")).collect();
        assert_eq!(zones.len(), 3, "{case}: r{} is in {zones:?}", region.id());
    }
}

/// Three zones of one store each get a second store: the peers even out, and no region has two in a zone.
fn three_zones(seed: u64) -> Outcome {
    let mut world = zoned(seed, Policy::default(), 3);
    regions_on(&mut world, 60, 3, |_| SIZE_MIB);
    assert!(world.run_until_rest(REST_WITHIN));
    (4..=6).for_each(|id| add_zoned(&mut world, id));
    let watch = Watch::begin("three-zones", world);
    let (outcome, world) = watch.end();
    assert_span(outcome.case, "peers", &outcome.peers, 4);
    assert_three_healthy_voters(outcome.case, &world);
    assert_in_three_zones(outcome.case, &world);
    outcome
}

/// One of the two stores of a zone dies: its peers are made anew on the other, which takes only so many at a
/// time, and never in another zone, which the isolation level forbids.
fn zone_store_killed(seed: u64) -> Outcome {
    let policy = Policy {
        max_store_down_time_ms: 5 * MINUTE / MILLISECOND,
        isolation_level: "zone".into(),
        ..Policy::default()
    };
    let mut world = zoned(seed, policy, 6);
    for id in 1..=60 {
        let on: Vec<u64> = (0..3).map(|zone| 1 + zone + 3 * ((id + zone) % 2)).collect();
        world.add_region(id, &on, SIZE_MIB);
    }
    assert!(world.run_until_rest(REST_WITHIN));
    let lost = peers(&world)[&4];
    world.kill_store(4);
    let mut watch = Watch::begin("zone-store-killed", world);
    watch.least_peers = lost;
    watch.world.run(6 * MINUTE);
    let (outcome, world) = watch.end();
    assert_three_healthy_voters(outcome.case, &world);
    assert_in_three_zones(outcome.case, &world);
    outcome
}

/// S3.2: some regions are twenty times as large as the others: it is sizes that even out, not numbers.
fn skewed_sizes(seed: u64) -> Outcome {
    const LARGE_MIB: u64 = 400;
    let mut world = stores(seed, Policy::default(), 6);
    regions_on(&mut world, 90, 3, |id| if id % 9 == 0 { LARGE_MIB } else { LARGE_MIB / 20 });
    let watch = Watch::begin("skewed-sizes", world);
    let (outcome, world) = watch.end();
    // Two large ones is what the balancer of sizes leaves alone.
    assert_span(outcome.case, "MiB", &outcome.mib, 2 * LARGE_MIB);
    assert_three_healthy_voters(outcome.case, &world);
    outcome
}

/// One region takes all the load, and goes on taking it wherever it is: nothing is to be gained by moving it
/// to and fro.
fn hot_key(seed: u64) -> Outcome {
    let mut world = stores(seed, Policy::default(), 6);
    regions_on(&mut world, 60, 6, |_| SIZE_MIB);
    assert!(world.run_until_rest(REST_WITHIN));
    world.set_load(7, |said| {
        said.bytes_written = 600 << 20;
        said.keys_written = 6_000_000;
        said.bytes_read = 1_200 << 20;
        said.keys_read = 12_000_000;
        said.cpu_usage = 90;
    });
    let watch = Watch::begin("hot-key", world);
    let (outcome, world) = watch.end();
    assert_span(outcome.case, "peers", &outcome.peers, 4);
    assert_three_healthy_voters(outcome.case, &world);
    outcome
}

/// The scheduler's leader changes three times while peers are on their way: the next one looks and goes on.
fn scheduler_changed(seed: u64) -> Outcome {
    let mut world = stores(seed, Policy::default(), 6);
    regions_on(&mut world, 100, 3, |_| SIZE_MIB);
    let mut watch = Watch::begin("scheduler-changed", world);
    for _ in 0..3 {
        watch.world.run(2 * SECOND);
        watch.world.change_scheduler();
    }
    let (outcome, world) = watch.end();
    assert_span(outcome.case, "peers", &outcome.peers, 4);
    assert_three_healthy_voters(outcome.case, &world);
    outcome
}

/// A thousand stores and a hundred thousand regions, all of which are heard twice; then the scheduler ticks
/// for a minute. Says what it holds.
pub fn thousand_stores(seed: u64, stores_count: u64, regions_count: u64) -> World {
    let mut world = stores(seed, Policy::default(), stores_count);
    regions_on(&mut world, regions_count, stores_count, |_| SIZE_MIB);
    world.run(MINUTE);
    world.check_picture();
    world
}
