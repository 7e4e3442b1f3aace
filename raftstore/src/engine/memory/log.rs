//! The log engine in memory.
//!
//! [`LogEngine::write`] is synced, as the trait promises. A simulator that models a disk that takes
//! its time uses [`MemoryLog::write_unsynced`] and, later, [`MemoryLog::sync`]: what lies between
//! the two may be lost with the power, so a store that acknowledges too early is found out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use prost::Message;
use proto::{RegionId, eraftpb};

use super::{Counters, Fuse, broken};
use crate::engine::{GroupWrite, LogBatch, LogEngine, LogState};
use crate::error::Fault;

/// A disk with raft logs. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryLog {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    live: Image,
    durable: Image,
    /// What is in `live` and not in `durable`, oldest first. The caller of `write_unsynced` bounds
    /// it by syncing.
    unsynced: VecDeque<LogBatch>,
    counters: Counters,
    broken: bool,
    fuse: Option<Fuse>,
}

#[derive(Debug, Default)]
struct Image {
    groups: BTreeMap<RegionId, Group>,
}

#[derive(Debug, Default)]
struct Group {
    state: Option<LogState>,
    /// Consecutive.
    entries: VecDeque<eraftpb::Entry>,
}

impl MemoryLog {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Performs the batch; readers see it at once, and a loss of power may take it.
    pub fn write_unsynced(&self, batch: LogBatch) -> Result<(), Fault> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut disk = self.disk.lock();
        if disk.fails() {
            return Err(broken("write the raft log"));
        }
        disk.live.perform(&batch);
        disk.unsynced.push_back(batch);
        disk.counters.writes += 1;
        Ok(())
    }

    /// Makes everything written so far durable.
    pub fn sync(&self) -> Result<(), Fault> {
        let mut disk = self.disk.lock();
        if disk.fails() {
            return Err(broken("sync the raft log"));
        }
        disk.keep(usize::MAX);
        disk.counters.syncs += 1;
        Ok(())
    }

    /// Makes the oldest `batches` unsynced ones durable: a sync that began before later writes.
    pub fn sync_first(&self, batches: usize) -> Result<(), Fault> {
        let mut disk = self.disk.lock();
        if disk.fails() {
            return Err(broken("sync the raft log"));
        }
        disk.keep(batches);
        disk.counters.syncs += 1;
        Ok(())
    }

    /// How many batches a loss of power could take.
    pub fn unsynced_writes(&self) -> usize {
        self.disk.lock().unsynced.len()
    }

    /// The power fails: of the unsynced batches only the first `keep_unsynced` are left, and all
    /// that is left is durable. Returns how many were lost. The store that wrote them must be gone.
    pub fn power_loss(&self, keep_unsynced: usize) -> usize {
        let mut disk = self.disk.lock();
        disk.keep(keep_unsynced);
        let lost = disk.unsynced.len();
        disk.unsynced.clear();
        disk.live = disk.durable.copy();
        disk.counters.power_losses += 1;
        disk.counters.lost_writes += lost as u64;
        lost
    }

    /// Whether the entry would survive a loss of power now, with this term. What a checker asks of
    /// a quorum when an entry is committed.
    pub fn is_durable(&self, group: RegionId, index: u64, term: u64) -> bool {
        let disk = self.disk.lock();
        disk.durable.groups.get(&group).is_some_and(|group| {
            group.entry(index).is_some_and(|entry| entry.term == term)
                || group.state.as_ref().is_some_and(|state| index <= state.truncated_index)
        })
    }

    /// From now on every write and sync is a fault, or no longer so. Reading still works.
    pub fn set_broken(&self, broken: bool) {
        self.disk.lock().broken = broken;
    }

    /// From now on writes and syncs fail when this fuse says so.
    pub fn set_fuse(&self, fuse: Option<Fuse>) {
        self.disk.lock().fuse = fuse;
    }

    /// What the disk has done so far.
    pub fn counters(&self) -> Counters {
        self.disk.lock().counters
    }
}

impl Disk {
    /// Whether the operation that comes now fails.
    fn fails(&self) -> bool {
        self.broken || self.fuse.as_ref().is_some_and(Fuse::is_blown)
    }

    /// Moves the oldest unsynced batches into the durable image.
    fn keep(&mut self, batches: usize) {
        let batches = batches.min(self.unsynced.len());
        for batch in self.unsynced.drain(..batches) {
            self.durable.perform(&batch);
        }
    }
}

impl Image {
    fn perform(&mut self, batch: &LogBatch) {
        for (id, write) in &batch.groups {
            let group = self.groups.entry(*id).or_default();
            group.perform(*id, write);
            if group.state.is_none() && group.entries.is_empty() {
                self.groups.remove(id);
            }
        }
    }

