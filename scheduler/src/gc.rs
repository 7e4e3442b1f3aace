//! Safe points and barriers: below what may old versions go?
//!
//! ```text
//!      versions may be gone      no transaction may read        every reader is welcome
//! ────────────────────────┤·······························├────────────────────────────► time
//!                  gc safe point                  txn safe point   ≤ every barrier
//! ```
//!
//! The transaction safe point moves first, up to the lowest barrier that has not expired; then
//! whoever collects garbage resolves old locks and moves the GC safe point after it. Both only
//! ever grow. Older clients know "service safe points" instead of barriers; they are the same
//! thing here, and the one named `gc_worker` is the transaction safe point itself.
//!
//! The value is part of the replicated state of the scheduler group: every change is a pure
//! function of the request and of the second it carries, so it is the same on every member.
//!
//! What is refused is refused under the name that PD gives to the mistake, `[PD:gc:Err…]`, with the
//! value known and the value given behind it: clients look for the name in the text.
//!
//! Left out: safe points of single keyspaces; every keyspace is asked about the one cluster.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cluster::Refusal;

/// The service whose safe point is the transaction safe point.
pub const GC_WORKER: &str = "gc_worker";

/// A time to live that never ends.
pub const FOREVER_S: i64 = i64::MAX;

/// Barriers of each kind that may stand at once; more are refused.
pub const BARRIERS_MAX: usize = 10_000;

/// Something that holds the transaction safe point back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Barrier {
    /// Its name.
    pub id: String,
    /// The transaction safe point does not pass this.
    pub ts: u64,
    /// Seconds since 1970 at which it falls; [`FOREVER_S`] is never.
    pub expires_at_s: i64,
}

impl Barrier {
    /// Seconds for which it still stands.
    pub fn ttl_s(&self, now_s: i64) -> i64 {
        if self.expires_at_s == FOREVER_S { FOREVER_S } else { self.expires_at_s - now_s }
    }

    fn stands(&self, now_s: i64) -> bool {
        self.expires_at_s > now_s
    }
}

/// What became of the wish to move the transaction safe point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advanced {
    /// Where it was.
    pub old: u64,
    /// Where it is.
    pub new: u64,
    /// What held it back, in words; empty when nothing did.
    pub blocker: String,
}

/// The cluster's garbage collection, as far as it is agreed on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcState {
    txn_safe_point: u64,
    gc_safe_point: u64,
    barriers: BTreeMap<String, Barrier>,
    global_barriers: BTreeMap<String, Barrier>,
}

impl GcState {
    /// Versions below it may be gone.
    pub fn gc_safe_point(&self) -> u64 {
        self.gc_safe_point
    }

    /// Transactions that began below it may fail.
    pub fn txn_safe_point(&self) -> u64 {
        self.txn_safe_point
    }

    /// The barriers that stand, by name.
    pub fn barriers(&self, now_s: i64) -> impl Iterator<Item = &Barrier> {
        self.barriers.values().filter(move |barrier| barrier.stands(now_s))
    }

    /// The barriers for all keyspaces that stand, by name.
    pub fn global_barriers(&self, now_s: i64) -> impl Iterator<Item = &Barrier> {
        self.global_barriers.values().filter(move |barrier| barrier.stands(now_s))
    }

    /// Older form: moves the GC safe point forward, or not at all; returns where it is.
    ///
    /// There is no check against the transaction safe point: clients that use this form do not
    /// move that one.
    pub fn update_gc_safe_point(&mut self, safe_point: u64) -> u64 {
        self.gc_safe_point = self.gc_safe_point.max(safe_point);
        self.gc_safe_point
    }

    /// Older form of a barrier: sets one, moves it, or removes it when `ttl_s` is not positive.
    /// A safe point below the lowest one is not taken. Returns the lowest one, which is what its
    /// caller has to heed.
    pub fn update_service_safe_point(
        &mut self,
        service: &str,
        ttl_s: i64,
        safe_point: u64,
        now_s: i64,
    ) -> Result<Barrier, Refusal> {
        self.drop_expired(now_s);
        if service.is_empty() {
            return Err(Refusal::Forbidden("a service safe point needs a service id".into()));
        }
        if service == GC_WORKER {
            if ttl_s != FOREVER_S {
                return Err(Refusal::Forbidden(
                    "the safe point of gc_worker cannot expire or be removed".into(),
                ));
            }
            if safe_point >= self.txn_safe_point {
                self.move_txn_safe_point(safe_point, now_s);
            }
        } else if ttl_s <= 0 {
            self.barriers.remove(service);
        } else if safe_point >= self.lowest(now_s).ts {
            check_room(&self.barriers, service)?;
            let barrier = barrier(service, safe_point, ttl_s, now_s);
            self.barriers.insert(service.into(), barrier);
        }
        Ok(self.lowest(now_s))
    }

