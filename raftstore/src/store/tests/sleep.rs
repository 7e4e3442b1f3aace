use super::*;
use raft_serverpb::ExtraMessageType;

/// Ticks without anything to do after which a region sleeps in these tests.
const QUIET: u64 = 12;

const ELECTION: usize = 10;

fn sleepy() -> Config {
    Config { sleep_after_ticks: QUIET, region_heartbeat_ticks: 100, ..Config::default() }
}

impl Cluster {
    fn is_asleep(&self, store: u64, region: u64) -> bool {
        self.store(store).peers.get(&RegionId(region)).is_some_and(|peer| peer.is_asleep())
    }

    /// Whether every peer of every running store sleeps, and the stores know it.
    fn all_sleep(&self) -> bool {
        self.running().all(|store| {
            let asleep = store.peers.values().filter(|peer| peer.is_asleep()).count();
            assert_eq!(asleep, store.sleepers.asleep());
            let ticking: Vec<RegionId> = store.sleepers.awake().collect();
            let awake = store.peers.iter().filter(|(_, peer)| !peer.is_asleep());
            assert_eq!(ticking, awake.map(|(id, _)| *id).collect::<Vec<_>>());
            asleep == store.peers.len()
        })
    }

    fn until_asleep(&mut self) {
        self.until("sleep", Self::all_sleep);
    }

    /// Three stores, a region on each that sleeps; and who leads.
    fn sleeping(config: Config) -> (Self, u64) {
        let mut cluster = Self::with_region(3, 3, config);
        cluster.write("k", "v");
        cluster.until_asleep();
        let leader = cluster.leader(1).unwrap();
        (cluster, leader)
    }

    fn term(&self, store: u64) -> u64 {
        self.store(store).peers[&RegionId(1)].group.term()
    }

    /// Ticks until another store than this leads region 1; how many it took.
    fn ticks_until_another_leads(&mut self, old: u64) -> usize {
        for ticks in 0..200 {
            if self.leader(1).is_some_and(|new| new != old) {
                return ticks;
            }
            self.tick();
        }
        panic!("nobody else leads");
    }

    /// Counts messages of members to each other, and those of stores among themselves.
    fn count_messages(&mut self) -> std::rc::Rc<std::cell::Cell<(usize, usize)>> {
        let counted = std::rc::Rc::new(std::cell::Cell::new((0, 0)));
        let counter = counted.clone();
        self.filter = Some(Box::new(move |_, message| {
            let (of_raft, of_stores) = counter.get();
            let is_raft = message.message.is_some();
            counter.set((of_raft + usize::from(is_raft), of_stores + usize::from(!is_raft)));
            true
        }));
        counted
    }
}

