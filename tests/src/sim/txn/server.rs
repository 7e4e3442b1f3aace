//! The transactional side of a simulated store: `kv::txn` as it is in production, on a runtime whose clock
//! is the store's.
//!
//! The commands are futures: they wait for latches, for locks of others, for timestamps, for views and
//! writes. Each process has a runtime of its own, on this thread, whose time moves only when it is told to.
//! It runs when something happened that a command may wait for, and at every tick of the store; then it is
//! left alone, and everything that it asked for is taken from its [`Desk`]. A process that dies takes its
//! runtime with it, and so everything that its commands held in memory.
//!
//! ```text
//! TxnCall ─► a task ─► Ask::View ─► TxnLook ─► (barrier) ─► the task goes on
//!                  └─► Ask::Write ─► raft worker ─► …       the task goes on, and answers
//! ```

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use kv::ApiVersion;
use kv::storage::View;
use kv::txn::Transactions;
use parking_lot::Mutex;
use proto::tikvpb::batch_commands_request::request::Cmd as Command;
use proto::tikvpb::batch_commands_response::response::Cmd as Answer;
use proto::{KeyRange, Refusal};
use raftstore::engine::DataEngine as _;
use raftstore::engine::memory::MemorySnapshot;
use raftstore::msg::{Now, StoreMsg, Target};
use raftstore::read_view::{Before, ReadPath};

use super::desk::{Ask, Desk, Done};
use crate::sim::events::{Instant, MILLISECOND};
use crate::sim::judges::Judges;
use crate::sim::node::{Inbound, Local, Node, Out};
use crate::sim::options::Plant;
use crate::sim::probes::Probe;
use crate::sim::server::Waiting;

/// How often tasks that wait for each other get their turn before the store goes on. A turn runs every task
/// that can run; whoever is left over runs when the store runs again.
const TURNS: usize = 4;

/// A client's request, as it travels to a store.
#[derive(Debug)]
pub struct TxnCall {
    /// Which wait of the clients is answered.
    pub id: u64,
    /// What is asked.
    pub command: Command,
}

/// A store's answer, or the words of the assertion that failed.
type Answered = (u64, Result<Answer, String>);

/// A snapshot on its way to be looked at.
#[derive(Debug)]
pub struct TxnLook {
    target: Target,
    snapshot: MemorySnapshot,
    before: Before,
    done: Done<View<MemorySnapshot>>,
}

/// The transactions of one process.
pub(in crate::sim) struct TxnServer {
    pub(super) runtime: tokio::runtime::Runtime,
    pub(super) transactions: Transactions<Desk>,
    desk: Desk,
    answers: Arc<Mutex<Vec<Answered>>>,
    /// What goes to the raft worker when locks are saved, and whether saving them failed an assertion.
    pub(super) saved: Arc<Mutex<Vec<(StoreMsg, bool)>>>,
    began: Now,
    /// Microseconds since then, as far as the runtime has been told.
    passed: u64,
    timestamps: BTreeMap<u64, Done<u64>>,
    asked_timestamps: u64,
    /// Something happened that a task may wait for.
    pub(super) is_woken: bool,
}

impl TxnServer {
    fn new(now: Now, planted: kv::plant::Planted) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime on this thread needs nothing of the system");
        let desk = Desk::default();
        Self {
            runtime,
            transactions: Transactions::new(desk.clone(), ApiVersion::V1, Arc::new(desk.clone()))
                .planting(planted),
            desk,
            answers: Arc::default(),
            saved: Arc::default(),
            began: now,
            passed: 0,
            timestamps: BTreeMap::new(),
            asked_timestamps: 0,
            is_woken: false,
        }
    }

    /// A task for the call; it runs when the server runs.
    fn begin(&mut self, call: TxnCall) {
        let (transactions, answers) = (self.transactions.clone(), self.answers.clone());
        self.runtime.spawn(async move {
            let TxnCall { id, command } = call;
            let work = AssertUnwindSafe(execute(transactions, command)).catch_unwind();
            let answer = work.await.map_err(|panic| {
                let words = panic.downcast_ref::<String>().map(String::as_str);
                let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
                words.unwrap_or("an assertion failed in a transactional command").to_owned()
            });
            answers.lock().push((id, answer));
        });
        self.is_woken = true;
    }

    /// Whether any task is under way.
    fn is_busy(&self) -> bool {
        self.runtime.metrics().num_alive_tasks() > 0
    }

    /// Lets every task run that can, at this time.
    fn run(&mut self, now: Now) -> (Vec<Ask>, Vec<Answered>) {
        self.is_woken = false;
        let passed = now.0 - self.began.0;
        let step = Duration::from_micros(passed - self.passed);
        self.passed = passed;
        self.runtime.block_on(async move {
            tokio::time::advance(step).await;
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
        });
        (self.desk.take(), std::mem::take(&mut self.answers.lock()))
    }

    /// What is under way: commands, waits for timestamps, waits for locks, locks shown in memory.
    pub(in crate::sim) fn under_way(&self) -> [(&'static str, usize); 2] {
        [
            ("transactional tasks", self.runtime.metrics().num_alive_tasks()),
            ("waits for locks", self.transactions.waiting().entries().len()),
        ]
    }
}

