//! Plans and how they are carried out: one for each region, one order after the other, each shown done by a
//! heartbeat; and when a new leader may begin.

use proto::{RegionId, StoreId, metapb, pdpb};
use scheduler::cluster::Policy;
use scheduler::operator::{Operator, Purpose, Step};
use scheduler::scheduling::Roster;
use tests::labs::scheduler::scene::{Scene, assert_hands_over, assert_moves_peer, keyed};
use tests::labs::scheduler::{Machine, report};
use tests::placement::region::{Obeyed, Region};

/// A plan for a region as the machine knows it.
fn plan(machine: &Machine, region: u64, purpose: Purpose, step: Step) -> Operator {
    let record = machine.cluster.regions().by_id(RegionId(region)).unwrap();
    Operator::new("test", purpose, record, vec![step])
}

fn hand_over(from: u64, to: u64) -> Step {
    Step::TransferLeader { from: StoreId(from), to: StoreId(to) }
}

/// Balance off, so that only checkers and the test plan.
fn without_balance(scene: &Scene) -> Policy {
    Policy { balance_leaders: false, balance_regions: false, ..scene.policy.clone() }
}

/// A machine whose balancer of peers has made its first plan, and makes no other. Its order is on its way; so
/// much later it is due once more.
fn balancing(scene: &Scene) -> Machine {
    let alone = Policy {
        leader_schedule_limit: 0,
        replica_schedule_limit: 0,
        region_schedule_limit: 1,
        ..scene.policy.clone()
    };
    let mut machine = scene.machine(alone.clone());
    let planned =
        machine.tick_until(10_000, |cluster| cluster.operators().running().next().map(drop));
    planned.expect("a peer is moved");
    machine.cluster.set_policy(Policy { balance_regions: false, ..alone });
    machine.pass(6_000);
    machine
}

/// A region that follows what it is told.
struct Obedient {
    region: Region,
}

impl Obedient {
    fn new(scene: &Scene, id: u64) -> Self {
        Self { region: Region { said: scene.report_of(id) } }
    }

    /// Speaks; the order in answer.
    fn speaks(&self, machine: &mut Machine) -> Option<pdpb::RegionHeartbeatResponse> {
        machine.order_for(&self.region.said)
    }

    /// Follows an order to add a peer there; it has caught up unless told otherwise.
    fn adds(&mut self, order: Option<pdpb::RegionHeartbeatResponse>, store: u64) -> metapb::Peer {
        let obeyed = self.region.obey(&order.expect("there is an order"));
        let Obeyed::PeerAdded(peer) = obeyed else { panic!("no peer is added: {obeyed:?}") };
        assert_eq!(peer.store_id, store);
        peer
    }

    fn caught_up(&mut self, peer: metapb::Peer) {
        assert!(self.region.caught_up(peer.id));
    }

    fn removes(&mut self, order: Option<pdpb::RegionHeartbeatResponse>, store: u64) {
        let obeyed = self.region.obey(&order.expect("there is an order"));
        let Obeyed::PeerRemoved(peer) = obeyed else { panic!("no peer goes: {obeyed:?}") };
        assert_eq!(peer.store_id, store);
    }
}

/// S3.7: a region has one plan at a time; when that is taken back it may have another.
#[test]
fn test_basic_coordinator() {
    let mut scene = Scene::default();
    (1..=3).for_each(|id| scene.region_store(id, 1));
    scene.leader_region(1, &[1, 2, 3]);
    let mut machine = scene.machine(scene.policy.clone());
    let first = plan(&machine, 1, Purpose::Leader, hand_over(1, 2));
    machine.cluster.add_operator(first, machine.moment).unwrap();
    assert_eq!(machine.cluster.operators().count(Purpose::Leader), 1);
    let second = plan(&machine, 1, Purpose::Region, hand_over(1, 3));
    assert!(machine.cluster.add_operator(second.clone(), machine.moment).is_err());
    assert_eq!(machine.cluster.operators().count(Purpose::Region), 0);
    machine.cluster.cancel_operator(RegionId(1), machine.moment).unwrap();
    machine.cluster.add_operator(second, machine.moment).unwrap();
    assert_eq!(machine.cluster.operators().count(Purpose::Region), 1);
}

