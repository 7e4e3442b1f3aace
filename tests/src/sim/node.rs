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
//! The disk outlives the process: [`Node::kill`] loses what was in memory, [`Node::power_off`] also
//! what was not synced.

use std::collections::VecDeque;

use proto::{StoreId, raft_serverpb::RaftMessage};
use raftstore::applier::Applier;
use raftstore::config::Config;
use raftstore::driver::{Background, SnapshotStorage};
use raftstore::effects::{Effects, OutgoingSnapshot, Report};
use raftstore::engine::memory::{MemoryData, MemoryLog};
use raftstore::engine::{LogBatch, LogEngine as _};
use raftstore::error::Fault;
use raftstore::msg::{Applied, ApplyTask, BackgroundTask, Now, StoreMsg};
use raftstore::store::Store;

use super::clients::{Request, Response};
use super::dice::Dice;
use super::events::{Instant, MILLISECOND};
use super::judges::Judges;
use super::nemesis::SYNC_USUAL;
use super::options::Plant;
use super::server::{Look, Server};

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
            | Self::Look(_) => true,
            Self::Arrives(_) | Self::Request(_) => false,
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
    /// Something that happens here after a while.
    After(Instant, Local),
}

/// One store, with or without a process on it.
pub struct Node {
    id: u64,
    /// The disk with data.
    pub data: MemoryData,
    /// The disk with raft logs.
    pub log: MemoryLog,
    config: Config,
    dice: Dice,
    plant: Option<Plant>,
    /// Where the store's clock stood at the beginning of the world.
    clock_offset: u64,
    /// How fast it runs, in millionths.
    clock_rate: u64,
    sync_usual: Instant,
    /// Counts processes.
    life: u64,
    process: Option<Process>,
    /// What waits for the end of a pause; `None` when there is no pause.
    paused: Option<Vec<Local>>,
}

pub(super) struct Process {
    pub(super) store: Store<MemoryData, MemoryLog>,
    applier: Applier<MemoryData>,
    background: Background<MemoryData>,
    pub(super) inbox: VecDeque<Inbound>,
    /// A round is scheduled or under way.
    is_busy: bool,
    is_tick_due: bool,
    /// The round that waits for the disk.
    syncing: Option<Effects>,
    applying: VecDeque<ApplyTask>,
    in_background: VecDeque<BackgroundTask>,
    pub(super) server: Server,
}

impl Process {
    /// The oldest messages of the inbox.
    fn take(&mut self, messages: u64) -> Vec<Inbound> {
        let messages = (messages as usize).min(self.inbox.len());
        self.inbox.drain(..messages).collect()
    }
}

pub(super) enum Inbound {
    Message(StoreMsg),
    Applied(Applied),
}

impl Node {
    /// A store without a process, on these disks.
    pub fn new(id: u64, config: Config, mut dice: Dice, drift: u64, plant: Option<Plant>) -> Self {
        let clock_offset = dice.within(0..1_000_000_000);
        let clock_rate = 1_000_000 - drift + dice.within(0..2 * drift + 1);
        Self {
            id,
            data: MemoryData::new(),
            log: MemoryLog::new(),
            config,
            dice,
            plant,
            clock_offset,
            clock_rate,
            sync_usual: SYNC_USUAL,
            life: 0,
            process: None,
            paused: None,
        }
    }

    /// Which process this is; events of an earlier one no longer happen.
    pub fn life(&self) -> u64 {
        self.life
    }

    /// Whether a process runs, paused or not.
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// What the store's clock says.
    pub(super) fn now(&self, instant: Instant) -> Now {
        Now(self.clock_offset
            + (u128::from(instant) * u128::from(self.clock_rate) / 1_000_000) as u64)
    }

    /// How long something takes in the world that takes so long on the store's clock.
    fn in_world(&self, micros: u64) -> Instant {
        (u128::from(micros) * 1_000_000 / u128::from(self.clock_rate)) as Instant
    }

    /// From now on a sync takes about so long.
    pub fn set_sync(&mut self, usual: Instant) {
        self.sync_usual = usual;
    }

