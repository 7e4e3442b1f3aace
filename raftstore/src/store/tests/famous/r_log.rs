//! The log and the vote: what is promised is on disk, and what is not on disk is not promised.
//!
//! That a log which was rolled back is refused at opening (R15) is the engine's
//! (`tests/engines/damaged_log.rs`); that a store which finds an empty disk is given a new id, the scheduler's
//! and `kv/src/identity.rs`.

use std::collections::VecDeque;

use eraftpb::MessageType;
use raft::Storage as _;
use raft::eraftpb::{ConfState, Entry, Message};

use super::*;
use crate::engine::GroupWrite;
use crate::group::GroupSettings;
use crate::storage::FIRST_POSITION;
use crate::storage::group_log::GroupLog;

/// A candidate of region 7, of which this store has heard nothing, asks peer 20 for its vote in term 9.
fn vote_request(candidate: u64) -> StoreMsg {
    StoreMsg::Raft(Box::new(RaftMessage {
        region_id: 7,
        from_peer: Some(peer(candidate, candidate)),
        to_peer: Some(peer(20, 1)),
        region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 1 }),
        message: Some(eraftpb::Message {
            msg_type: MessageType::MsgRequestVote.into(),
            from: candidate,
            to: 20,
            term: 9,
            index: 10,
            log_term: 8,
            ..Default::default()
        }),
        ..Default::default()
    }))
}

/// To whom store 1 has granted its vote, as far as anybody can hear.
fn heard_grants(cluster: &mut Cluster) -> std::rc::Rc<std::cell::RefCell<Vec<u64>>> {
    let grants = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let heard = grants.clone();
    cluster.filter = Some(Box::new(move |_, message| {
        if let Some(inner) = &message.message
            && inner.msg_type() == MessageType::MsgRequestVoteResponse
            && !inner.reject
        {
            heard.borrow_mut().push(inner.to);
        }
        true
    }));
    grants
}

#[test]
fn bug_r10_an_empty_peer_forgets_its_vote() {
    let mut cluster = Cluster::new(1, Config::default());
    cluster.start(1);
    let grants = heard_grants(&mut cluster);
    cluster.tell(StoreId(1), vote_request(21));
    cluster.run();
    assert_eq!(*grants.borrow(), [21]);
    cluster.lose_power(1, 0);
    cluster.start(1);
    cluster.tell(StoreId(1), vote_request(22));
    cluster.run();
    assert_eq!(*grants.borrow(), [21], "one vote in one term");
    let raft = cluster.store(1).peers[&RegionId(7)].group.raft();
    assert_eq!((raft.term, raft.vote), (9, 21));
}

#[test]
fn bug_r10_the_vote_of_an_empty_peer_leaves_before_it_is_durable() {
    let mut cluster = Cluster::new(1, Config::default());
    cluster.start(1);
    let grants = heard_grants(&mut cluster);
    cluster.hold_log(1);
    cluster.tell(StoreId(1), vote_request(21));
    cluster.run();
    assert!(grants.borrow().is_empty());
    // It is forgotten, so it must not have been given.
    cluster.lose_power(1, 0);
    cluster.start(1);
    cluster.tell(StoreId(1), vote_request(22));
    cluster.run();
    assert_eq!(*grants.borrow(), [22]);
}

/// On how many disks an entry of region 1 would survive a loss of power.
fn durable_on(cluster: &Cluster, index: u64, term: u64) -> usize {
    let has = |node: &&Node| node.log.is_durable(RegionId(1), index, term);
    cluster.nodes.values().filter(has).count()
}

#[test]
fn bug_r11_a_follower_acknowledges_what_its_disk_does_not_have() {
    let mut cluster = Cluster::three();
    cluster.write("k", "v");
    cluster.ticks(4);
    let leader = cluster.leader(1).unwrap();
    let slow = next_of(leader);
    cluster.isolate(next_of(slow));
    cluster.hold_log(slow);
    let reply = cluster.write_at(leader, 1, "k", "w");
    let (last, term) = (group(&cluster, leader).last_index(), group(&cluster, leader).term());
    assert_eq!(group(&cluster, slow).last_index(), last, "in memory it has it");
    // Heartbeats, empty appends and the entry again; none of them is an occasion to acknowledge.
    for _ in 0..5 {
        cluster.tell(StoreId(leader), StoreMsg::Unreachable { store_id: StoreId(slow) });
        cluster.tick();
        assert_eq!(cluster.reply(reply), None);
        assert!(group(&cluster, leader).committed_index() < last, "it is on one disk only");
    }
    cluster.lose_power(slow, 0);
    cluster.start(slow);
    assert!(group(&cluster, slow).last_index() < last);
    for _ in 0..60 {
        cluster.tick();
        if cluster.is_done(reply) {
            break;
        }
        let knows = |store: &u64| group(&cluster, *store).committed_index() >= last;
        assert!(![leader, slow].iter().any(knows) || durable_on(&cluster, last, term) >= 2);
    }
    cluster.heal();
    cluster.write("k", "x");
}

