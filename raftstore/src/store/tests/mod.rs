//! Whole stores on memory engines with an instant network: what a store does in a given situation.
//!
//! Everything that a shell does is done here in its simplest form, at once and in one thread. Links can be
//! cut, messages dropped by a rule, appliers held, and power lost. A harness for faults at random is the
//! simulator's, not this one's.
//!
//! A store has as many lanes as its number, unless a test says otherwise: what a test sees must not depend
//! on them.

mod soak;
mod consistency;
mod elections;
mod epochs;
mod famous;
mod joint;
mod lanes;
mod membership;
mod proposals;
mod reads;
mod replica_reads;
mod restarts;
mod sleep;
mod snapshots;
mod splits;
mod transfers;
mod writes;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hasher as _};

use bytes::Bytes;
use proto::{
    KeyRange, PeerId, Refusal, RegionId, StoreId, eraftpb, metapb, pdpb, raft_serverpb, region,
};
use raft_serverpb::RaftMessage;

use super::Store;
use crate::applier::Applier;
use crate::config::Config;
use crate::driver::{Background, SnapshotStorage};
use crate::effects::{Effects, PersistedReady, Report};
use crate::engine::memory::{Fuse, MemoryData, MemoryLog, MemorySnapshot};
use crate::engine::{ColumnFamily, DataEngine, LogBatch, LogEngine, Snapshot as _, WriteBatch};
use crate::error::Fault;
use crate::lanes::ShuffledLanes;
use crate::msg::{Answer, ApplyTask, BackgroundTask, Now, Reply, ReplyId, StoreMsg, Target};
use crate::read_view::ReadPath;
use crate::storage::bootstrap;

type Filter = Box<dyn FnMut(StoreId, &RaftMessage) -> bool>;

struct Machine {
    store: Store<MemoryData, MemoryLog>,
    applier: Applier<MemoryData>,
    background: Background<MemoryData>,
}

struct Node {
    data: MemoryData,
    log: MemoryLog,
    machine: Option<Machine>,
    inbox: VecDeque<StoreMsg>,
    /// While held, tasks for the applier gather here.
    held: Option<Vec<ApplyTask>>,
    /// While held, background tasks gather here.
    held_background: Option<Vec<BackgroundTask>>,
    /// While held, log writes gather here, and what waits for them.
    held_log: Option<VecDeque<HeldWrite>>,
    /// Its disks may fail.
    may_fail: bool,
}

/// A log write under way, and what follows once it is durable.
struct HeldWrite {
    log: LogBatch,
    messages: Vec<RaftMessage>,
    persisted: Vec<PersistedReady>,
}

/// Stores, numbered from 1, and everything between them.
struct Cluster {
    config: Config,
    now: Now,
    nodes: BTreeMap<StoreId, Node>,
    replies: BTreeMap<ReplyId, Reply>,
    /// Who asked for a barrier, with what in mind.
    barriers: BTreeMap<ReplyId, Target>,
    /// What the engine held when a barrier was answered, if the region still was as the caller knew it.
    seen: BTreeMap<ReplyId, MemorySnapshot>,
    reports: Vec<(StoreId, Report)>,
    cut: BTreeSet<(StoreId, StoreId)>,
    /// Says whether a message from this store gets through.
    filter: Option<Filter>,
    gives_ids: bool,
    next_id: u64,
    next_reply: u64,
    lives: u64,
    /// Of everything that stores asked for, when it is wanted.
    digest: Option<DefaultHasher>,
}

impl Cluster {
    /// Empty stores without regions.
    fn new(stores: u64, config: Config) -> Self {
        let node = |id| {
            let node = Node {
                data: MemoryData::new(),
                log: MemoryLog::new(),
                machine: None,
                inbox: VecDeque::new(),
                held: None,
                held_background: None,
                held_log: None,
                may_fail: false,
            };
            (StoreId(id), node)
        };
        Self {
            config,
            now: Now(1_000_000),
            nodes: (1..=stores).map(node).collect(),
            replies: BTreeMap::new(),
            barriers: BTreeMap::new(),
            seen: BTreeMap::new(),
            reports: Vec::new(),
            cut: BTreeSet::new(),
            filter: None,
            gives_ids: true,
            next_id: 100,
            next_reply: 0,
            lives: 0,
            digest: None,
        }
    }

