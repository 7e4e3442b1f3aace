//! Who moves the safe points, and when: garbage collection without anybody's asking for it.
//!
//! ```text
//! idle ──► it is time: the txn safe point goes to "now less the life time", as far as barriers let it
//!            │
//!            ▼ stores hear of it, let in no transaction that began earlier, and resolve the locks
//!              that such ones left, each in the regions that it leads
//!            │
//!            ▼ stores report ranges of keys in which no such lock is left
//!          all keys are covered, and every store that lives has heard: the GC safe point follows
//!            │
//!            ▼ stores remove versions
//! ```
//!
//! Ranges are reported, not regions: regions split and change their leaders meanwhile. A range that is
//! clean stays so, because nobody is let in any more who could lock in it below the safe point.
//!
//! Nothing here is written down. The two safe points are ([`GcState`]); as long as they differ a
//! collection is under way, and a new leader of the scheduler begins to count afresh while stores report
//! again what they have done. A store that is silent holds nothing up, but the keys of regions that nobody
//! leads do.
//!
//! A client that moves the safe points itself (`AdvanceTxnSafePoint`) is helped along; one that moves the
//! GC safe point alone answers for it.

use std::collections::BTreeMap;

use proto::{KeyRange, StoreId, Timestamp};

use crate::gc::GcState;

/// Ranges kept at once; more are merged where they touch, and refused beyond: reports come again.
const RANGES_MAX: usize = 64 * 1024;

/// The wishes that collecting goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Versions that were the newest at some time within the last so many milliseconds stay.
    pub life_time_ms: u64,
    /// Milliseconds between two collections; 0 begins none.
    pub run_interval_ms: u64,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Wait,
    /// Move the txn safe point towards this.
    Begin(u64),
    /// Every lock before the txn safe point is resolved: move the GC safe point to it.
    Finish(u64),
}

/// One collection under way, as far as this leader has heard of it.
#[derive(Clone, Debug, Default)]
pub struct Collection {
    /// When this leader began to look, in milliseconds since 1970; 0 before the first look.
    since_ms: u64,
    /// The txn safe point that the rest is about.
    target: u64,
    clean: Ranges,
    heard: BTreeMap<StoreId, u64>,
}

impl Collection {
    /// Time has passed. `alive` are the stores that count on being asked.
    pub fn tick(
        &mut self,
        pace: Pace,
        gc: &GcState,
        now_ms: u64,
        mut alive: impl Iterator<Item = StoreId>,
    ) -> Act {
        if self.since_ms == 0 {
            self.since_ms = now_ms;
        }
        let target = gc.txn_safe_point();
        if target > gc.gc_safe_point() {
            self.aim_at(target);
            let has_heard = |store| self.heard.get(&store).is_some_and(|heard| *heard >= target);
            let is_done = self.clean.are_all() && alive.all(has_heard);
            return if is_done { Act::Finish(target) } else { Act::Wait };
        }
        if pace.run_interval_ms == 0 {
            return Act::Wait;
        }
        // When the last collection began, by what it aimed at; before the first, when we did.
        let last_ms = match Timestamp(target).physical() {
            0 => self.since_ms,
            physical => physical.saturating_add(pace.life_time_ms),
        };
        if now_ms < last_ms.saturating_add(pace.run_interval_ms) {
            return Act::Wait;
        }
        let wanted = Timestamp::new(now_ms.saturating_sub(pace.life_time_ms), 0).0;
        // A barrier that stood in the way may have fallen meanwhile; looking costs nothing.
        if wanted > target { Act::Begin(wanted) } else { Act::Wait }
    }

    /// A store tells up to where it has heard, and where it has resolved every lock below that.
    pub fn on_report(
        &mut self,
        store: StoreId,
        txn_safe_point: u64,
        clean: impl IntoIterator<Item = KeyRange>,
        gc: &GcState,
    ) {
        let heard = self.heard.entry(store).or_default();
        *heard = txn_safe_point.max(*heard);
        if txn_safe_point == gc.txn_safe_point() && txn_safe_point > gc.gc_safe_point() {
            self.aim_at(txn_safe_point);
            clean.into_iter().for_each(|range| self.clean.add(range));
        }
    }

    fn aim_at(&mut self, target: u64) {
        if self.target != target {
            self.target = target;
            self.clean = Ranges::default();
        }
    }
}

/// A set of keys, as ranges that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ranges {
    /// By their starts.
    ranges: BTreeMap<bytes::Bytes, KeyRange>,
}

impl Ranges {
    fn add(&mut self, mut range: KeyRange) {
        if range.is_empty() {
            return;
        }
        let reaches =
            |left: &KeyRange, key: &[u8]| left.end.as_deref().is_none_or(|end| key <= end);
        // The one that begins before it, and all that begin inside it or at its end.
        if let Some((_, before)) = self.ranges.range(..=range.start.clone()).next_back()
            && reaches(before, &range.start)
        {
            range.start = before.start.clone();
            if !reaches(&range, before.end.as_deref().unwrap_or_default()) || before.end.is_none() {
                range.end = before.end.clone();
            }
        }
        let touched: Vec<_> = self
            .ranges
            .range(range.start.clone()..)
            .map(|(start, _)| start.clone())
            .take_while(|start| reaches(&range, start))
            .collect();
        for start in touched {
            let Some(gone) = self.ranges.remove(&start) else { continue };
            match (&range.end, gone.end) {
                (Some(end), Some(other)) if *end < other => range.end = Some(other),
                (Some(_), None) => range.end = None,
                (Some(_) | None, _) => {}
            }
        }
        if self.ranges.len() < RANGES_MAX {
            self.ranges.insert(range.start.clone(), range);
        }
    }

