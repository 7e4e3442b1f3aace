//! The framework: names, turns, pauses, filters, selectors, and the articles' older forms.

use std::cell::RefCell;

use proto::{RegionId, StoreId, metapb, pdpb};
use serde_json::{Value, json};

use super::simple::{Act, Adapter, Composite, Plan, ResourceKind, SimpleScheduler};
use super::world::World;
use super::*;
use crate::cluster::{Cluster, Policy, Refusal};
use crate::operator::Step;
use crate::placement::{Predicate, Question};

thread_local! {
    /// What was asked of [`Custom`] in this test, each word once for as long as it is repeated.
    static ASKED: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

fn asked(word: &'static str) {
    ASKED.with_borrow_mut(|asked| {
        asked.push(word);
        asked.dedup();
    });
}

fn take_asked() -> Vec<&'static str> {
    ASKED.take()
}

/// Hands the lead of one region to one store, once in a turn, unless it is idle.
#[derive(Debug)]
struct Custom {
    region: RegionId,
    to: StoreId,
    is_idle: bool,
}

impl Custom {
    fn make(arguments: &Value) -> Result<Box<dyn Scheduler>, String> {
        let to = arguments.get("to").and_then(Value::as_u64).ok_or("missing to")?;
        let is_idle = arguments.get("idle").and_then(Value::as_bool).unwrap_or(false);
        Ok(Box::new(Self { region: RegionId(1), to: StoreId(to), is_idle }))
    }
}

impl Scheduler for Custom {
    fn name(&self) -> &str {
        "custom-scheduler"
    }

    fn type_name(&self) -> &'static str {
        "custom"
    }

    fn purpose(&self) -> Purpose {
        Purpose::Leader
    }

    fn min_interval_ms(&self) -> u64 {
        20
    }

    fn next_interval_ms(&self, interval_ms: u64) -> u64 {
        interval_ms * 2
    }

    fn prepare(&mut self, view: View<'_>) -> Result<(), String> {
        asked("prepare");
        view.stores.find(self.to).ok_or("there is no such store")?;
        Ok(())
    }

    fn cleanup(&mut self) {
        asked("cleanup");
    }

    fn is_schedule_allowed(&self, view: View<'_>) -> bool {
        asked("is allowed");
        !self.is_idle && view.operators.of(self.region).is_none()
    }

    fn schedule(&mut self, desk: &mut Desk<'_>) -> Vec<Operator> {
        asked("schedule");
        let Some(record) = desk.view().regions.by_id(self.region) else { return Vec::new() };
        let transfer = desk.transfer_leader("custom", Purpose::Leader, record, self.to);
        transfer.into_iter().collect()
    }

    fn arguments(&self) -> Value {
        json!({ "to": self.to.0 })
    }

    fn verdict(&self, _: View<'_>, _: &RegionRecord) -> Verdict {
        Verdict::Silent
    }
}

fn world_with(stores: u64) -> World {
    let mut world = World::new(stores, Policy::default());
    world.add_region(1, &[1, 2, 3], 10);
    world
}

fn names(cluster: &Cluster) -> Vec<String> {
    let seats = cluster.coordinator().seats().iter();
    seats.map(|seat| seat.scheduler.name().to_owned()).collect()
}

/// The roster that a change of the schedulers leaves, as a new leader reads it.
fn kept(writes: crate::cluster::Writes) -> Roster {
    serde_json::from_str(&writes.roster.unwrap()).unwrap()
}

/// A cluster in which [`Custom`] is known, and nobody is there to schedule.
fn world_that_knows_custom() -> World {
    take_asked();
    let mut world = world_with(3);
    let mut catalog = Catalog::standard();
    catalog.register("custom", Custom::make);
    let empty = Roster { schedulers: Vec::new(), paused_checkers: Default::default() };
    let policy = Policy { leader_schedule_limit: 4, ..Policy::default() };
    world.cluster.set_policy(policy);
    world.cluster = {
        let fresh = Cluster::load(Policy::default(), "", [], [], world.moment);
        std::mem::replace(&mut world.cluster, fresh).with_schedulers(catalog, empty, world.moment)
    };
    assert_eq!(names(&world.cluster), Vec::<String>::new());
    world
}

