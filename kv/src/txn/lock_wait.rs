//! Pessimistic transactions that wait for a lock.
//!
//! ```text
//! meets a lock ─► enters the queue of the key, while it still has the key's latch
//!                     │ released: the oldest waiter is woken at once, the others a little later
//!                     │ time is over: told of the lock
//!                     │ closes a circle: refused, at once when all of it is on this store
//!                     ▼
//!                 leaves the queue (also when its caller goes away)
//! ```
//!
//! A waiter enters under the latch under which it saw the lock, and a lock is removed under the same
//! latch, so no release is missed. A lock that goes another way (with its region, to another leader)
//! wakes nobody; the time limit does.
//!
//! The others are woken too because the first may be gone, or may not want the key any more.
//!
//! Circles through several stores are found by the store that sees all waits ([`crate::deadlock`]):
//! whoever begins or ends to wait here tells it so, and a circle that it reports wakes the waiter that
//! closed it. A transaction's first lock closes none, since nobody can wait for it yet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::deadlock::{DeadlockRequest, DeadlockRequestType, DeadlockResponse, WaitForEntry};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::deadlock::{WaitGraph, entry};
use super::problem::Deadlock;
use super::writer::Released;
use crate::keys::Key;

/// Longest wait for a lock, and the wait of a request that names none. Below the deadline of
/// clients' calls, so that they hear of the lock instead of nothing.
pub const WAIT_MAX: Duration = Duration::from_secs(1);

/// How long the oldest waiter has the key to itself.
pub const WAKE_OTHERS_AFTER: Duration = Duration::from_millis(20);

/// Waiters of a store; one more does not wait, but hears of the lock at once.
pub const WAITERS_MAX: usize = 16 * 1024;

/// Waits that are over and remembered for a person to see; beyond, the oldest are forgotten.
pub const HISTORY_MAX: usize = 256;

/// Waits on their way to whoever sees all; at the limit one is lost, and its time limit breaks the
/// circle that it may have closed.
const TOLD_MAX: usize = 16 * 1024;

/// Everybody who waits on this store.
#[derive(Clone, Debug, Default)]
pub struct LockWait {
    queues: Arc<Mutex<Queues>>,
}

#[derive(Debug, Default)]
struct Queues {
    /// By key, then by age of the waiting transaction.
    waiting: BTreeMap<Key, BTreeMap<(u64, u64), Waiting>>,
    graph: WaitGraph,
    next_id: u64,
    count: usize,
    history: VecDeque<WaitForEntry>,
    /// Where all stores' waits come together, if anybody listens.
    told: Option<mpsc::Sender<DeadlockRequest>>,
}

#[derive(Debug)]
struct Waiting {
    wake: Option<oneshot::Sender<Woken>>,
    wait: WaitForEntry,
    since: Instant,
    is_first_lock: bool,
}

/// Who wants which lock.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The transaction that waits.
    pub txn: u64,
    /// The one whose lock it is.
    pub holder: u64,
    /// On which key.
    pub key: Key,
    /// Names the statement, for a person.
    pub tag: Bytes,
    /// The transaction holds no lock yet.
    pub is_first_lock: bool,
}

/// Why a wait is over before its time.
#[derive(Debug)]
pub enum Woken {
    /// The lock is gone.
    Released(Released),
    /// The wait closed a circle.
    Deadlock(Box<Deadlock>),
}

/// A place in a queue; given up when dropped.
#[derive(Debug)]
pub struct Ticket {
    queues: Arc<Mutex<Queues>>,
    key: Key,
    /// Start of the transaction, and a number of its own.
    place: (u64, u64),
    woken: oneshot::Receiver<Woken>,
}

/// Why there is no place in the queue.
#[derive(Debug)]
pub enum NoWait {
    /// The circle that waiting would close.
    Deadlock(Deadlock),
    /// Too many wait already.
    Full,
}

impl Queues {
    fn tell(&self, tp: DeadlockRequestType, wait: &WaitForEntry) {
        if let Some(told) = &self.told {
            let entry = Some(wait.clone());
            // Full or closed: see `TOLD_MAX`.
            let _ = told.try_send(DeadlockRequest { tp: tp as i32, entry, ..Default::default() });
        }
    }
}