    /// Stores that share a first region 1; the peer on store n is n. All are started, and one leads.
    fn with_region(stores: u64, members: u64, config: Config) -> Self {
        let mut cluster = Self::new(stores, config);
        let region = metapb::Region {
            id: 1,
            region_epoch: Some(region::FIRST_EPOCH),
            peers: (1..=members).map(|id| peer(id, id)).collect(),
            ..Default::default()
        };
        for (id, node) in &cluster.nodes {
            if id.0 <= members {
                bootstrap::prepare(&node.data, region.clone()).unwrap();
                bootstrap::confirm_first_region(&node.data).unwrap();
            }
        }
        (1..=stores).for_each(|id| cluster.start(id));
        cluster.until("a leader", |cluster| cluster.leader(1).is_some());
        cluster.ticks(4);
        cluster
    }

    fn three() -> Self {
        Self::with_region(3, 3, Config::default())
    }

    /// Starts a store on what its disks hold.
    fn start(&mut self, id: u64) {
        self.lives += 1;
        let config = Config { seed: id * 7919, incarnation: self.lives, ..self.config.clone() };
        let node = self.nodes.get_mut(&StoreId(id)).unwrap();
        let (data, log) = (node.data.clone(), node.log.clone());
        let mut effects = Effects::default();
        let lanes = if config.raft_workers == 0 { id as usize } else { config.raft_workers };
        let lanes = Box::new(ShuffledLanes::new(lanes, self.lives));
        let store = Store::open(StoreId(id), config, data.clone(), log, self.now, &mut effects);
        node.inbox.clear();
        node.machine = Some(Machine {
            store: store.unwrap().with_lanes(lanes),
            applier: Applier::new(data.clone())
                .with_shares_of(1)
                .with_lanes(Box::new(ShuffledLanes::new(1, self.lives))),
            background: Background::new(data, SnapshotStorage::Memory).unwrap(),
        });
        self.perform(StoreId(id), effects);
        self.run();
    }

    /// The store's process is gone; its disks keep everything written.
    fn stop(&mut self, id: u64) {
        let node = self.nodes.get_mut(&StoreId(id)).unwrap();
        node.machine = None;
        node.held = None;
        node.held_background = None;
        node.held_log = None;
    }

    /// Stops a store and loses its unsynced writes but the first `keep`.
    fn lose_power(&mut self, id: u64, keep: usize) {
        self.stop(id);
        let node = &self.nodes[&StoreId(id)];
        node.data.power_loss(keep);
        node.log.power_loss(keep);
    }

    fn tell(&mut self, id: StoreId, message: StoreMsg) {
        self.nodes.get_mut(&id).unwrap().inbox.push_back(message);
    }

    /// Delivers messages until none is left.
    fn run(&mut self) {
        for _ in 0..10_000 {
            let waiting =
                self.nodes.iter().find(|(_, node)| !node.inbox.is_empty()).map(|(id, _)| *id);
            let Some(id) = waiting else { return };
            let node = self.nodes.get_mut(&id).unwrap();
            let messages = std::mem::take(&mut node.inbox);
            let Some(machine) = &mut node.machine else { continue };
            let mut effects = Effects::default();
            for message in messages {
                machine.store.step(message, self.now, &mut effects).unwrap();
            }
            self.perform(id, effects);
        }
        panic!("the stores do not come to rest");
    }

    /// Performs effects and what follows from them. A fault stops the store, and only a disk that was told
    /// to fail may be the reason.
    fn perform(&mut self, id: StoreId, mut effects: Effects) {
        loop {
            let Some(machine) = &mut self.nodes.get_mut(&id).unwrap().machine else { return };
            machine.store.flush(self.now, &mut effects);
            if effects.is_empty() {
                return;
            }
            match self.perform_once(id, effects) {
                Ok(next) => effects = next,
                Err(fault) => {
                    assert!(self.nodes[&id].may_fail, "{id}: {fault}");
                    self.stop(id.0);
                    return;
                }
            }
        }
    }