/// Peers and leaders are balanced: of the fullest store a region that it follows is moved, and one that it
/// leads handed over. Each order comes with a heartbeat, and nothing when all is done.
#[test]
fn test_dispatch() {
    let mut scene = Scene::default();
    for (id, leaders) in [(4, 40), (3, 30), (2, 20), (1, 10)] {
        scene.leader_store(id, leaders);
    }
    scene.leader_region(1, &[2, 3, 4]);
    scene.leader_region(2, &[4, 3, 2]);
    let mut machine = balancing(&scene);
    let moved = machine.plan(1).expect("the followed region is moved first");
    assert_moves_peer(moved, 4, 1);
    assert_hands_over(scene.balance_leader(), 4, 2);

    let mut region = Obedient::new(&scene, 1);
    let order = region.speaks(&mut machine);
    let added = region.adds(order, 1);
    region.caught_up(added);
    let removal = region.speaks(&mut machine);
    region.removes(removal, 4);
    assert_eq!(region.speaks(&mut machine), None);
    assert!(machine.plan(1).is_none());

    let handed = plan(&machine, 2, Purpose::Admin, hand_over(4, 2));
    let taken = machine.cluster.add_operator(handed, machine.moment).unwrap();
    let mut region = Obedient::new(&scene, 2);
    assert_eq!(region.region.obey(&taken.unwrap()), Obeyed::LeaderMoved);
    assert_eq!(region.speaks(&mut machine), None);
    assert!(machine.plan(2).is_none());
}

/// A region with two peers gets a third; one whose store is lost gets another in its place; one with four
/// loses one; and one that is whole is left alone.
#[test]
fn test_replica() {
    let mut scene = Scene::default();
    (1..=4).for_each(|id| scene.region_store(id, id));
    scene.leader_region(1, &[2, 3]);
    scene.leader_region(2, &[1, 2, 3, 4]);
    let mut machine = scene.machine(without_balance(&scene));
    // The plans were made when the regions were first heard, and their orders are on their way: a
    // heartbeat after they would have been followed asks again.
    machine.pass(6_000);
    (1..=4).for_each(|id| machine.store_says(tests::labs::scheduler::stats(id)));
    let mut region = Obedient::new(&scene, 1);
    let order = region.speaks(&mut machine);
    let added = region.adds(order, 1);
    region.caught_up(added);
    assert_eq!(region.speaks(&mut machine), None);
    let mut crowded = Obedient::new(&scene, 2);
    let order = crowded.speaks(&mut machine);
    crowded.removes(order, 4);
    assert_eq!(crowded.speaks(&mut machine), None);

    scene.leader_region(1, &[2, 1, 3]);
    scene.down(3);
    let mut machine = scene.machine(without_balance(&scene));
    assert_moves_peer(machine.plan(1).expect("it has to go"), 3, 4);
    machine.pass(6_000);
    for id in [1, 2, 4] {
        machine.store_says(tests::labs::scheduler::stats(id));
    }
    let mut region = Obedient::new(&scene, 1);
    let order = region.speaks(&mut machine);
    region.adds(order, 4);
}

/// As long as a new peer is catching up nothing more is ordered, and the plan stays; then the old one goes.
#[test]
fn test_peer_state() {
    let mut scene = Scene::default();
    (1..=4).for_each(|id| scene.region_store(id, 10 * id));
    scene.leader_region(1, &[2, 3, 4]);
    let mut machine = balancing(&scene);
    assert_moves_peer(machine.plan(1).expect("a peer is moved"), 4, 1);
    let mut region = Obedient::new(&scene, 1);
    let order = region.speaks(&mut machine);
    let added = region.adds(order, 1);
    assert_eq!(region.speaks(&mut machine), None);
    assert!(machine.plan(1).is_some());
    region.caught_up(added);
    let removal = region.speaks(&mut machine);
    region.removes(removal, 4);
    assert_eq!(region.speaks(&mut machine), None);
    assert!(machine.plan(1).is_none());
}