    /// Not `Clone`, so that it is not copied by accident: it is as large as all logs.
    fn copy(&self) -> Self {
        let groups = self.groups.iter().map(|(id, group)| {
            (*id, Group { state: group.state.clone(), entries: group.entries.clone() })
        });
        Self { groups: groups.collect() }
    }
}

impl Group {
    fn perform(&mut self, id: RegionId, write: &GroupWrite) {
        if write.clear {
            *self = Self::default();
        }
        if let Some(first) = write.entries.first() {
            let first = first.index;
            // Consecutive, so what is replaced is counted rather than searched.
            let kept = self.entries.front().map_or(0, |front| first.saturating_sub(front.index));
            self.entries.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
            if let Some(last) = self.entries.back() {
                assert!(
                    first == last.index + 1,
                    "{id} would have a gap: {} then {first}",
                    last.index
                );
            }
            for (position, entry) in write.entries.iter().enumerate() {
                assert_eq!(entry.index, first + position as u64, "entries of {id} are consecutive");
                self.entries.push_back(entry.clone());
            }
        }
        while self.entries.front().is_some_and(|entry| entry.index < write.cut_before) {
            self.entries.pop_front();
        }
        if write.state.is_some() {
            self.state.clone_from(&write.state);
        }
    }

    fn entry(&self, index: u64) -> Option<&eraftpb::Entry> {
        let first = self.entries.front()?.index;
        self.entries.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }
}

impl LogEngine for MemoryLog {
    fn groups(&self) -> Result<Vec<RegionId>, Fault> {
        let disk = self.disk.lock();
        let stateful = disk.live.groups.iter().filter(|(_, group)| group.state.is_some());
        Ok(stateful.map(|(id, _)| *id).collect())
    }

    fn state(&self, group: RegionId) -> Result<Option<LogState>, Fault> {
        Ok(self.disk.lock().live.groups.get(&group).and_then(|group| group.state.clone()))
    }

    fn entries(
        &self,
        group: RegionId,
        low: u64,
        high: u64,
        bytes_max: u64,
    ) -> Result<Vec<eraftpb::Entry>, Fault> {
        let disk = self.disk.lock();
        let log = disk.live.groups.get(&group);
        let mut entries = Vec::new();
        let mut bytes = 0;
        for index in low..high {
            let Some(entry) = log.and_then(|log| log.entry(index)) else {
                return Err(Fault::Missing { what: format!("entry {index} of {group}") });
            };
            bytes += entry.encoded_len() as u64;
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
        }
        Ok(entries)
    }

    fn write(&self, batch: LogBatch) -> Result<(), Fault> {
        if batch.is_empty() {
            return Ok(());
        }
        self.write_unsynced(batch)?;
        self.sync()
    }

    fn used_bytes(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: RegionId = RegionId(7);

    fn append(index: u64, term: u64) -> LogBatch {
        let entries = vec![eraftpb::Entry { index, term, ..Default::default() }];
        let state = LogState { last_index: index, ..Default::default() };
        let write = GroupWrite { entries, state: Some(state), ..Default::default() };
        LogBatch { groups: vec![(GROUP, write)] }
    }

    #[test]
    fn what_was_acknowledged_before_the_sync_is_lost_with_the_power() {
        let log = MemoryLog::new();
        log.write(append(1, 1)).unwrap();
        log.write_unsynced(append(2, 1)).unwrap();
        log.write_unsynced(append(3, 1)).unwrap();
        assert!(log.is_durable(GROUP, 1, 1) && !log.is_durable(GROUP, 2, 1));
        assert_eq!(log.entries(GROUP, 1, 4, u64::MAX).unwrap().len(), 3);
        assert_eq!(log.power_loss(1), 1);
        assert_eq!(log.state(GROUP).unwrap().unwrap().last_index, 2);
        assert_eq!(log.entries(GROUP, 1, 3, u64::MAX).unwrap().len(), 2);
        assert!(log.entries(GROUP, 1, 4, u64::MAX).is_err());
    }

    #[test]
    fn a_sync_covers_the_writes_before_it_began_and_not_those_after() {
        let log = MemoryLog::new();
        log.write_unsynced(append(1, 1)).unwrap();
        log.write_unsynced(append(2, 1)).unwrap();
        log.sync_first(1).unwrap();
        assert_eq!(log.power_loss(0), 1);
        assert_eq!(log.state(GROUP).unwrap().unwrap().last_index, 1);
        // An entry of the same index and another term is another entry.
        assert!(!log.is_durable(GROUP, 1, 2));
    }
}
