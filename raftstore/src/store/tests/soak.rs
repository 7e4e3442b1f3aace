//! Everything at once, at random: lossy links, crashes, splits, moves. The simulator does this better; here
//! it is quick enough to run with every change.

use super::*;

const STORES: u64 = 5;
const KEYS: u64 = 12;

/// A generator whose whole state is one number (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

/// One key, written by one client that waits for its answer before it writes again.
#[derive(Default)]
struct Register {
    next: u64,
    acknowledged: u64,
    waiting: Option<(ReplyId, u64)>,
    refused: BTreeSet<u64>,
    /// An answer never came, or nobody knows: its value may appear at any time, and the key is retired.
    is_unknown: bool,
}

struct Read {
    key: u64,
    at_least: u64,
    reply: ReplyId,
}

struct Soak {
    cluster: Cluster,
    dice: Dice,
    registers: Vec<Register>,
    reads: Vec<Read>,
    leaders: BTreeMap<(RegionId, u64), u64>,
    versions: BTreeMap<RegionId, (u64, u64)>,
    reads_answered: u64,
    idle_ticks: u64,
    /// Peers found asleep, over all ticks.
    found_asleep: u64,
}

fn key_name(key: u64) -> String {
    format!("k{key:02}")
}

impl Soak {
    fn new(seed: u64) -> Self {
        Self::in_lanes(seed, 0)
    }

    /// Every store has so many lanes; 0: as many as its number.
    fn in_lanes(seed: u64, raft_workers: usize) -> Self {
        let config = Config {
            raft_workers,
            compact_log_ticks: 10,
            compact_log_entries_min: 4,
            compact_log_entries_max: 20,
            // Soon, later, or never.
            sleep_after_ticks: [3, 15, 0][seed as usize % 3],
            leader_missing_ticks: 60,
            snapshot_retry_ticks: 100,
            right_derive_when_split: seed.is_multiple_of(2),
            ..Config::default()
        };
        Self {
            cluster: Cluster::with_region(STORES, 3, config),
            dice: Dice(seed),
            registers: (0..KEYS).map(|_| Register::default()).collect(),
            reads: Vec::new(),
            leaders: BTreeMap::new(),
            versions: BTreeMap::new(),
            reads_answered: 0,
            idle_ticks: 0,
            found_asleep: 0,
        }
    }

    fn run(&mut self, ticks: usize) {
        for _ in 0..ticks {
            self.disturb();
            // Now and then nobody wants anything for a while.
            self.idle_ticks = match self.dice.roll(100) {
                0 => 60,
                _ => self.idle_ticks.saturating_sub(1),
            };
            for _ in 0..if self.idle_ticks > 0 { 0 } else { 3 } {
                self.write();
                self.read();
            }
            self.cluster.tick();
            self.look();
        }
    }

    fn some_store(&mut self) -> u64 {
        1 + self.dice.roll(STORES)
    }

    fn is_up(&self, store: u64) -> bool {
        self.cluster.nodes[&StoreId(store)].machine.is_some()
    }

    /// A running store, its region for this key, if it has one.
    fn place(&mut self, key: u64) -> Option<(u64, metapb::Region)> {
        let store = self.some_store();
        if !self.is_up(store) {
            return None;
        }
        let name = key_name(key);
        let found = self.cluster.store(store).peers.values().find(|peer| {
            peer.is_initialized() && KeyRange::of(&peer.region).contains(name.as_bytes())
        })?;
        Some((store, found.region.clone()))
    }

    fn write(&mut self) {
        let key = self.dice.roll(KEYS);
        let Some((store, region)) = self.place(key) else { return };
        let register = &mut self.registers[key as usize];
        if register.waiting.is_some() || register.is_unknown {
            return;
        }
        register.next += 1;
        let value = register.next;
        let reply = self.cluster.write_at(store, region.id, &key_name(key), &value.to_string());
        self.registers[key as usize].waiting = Some((reply, value));
    }

    fn read(&mut self) {
        let key = self.dice.roll(KEYS);
        let Some((store, region)) = self.place(key) else { return };
        let at_least = self.registers[key as usize].acknowledged;
        if self.cluster.read_path(store, region.id) == Ok(ReadPath::Lease) {
            let snapshot = self.cluster.nodes[&StoreId(store)].data.snapshot();
            self.saw(key, &snapshot, at_least, "by lease");
            return;
        }
        let replica_read = self.dice.roll(2) == 0;
        let reply = self.cluster.barrier_at(store, region.id, replica_read);
        self.reads.push(Read { key, at_least, reply });
        self.take_answers();
    }

