//! The data engine in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use proto::KeyRange;

use super::page_map::{PageMap, Place};
use super::{Counters, Fuse, broken};
use crate::engine::middle::{self, ends};
use crate::engine::{
    Change, ColumnFamily, Cursor, DataEngine, RangeSize, Snapshot, WriteBatch, garbage,
};
use crate::error::Fault;

/// Unsynced batches that a loss of power may take. Beyond, the oldest ones count as durable, as a
/// kernel writes old pages back unasked; without it a disk that nobody syncs would grow for ever.
const UNSYNCED_BATCHES_MAX: usize = 4096;

/// One map a family, by the family's number.
type Families = [PageMap; ColumnFamily::ALL.len()];

/// A disk with data. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemoryData {
    disk: Arc<RwLock<Disk>>,
}

#[derive(Debug, Default)]
struct Disk {
    live: Families,
    durable: Families,
    /// What is in `live` and not in `durable`, oldest first.
    unsynced: VecDeque<WriteBatch>,
    counters: Counters,
    broken: bool,
    fuse: Option<Fuse>,
}

impl Disk {
    /// Whether the operation that comes now fails.
    fn fails(&self) -> bool {
        self.broken || self.fuse.as_ref().is_some_and(Fuse::is_blown)
    }
}

impl MemoryData {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many batches a loss of power could take.
    pub fn unsynced_writes(&self) -> usize {
        self.disk.read().unsynced.len()
    }

    /// The power fails: of the unsynced batches only the first `keep_unsynced` are left, and all
    /// that is left is durable. Returns how many were lost. The store that wrote them must be gone.
    pub fn power_loss(&self, keep_unsynced: usize) -> usize {
        let mut disk = self.disk.write();
        let kept = keep_unsynced.min(disk.unsynced.len());
        let lost = disk.unsynced.len() - kept;
        for batch in std::mem::take(&mut disk.unsynced).into_iter().take(kept) {
            apply(&mut disk.durable, &batch);
        }
        disk.live = disk.durable.clone();
        disk.counters.power_losses += 1;
        disk.counters.lost_writes += lost as u64;
        lost
    }

    /// From now on every write and sync is a fault, or no longer so. Reading still works.
    pub fn set_broken(&self, broken: bool) {
        self.disk.write().broken = broken;
    }

    /// From now on writes and syncs fail when this fuse says so.
    pub fn set_fuse(&self, fuse: Option<Fuse>) {
        self.disk.write().fuse = fuse;
    }

    /// What the disk has done so far.
    pub fn counters(&self) -> Counters {
        self.disk.read().counters
    }
}

fn apply(families: &mut Families, batch: &WriteBatch) {
    for change in batch.changes() {
        match change {
            Change::Put { cf, key, value } => {
                families[*cf as usize].put(key.clone(), value.clone());
            }
            Change::Delete { cf, key } => families[*cf as usize].delete(key),
            Change::DeleteRange { cf, range } => families[*cf as usize].delete_range(range),
        }
    }
}

impl DataEngine for MemoryData {
    type Snapshot = MemorySnapshot;

    fn snapshot(&self) -> MemorySnapshot {
        MemorySnapshot { families: Arc::new(self.disk.read().live.clone()) }
    }

    fn get(&self, cf: ColumnFamily, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        Ok(self.disk.read().live[cf as usize].get(key).cloned())
    }

    fn write(&self, batch: WriteBatch) -> Result<(), Fault> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut disk = self.disk.write();
        let disk = &mut *disk;
        if disk.fails() {
            return Err(broken("write data"));
        }
        apply(&mut disk.live, &batch);
        disk.unsynced.push_back(batch);
        if disk.unsynced.len() > UNSYNCED_BATCHES_MAX
            && let Some(oldest) = disk.unsynced.pop_front()
        {
            apply(&mut disk.durable, &oldest);
        }
        disk.counters.writes += 1;
        Ok(())
    }

    fn sync(&self) -> Result<(), Fault> {
        let mut disk = self.disk.write();
        if disk.fails() {
            return Err(broken("sync the data engine"));
        }
        disk.durable = disk.live.clone();
        disk.unsynced.clear();
        disk.counters.syncs += 1;
        Ok(())
    }

    /// Exact: pages know their sizes.
    fn approximate_size(&self, range: &KeyRange) -> Result<RangeSize, Fault> {
        let disk = self.disk.read();
        let mut sum = RangeSize::default();
        for cf in ColumnFamily::DATA {
            let size = disk.live[cf as usize].size(range);
            sum += RangeSize::of_family(cf, size.bytes, size.keys);
        }
        Ok(sum)
    }

    fn approximate_middle(&self, range: &KeyRange) -> Result<Option<Bytes>, Fault> {
        let Some((first, last)) = ends(&self.snapshot(), range)? else { return Ok(None) };
        middle::find(&first, &last, |part| Ok(self.approximate_size(part)?.bytes))
    }

    /// Not synced: a loss of power takes what was removed after it as well.
    fn raise_safe_point(&self, safe_point: u64) -> Result<(), Fault> {
        if safe_point <= self.safe_point() {
            return Ok(());
        }
        self.write(garbage::remember(safe_point))
    }

    fn safe_point(&self) -> u64 {
        safe_point_in(&self.disk.read().live)
    }

    /// All of it, at once: what compaction does sooner or later happens here when it is asked for.
    fn collect_garbage(&self, range: &KeyRange) -> Result<u64, Fault> {
        let found = garbage::sweep(&self.snapshot(), range, self.safe_point(), u64::MAX)?;
        self.write(found.batch)?;
        Ok(found.garbage)
    }

    fn used_bytes(&self) -> u64 {
        0
    }
}