impl LockWait {
    /// Queues up for a lock. Call it under the latch under which the lock was seen.
    pub fn enter(&self, wanted: &Wanted) -> Result<Ticket, NoWait> {
        let mut queues = self.queues.lock();
        if queues.count >= WAITERS_MAX {
            return Err(NoWait::Full);
        }
        let wait = entry(wanted.txn, wanted.holder, wanted.key.user(), &wanted.tag);
        let id = queues.next_id;
        if !wanted.is_first_lock {
            queues.graph.wait(&wait, id, u64::MAX, 0).map_err(NoWait::Deadlock)?;
            queues.tell(DeadlockRequestType::Detect, &wait);
        }
        let (wake, woken) = oneshot::channel();
        let place = (wanted.txn, id);
        queues.next_id += 1;
        queues.count += 1;
        let is_first_lock = wanted.is_first_lock;
        let waiting = Waiting { wake: Some(wake), wait, since: Instant::now(), is_first_lock };
        queues.waiting.entry(wanted.key.clone()).or_default().insert(place, waiting);
        Ok(Ticket { queues: self.queues.clone(), key: wanted.key.clone(), place, woken })
    }

    /// Locks were removed, and that is applied.
    pub fn on_released(&self, released: Vec<Released>) {
        let mut later = Vec::new();
        {
            let mut queues = self.queues.lock();
            if queues.count == 0 {
                return;
            }
            for release in released {
                let Some(queue) = queues.waiting.get_mut(&release.key) else { continue };
                let mut sleepers = queue.iter_mut().filter(|(_, waiting)| waiting.wake.is_some());
                if let Some((_, oldest)) = sleepers.next() {
                    oldest.wake(Woken::Released(release.clone()));
                }
                let others: Vec<_> = sleepers.map(|(place, _)| *place).collect();
                if !others.is_empty() {
                    later.push((release, others));
                }
            }
        }
        if !later.is_empty() {
            let queues = self.queues.clone();
            tokio::spawn(async move {
                tokio::time::sleep(WAKE_OTHERS_AFTER).await;
                let mut queues = queues.lock();
                for (release, others) in later {
                    let Some(queue) = queues.waiting.get_mut(&release.key) else { continue };
                    for place in others {
                        if let Some(waiting) = queue.get_mut(&place) {
                            waiting.wake(Woken::Released(release.clone()));
                        }
                    }
                }
            });
        }
    }

    /// Whoever sees all waits has found a circle that one of ours closes.
    pub fn on_deadlock(&self, found: DeadlockResponse) {
        let Some(wait) = found.entry else { return };
        let deadlock = Deadlock {
            start_ts: wait.txn,
            lock_ts: wait.wait_for_txn,
            lock_key: wait.key.clone(),
            deadlock_key_hash: found.deadlock_key_hash,
            deadlock_key: found.deadlock_key,
            wait_chain: found.wait_chain,
        };
        let mut queues = self.queues.lock();
        let Some(queue) = queues.waiting.get_mut(&Key::new(wait.key)) else { return };
        let of_txn = queue.range_mut((wait.txn, 0)..=(wait.txn, u64::MAX));
        for (_, waiting) in of_txn.filter(|(_, w)| w.wait.wait_for_txn == wait.wait_for_txn) {
            waiting.wake(Woken::Deadlock(Box::new(deadlock.clone())));
        }
    }

    /// From now on every wait that may close a circle is told here. Who listened before hears no more.
    pub fn listen(&self) -> mpsc::Receiver<DeadlockRequest> {
        let (told, hears) = mpsc::channel(TOLD_MAX);
        self.queues.lock().told = Some(told);
        hears
    }

    /// The waits that may close a circle, for one who has not heard of them.
    pub fn may_close_circles(&self) -> Vec<WaitForEntry> {
        let queues = self.queues.lock();
        let waits = queues.waiting.values().flat_map(BTreeMap::values);
        waits.filter(|w| !w.is_first_lock).map(|waiting| waiting.wait.clone()).collect()
    }

    /// Who waits for whom here, and for how many milliseconds already.
    pub fn entries(&self) -> Vec<WaitForEntry> {
        let queues = self.queues.lock();
        queues.waiting.values().flat_map(BTreeMap::values).map(Waiting::entry).collect()
    }

    /// Who waited here and does no longer, oldest first, and for how long.
    pub fn history(&self) -> Vec<WaitForEntry> {
        self.queues.lock().history.iter().cloned().collect()
    }
}

impl Waiting {
    fn wake(&mut self, woken: Woken) {
        if let Some(wake) = self.wake.take() {
            // One that has just given up does not mind.
            let _ = wake.send(woken);
        }
    }

    fn entry(&self) -> WaitForEntry {
        let wait_time = self.since.elapsed().as_millis() as u64;
        WaitForEntry { wait_time, ..self.wait.clone() }
    }
}