    fn perform_once(&mut self, id: StoreId, mut effects: Effects) -> Result<Effects, Fault> {
        if let Some(digest) = &mut self.digest {
            digest.write(format!("{id} {effects:?}").as_bytes());
        }
        let mut next = Effects::default();
        let node = self.nodes.get_mut(&id).unwrap();
        let Some(machine) = &mut node.machine else { return Ok(next) };
        let mut sent = std::mem::take(&mut effects.send_now);
        let mut groups: Vec<_> = effects.log.groups.iter().map(|(group, _)| *group).collect();
        groups.dedup();
        assert_eq!(groups.len(), effects.log.groups.len(), "a group appears once");
        let write = HeldWrite {
            log: std::mem::take(&mut effects.log),
            messages: std::mem::take(&mut effects.send_after_persist),
            persisted: std::mem::take(&mut effects.persisted),
        };
        if let Some(held) = &mut node.held_log {
            held.push_back(write);
        } else {
            node.log.write(write.log)?;
            sent.extend(write.messages);
            machine.store.on_persisted(write.persisted, self.now, &mut next)?;
        }
        let mut tasks = std::mem::take(&mut effects.apply);
        if let Some(held) = &mut node.held {
            held.append(&mut tasks);
        }
        for applied in machine.applier.apply(tasks)? {
            machine.store.on_applied(applied, self.now, &mut next)?;
        }
        for task in effects.background {
            if let Some(held) = &mut node.held_background {
                held.push(task);
            } else {
                node.inbox.extend(machine.background.perform(task)?);
            }
        }
        for message in sent {
            self.send(id, message, |message| StoreMsg::Raft(Box::new(message)));
        }
        for snapshot in effects.snapshots {
            let region_id = RegionId(snapshot.message.region_id);
            let to = PeerId(snapshot.message.to_peer.as_ref().unwrap().id);
            let source = snapshot.source;
            let ok = self.send(id, snapshot.message, |message| StoreMsg::SnapshotReceived {
                message: Box::new(message),
                source,
            });
            self.tell(id, StoreMsg::SnapshotSent { region_id, to, ok });
        }
        for report in effects.reports {
            self.answer(id, &report);
            self.reports.push((id, report));
        }
        for (reply_id, reply) in effects.replies {
            self.look(id, reply_id, &reply);
            let before = self.replies.insert(reply_id, reply);
            assert!(before.is_none(), "{reply_id:?} is answered twice");
        }
        Ok(next)
    }

    /// Does what a caller does when its barrier is answered: takes a snapshot, and looks again whether the
    /// region still is what it knew.
    fn look(&mut self, id: StoreId, reply_id: ReplyId, reply: &Reply) {
        let (Some(target), Ok(_)) = (self.barriers.get(&reply_id), reply) else { return };
        let snapshot = self.nodes[&id].data.snapshot();
        let views = self.store(id.0).read_views();
        let before = views.before_snapshot(target.region_id);
        if views.check(&before, target, self.now).is_ok() {
            self.seen.insert(reply_id, snapshot);
        }
    }

    fn send(
        &mut self,
        from: StoreId,
        message: RaftMessage,
        wrap: impl FnOnce(RaftMessage) -> StoreMsg,
    ) -> bool {
        let to = StoreId(message.to_peer.as_ref().unwrap().store_id);
        let passes = self.filter.as_mut().is_none_or(|filter| filter(from, &message));
        let there = self.nodes.get(&to).is_some_and(|node| node.machine.is_some());
        let arrives = passes && there && !self.cut.contains(&(from, to));
        if arrives {
            self.tell(to, wrap(message));
        }
        arrives
    }

    /// The scheduler's part: ids for splits.
    fn answer(&mut self, id: StoreId, report: &Report) {
        let Report::AskSplit { region, ask, count } = report else { return };
        if !self.gives_ids {
            return;
        }
        let ids = (0..*count)
            .map(|_| pdpb::SplitId {
                new_region_id: self.new_id(),
                new_peer_ids: region.peers.iter().map(|_| self.new_id()).collect(),
            })
            .collect();
        let region_id = RegionId(region.id);
        self.tell(id, StoreMsg::SplitIds { region_id, ask: *ask, ids: Some(ids) });
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// One tick of every store, and everything that follows.
    fn tick(&mut self) {
        self.now = self.now.plus(self.config.tick_micros());
        let ids: Vec<StoreId> = self.nodes.keys().copied().collect();
        for id in ids {
            let mut effects = Effects::default();
            if let Some(machine) = &mut self.nodes.get_mut(&id).unwrap().machine {
                machine.store.tick(self.now, &mut effects).unwrap();
                self.perform(id, effects);
            }
            self.run();
        }
    }

    fn ticks(&mut self, count: usize) {
        (0..count).for_each(|_| self.tick());
    }

    /// Ticks until this holds.
    #[track_caller]
    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..400 {
            if holds(self) {
                return;
            }
            self.tick();
        }
        panic!("in vain: {what}");
    }

