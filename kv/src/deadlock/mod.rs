//! Deadlocks through several stores: one store sees all waits.
//!
//! ```text
//!  store that waits                            store that leads the first region
//!    txn A waits for B ── Detect ─────────────►  is there a way from B to A already?
//!         ◄── entry, chain (only if so) ───────    yes: that is the circle
//!    woken, refused                                no: remember the wait, for a while
//!    no longer waits ── CleanUpWaitFor ───────►  forget it
//! ```
//!
//! Whoever leads the region that holds the empty key is the *detector*: there is one at most times, and
//! everybody finds it in the way that regions are found. It knows nothing but what it is told. When
//! another takes over, or a stream breaks, a store tells of all its waits again, so a circle that closed
//! in between is found by the wait that is told last.
//!
//! Messages may be lost, and two stores may both believe to be the detector for a moment. Then a circle
//! is not found, and the waiters' time limit ([`WAIT_MAX`]) breaks it. A circle that is no more may be
//! found, when a wait's end is on its way; then a transaction is refused that need not have been. A wait
//! that nobody ends is forgotten after [`REMEMBERED_FOR`].
//!
//! Left out: TiKV's `ReplaceLocksByKeys`, which moves waits from one holder to the next: here a wait
//! ends with its holder's lock, and the next one is told anew.

pub(crate) mod link;
pub(crate) mod service;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use proto::deadlock::{DeadlockRequest, DeadlockRequestType, DeadlockResponse};
use tokio::time::Instant;

use crate::txn::deadlock::WaitGraph;
use crate::txn::lock_wait::WAIT_MAX;

/// How long a wait is remembered that nobody takes back.
const REMEMBERED_FOR: Duration = WAIT_MAX.saturating_mul(3);

/// Whether this store leads the first region now.
pub(crate) type Leads = Box<dyn Fn() -> bool + Send + Sync>;

/// What this store knows of everybody's waits while it leads the first region; nothing otherwise.
pub(crate) struct Detector {
    graph: Mutex<WaitGraph>,
    leads: Leads,
    next_teller: AtomicU64,
    began: Instant,
}

impl Detector {
    pub(crate) fn new(leads: Leads) -> Arc<Self> {
        Arc::new(Self {
            graph: Mutex::default(),
            leads,
            next_teller: AtomicU64::new(0),
            began: Instant::now(),
        })
    }

    /// Whether this store is the detector. One that is no longer forgets all it knew.
    pub(crate) fn is_here(&self) -> bool {
        let leads = (self.leads)();
        if !leads {
            let mut graph = self.graph.lock();
            if !graph.is_empty() {
                *graph = WaitGraph::default();
            }
        }
        leads
    }

    /// Somebody is going to tell of waits.
    pub(crate) fn teller(self: &Arc<Self>) -> Teller {
        let id = self.next_teller.fetch_add(1, Ordering::Relaxed);
        Teller { detector: Arc::clone(self), id }
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

/// One who tells of waits; what it told goes with it.
pub(crate) struct Teller {
    detector: Arc<Detector>,
    id: u64,
}

impl Teller {
    /// Hears of a wait or of its end; the answer is the circle that it closes.
    pub(crate) fn tell(&self, request: DeadlockRequest) -> Option<DeadlockResponse> {
        let tp = request.tp();
        let entry = request.entry?;
        let now = self.detector.now();
        let mut graph = self.detector.graph.lock();
        match tp {
            DeadlockRequestType::Detect => {
                let until = now + REMEMBERED_FOR.as_millis() as u64;
                let deadlock = graph.wait(&entry, self.id, until, now).err()?;
                Some(DeadlockResponse {
                    entry: Some(entry),
                    deadlock_key_hash: deadlock.deadlock_key_hash,
                    wait_chain: deadlock.wait_chain,
                    deadlock_key: deadlock.deadlock_key,
                })
            }
            DeadlockRequestType::CleanUpWaitFor => {
                graph.stop_waiting(&entry, self.id);
                None
            }
            DeadlockRequestType::CleanUp => {
                graph.end(entry.txn, self.id);
                None
            }
        }
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.detector.graph.lock().let_go(self.id);
    }
}

#[cfg(test)]
mod tests;
