//! Pessimistic locks that are kept in memory only: a reservation need not be written, because nobody loses
//! data when it is lost.
//!
//! ```text
//!             begins to lead: an empty table                          ceases to lead: dropped
//!                  │                                                          │
//!   reserve ──► table of the region ──► prewrite: replaced by the lock in the log
//!                  │      │
//!                  │      └──► given back, or its transaction resolved: removed
//!                  └──► about to hand over, or to split: closed, and all of it written into the log
//! ```
//!
//! **What holds a table valid.** It belongs to one term in which this store leads the region, and to one
//! version of the region's epoch: [`Led`]. A command looks it up under the term of its view, so a lock is met
//! only while no other store can have written in between. What is lost with a leader was promised to nobody:
//! a prewrite that finds its reservation gone goes on only if nothing was written on the key since its
//! transaction began (`command/prewrite/plan.rs`), and async commits of the next leader lie above every
//! timestamp that was handed out before it led ([`super::memory_locks`]).
//!
//! **One place for each lock.** A key's lock is in its table or in the engine, never in both: it is reserved
//! here only when the engine has none, every change but its owner's own renewal moves it into the log, and all
//! of that happens under the key's latch. So a command reads the table after its view and sees one moment.
//! Whoever looks without latches ([`Reservations::look`]) reads the table *first*: a lock that moves meanwhile
//! is then in the engine.
//!
//! **Readers do not look here.** A pessimistic lock is never in a reader's way.
//!
//! **Where there is no room**, or the table is closed, or there is none, the lock goes through the log as if
//! this were not here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::{KeyRange, kvrpcpb};
use tokio::time::Instant;

use super::record::Lock;
use crate::keys::Key;
use crate::plant::{Bug, Planted};

/// Bytes of one region's locks; one more goes through the log. As in TiKV.
pub const REGION_BYTES_MAX: usize = 512 << 10;

/// Bytes of all regions' locks on a store; one more goes through the log. As in TiKV.
pub const STORE_BYTES_MAX: usize = 100 << 20;

/// How long a table stays closed after its locks were written because the region was to be handed over or
/// split, in case that does not happen: longer than either takes.
pub const CLOSED_FOR: Duration = Duration::from_secs(5);

/// In which term, and with which keys, this store leads a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Led {
    /// The region.
    pub region_id: u64,
    /// The term.
    pub term: u64,
    /// The version of the region's epoch.
    pub version: u64,
}

impl Led {
    /// What a request knows of its region, in the term of its view.
    pub(super) fn of(context: &kvrpcpb::Context, term: u64) -> Self {
        let version = context.region_epoch.as_ref().map_or(0, |epoch| epoch.version);
        Self { region_id: context.region_id, term, version }
    }
}

/// Locks by encoded key, as they were when somebody looked.
pub type Held = BTreeMap<Bytes, Lock>;

/// The tables of a store. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Reservations {
    tables: Arc<Mutex<Tables>>,
}

#[derive(Debug, Default)]
struct Tables {
    by_region: BTreeMap<u64, Table>,
    /// Of all tables.
    bytes: usize,
    planted: Planted,
}

/// The locks of one region.
#[derive(Debug)]
struct Table {
    led: Led,
    locks: Held,
    bytes: usize,
    /// Until then nothing new comes in.
    closed_until: Option<Instant>,
}

impl Table {
    fn new(led: Led) -> Self {
        Self { led, locks: Held::new(), bytes: 0, closed_until: None }
    }

    fn is_closed(&self, now: Instant) -> bool {
        self.closed_until.is_some_and(|until| now < until)
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(lock) = self.locks.remove(key) {
            self.bytes -= bytes_of(key, &lock);
        }
    }
}

/// What a lock takes, roughly.
fn bytes_of(key: &[u8], lock: &Lock) -> usize {
    key.len() + lock.primary.len() + size_of::<Lock>()
}

impl Tables {
    /// Changes a region's table, if there is one.
    fn with<T>(&mut self, region_id: u64, change: impl FnOnce(&mut Table) -> T) -> Option<T> {
        let table = self.by_region.get_mut(&region_id)?;
        self.bytes -= table.bytes;
        let changed = change(table);
        self.bytes += table.bytes;
        Some(changed)
    }
}