    fn isolate(&mut self, id: u64) {
        let others: Vec<StoreId> = self.nodes.keys().copied().collect();
        for other in others.into_iter().filter(|other| other.0 != id) {
            self.cut.insert((StoreId(id), other));
            self.cut.insert((other, StoreId(id)));
        }
    }

    fn heal(&mut self) {
        self.cut.clear();
        self.filter = None;
    }

    /// Keeps back what the store's background worker is to do.
    fn hold_background(&mut self, id: u64) {
        self.nodes.get_mut(&StoreId(id)).unwrap().held_background.get_or_insert_default();
    }

    fn release_background(&mut self, id: u64) {
        let node = self.nodes.get_mut(&StoreId(id)).unwrap();
        let (Some(tasks), Some(machine)) = (node.held_background.take(), &mut node.machine) else {
            return;
        };
        for task in tasks {
            node.inbox.extend(machine.background.perform(task).unwrap());
        }
        self.run();
    }

    /// After so many more writes and syncs the store's disks fail, and so the store stops.
    fn fail_after(&mut self, id: u64, operations: u64) {
        let node = self.nodes.get_mut(&StoreId(id)).unwrap();
        node.may_fail = true;
        let fuse = Fuse::new(operations);
        node.data.set_fuse(Some(fuse.clone()));
        node.log.set_fuse(Some(fuse));
    }

    /// The disks work again.
    fn repair(&mut self, id: u64) {
        let node = self.nodes.get_mut(&StoreId(id)).unwrap();
        node.may_fail = false;
        node.data.set_fuse(None);
        node.log.set_fuse(None);
    }

    fn is_down(&self, id: u64) -> bool {
        self.nodes[&StoreId(id)].machine.is_none()
    }

    /// Keeps back what the store's applier is to do.
    fn hold_applier(&mut self, id: u64) {
        self.nodes.get_mut(&StoreId(id)).unwrap().held.get_or_insert_default();
    }

    fn release_applier(&mut self, id: u64) {
        let node = self.nodes.get_mut(&StoreId(id)).unwrap();
        let (Some(tasks), Some(machine)) = (node.held.take(), &mut node.machine) else { return };
        let mut effects = Effects::default();
        for applied in machine.applier.apply(tasks).unwrap() {
            machine.store.on_applied(applied, self.now, &mut effects).unwrap();
        }
        self.perform(StoreId(id), effects);
        self.run();
    }

    /// The store's log disk becomes slow: writes are under way until they are released.
    fn hold_log(&mut self, id: u64) {
        self.nodes.get_mut(&StoreId(id)).unwrap().held_log.get_or_insert_default();
    }

    /// So many of the oldest log writes become durable, and what waits for these leaves.
    fn release_writes(&mut self, id: u64, mut writes: usize) {
        loop {
            let node = self.nodes.get_mut(&StoreId(id)).unwrap();
            let held = node.held_log.as_mut().and_then(|held| {
                let is_next = |next: &mut HeldWrite| next.log.is_empty() || writes > 0;
                held.pop_front_if(is_next)
            });
            let (Some(write), Some(machine)) = (held, &mut node.machine) else { break };
            writes -= usize::from(!write.log.is_empty());
            node.log.write(write.log).unwrap();
            let mut effects = Effects { send_now: write.messages, ..Effects::default() };
            machine.store.on_persisted(write.persisted, self.now, &mut effects).unwrap();
            self.perform(StoreId(id), effects);
        }
        self.run();
    }

    /// Log writes under way.
    fn held_writes(&self, id: u64) -> usize {
        let held = self.nodes[&StoreId(id)].held_log.iter().flatten();
        held.filter(|write| !write.log.is_empty()).count()
    }

    /// The log disk is as fast as ever.
    fn release_log(&mut self, id: u64) {
        self.release_writes(id, usize::MAX);
        self.nodes.get_mut(&StoreId(id)).unwrap().held_log = None;
    }

    fn store(&self, id: u64) -> &Store<MemoryData, MemoryLog> {
        &self.nodes[&StoreId(id)].machine.as_ref().unwrap().store
    }