    /// Starts a process on what the disks hold, if none runs.
    pub fn start(&mut self, instant: Instant, judges: &mut Judges) -> Vec<Out> {
        if self.process.is_some() {
            return Vec::new();
        }
        self.life += 1;
        // What a process finds in its log it takes for durable, and so it must be: an engine that
        // replays its log at opening writes it down anew.
        self.log.sync().expect("memory does not fail");
        if self.plant == Some(Plant::ForgetVote) {
            self.forget_votes();
        }
        let config = Config { incarnation: self.life, ..self.config.clone() };
        let mut effects = Effects::default();
        let store = Store::open(
            StoreId(self.id),
            config,
            self.data.clone(),
            self.log.clone(),
            self.now(instant),
            &mut effects,
        );
        let store = match store {
            Ok(store) => store,
            Err(fault) => {
                judges.fail(format!("s{} cannot start: {fault}", self.id));
                return Vec::new();
            }
        };
        let server = Server::new(store.read_views().clone());
        self.process = Some(Process {
            store,
            applier: Applier::new(self.data.clone()).planting(self.config.planted),
            background: Background::new(self.data.clone(), SnapshotStorage::Memory)
                .expect("memory does not fail")
                .planting(self.config.planted),
            inbox: VecDeque::new(),
            is_busy: true,
            is_tick_due: false,
            syncing: None,
            applying: VecDeque::new(),
            in_background: VecDeque::new(),
            server,
        });
        let mut outs = Vec::new();
        outs.push(self.next_tick());
        self.begin(effects, instant, judges, &mut outs);
        outs
    }

    /// The process dies. A log write under way may have reached the kernel or not.
    pub fn kill(&mut self, judges: &mut Judges) {
        let Some(process) = self.process.take() else { return };
        if let Some(effects) = process.syncing
            && self.dice.happens(500)
        {
            self.log.write_unsynced(effects.log).expect("memory does not fail");
        }
        self.end_life(judges);
    }

    /// The power fails: what was not synced is gone, from some point on.
    pub fn power_off(&mut self, judges: &mut Judges) {
        let process = self.process.take();
        if let Some(effects) = process.and_then(|process| process.syncing) {
            self.log.write_unsynced(effects.log).expect("memory does not fail");
        }
        let keep = self.dice.within(0..self.log.unsynced_writes() as u64 + 1);
        self.log.power_loss(keep as usize);
        let keep = self.dice.within(0..self.data.unsynced_writes() as u64 + 1);
        self.data.power_loss(keep as usize);
        self.end_life(judges);
    }

    fn end_life(&mut self, judges: &mut Judges) {
        self.life += 1;
        self.paused = None;
        judges.stopped(self.id);
    }

    /// The planted bug: terms and votes are as if never written.
    fn forget_votes(&self) {
        use raftstore::engine::{GroupWrite, LogEngine as _};
        let groups = self.log.groups().expect("memory does not fail");
        for group in groups {
            let state = self.log.state(group).expect("memory does not fail");
            let Some(mut state) = state else { continue };
            state.hard_state.vote = 0;
            let write = GroupWrite { state: Some(state), ..Default::default() };
            let batch = LogBatch { groups: vec![(group, write)] };
            self.log.write(batch).expect("memory does not fail");
        }
    }

    /// The process stands still.
    pub fn pause(&mut self) {
        if self.process.is_some() && self.paused.is_none() {
            self.paused = Some(Vec::new());
        }
    }

    /// It goes on: everything that should have happened meanwhile happens now.
    pub fn resume(&mut self) -> Vec<Out> {
        let waiting = self.paused.take().unwrap_or_default();
        waiting.into_iter().map(|local| Out::After(0, local)).collect()
    }

    /// Something happens here.
    pub fn on(&mut self, local: Local, instant: Instant, judges: &mut Judges) -> Vec<Out> {
        if self.process.is_none() {
            return Vec::new();
        }
        if let Some(waiting) = &mut self.paused {
            waiting.push(local);
            return Vec::new();
        }
        let mut outs = Vec::new();
        match local {
            Local::Tick => {
                self.process().is_tick_due = true;
                self.wake(&mut outs);
            }
            Local::Round => self.round(instant, judges, &mut outs),
            Local::Synced => self.synced(instant, judges, &mut outs),
            Local::Apply => self.apply(judges, &mut outs),
            Local::Background => self.background(judges, &mut outs),
            Local::Arrives(message) => {
                self.process().inbox.push_back(Inbound::Message(*message));
                self.wake(&mut outs);
            }
            Local::Request(request) => self.on_request(*request, instant, &mut outs),
            Local::Look(look) => self.on_look(*look, instant, &mut outs),
        }
        outs
    }