#[test]
fn bug_r12_the_end_of_a_write_is_taken_for_that_of_the_write_that_replaced_it() {
    // How many of the slow disk's writes are done when the power fails there.
    for done in 0.. {
        // Only what is not durable stays in memory.
        let config = Config { entry_cache_bytes: 0, ..Config::default() };
        let mut cluster = Cluster::with_region(5, 5, config);
        cluster.write("k", "v");
        cluster.ticks(4);
        let a = cluster.leader(1).unwrap();
        let slow = a % 5 + 1;
        // An entry of A reaches the slow one only.
        let others: Vec<u64> = (1..=5).filter(|store| *store != a && *store != slow).collect();
        others.iter().for_each(|store| {
            cluster.cut.insert((StoreId(a), StoreId(*store)));
        });
        cluster.hold_log(slow);
        cluster.write_at(a, 1, "k", "of A");
        let (at, term) = (group(&cluster, slow).last_index(), group(&cluster, a).term());
        assert_eq!((group(&cluster, a).last_index(), cluster.held_writes(slow)), (at, 1));
        // C is elected by the others, and its own entry takes the place, there only.
        cluster.cut.clear();
        cluster.isolate(a);
        cluster.filter = Some(Box::new(move |_, message| {
            !is_type(message, MessageType::MsgAppend)
                || message.to_peer.is_some_and(|to| to.store_id == slow)
        }));
        cluster.until("C", |cluster| cluster.leader(1).is_some_and(|c| c != a));
        let c = cluster.leader(1).unwrap();
        let last = |cluster: &Cluster| group(cluster, slow).log().last();
        assert_eq!((last(&cluster).index, last(&cluster).term), (at, group(&cluster, c).term()));
        // A leads again, and brings back the very same entry.
        cluster.cut.clear();
        cluster.isolate(c);
        cluster.until("A again", |cluster| cluster.leader(1) == Some(a));
        let log = &cluster.nodes[&StoreId(a)].log;
        let entries = log.entries(RegionId(1), at, at + 2, u64::MAX).unwrap();
        assert_eq!(entries[0].term, term);
        let append = RaftMessage {
            region_id: 1,
            from_peer: Some(peer(a, a)),
            to_peer: Some(peer(slow, slow)),
            region_epoch: cluster.region(a, 1).region_epoch,
            message: Some(eraftpb::Message {
                msg_type: MessageType::MsgAppend.into(),
                from: a,
                to: slow,
                term: group(&cluster, a).term(),
                index: at - 1,
                log_term: group(&cluster, a).log().term(at - 1).unwrap(),
                entries: entries.clone(),
                ..Default::default()
            }),
            ..Default::default()
        };
        deliver(&mut cluster, &[append]);
        assert_eq!(last(&cluster).index, at + 1);
        let writes = cluster.held_writes(slow);
        assert!(writes >= 3);
        for _ in 0..done {
            cluster.release_writes(slow, 1);
            let context = raft::GetEntriesContext::empty(false);
            let found = group(&cluster, slow).log().entries(at, at + 2, None, context).unwrap();
            let terms = [found[0].term, found[1].term];
            assert_eq!(terms, [entries[0].term, entries[1].term], "after some of {done} writes");
        }
        let matched = group(&cluster, a).raft().prs().get(slow).unwrap().matched;
        assert!(matched < at || durable_on(&cluster, at, term) >= 2, "{done} of {writes}");
        cluster.lose_power(slow, 0);
        cluster.start(slow);
        cluster.heal();
        cluster.write("k", "last");
        cluster.until("all agree", |cluster| {
            (1..=5).all(|store| cluster.value(store, "k") == Some("last".into()))
        });
        if done == writes {
            break;
        }
    }
}