    fn are_all(&self) -> bool {
        self.ranges.values().next() == Some(&KeyRange::all())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACE: Pace = Pace { life_time_ms: 600, run_interval_ms: 100 };

    fn range(start: &'static str, end: &'static str) -> KeyRange {
        KeyRange::from_wire(start, end)
    }

    fn at(ms: u64) -> u64 {
        Timestamp::new(ms, 0).0
    }

    fn stores() -> impl Iterator<Item = StoreId> {
        [StoreId(1), StoreId(2)].into_iter()
    }

    #[test]
    fn a_collection_from_begin_to_end() {
        let (mut collection, mut gc) = (Collection::default(), GcState::default());
        assert_eq!(collection.tick(PACE, &gc, 10_000, stores()), Act::Wait);
        assert_eq!(collection.tick(PACE, &gc, 10_099, stores()), Act::Wait);
        let target = at(9_500);
        assert_eq!(collection.tick(PACE, &gc, 10_100, stores()), Act::Begin(target));
        gc.advance_txn_safe_point(target, 0).unwrap();
        assert_eq!(collection.tick(PACE, &gc, 10_200, stores()), Act::Wait);
        collection.on_report(StoreId(1), target, [range("", "m"), range("x", "")], &gc);
        assert_eq!(collection.tick(PACE, &gc, 10_300, stores()), Act::Wait);
        // One leads nothing, or its regions were somebody else's: it has heard, and that is enough.
        collection.on_report(StoreId(2), target, [range("m", "x")], &gc);
        assert_eq!(collection.tick(PACE, &gc, 10_400, stores()), Act::Finish(target));
        gc.advance_gc_safe_point(target).unwrap();
        // The next one is due an interval after this one began.
        assert_eq!(collection.tick(PACE, &gc, 10_100 + 99, stores()), Act::Wait);
        assert_eq!(collection.tick(PACE, &gc, 10_200, stores()), Act::Begin(at(9_600)));
    }

    #[test]
    fn what_is_not_covered_or_has_not_heard_holds_it_up_and_what_is_silent_does_not() {
        let (mut collection, mut gc) = (Collection::default(), GcState::default());
        gc.advance_txn_safe_point(50, 0).unwrap();
        collection.on_report(StoreId(1), 50, [KeyRange::all()], &gc);
        assert_eq!(
            collection.tick(PACE, &gc, 1, stores()),
            Act::Wait,
            "store 2 may let in anybody"
        );
        let alone = [StoreId(1)].into_iter();
        assert_eq!(collection.tick(PACE, &gc, 2, alone), Act::Finish(50));
        // Ranges of an earlier safe point do not count for a later one, nor do late reports of them.
        gc.advance_txn_safe_point(70, 0).unwrap();
        collection.on_report(StoreId(1), 50, [KeyRange::all()], &gc);
        collection.on_report(StoreId(2), 70, [], &gc);
        collection.on_report(StoreId(1), 70, [range("", "m")], &gc);
        assert_eq!(collection.tick(PACE, &gc, 3, stores()), Act::Wait);
        collection.on_report(StoreId(1), 70, [range("m", "")], &gc);
        assert_eq!(collection.tick(PACE, &gc, 4, stores()), Act::Finish(70));
    }

    #[test]
    fn barriers_hold_it_back_and_no_interval_begins_nothing() {
        let (mut collection, mut gc) = (Collection::default(), GcState::default());
        let never = Pace { run_interval_ms: 0, ..PACE };
        collection.tick(never, &gc, 1, stores());
        assert_eq!(collection.tick(never, &gc, u64::MAX >> 20, stores()), Act::Wait);
        gc.set_barrier("backup", 7, 1_000, 0).unwrap();
        let Act::Begin(target) = collection.tick(PACE, &gc, 10_000, stores()) else { panic!() };
        assert_eq!(gc.advance_txn_safe_point(target, 0).unwrap().new, 7);
        // A new leader takes up what is under way.
        let mut other = Collection::default();
        assert_eq!(other.tick(PACE, &gc, 10_001, stores()), Act::Wait);
        for store in stores() {
            other.on_report(store, 7, [KeyRange::all()], &gc);
        }
        assert_eq!(other.tick(PACE, &gc, 10_002, stores()), Act::Finish(7));
    }

    proptest! {
        /// Against the dumb twin: which of the keys a to j are in the set?
        #[test]
        fn ranges_hold_exactly_what_was_added(
            added in prop::collection::vec((0_u8..10, prop::option::of(0_u8..10)), 0..12),
        ) {
            let (mut ranges, mut plain) = (Ranges::default(), [false; 10]);
            let key = |n: u8| bytes::Bytes::from(vec![b'a' + n]);
            for (start, end) in added {
                for n in start..end.unwrap_or(10) {
                    plain[usize::from(n)] = true;
                }
                ranges.add(KeyRange { start: key(start), end: end.map(key) });
            }
            for n in 0..10_u8 {
                let is_in = ranges.ranges.values().any(|range| range.contains(&key(n)));
                prop_assert_eq!(is_in, plain[usize::from(n)]);
            }
            // They are apart.
            let all: Vec<_> = ranges.ranges.values().collect();
            for pair in all.windows(2) {
                prop_assert!(pair[0].end.as_ref().is_some_and(|end| *end < pair[1].start));
            }
        }
    }
}