    pub(super) fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("only called while a process runs")
    }

    pub(super) fn dice(&mut self) -> &mut Dice {
        &mut self.dice
    }

    pub(super) fn plant(&self) -> Option<Plant> {
        self.plant
    }

    fn next_tick(&mut self) -> Out {
        let late = self.dice.within(0..2 * MILLISECOND);
        Out::After(self.in_world(self.config.tick_micros()) + late, Local::Tick)
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
        let process = self.process();
        let mut effects = Effects::default();
        let mut verdict = Ok(());
        for inbound in process.take(take) {
            verdict = verdict.and(match inbound {
                Inbound::Message(message) => process.store.step(message, now, &mut effects),
                Inbound::Applied(applied) => process.store.on_applied(applied, now, &mut effects),
            });
        }
        // As in the real worker: after the messages, and missed ticks are not made up for.
        if process.is_tick_due {
            process.is_tick_due = false;
            verdict = verdict.and(process.store.tick(now, &mut effects));
            let next = self.next_tick();
            outs.push(next);
        }
        self.judge_fault(verdict, judges);
        self.begin(effects, instant, judges, outs);
    }

    /// The first half of performing a round: up to the disk.
    fn begin(
        &mut self,
        mut effects: Effects,
        instant: Instant,
        judges: &mut Judges,
        outs: &mut Vec<Out>,
    ) {
        let now = self.now(instant);
        self.process().store.flush(now, &mut effects);
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
        judges.persists(&self.log, &effects.log);
        if self.plant == Some(Plant::LazySync) {
            let write = std::mem::take(&mut effects.log);
            self.log.write_unsynced(write).expect("memory does not fail");
        }
        let has_write = !effects.log.is_empty();
        self.process().syncing = Some(effects);
        if has_write {
            let sync = self.dice.delay(self.sync_usual);
            outs.push(Out::After(sync, Local::Synced));
        } else {
            self.synced(instant, judges, outs);
        }
    }

    /// The second half: what the disk made true.
    fn synced(&mut self, instant: Instant, judges: &mut Judges, outs: &mut Vec<Out>) {
        let now = self.now(instant);
        let mut effects = self.process().syncing.take().expect("a sync ends a round");
        self.log.write(effects.log).expect("memory does not fail");
        outs.extend(effects.send_after_persist.drain(..).map(Out::Send));
        let mut next = Effects::default();
        if !effects.persisted.is_empty() {
            let verdict = self.process().store.on_persisted(effects.persisted, now, &mut next);
            self.judge_fault(verdict, judges);
        }
        outs.extend(effects.snapshots.into_iter().map(Out::SendSnapshot));
        for task in effects.apply {
            self.queue_apply(task, judges, outs);
        }
        for task in effects.background {
            let process = self.process();
            process.in_background.push_back(task);
            if process.in_background.len() == 1 {
                let delay = self.dice.delay(2 * MILLISECOND);
                outs.push(Out::After(delay, Local::Background));
            }
        }
        for report in effects.reports {
            self.look_at_report(&report, judges);
            outs.push(Out::Report(report));
        }
        for (reply, answer) in effects.replies {
            self.on_reply(reply, answer, outs);
        }
        self.begin(next, instant, judges, outs);
    }

    /// The disks here do not fail, so there is no reason for a fault.
    fn judge_fault(&self, verdict: Result<(), Fault>, judges: &mut Judges) {
        if let Err(fault) = verdict {
            judges.fail(format!("s{} stops: {fault}", self.id));
        }
    }

    fn look_at_report(&mut self, report: &Report, judges: &mut Judges) {
        if let Report::LeaderChanged { region, term, is_leader: true } = report
            && let Some(peer) = proto::region::peer_on(region, StoreId(self.id))
        {
            judges.leads(self.id, region.id, *term, peer.id);
        }
    }

    fn queue_apply(&mut self, task: ApplyTask, judges: &mut Judges, outs: &mut Vec<Out>) {
        if let ApplyTask::Entries { region_id, entries, .. } = &task {
            let view = self.process().store.read_views().by_id(*region_id);
            for entry in entries {
                judges.commits(
                    region_id.0,
                    entry.index,
                    entry.term,
                    &entry.data,
                    view.as_ref().map(|view| &view.region),
                );
            }
        }
        let process = self.process();
        process.applying.push_back(task);
        if process.applying.len() == 1 {
            let delay = self.dice.delay(200);
            outs.push(Out::After(delay, Local::Apply));
        }
    }

    fn apply(&mut self, judges: &mut Judges, outs: &mut Vec<Out>) {
        let take = self.dice.within(1..5) as usize;
        let process = self.process();
        let take = take.min(process.applying.len());
        let tasks: Vec<ApplyTask> = process.applying.drain(..take).collect();
        match process.applier.apply(tasks.clone()) {
            Ok(all) => process.inbox.extend(all.into_iter().map(Inbound::Applied)),
            Err(fault) => judges.fail(format!("s{} cannot apply: {fault}", self.id)),
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
            let delay = self.dice.delay(200);
            outs.push(Out::After(delay, Local::Apply));
        }
    }

    fn background(&mut self, judges: &mut Judges, outs: &mut Vec<Out>) {
        let process = self.process();
        let task = process.in_background.pop_front().expect("a background event has a task");
        match process.background.perform(task) {
            Ok(Some(message)) => process.inbox.push_back(Inbound::Message(message)),
            Ok(None) => {}
            Err(fault) => judges.fail(format!("s{} in the background: {fault}", self.id)),
        }
        let has_more = !self.process().in_background.is_empty();
        self.wake(outs);
        if has_more {
            let delay = self.dice.delay(2 * MILLISECOND);
            outs.push(Out::After(delay, Local::Background));
        }
    }
}