/// Random numbers enough for a test.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// A follower whose log is overwritten time and again while its disk lags, and what the log should be.
struct Overwritten {
    engine: MemoryLog,
    follower: Group<MemoryLog>,
    /// Index 5 is the first; with the term and the number of each entry.
    wanted: Vec<(u64, u64)>,
    term: u64,
    committed: u64,
    on_their_way: VecDeque<(u64, Option<GroupWrite>)>,
    next_number: u64,
}

impl Overwritten {
    fn new() -> Self {
        let engine = MemoryLog::new();
        let members = ConfState::from((vec![1, 2, 3], vec![]));
        let log = GroupLog::open(engine.clone(), RegionId(1), members, FIRST_POSITION, 300);
        let settings = GroupSettings::from(&Config::default());
        let follower = Group::new(PeerId(1), log.unwrap(), FIRST_POSITION.index, &settings);
        Self {
            engine,
            follower: follower.unwrap(),
            wanted: vec![(FIRST_POSITION.term, 0)],
            term: FIRST_POSITION.term,
            committed: FIRST_POSITION.index,
            on_their_way: VecDeque::new(),
            next_number: 1,
        }
    }

    fn last(&self) -> u64 {
        FIRST_POSITION.index + self.wanted.len() as u64 - 1
    }

    fn term_of(&self, index: u64) -> u64 {
        self.wanted[(index - FIRST_POSITION.index) as usize].0
    }

    /// A leader appends, in a new term where it replaces something.
    fn append(&mut self, dice: &mut Dice) {
        let keep = self.committed + dice.below(self.last() - self.committed + 1);
        if keep < self.last() || dice.below(4) == 0 {
            self.term += 1;
        }
        self.wanted.truncate((keep - FIRST_POSITION.index) as usize + 1);
        let count = 1 + dice.below(4);
        let mut entries = Vec::new();
        for index in keep + 1..=keep + count {
            let number = self.next_number;
            self.next_number += 1;
            let mut data = number.to_be_bytes().to_vec();
            data.resize(8 + dice.below(60) as usize, 0);
            entries.push(Entry { index, term: self.term, data: data.into(), ..Entry::default() });
            self.wanted.push((self.term, number));
        }
        self.committed += dice.below(keep - self.committed + 1);
        let message = Message {
            msg_type: raft::eraftpb::MessageType::MsgAppend,
            from: 2,
            to: 1,
            term: self.term,
            index: keep,
            log_term: self.term_of(keep),
            entries: entries.into(),
            commit: self.committed,
            ..Message::default()
        };
        self.follower.step(message).unwrap();
    }

    fn take_ready(&mut self) {
        if let Some(ready) = self.follower.take_ready() {
            if ready.awaits_persist {
                self.on_their_way.push_back((ready.number, ready.write));
            }
            if let Some(last) = ready.committed.last() {
                self.follower.applied_to(last.index);
            }
        }
    }

    fn persist(&mut self) {
        let Some((number, write)) = self.on_their_way.pop_front() else { return };
        let groups = write.map(|write| (RegionId(1), write)).into_iter().collect();
        self.engine.write(LogBatch { groups }).unwrap();
        self.follower.on_persisted(number);
    }

    fn cut(&mut self, dice: &mut Dice) {
        let applied = self.follower.raft().raft_log.applied;
        let gone = self.follower.log().truncated().index;
        if applied > gone + 1 && self.on_their_way.is_empty() {
            let index = gone + 1 + dice.below(applied - gone - 1);
            let term = self.term_of(index);
            self.follower.log_mut().cut(crate::storage::group_log::Position { index, term });
        }
    }

    fn check(&self, dice: &mut Dice) {
        let log = self.follower.log();
        let first = log.truncated().index + 1;
        if first > self.last() {
            return;
        }
        let low = first + dice.below(self.last() - first + 1);
        let high = low + 1 + dice.below(self.last() - low + 1);
        let context = raft::GetEntriesContext::empty(false);
        let found = log.entries(low, high, None, context).unwrap();
        let found: Vec<(u64, u64)> = found
            .iter()
            .map(|entry| (entry.term, u64::from_be_bytes(entry.data[..8].try_into().unwrap())))
            .collect();
        let from = (low - FIRST_POSITION.index) as usize;
        assert_eq!(found, self.wanted[from..from + (high - low) as usize], "{low}..{high}");
        assert_eq!(log.term(low).unwrap(), self.term_of(low));
    }
}