    /// All service safe points, the transaction safe point among them, by name.
    pub fn service_safe_points(&self, now_s: i64) -> Vec<Barrier> {
        let mut all: Vec<_> = self.barriers(now_s).cloned().collect();
        all.push(self.gc_worker());
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all
    }

    /// Moves the transaction safe point towards `target`, as far as the barriers allow.
    pub fn advance_txn_safe_point(&mut self, target: u64, now_s: i64) -> Result<Advanced, Refusal> {
        if target < self.txn_safe_point {
            let why = format!(
                "the txn safe point does not go back, current value: {}, given: {target}",
                self.txn_safe_point
            );
            return Err(refused("ErrDecreasingTxnSafePoint", &why));
        }
        self.drop_expired(now_s);
        Ok(self.move_txn_safe_point(target, now_s))
    }

    /// Moves the GC safe point; returns where it was.
    pub fn advance_gc_safe_point(&mut self, target: u64) -> Result<u64, Refusal> {
        let (current, txn_safe_point) = (self.gc_safe_point, self.txn_safe_point);
        if target < current {
            let why = format!(
                "the gc safe point does not go back, current value: {current}, given: {target}"
            );
            return Err(refused("ErrDecreasingGCSafePoint", &why));
        }
        if target > txn_safe_point {
            let why = format!(
                "the gc safe point does not pass the txn safe point {txn_safe_point}, \
                 current value: {current}, given: {target}"
            );
            return Err(refused("ErrGCSafePointExceedsTxnSafePoint", &why));
        }
        Ok(std::mem::replace(&mut self.gc_safe_point, target))
    }

    /// Sets a barrier, or moves it.
    pub fn set_barrier(
        &mut self,
        id: &str,
        ts: u64,
        ttl_s: i64,
        now_s: i64,
    ) -> Result<Barrier, Refusal> {
        check_name(id)?;
        let barrier = self.new_barrier(id, ts, ttl_s, now_s, "ErrGCBarrierTSBehindTxnSafePoint")?;
        check_room(&self.barriers, id)?;
        self.barriers.insert(id.into(), barrier.clone());
        Ok(barrier)
    }

    /// Removes a barrier; `None` when there was none.
    pub fn delete_barrier(&mut self, id: &str) -> Result<Option<Barrier>, Refusal> {
        check_name(id)?;
        Ok(self.barriers.remove(id))
    }

    /// Sets a barrier for all keyspaces, or moves it.
    pub fn set_global_barrier(
        &mut self,
        id: &str,
        ts: u64,
        ttl_s: i64,
        now_s: i64,
    ) -> Result<Barrier, Refusal> {
        check_name(id)?;
        let behind = "ErrGlobalGCBarrierTSBehindTxnSafePoint";
        let barrier = self.new_barrier(id, ts, ttl_s, now_s, behind)?;
        check_room(&self.global_barriers, id)?;
        self.global_barriers.insert(id.into(), barrier.clone());
        Ok(barrier)
    }

    /// Removes a barrier for all keyspaces; `None` when there was none.
    pub fn delete_global_barrier(&mut self, id: &str) -> Result<Option<Barrier>, Refusal> {
        check_name(id)?;
        Ok(self.global_barriers.remove(id))
    }

    /// `behind` is what a barrier of this kind that comes too late is refused as.
    fn new_barrier(
        &mut self,
        id: &str,
        ts: u64,
        ttl_s: i64,
        now_s: i64,
        behind: &str,
    ) -> Result<Barrier, Refusal> {
        self.drop_expired(now_s);
        if ttl_s <= 0 {
            return Err(Refusal::Forbidden("a barrier must stand for some time".into()));
        }
        if ts < self.txn_safe_point {
            let why = format!(
                "a barrier comes too late, txn safe point: {}, given: {ts}",
                self.txn_safe_point
            );
            return Err(refused(behind, &why));
        }
        Ok(barrier(id, ts, ttl_s, now_s))
    }

