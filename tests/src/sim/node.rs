//! A simulated store: the shell that performs what the machines of one store ask for.
//!
//! Each step that takes time in the world is an event of its own, with a delay from the dice: a
//! round of the raft worker, the sync of its log write, one apply task, one background task, one
//! look at a lease. So every interleaving of the real threads happens in some seed, and a crash can
//! fall between any two of them.
//!
//! ```text
//!   Arrives ─► inbox ─► Round ─► Synced ─► (Round …)       the raft worker
//!                                  ├─► Apply ─► inbox       as if it had a thread of its own
//!                                  └─► Background ─► inbox
//!   Request ─► Look ─► inbox or answer                      an RPC task (server.rs)
//! ```
//!
//! How a store begins, dies, stands still and is hurt is told in `life.rs`, what it tells the judges in
//! `watch.rs`.

use std::collections::VecDeque;

use proto::raft_serverpb::RaftMessage;
use proto::tikvpb::batch_commands_response::response::Cmd as TxnAnswer;
use raftstore::applier::Applier;
use raftstore::config::Config;
use raftstore::driver::Background;
use raftstore::effects::{Effects, OutgoingSnapshot, Report};
use raftstore::engine::memory::{MemoryData, MemoryLog};
use raftstore::error::Fault;
use raftstore::msg::{Applied, ApplyTask, BackgroundTask, Now, Reply, ReplyId, StoreMsg};
use raftstore::read_view::ReadViews;
use raftstore::store::Store;

use super::clients::{Request, Response};
use super::dice::Dice;
use super::events::{Instant, MILLISECOND};
use super::judges::Judges;
use super::life::{Disks, Held};
use super::options::Plant;
use super::server::{Look, Server};
use super::txn::{TxnCall, TxnLook, TxnServer};
use super::watch::Facts;

/// Messages that one round takes at most; small, so that rounds differ.
const ROUND_MESSAGES_MAX: u64 = 64;

/// Something that happens on one store.
#[derive(Debug)]
pub enum Local {
    /// The tick of the raft worker is due.
    Tick,
    /// The raft worker wakes.
    Round,
    /// The log write of the round is durable.
    Synced,
    /// The next apply task is performed.
    Apply,
    /// The next background task is performed.
    Background,
    /// A message for the raft worker comes from outside.
    Arrives(Box<StoreMsg>),
    /// A client's request comes.
    Request(Box<Request>),
    /// An RPC task looks whether the snapshot that it took may be served.
    Look(Box<Look>),
    /// A client's transactional request comes.
    TxnCall(Box<TxnCall>),
    /// A transactional command looks whether the snapshot that it took may be served.
    TxnLook(Box<TxnLook>),
    /// The scheduler answers a question for a timestamp.
    Timestamp(u64, u64),
    /// The scheduler moves the safe points: of transactions, of garbage.
    SafePoints(u64, u64),
}

impl Local {
    /// Whether it is the process's own doing, and ends with it.
    pub fn belongs_to_process(&self) -> bool {
        match self {
            Self::Tick
            | Self::Round
            | Self::Synced
            | Self::Apply
            | Self::Background
            | Self::Look(_)
            | Self::TxnLook(_)
            | Self::Timestamp(..) => true,
            Self::Arrives(_) | Self::Request(_) | Self::TxnCall(_) | Self::SafePoints(..) => false,
        }
    }
}

/// What a store asks of the world.
pub enum Out {
    /// A message for another store.
    Send(RaftMessage),
    /// A snapshot for another store.
    SendSnapshot(OutgoingSnapshot),
    /// For the overseer.
    Report(Report),
    /// For a client.
    Respond(Response),
    /// For the transactional client who waits under this number.
    TxnAnswer(u64, Box<TxnAnswer>),
    /// A question for a timestamp.
    AskTimestamp(u64),
    /// For whoever sent a `StoreMsg` with this reply.
    Reply(ReplyId, Reply),
    /// Something that happens here after a while.
    After(Instant, Local),
}

/// One store, with or without a process on it.
pub struct Node {
    pub(super) id: u64,
    /// The disk with data.
    pub data: MemoryData,
    /// The disk with raft logs.
    pub log: MemoryLog,
    pub(super) config: Config,
    pub(super) dice: Dice,
    pub(super) plant: Option<Plant>,
    /// Where the store's clock stood at the beginning of the world, and what it has jumped since.
    pub(super) clock_offset: u64,
    /// How fast it runs, in millionths.
    pub(super) clock_rate: u64,
    /// How the two disks do.
    pub(super) disks: Disks,
    /// Counts processes.
    pub(super) life: u64,
    pub(super) process: Option<Process>,
    /// What waits for the end of a pause.
    pub(super) paused: Held,
    /// The safe points as a process that starts hears of them.
    pub(super) safe_points: (u64, u64),
}

