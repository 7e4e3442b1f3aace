//! One command at a time per key.
//!
//! A command reads, decides and writes as if it were alone on its keys. Keys are hashed to a fixed
//! number of slots; a command takes its slots in ascending order, so no two wait for each other in a
//! circle, and each slot serves in the order of arrival, so nobody waits forever. Two keys may share
//! a slot: that costs waiting, never correctness.
//!
//! A latch is not a lock: it lives in memory, for one command, and means nothing on another store.
//! It must be kept until the command's write is applied or certainly will not be.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::keys::Key;

/// How many slots there are. With hundreds of commands under way two unrelated ones rarely meet.
pub const SLOTS: usize = 8 * 1024;

/// The slots of a store.
#[derive(Clone, Debug)]
pub struct Latches {
    slots: Arc<[Arc<Mutex<()>>]>,
}

impl Default for Latches {
    fn default() -> Self {
        Self::with_slots(SLOTS)
    }
}

/// A command's latches; released when dropped.
#[derive(Debug, Default)]
pub struct Latched {
    _held: Vec<OwnedMutexGuard<()>>,
}

impl Latches {
    fn with_slots(slots: usize) -> Self {
        Self { slots: (0..slots).map(|_| Arc::default()).collect() }
    }

    /// Waits until no other command has any of these keys. The wait is as long as theirs is; the
    /// caller bounds it by dropping the future, which gives back what was taken.
    pub async fn acquire(&self, keys: impl IntoIterator<Item = &[u8]>) -> Latched {
        let mut slots: Vec<usize> =
            keys.into_iter().map(|key| crc32fast::hash(key) as usize % self.slots.len()).collect();
        slots.sort_unstable();
        slots.dedup();
        let mut held = Vec::with_capacity(slots.len());
        for slot in slots {
            held.push(self.slots[slot].clone().lock_owned().await);
        }
        Latched { _held: held }
    }

    /// [`Self::acquire`] for transactional keys.
    pub async fn acquire_keys(&self, keys: &[Key]) -> Latched {
        self.acquire(keys.iter().map(|key| key.encoded().as_ref())).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_key_has_one_command_at_a_time_and_serves_in_order() {
        let latches = Latches::default();
        let first = latches.acquire([b"k".as_ref(), b"k".as_ref()]).await;
        let order = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for number in 0..3 {
            let (latches, order) = (latches.clone(), order.clone());
            waiting.push(tokio::spawn(async move {
                let _latched = latches.acquire([b"k".as_ref()]).await;
                order.lock().push(number);
            }));
            tokio::task::yield_now().await;
        }
        assert!(order.lock().is_empty());
        drop(first);
        for task in waiting {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), [0, 1, 2]);
    }

    #[tokio::test]
    async fn sets_of_keys_in_any_order_never_wait_in_a_circle() {
        // Few slots, many overlapping sets in opposite orders.
        let latches = Latches::with_slots(3);
        let busy: Arc<Vec<AtomicBool>> = Arc::new((0..9).map(|_| AtomicBool::new(false)).collect());
        let mut tasks = Vec::new();
        for number in 0_u8..30 {
            let (latches, busy) = (latches.clone(), busy.clone());
            tasks.push(tokio::spawn(async move {
                let mut keys = [[number % 9], [(number * 5 + 1) % 9], [(number * 7 + 2) % 9]];
                if number % 2 == 0 {
                    keys.reverse();
                }
                let _latched = latches.acquire(keys.iter().map(|key| key.as_ref())).await;
                let mut mine: Vec<u8> = keys.iter().map(|key| key[0]).collect();
                mine.sort_unstable();
                mine.dedup();
                for key in &mine {
                    assert!(!busy[usize::from(*key)].swap(true, Ordering::SeqCst));
                }
                tokio::task::yield_now().await;
                for key in &mine {
                    busy[usize::from(*key)].store(false, Ordering::SeqCst);
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    }

    #[tokio::test]
    async fn who_gives_up_waiting_leaves_nothing_behind() {
        let latches = Latches::default();
        let held = latches.acquire([b"b".as_ref()]).await;
        let soon = std::time::Duration::from_millis(1);
        let impatient = tokio::time::timeout(soon, latches.acquire([b"a".as_ref(), b"b".as_ref()]));
        assert!(impatient.await.is_err());
        drop(latches.acquire([b"a".as_ref()]).await);
        drop(held);
        drop(latches.acquire([b"b".as_ref()]).await);
    }
}