    /// Stores that run.
    fn running(&self) -> impl Iterator<Item = &Store<MemoryData, MemoryLog>> {
        self.nodes.values().filter_map(|node| node.machine.as_ref()).map(|machine| &machine.store)
    }

    /// The store whose peer leads the region in the highest term.
    fn leader(&self, region: u64) -> Option<u64> {
        self.running()
            .filter_map(|store| {
                let peer = store.peers.get(&RegionId(region))?;
                Some((peer.leader()?.term, store.id.0))
            })
            .max()
            .map(|(_, id)| id)
    }

    fn region(&self, store: u64, region: u64) -> metapb::Region {
        self.store(store).peers[&RegionId(region)].region.clone()
    }

    fn has_region(&self, store: u64, region: u64) -> bool {
        self.store(store).peers.get(&RegionId(region)).is_some_and(|peer| peer.is_initialized())
    }

    /// The region that holds this key, as the store knows it.
    fn region_at(&self, store: u64, key: &'static str) -> Option<metapb::Region> {
        let mut peers = self.store(store).peers.values().filter(|peer| peer.is_initialized());
        peers
            .find(|peer| KeyRange::of(&peer.region).contains(key.as_bytes()))
            .map(|peer| peer.region.clone())
    }

    fn value(&self, store: u64, key: &str) -> Option<Bytes> {
        let snapshot = self.nodes[&StoreId(store)].data.snapshot();
        snapshot.get(ColumnFamily::Default, key.as_bytes()).unwrap()
    }

    /// A target that knows what the store knows of the region.
    fn target(&self, store: u64, region: u64) -> Target {
        let known = self.store(store).peers.get(&RegionId(region));
        Target {
            region_id: RegionId(region),
            epoch: known.map(|peer| region::epoch(&peer.region)).unwrap_or_default(),
            ..Target::default()
        }
    }

    fn new_reply(&mut self) -> ReplyId {
        self.next_reply += 1;
        ReplyId(self.next_reply)
    }

    /// Asks a store to write, without running it.
    fn ask_write(&mut self, store: u64, target: Target, key: &str, value: &str) -> ReplyId {
        let reply = self.new_reply();
        let mut batch = WriteBatch::new();
        batch.put(ColumnFamily::Default, key.to_owned(), value.to_owned());
        self.tell(StoreId(store), StoreMsg::Write { target, batch, reply });
        reply
    }

    fn write_at(&mut self, store: u64, region: u64, key: &str, value: &str) -> ReplyId {
        let target = self.target(store, region);
        let reply = self.ask_write(store, target, key, value);
        self.run();
        reply
    }

    /// Writes at the leader of the region that holds the key, and waits until it is done.
    #[track_caller]
    fn write(&mut self, key: &'static str, value: &str) {
        for _ in 0..100 {
            let holds = |store: &&Store<MemoryData, MemoryLog>| {
                store.peers.values().any(|peer| {
                    peer.leader().is_some() && KeyRange::of(&peer.region).contains(key.as_bytes())
                })
            };
            let leads = self.running().find(holds).map(|store| store.id.0);
            if let Some(store) = leads {
                let region = self.region_at(store, key).unwrap().id;
                let reply = self.write_at(store, region, key, value);
                for _ in 0..40 {
                    match self.replies.get(&reply) {
                        Some(Ok(_)) => return,
                        Some(Err(_)) => break,
                        None => self.tick(),
                    }
                }
            }
            self.tick();
        }
        panic!("{key} cannot be written");
    }

    /// Deletes at the leader of region 1.
    #[track_caller]
    fn delete(&mut self, key: &'static str) {
        let leader = self.leader(1).unwrap();
        let target = self.target(leader, 1);
        let reply = self.new_reply();
        let mut batch = WriteBatch::new();
        batch.delete(ColumnFamily::Default, key);
        self.tell(StoreId(leader), StoreMsg::Write { target, batch, reply });
        self.run();
        self.until("the deletion", |cluster| cluster.is_done(reply));
    }

    fn barrier_at(&mut self, store: u64, region: u64, replica_read: bool) -> ReplyId {
        let target = Target { replica_read, ..self.target(store, region) };
        let reply = self.new_reply();
        self.barriers.insert(reply, target.clone());
        self.tell(StoreId(store), StoreMsg::ReadBarrier { target, reply });
        self.run();
        reply
    }