/// A view of the data at one instant.
#[derive(Clone, Debug)]
pub struct MemorySnapshot {
    families: Arc<Families>,
}

fn safe_point_in(families: &Families) -> u64 {
    let record = families[ColumnFamily::Meta as usize].get(&garbage::SAFE_POINT_KEY);
    garbage::remembered(record.map(AsRef::as_ref)).expect("memory is not damaged")
}

impl Snapshot for MemorySnapshot {
    type Cursor = MemoryCursor;

    fn safe_point(&self) -> u64 {
        safe_point_in(&self.families)
    }

    fn get(&self, cf: ColumnFamily, key: &[u8]) -> Result<Option<Bytes>, Fault> {
        Ok(self.families[cf as usize].get(key).cloned())
    }

    fn cursor(&self, cf: ColumnFamily, range: &KeyRange) -> MemoryCursor {
        let map = self.families[cf as usize].clone();
        let (low, high) = map.places_of(range);
        MemoryCursor { map, low, high, at: None }
    }
}

/// A position in a [`MemorySnapshot`].
#[derive(Debug)]
pub struct MemoryCursor {
    map: PageMap,
    low: Place,
    /// First place behind the range; at or before `low` when nothing lies inside.
    high: Place,
    at: Option<Place>,
}

impl MemoryCursor {
    /// Puts the cursor there if it is a place inside the range.
    fn land(&mut self, place: Option<Place>) -> Result<bool, Fault> {
        self.at = place.filter(|place| self.low <= *place && *place < self.high);
        Ok(self.at.is_some())
    }

    fn place(&self) -> Place {
        self.at.expect("a cursor that moves or is read must be on a key")
    }

    fn pair(&self) -> &(Bytes, Bytes) {
        self.map.pair(self.place()).expect("a cursor's place holds a pair")
    }
}

impl Cursor for MemoryCursor {
    fn seek_to_first(&mut self) -> Result<bool, Fault> {
        self.land(Some(self.low))
    }

    fn seek_to_last(&mut self) -> Result<bool, Fault> {
        self.land(self.map.before(self.high))
    }

    fn seek(&mut self, key: &[u8]) -> Result<bool, Fault> {
        self.land(Some(self.map.first_from(key).max(self.low)))
    }

    fn seek_for_prev(&mut self, key: &[u8]) -> Result<bool, Fault> {
        let place = self.map.first_from(key);
        let exact = self.map.pair(place).is_some_and(|(found, _)| found == key);
        let behind = if exact { self.map.after(place) } else { place };
        self.land(self.map.before(behind.min(self.high)))
    }

    fn next(&mut self) -> Result<bool, Fault> {
        self.land(Some(self.map.after(self.place())))
    }

    fn prev(&mut self) -> Result<bool, Fault> {
        self.land(self.map.before(self.place()))
    }

    fn is_on_key(&self) -> bool {
        self.at.is_some()
    }

    fn key(&self) -> &[u8] {
        &self.pair().0
    }

    fn value(&self) -> &[u8] {
        &self.pair().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(data: &MemoryData, key: &'static str) {
        let mut batch = WriteBatch::new();
        batch.put(ColumnFamily::Default, key, "v");
        data.write(batch).unwrap();
    }

    fn keys(data: &MemoryData) -> String {
        let mut cursor = data.snapshot().cursor(ColumnFamily::Default, &KeyRange::all());
        let mut keys = String::new();
        let mut more = cursor.seek_to_first().unwrap();
        while more {
            keys.push_str(std::str::from_utf8(cursor.key()).unwrap());
            more = cursor.next().unwrap();
        }
        keys
    }

    #[test]
    fn power_loss_takes_a_suffix_of_unsynced_writes_and_nothing_else() {
        for keep in 0..=3 {
            let data = MemoryData::new();
            put(&data, "a");
            data.sync().unwrap();
            for key in ["b", "c", "d"] {
                put(&data, key);
            }
            let before = data.snapshot();
            assert_eq!(data.power_loss(keep), 3 - keep);
            assert_eq!(keys(&data), "abcd"[..=keep]);
            assert_eq!(data.unsynced_writes(), 0);
            // What survived once is durable.
            assert_eq!(data.power_loss(0), 0);
            assert_eq!(keys(&data), "abcd"[..=keep]);
            assert!(before.get(ColumnFamily::Default, b"d").unwrap().is_some());
        }
    }

    #[test]
    fn a_disk_that_nobody_syncs_does_not_grow_for_ever() {
        let data = MemoryData::new();
        for _ in 0..=UNSYNCED_BATCHES_MAX {
            put(&data, "a");
        }
        assert_eq!(data.unsynced_writes(), UNSYNCED_BATCHES_MAX);
        data.power_loss(0);
        assert_eq!(keys(&data), "a");
    }

    #[test]
    fn a_broken_disk_takes_no_writes_and_still_answers() {
        let data = MemoryData::new();
        put(&data, "a");
        data.set_broken(true);
        let mut batch = WriteBatch::new();
        batch.put(ColumnFamily::Default, "b", "v");
        assert!(data.write(batch).is_err());
        assert!(data.sync().is_err());
        assert_eq!(keys(&data), "a");
    }
}