    fn saw(&mut self, key: u64, snapshot: &MemorySnapshot, at_least: u64, how: &str) {
        let found = snapshot.get(ColumnFamily::Default, key_name(key).as_bytes()).unwrap();
        let found: u64 =
            found.map_or(0, |value| std::str::from_utf8(&value).unwrap().parse().unwrap());
        let register = &self.registers[key as usize];
        assert!(found >= at_least, "{how}: k{key} is {found}, not yet {at_least}");
        assert!(!register.refused.contains(&found), "{how}: k{key}={found} was refused");
        self.reads_answered += 1;
    }

    fn take_answers(&mut self) {
        for register in &mut self.registers {
            let Some((reply, value)) = register.waiting else { continue };
            match self.cluster.replies.get(&reply) {
                None => continue,
                Some(Ok(_)) => register.acknowledged = value,
                Some(Err(Refusal::UndeterminedResult { .. })) => register.is_unknown = true,
                Some(Err(_)) => {
                    register.refused.insert(value);
                }
            }
            register.waiting = None;
        }
        for read in std::mem::take(&mut self.reads) {
            match self.cluster.replies.get(&read.reply) {
                None => self.reads.push(read),
                Some(_) => {
                    if let Some(snapshot) = self.cluster.seen.remove(&read.reply) {
                        self.saw(read.key, &snapshot, read.at_least, "by barrier");
                    }
                }
            }
        }
    }

    /// What must hold at any time.
    fn look(&mut self) {
        self.take_answers();
        let mut leases: BTreeMap<RegionId, u64> = BTreeMap::new();
        for store in self.cluster.running() {
            let mut ranges = Vec::new();
            for (region_id, peer) in &store.peers {
                self.found_asleep += u64::from(peer.is_asleep());
                if let Some(leader) = peer.leader() {
                    let other =
                        *self.leaders.entry((*region_id, leader.term)).or_insert(store.id.0);
                    assert_eq!(other, store.id.0, "{region_id} has two leaders in {}", leader.term);
                }
                if peer.view().is_leader && peer.view().holds_lease(self.cluster.now) {
                    let other = leases.insert(*region_id, store.id.0);
                    assert_eq!(other, None, "{region_id}: two may answer alone");
                }
                let epoch = region::epoch(&peer.region);
                let newest = self.versions.entry(*region_id).or_default();
                newest.0 = newest.0.max(epoch.version);
                newest.1 = newest.1.max(epoch.conf_ver);
                if peer.is_initialized() {
                    ranges.push(KeyRange::of(&peer.region));
                }
            }
            for (at, range) in ranges.iter().enumerate() {
                assert!(ranges[at + 1..].iter().all(|other| !other.overlaps(range)));
            }
        }
    }

    fn disturb(&mut self) {
        match self.dice.roll(60) {
            0 => {
                let store = self.some_store();
                self.cluster.isolate(store);
            }
            1..=3 => self.cluster.heal(),
            4 => {
                let (percent, seed) = (self.dice.roll(30), self.dice.roll(1 << 40));
                let mut dice = Dice(seed);
                self.cluster.filter = Some(Box::new(move |_, _| dice.roll(100) >= percent));
            }
            5 => {
                let (store, keep) = (self.some_store(), self.dice.roll(6) as usize);
                let down = (1..=STORES).filter(|store| !self.is_up(*store)).count();
                if self.is_up(store) && down == 0 {
                    self.forget_waiting(store);
                    if self.dice.roll(2) == 0 {
                        self.cluster.stop(store);
                    } else {
                        self.cluster.lose_power(store, keep);
                    }
                }
            }
            6..=8 => self.start_all(),
            9 => {
                let store = self.some_store();
                if self.is_up(store) {
                    self.cluster.hold_applier(store);
                }
            }
            10..=12 => self.release_all(),
            13..=17 => self.split(),
            18..=26 => self.change_membership(),
            27..=29 => {
                let key = self.dice.roll(KEYS);
                if let Some((store, region)) = self.place(key) {
                    let to = region.peers[self.dice.roll(region.peers.len() as u64) as usize];
                    self.cluster.order(store, region.id, |order| {
                        order.transfer_leader =
                            Some(pdpb::TransferLeader { peer: Some(to), peers: vec![] });
                    });
                }
            }
            30 => {
                let store = self.some_store();
                if self.is_up(store) {
                    let node = self.cluster.nodes.get_mut(&StoreId(store)).unwrap();
                    node.held_background.get_or_insert_default();
                }
            }
            // A pause of the whole world but its clock.
            31 => self.cluster.now = self.cluster.now.plus(700_000),
            _ => {}
        }
    }