fn is_extra(message: &RaftMessage, wanted: ExtraMessageType) -> bool {
    message.extra_msg.as_ref().is_some_and(|extra| extra.r#type() == wanted)
}

#[test]
fn a_quiet_region_says_nothing_but_that_its_stores_live() {
    let config = Config { down_after_ms: 1000, ..sleepy() };
    let (mut cluster, leader) = Cluster::sleeping(config);
    let counted = cluster.count_messages();
    cluster.reports.clear();
    let term = cluster.term(leader);
    cluster.ticks(2000);
    assert!(cluster.all_sleep());
    assert_eq!((cluster.leader(1), cluster.term(leader)), (Some(leader), term));
    let (of_raft, of_stores) = counted.get();
    assert_eq!(of_raft, 0);
    // Two pairs of stores. A question and its answer every three ticks are enough to know that the other
    // lives; some more are about regions.
    assert!((1000..2 * 2000).contains(&of_stores), "{of_stores}");
    // The scheduler still hears of it, and nobody is called dead.
    let heartbeats: Vec<_> = cluster
        .reports
        .iter()
        .filter_map(|(_, report)| {
            if let Report::RegionHeartbeat(heartbeat) = report { Some(heartbeat) } else { None }
        })
        .collect();
    assert_eq!(heartbeats.len(), 20);
    assert!(heartbeats.iter().all(|heartbeat| heartbeat.down_peers.is_empty()));
}

#[test]
fn without_the_setting_nobody_sleeps() {
    let mut cluster =
        Cluster::with_region(3, 3, Config { sleep_after_ticks: 0, ..Config::default() });
    cluster.ticks(300);
    assert!(cluster.running().all(|store| store.sleepers.asleep() == 0));
}

#[test]
fn a_region_that_is_the_only_one_of_its_kind_sleeps_too() {
    let mut cluster = Cluster::with_region(1, 1, sleepy());
    cluster.until_asleep();
    let counted = cluster.count_messages();
    cluster.ticks(200);
    assert_eq!(counted.get(), (0, 0));
    let read = cluster.barrier_at(1, 1, false);
    assert!(cluster.is_done(read));
    cluster.write("k", "w");
    cluster.until_asleep();
}

/// Something that somebody wants of a region, and whether the whole region must wake for it.
type Want = (&'static str, fn(&mut Cluster, u64));

#[test]
fn whatever_is_wanted_of_a_sleeping_region_is_done_and_then_it_sleeps_again() {
    let wants: [Want; 8] = [
        ("a write", |cluster, _| cluster.write("k", "w")),
        ("a read", |cluster, leader| {
            assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Barrier));
            let read = cluster.barrier_at(leader, 1, false);
            assert!(cluster.is_done(read));
            assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Lease));
        }),
        ("a read of a replica", |cluster, leader| {
            let read = cluster.barrier_at(leader % 3 + 1, 1, true);
            assert!(cluster.is_done(read));
        }),
        ("a split", |cluster, leader| {
            let split = cluster.split_at(leader, 1, &["g"]);
            assert!(matches!(cluster.reply(split), Some(Ok(Answer::Regions(_)))));
        }),
        ("a transfer", |cluster, leader| {
            // The first order wakes it; targets are chosen among those who have answered.
            cluster.transfer(1, leader % 3 + 1);
        }),
        ("another member", |cluster, _| cluster.add(1, &peer(90, 4))),
        ("the loss of a member", |cluster, leader| {
            let store = leader % 3 + 1;
            cluster.remove(1, &peer(store, store));
        }),
        ("a call to wake", |cluster, leader| {
            let follower = leader % 3 + 1;
            let message = RaftMessage {
                region_id: 1,
                from_peer: Some(peer(leader, leader)),
                to_peer: Some(peer(follower, follower)),
                region_epoch: cluster.region(leader, 1).region_epoch,
                extra_msg: Some(raft_serverpb::ExtraMessage::default()),
                ..Default::default()
            };
            cluster.tell(StoreId(follower), StoreMsg::Raft(Box::new(message)));
            cluster.run();
            assert!(!cluster.is_asleep(follower, 1));
            // Its leader keeps silent, and so it finds out in the end.
            cluster.until("the leader wakes", |cluster| !cluster.is_asleep(leader, 1));
        }),
    ];
    for (want, act) in wants {
        let mut cluster = Cluster::with_region(4, 3, sleepy());
        cluster.write("k", "v");
        cluster.until_asleep();
        cluster.ticks(50);
        let leader = cluster.leader(1).unwrap();
        let term = cluster.term(leader);
        act(&mut cluster, leader);
        assert!(!cluster.all_sleep(), "{want} wakes");
        if want != "a transfer" {
            assert_eq!((cluster.leader(1), cluster.term(leader)), (Some(leader), term), "{want}");
        }
        cluster.until_asleep();
        cluster.write("z", "w");
        cluster.until_asleep();
    }
}

#[test]
fn a_region_that_is_read_under_its_lease_does_not_sleep() {
    let mut cluster = Cluster::with_region(3, 3, sleepy());
    cluster.write("k", "v");
    let leader = cluster.leader(1).unwrap();
    for _ in 0..20 {
        cluster.ticks(QUIET as usize / 2);
        assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Lease));
    }
    cluster.until_asleep();
}

#[test]
fn a_leader_that_dies_in_sleep_is_replaced_in_the_usual_time() {
    for (seed, awake) in (0..6).flat_map(|seed| [(seed, false), (seed, true)]) {
        let config = if awake { Config { sleep_after_ticks: 0, ..sleepy() } } else { sleepy() };
        let mut cluster = Cluster::with_region(3, 3, config);
        cluster.write("k", "v");
        cluster.ticks(200 + seed);
        assert_eq!(cluster.all_sleep(), !awake);
        let old = cluster.leader(1).unwrap();
        cluster.stop(old);
        let ticks = cluster.ticks_until_another_leads(old);
        assert!(ticks <= 2 * ELECTION, "{ticks} ticks, awake: {awake}");
        cluster.write("k", "w");
        cluster.start(old);
        cluster.ticks(20);
        assert_eq!(cluster.value(old, "k"), Some("w".into()));
    }
}