pub(super) struct Process {
    pub(super) store: Store<MemoryData, MemoryLog>,
    pub(super) applier: Applier<MemoryData>,
    pub(super) background: Background<MemoryData>,
    pub(super) inbox: VecDeque<Inbound>,
    /// A round is scheduled or under way.
    pub(super) is_busy: bool,
    pub(super) is_tick_due: bool,
    /// When the next tick is due; one that comes earlier was set before the clock jumped.
    pub(super) tick_at: Instant,
    /// The round that waits for the disk, and since when.
    pub(super) syncing: Option<(Effects, Instant)>,
    pub(super) applying: VecDeque<ApplyTask>,
    pub(super) in_background: VecDeque<BackgroundTask>,
    pub(super) server: Server,
    /// The transactional side, from the first request on.
    pub(super) txn: Option<TxnServer>,
    /// What is worth knowing of the round under way.
    pub(super) facts: Facts,
}

impl Process {
    /// The oldest messages of the inbox.
    fn take(&mut self, messages: u64) -> Vec<Inbound> {
        let messages = (messages as usize).min(self.inbox.len());
        self.inbox.drain(..messages).collect()
    }

    /// A round's messages, and the tick if one is due.
    fn step(
        &mut self,
        drained: Vec<Inbound>,
        is_tick_due: bool,
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        for inbound in drained {
            match inbound {
                Inbound::Message(message) => self.store.step(message, now, effects)?,
                Inbound::Applied(applied) => self.store.on_applied(applied, now, effects)?,
            }
        }
        // As in the real worker: after the messages, and missed ticks are not made up for.
        if is_tick_due { self.store.tick(now, effects) } else { Ok(()) }
    }
}

pub(super) enum Inbound {
    Message(StoreMsg),
    Applied(Applied),
}

impl Node {
    /// Which process this is; events of an earlier one no longer happen.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// Whether a process runs, paused or not.
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// What the store shows of its regions, if a process runs.
    pub fn views(&self) -> Option<&ReadViews> {
        self.process.as_ref().map(|process| process.store.read_views())
    }

    /// Something happens here.
    pub fn on(&mut self, local: Local, instant: Instant, judges: &mut Judges) -> Vec<Out> {
        if self.process.is_none() {
            return Vec::new();
        }
        let Some(local) = self.paused.hold(local) else { return Vec::new() };
        let Some(local) = self.disks.hold(local) else { return Vec::new() };
        let mut outs = Vec::new();
        let is_tick = matches!(local, Local::Tick);
        match local {
            Local::Tick => {
                if instant >= self.process().tick_at {
                    self.process().is_tick_due = true;
                    self.wake(&mut outs);
                }
            }
            Local::Round => self.round(instant, judges, &mut outs),
            Local::Synced => self.synced(instant, judges, &mut outs),
            Local::Apply => self.apply(judges, &mut outs),
            Local::Background => self.background(judges, &mut outs),
            Local::Arrives(message) => {
                self.look_at_arrival(&message, judges);
                self.take_in(*message, judges, &mut outs);
            }
            Local::Request(request) => self.on_request(*request, &mut outs),
            Local::Look(look) => self.on_look(*look, instant, judges, &mut outs),
            Local::TxnCall(call) => self.on_txn_call(*call, instant),
            Local::TxnLook(look) => self.on_txn_look(*look, instant, judges, &mut outs),
            Local::Timestamp(id, timestamp) => self.on_timestamp(id, timestamp),
            Local::SafePoints(txn, gc) => self.on_safe_points(txn, gc),
        }
        self.run_transactions(is_tick, instant, judges, &mut outs);
        outs
    }