    fn move_txn_safe_point(&mut self, target: u64, now_s: i64) -> Advanced {
        let lowest_barrier = self
            .barriers(now_s)
            .chain(self.global_barriers(now_s))
            .min_by_key(|barrier| barrier.ts)
            .filter(|barrier| barrier.ts < target);
        let old = self.txn_safe_point;
        let (reachable, blocker) = match lowest_barrier {
            Some(barrier) => (barrier.ts, format!("barrier {} at {}", barrier.id, barrier.ts)),
            None => (target, String::new()),
        };
        self.txn_safe_point = old.max(reachable);
        Advanced { old, new: self.txn_safe_point, blocker }
    }

    /// The lowest service safe point.
    fn lowest(&self, now_s: i64) -> Barrier {
        let lowest = self.barriers(now_s).min_by_key(|barrier| barrier.ts);
        match lowest {
            Some(barrier) if barrier.ts <= self.txn_safe_point => barrier.clone(),
            Some(_) | None => self.gc_worker(),
        }
    }

    fn gc_worker(&self) -> Barrier {
        Barrier { id: GC_WORKER.into(), ts: self.txn_safe_point, expires_at_s: FOREVER_S }
    }

    fn drop_expired(&mut self, now_s: i64) {
        self.barriers.retain(|_, barrier| barrier.stands(now_s));
        self.global_barriers.retain(|_, barrier| barrier.stands(now_s));
    }
}

/// A refusal under the name that clients of PD look for.
fn refused(name: &str, why: &str) -> Refusal {
    Refusal::Forbidden(format!("[PD:gc:{name}]{why}"))
}

/// Whether a barrier may be named so.
fn check_name(id: &str) -> Result<(), Refusal> {
    match id {
        "" => Err(Refusal::Forbidden("a barrier needs a name".into())),
        GC_WORKER => {
            let why = format!("{id:?} names the txn safe point itself, not a barrier");
            Err(refused("ErrReservedGCBarrierID", &why))
        }
        _ => Ok(()),
    }
}

fn barrier(id: &str, ts: u64, ttl_s: i64, now_s: i64) -> Barrier {
    // A time to live that overflows is for ever.
    Barrier { id: id.into(), ts, expires_at_s: now_s.saturating_add(ttl_s) }
}