#[test]
fn a_sleeping_leader_that_is_cut_off_is_replaced_and_answers_nothing_stale() {
    let (mut cluster, old) = Cluster::sleeping(sleepy());
    cluster.isolate(old);
    let ticks = cluster.ticks_until_another_leads(old);
    assert!(ticks <= 2 * ELECTION, "{ticks} ticks");
    cluster.write("k", "new");
    assert!(cluster.read_path(old, 1) != Ok(ReadPath::Lease));
    let read = cluster.barrier_at(old, 1, false);
    cluster.ticks(3 * ELECTION);
    assert!(!cluster.is_done(read));
    assert!(cluster.store(old).peers[&RegionId(1)].leader().is_none());
    cluster.heal();
    cluster.until_asleep();
    assert_eq!(cluster.value(old, "k"), Some("new".into()));
}

#[test]
fn a_leader_that_stood_still_in_its_sleep_finds_its_successor() {
    let (mut cluster, old) = Cluster::sleeping(sleepy());
    // Its process stands still: it neither hears nor ticks.
    let machine = cluster.nodes.get_mut(&StoreId(old)).unwrap().machine.take();
    cluster.ticks_until_another_leads(old);
    cluster.write("k", "new");
    cluster.ticks(100);
    let node = cluster.nodes.get_mut(&StoreId(old)).unwrap();
    node.machine = machine;
    node.inbox.clear();
    assert!(cluster.is_asleep(old, 1));
    assert!(cluster.store(old).peers[&RegionId(1)].leader().is_some());
    assert_eq!(cluster.read_path(old, 1), Ok(ReadPath::Barrier));
    let read = cluster.barrier_at(old, 1, false);
    cluster.ticks(2);
    assert!(!cluster.is_done(read));
    cluster.until_asleep();
    assert_eq!(cluster.value(old, "k"), Some("new".into()));
}

#[test]
fn a_follower_that_is_cut_off_does_not_disturb_the_rest() {
    let (mut cluster, leader) = Cluster::sleeping(sleepy());
    let term = cluster.term(leader);
    let follower = leader % 3 + 1;
    cluster.isolate(follower);
    cluster.ticks(2 * ELECTION);
    assert!(!cluster.is_asleep(leader, 1));
    cluster.ticks(100);
    // A leader whose follower does not answer stays awake.
    assert!(!cluster.is_asleep(leader, 1));
    assert_eq!((cluster.leader(1), cluster.term(leader)), (Some(leader), term));
    cluster.heal();
    cluster.until_asleep();
    assert_eq!((cluster.leader(1), cluster.term(leader)), (Some(leader), term));
}

#[test]
fn a_link_that_stays_broken_is_noticed_early() {
    let (mut cluster, leader) = Cluster::sleeping(sleepy());
    let (near, far) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let term = cluster.term(leader);
    // A moment's trouble.
    cluster.tell(StoreId(near), StoreMsg::Unreachable { store_id: StoreId(leader) });
    cluster.ticks(20);
    assert!(cluster.all_sleep());
    // Nobody counts on that store.
    cluster.cut.insert((StoreId(near), StoreId(far)));
    cluster.tell(StoreId(near), StoreMsg::Unreachable { store_id: StoreId(far) });
    cluster.ticks(20);
    assert!(cluster.all_sleep());
    // What it sends is lost, and so nothing is answered.
    cluster.cut.insert((StoreId(near), StoreId(leader)));
    cluster.cut.insert((StoreId(leader), StoreId(near)));
    cluster.tell(StoreId(near), StoreMsg::Unreachable { store_id: StoreId(leader) });
    cluster.ticks(6);
    assert!(!cluster.is_asleep(near, 1) && cluster.is_asleep(far, 1));
    // The leader does not hear the follower any more, and wakes too.
    cluster.ticks(ELECTION);
    assert!(!cluster.is_asleep(leader, 1));
    cluster.ticks(100);
    assert_eq!((cluster.leader(1), cluster.term(leader)), (Some(leader), term));
    cluster.heal();
    cluster.until_asleep();
    assert_eq!((cluster.leader(1), cluster.term(leader)), (Some(leader), term));
}

#[test]
fn a_follower_that_wakes_counts_no_more_time_than_has_passed() {
    let (mut cluster, leader) = Cluster::sleeping(sleepy());
    let follower = leader % 3 + 1;
    cluster.ticks(37);
    cluster.isolate(follower);
    let last = cluster.now;
    cluster.until("it wakes", |cluster| !cluster.is_asleep(follower, 1));
    let ticks = cluster.now.since(last) / cluster.config.tick_micros();
    // Its leader's store was heard at most four ticks before the cut.
    assert!((ELECTION as u64 - 4..=ELECTION as u64).contains(&ticks), "{ticks} ticks");
    let counted = cluster.store(follower).peers[&RegionId(1)].group.elapsed_ticks();
    assert_eq!(counted, ELECTION as u64);
    // A message wakes it: the store was heard a moment ago.
    cluster.heal();
    cluster.until_asleep();
    cluster.ticks(37);
    let read = cluster.barrier_at(follower, 1, true);
    let counted = cluster.store(follower).peers[&RegionId(1)].group.elapsed_ticks();
    assert!(cluster.is_done(read) && counted <= 4, "{counted}");
}

