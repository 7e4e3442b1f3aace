//! Which regions there are, by key and by id: newest epoch wins, what it overlaps goes.
//!
//! The picture is made of what leaders say of themselves, and what they say arrives late, twice
//! and out of order. So each report is judged before it is believed:
//!
//! | a report is | if |
//! |---|---|
//! | stale | its term is below the known one (and both are known) |
//! | stale | its version or its conf version is below the known one of the same region |
//! | stale | some *other* region that it overlaps has a higher version |
//! | news for the log | it is accepted and the description differs from the known one |
//! | news | it is accepted and only leader, peers' health or load differ |
//! | nothing new | otherwise |
//!
//! Invariants: no two regions in the picture overlap; every region is found by its id and by
//! each of its keys, or by neither; the sets per store say what the descriptions say. Holes are
//! allowed: between a split's two reports, and until a new leader has heard everybody.
//!
//! Finding and replacing cost O(log n + regions overlapped).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use proto::region::epoch;
use proto::{KeyRange, RegionId, StoreId, metapb};

use super::record::RegionRecord;
use super::refusal::Refusal;

mod batch_scan;
mod buckets;
mod holdings;

pub use buckets::{BUCKETS_BYTES_MAX, BUCKETS_KEYS_MAX};
use holdings::Holding;
pub use holdings::StoreCounts;

/// What a report about a region was worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything in it was known.
    Unchanged,
    /// Leader, health or load changed: kept in memory only.
    Updated,
    /// The description is new. It and the removals go to the group's log.
    Replaced {
        /// Other regions that it overlapped and that are gone.
        removed: Vec<RegionId>,
    },
    /// It is from the past; the picture stays as it is.
    Stale(Stale),
}

/// In which way a report is from the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// A deposed leader speaks.
    Term {
        /// The term known.
        known: u64,
        /// The report's.
        said: u64,
    },
    /// The region has since split, merged or changed its peers.
    Epoch {
        /// The epoch known.
        known: metapb::RegionEpoch,
        /// The report's.
        said: metapb::RegionEpoch,
    },
    /// Its keys belong to a region of a higher version.
    Overlap {
        /// Which region.
        with: RegionId,
        /// That region's version.
        known_version: u64,
        /// The report's.
        said_version: u64,
    },
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Term { known, said } => write!(f, "term {said} is older than {known}"),
            Self::Epoch { known, said } => write!(
                f,
                "epoch v{}.c{} is older than v{}.c{}",
                said.version, said.conf_ver, known.version, known.conf_ver
            ),
            Self::Overlap { with, known_version, said_version } => {
                write!(f, "overlaps {with} of version {known_version}, itself of {said_version}")
            }
        }
    }
}

/// Splits or changes of peers that nobody has told the scheduler of, at most. A report that is
/// further ahead of what is known is refused.
pub const EPOCH_LEAP_MAX: u64 = 1 << 16;

/// The picture of all regions.
#[derive(Clone, Debug, Default)]
pub struct Regions {
    by_id: BTreeMap<RegionId, Arc<RegionRecord>>,
    by_start: BTreeMap<Bytes, RegionId>,
    holdings: BTreeMap<StoreId, Holding>,
    /// The sizes of all together.
    size_mib: u64,
    /// What the keys of all their buckets take.
    bucket_bytes: usize,
}

impl Regions {
    /// The regions that the replicated state holds: descriptions without leaders, a head start
    /// until the leaders speak.
    pub fn load(regions: impl IntoIterator<Item = metapb::Region>) -> Self {
        let mut picture = Self::default();
        for region in regions {
            picture.offer(RegionRecord { region, ..RegionRecord::default() });
        }
        picture
    }

    /// Judges a report, and makes it part of the picture unless it is stale.
    pub fn offer(&mut self, mut record: RegionRecord) -> Verdict {
        let id = record.id();
        let known = self.by_id.get(&id);
        if let Some(stale) = self.staleness(&record, known.map(Arc::as_ref)) {
            return Verdict::Stale(stale);
        }
        if let Some(known) = known {
            record.keep_what_is_not_said(known);
            if **known == record {
                return Verdict::Unchanged;
            }
            if known.region == record.region {
                // Same keys, same peers: nothing can overlap.
                self.remove(id);
                self.insert(record);
                return Verdict::Updated;
            }
        }
        let mut removed = self.overlapping(&record.range());
        removed.retain(|&other| other != id);
        for &other in &removed {
            self.remove(other);
        }
        self.remove(id);
        self.insert(record);
        Verdict::Replaced { removed }
    }