    /// How a read at this store may be served now.
    fn read_path(&self, store: u64, region: u64) -> Result<ReadPath, Refusal> {
        let target = self.target(store, region);
        let views = self.store(store).read_views();
        let before = views.before_snapshot(target.region_id);
        views.check(&before, &target, self.now).map(|(path, _)| path)
    }

    fn reply(&self, id: ReplyId) -> Option<&Reply> {
        self.replies.get(&id)
    }

    fn is_done(&self, id: ReplyId) -> bool {
        self.replies.get(&id) == Some(&Ok(Answer::Done))
    }

    fn refusal(&self, id: ReplyId) -> Option<&Refusal> {
        self.replies.get(&id).and_then(|reply| reply.as_ref().err())
    }

    fn order(
        &mut self,
        store: u64,
        region: u64,
        fill: impl Fn(&mut pdpb::RegionHeartbeatResponse),
    ) {
        let mut order = pdpb::RegionHeartbeatResponse { region_id: region, ..Default::default() };
        fill(&mut order);
        self.tell(StoreId(store), StoreMsg::Order(Box::new(order)));
        self.run();
    }

    fn order_change(
        &mut self,
        store: u64,
        region: u64,
        change_type: eraftpb::ConfChangeType,
        member: &metapb::Peer,
    ) {
        self.order(store, region, |order| {
            order.change_peer =
                Some(pdpb::ChangePeer { peer: Some(*member), change_type: change_type.into() });
        });
    }

    /// Orders several changes at once, one alone in the form of several, or with none to leave.
    fn order_changes(
        &mut self,
        store: u64,
        region: u64,
        changes: &[(eraftpb::ConfChangeType, metapb::Peer)],
    ) {
        let changes: Vec<_> = changes
            .iter()
            .map(|(kind, member)| pdpb::ChangePeer {
                peer: Some(*member),
                change_type: (*kind).into(),
            })
            .collect();
        self.order(store, region, |order| {
            order.change_peer_v2 = Some(pdpb::ChangePeerV2 { changes: changes.clone() });
        });
    }

    /// Gives the order to whoever leads until the region looks as wanted.
    #[track_caller]
    fn change_until(
        &mut self,
        region: u64,
        change_type: eraftpb::ConfChangeType,
        member: &metapb::Peer,
        holds: impl Fn(&metapb::Region) -> bool,
    ) {
        for _ in 0..1000 {
            if let Some(store) = self.leader(region) {
                if holds(&self.region(store, region)) {
                    return;
                }
                self.order_change(store, region, change_type, member);
            }
            self.tick();
        }
        panic!("in vain: {change_type:?} {member:?}");
    }

    fn add(&mut self, region: u64, member: &metapb::Peer) {
        let change_type = eraftpb::ConfChangeType::AddNode;
        self.change_until(region, change_type, member, |region| {
            region::peer_by_id(region, PeerId(member.id))
                .is_some_and(|peer| !region::is_learner(peer))
        });
    }

    fn remove(&mut self, region: u64, member: &metapb::Peer) {
        let change_type = eraftpb::ConfChangeType::RemoveNode;
        self.change_until(region, change_type, member, |region| {
            region::peer_by_id(region, PeerId(member.id)).is_none()
        });
    }

    #[track_caller]
    fn transfer(&mut self, region: u64, to: u64) {
        let from = self.leader(region).unwrap();
        let wanted = region::peer_on(&self.region(from, region), StoreId(to)).cloned();
        self.order(from, region, |order| {
            order.transfer_leader = Some(pdpb::TransferLeader { peer: wanted, peers: vec![] });
        });
        self.until("a transfer", |cluster| cluster.leader(region) == Some(to));
    }

    fn split_at(&mut self, store: u64, region: u64, keys: &[&'static str]) -> ReplyId {
        let target = self.target(store, region);
        let reply = self.new_reply();
        let keys = keys.iter().map(|key| Bytes::from(*key)).collect();
        self.tell(StoreId(store), StoreMsg::Split { target, keys, reply: Some(reply) });
        self.run();
        reply
    }
}

fn peer(id: u64, store_id: u64) -> metapb::Peer {
    metapb::Peer { id, store_id, ..Default::default() }
}

fn is_type(message: &RaftMessage, wanted: eraftpb::MessageType) -> bool {
    message.message.as_ref().is_some_and(|inner| inner.msg_type() == wanted)
}
