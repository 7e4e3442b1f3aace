//! Committed entries become one write batch.
//!
//! ```text
//!  ApplyTask ──► Delegate of the region ──► batch: data, region, applied index ──► engine, one write
//!                      │
//!                      └── Applied: refusals, changes of membership, splits ──► Store::on_applied
//! ```
//!
//! Whether the applier runs on a thread of its own or in the raft worker is the shell's business.
//!
//! The tasks of a call are taken by region and cut into shares, each with a batch and a write of its own,
//! so that lanes can have them done side by side. A share is large enough to be worth a write and a hop;
//! where it is cut depends on the tasks alone, so the number of lanes cannot be seen in what is written.
//! Regions share no keys, so the order of the writes of a call does not matter; what a region's tasks
//! build upon in another's, such as the split that made it, was written by an earlier call.
//!
//! Promises:
//! - The applied index is in the same batch as the data it speaks of, so nothing is applied twice or
//!   left out, wherever a crash falls.
//! - Applying is deterministic. A refusal is the same on every replica and is the entry's answer; anything
//!   else that goes wrong is a fault.
//! - The batch is not synced: the log is the log.

use std::collections::BTreeMap;

use proto::{PeerId, Refusal, RegionId, metapb, region};
use raft::eraftpb::{Entry, EntryType};

use crate::command::Command;
use crate::engine::{DataEngine, WriteBatch};
use crate::error::Fault;
use crate::group::conf_change_v2_of;
use crate::lanes::{Lanes, OneLane, Share};
use crate::msg::{Applied, ApplyTask, Outcome};
use crate::plant::{Bug, Planted};
use crate::storage::group_log::Position;
use crate::storage::region_hash::HashJob;
use crate::storage::{Tombstone, put_applied, put_quarantine, put_region, put_tombstone};

/// A batch larger than this, in bytes, is written before the share's tasks are through.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// A share is closed when its entries are this large, in bytes: some hundred microseconds of work, against
/// some for a write and some tens for a hop to another thread.
const SHARE_BYTES: usize = 64 << 10;

/// Applies the entries of all regions of a store.
pub struct Applier<D: DataEngine> {
    data: D,
    delegates: BTreeMap<RegionId, Delegate>,
    lanes: Box<dyn Lanes<ApplyShare<D>>>,
    share_bytes: usize,
    planted: Planted,
}

/// What applying needs to know of one region.
#[derive(Debug)]
pub(crate) struct Delegate {
    pub(crate) region: metapb::Region,
    peer_id: PeerId,
    applied: Position,
    pub(crate) bytes_written: u64,
    pub(crate) keys_written: u64,
    /// The last entry wants the data as they are now to be hashed.
    is_hash_due: bool,
    pub(crate) planted: Planted,
}

impl<D: DataEngine> Applier<D> {
    /// An applier that knows no region; `Store::open` tells it of those that are there.
    pub fn new(data: D) -> Self {
        Self {
            data,
            delegates: BTreeMap::new(),
            lanes: Box::new(OneLane),
            share_bytes: SHARE_BYTES,
            planted: Planted::default(),
        }
    }

    /// With this bug.
    pub fn planting(self, planted: Planted) -> Self {
        Self { planted, ..self }
    }

    /// Has shares done in these lanes.
    pub fn with_lanes(self, lanes: Box<dyn Lanes<ApplyShare<D>>>) -> Self {
        Self { lanes, ..self }
    }

    /// Closes a share at so many bytes; so that small tests have several.
    pub fn with_shares_of(self, bytes: usize) -> Self {
        Self { share_bytes: bytes, ..self }
    }

    /// Performs these tasks, those of one region in order. When this returns everything is in the engine.
    /// The answers come by region.
    pub fn apply(&mut self, tasks: Vec<ApplyTask>) -> Result<Vec<Applied>, Fault> {
        let mut by_region: BTreeMap<RegionId, Vec<ApplyTask>> = BTreeMap::new();
        for task in tasks {
            by_region.entry(region_of(&task)).or_default().push(task);
        }
        let shares = self.cut(by_region);
        let mut all = Vec::new();
        for share in self.lanes.run(shares) {
            if let Some(fault) = share.fault {
                return Err(fault);
            }
            all.extend(share.applied);
            for part in share.parts {
                if let Some(delegate) = part.delegate {
                    self.delegates.insert(part.region_id, delegate);
                }
            }
        }
        Ok(all)
    }