    /// Whether the report can be true: an epoch moves on by one for each split and change of
    /// peers, each of which the scheduler has a hand in. One that is far beyond what is known of its
    /// keys was not made by a store of this cluster, and once believed it would keep every true
    /// report out.
    pub fn check_leap(&self, record: &RegionRecord) -> Result<(), Refusal> {
        let overlapped = self.overlapping(&record.range());
        let known = overlapped.iter().map(|id| self.by_id[id].epoch());
        let known = known.chain(self.by_id(record.id()).map(|known| known.epoch()));
        let Some(highest) = known.reduce(|a, b| metapb::RegionEpoch {
            version: a.version.max(b.version),
            conf_ver: a.conf_ver.max(b.conf_ver),
        }) else {
            return Ok(());
        };
        let said = record.epoch();
        let leap = |said: u64, known: u64| said.saturating_sub(known) > EPOCH_LEAP_MAX;
        if leap(said.version, highest.version) || leap(said.conf_ver, highest.conf_ver) {
            return Err(Refusal::InvalidRegion(format!(
                "{}: epoch v{}.c{} leaps too far ahead of the known v{}.c{}",
                record.id(),
                said.version,
                said.conf_ver,
                highest.version,
                highest.conf_ver
            )));
        }
        Ok(())
    }

    /// Whether the report is from the past, were it offered now.
    fn staleness(&self, record: &RegionRecord, known: Option<&RegionRecord>) -> Option<Stale> {
        let said = record.epoch();
        if let Some(known) = known {
            if record.term != 0 && record.term < known.term {
                return Some(Stale::Term { known: known.term, said: record.term });
            }
            let known = known.epoch();
            if proto::region::is_epoch_stale(&said, &known) {
                return Some(Stale::Epoch { known, said });
            }
        }
        self.overlapping(&record.range())
            .into_iter()
            .filter(|&other| other != record.id())
            .map(|other| (other, self.by_id[&other].epoch().version))
            .find(|&(_, version)| version > said.version)
            .map(|(with, known_version)| Stale::Overlap {
                with,
                known_version,
                said_version: said.version,
            })
    }

    /// A leader says into which regions, in order of their keys, a region has split. They are
    /// known from now on, rather than from their first heartbeats: a client that asks right
    /// after the split finds both halves. Returns the descriptions that are news, and which
    /// regions are gone.
    pub fn on_split(
        &mut self,
        halves: Vec<metapb::Region>,
    ) -> Result<(Vec<metapb::Region>, Vec<RegionId>), Refusal> {
        check_adjacent(&halves)?;
        let Some(first) = halves.first() else {
            return Err(Refusal::InvalidRegion("a split into nothing".into()));
        };
        let parent = self.by_key(&first.start_key).cloned();
        let (mut news, mut gone) = (Vec::new(), BTreeSet::new());
        let share = halves.len() as u64;
        for half in halves {
            let known = self.by_id(RegionId(half.id));
            // Said before: a guess must not replace what its leader may have said since.
            if known.is_some_and(|known| known.region == half) {
                continue;
            }
            let guess = match known.or(parent.as_ref()) {
                Some(known) => known.after_split(half.clone(), share),
                None => RegionRecord { region: half.clone(), ..RegionRecord::default() },
            };
            if let Verdict::Replaced { removed } = self.offer(guess) {
                gone.remove(&RegionId(half.id));
                gone.extend(removed);
                news.push(half);
            }
        }
        // The parent may have made room for a half and come back as another.
        gone.retain(|id| !self.by_id.contains_key(id));
        Ok((news, gone.into_iter().collect()))
    }

    /// The region that holds the key.
    pub fn by_key(&self, key: &[u8]) -> Option<&Arc<RegionRecord>> {
        let (_, id) =
            self.by_start.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        self.by_id.get(id).filter(|record| record.range().contains(key))
    }

    /// The region right before the one that holds the key; `None` too when a hole lies between.
    pub fn previous_of(&self, key: &[u8]) -> Option<&Arc<RegionRecord>> {
        let start = &self.by_key(key)?.region.start_key;
        let previous = self.before(start)?;
        (previous.region.end_key == *start).then_some(previous)
    }

    /// The region with this id.
    pub fn by_id(&self, id: RegionId) -> Option<&Arc<RegionRecord>> {
        self.by_id.get(&id)
    }

