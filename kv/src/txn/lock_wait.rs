//! Pessimistic transactions that wait for a lock.
//!
//! ```text
//! meets a lock ─► enters the queue of the key, while it still has the key's latch
//!                     │ released: the oldest waiter is woken at once, the others a little later
//!                     │ time is over: told of the lock
//!                     │ closes a circle: refused at once
//!                     ▼
//!                 leaves the queue (also when its caller goes away)
//! ```
//!
//! A waiter enters under the latch under which it saw the lock, and a lock is removed under the same
//! latch, so no release is missed. A lock that goes another way (with its region, to another leader)
//! wakes nobody; the time limit does.
//!
//! The others are woken too because the first may be gone, or may not want the key any more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proto::deadlock::WaitForEntry;
use tokio::sync::oneshot;

use super::deadlock::WaitGraph;
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

/// Everybody who waits on this store.
#[derive(Clone, Debug, Default)]
pub struct LockWait {
    queues: Arc<Mutex<Queues>>,
}

#[derive(Debug, Default)]
struct Queues {
    /// By key, then by age of the waiting transaction.
    waiting: BTreeMap<Key, BTreeMap<(u64, u64), oneshot::Sender<Released>>>,
    graph: WaitGraph,
    next_id: u64,
    count: usize,
}

/// A place in a queue; given up when dropped.
#[derive(Debug)]
pub struct Ticket {
    queues: Arc<Mutex<Queues>>,
    key: Key,
    /// Start of the transaction, and a number of its own.
    place: (u64, u64),
    holder: u64,
    woken: oneshot::Receiver<Released>,
}

/// Why there is no place in the queue.
#[derive(Debug)]
pub enum NoWait {
    /// The circle that waiting would close.
    Deadlock(Deadlock),
    /// Too many wait already.
    Full,
}

impl LockWait {
    /// Queues up for a lock. Call it under the latch under which the lock was seen.
    pub fn enter(&self, waiter: u64, holder: u64, key: &Key) -> Result<Ticket, NoWait> {
        let mut queues = self.queues.lock();
        if queues.count >= WAITERS_MAX {
            return Err(NoWait::Full);
        }
        queues.graph.wait(waiter, holder, key).map_err(NoWait::Deadlock)?;
        let (wake, woken) = oneshot::channel();
        let place = (waiter, queues.next_id);
        queues.next_id += 1;
        queues.count += 1;
        queues.waiting.entry(key.clone()).or_default().insert(place, wake);
        Ok(Ticket { queues: self.queues.clone(), key: key.clone(), place, holder, woken })
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
                if let Some((_, wake)) = queue.pop_first() {
                    // One that has just given up does not mind.
                    let _ = wake.send(release.clone());
                }
                let others: Vec<_> = queue.keys().copied().collect();
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
                        if let Some(wake) = queue.remove(&place) {
                            let _ = wake.send(release.clone());
                        }
                    }
                }
            });
        }
    }

    /// Who waits for whom here.
    pub fn entries(&self) -> Vec<WaitForEntry> {
        self.queues.lock().graph.entries()
    }
}

impl Ticket {
    /// Waits for the lock to be released, at most so long; `None` when it was not.
    pub async fn wait(mut self, limit: Duration) -> Option<Released> {
        tokio::time::timeout(limit, &mut self.woken).await.ok()?.ok()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut queues = self.queues.lock();
        queues.count -= 1;
        queues.graph.stop_waiting(self.place.0, self.holder, &self.key);
        if let Some(queue) = queues.waiting.get_mut(&self.key) {
            queue.remove(&self.place);
            if queue.is_empty() {
                queues.waiting.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn released(key: &Key) -> Vec<Released> {
        vec![Released { start_ts: 1, commit_ts: 9, key: key.clone() }]
    }

    #[tokio::test]
    async fn the_oldest_goes_first_and_the_others_follow() {
        let (waits, key) = (LockWait::default(), Key::new("k"));
        let young = waits.enter(30, 1, &key).unwrap();
        let old = waits.enter(20, 1, &key).unwrap();
        waits.on_released(released(&key));
        let begun = tokio::time::Instant::now();
        assert_eq!(old.wait(WAIT_MAX).await.unwrap().commit_ts, 9);
        assert_eq!(young.wait(WAIT_MAX).await.unwrap().commit_ts, 9);
        assert!(begun.elapsed() >= WAKE_OTHERS_AFTER);
        assert!(waits.entries().is_empty());
    }

    #[tokio::test]
    async fn waiting_has_an_end_and_leaves_nothing_behind() {
        let (waits, key) = (LockWait::default(), Key::new("k"));
        let ticket = waits.enter(20, 1, &key).unwrap();
        assert_eq!(waits.entries().len(), 1);
        assert!(ticket.wait(Duration::from_millis(5)).await.is_none());
        assert!(waits.entries().is_empty());
        assert!(waits.queues.lock().waiting.is_empty());
        waits.on_released(released(&key));
    }

    #[tokio::test]
    async fn a_circle_is_refused() {
        let waits = LockWait::default();
        let _first = waits.enter(1, 2, &Key::new("b")).unwrap();
        assert!(matches!(waits.enter(2, 1, &Key::new("a")), Err(NoWait::Deadlock(_))));
    }
}