#[test]
fn bug_r13_entries_that_were_overwritten_are_served_from_memory() {
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let mut log = Overwritten::new();
        for _ in 0..300 {
            match dice.below(10) {
                0..4 => log.append(&mut dice),
                4..6 => log.persist(),
                6 => log.follower.log_mut().forget_cached(u64::MAX),
                7 => log.cut(&mut dice),
                _ => {}
            }
            // What raft has not handed over is in raft's own memory.
            log.take_ready();
            log.check(&mut dice);
        }
    }
}

#[test]
fn bug_r14_the_only_voter_acknowledges_before_its_own_disk_has_it() {
    let mut cluster = Cluster::with_region(1, 1, Config::default());
    cluster.write("k", "v");
    cluster.hold_log(1);
    let reply = cluster.write_at(1, 1, "k", "lost");
    cluster.ticks(3);
    assert_eq!(cluster.reply(reply), None);
    assert_eq!(cluster.value(1, "k"), Some("v".into()), "nor is it shown to readers");
    cluster.lose_power(1, 0);
    cluster.start(1);
    cluster.until("it leads", |cluster| cluster.leader(1).is_some());
    assert_eq!(cluster.value(1, "k"), Some("v".into()));
    cluster.hold_log(1);
    let reply = cluster.write_at(1, 1, "k", "w");
    cluster.release_log(1);
    assert!(cluster.is_done(reply));
    cluster.lose_power(1, 0);
    cluster.start(1);
    cluster.until("it leads", |cluster| cluster.leader(1).is_some());
    assert_eq!(cluster.value(1, "k"), Some("w".into()));
}

#[test]
fn bug_r14_the_only_voter_loses_what_it_acknowledged_wherever_the_power_fails() {
    for operations in 0..24 {
        for keep in 0..3 {
            let mut cluster = Cluster::with_region(1, 1, Config::default());
            cluster.write("k", "0");
            let mut acknowledged = 0;
            cluster.fail_after(1, operations);
            for n in 1..10u32 {
                if cluster.is_down(1) {
                    break;
                }
                let reply = cluster.write_at(1, 1, "k", &n.to_string());
                if cluster.is_done(reply) {
                    acknowledged = n;
                }
            }
            cluster.lose_power(1, keep);
            cluster.repair(1);
            cluster.start(1);
            cluster.until("it leads", |cluster| cluster.leader(1).is_some());
            let found: u32 =
                std::str::from_utf8(&cluster.value(1, "k").unwrap()).unwrap().parse().unwrap();
            assert!(found >= acknowledged, "{found} of {acknowledged} after {operations}, {keep}");
        }
    }
}

#[test]
fn bug_r14_a_leader_counts_itself_before_its_own_disk_has_the_entry() {
    let mut cluster = Cluster::three();
    cluster.write("k", "v");
    cluster.ticks(4);
    let leader = cluster.leader(1).unwrap();
    cluster.isolate(next_of(leader));
    cluster.hold_log(leader);
    let reply = cluster.write_at(leader, 1, "k", "w");
    let (last, term) = (group(&cluster, leader).last_index(), group(&cluster, leader).term());
    cluster.ticks(3);
    assert_eq!(durable_on(&cluster, last, term), 1, "on the follower");
    assert_eq!(cluster.reply(reply), None);
    cluster.release_log(leader);
    assert!(cluster.is_done(reply));
}

#[test]
fn bug_r15_a_store_that_has_lost_its_log_starts() {
    let mut cluster = Cluster::three();
    cluster.write("k", "v");
    cluster.ticks(4);
    let data = cluster.nodes[&StoreId(1)].data.clone();
    let config = cluster.config.clone();
    let mut effects = Effects::default();
    let opened = Store::open(StoreId(1), config, data, MemoryLog::new(), Now(0), &mut effects);
    assert!(matches!(opened.err(), Some(Fault::Missing { .. })));
}

