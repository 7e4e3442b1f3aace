//! Several things at once, in virtual time: the test, its clients, and whoever makes trouble.
//!
//! A task is a future. It is polled when what it waits for has happened: an answer, the end of a pause,
//! the end of another task. Between two polls the world takes its next event; so everything has one
//! order, and a seed repeats it. Nothing here is a thread, and no waker wakes anybody: events do.
//!
//! A future of this harness names the task that waits when it is made, so it is awaited where it is made.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::settings::{Settings, chosen_seed};
use super::world::{Event, World};
use crate::sim::dice::Dice;
use crate::sim::events::{Instant, SECOND};

/// A test that is not done after so much virtual time never will be.
const TEST_LASTS_AT_MOST: Instant = 1_200 * SECOND;

/// The newest events that are printed when a test fails and a trace was asked for.
const LINES_PRINTED: usize = 400;

/// A task, by number.
pub(super) type TaskId = u64;

type Running = Pin<Box<dyn Future<Output = ()>>>;

/// The cluster of a test, as its tasks hold it. Clones are the same cluster.
#[derive(Clone)]
pub struct Cluster {
    pub(super) world: Rc<RefCell<World>>,
    tasks: Rc<RefCell<BTreeMap<TaskId, Running>>>,
}

/// Something under way.
pub struct Task<T> {
    cluster: Cluster,
    id: TaskId,
    result: Rc<RefCell<Option<T>>>,
}

/// Runs a test on a cluster of its own, from the start of the stores to the end of the test. Panics when
/// the test does, when a judge sees a truth broken, or when the test does not end.
///
/// Returns a number that is equal for equal runs.
pub fn run<F: Future<Output = ()> + 'static>(
    settings: Settings,
    test: impl FnOnce(Cluster) -> F,
) -> u64 {
    let name = settings.test;
    let world = World::new(settings);
    let cluster = Cluster { world: Rc::new(RefCell::new(world)), tasks: Rc::default() };
    let _told = TellHowToRepeat { name, world: cluster.world.clone() };
    cluster.world.borrow_mut().start_all();
    let main = cluster.spawn(test(cluster.clone()));
    loop {
        cluster.poll_the_ready();
        if main.result.borrow().is_some() {
            break;
        }
        cluster.happen(name);
    }
    let world = cluster.world.borrow();
    world.judge_the_end();
    // Tasks that nobody waited for hold the cluster that holds them.
    let unfinished = std::mem::take(&mut *cluster.tasks.borrow_mut());
    let hash = world.trace.hash();
    drop(world);
    drop(unfinished);
    hash
}

/// Said last when a test fails.
struct TellHowToRepeat {
    name: &'static str,
    world: Rc<RefCell<World>>,
}

impl Drop for TellHowToRepeat {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        if let Ok(world) = self.world.try_borrow() {
            let lines: Vec<&str> = world.trace.lines().collect();
            for line in &lines[lines.len().saturating_sub(LINES_PRINTED)..] {
                eprintln!("{line}");
            }
            eprintln!("failed at {} ms of virtual time", world.events.now() / 1000);
        }
        let (name, seed) = (self.name, chosen_seed());
        eprintln!(
            "repeat: TESSERA_LAB_SEED={seed} cargo test --package tessera-tests --test suites -- {name}"
        );
    }
}

impl Cluster {
    /// Begins something that goes on beside what is under way.
    pub fn spawn<T: 'static>(&self, doing: impl Future<Output = T> + 'static) -> Task<T> {
        let result = Rc::new(RefCell::new(None));
        let kept = result.clone();
        let running = Box::pin(async move {
            let value = doing.await;
            *kept.borrow_mut() = Some(value);
        });
        let id = self.world.borrow_mut().new_task();
        self.tasks.borrow_mut().insert(id, running);
        Task { cluster: self.clone(), id, result }
    }

    /// Virtual time since the cluster was made.
    pub fn now(&self) -> Instant {
        self.world.borrow().events.now()
    }

    /// A stream of numbers for one purpose.
    pub fn dice(&self, purpose: &str) -> Dice {
        self.world.borrow().dice.stream(purpose)
    }

    /// Waits for so long.
    pub fn pause(&self, length: Instant) -> impl Future<Output = ()> + use<> {
        let world = self.world.clone();
        let until = {
            let mut world = world.borrow_mut();
            let task = world.current_task;
            world.events.after(length, Event::Wake(task));
            world.events.now() + length
        };
        poll_fn(
            move |_| {
                if world.borrow().events.now() < until { Poll::Pending } else { Poll::Ready(()) }
            },
        )
    }

    fn poll_the_ready(&self) {
        loop {
            let Some(id) = self.world.borrow_mut().next_ready() else { return };
            let Some(mut running) = self.tasks.borrow_mut().remove(&id) else { continue };
            match running.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(()) => self.world.borrow_mut().end_task(id),
                Poll::Pending => {
                    self.tasks.borrow_mut().insert(id, running);
                }
            }
        }
    }

    fn happen(&self, name: &str) {
        let mut world = self.world.borrow_mut();
        let event = world.events.next_before(TEST_LASTS_AT_MOST);
        let event = event.unwrap_or_else(|| panic!("{name} does not come to an end"));
        world.happen(event);
        if let Some(violation) = world.judges.violation() {
            panic!("{name}: {violation}");
        }
    }
}

impl<T> Task<T> {
    /// Waits until it has ended, and takes what it came to.
    pub async fn join(self) -> T {
        poll_fn(|_| {
            if let Some(value) = self.result.borrow_mut().take() {
                return Poll::Ready(value);
            }
            self.cluster.world.borrow_mut().await_task(self.id);
            Poll::Pending
        })
        .await
    }
}