/// S0.6: a scheduler has a name and a type, says how often it looks at least and how much longer it waits
/// after each look in vain, is prepared and cleaned up, says whether it may act, and makes plans. One of
/// somebody's own is made by its type, once that is registered.
#[test]
fn s0_6_a_scheduler_of_ones_own_is_registered_by_its_type_and_has_all_eight_words() {
    let mut world = world_that_knows_custom();
    // Prepare may refuse.
    let refused = world.cluster.add_scheduler("custom", &json!({"to": 9}), world.moment);
    assert_eq!(refused, Err(Refusal::InvalidValue("there is no such store".into())));
    assert_eq!((names(&world.cluster), take_asked()), (Vec::new(), vec!["prepare"]));
    world.cluster.add_scheduler("custom", &json!({"to": 3}), world.moment).unwrap();
    let seat = world.cluster.coordinator().find("custom-scheduler").unwrap();
    assert_eq!((seat.scheduler.type_name(), seat.controller.interval_ms()), ("custom", 20));
    world.run(10);
    assert_eq!(world.plan(1).unwrap().description, "custom");
    assert_eq!(take_asked(), ["prepare", "is allowed", "schedule"]);
    world.run(1_000);
    assert_eq!(world.leaders(), [0, 0, 1]);
    // In vain from then on: it looks ever more seldom, as it has said itself.
    let seat = world.cluster.coordinator().find("custom-scheduler").unwrap();
    assert!(seat.controller.interval_ms() >= 320, "{}", seat.controller.interval_ms());
}

/// S0.6, S0.12: one that may not act makes no plans, and one that is stopped has cleaned up when its removal
/// returns. There is no task of it that would have to be waited for: it has had its last turn.
#[test]
fn who_may_not_act_is_asked_for_no_plan_and_who_is_removed_for_nothing_more() {
    let mut world = world_that_knows_custom();
    let add = |world: &mut World, arguments: Value| {
        world.cluster.add_scheduler("custom", &arguments, world.moment).unwrap();
    };
    add(&mut world, json!({"to": 3, "idle": true}));
    world.run(1_000);
    assert_eq!((world.leaders(), take_asked()), (vec![1, 0, 0], vec!["prepare", "is allowed"]));
    world.cluster.remove_scheduler("custom-scheduler", world.moment).unwrap();
    assert_eq!(take_asked(), ["cleanup"]);
    world.run(60_000);
    assert_eq!(take_asked(), Vec::<&str>::new());
    add(&mut world, json!({"to": 3}));
    world.run(1_000);
    assert_eq!(world.leaders(), [0, 0, 1]);
}

/// S0.7, S3.5: a scheduler in the first form (a name, a kind of resource, one operator at a time) is run like any
/// other.
#[test]
fn s0_7_s3_5_a_scheduler_in_its_first_form_is_run_by_an_adapter() {
    #[derive(Debug)]
    struct First;
    impl SimpleScheduler for First {
        fn name(&self) -> &str {
            "first-form"
        }
        fn resource_kind(&self) -> ResourceKind {
            ResourceKind::Leader
        }
        fn schedule(&mut self, desk: &mut Desk<'_>) -> Option<Operator> {
            let record = desk.view().regions.led_by(StoreId(1)).find(|r| desk.is_free(r.id()))?;
            desk.transfer_leader("first", Purpose::Leader, record, StoreId(2))
        }
    }
    let mut world = world_with(3);
    world.add_region(2, &[1, 2, 3], 10);
    world.cluster.take_on_scheduler(Box::new(Adapter(First)), world.moment).unwrap();
    world.run(100);
    assert_eq!(world.leaders(), [0, 2, 0]);
    assert!(world.descriptions().contains("first"));
}

/// S0.8: a name is given once; who adds a second scheduler of it is refused.
#[test]
fn s0_8_names_are_unique() {
    let mut world = world_with(3);
    let again = world.cluster.add_scheduler("balance-leader-scheduler", &json!({}), world.moment);
    assert_eq!(again, Err(Refusal::Duplicate("scheduler existed".into())));
    let unknown = world.cluster.add_scheduler("dance-scheduler", &json!({}), world.moment);
    let why = unknown.unwrap_err().to_string();
    assert!(why.contains("there is no scheduler dance-scheduler; there are"), "{why}");
}

