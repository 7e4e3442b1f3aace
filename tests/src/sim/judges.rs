//! All judges of a run, and what they are told.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::RegionId;
use raftstore::engine::memory::{MemoryData, MemoryLog};
use raftstore::engine::{
    ColumnFamily, Cursor as _, DataEngine as _, LogBatch, LogEngine as _, Snapshot as _,
};
use raftstore::read_view::ReadView;
use raftstore::storage::{RegionState, applied_state, region_state, region_states};

use super::dice::{digest, mix};
use super::events::Instant;
use super::probes::{Probe, Probes};
use crate::checkers::applied_equal::AppliedEqual;
use crate::checkers::bounded::Bounded;
use crate::checkers::committed;
use crate::checkers::durable_commit::{Commit, DurableCommit};
use crate::checkers::epochs::Epochs;
use crate::checkers::leases::{Held, Leases};
use crate::checkers::log_match::LogMatch;
use crate::checkers::one_leader::OneLeader;
use crate::checkers::tiling;

/// How often data is hashed when there is much of it.
const HASH_EVERY_MUCH: u64 = 16;

/// An entry that a store gives to its applier.
pub struct Committed<'a> {
    /// Which store.
    pub store: u64,
    /// Whose entry.
    pub region: u64,
    /// Its place.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// What it carries.
    pub data: &'a Bytes,
    /// The region as the store shows it.
    pub view: Option<&'a ReadView>,
}

/// The judges, with access to every disk: they see what no store sees.
pub struct Judges {
    one_leader: OneLeader,
    committed: committed::Committed,
    log_match: LogMatch,
    applied_equal: AppliedEqual,
    durable_commit: DurableCommit,
    epochs: Epochs,
    leases: Leases,
    bounded: Bounded,
    probes: Probes,
    disks: Vec<(u64, MemoryLog)>,
    /// By region: who shows that it leads, and in which term.
    leading: BTreeMap<u64, BTreeMap<u64, u64>>,
    /// Stores that have destroyed a peer of a region.
    destroyed: BTreeSet<(u64, u64)>,
    /// Data is hashed at every so manieth entry: all there is of it, again and again.
    hash_every: u64,
    /// By store and region: the last entry handed to the disk.
    written: BTreeMap<(u64, u64), u64>,
    /// By store and region: the last entry given to the applier.
    given: BTreeMap<(u64, u64), u64>,
    /// Processes that ended.
    deaths: u64,
    now: Instant,
    violation: Option<String>,
}

impl Judges {
    /// Judges over these disks.
    pub fn new(disks: Vec<(u64, MemoryLog)>) -> Self {
        Self {
            one_leader: OneLeader::default(),
            committed: committed::Committed::default(),
            log_match: LogMatch::default(),
            applied_equal: AppliedEqual::default(),
            durable_commit: DurableCommit::default(),
            epochs: Epochs::default(),
            leases: Leases::default(),
            bounded: Bounded::default(),
            probes: Probes::default(),
            disks,
            leading: BTreeMap::new(),
            destroyed: BTreeSet::new(),
            hash_every: 1,
            written: BTreeMap::new(),
            given: BTreeMap::new(),
            deaths: 0,
            now: 0,
            violation: None,
        }
    }

    /// The same, where much data piles up: it is hashed seldom.
    pub fn over_much_data(self) -> Self {
        Self { hash_every: HASH_EVERY_MUCH, ..self }
    }

    /// Told what time it is.
    pub fn at(&mut self, now: Instant) {
        self.now = now;
    }

    /// Something rare happened.
    pub fn saw(&mut self, probe: Probe) {
        self.probes.saw(probe);
    }

    /// The rare things that happened.
    pub fn probes(&self) -> &Probes {
        &self.probes
    }

