//! All judges of a run, and what they are told.

use bytes::Bytes;
use proto::{RegionId, metapb, region};
use raftstore::engine::memory::{MemoryData, MemoryLog};
use raftstore::engine::{
    ColumnFamily, Cursor as _, DataEngine as _, LogBatch, LogEngine as _, Snapshot as _,
};
use raftstore::storage::{RegionState, applied_state, region_state};

use super::dice::{digest, mix};
use crate::checkers::applied_equal::AppliedEqual;
use crate::checkers::committed::Committed;
use crate::checkers::durable_commit;
use crate::checkers::log_match::LogMatch;
use crate::checkers::one_leader::OneLeader;

/// The judges, with access to every disk: they see what no store sees.
pub struct Judges {
    one_leader: OneLeader,
    committed: Committed,
    log_match: LogMatch,
    applied_equal: AppliedEqual,
    disks: Vec<(u64, MemoryLog)>,
    /// Whether regions never change their members, so that a quorum is known without asking.
    members_fixed: bool,
    violation: Option<String>,
}

impl Judges {
    /// Judges over these disks.
    pub fn new(disks: Vec<(u64, MemoryLog)>, members_fixed: bool) -> Self {
        Self {
            one_leader: OneLeader::default(),
            committed: Committed::default(),
            log_match: LogMatch::default(),
            applied_equal: AppliedEqual::default(),
            disks,
            members_fixed,
            violation: None,
        }
    }

    /// The first truth that was broken.
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// How many leaderships and committed entries there were.
    pub fn counts(&self) -> (usize, usize) {
        (self.one_leader.count(), self.committed.count())
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
    pub fn persists(&mut self, log: &MemoryLog, batch: &LogBatch) {
        for (group, write) in &batch.groups {
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

    /// Told that a store is given an entry to apply, with the region's members as far as that store
    /// has applied them.
    pub fn commits(
        &mut self,
        region_id: u64,
        index: u64,
        term: u64,
        data: &Bytes,
        members: Option<&metapb::Region>,
    ) {
        let verdict = self.committed.entry(region_id, index, term, digest(data));
        let is_new = self.judge(verdict);
        let Some(members) = members.filter(|_| is_new && self.members_fixed) else { return };
        let voters: Vec<u64> = members
            .peers
            .iter()
            .filter(|peer| !region::is_learner(peer))
            .map(|peer| peer.store_id)
            .collect();
        let durable_on: Vec<u64> = self
            .disks
            .iter()
            .filter(|(_, log)| log.is_durable(RegionId(region_id), index, term))
            .map(|(store, _)| *store)
            .collect();
        let verdict = durable_commit::check(region_id, index, term, &voters, &durable_on);
        self.judge(verdict);
    }

    /// Told that a store has applied something of a region; looks at its data.
    pub fn applied(&mut self, store: u64, data: &MemoryData, region_id: u64) {
        let snapshot = data.snapshot();
        let state = region_state(&snapshot, RegionId(region_id)).expect("memory does not fail");
        let Some(RegionState::Normal(region)) = state else {
            self.applied_equal.destroyed(store, region_id);
            return;
        };
        let applied = applied_state(&snapshot, RegionId(region_id)).expect("memory does not fail");
        let Some(applied) = applied else { return };
        let verdict = self.applied_equal.applied(store, region_id, applied.index);
        self.judge(verdict);
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

    /// Told that a store ended, and what it applied may be partly gone.
    pub fn stopped(&mut self, store: u64) {
        self.applied_equal.restarted(store);
    }
}