impl Reservations {
    /// The same tables, with a mistake in what becomes of them.
    pub(super) fn planting(self, planted: Planted) -> Self {
        self.tables.lock().planted = planted;
        self
    }

    /// This store begins to lead the region. What it held before is void.
    pub fn on_leader(&self, led: Led) {
        let mut tables = self.tables.lock();
        if tables.planted.has(Bug::ReservationsOutliveLeader)
            && let Some(table) = tables.by_region.get_mut(&led.region_id)
        {
            table.led = led;
            return;
        }
        let old = tables.by_region.insert(led.region_id, Table::new(led));
        tables.bytes -= old.map_or(0, |old| old.bytes);
    }

    /// This store leads the region no longer in this term.
    pub fn on_leader_lost(&self, region_id: u64, term: u64) {
        let mut tables = self.tables.lock();
        if tables.planted.has(Bug::ReservationsOutliveLeader) {
            return;
        }
        let is_its = |table: &Table| table.led.term <= term;
        if tables.by_region.get(&region_id).is_some_and(is_its)
            && let Some(old) = tables.by_region.remove(&region_id)
        {
            tables.bytes -= old.bytes;
        }
    }

    /// The locks on these keys. Call it under their latches, after the view was taken.
    pub(super) fn on_keys(&self, led: Led, keys: &[Key]) -> Held {
        let tables = self.tables.lock();
        let Some(table) = tables.by_region.get(&led.region_id).filter(|table| table.led == led)
        else {
            return Held::new();
        };
        let found = keys.iter().filter_map(|key| table.locks.get_key_value(key.encoded()));
        found.map(|(key, lock)| (key.clone(), lock.clone())).collect()
    }

    /// The wanted locks in a part of a region (engine form), without latches. Call it before the view is taken.
    pub(super) fn look(
        &self,
        region_id: u64,
        range: &KeyRange,
        wanted: impl Fn(&Lock) -> bool,
    ) -> Look {
        let tables = self.tables.lock();
        let Some(table) = tables.by_region.get(&region_id) else { return Look(None) };
        let held = table
            .locks
            .range(range.start.clone()..)
            .take_while(|(key, _)| range.contains(key))
            .filter(|(_, lock)| wanted(lock))
            .map(|(key, lock)| (key.clone(), lock.clone()))
            .collect();
        Look(Some((table.led, held)))
    }

    /// Keeps these locks, all or none; returns whether it does. Call it under their latches, and only for keys
    /// whose lock is not in the engine.
    pub(super) fn put(&self, led: Led, locks: &[(Key, Lock)], now: Instant) -> bool {
        if locks.is_empty() {
            return true;
        }
        let new: usize = locks.iter().map(|(key, lock)| bytes_of(key.encoded(), lock)).sum();
        let mut tables = self.tables.lock();
        let all = tables.bytes;
        let put = |table: &mut Table| {
            if table.led.term == led.term && table.led.version < led.version {
                // The region was split: what was not written before is lost.
                *table = Table::new(led);
            }
            let has_room = table.bytes + new <= REGION_BYTES_MAX && all + new <= STORE_BYTES_MAX;
            if table.led != led || table.is_closed(now) || !has_room {
                return false;
            }
            for (key, lock) in locks {
                table.remove(key.encoded());
                table.bytes += bytes_of(key.encoded(), lock);
                table.locks.insert(key.encoded().clone(), lock.clone());
            }
            true
        };
        tables.with(led.region_id, put).unwrap_or(false)
    }

    /// These locks are removed, or are in the engine now. Call it under their latches.
    pub(super) fn remove(&self, led: Led, keys: &[Key]) {
        if keys.is_empty() {
            return;
        }
        self.tables.lock().with(led.region_id, |table| {
            if table.led == led {
                keys.iter().for_each(|key| table.remove(key.encoded()));
            }
        });
    }