#[test]
fn in_ticks_of_which_a_sleeping_store_says_that_nothing_is_due_it_does_nothing() {
    let (mut cluster, _) = Cluster::sleeping(sleepy());
    let mut slept = 0;
    for _ in 0..4000 {
        cluster.now = cluster.now.plus(cluster.config.tick_micros());
        for id in [1, 2, 3].map(StoreId) {
            let store = &mut cluster.nodes.get_mut(&id).unwrap().machine.as_mut().unwrap().store;
            let due = store.ticks_until_due();
            let mut effects = Effects::default();
            store.tick(cluster.now, &mut effects).unwrap();
            assert!(due == 1 || effects.is_empty(), "{id}, {due} ticks before: {effects:?}");
            slept += usize::from(due > 1);
            cluster.perform(id, effects);
            cluster.run();
        }
    }
    assert!((1..=3).all(|id| cluster.is_asleep(id, 1)));
    assert!(slept > 3 * 4000 * 2 / 3, "only {slept} ticks were free");
}

#[test]
fn many_leaders_that_wake_for_a_neighbour_do_so_a_few_at_a_time() {
    let (mut cluster, leader) = Cluster::sleeping(sleepy());
    let keys: Vec<Bytes> = (0..600).map(|n| format!("k{n:04}").into()).collect();
    let target = cluster.target(leader, 1);
    cluster.tell(StoreId(leader), StoreMsg::Split { target, keys, reply: None });
    cluster.run();
    cluster.until_asleep();
    assert_eq!(cluster.store(leader).peers.len(), 601);
    let awake = |cluster: &Cluster, store| {
        cluster.store(store).peers.values().filter(|peer| !peer.is_asleep()).count()
    };
    let follower = leader % 3 + 1;
    cluster.isolate(follower);
    let mut seen = Vec::new();
    for _ in 0..16 {
        cluster.tick();
        seen.push(awake(&cluster, leader));
    }
    seen.dedup();
    assert_eq!(seen, [0, 256, 512, 601]);
    assert_eq!(awake(&cluster, follower), 601);
    // One of which something is wanted does not wait; none is woken twice.
    cluster.heal();
    cluster.until_asleep();
    assert_eq!(awake(&cluster, leader), 0);
}

#[test]
fn a_follower_that_comes_back_is_told_who_leads() {
    let (mut cluster, leader) = Cluster::sleeping(sleepy());
    let term = cluster.term(leader);
    let follower = leader % 3 + 1;
    cluster.ticks(40);
    cluster.stop(follower);
    cluster.ticks(3);
    cluster.start(follower);
    // Sooner than anybody could have campaigned.
    cluster.ticks(5);
    let known = cluster.store(follower).peers[&RegionId(1)].group.leader();
    assert_eq!(known, Some(PeerId(leader)));
    cluster.until_asleep();
    assert_eq!((cluster.leader(1), cluster.term(leader)), (Some(leader), term));
}

#[test]
fn a_leader_that_is_bounced_is_replaced_in_the_usual_time() {
    let (mut cluster, old) = Cluster::sleeping(sleepy());
    cluster.ticks(40);
    cluster.stop(old);
    cluster.tick();
    cluster.start(old);
    let ticks = (0..100).find(|_| {
        cluster.tick();
        cluster.leader(1).is_some()
    });
    assert!(ticks.is_some_and(|ticks| ticks <= 2 * ELECTION), "{ticks:?} ticks");
    cluster.write("k", "w");
    cluster.until_asleep();
}

#[test]
fn all_of_them_may_lose_power_in_their_sleep() {
    let (mut cluster, _) = Cluster::sleeping(sleepy());
    (1..=3).for_each(|id| cluster.lose_power(id, 0));
    (1..=3).for_each(|id| cluster.start(id));
    cluster.write("k", "w");
    cluster.until_asleep();
    assert!((1..=3).all(|id| cluster.value(id, "k") == Some("w".into())));
}