    fn split(&mut self) {
        let key = self.dice.roll(KEYS);
        if self.versions.len() < 8
            && let Some((store, region)) = self.place(key)
        {
            let target = self.cluster.target(store, region.id);
            let reply = Some(self.cluster.new_reply());
            let keys = vec![key_name(key).into()];
            self.cluster.tell(StoreId(store), StoreMsg::Split { target, keys, reply });
            self.cluster.run();
        }
    }

    /// Towards three members: adds where there are fewer, else removes; learners are promoted.
    fn change_membership(&mut self) {
        let key = self.dice.roll(KEYS);
        let Some((store, region)) = self.place(key) else { return };
        let to = self.some_store();
        if region::is_joint(&region) {
            // Left by order or, in the end, without one.
            if self.dice.roll(2) == 0 {
                self.cluster.order_changes(store, region.id, &[]);
            }
            return;
        }
        let learner = region.peers.iter().find(|peer| region::is_learner(peer)).copied();
        let (change_type, member) = if let Some(learner) = learner {
            let voters: Vec<_> = region.peers.iter().filter(|p| !region::is_learner(p)).collect();
            let other = *voters[self.dice.roll(voters.len() as u64) as usize];
            let is_full = voters.len() >= 3;
            match self.dice.roll(4) {
                0 if is_full => (eraftpb::ConfChangeType::RemoveNode, learner),
                1 | 2 if is_full => {
                    let swap = [
                        (eraftpb::ConfChangeType::AddNode, learner),
                        (eraftpb::ConfChangeType::AddLearnerNode, other),
                    ];
                    self.cluster.order_changes(store, region.id, &swap);
                    return;
                }
                _ => (eraftpb::ConfChangeType::AddNode, learner),
            }
        } else if region.peers.len() <= 3 {
            if let Some(there) = region::peer_on(&region, StoreId(to)) {
                // Now and then a voter becomes a learner, and comes back later.
                if self.dice.roll(4) > 0 {
                    return;
                }
                (eraftpb::ConfChangeType::AddLearnerNode, *there)
            } else {
                let id = self.cluster.new_id();
                let change_type = match self.dice.roll(3) {
                    0 => eraftpb::ConfChangeType::AddNode,
                    _ => eraftpb::ConfChangeType::AddLearnerNode,
                };
                (change_type, peer(id, to))
            }
        } else {
            let Some(there) = region::peer_on(&region, StoreId(to)).copied() else { return };
            (eraftpb::ConfChangeType::RemoveNode, there)
        };
        self.cluster.order_change(store, region.id, change_type, &member);
    }

    /// Whoever waits at a store that dies is never answered.
    fn forget_waiting(&mut self, _store: u64) {
        self.take_answers();
        for register in &mut self.registers {
            if register.waiting.take().is_some() {
                register.is_unknown = true;
            }
        }
        self.reads.clear();
    }

    fn release_all(&mut self) {
        for store in 1..=STORES {
            self.cluster.release_applier(store);
            let node = self.cluster.nodes.get_mut(&StoreId(store)).unwrap();
            if let (Some(tasks), Some(machine)) = (node.held_background.take(), &mut node.machine) {
                for task in tasks {
                    node.inbox.extend(machine.background.perform(task).unwrap());
                }
            }
            self.cluster.run();
        }
    }

    fn start_all(&mut self) {
        for store in 1..=STORES {
            if !self.is_up(store) {
                self.cluster.start(store);
            }
        }
    }