    /// The regions right before and right after this one, where no hole lies between.
    pub fn siblings(
        &self,
        id: RegionId,
    ) -> (Option<&Arc<RegionRecord>>, Option<&Arc<RegionRecord>>) {
        let Some(record) = self.by_id(id) else { return (None, None) };
        let before = self
            .before(&record.region.start_key)
            .filter(|other| other.region.end_key == record.region.start_key);
        let after = (!record.region.end_key.is_empty())
            .then(|| self.by_start.get(&record.region.end_key))
            .flatten()
            .and_then(|id| self.by_id.get(id));
        (before, after)
    }

    /// The regions that share a key with the range, in order; at most `limit` of them, all when
    /// it is 0.
    pub fn scan(&self, range: &KeyRange, limit: usize) -> Vec<Arc<RegionRecord>> {
        let limit = if limit == 0 { usize::MAX } else { limit };
        self.within(range).take(limit).cloned().collect()
    }

    /// All regions, in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<RegionRecord>> {
        self.by_start.values().map(|id| &self.by_id[id])
    }

    /// Up to `count` regions with ids above `after`, by id: a patrol goes round with it.
    pub fn ids_after(&self, after: RegionId, count: usize) -> Vec<RegionId> {
        let above = (Bound::Excluded(after), Bound::Unbounded);
        self.by_id.range(above).take(count).map(|(&id, _)| id).collect()
    }

    /// An id above all regions'.
    pub fn id_end(&self) -> u64 {
        self.by_id.keys().next_back().map_or(0, |last| last.0 + 1)
    }

    /// How many regions there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    fn before(&self, start: &Bytes) -> Option<&Arc<RegionRecord>> {
        let below = (Bound::Unbounded, Bound::Excluded(start));
        self.by_start.range::<Bytes, _>(below).next_back().map(|(_, id)| &self.by_id[id])
    }

    /// The regions that share a key with the range, in order.
    fn within<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = &'a Arc<RegionRecord>> {
        // The region that holds the first key starts at or before it.
        let first = self.by_key(&range.start).map_or(&range.start, |first| &first.region.start_key);
        self.by_start
            .range::<Bytes, _>((Bound::Included(first), Bound::Unbounded))
            .map(|(_, id)| &self.by_id[id])
            .take_while(|record| {
                range.end.as_ref().is_none_or(|end| record.region.start_key < *end)
            })
    }

    fn overlapping(&self, range: &KeyRange) -> Vec<RegionId> {
        self.within(range).map(|record| record.id()).collect()
    }

    fn insert(&mut self, record: RegionRecord) {
        let id = record.id();
        self.count(&record, true);
        self.bucket_bytes += record.bucket_bytes();
        self.by_start.insert(record.region.start_key.clone(), id);
        self.by_id.insert(id, Arc::new(record));
    }

    fn remove(&mut self, id: RegionId) -> Option<Arc<RegionRecord>> {
        let record = self.by_id.remove(&id)?;
        self.by_start.remove(&record.region.start_key);
        self.count(&record, false);
        self.bucket_bytes -= record.bucket_bytes();
        Some(record)
    }
}

/// Whether each region ends where the next begins.
fn check_adjacent(halves: &[metapb::Region]) -> Result<(), Refusal> {
    for pair in halves.windows(2) {
        if pair[0].end_key.is_empty() || pair[0].end_key != pair[1].start_key {
            return Err(Refusal::InvalidRegion(format!(
                "r{} does not end where r{} begins",
                pair[0].id, pair[1].id
            )));
        }
    }
    halves.iter().try_for_each(check_description)
}

/// Whether this can describe a region at all.
pub(crate) fn check_description(region: &metapb::Region) -> Result<(), Refusal> {
    let invalid = |what: &str| Err(Refusal::InvalidRegion(format!("r{}: {what}", region.id)));
    if region.id == 0 {
        return invalid("a region's id must not be 0");
    }
    if KeyRange::of(region).is_empty() {
        return invalid("its range holds no key");
    }
    if region.peers.is_empty() {
        return invalid("it has no peers");
    }
    let stores: BTreeSet<_> = region.peers.iter().map(|peer| peer.store_id).collect();
    if stores.len() != region.peers.len() {
        return invalid("it has two peers on one store");
    }
    Ok(())
}

/// The epoch of a description, for comparing what was asked with what is known.
pub(crate) fn is_older(said: &metapb::Region, known: &metapb::Region) -> bool {
    proto::region::is_epoch_stale(&epoch(said), &epoch(known))
}

#[cfg(test)]
mod script;
#[cfg(test)]
mod tests;