#[test]
fn a_leader_that_wakes_after_long_is_not_deposed_and_nobody_campaigns() {
    let (mut cluster, leader) = Cluster::sleeping(sleepy());
    let term = cluster.term(leader);
    cluster.ticks(3000);
    cluster.write("k", "w");
    // Its first heartbeats are lost; it still has an election timeout.
    cluster.ticks(QUIET as usize + 40);
    cluster.filter = Some(Box::new(|_, message| message.message.is_none()));
    let read = cluster.barrier_at(leader, 1, false);
    cluster.ticks(ELECTION - 4);
    cluster.filter = None;
    cluster.ticks(4);
    assert!(cluster.is_done(read));
    assert_eq!((cluster.leader(1), cluster.term(leader)), (Some(leader), term));
}

#[test]
fn while_one_does_not_agree_nobody_is_hurt() {
    let mut cluster = Cluster::with_region(3, 3, sleepy());
    cluster.write("k", "v");
    let leader = cluster.leader(1).unwrap();
    let term = cluster.term(leader);
    let (near, far) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.filter = Some(Box::new(move |from, message| {
        from.0 != far || !is_extra(message, ExtraMessageType::MsgHibernateResponse)
    }));
    cluster.ticks(200);
    // Those who agreed answer heartbeats in their sleep, and the lease is renewed.
    assert!(cluster.is_asleep(near, 1) && cluster.is_asleep(far, 1));
    assert!(!cluster.is_asleep(leader, 1));
    assert_eq!(cluster.read_path(leader, 1), Ok(ReadPath::Lease));
    assert_eq!((cluster.leader(1), cluster.term(leader)), (Some(leader), term));
    cluster.stop(leader);
    let ticks = cluster.ticks_until_another_leads(leader);
    assert!(ticks <= 2 * ELECTION, "{ticks} ticks");
}

#[test]
fn a_follower_that_slept_through_a_change_of_leaders_finds_out() {
    let (mut cluster, old) = Cluster::sleeping(sleepy());
    let (new, far) = (old % 3 + 1, (old + 1) % 3 + 1);
    // Stores hear each other, but the far one is told nothing of the region.
    cluster.filter = Some(Box::new(move |_, message| {
        message.message.is_none() || message.to_peer.as_ref().unwrap().store_id != far
    }));
    cluster.transfer(1, new);
    cluster.until("it wakes", |cluster| !cluster.is_asleep(far, 1));
    cluster.filter = None;
    cluster.until_asleep();
    let known = cluster.store(far).peers[&RegionId(1)].group.leader();
    assert_eq!(known, cluster.leader(1).map(PeerId));
}

#[test]
fn a_peer_that_was_removed_in_its_sleep_goes() {
    let (mut cluster, old) = Cluster::sleeping(sleepy());
    let (new, far) = (old % 3 + 1, (old + 1) % 3 + 1);
    cluster.filter = Some(Box::new(move |_, message| {
        message.message.is_none() || message.to_peer.as_ref().unwrap().store_id != far
    }));
    cluster.transfer(1, new);
    cluster.order_change(new, 1, eraftpb::ConfChangeType::RemoveNode, &peer(far, far));
    cluster.ticks(10);
    assert_eq!(cluster.region(new, 1).peers.len(), 2);
    cluster.filter = None;
    cluster.until("it is gone", |cluster| !cluster.has_region(far, 1));
    cluster.until_asleep();
}

#[test]
fn sleepers_of_many_regions_wake_together_and_their_duties_are_spread() {
    let (mut cluster, leader) = Cluster::sleeping(sleepy());
    let keys: Vec<&'static str> = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"].into();
    cluster.split_at(leader, 1, &keys);
    cluster.until_asleep();
    let counted = cluster.count_messages();
    cluster.reports.clear();
    let mut reported = Vec::new();
    for _ in 0..100 {
        cluster.tick();
        reported.push(
            cluster
                .reports
                .drain(..)
                .filter(|(_, report)| matches!(report, Report::RegionHeartbeat(_)))
                .count(),
        );
    }
    assert_eq!(reported.iter().sum::<usize>(), 11);
    assert!(*reported.iter().max().unwrap() < 4, "{reported:?}");
    // What is due within an eighth of the period is done together.
    let busy = reported.iter().filter(|count| **count > 0).count();
    assert!(busy <= 9, "{reported:?}");
    // Eleven regions sleep as cheaply as one.
    let (of_raft, of_stores) = counted.get();
    assert_eq!(of_raft, 0);
    assert!(of_stores < 2 * 100 + 50, "{of_stores}");
    cluster.stop(leader);
    cluster.ticks(2 * ELECTION + 2);
    let regions: Vec<u64> = cluster.store(leader % 3 + 1).peers.keys().map(|id| id.0).collect();
    assert_eq!(regions.len(), 11);
    for region in regions {
        assert!(cluster.leader(region).is_some_and(|new| new != leader), "{region}");
    }
}