/// Regions as the group's log has them, on these stores, and the machine that has loaded them.
fn loaded(regions: &[(u64, &[u64])]) -> Machine {
    let stores = (1..=4).map(tests::labs::scheduler::store).collect();
    let known = regions.iter().map(|&(id, stores)| keyed(id, stores)).collect();
    Machine::loaded(Policy::default(), stores, known)
}

/// A new leader balances when it has heard most regions: until then stores look emptier than they are. (The
/// course waits for eight in ten, of each store as well; ours for nine in ten.)
#[test]
fn test_should_run() {
    let on: [(u64, &[u64]); 10] = [
        (1, &[1, 2, 3]),
        (2, &[1, 2, 3]),
        (3, &[1, 2, 3]),
        (4, &[1, 2, 3]),
        (5, &[1, 2, 3]),
        (6, &[2, 1, 4]),
        (7, &[2, 1, 4]),
        (8, &[2, 1, 4]),
        (9, &[1, 2, 3]),
        (10, &[1, 2, 3]),
    ];
    let mut machine = loaded(&on);
    for (heard, (id, stores)) in on.into_iter().enumerate() {
        assert_eq!(machine.cluster.is_prepared(machine.moment), heard >= 9, "after {heard}");
        machine.hear(&report(keyed(id, stores), 10)).unwrap();
    }
    assert_eq!(machine.cluster.heard(), (10, 10));
    // What no leader can say is refused, and counts for nothing.
    assert!(machine.hear(&report(metapb::Region { id: 6, ..Default::default() }, 0)).is_err());
}

/// … though some regions have no leader yet: those are known, and nobody leads them.
#[test]
fn test_should_run_with_non_leader_regions() {
    let on: Vec<(u64, &[u64])> = (1..=10).map(|id| (id, &[1_u64, 2, 3][..])).collect();
    let mut machine = loaded(&on);
    assert_eq!(machine.cluster.regions().counts(StoreId(1)).regions, 10);
    for (id, stores) in &on[..9] {
        assert!(!machine.cluster.is_prepared(machine.moment), "before r{id}");
        machine.hear(&report(keyed(*id, stores), 10)).unwrap();
    }
    assert!(machine.cluster.is_prepared(machine.moment));
    assert_eq!(machine.cluster.regions().by_id(RegionId(10)).unwrap().leader, None);
}

/// Plans are not kept: a new leader of the scheduler looks and thinks again.
#[test]
fn test_restart() {
    let mut scene = Scene::default();
    (1..=3).for_each(|id| scene.region_store(id, id));
    scene.leader_region(1, &[1]);
    let machine = scene.machine(without_balance(&scene));
    let adds = |machine: &Machine, store: u64| {
        let operator = machine.plan(1).expect("a peer is missing");
        matches!(operator.steps(), [Step::AddPeer(peer)] if peer.store_id == store)
    };
    assert!(adds(&machine, 2));
    scene.leader_region(1, &[1, 2]);
    assert!(adds(&scene.machine(without_balance(&scene)), 3));
}

/// Plans are counted by what they are for; one that is more urgent takes the place of another.
#[test]
fn test_operator_count() {
    let mut scene = Scene::default();
    (1..=3).for_each(|id| scene.region_store(id, 2));
    scene.leader_region(1, &[1, 2, 3]);
    scene.leader_region(2, &[2, 1, 3]);
    let mut machine = scene.machine(scene.policy.clone());
    let count = |machine: &Machine, purpose| machine.cluster.operators().count(purpose);
    let first = plan(&machine, 1, Purpose::Leader, hand_over(1, 2));
    machine.cluster.add_operator(first, machine.moment).unwrap();
    let second = plan(&machine, 2, Purpose::Leader, hand_over(2, 1));
    machine.cluster.add_operator(second, machine.moment).unwrap();
    assert_eq!(count(&machine, Purpose::Leader), 2);
    let urgent = plan(&machine, 1, Purpose::Admin, hand_over(1, 3));
    machine.cluster.add_operator(urgent, machine.moment).unwrap();
    assert_eq!((count(&machine, Purpose::Leader), count(&machine, Purpose::Admin)), (1, 1));
    machine.cluster.cancel_operator(RegionId(2), machine.moment).unwrap();
    assert_eq!(count(&machine, Purpose::Leader), 0);
}

