//! Below which timestamps nobody reads any more, and nobody begins to write.
//!
//! ```text
//!   versions may go     nobody comes any more      everybody is welcome
//! ──────────────────┤··························├──────────────────────► time
//!               gc safe point            txn safe point
//! ```
//!
//! The scheduler moves both ([`crate::gc`] hears of it); they only grow. A reader is looked at before it
//! reads *and after*: what it saw counts only if no version that it needed may have gone meanwhile. A
//! transaction that began at or before the safe point must not lock anything more: the record that says
//! that it was rolled back may have gone, and nobody would look for its locks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::problem::Abort;

/// The safe points that a store goes by. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct SafePoints {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    txn: AtomicU64,
    gc: AtomicU64,
}

impl SafePoints {
    /// Hears of safe points; older ones change nothing.
    pub fn adopt(&self, txn_safe_point: u64, gc_safe_point: u64) {
        self.inner.txn.fetch_max(txn_safe_point, Ordering::SeqCst);
        self.inner.gc.fetch_max(gc_safe_point, Ordering::SeqCst);
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
    fn bound(&self) -> u64 {
        self.txn().max(self.gc())
    }

    /// Whether a reader at `ts` is welcome; at the safe point itself it is.
    pub fn check_read(&self, ts: u64) -> Result<(), Abort> {
        let safe_point = self.bound();
        if ts < safe_point { Err(Abort::TooOld { start_ts: ts, safe_point }) } else { Ok(()) }
    }

    /// Whether a transaction that began at `start_ts` may lock keys.
    pub fn check_write(&self, start_ts: u64) -> Result<(), Abort> {
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
