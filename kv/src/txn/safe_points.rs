//! Below which timestamps nobody reads any more, and nobody begins to write.
//!
//! ```text
//!   versions may go     nobody comes any more      everybody is welcome
//! ──────────────────┤··························├──────────────────────► time
//!               gc safe point            txn safe point
//! ```
//!
//! The scheduler moves both (`gc` hears of it); they only grow. A reader is looked at before it
//! reads *and after*: what it saw counts only if no version that it needed may have gone meanwhile. A
//! transaction that began at or before the safe point must not lock anything more: the record that says
//! that it was rolled back may have gone, and nobody would look for its locks. A command that was let in
//! before is waited for ([`SafePoints::settled`]) by whoever looks for such locks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::problem::Abort;
use crate::plant::{Bug, Planted};

/// The safe points that a store goes by. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct SafePoints {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    txn: AtomicU64,
    gc: AtomicU64,
    planted: Planted,
    under_way: Mutex<UnderWay>,
    ended: Notify,
}

/// Commands that lock keys and are not done, by how many safe points had been heard of before them.
#[derive(Debug, Default)]
struct UnderWay {
    heard: u64,
    counts: BTreeMap<u64, usize>,
}

/// A command that may lock keys; dropped when its write is applied or certainly will not be.
#[derive(Debug)]
pub struct Admitted {
    inner: Arc<Inner>,
    heard: u64,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut under_way = self.inner.under_way.lock();
        let count = under_way.counts.get_mut(&self.heard).expect("it was counted");
        *count -= 1;
        if *count == 0 {
            under_way.counts.remove(&self.heard);
            self.inner.ended.notify_waiters();
        }
    }
}

impl SafePoints {
    /// The same, with a mistake in it.
    pub(crate) fn planting(self, planted: Planted) -> Self {
        Self { inner: Arc::new(Inner { planted, ..Inner::default() }) }
    }

    /// Hears of safe points; older ones change nothing.
    pub fn adopt(&self, txn_safe_point: u64, gc_safe_point: u64) {
        let mut under_way = self.inner.under_way.lock();
        let before = self.bound();
        self.inner.txn.fetch_max(txn_safe_point, Ordering::SeqCst);
        self.inner.gc.fetch_max(gc_safe_point, Ordering::SeqCst);
        if self.bound() > before {
            under_way.heard += 1;
        }
    }

    /// Lets a command in that locks keys for the transaction that began at `start_ts`.
    pub fn admit(&self, start_ts: u64) -> Result<Admitted, Abort> {
        let mut under_way = self.inner.under_way.lock();
        self.check_write(start_ts)?;
        let heard = under_way.heard;
        *under_way.counts.entry(heard).or_default() += 1;
        Ok(Admitted { inner: self.inner.clone(), heard })
    }

    /// Waits until every command is done that was let in before the newest safe point was heard of.
    pub async fn settled(&self) {
        loop {
            let ended = self.inner.ended.notified();
            {
                let under_way = self.inner.under_way.lock();
                if under_way.counts.range(..under_way.heard).next().is_none() {
                    return;
                }
            }
            ended.await;
        }
    }

    /// The safe point of transactions.
    pub fn txn(&self) -> u64 {
        self.inner.txn.load(Ordering::SeqCst)
    }

    /// Up to where versions may have gone.
    pub fn gc(&self) -> u64 {
        self.inner.gc.load(Ordering::SeqCst)
    }

    /// Older clients move the second without the first.
    pub(crate) fn bound(&self) -> u64 {
        if self.inner.planted.has(Bug::SafePointIgnored) {
            return 0;
        }
        self.txn().max(self.gc())
    }

    /// Whether a reader at `ts` is welcome; at the safe point itself it is.
    pub fn check_read(&self, ts: u64) -> Result<(), Abort> {
        let safe_point = self.bound();
        if ts < safe_point { Err(Abort::TooOld { start_ts: ts, safe_point }) } else { Ok(()) }
    }

    /// Whether a transaction that began at `start_ts` may lock keys.
    fn check_write(&self, start_ts: u64) -> Result<(), Abort> {
        let safe_point = self.bound();
        if safe_point > 0 && start_ts <= safe_point {
            return Err(Abort::TooOld { start_ts, safe_point });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_looks_for_old_locks_waits_for_commands_under_way_and_only_for_those() {
        let points = SafePoints::default();
        points.adopt(10, 0);
        let old = points.admit(11).unwrap();
        points.adopt(20, 0);
        assert!(points.admit(11).is_err());
        let young = points.admit(21).unwrap();
        let waiting = tokio::spawn({
            let points = points.clone();
            async move { points.settled().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        // Nothing new was heard: nobody more is waited for.
        points.adopt(20, 0);
        drop(old);
        waiting.await.unwrap();
        drop(young);
        points.settled().await;
    }

    #[test]
    fn a_safe_point_only_grows_and_is_itself_read_but_not_written() {
        let points = SafePoints::default();
        assert!(points.check_read(0).is_ok() && points.check_write(0).is_ok());
        points.adopt(50, 20);
        points.adopt(40, 10);
        assert_eq!((points.txn(), points.gc()), (50, 20));
        assert!(points.check_read(49).is_err() && points.check_read(50).is_ok());
        assert!(points.check_write(50).is_err() && points.check_write(51).is_ok());
        // A client that moves only the one in use is heeded too.
        points.adopt(0, 70);
        assert!(points.check_read(69).is_err() && points.check_read(u64::MAX).is_ok());
    }
}