    /// When nothing is disturbed any more all is well in finite time.
    fn settle(&mut self) {
        self.cluster.heal();
        self.start_all();
        self.release_all();
        for _ in 0..600 {
            self.cluster.tick();
            self.look();
            if self.is_settled() {
                break;
            }
        }
        assert!(self.is_settled(), "{}", self.describe());
        self.take_answers();
        for key in 0..KEYS {
            assert!(self.registers[key as usize].waiting.is_none(), "k{key} is never answered");
        }
        assert!(self.reads.is_empty(), "reads are never answered");
        for key in 0..KEYS {
            let at_least = self.registers[key as usize].acknowledged;
            let holders: Vec<u64> =
                (1..=STORES)
                    .filter(|store| {
                        self.cluster.store(*store).peers.values().any(|peer| {
                            KeyRange::of(&peer.region).contains(key_name(key).as_bytes())
                        })
                    })
                    .collect();
            let values: BTreeSet<_> =
                holders.iter().map(|store| self.cluster.value(*store, &key_name(key))).collect();
            assert_eq!(values.len(), 1, "k{key} differs between stores");
            let snapshot = self.cluster.nodes[&StoreId(holders[0])].data.snapshot();
            self.saw(key, &snapshot, at_least, "at last");
        }
    }

    /// Newest regions tile the keys; each has a leader whom all members follow, and nobody else has it.
    fn is_settled(&self) -> bool {
        let mut led: BTreeMap<RegionId, &metapb::Region> = BTreeMap::new();
        for store in self.cluster.running() {
            for (region_id, peer) in &store.peers {
                if peer.leader().is_some() {
                    led.insert(*region_id, &peer.region);
                }
            }
        }
        let mut map = super::super::region_map::RegionMap::default();
        for region in led.values() {
            if !map.overlapping(&KeyRange::of(region)).is_empty() {
                return false;
            }
            map.insert(KeyRange::of(region), region::id(region));
        }
        let mut present = BTreeMap::new();
        for store in self.cluster.running() {
            for (region_id, peer) in &store.peers {
                let Some(region) = led.get(region_id) else { return false };
                let applied = present.entry(*region_id).or_insert((peer.applied.index, 0));
                if peer.region != **region
                    || peer.phase != crate::peer::Phase::Serving
                    || applied.0 != peer.applied.index
                {
                    return false;
                }
                applied.1 += 1;
            }
        }
        map.gaps().is_empty()
            && led.iter().all(|(id, region)| {
                present.get(id).is_some_and(|(_, count)| *count == region.peers.len())
            })
            && self.registers.iter().all(|register| register.waiting.is_none())
            && self.reads.is_empty()
    }

    fn describe(&self) -> String {
        let mut out = String::from("it does not settle:\n");
        for (key, register) in self.registers.iter().enumerate() {
            if let Some((reply, value)) = register.waiting {
                out += &format!("k{key}={value} waits for {reply:?}\n");
            }
        }
        for read in &self.reads {
            out += &format!("k{} waits for {:?}\n", read.key, read.reply);
        }
        for store in self.cluster.running() {
            for peer in store.peers.values() {
                let raft = peer.group.raft();
                out += &format!(
                    "{} {}.{} {} {:?} {:?} t{} lead{} applied {} commit {} last {} {:?} {:?} {:?}\n",
                    store.id,
                    peer.region_id(),
                    peer.id(),
                    region::Readable(&peer.region),
                    peer.phase,
                    raft.state,
                    raft.term,
                    raft.leader_id,
                    peer.applied,
                    raft.raft_log.committed,
                    peer.group.last_index(),
                    peer.proposals,
                    peer.writes,
                    peer.reads,
                );
            }
        }
        out
    }
}

fn soak(seed: u64) -> (u64, u64) {
    let mut soak = Soak::new(seed);
    soak.run(400);
    soak.settle();
    (soak.reads_answered, soak.found_asleep)
}

#[test]
fn under_all_faults_nothing_acknowledged_is_lost_and_all_ends_well() {
    let (read, asleep) = (0..20).map(soak).fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
    assert!(read > 1000, "only {read} reads were answered");
    assert!(asleep > 1000, "only {asleep} times was a peer asleep");
}

#[test]
fn the_number_of_lanes_cannot_be_seen() {
    let digest = |seed, lanes| {
        let mut soak = Soak::in_lanes(seed, lanes);
        soak.cluster.digest = Some(DefaultHasher::new());
        soak.run(200);
        soak.settle();
        soak.cluster.digest.unwrap().finish()
    };
    for seed in [100, 101] {
        let alone = digest(seed, 1);
        for lanes in [2, 4] {
            assert_eq!(digest(seed, lanes), alone, "seed {seed} in {lanes} lanes");
        }
    }
}