/// Limits hold for balance and not for an administrator; a region that nobody knows, or another epoch than
/// the plan's, is refused.
#[test]
fn test_controller() {
    let mut scene = Scene::default();
    (1..=3).for_each(|id| scene.region_store(id, 9));
    (1..=6).for_each(|id| scene.leader_region(id, &[1, 2, 3]));
    scene.policy.leader_schedule_limit = 3;
    let mut machine = scene.machine(scene.policy.clone());
    for id in 1..=3 {
        let operator = plan(&machine, id, Purpose::Leader, hand_over(1, 2));
        machine.cluster.add_operator(operator, machine.moment).unwrap();
    }
    let fourth = plan(&machine, 4, Purpose::Leader, hand_over(1, 2));
    assert!(machine.cluster.add_operator(fourth, machine.moment).is_err());
    let asked_for = plan(&machine, 4, Purpose::Admin, hand_over(1, 2));
    machine.cluster.add_operator(asked_for, machine.moment).unwrap();
    // The region changes after the plan was made.
    let mut late = plan(&machine, 5, Purpose::Admin, hand_over(1, 2));
    late.epoch.conf_ver += 1;
    assert!(machine.cluster.add_operator(late, machine.moment).is_err());
    let mut nobodys = plan(&machine, 6, Purpose::Admin, hand_over(1, 2));
    nobodys.region = RegionId(999);
    assert!(machine.cluster.add_operator(nobodys, machine.moment).is_err());
}

/// The names of a machine's schedulers.
fn names(machine: &Machine) -> Vec<String> {
    let seats = machine.cluster.coordinator().seats().iter();
    seats.map(|seat| seat.scheduler.name().to_owned()).collect()
}

/// Schedulers can be removed, all of them, and that is kept: after a restart none of them runs.
#[test]
fn test_remove_scheduler() {
    let mut machine = Machine::new(Policy::default());
    let moment = machine.moment;
    let begun = names(&machine);
    for name in ["balance-region-scheduler", "balance-leader-scheduler"] {
        assert!(begun.iter().any(|begun| begun == name), "{begun:?}");
    }
    let mut kept = None;
    for name in &begun {
        kept = machine.cluster.remove_scheduler(name, moment).unwrap().roster;
    }
    assert!(names(&machine).is_empty());
    assert!(machine.cluster.remove_scheduler("balance-region-scheduler", moment).is_err());
    let roster: Roster = serde_json::from_str(&kept.expect("it is kept")).unwrap();
    let again = Machine::new(Policy::default());
    let cluster = again.cluster.with_roster(roster, moment);
    assert!(cluster.coordinator().seats().is_empty());
}

/// A scheduler that finds nothing looks ever more seldom, but soon enough: its wait is less than half of the
/// time for which there was nothing to do.
#[test]
fn test_interval() {
    let mut scene = Scene::default();
    (1..=3).for_each(|id| scene.region_store(id, 3));
    scene.leader_region(1, &[1, 2, 3]);
    let mut machine = scene.machine(Policy { replica_schedule_limit: 0, ..scene.policy.clone() });
    let mut idle_ms = 0;
    for seconds in [5_u64, 10, 20, 30, 60] {
        while idle_ms < seconds * 1_000 {
            machine.cluster.tick(&mut machine.ids, machine.moment);
            machine.pass(10);
            idle_ms += 10;
        }
        for seat in machine.cluster.coordinator().seats() {
            // Those that look seldom from the start are not asked.
            if seat.scheduler.min_interval_ms() > 10 {
                continue;
            }
            let waits_ms = seat.controller.interval_ms();
            assert!(waits_ms < seconds * 1_000 / 2, "{waits_ms} ms after {seconds} s");
            assert!(waits_ms > 100, "it does not look as often as at first: {waits_ms} ms");
        }
    }
}