    /// Cuts the work into shares; delegates go with it.
    fn cut(&mut self, by_region: BTreeMap<RegionId, Vec<ApplyTask>>) -> Vec<ApplyShare<D>> {
        let mut shares = Vec::new();
        let mut parts = Vec::new();
        let mut bytes = 0;
        let share =
            |parts| ApplyShare { data: self.data.clone(), parts, applied: Vec::new(), fault: None };
        for (region_id, tasks) in by_region {
            bytes += tasks.iter().map(bytes_of).sum::<usize>();
            let delegate = self.delegates.remove(&region_id);
            parts.push(RegionPart { region_id, delegate, tasks, planted: self.planted });
            if bytes >= self.share_bytes {
                shares.push(share(std::mem::take(&mut parts)));
                bytes = 0;
            }
        }
        if !parts.is_empty() {
            shares.push(share(parts));
        }
        shares
    }
}

fn region_of(task: &ApplyTask) -> RegionId {
    match task {
        ApplyTask::Start { region, .. } => region::id(region),
        ApplyTask::Entries { region_id, .. }
        | ApplyTask::Quarantine { region_id, .. }
        | ApplyTask::Destroy { region_id, .. } => *region_id,
    }
}

fn bytes_of(task: &ApplyTask) -> usize {
    match task {
        ApplyTask::Entries { entries, .. } => entries.iter().map(|entry| entry.data.len()).sum(),
        ApplyTask::Start { .. } | ApplyTask::Quarantine { .. } | ApplyTask::Destroy { .. } => 0,
    }
}

/// The tasks of some regions of a call, on a lane.
#[derive(Debug)]
pub struct ApplyShare<D> {
    data: D,
    /// By region id.
    parts: Vec<RegionPart>,
    applied: Vec<Applied>,
    fault: Option<Fault>,
}

/// The tasks of one region, with what applying needs to know of it; `None` when it does not apply (any
/// more).
#[derive(Debug)]
struct RegionPart {
    region_id: RegionId,
    delegate: Option<Delegate>,
    tasks: Vec<ApplyTask>,
    planted: Planted,
}

impl<D: DataEngine> Share for ApplyShare<D> {
    fn work(&mut self) {
        self.fault = self.apply().err();
    }
}

impl<D: DataEngine> ApplyShare<D> {
    /// Applies everything, as one write unless it is too large for one.
    fn apply(&mut self) -> Result<(), Fault> {
        let mut batch = WriteBatch::new();
        for part in &mut self.parts {
            for task in std::mem::take(&mut part.tasks) {
                let applied = part.perform(task, &mut batch, &self.data)?;
                self.applied.extend(applied);
            }
        }
        if !batch.is_empty() {
            self.data.write(batch)?;
        }
        Ok(())
    }
}

impl RegionPart {
    /// Performs one task; its answer, if it has one.
    fn perform(
        &mut self,
        task: ApplyTask,
        batch: &mut WriteBatch,
        data: &impl DataEngine,
    ) -> Result<Option<Applied>, Fault> {
        match task {
            ApplyTask::Start { region, peer_id, applied_index, applied_term } => {
                let applied = Position { index: applied_index, term: applied_term };
                self.delegate = Some(Delegate {
                    region,
                    peer_id,
                    applied,
                    bytes_written: 0,
                    keys_written: 0,
                    is_hash_due: false,
                    planted: self.planted,
                });
                Ok(None)
            }
            ApplyTask::Entries { peer_id, entries, skip_children, .. } => {
                self.apply_entries(peer_id, &entries, &skip_children, batch, data)
            }
            ApplyTask::Quarantine { region_id, odd } => {
                put_quarantine(batch, region_id, odd);
                Ok(None)
            }
            ApplyTask::Destroy { peer_id, .. } => Ok(self.destroy(peer_id, batch)),
        }
    }

    fn apply_entries(
        &mut self,
        peer_id: PeerId,
        entries: &[Entry],
        skip_children: &[RegionId],
        batch: &mut WriteBatch,
        data: &impl DataEngine,
    ) -> Result<Option<Applied>, Fault> {
        let region_id = self.region_id;
        let is_its = |delegate: &&mut Delegate| delegate.peer_id == peer_id;
        let Some(delegate) = self.delegate.as_mut().filter(is_its) else { return Ok(None) };
        let mut applied = Applied { region_id, peer_id, ..Applied::default() };
        let mut is_removed = false;
        for entry in entries {
            is_removed = delegate.apply_entry(entry, skip_children, &mut applied, batch);
            if is_removed {
                break;
            }
            let is_hash_due = std::mem::take(&mut delegate.is_hash_due);
            if is_hash_due || batch.bytes() > BATCH_BYTES_MAX {
                put_applied(batch, region_id, delegate.applied);
                data.write(std::mem::take(batch))?;
            }
            if is_hash_due {
                let job = HashJob::new(data, delegate.region.clone(), delegate.applied.index);
                applied.outcomes.push(Outcome::HashDue { job });
            }
        }
        delegate.report(&mut applied);
        if is_removed {
            self.delegate = None;
        } else {
            if self.planted.has(Bug::AppliedIndexApart) {
                let mut apart = WriteBatch::new();
                put_applied(&mut apart, region_id, delegate.applied);
                data.write(apart)?;
            }
            put_applied(batch, region_id, delegate.applied);
        }
        Ok(Some(applied))
    }