impl Ticket {
    /// Waits at most so long; `None` when the lock still stands then.
    pub async fn wait(mut self, limit: Duration) -> Option<Woken> {
        tokio::time::timeout(limit, &mut self.woken).await.ok()?.ok()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut queues = self.queues.lock();
        let queue = queues.waiting.get_mut(&self.key);
        let waiting = queue.and_then(|queue| queue.remove(&self.place));
        let waiting = waiting.expect("only its ticket takes a waiter out of its queue");
        if queues.waiting.get(&self.key).is_some_and(BTreeMap::is_empty) {
            queues.waiting.remove(&self.key);
        }
        queues.count -= 1;
        if !waiting.is_first_lock {
            queues.graph.stop_waiting(&waiting.wait, self.place.1);
            queues.tell(DeadlockRequestType::CleanUpWaitFor, &waiting.wait);
        }
        if queues.history.len() >= HISTORY_MAX {
            queues.history.pop_front();
        }
        queues.history.push_back(waiting.entry());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn released(key: &Key) -> Vec<Released> {
        vec![Released { start_ts: 1, commit_ts: 9, key: key.clone() }]
    }

    fn wanted(txn: u64, holder: u64, key: &Key) -> Wanted {
        let (key, tag) = (key.clone(), Bytes::new());
        Wanted { txn, holder, key, tag, is_first_lock: false }
    }

    async fn commit_seen(ticket: Ticket) -> u64 {
        match ticket.wait(WAIT_MAX).await {
            Some(Woken::Released(released)) => released.commit_ts,
            other => panic!("not released: {other:?}"),
        }
    }

    #[tokio::test]
    async fn the_oldest_goes_first_and_the_others_follow() {
        let (waits, key) = (LockWait::default(), Key::new("k"));
        let young = waits.enter(&wanted(30, 1, &key)).unwrap();
        let old = waits.enter(&wanted(20, 1, &key)).unwrap();
        waits.on_released(released(&key));
        let begun = Instant::now();
        assert_eq!(commit_seen(old).await, 9);
        assert_eq!(commit_seen(young).await, 9);
        assert!(begun.elapsed() >= WAKE_OTHERS_AFTER);
        assert!(waits.entries().is_empty());
        let history: Vec<u64> = waits.history().iter().map(|wait| wait.txn).collect();
        assert_eq!(history, [20, 30]);
    }

    #[tokio::test]
    async fn waiting_has_an_end_and_leaves_nothing_behind() {
        let (waits, key) = (LockWait::default(), Key::new("k"));
        let ticket = waits.enter(&wanted(20, 1, &key)).unwrap();
        assert_eq!(waits.entries().len(), 1);
        assert!(ticket.wait(Duration::from_millis(5)).await.is_none());
        assert!(waits.entries().is_empty() && waits.queues.lock().graph.is_empty());
        assert!(waits.queues.lock().waiting.is_empty());
        waits.on_released(released(&key));
    }

    #[tokio::test]
    async fn a_circle_is_refused_unless_nobody_can_wait_for_who_closes_it() {
        let waits = LockWait::default();
        let _first = waits.enter(&wanted(1, 2, &Key::new("b"))).unwrap();
        let closing = wanted(2, 1, &Key::new("a"));
        assert!(matches!(waits.enter(&closing), Err(NoWait::Deadlock(_))));
        assert!(waits.enter(&Wanted { is_first_lock: true, ..closing }).is_ok());
    }

    #[tokio::test]
    async fn who_sees_all_waits_hears_of_each_and_wakes_the_one_that_closes_a_circle() {
        let (waits, key) = (LockWait::default(), Key::new("k"));
        let early = waits.enter(&wanted(10, 1, &key)).unwrap();
        let mut hears = waits.listen();
        assert_eq!(waits.may_close_circles().len(), 1);
        let late = waits.enter(&wanted(20, 1, &key)).unwrap();
        let told = hears.recv().await.unwrap();
        assert_eq!((told.tp(), told.entry.clone().unwrap().txn), (DeadlockRequestType::Detect, 20));
        waits.on_deadlock(DeadlockResponse {
            entry: told.entry,
            deadlock_key_hash: 5,
            ..Default::default()
        });
        match late.wait(WAIT_MAX).await {
            Some(Woken::Deadlock(deadlock)) => {
                assert_eq!((deadlock.start_ts, deadlock.deadlock_key_hash), (20, 5));
            }
            other => panic!("not a deadlock: {other:?}"),
        }
        assert_eq!(hears.recv().await.unwrap().tp(), DeadlockRequestType::CleanUpWaitFor);
        // The other still waits, and a report about somebody who is gone does no harm.
        waits.on_deadlock(DeadlockResponse::default());
        assert_eq!(waits.entries().len(), 1);
        drop(early);
    }
}