/// S0.9: an operator in the first form says whose region it is for and what it moves, and at each sight of the
/// region what to order and whether it is finished; a composite walks its children in order.
/// S3.5, S3.6: all parts of a composite are of one kind of resource, or there is no such composite.
#[test]
fn s0_9_s3_6_a_composite_walks_its_acts_in_order_and_all_move_one_kind_of_resource() {
    let world = world_with(4);
    let record = world.regions[&1].clone();
    let region = RegionId(1);
    let new = metapb::Peer { id: 999, store_id: 4, ..Default::default() };
    let add = || Box::new(Plan { region, step: Step::AddPeer(new) });
    let remove = || Box::new(Plan { region, step: Step::RemovePeer(record.region.peers[2]) });
    let mut both = Composite::new(vec![add(), remove()]).unwrap();
    assert_eq!((both.region_id(), both.resource_kind()), (region, ResourceKind::Storage));
    let (order, is_finished) = both.perform(&record);
    assert_eq!(order.unwrap().change_peer.unwrap().peer.unwrap().store_id, 4);
    assert!(!is_finished);
    let mut added = record.clone();
    added.region.peers.push(new);
    let (order, is_finished) = both.perform(&added);
    assert_eq!(order.unwrap().change_peer.unwrap().peer.unwrap().store_id, 3);
    assert!(!is_finished);
    added.region.peers.remove(2);
    assert_eq!(both.perform(&added), (None, true));

    let transfer =
        Box::new(Plan { region, step: Step::TransferLeader { from: StoreId(1), to: StoreId(2) } });
    let mixed = Composite::new(vec![add(), transfer]);
    assert_eq!(mixed.err(), Some("its acts move different kinds of resources"));
    let elsewhere = Box::new(Plan { region: RegionId(2), step: Step::AddPeer(new) });
    assert_eq!(
        Composite::new(vec![add(), elsewhere]).err(),
        Some("its acts are for different regions")
    );
    assert!(Composite::new(Vec::new()).is_err());
}

/// Excludes one store as a source, and another as a target.
struct Not {
    source: u64,
    target: u64,
}

impl Filter for Not {
    fn name(&self) -> &str {
        "not"
    }
    fn filter_source(&self, store: &Candidate<'_>) -> bool {
        store.store.id().0 == self.source
    }
    fn filter_target(&self, store: &Candidate<'_>) -> bool {
        store.store.id().0 == self.target
    }
}