    /// Nothing new comes in for a while; returns the keys of what is there.
    pub(super) fn close(&self, region_id: u64, version: u64, now: Instant) -> Vec<Key> {
        let close = |table: &mut Table| {
            if table.led.version < version {
                *table = Table::new(Led { version, ..table.led });
            }
            if table.led.version != version {
                return Vec::new();
            }
            table.closed_until = Some(now + CLOSED_FOR);
            table.locks.keys().filter_map(|key| Key::from_encoded(key)).collect()
        };
        self.tables.lock().with(region_id, close).unwrap_or_default()
    }

    /// Everything in this range of keys (engine form) is gone, whatever region it is in.
    pub fn remove_in(&self, range: &KeyRange) {
        let mut tables = self.tables.lock();
        let regions: Vec<u64> = tables.by_region.keys().copied().collect();
        for region_id in regions {
            tables.with(region_id, |table| {
                let from = table.locks.range(range.start.clone()..);
                let keys = from.map(|(key, _)| key.clone()).take_while(|key| range.contains(key));
                keys.collect::<Vec<_>>().iter().for_each(|key| table.remove(key));
            });
        }
    }

    /// Every lock there is, for a test to see.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn all(&self) -> Vec<(Key, Lock)> {
        let tables = self.tables.lock();
        let locks = tables.by_region.values().flat_map(|table| &table.locks);
        locks.filter_map(|(key, lock)| Some((Key::from_encoded(key)?, lock.clone()))).collect()
    }

    /// How many locks there are, in all regions.
    pub fn len(&self) -> usize {
        self.tables.lock().by_region.values().map(|table| table.locks.len()).sum()
    }

    /// How many locks there are in this region.
    pub fn count_in(&self, region_id: u64) -> usize {
        self.tables.lock().by_region.get(&region_id).map_or(0, |table| table.locks.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What somebody saw of a table without latches.
#[derive(Debug)]
pub(super) struct Look(Option<(Led, Held)>);

impl Look {
    /// The locks, if they belong to the view that was taken afterwards.
    pub(super) fn under(self, led: Led) -> Held {
        self.0.filter(|(of, _)| *of == led).map(|(_, held)| held).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::LockKind;
    use super::*;

    const LED: Led = Led { region_id: 2, term: 6, version: 3 };

    fn lock(start_ts: u64) -> Lock {
        Lock::new(LockKind::Pessimistic, "p", start_ts, 0)
    }

    fn led(led: Led) -> Reservations {
        let reservations = Reservations::default();
        reservations.on_leader(led);
        reservations
    }

    fn put(reservations: &Reservations, led: Led, key: &str) -> bool {
        reservations.put(led, &[(Key::new(key.to_owned()), lock(5))], Instant::now())
    }

    fn sees(reservations: &Reservations, led: Led, key: &str) -> bool {
        !reservations.on_keys(led, &[Key::new(key.to_owned())]).is_empty()
    }

    #[test]
    fn a_lock_is_there_for_one_term_and_one_version_only() {
        let reservations = led(LED);
        assert!(put(&reservations, LED, "k") && sees(&reservations, LED, "k"));
        for other in [
            Led { term: 5, ..LED },
            Led { term: 7, ..LED },
            Led { version: 2, ..LED },
            Led { version: 4, ..LED },
            Led { region_id: 3, ..LED },
        ] {
            assert!(!sees(&reservations, other, "k"), "{other:?}");
            let look = reservations.look(other.region_id, &KeyRange::all(), |_| true);
            assert!(look.under(other).is_empty());
        }
        // A late caller of an earlier term, or one who knows another version, keeps nothing here.
        assert!(!put(&reservations, Led { term: 5, ..LED }, "l"));
        assert!(!put(&reservations, Led { term: 7, ..LED }, "l"));
        assert!(!put(&reservations, Led { version: 2, ..LED }, "l"));
        assert!(sees(&reservations, LED, "k"));
        // After a split the old table is void.
        let split = Led { version: 4, ..LED };
        assert!(put(&reservations, split, "l"));
        assert!(!sees(&reservations, LED, "k") && !sees(&reservations, split, "k"));
        assert_eq!(reservations.len(), 1);
    }

    #[test]
    fn with_its_leader_a_table_goes_and_an_old_loss_does_not_touch_a_new_one() {
        let reservations = led(LED);
        assert!(put(&reservations, LED, "k"));
        reservations.on_leader_lost(2, 5);
        assert!(sees(&reservations, LED, "k"));
        reservations.on_leader_lost(2, 6);
        assert!(!sees(&reservations, LED, "k") && !put(&reservations, LED, "k"));
        let again = Led { term: 8, ..LED };
        reservations.on_leader(again);
        assert!(put(&reservations, again, "k"));
        reservations.on_leader_lost(2, 6);
        assert!(sees(&reservations, again, "k"));
        reservations.on_leader(Led { term: 9, ..LED });
        assert!(reservations.is_empty() && reservations.tables.lock().bytes == 0);
    }

    #[test]
    fn a_region_and_a_store_have_room_for_so_much() {
        let reservations = led(LED);
        let long = |number: usize| format!("{}{number}", "k".repeat(100_000));
        let kept = (0..10).take_while(|number| put(&reservations, LED, &long(*number))).count();
        assert_eq!(kept, 4, "with its padding each takes a little over a fifth of the room");
        let other = Led { region_id: 3, ..LED };
        reservations.on_leader(other);
        assert!(put(&reservations, other, &long(0)));
        reservations.remove(LED, &[Key::new(long(0))]);
        assert!(put(&reservations, LED, &long(7)));
        // All or none.
        let both: Vec<_> = [1, 8].map(|number| (Key::new(long(number)), lock(6))).into();
        assert!(!reservations.put(LED, &both, Instant::now()));
        assert_eq!(reservations.on_keys(LED, &[Key::new(long(1))]).values().next(), Some(&lock(5)));

        let mut regions = 4..;
        while reservations.tables.lock().bytes + REGION_BYTES_MAX <= STORE_BYTES_MAX {
            let led = Led { region_id: regions.next().unwrap(), ..LED };
            reservations.on_leader(led);
            assert!((0..4).all(|number| put(&reservations, led, &long(number))));
        }
        let led = Led { region_id: 1, ..LED };
        reservations.on_leader(led);
        let kept = (0..4).take_while(|number| put(&reservations, led, &long(*number))).count();
        assert!(kept < 4, "the store is full");
        assert!(reservations.tables.lock().bytes <= STORE_BYTES_MAX);
    }

    #[test]
    fn a_closed_table_takes_nothing_new_for_a_while() {
        let reservations = led(LED);
        let now = Instant::now();
        let put = |key: &'static str, at| reservations.put(LED, &[(Key::new(key), lock(5))], at);
        assert!(put("k", now));
        assert!(reservations.close(2, 2, now).is_empty() && put("l", now));
        assert_eq!(reservations.close(2, 3, now), [Key::new("k"), Key::new("l")]);
        assert!(!put("m", now) && sees(&reservations, LED, "k"));
        assert!(put("m", now + CLOSED_FOR));
        assert!(reservations.close(2, 4, now).is_empty());
        assert!(reservations.is_empty());
        assert!(reservations.close(9, 1, now).is_empty());
    }

    #[test]
    fn a_range_that_is_destroyed_takes_its_locks_along() {
        let reservations = led(LED);
        let other = Led { region_id: 3, ..LED };
        reservations.on_leader(other);
        assert!(["a", "b", "c"].iter().all(|key| put(&reservations, LED, key)));
        assert!(["b2", "d"].iter().all(|key| put(&reservations, other, key)));
        let bound = |key: &'static str| Key::new(key).encoded().clone();
        reservations.remove_in(&KeyRange { start: bound("b"), end: Some(bound("d")) });
        let left = |led| {
            let look = reservations.look(led, &KeyRange::all(), |_| true).0.unwrap();
            look.1.into_keys().map(|key| Key::from_encoded(&key).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(left(2), [Key::new("a")]);
        assert_eq!(left(3), [Key::new("d")]);
    }
}
