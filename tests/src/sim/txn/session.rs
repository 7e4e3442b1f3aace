//! A client's hands: it asks, waits, and gives up, all in virtual time.
//!
//! Clients are futures that wait for one thing only: an arrival with a number. They are polled when one
//! comes, by the world and by nobody else, so there is nothing to wake and nothing to lock. A client that
//! crashes is dropped in the middle of whatever it waits for.

use std::cell::{Ref, RefCell, RefMut};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use proto::tikvpb::batch_commands_request::request::Cmd as Command;
use proto::tikvpb::batch_commands_response::response::Cmd as Answer;

use super::transaction::Open;
use super::workload::Ledger;
use crate::sim::dice::Dice;
use crate::sim::events::{Instant, MILLISECOND};
use crate::sim::probes::Probe;
use crate::sim::region_map::RegionMap;

/// How long a client waits for a timestamp before it asks again.
const TIMESTAMP_PATIENCE: Instant = 300 * MILLISECOND;

/// What comes to a client that waits.
#[derive(Debug)]
pub(in crate::sim) enum Arrival {
    /// A store's answer.
    Answer(Box<Answer>),
    /// The scheduler's.
    Timestamp(u64),
    /// The time is over.
    Over,
}

/// What a client wants of the world.
#[derive(Debug)]
pub(super) enum Wish {
    /// This is carried to a store.
    Send(u64, u64, Box<Command>),
    /// A timestamp is asked for.
    Ask(u64),
    /// After so long the wait with this number is over.
    Over(u64, Instant),
}

pub(super) type Task = Pin<Box<dyn Future<Output = ()>>>;

/// What all clients share.
pub(super) struct Shared {
    pub(super) now: Instant,
    pub(super) dice: Dice,
    pub(super) map: RegionMap,
    pub(super) wishes: Vec<Wish>,
    /// Waits by number: whose, and what came.
    waits: BTreeMap<u64, (usize, Option<Arrival>)>,
    next_wait: u64,
    /// New tasks, and whose.
    pub(super) spawned: Vec<(usize, Task)>,
    /// By client: the transaction under way.
    pub(super) open: Vec<Option<Open>>,
    pub(super) ledger: Ledger,
    pub(super) probes: Vec<Probe>,
    /// Clients begin transactions of their own.
    pub(super) is_restless: bool,
    stamp: u64,
}

impl Shared {
    pub(super) fn new(dice: Dice, clients: usize, ledger: Ledger) -> Self {
        Self {
            now: 0,
            dice,
            map: RegionMap::default(),
            wishes: Vec::new(),
            waits: BTreeMap::new(),
            next_wait: 0,
            spawned: Vec::new(),
            open: (0..clients).map(|_| None).collect(),
            ledger,
            probes: Vec::new(),
            is_restless: true,
            stamp: 0,
        }
    }

    /// The next moment of the history.
    pub(super) fn next_stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    /// Something comes. Says whose it is, if anybody still waits for it.
    pub(super) fn arrive(&mut self, id: u64, arrival: Arrival) -> Option<usize> {
        let (slot, place) = self.waits.get_mut(&id)?;
        if place.is_some() {
            return None;
        }
        *place = Some(arrival);
        Some(*slot)
    }
}

/// One client's hands. Clones are the same client's.
#[derive(Clone)]
pub(super) struct Session {
    shared: Rc<RefCell<Shared>>,
    pub(super) slot: usize,
    /// How fast its clock runs, in thousandths.
    clock_rate: u64,
}

/// A wait for an arrival.
struct Wait {
    shared: Rc<RefCell<Shared>>,
    id: u64,
}

impl Future for Wait {
    type Output = Arrival;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Arrival> {
        let mut shared = self.shared.borrow_mut();
        let (_, place) = shared.waits.get_mut(&self.id).expect("it is there until it is dropped");
        place.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        // A client that crashes is dropped by the world, which holds nothing of it then.
        // Not even that is to be when it dies by an assertion of its own.
        if let Ok(mut shared) = self.shared.try_borrow_mut() {
            shared.waits.remove(&self.id);
        }
    }
}

impl Session {
    pub(super) fn new(shared: Rc<RefCell<Shared>>, slot: usize, clock_rate: u64) -> Self {
        Self { shared, slot, clock_rate }
    }

    pub(super) fn shared(&self) -> Ref<'_, Shared> {
        self.shared.borrow()
    }

    pub(super) fn shared_mut(&self) -> RefMut<'_, Shared> {
        self.shared.borrow_mut()
    }

    pub(super) fn now(&self) -> Instant {
        self.shared().now
    }

    /// What the client's own clock says.
    pub(super) fn clock(&self) -> Instant {
        self.now() * self.clock_rate / 1_000
    }

    pub(super) fn happens(&self, per_mille: u64) -> bool {
        self.shared_mut().dice.happens(per_mille)
    }

    pub(super) fn within(&self, range: std::ops::Range<u64>) -> u64 {
        self.shared_mut().dice.within(range)
    }

    pub(super) fn saw(&self, probe: Probe) {
        self.shared_mut().probes.push(probe);
    }

    /// Something goes on beside what the client does next.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.shared_mut().spawned.push((self.slot, Box::pin(task)));
    }

    fn wait(&self, wish: impl FnOnce(u64) -> Option<Wish>, patience: Instant) -> Wait {
        let mut shared = self.shared_mut();
        shared.next_wait += 1;
        let id = shared.next_wait;
        shared.waits.insert(id, (self.slot, None));
        shared.wishes.extend(wish(id));
        shared.wishes.push(Wish::Over(id, patience));
        Wait { shared: self.shared.clone(), id }
    }

    pub(super) async fn sleep(&self, time: Instant) {
        self.wait(|_| None, time).await;
    }

    /// A short rest before something is tried again.
    pub(super) async fn rest(&self) {
        let pause = self.within(2 * MILLISECOND..60 * MILLISECOND);
        self.sleep(pause).await;
    }

    /// Sends a command to a store; `None` when no answer comes in time.
    pub(super) async fn send(
        &self,
        store: u64,
        command: Command,
        patience: Instant,
    ) -> Option<Answer> {
        let wish = |id| Some(Wish::Send(id, store, Box::new(command)));
        match self.wait(wish, patience).await {
            Arrival::Answer(answer) => Some(*answer),
            Arrival::Timestamp(_) | Arrival::Over => None,
        }
    }

    /// A fresh timestamp; `None` when there is none until the deadline.
    pub(super) async fn timestamp(&self, deadline: Instant) -> Option<u64> {
        while self.now() < deadline {
            let wish = |id| Some(Wish::Ask(id));
            if let Arrival::Timestamp(ts) = self.wait(wish, TIMESTAMP_PATIENCE).await {
                return Some(ts);
            }
        }
        None
    }
}
