//! The shell of a store: the only threads, clocks and channels of this crate.
//!
//! | thread | owns | inbox | when full | ends when |
//! |---|---|---|---|---|
//! | raft worker | `Store` with all `Peer`s, the `Applier`, raft log and user data writes, the reply table | [`Router`] | a caller is told "busy"; a raft message is dropped | told to stop, after a last round; or at a fault |
//! | lanes, none on few cores | peers and entries of a round while they work on them | shares of a round | never: the raft worker waits for what it has put in | the raft worker has ended |
//! | background worker | snapshot data, scans for split keys, removal of ranges | background tasks | never: the machines have at most one task of a kind under way for each region | its inbox is closed and drained |
//! | syncer | syncs of user data | syncs | never: the store asks for one at a time | its inbox is closed and drained |
//!
//! Applying is folded into the raft worker: see `raft_worker.rs`. Lease reads do
//! not come here at all: the caller's thread takes a snapshot of the engine and then looks at the
//! region's [`ReadView`](crate::read_view::ReadView).
//!
//! Promises:
//! - A callback given to the [`Router`] is called exactly once, whatever happens.
//! - A [`Fault`], or an assertion that fails, stops the store: nothing more is sent, written or
//!   answered but "closing".
//! - An idle store wakes once a tick and does nothing else; its lanes sleep.
#![expect(clippy::disallowed_methods, reason = "the shell is where time is real")]

mod background;
mod background_worker;
mod clock;
#[cfg(test)]
mod failed_sync;
mod inbox;
mod lanes;
mod observer;
mod pace;
mod promise;
mod raft_worker;
mod replies;
mod router;
#[cfg(test)]
mod many_regions;
#[cfg(test)]
mod tests;

pub use background::{Background, SnapshotStorage};
pub use lanes::{LaneThread, ThreadLanes};
pub use observer::Observer;
pub use pace::Pace;
pub use router::Router;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use crossbeam_channel::unbounded;
use proto::StoreId;

use crate::applier::Applier;
use crate::clock_trust::ClockTrust;
use crate::config::Config;
use crate::effects::Effects;
use crate::engine::{DataEngine, LogEngine};
use crate::error::Fault;
use crate::store::Store;
use crate::transport::Transport;
use background_worker::{BackgroundWorker, perform_sync};
use clock::Clock;
use inbox::Inbox;
use lanes::lanes_of;
use raft_worker::RaftWorker;
use replies::Replies;
use router::Envelope;

/// A store at work: its threads, and the door to them. Dropping it stops it.
pub struct RaftStore<D: DataEngine, L: LogEngine> {
    router: Router<D>,
    inbox: Arc<Inbox>,
    threads: Vec<JoinHandle<()>>,
    log: std::marker::PhantomData<L>,
}

impl<D: DataEngine, L: LogEngine> std::fmt::Debug for RaftStore<D, L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftStore").field("router", &self.router).finish_non_exhaustive()
    }
}

impl<D: DataEngine, L: LogEngine> RaftStore<D, L> {
    /// Opens every peer found on the engines and begins to work. A transport and an observer that
    /// need the router are given it once this returns; what they would say before is lost, and said
    /// again.
    pub fn start(
        config: Config,
        store_id: StoreId,
        data: D,
        log: L,
        mut background: Background<D>,
        transport: Arc<dyn Transport>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, Fault> {
        let clock = Clock::start();
        let tick_micros = config.tick_micros();
        let clock_trust = ClockTrust::new(&config);
        let (inbox, inbox_end) = Inbox::open();
        // Not bounded: the machines have at most one task of a kind under way for each region.
        let (tasks_tx, tasks_rx) = unbounded();
        let (syncs_tx, syncs_rx) = unbounded();
        let (lanes, lane_threads) = ThreadLanes::new(lanes_of(&config));
        let mut first = Effects::default();
        let store =
            Store::open(store_id, config, data.clone(), log.clone(), clock.now(), &mut first)?;
        let store = store.with_lanes(Box::new(lanes.clone()));
        let router = Router::new(
            Arc::clone(&inbox),
            Arc::new(store.read_views().clone()),
            data.clone(),
            clock,
        );
        let background = BackgroundWorker {
            perform: move |task| background.perform(task),
            tasks: tasks_rx,
            inbox: Arc::clone(&inbox),
            observer: Arc::clone(&observer),
        };
        let syncer = BackgroundWorker {
            perform: {
                let data = data.clone();
                move |task| perform_sync(&data, &task)
            },
            tasks: syncs_rx,
            inbox: Arc::clone(&inbox),
            observer: Arc::clone(&observer),
        };
        let worker = RaftWorker {
            store,
            applier: Applier::new(data).with_lanes(Box::new(lanes)),
            log,
            inbox: inbox_end,
            background: tasks_tx,
            syncs: syncs_tx,
            transport,
            observer: Arc::clone(&observer),
            clock,
            clock_trust,
            tick_micros,
            replies: Replies::default(),
        };
        let start = |name: String, work: Box<dyn FnOnce() + Send>| {
            spawn(name, work, Arc::clone(&inbox), Arc::clone(&observer))
        };
        let mut threads = vec![
            start(format!("raft-{store_id}"), Box::new(move || worker.run(first)))?,
            start(format!("background-{store_id}"), Box::new(move || background.run()))?,
            start(format!("syncer-{store_id}"), Box::new(move || syncer.run()))?,
        ];
        for (number, lane) in lane_threads.into_iter().enumerate() {
            threads.push(start(format!("lane-{store_id}-{number}"), Box::new(|| lane.run()))?);
        }
        Ok(Self { router, inbox, threads, log: std::marker::PhantomData })
    }

    /// The door. Clones of it may be kept; they refuse everything once the store has stopped.
    pub fn router(&self) -> Router<D> {
        self.router.clone()
    }

    /// Stops: what lies in the inbox before this call is still done, everybody else is told that
    /// the store is closing. Returns when the threads have ended and let go of the engines.
    pub fn stop(mut self) {
        self.stop_threads();
    }

    fn stop_threads(&mut self) {
        // Waits for room when the inbox is full; fails when the worker has ended by itself.
        self.inbox.deliver(Envelope::Stop);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("the observer of a store panicked");
            }
        }
    }
}

impl<D: DataEngine, L: LogEngine> Drop for RaftStore<D, L> {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

/// Starts a thread. An assertion that fails on it stops the store as a fault does: a store without
/// one of its threads must not look alive.
fn spawn(
    name: String,
    work: Box<dyn FnOnce() + Send>,
    inbox: Arc<Inbox>,
    observer: Arc<dyn Observer>,
) -> Result<JoinHandle<()>, Fault> {
    let place = name.clone();
    let guarded = move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
            let detail = words.unwrap_or("an assertion failed").to_owned();
            inbox.deliver(Envelope::Stop);
            observer.fault(Fault::Bug { place, detail });
        }
    };
    Builder::new()
        .name(name)
        .spawn(guarded)
        .map_err(|error| Fault::Engine { attempt: "start a thread", cause: error.to_string() })
}