#[test]
fn bug_r15_a_store_that_has_lost_its_disk_votes_again() {
    let mut cluster = Cluster::with_region(4, 3, Config::default());
    cluster.write("k", "v");
    cluster.ticks(4);
    let leader = cluster.leader(1).unwrap();
    let lost = next_of(leader);
    // Its disk is empty, so it is store 4 now, where store `lost` was: everything meant for that one comes
    // to it. Heartbeats speak of commits that it has not, and candidates ask for a vote given before.
    cluster.stop(lost);
    let kept = Kept::default();
    let keep = kept.clone();
    cluster.filter = Some(Box::new(move |_, message| {
        let is_for_it = message.to_peer.is_some_and(|to| to.store_id == lost);
        if is_for_it {
            keep.borrow_mut().push(message.clone());
        }
        !is_for_it
    }));
    cluster.write("k", "w");
    cluster.ticks(10);
    cluster.transfer(1, next_of(lost));
    cluster.isolate(next_of(lost));
    cluster.ticks(40);
    let meant_for_it = kept.borrow().clone();
    let asks = |message: &&RaftMessage| {
        is_type(message, MessageType::MsgRequestVote)
            || is_type(message, MessageType::MsgRequestPreVote)
    };
    assert!(meant_for_it.iter().filter(asks).count() > 0);
    for message in meant_for_it {
        cluster.tell(StoreId(4), StoreMsg::Raft(Box::new(message)));
        cluster.run();
        assert!(cluster.store(4).peers.is_empty());
    }
    // It is added as what it is, under a new peer id.
    cluster.heal();
    cluster.filter =
        Some(Box::new(move |_, message| message.to_peer.is_none_or(|to| to.store_id != lost)));
    cluster.remove(1, &peer(lost, lost));
    cluster.add(1, &peer(14, 4));
    cluster.until("the data", |cluster| cluster.value(4, "k") == Some("w".into()));
}

#[test]
fn bug_r16_a_message_that_raft_would_panic_on_stops_a_store() {
    for seed in 0..40 {
        let mut dice = Dice(seed);
        let mut cluster = Cluster::three();
        cluster.write("k", "v");
        let kept = Kept::default();
        let keep = kept.clone();
        cluster.filter = Some(Box::new(move |_, message| {
            keep.borrow_mut().push(message.clone());
            true
        }));
        for n in 0..12 {
            cluster.write("k", &n.to_string());
            cluster.ticks(2);
        }
        let messages = kept.borrow().clone();
        cluster.filter = None;
        for _ in 0..300 {
            let mut message = messages[dice.below(messages.len() as u64) as usize].clone();
            spoil(&mut message, &mut dice);
            let to = StoreId(1 + dice.below(3));
            let message = Box::new(message);
            if dice.below(8) == 0 {
                let source = crate::msg::SnapshotSource::Bytes(Bytes::new());
                cluster.tell(to, StoreMsg::SnapshotReceived { message, source });
            } else {
                cluster.tell(to, StoreMsg::Raft(message));
            }
            cluster.run();
        }
        cluster.ticks(30);
    }
}

/// Changes one thing about a message, or two.
fn spoil(message: &mut RaftMessage, dice: &mut Dice) {
    let odd = |number: u64, dice: &mut Dice| match dice.below(7) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => 1 << 57,
        4 => number.wrapping_add(1000),
        5 => number.wrapping_sub(1),
        _ => number.wrapping_add(1),
    };
    for _ in 0..=dice.below(2) {
        let inner = message.message.get_or_insert_default();
        match dice.below(14) {
            0 => message.region_id = odd(message.region_id, dice),
            1 => message.from_peer = None,
            2 => message.to_peer.get_or_insert_default().id = odd(1, dice),
            3 => message.region_epoch = None,
            4 => inner.index = odd(inner.index, dice),
            5 => inner.log_term = odd(inner.log_term, dice),
            6 => inner.commit = odd(inner.commit, dice),
            7 => inner.from = odd(inner.from, dice),
            8 => inner.to = odd(inner.to, dice),
            9 => inner.msg_type = dice.below(25) as i32,
            10 => inner.entries.push(eraftpb::Entry {
                index: odd(inner.index, dice),
                term: odd(inner.term, dice),
                ..Default::default()
            }),
            11 => inner.entries.iter_mut().for_each(|entry| entry.index += 1),
            12 => inner.reject_hint = odd(inner.reject_hint, dice),
            _ => inner.snapshot = Some(eraftpb::Snapshot::default()),
        }
    }
}