    /// The longest that each queue ever was.
    pub fn longest_queues(&self) -> &BTreeMap<&'static str, usize> {
        self.bounded.longest()
    }

    /// The first truth that was broken.
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// How many leaderships and committed entries there were.
    pub fn counts(&self) -> (usize, usize) {
        (self.one_leader.count(), self.committed.count())
    }

    /// How many processes have ended.
    pub fn deaths(&self) -> u64 {
        self.deaths
    }

    /// Told that something is wrong.
    pub fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    fn judge<T: Default>(&mut self, verdict: Result<T, String>) -> T {
        verdict.unwrap_or_else(|what| {
            self.fail(what);
            T::default()
        })
    }

    /// Told that a peer leads.
    pub fn leads(&mut self, store: u64, region: u64, term: u64, peer: u64) {
        let verdict = self.one_leader.leads(region, term, peer);
        if !self.judge(verdict) {
            return;
        }
        let Some((_, log)) = self.disks.iter().find(|(id, _)| *id == store) else { return };
        let group = RegionId(region);
        let Ok(Some(state)) = log.state(group) else { return };
        let term_at = |index| {
            log.entries(group, index, index + 1, u64::MAX).ok().map(|entries| entries[0].term)
        };
        let verdict =
            OneLeader::is_complete(region, term, &self.committed, state.last_index, term_at);
        self.judge(verdict);
    }

    /// Told what a store is about to have on its disk.
    pub fn persists(&mut self, store: u64, log: &MemoryLog, batch: &LogBatch) {
        for (group, write) in &batch.groups {
            if let Some(last) = write.entries.last() {
                self.written.insert((store, group.0), last.index);
            }
            let mut previous_term = write.entries.first().and_then(|first| {
                let before = first.index.checked_sub(1)?;
                let entries = log.entries(*group, before, first.index, u64::MAX).ok()?;
                (!write.clear).then(|| entries[0].term)
            });
            for entry in &write.entries {
                let verdict = self.log_match.persisted(
                    group.0,
                    entry.index,
                    entry.term,
                    digest(&entry.data),
                    previous_term,
                );
                self.judge(verdict);
                previous_term = Some(entry.term);
            }
        }
    }

    /// Told that a store is given an entry to apply. Returns whether it is the first to be.
    pub fn commits(&mut self, entry: &Committed<'_>) -> bool {
        let Committed { store, region, index, term, data, view } = *entry;
        let verdict = self.committed.entry(region, index, term, digest(data));
        let is_new = self.judge(verdict);
        self.given.insert((store, region), index);
        let led = view.filter(|view| view.is_leader && view.term == term);
        if led.is_none() && !is_new {
            return false;
        }
        let durable_on: Vec<u64> = self
            .disks
            .iter()
            .filter(|(store, log)| {
                log.is_durable(RegionId(region), index, term)
                    || self.was_buried(*store, region, index)
            })
            .map(|(store, _)| *store)
            .collect();
        let commit = Commit { region, index, term, durable_on: &durable_on };
        let verdict = match led {
            Some(view) => self.durable_commit.by_leader(store, &view.region, &commit),
            None => self.durable_commit.by_anyone(&commit),
        };
        self.judge(verdict);
        is_new
    }

    /// Whether a peer held the entry and was destroyed since: the removed one is often ahead of the leader
    /// in applying its own removal, and may have acknowledged what came behind that.
    fn was_buried(&self, store: u64, region: u64, index: u64) -> bool {
        let key = (store, region);
        let held = [&self.given, &self.written];
        self.destroyed.contains(&key)
            && held.into_iter().filter_map(|last| last.get(&key)).any(|last| *last >= index)
    }

    /// Told that a peer has taken over another membership, when its log ended there.
    pub fn members_changed(&mut self, store: u64, region: u64, last_index: u64) {
        self.durable_commit.changed(store, region, last_index);
    }

    /// Told which regions a store shows to lead, with their terms, and the leases that it holds.
    pub fn shows(&mut self, store: u64, now: Instant, leading: &[(u64, u64)], held: &[Held]) {
        for leaders in self.leading.values_mut() {
            leaders.remove(&store);
        }
        for (region, term) in leading {
            let leaders = self.leading.entry(*region).or_default();
            leaders.insert(store, *term);
            if leaders.len() > 1 {
                self.probes.saw(Probe::TwoLeaders);
            }
        }
        let verdict = self.leases.holds(store, now, held);
        self.judge(verdict);
    }

    /// Whether a store held a lease when it was last heard of.
    pub fn has_lease(&self, store: u64) -> bool {
        self.leases.has_any(store, self.now)
    }

    /// Told how long a store's queue is, and how long it may be.
    pub fn queue(&mut self, store: u64, name: &'static str, length: usize, most: usize) {
        let verdict = self.bounded.queue(store, name, length, most);
        self.judge(verdict);
    }

    /// Told that a store has applied something of a region; looks at its data.
    pub fn applied(&mut self, store: u64, data: &MemoryData, region_id: u64) {
        let snapshot = data.snapshot();
        let state = region_state(&snapshot, RegionId(region_id)).expect("memory does not fail");
        let Some(RegionState::Normal(region)) = state else {
            self.applied_equal.destroyed(store, region_id);
            self.epochs.destroyed(store, region_id);
            self.destroyed.insert((store, region_id));
            return;
        };
        if self.destroyed.remove(&(store, region_id)) {
            self.probes.saw(Probe::PeerReplaced);
        }
        let verdict = self.epochs.describes(store, &region);
        if self.judge(verdict) {
            self.durable_commit.describes(&region);
            self.judge_store(store, data);
        }
        let applied = applied_state(&snapshot, RegionId(region_id)).expect("memory does not fail");
        let Some(applied) = applied else { return };
        let verdict = self.applied_equal.applied(store, region_id, applied.index);
        self.judge(verdict);
        if applied.index % self.hash_every != 0 {
            return;
        }
        let range = proto::KeyRange::of(&region);
        let mut hash = 0;
        for cf in ColumnFamily::DATA {
            let mut cursor = snapshot.cursor(cf, &range);
            let mut on_key = cursor.seek_to_first().expect("memory does not fail");
            while on_key {
                hash = mix(hash ^ digest(cursor.key()) ^ mix(digest(cursor.value())));
                on_key = cursor.next().expect("memory does not fail");
            }
        }
        let verdict = self.applied_equal.data(store, region_id, applied.index, hash);
        self.judge(verdict);
    }

    /// No two regions of a store hold the same key.
    fn judge_store(&mut self, store: u64, data: &MemoryData) {
        let states = region_states(data).expect("memory does not fail");
        let regions = states.into_iter().filter_map(|(_, state)| match state {
            RegionState::Normal(region) => Some(region),
            RegionState::Tombstone(_) => None,
        });
        let verdict = tiling::check_store(store, &regions.collect::<Vec<_>>());
        self.judge(verdict);
    }

    /// Told that a store ended, and what it applied may be partly gone.
    pub fn stopped(&mut self, store: u64, was_up: bool) {
        self.deaths += u64::from(was_up);
        self.applied_equal.restarted(store);
        self.durable_commit.stopped(store);
        self.epochs.restarted(store);
        self.leases.ended(store);
        for leaders in self.leading.values_mut() {
            leaders.remove(&store);
        }
    }
}