/// S0.10, S0.11, S3.5: a selector takes the best store to take from and the best to give to, and nobody when filters
/// refuse all; a filter that answers true speaks against the store.
#[test]
fn s0_10_s0_11_a_selector_takes_the_best_that_no_filter_refuses() {
    let mut world = World::new(3, Policy { max_replicas: 1, ..Policy::default() });
    for (id, stores) in [(1, [1]), (2, [1]), (3, [1]), (4, [2]), (5, [2]), (6, [3])] {
        world.add_region(id, &stores, 10);
    }
    let view = world.cluster.view(world.moment);
    let candidates = view.candidates();
    let by_size = ByScore { score: |store: &Candidate<'_>| store.size_mib() };
    let source = |filters: &[&dyn Filter]| {
        by_size.select_source(&candidates, filters).map(|store| store.store.id().0)
    };
    let target = |filters: &[&dyn Filter]| {
        by_size.select_target(&candidates, filters).map(|store| store.store.id().0)
    };
    assert_eq!((source(&[]), target(&[])), (Some(1), Some(3)));
    // True means: not this one.
    let not = Not { source: 1, target: 3 };
    assert_eq!((source(&[&not]), target(&[&not])), (Some(2), Some(2)));
    let nor = Not { source: 2, target: 2 };
    assert_eq!((source(&[&not, &nor]), target(&[&not, &nor])), (Some(3), Some(1)));
    let at_last = Not { source: 3, target: 1 };
    let all: [&dyn Filter; 3] = [&not, &nor, &at_last];
    assert_eq!((source(&all), target(&all)), (None, None));
    assert_eq!(target_refused(&candidates[0], &all).unwrap().name(), "not");
    assert!(source_refused(&candidates[0], &[&nor]).is_none());
    // So do the tables of predicates, as filters.
    const FIRST: &[Predicate] =
        &[Predicate { reason: "is the first", excludes: |c, _| c.store.id() == StoreId(1) }];
    const LAST: &[Predicate] =
        &[Predicate { reason: "is the last", excludes: |c, _| c.store.id() == StoreId(3) }];
    let record = view.regions.by_id(RegionId(1)).unwrap();
    let question = Question::new_peer(view, record, None);
    let tables = TableFilter { name: "tables", source: FIRST, target: LAST, question: &question };
    assert!(tables.filter_source(&candidates[0]) && !tables.filter_source(&candidates[2]));
    assert!(tables.filter_target(&candidates[2]) && !tables.filter_target(&candidates[0]));
    assert_eq!((source(&[&tables]), target(&[&tables])), (Some(2), Some(2)));
}

/// S0.12, S3.5: a controller has an interval, which grows by three tenths with each look in vain, lets its scheduler
/// act within the limit of its kind, and not at all once it is stopped.
#[test]
fn s0_12_a_controller_waits_longer_after_each_look_in_vain_and_its_limit_throttles() {
    let world = world_with(3);
    let view = world.cluster.view(world.moment);
    let scheduler = crate::balancers::leaders::BalanceLeader;
    let mut controller = Controller::new(scheduler.min_interval_ms());
    assert_eq!(controller.interval_ms(), MIN_INTERVAL_MS);
    assert!(controller.is_due(world.moment) && controller.allow_schedule(&scheduler, view));
    let mut waits = Vec::new();
    for _ in 0..40 {
        controller.looked(&scheduler, false, world.moment);
        waits.push(controller.interval_ms());
    }
    assert_eq!(waits[..5], [13, 17, 23, 30, 39]);
    assert_eq!(waits.last(), Some(&MAX_INTERVAL_MS));
    assert!(!controller.is_due(world.moment));
    controller.looked(&scheduler, true, world.moment);
    assert_eq!(controller.interval_ms(), MIN_INTERVAL_MS);
    // Its limit reached, it may not act.
    let policy = Policy { leader_schedule_limit: 0, ..Policy::default() };
    assert!(!controller.allow_schedule(&scheduler, View { policy: &policy, ..view }));
    // Paused, or stopped, neither.
    controller.pause_until(world.moment.wall_ms + 1);
    assert!(!controller.allow_schedule(&scheduler, view));
    controller.pause_until(0);
    assert!(controller.allow_schedule(&scheduler, view));
    controller.stop();
    assert!(!controller.allow_schedule(&scheduler, view));
}

/// S0.4, S0.13, S3.5: schedulers, each with its controller, are run by the coordinator, and added, removed, paused and
/// resumed by name while the cluster runs.
#[test]
fn s0_4_s0_13_schedulers_are_paused_resumed_removed_and_added_by_name() {
    let mut world = world_with(3);
    let name = "balance-leader-scheduler";
    for id in 2..=40 {
        world.add_region(id, &[1, 2, 3], 10);
    }
    let moment = world.moment;
    let paused = kept(world.cluster.pause_scheduler("all", 60, moment).unwrap());
    assert!(paused.schedulers.iter().all(|entry| entry.paused_until_ms == moment.wall_ms + 60_000));
    world.run(50_000);
    assert_eq!(world.leaders(), [40, 0, 0], "all pause");
    world.cluster.pause_scheduler(name, 0, world.moment).unwrap();
    world.settle();
    assert!(world::spread(&world.leaders()) <= 10, "{:?}", world.leaders());

    let removed = kept(world.cluster.remove_scheduler(name, world.moment).unwrap());
    assert!(removed.schedulers.iter().all(|entry| entry.name != name));
    let gone = world.cluster.remove_scheduler(name, world.moment);
    assert_eq!(gone, Err(Refusal::NotFound("scheduler not found".into())));
    assert!(world.cluster.pause_scheduler(name, 1, world.moment).is_err());
    assert!(world.cluster.configure_scheduler(name, &json!({}), world.moment).is_err());
    world.cluster.add_scheduler(name, &json!({}), world.moment).unwrap();
    assert!(names(&world.cluster).iter().any(|have| have == name));
}

#[test]
fn a_new_leader_has_the_schedulers_their_arguments_and_their_pauses() {
    let mut world = world_with(4);
    let moment = world.moment;
    world.cluster.remove_scheduler("balance-region-scheduler", moment).unwrap();
    world.cluster.pause_scheduler("balance-leader-scheduler", 60, moment).unwrap();
    world.cluster.pause_checker("replica", 60, moment).unwrap();
    let evict = json!({"store_id": 4, "batch": 5});
    let writes = world.cluster.add_scheduler("evict-leader-scheduler", &evict, moment).unwrap();
    let stores: Vec<_> = world.cluster.stores().iter().map(|store| store.meta.clone()).collect();
    let next =
        Cluster::load(Policy::default(), "", stores, [], moment).with_roster(kept(writes), moment);
    let expected = [
        "balance-leader-scheduler",
        "balance-hot-region-scheduler",
        "evict-slow-store-scheduler",
        "evict-leader-scheduler",
    ];
    assert_eq!(names(&next), expected);
    let find = |name: &str| next.coordinator().find(name).unwrap();
    let leaders = find("balance-leader-scheduler");
    assert_eq!(leaders.controller.paused_until(moment), Some(moment.wall_ms + 60_000));
    let held = find("evict-leader-scheduler").scheduler.arguments();
    assert_eq!(held["batch"], 5);
    assert!(held["store-id-ranges"]["4"].is_array(), "{held}");
    assert!(next.view(moment).bars.no_leaders_in.contains(&StoreId(4)));
    assert!(next.is_checker_paused("replica", moment));
    // What a newer member has written and this one cannot make is kept.
    let mut roster = next.coordinator().roster(moment);
    let strange = Entry {
        name: "strange-scheduler".into(),
        type_name: "strange".into(),
        arguments: json!({"x": 1}),
        paused_until_ms: 0,
    };
    roster.schedulers.push(strange.clone());
    let next = next.with_roster(roster, moment);
    assert_eq!(names(&next), expected);
    assert_eq!(next.coordinator().roster(moment).schedulers.last(), Some(&strange));
}

#[test]
fn a_paused_checker_repairs_nothing_until_it_is_resumed() {
    let mut world = World::new(3, Policy::default());
    world.cluster.pause_checker("all", 30, world.moment).unwrap();
    world.add_region(1, &[1, 2], 10);
    world.run(29_000);
    assert_eq!(world.peers(), [1, 1, 0]);
    world.run(2_000);
    assert_eq!(world.peers(), [1, 1, 1], "the pause is over");
    let unknown = world.cluster.pause_checker("dance", 1, world.moment).unwrap_err();
    assert!(unknown.to_string().contains("there is no checker dance"), "{unknown}");
    assert!(world.cluster.pause_checker("all", 1, world.moment).is_ok());
}

/// S0.5, S3.12: what moves data and what moves leaders are kinds of their own, in operators and in limits: 4,
/// 2,048, and 64 for repairs. A limit that is reached holds up its own kind only.
#[test]
fn s0_5_s3_12_leaders_and_storage_have_limits_of_their_own() {
    let limits = Policy::default();
    let limits =
        [limits.leader_schedule_limit, limits.region_schedule_limit, limits.replica_schedule_limit];
    assert_eq!(limits, [4, 2_048, 64]);
    let policy = Policy {
        leader_schedule_limit: 3,
        region_schedule_limit: 5,
        max_replicas: 1,
        ..Policy::default()
    };
    let mut world = World::new(3, policy);
    // Without the checker: it would remove one of two replicas.
    world.cluster.pause_checker("all", 600, world.moment).unwrap();
    for id in 1..=60 {
        world.add_region(id, &[1], 1);
    }
    for id in 100..=130 {
        world.add_region(id, &[2, 3], 1);
    }
    world.run(10);
    assert_eq!(world.under_way(Purpose::Leader), 3);
    assert_eq!(world.under_way(Purpose::Region), 5);
    let kinds = |purpose| {
        let running = world.cluster.operators().running();
        running.filter(|o| o.purpose == purpose).map(Operator::kind).collect::<Vec<_>>()
    };
    assert!(kinds(Purpose::Leader).iter().all(|kind| kind == "leader"));
    assert!(kinds(Purpose::Region).iter().all(|kind| kind.starts_with("region")));
    // With no room for leaders storage moves on, and the other way round.
    for (leaders, regions) in [(0, 5), (3, 0)] {
        let policy = Policy {
            leader_schedule_limit: leaders,
            region_schedule_limit: regions,
            ..world.cluster.policy().clone()
        };
        let mut other = World::new(3, policy);
        other.cluster.pause_checker("all", 600, other.moment).unwrap();
        (1..=60).for_each(|id| other.add_region(id, &[1], 1));
        (100..=130).for_each(|id| other.add_region(id, &[2, 3], 1));
        other.run(10);
        assert_eq!(other.under_way(Purpose::Leader), leaders);
        assert_eq!(other.under_way(Purpose::Region), regions);
    }
    // Repairs count against neither.
    let policy = Policy {
        leader_schedule_limit: 0,
        region_schedule_limit: 0,
        replica_schedule_limit: 2,
        ..Policy::default()
    };
    let mut repaired = World::new(3, policy);
    (1..=9).for_each(|id| repaired.add_region(id, &[1], 1));
    assert_eq!(repaired.under_way(Purpose::Replica), 2);
}

/// S3.7: the answer to a heartbeat is the step that is due, and a second operator is declined while there is one.
#[test]
fn s3_7_a_region_has_one_operator_at_a_time_and_hears_of_it_with_its_heartbeat() {
    let mut world = World::new(3, Policy::default());
    let mut other = World::new(3, Policy::default());
    other.add_region(1, &[1], 10);
    let mut record = other.regions[&1].clone();
    let mut hear = |record: &RegionRecord| {
        let heartbeat = crate::cluster::notation::heartbeat(record);
        world.cluster.on_region_heartbeat(heartbeat, &mut world.ids, world.moment).unwrap().order
    };
    let first = hear(&record).expect("it has one peer and shall have three");
    assert_eq!(hear(&record), None, "it was told a moment ago");
    crate::operator::obedience::obey(&first, &mut record).unwrap();
    let second = hear(&record).expect("the learner is there, and shall vote");
    let change = |order: &pdpb::RegionHeartbeatResponse| order.change_peer.unwrap();
    use proto::eraftpb::ConfChangeType::{AddLearnerNode, AddNode};
    assert_eq!(change(&first).change_type(), AddLearnerNode);
    assert_eq!(change(&second).change_type(), AddNode);
    assert_eq!(change(&first).peer.unwrap().id, change(&second).peer.unwrap().id);
    assert_eq!(world.cluster.operators().running().count(), 1);
    let steps = vec![Step::TransferLeader { from: StoreId(1), to: StoreId(2) }];
    let another = Operator::new("another", Purpose::Replica, &record, steps);
    let declined = world.cluster.add_operator(another, world.moment).unwrap_err();
    assert!(declined.to_string().contains("is under way"), "{declined}");

    let mut world = other;
    assert_eq!(world.cluster.operators().running().count(), 1);
    world.settle();
    assert_eq!(world.peers(), [1, 1, 1]);
    let ended: Vec<_> = world.cluster.operators().history().collect();
    assert_eq!(ended.len(), 2, "one peer each: {ended:?}");
    let steps = |n: usize| ended[n].operator.steps().len();
    assert_eq!((steps(0), steps(1)), (2, 2), "a learner, and its vote");
}

#[test]
fn s1_1_what_the_scheduler_does_leaves_it_only_as_answers_to_heartbeats() {
    // By its type: a cluster returns orders, which name the leader they answer.
    let mut world = World::new(3, Policy::default());
    world.add_region(1, &[1], 10);
    let mut ordered = 0;
    for _ in 0..100 {
        world.run(10);
        let Some(operator) = world.plan(1) else { continue };
        let step = operator.current_step().unwrap();
        let order: pdpb::RegionHeartbeatResponse = step.order(&world.regions[&1]);
        assert_eq!(order.target_peer, world.regions[&1].leader);
        ordered += 1;
    }
    assert!(ordered > 0);
}

#[test]
fn a_forged_epoch_far_ahead_of_what_is_known_is_not_believed() {
    let mut world = world_with(3);
    let honest = crate::cluster::notation::heartbeat(&world.regions[&1]);
    let forge = |conf_ver, version| {
        let mut forged = honest.clone();
        let region = forged.region.as_mut().unwrap();
        region.region_epoch = Some(metapb::RegionEpoch { conf_ver, version });
        forged
    };
    let leap = crate::cluster::regions::EPOCH_LEAP_MAX;
    for forged in [forge(u64::MAX, 1), forge(1, u64::MAX), forge(1, leap + 2)] {
        let refused = world.cluster.on_region_heartbeat(forged, &mut world.ids, world.moment);
        let why = refused.unwrap_err().to_string();
        assert!(why.contains("leaps too far ahead"), "{why}");
    }
    // Nor one of another region over its keys.
    let mut other = forge(1, u64::MAX);
    other.region.as_mut().unwrap().id = 77;
    assert!(world.cluster.on_region_heartbeat(other, &mut world.ids, world.moment).is_err());
    // The region still speaks for itself, and a true leap is followed.
    let mut hear = |heartbeat| {
        world.cluster.on_region_heartbeat(heartbeat, &mut world.ids, world.moment).unwrap().verdict
    };
    assert_eq!(hear(honest.clone()), crate::cluster::Verdict::Unchanged);
    let news = crate::cluster::Verdict::Replaced { removed: Vec::new() };
    assert_eq!(hear(forge(1_000, 1_000)), news);
}