    pub(super) fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("looked at before every event")
    }

    pub(super) fn plant(&self) -> Option<Plant> {
        self.plant
    }

    pub(super) fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    pub(super) fn next_tick(&mut self, instant: Instant) -> Out {
        let late = self.dice.within(0..2 * MILLISECOND);
        let delay = self.in_world(self.config.tick_micros()) + late;
        self.process().tick_at = instant + delay;
        Out::After(delay, Local::Tick)
    }

    /// Schedules a round, unless one is coming anyway.
    pub(super) fn wake(&mut self, outs: &mut Vec<Out>) {
        if !self.process().is_busy {
            self.process().is_busy = true;
            let delay = self.dice.within(10..300);
            outs.push(Out::After(delay, Local::Round));
        }
    }

    fn round(&mut self, instant: Instant, judges: &mut Judges, outs: &mut Vec<Out>) {
        let now = self.now(instant);
        let take = self.dice.within(1..ROUND_MESSAGES_MAX);
        self.judge_queues(judges);
        let drained = self.process().take(take);
        self.look_at_drained(&drained, judges);
        let is_tick_due = std::mem::take(&mut self.process().is_tick_due);
        let mut effects = Effects::default();
        let verdict = self.process().step(drained, is_tick_due, now, &mut effects);
        if is_tick_due {
            let next = self.next_tick(instant);
            outs.push(next);
        }
        match verdict {
            Ok(()) => self.begin(effects, instant, judges, outs),
            Err(fault) => self.stop_at(&fault, judges),
        }
    }

    /// The first half of performing a round: up to the disk.
    pub(super) fn begin(
        &mut self,
        mut effects: Effects,
        instant: Instant,
        judges: &mut Judges,
        outs: &mut Vec<Out>,
    ) {
        let now = self.now(instant);
        self.process().store.flush(now, &mut effects);
        self.tell_leases(instant, judges);
        self.look_at_writes(&effects, judges);
        if effects.is_empty() {
            self.process().is_busy = false;
            if !self.process().inbox.is_empty() || self.process().is_tick_due {
                self.wake(outs);
            }
            return;
        }
        outs.extend(std::mem::take(&mut effects.send_now).into_iter().map(Out::Send));
        if self.plant == Some(Plant::AcknowledgeBeforeSync) {
            let promises = std::mem::take(&mut effects.send_after_persist);
            outs.extend(promises.into_iter().map(Out::Send));
        }
        if self.plant == Some(Plant::LazySync) {
            let write = std::mem::take(&mut effects.log);
            self.write_all_the_same(write);
        }
        let has_write = !effects.log.is_empty();
        self.process().syncing = Some((effects, instant));
        if has_write {
            let sync = self.dice.delay(self.disks.sync_usual);
            outs.push(Out::After(sync, Local::Synced));
        } else {
            self.synced(instant, judges, outs);
        }
    }

    /// The second half: what the disk made true.
    fn synced(&mut self, instant: Instant, judges: &mut Judges, outs: &mut Vec<Out>) {
        let now = self.now(instant);
        let (mut effects, since) = self.process().syncing.take().expect("a sync ends a round");
        self.look_at_sync(instant - since, judges);
        if let Err(fault) = self.write_log(std::mem::take(&mut effects.log), judges) {
            return self.stop_at(&fault, judges);
        }
        outs.extend(effects.send_after_persist.drain(..).map(Out::Send));
        let mut next = Effects::default();
        if !effects.persisted.is_empty() {
            let verdict = self.process().store.on_persisted(effects.persisted, now, &mut next);
            if let Err(fault) = verdict {
                return self.stop_at(&fault, judges);
            }
        }
        outs.extend(effects.snapshots.into_iter().map(Out::SendSnapshot));
        for task in effects.apply {
            self.look_at_commits(&task, judges);
            let process = self.process();
            process.applying.push_back(task);
            if process.applying.len() == 1 {
                let delay = self.dice.delay(self.disks.apply_usual);
                outs.push(Out::After(delay, Local::Apply));
            }
        }
        for task in effects.background {
            let process = self.process();
            process.in_background.push_back(task);
            if process.in_background.len() == 1 {
                let delay = self.dice.delay(self.disks.background_usual);
                outs.push(Out::After(delay, Local::Background));
            }
        }
        for report in effects.reports {
            self.look_at_report(&report, judges);
            if !self.tell_transactions(&report, judges, outs) {
                outs.push(Out::Report(report));
            }
        }
        for (reply, answer) in effects.replies {
            self.on_reply(reply, answer, judges, outs);
        }
        self.begin(next, instant, judges, outs);
    }

    fn apply(&mut self, judges: &mut Judges, outs: &mut Vec<Out>) {
        let take = self.dice.within(1..5) as usize;
        let process = self.process();
        let take = take.min(process.applying.len());
        let tasks: Vec<ApplyTask> = process.applying.drain(..take).collect();
        match process.applier.apply(tasks.clone()) {
            Ok(all) => process.inbox.extend(all.into_iter().map(Inbound::Applied)),
            Err(fault) => return self.stop_at(&fault, judges),
        }
        let has_more = !self.process().applying.is_empty();
        for task in &tasks {
            let (ApplyTask::Entries { region_id, .. } | ApplyTask::Destroy { region_id, .. }) =
                task
            else {
                continue;
            };
            judges.applied(self.id, &self.data, region_id.0);
        }
        self.wake(outs);
        if has_more {
            let delay = self.dice.delay(self.disks.apply_usual);
            outs.push(Out::After(delay, Local::Apply));
        }
    }

    fn background(&mut self, judges: &mut Judges, outs: &mut Vec<Out>) {
        let process = self.process();
        let task = process.in_background.pop_front().expect("a background event has a task");
        let answer = match process.background.perform(task) {
            Ok(answer) => answer,
            Err(fault) => return self.stop_at(&fault, judges),
        };
        if let Some(message) = answer {
            self.look_at_answer(&message, judges);
            self.process().inbox.push_back(Inbound::Message(message));
        }
        let has_more = !self.process().in_background.is_empty();
        self.wake(outs);
        if has_more {
            let delay = self.dice.delay(self.disks.background_usual);
            outs.push(Out::After(delay, Local::Background));
        }
    }
}