    /// The peer was told to go, by no entry of its own log.
    fn destroy(&mut self, peer_id: PeerId, batch: &mut WriteBatch) -> Option<Applied> {
        let region_id = self.region_id;
        let delegate = self.delegate.take_if(|delegate| delegate.peer_id == peer_id)?;
        let tombstone = Tombstone { region: delegate.region, peer_id, removed_at: None };
        if !self.planted.has(Bug::TombstoneUnwritten) {
            put_tombstone(batch, &tombstone);
        }
        Some(Applied {
            region_id,
            peer_id,
            applied_index: delegate.applied.index,
            applied_term: delegate.applied.term,
            outcomes: vec![Outcome::Removed { tombstone }],
            ..Applied::default()
        })
    }
}

impl Delegate {
    /// Applies one entry. Returns whether it removed the peer here.
    fn apply_entry(
        &mut self,
        entry: &Entry,
        skip_children: &[RegionId],
        applied: &mut Applied,
        batch: &mut WriteBatch,
    ) -> bool {
        let index = entry.index;
        assert!(
            index == self.applied.index + 1,
            "{}.{} applies {index} after {}",
            region::id(&self.region),
            self.peer_id,
            self.applied,
        );
        self.applied = Position { index, term: entry.term };
        let outcome = match entry.entry_type {
            EntryType::EntryNormal if entry.data.is_empty() => Ok(None),
            EntryType::EntryNormal => self.apply_command(entry, skip_children, batch),
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                self.apply_conf_change(entry, batch)
            }
        };
        match outcome {
            Ok(None) => {}
            Ok(Some(outcome)) => applied.outcomes.push(outcome),
            Err(refusal) => applied.outcomes.push(Outcome::Refused { index, refusal }),
        }
        if region::peer_by_id(&self.region, self.peer_id).is_some() {
            return false;
        }
        let tombstone = Tombstone {
            region: self.region.clone(),
            peer_id: self.peer_id,
            removed_at: Some(self.applied),
        };
        if !self.planted.has(Bug::TombstoneUnwritten) {
            put_tombstone(batch, &tombstone);
        }
        applied.outcomes.push(Outcome::Removed { tombstone });
        true
    }

    fn apply_command(
        &mut self,
        entry: &Entry,
        skip_children: &[RegionId],
        batch: &mut WriteBatch,
    ) -> Result<Option<Outcome>, Refusal> {
        let index = entry.index;
        let command = Command::decode(entry.data.clone())
            .map_err(|error| Refusal::Other { message: error.to_string() })?;
        match command {
            Command::Write { epoch, batch: changes } => {
                self.apply_write(&epoch, changes, batch)?;
                Ok(None)
            }
            Command::CutLog { index: upto, term } if upto < index => {
                Ok(Some(Outcome::LogCut { index: upto, term }))
            }
            Command::CutLog { .. } => {
                Err(Refusal::Other { message: "cuts what is not there yet".into() })
            }
            Command::Split(split) => {
                let regions = self.apply_split(&split, skip_children, batch)?;
                Ok(Some(Outcome::Split { index, regions, skipped: skip_children.to_vec() }))
            }
            Command::ComputeHash => {
                self.is_hash_due = true;
                Ok(None)
            }
            Command::VerifyHash { index, hash } => Ok(Some(Outcome::HashAgreed { index, hash })),
            Command::Member(_) | Command::Members(_) => {
                Err(Refusal::Other { message: "a member outside a change of membership".into() })
            }
        }
    }

    fn apply_conf_change(
        &mut self,
        entry: &Entry,
        batch: &mut WriteBatch,
    ) -> Result<Option<Outcome>, Refusal> {
        let change = conf_change_v2_of(entry)
            .ok_or_else(|| Refusal::Other { message: "not a change of membership".into() })?;
        let region = self.apply_members(&change)?;
        if !self.planted.has(Bug::MembersUnwritten) {
            put_region(batch, &region);
        }
        self.region = region.clone();
        Ok(Some(Outcome::ConfChanged { index: entry.index, change, region }))
    }

    /// Moves what was counted into the answer.
    fn report(&mut self, applied: &mut Applied) {
        applied.applied_index = self.applied.index;
        applied.applied_term = self.applied.term;
        applied.bytes_written = std::mem::take(&mut self.bytes_written);
        applied.keys_written = std::mem::take(&mut self.keys_written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Fold;
    use crate::engine::memory::MemoryData;
    use crate::engine::{ColumnFamily, Cursor as _, Snapshot as _};
    use crate::lanes::ShuffledLanes;

    const REGIONS: u64 = 9;

    fn region_of(id: u64) -> metapb::Region {
        metapb::Region {
            id,
            region_epoch: Some(region::FIRST_EPOCH),
            start_key: format!("{id}").into(),
            end_key: format!("{}", id + 1).into(),
            peers: vec![metapb::Peer { id: id + 100, store_id: 1, ..Default::default() }],
            ..Default::default()
        }
    }

    /// One call's tasks, with regions in no order, one that is told to go and one that is not known.
    fn tasks() -> Vec<ApplyTask> {
        let entries = |id: u64, first: u64| ApplyTask::Entries {
            region_id: RegionId(id),
            peer_id: PeerId(id + 100),
            entries: (first..first + 2)
                .map(|index| {
                    let mut epoch = region::FIRST_EPOCH;
                    // Some are refused.
                    epoch.version += u64::from(index == 7);
                    let mut batch = WriteBatch::new();
                    batch.put(ColumnFamily::Default, format!("{id}"), format!("{index}"));
                    let mut fold = Fold::new(epoch);
                    fold.push(&batch);
                    Entry { index, term: 5, data: fold.finish().into(), ..Default::default() }
                })
                .collect(),
            skip_children: Vec::new(),
        };
        let mut tasks: Vec<ApplyTask> = (1..REGIONS)
            .rev()
            .map(|id| ApplyTask::Start {
                region: region_of(id),
                peer_id: PeerId(id + 100),
                applied_index: 5,
                applied_term: 5,
            })
            .collect();
        tasks.extend((1..=REGIONS).map(|id| entries(id, 6)));
        tasks.extend([4, 2, 8].map(|id| entries(id, 8)));
        tasks.push(ApplyTask::Destroy { region_id: RegionId(3), peer_id: PeerId(103) });
        tasks.push(ApplyTask::Destroy { region_id: RegionId(5), peer_id: PeerId(999) });
        tasks
    }

    fn contents(data: &MemoryData) -> Vec<(Vec<u8>, Vec<u8>)> {
        let snapshot = data.snapshot();
        let mut found = Vec::new();
        for cf in ColumnFamily::ALL {
            let mut cursor = snapshot.cursor(cf, &proto::KeyRange::all());
            let mut more = cursor.seek_to_first().unwrap();
            while more {
                found.push((cursor.key().to_vec(), cursor.value().to_vec()));
                more = cursor.next().unwrap();
            }
        }
        found
    }

    #[test]
    fn shares_in_any_order_come_to_the_same() {
        let apply = |share_bytes, seed| {
            let data = MemoryData::new();
            let mut applier = Applier::new(data.clone())
                .with_shares_of(share_bytes)
                .with_lanes(Box::new(ShuffledLanes::new(4, seed)));
            let first = applier.apply(tasks()).unwrap();
            // Delegates are where they were; the one that was told to go is gone.
            assert_eq!(applier.delegates.len() as u64, REGIONS - 2);
            (format!("{first:?}"), contents(&data))
        };
        let at_once = apply(usize::MAX, 0);
        assert_eq!(at_once.1.iter().filter(|(_, value)| value == b"9").count(), 3);
        for seed in 0..10 {
            assert_eq!(apply(1, seed), at_once, "every region by itself, seed {seed}");
            assert_eq!(apply(100, seed), at_once, "some together, seed {seed}");
        }
    }

    /// S0.48: what cannot be written stops the store; nobody is told that it was applied.
    #[test]
    fn a_write_that_fails_is_a_fault_of_the_call() {
        let data = MemoryData::new();
        let mut applier = Applier::new(data.clone()).with_shares_of(1);
        data.set_broken(true);
        assert!(applier.apply(tasks()).is_err());
    }
}