/// Runs one command, as `kv::service` does.
async fn execute(transactions: Transactions<Desk>, command: Command) -> Answer {
    macro_rules! answer {
        ($($kind:ident = $command:ident,)*) => {
            match command {
                $(Command::$kind(request) => Answer::$kind(transactions.$command(request).await),)*
                other => panic!("no client of the simulator asks for {other:?}"),
            }
        };
    }
    answer! {
        Get = get,
        Scan = scan,
        Prewrite = prewrite,
        Commit = commit,
        BatchGet = batch_get,
        BatchRollback = batch_rollback,
        ScanLock = scan_lock,
        ResolveLock = resolve_lock,
        PessimisticLock = pessimistic_lock,
        PessimisticRollback = pessimistic_rollback,
        CheckTxnStatus = check_txn_status,
        TxnHeartBeat = txn_heart_beat,
        CheckSecondaryLocks = check_secondary_locks,
    }
}

impl Node {
    /// A client's request comes.
    pub(in crate::sim) fn on_txn_call(&mut self, call: TxnCall, instant: Instant) {
        let (now, planted) = (self.now(instant), planted_in(self.plant()));
        let (txn_safe_point, gc_safe_point) = self.safe_points;
        let keeps_in_memory = self.config.asks_before_handover;
        let views = self.process().server.views().clone();
        let server = self.process().txn.get_or_insert_with(|| {
            let server = TxnServer::new(now, planted);
            if keeps_in_memory {
                server.hear_all(&views);
            }
            // A store hears of the safe points before it serves.
            server.transactions.safe_points().adopt(txn_safe_point, gc_safe_point);
            server
        });
        server.begin(call);
    }

    /// The scheduler moves the safe points.
    pub(in crate::sim) fn on_safe_points(&mut self, txn_safe_point: u64, gc_safe_point: u64) {
        if let Some(server) = &self.process().txn {
            server.transactions.safe_points().adopt(txn_safe_point, gc_safe_point);
        }
        // A full disk, or one that fails, keeps its garbage.
        if gc_safe_point > 0 && self.data.raise_safe_point(gc_safe_point).is_ok() {
            let _ = self.data.collect_garbage(&KeyRange::all());
        }
    }

    /// Whether the store goes by this safe point, or will when it starts.
    pub(in crate::sim) fn has_heard(&self, txn_safe_point: u64) -> bool {
        let server = self.process.as_ref().and_then(|process| process.txn.as_ref());
        server.is_none_or(|server| {
            let points = server.transactions.safe_points();
            // Those who were let in before may lock keys yet.
            points.txn() >= txn_safe_point && points.settled().now_or_never().is_some()
        })
    }

    /// A timestamp comes from the scheduler.
    pub(in crate::sim) fn on_timestamp(&mut self, id: u64, timestamp: u64) {
        let Some(server) = &mut self.process().txn else { return };
        if let Some(done) = server.timestamps.remove(&id) {
            // The command may have lost its patience.
            let _ = done.send(Ok(timestamp));
            server.is_woken = true;
        }
    }