fn check_room(barriers: &BTreeMap<String, Barrier>, id: &str) -> Result<(), Refusal> {
    if barriers.len() >= BARRIERS_MAX && !barriers.contains_key(id) {
        return Err(Refusal::Forbidden(format!("{BARRIERS_MAX} barriers stand already")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gc_safe_point_only_moves_forward() {
        let mut gc = GcState::default();
        for (asked, answered) in [(0, 0), (1, 1), (233, 233), (u64::MAX, u64::MAX), (1, u64::MAX)] {
            assert_eq!(gc.update_gc_safe_point(asked), answered);
        }
    }

    #[test]
    fn the_lowest_service_safe_point_is_zero_until_the_gc_worker_moves_it() {
        let mut gc = GcState::default();
        let lowest = gc.update_service_safe_point("backup", 100, 50, 1_000).unwrap();
        assert_eq!((lowest.id.as_str(), lowest.ts, lowest.ttl_s(1_000)), (GC_WORKER, 0, FOREVER_S));
        let lowest = gc.update_service_safe_point(GC_WORKER, FOREVER_S, 80, 1_000).unwrap();
        assert_eq!(lowest.ts, 50, "backup holds it back");
        assert_eq!(gc.txn_safe_point(), 50);
        // A service cannot go back behind what may be gone.
        gc.update_service_safe_point("late", 100, 40, 1_000).unwrap();
        assert_eq!(gc.barriers(1_000).count(), 1);
        // Expired, it holds nothing back.
        let lowest = gc.update_service_safe_point(GC_WORKER, FOREVER_S, 80, 1_100).unwrap();
        assert_eq!(lowest.ts, 80);
    }

    #[test]
    fn a_service_without_time_to_live_is_removed_and_the_gc_worker_cannot_be() {
        let mut gc = GcState::default();
        gc.update_service_safe_point("backup", i64::MAX, 50, 1).unwrap();
        assert_eq!(gc.barriers(i64::MAX - 1).next().unwrap().ttl_s(9), FOREVER_S);
        gc.update_service_safe_point("backup", 0, 0, 2).unwrap();
        assert_eq!(gc.barriers(2).count(), 0);
        assert!(gc.update_service_safe_point(GC_WORKER, 0, 0, 2).is_err());
        assert!(gc.update_service_safe_point(GC_WORKER, 60, 5, 2).is_err());
        assert!(gc.update_service_safe_point("", 60, 5, 2).is_err());
        let names: Vec<_> = gc.service_safe_points(2).into_iter().map(|b| b.id).collect();
        assert_eq!(names, [GC_WORKER]);
    }

    #[test]
    fn the_txn_safe_point_stops_at_barriers_of_both_kinds() {
        let mut gc = GcState::default();
        gc.set_barrier("a", 70, 10, 0).unwrap();
        gc.set_global_barrier("g", 60, 100, 0).unwrap();
        let advanced = gc.advance_txn_safe_point(100, 0).unwrap();
        assert_eq!((advanced.old, advanced.new), (0, 60));
        assert_eq!(advanced.blocker, "barrier g at 60");
        assert!(gc.advance_txn_safe_point(59, 0).is_err());
        assert!(gc.set_barrier("b", 59, 10, 0).is_err());
        assert!(gc.delete_global_barrier("g").unwrap().is_some());
        assert_eq!(gc.advance_txn_safe_point(100, 10).unwrap().new, 100, "a has expired");
        assert_eq!(gc.advance_txn_safe_point(100, 10).unwrap().blocker, "");
    }

    #[test]
    fn the_gc_safe_point_follows_the_txn_safe_point() {
        let mut gc = GcState::default();
        gc.advance_txn_safe_point(50, 0).unwrap();
        assert_eq!(gc.advance_gc_safe_point(50), Ok(0));
        assert!(gc.advance_gc_safe_point(51).is_err());
        assert!(gc.advance_gc_safe_point(49).is_err());
    }

    #[test]
    fn barriers_have_names_and_last() {
        let mut gc = GcState::default();
        for (id, ttl_s) in [("", 1), (GC_WORKER, 1), ("a", 0), ("a", -1)] {
            assert!(gc.set_barrier(id, 5, ttl_s, 0).is_err(), "{id:?} for {ttl_s}");
        }
        assert_eq!(gc.set_barrier("a", 5, 7, 10).unwrap().ttl_s(12), 5);
        assert!(gc.delete_barrier("a").unwrap().is_some());
        assert!(gc.delete_barrier("a").unwrap().is_none());
    }

    /// Each mistake has the name that clients of PD look for, and says what is known and what was
    /// given.
    #[test]
    fn refusals_carry_the_names_that_clients_look_for() {
        let mut gc = GcState::default();
        gc.advance_txn_safe_point(50, 0).unwrap();
        gc.advance_gc_safe_point(40).unwrap();
        let before = gc.clone();
        let is = |refusal: Refusal, name: &str, values: &[u64]| {
            let text = refusal.to_string();
            assert!(text.starts_with(&format!("[PD:gc:{name}]")), "{text:?} should be {name}");
            for value in values {
                assert!(text.contains(&value.to_string()), "{text:?} should name {value}");
            }
        };
        let back = gc.advance_txn_safe_point(49, 0).unwrap_err();
        is(back, "ErrDecreasingTxnSafePoint", &[50, 49]);
        is(gc.advance_gc_safe_point(39).unwrap_err(), "ErrDecreasingGCSafePoint", &[40, 39]);
        let above = gc.advance_gc_safe_point(51).unwrap_err();
        is(above, "ErrGCSafePointExceedsTxnSafePoint", &[40, 50, 51]);
        let late = gc.set_barrier("a", 49, 10, 0).unwrap_err();
        is(late, "ErrGCBarrierTSBehindTxnSafePoint", &[50, 49]);
        let late = gc.set_global_barrier("a", 49, 10, 0).unwrap_err();
        is(late, "ErrGlobalGCBarrierTSBehindTxnSafePoint", &[50, 49]);
        let reserved = "ErrReservedGCBarrierID";
        is(gc.set_barrier(GC_WORKER, 60, 10, 0).unwrap_err(), reserved, &[]);
        is(gc.set_global_barrier(GC_WORKER, 60, 10, 0).unwrap_err(), reserved, &[]);
        is(gc.delete_barrier(GC_WORKER).unwrap_err(), reserved, &[]);
        assert!(gc.delete_barrier("").is_err() && gc.delete_global_barrier("").is_err());
        assert_eq!(gc, before, "what is refused changes nothing");
    }

    #[test]
    fn the_state_survives_being_written_down() {
        let mut gc = GcState::default();
        gc.set_barrier("a", u64::MAX, FOREVER_S, 0).unwrap();
        gc.update_gc_safe_point(7);
        let text = serde_json::to_string(&gc).unwrap();
        assert_eq!(serde_json::from_str::<GcState>(&text).unwrap(), gc);
    }
}