    /// After each event: tasks that can go on do.
    pub(in crate::sim) fn run_transactions(
        &mut self,
        is_tick: bool,
        instant: Instant,
        judges: &mut Judges,
        outs: &mut Vec<Out>,
    ) {
        let now = self.now(instant);
        if self.process.as_ref().is_none_or(|process| process.txn.is_none()) {
            return;
        }
        // Refusals may be known at once; then tasks go on at once.
        while server_of(self).is_woken || (is_tick && server_of(self).is_busy()) {
            let (asks, answers) = server_of(self).run(now);
            for (id, answer) in answers {
                match answer {
                    Ok(answer) => outs.push(Out::TxnAnswer(id, Box::new(answer))),
                    Err(words) => judges.fail(format!("panic on s{}: {words}", self.id)),
                }
            }
            self.go_on_after_saving(judges, outs);
            for ask in asks {
                self.take_up(ask, outs);
            }
            if !server_of(self).is_woken {
                break;
            }
        }
    }

    fn take_up(&mut self, ask: Ask, outs: &mut Vec<Out>) {
        match ask {
            Ask::View(context, done) => match Target::of(&context) {
                Ok(target) => self.take_view(target, done, outs),
                Err(refusal) => self.answer_task(done, Err(refusal)),
            },
            Ask::Write(context, batch, done) => match Target::of(&context) {
                Ok(target) => {
                    let process = self.process();
                    let reply = process.server.wait(Waiting::Batch(done));
                    let message = StoreMsg::Write { target, batch, reply };
                    process.inbox.push_back(Inbound::Message(message));
                    self.wake(outs);
                }
                Err(refusal) => self.answer_task(done, Err(refusal)),
            },
            Ask::Timestamp(done) => {
                let server = server_of(self);
                server.asked_timestamps += 1;
                let id = server.asked_timestamps;
                server.timestamps.insert(id, done);
                outs.push(Out::AskTimestamp(id));
            }
        }
    }

    /// Someone waited long enough.
    pub(in crate::sim) fn answer_task<T>(&mut self, done: Done<T>, answer: Result<T, Refusal>) {
        // Nobody waits any more when the command's deadline has passed.
        let _ = done.send(answer);
        server_of(self).is_woken = true;
    }

    fn take_view(&mut self, target: Target, done: Done<View<MemorySnapshot>>, outs: &mut Vec<Out>) {
        let before = self.process().server.views().before_snapshot(target.region_id);
        let snapshot = self.data.snapshot();
        let slow = self.plant() == Some(Plant::SnapshotBeforeLeadership) || self.dice().happens(10);
        let delay = if slow {
            self.dice().within(0..1_500 * MILLISECOND)
        } else {
            self.dice().within(1..100)
        };
        let look = TxnLook { target, snapshot, before, done };
        outs.push(Out::After(delay, Local::TxnLook(Box::new(look))));
    }

    pub(in crate::sim) fn on_txn_look(
        &mut self,
        look: TxnLook,
        instant: Instant,
        judges: &mut Judges,
        outs: &mut Vec<Out>,
    ) {
        let TxnLook { target, snapshot, before, done } = look;
        let now = self.now(instant);
        match self.process().server.views().check(&before, &target, now) {
            Err(refusal) => self.answer_task(done, Err(refusal)),
            Ok((ReadPath::Lease, view)) => {
                judges.saw(Probe::LeaseRead);
                let term = before.term().unwrap_or(view.term);
                self.answer_task(done, Ok(View { snapshot, range: view.range.clone(), term }));
            }
            Ok((ReadPath::Barrier, _)) => {
                let process = self.process();
                let waiting = Waiting::View(target.clone(), before, done);
                let reply = process.server.wait(waiting);
                process.inbox.push_back(Inbound::Message(StoreMsg::ReadBarrier { target, reply }));
                self.wake(outs);
            }
        }
    }

    /// The barrier is behind: a new snapshot, under the term of the first look.
    pub(in crate::sim) fn on_barrier_passed(
        &mut self,
        target: &Target,
        before: &Before,
        done: Done<View<MemorySnapshot>>,
    ) {
        let snapshot = self.data.snapshot();
        let checked = self.process().server.views().check(before, target, Now(0));
        let answer = checked.map(|(_, view)| View {
            snapshot,
            range: view.range.clone(),
            term: before.term().unwrap_or(view.term),
        });
        self.answer_task(done, answer);
    }
}

/// The bug that is planted in the transactions, if one is.
fn planted_in(plant: Option<Plant>) -> kv::plant::Planted {
    match plant {
        #[cfg(feature = "plant")]
        Some(Plant::InTransactions(bug)) => kv::plant::Planted::one(bug),
        _ => kv::plant::Planted::default(),
    }
}

fn server_of(node: &mut Node) -> &mut TxnServer {
    node.process().txn.as_mut().expect("looked at before")
}
