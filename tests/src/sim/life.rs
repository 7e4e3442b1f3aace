//! How a simulated store begins, dies, stands still, and is hurt: its process, its two disks, its clock.
//!
//! The disks outlive the process: [`Node::kill`] loses what was in memory, [`Node::power_off`] also what was
//! not synced, of each disk from a point of its own.
//!
//! | a disk | does |
//! |---|---|
//! | slow | each sync, or each apply and background task, takes longer |
//! | stalled | nothing on it ends until it goes on, or the machine is power-cycled |
//! | failing | from the n-th operation on every write and sync is a fault, on one disk or both |
//! | full | every write and sync is a fault until there is room again |
//!
//! A fault stops the store, and that is right: the process dies, and is started again later. A write that
//! failed may be on the disk all the same.
//!
//! A clock never goes back. It may jump forward, as after a machine was suspended: what waited for an instant
//! that has passed happens at once.

use std::collections::VecDeque;

use proto::StoreId;
use raftstore::applier::Applier;
use raftstore::config::Config;
use raftstore::driver::{Background, SnapshotStorage};
use raftstore::effects::Effects;
use raftstore::engine::memory::{Fuse, MemoryData, MemoryLog};
use raftstore::engine::{LogBatch, LogEngine as _};
use raftstore::error::Fault;
use raftstore::lanes::ShuffledLanes;
use raftstore::msg::{BackgroundTask, Now, StoreMsg};
use raftstore::store::Store;

use super::dice::Dice;
use super::events::{Instant, MILLISECOND};
use super::judges::Judges;
use super::node::{Inbound, Local, Node, Out, Process};
use super::options::Plant;
use super::probes::Probe;
use super::server::Server;
use super::watch::Facts;

/// How long a sync takes on a healthy disk.
pub const SYNC_USUAL: Instant = MILLISECOND;
/// How long an apply task takes.
const APPLY_USUAL: Instant = MILLISECOND / 5;
/// How long a background task takes.
const BACKGROUND_USUAL: Instant = 2 * MILLISECOND;

/// Entries of so many bytes are a share of their own when they are applied; small, so that regions are
/// often written one after the other.
const APPLY_SHARE_BYTES: usize = 64;

/// One of the two disks of a store, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// The one with raft logs.
    Log,
    /// The one with data.
    Data,
    /// Both, at the same moment.
    Both,
}

impl Disk {
    fn has_log(self) -> bool {
        self != Self::Data
    }

    fn has_data(self) -> bool {
        self != Self::Log
    }
}

/// What is held back until something goes on again.
#[derive(Debug, Default)]
pub(super) struct Held {
    is_on: bool,
    locals: Vec<Local>,
}

impl Held {
    /// Keeps what happens if it must wait, gives it back otherwise.
    pub(super) fn hold(&mut self, local: Local) -> Option<Local> {
        if self.is_on {
            self.locals.push(local);
            return None;
        }
        Some(local)
    }

    /// Everything that should have happened meanwhile happens now.
    fn release(&mut self) -> Vec<Out> {
        self.is_on = false;
        self.locals.drain(..).map(|local| Out::After(0, local)).collect()
    }
}

/// How the disks of a store do.
#[derive(Debug)]
pub(super) struct Disks {
    pub(super) sync_usual: Instant,
    pub(super) apply_usual: Instant,
    pub(super) background_usual: Instant,
    log_stall: Held,
    data_stall: Held,
    is_full: bool,
    fuse: Option<(Disk, Fuse)>,
}

impl Default for Disks {
    fn default() -> Self {
        Self {
            sync_usual: SYNC_USUAL,
            apply_usual: APPLY_USUAL,
            background_usual: BACKGROUND_USUAL,
            log_stall: Held::default(),
            data_stall: Held::default(),
            is_full: false,
            fuse: None,
        }
    }
}

impl Disks {
    /// Keeps what happens if it needs a disk that stands still.
    pub(super) fn hold(&mut self, local: Local) -> Option<Local> {
        match local {
            Local::Synced => self.log_stall.hold(local),
            Local::Apply | Local::Background => self.data_stall.hold(local),
            Local::Tick
            | Local::Round
            | Local::Arrives(_)
            | Local::Request(_)
            | Local::Look(_)
            | Local::TxnCall(_)
            | Local::TxnLook(_)
            | Local::Timestamp(..) => Some(local),
        }
    }

    /// Whether a fault is to be expected.
    fn are_hurt(&self) -> bool {
        self.is_full || self.fuse.is_some()
    }

    fn is_stalled(&self) -> bool {
        self.log_stall.is_on || self.data_stall.is_on
    }
}

impl Node {
    /// A store without a process, on new disks. Its clock is up to `drift` millionths too fast or too slow.
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
            disks: Disks::default(),
            life: 0,
            process: None,
            paused: Held::default(),
        }
    }

    /// What the store's clock says.
    pub fn now(&self, instant: Instant) -> Now {
        Now(self.clock_offset
            + (u128::from(instant) * u128::from(self.clock_rate) / 1_000_000) as u64)
    }

    /// How long something takes in the world that takes so long on the store's clock.
    pub(super) fn in_world(&self, micros: u64) -> Instant {
        (u128::from(micros) * 1_000_000 / u128::from(self.clock_rate)) as Instant
    }

    /// How long a leader's lease lasts at most, on its own clock.
    pub fn lease_micros(&self) -> u64 {
        self.config.lease_micros()
    }

    /// The clock jumps forward. A tick that is due by it is due now.
    pub fn jump(&mut self, micros: u64, instant: Instant, judges: &mut Judges) -> Vec<Out> {
        self.clock_offset += micros;
        if self.process.is_none() {
            return Vec::new();
        }
        self.look_at_jump(judges);
        self.tell_leases(instant, judges);
        let jumped = self.in_world(micros);
        let process = self.process();
        if process.tick_at <= instant || process.is_tick_due {
            return Vec::new();
        }
        let left = process.tick_at.saturating_sub(instant).saturating_sub(jumped);
        process.tick_at = instant + left;
        vec![Out::After(left, Local::Tick)]
    }

    /// From now on a sync of the log takes about so long.
    pub fn set_sync(&mut self, usual: Instant) {
        self.disks.sync_usual = usual;
    }

    /// From now on applying and background work take so many times as long as usual.
    pub fn set_data_slowness(&mut self, times: u64) {
        self.disks.apply_usual = APPLY_USUAL * times;
        self.disks.background_usual = BACKGROUND_USUAL * times;
    }

    /// Nothing on this disk ends from now on.
    pub fn stall(&mut self, disk: Disk) {
        self.disks.log_stall.is_on |= disk.has_log();
        self.disks.data_stall.is_on |= disk.has_data();
    }

    /// Both disks go on, and what waited for them is done.
    pub fn unstall(&mut self) -> Vec<Out> {
        let mut outs = self.disks.log_stall.release();
        outs.extend(self.disks.data_stall.release());
        outs
    }

    /// After so many more operations every write and sync of this disk fails.
    pub fn fail_after(&mut self, disk: Disk, operations: u64) {
        self.disks.fuse = Some((disk, Fuse::new(operations)));
        self.arm();
    }

    /// The disks are full, or have room again.
    pub fn set_full(&mut self, is_full: bool) {
        self.disks.is_full = is_full;
        self.arm();
    }

    /// No operation fails any more: the disks are as new, with what is on them.
    pub fn mend(&mut self) {
        self.disks.fuse = None;
        self.disks.is_full = false;
        self.arm();
    }

    fn arm(&self) {
        let fuse = |is_meant: fn(Disk) -> bool| {
            self.disks.fuse.as_ref().filter(|(disk, _)| is_meant(*disk)).map(|(_, f)| f.clone())
        };
        self.log.set_fuse(fuse(Disk::has_log));
        self.data.set_fuse(fuse(Disk::has_data));
        self.log.set_broken(self.disks.is_full);
        self.data.set_broken(self.disks.is_full);
    }

    /// The round's log write, synced. One that fails may be there all the same.
    pub(super) fn write_log(&mut self, batch: LogBatch, judges: &mut Judges) -> Result<(), Fault> {
        let spare = self.disks.are_hurt().then(|| batch.clone());
        let written = self.log.write(batch);
        if let (Err(_), Some(batch)) = (&written, spare)
            && self.dice.happens(500)
        {
            self.write_all_the_same(batch);
            judges.saw(Probe::FailedWriteIsThere);
        }
        written
    }

    pub(super) fn write_all_the_same(&mut self, batch: LogBatch) {
        self.log.set_fuse(None);
        self.log.set_broken(false);
        self.log.write_unsynced(batch).expect("a whole disk in memory does not fail");
        self.arm();
    }

    /// A fault ends the process. A disk that is hurt is a reason for one; anything else is not.
    pub(super) fn stop_at(&mut self, fault: &Fault, judges: &mut Judges) {
        if !matches!(fault, Fault::Engine { .. }) || !self.disks.are_hurt() {
            judges.fail(format!("s{} stops: {fault}", self.id));
        }
        let what = if self.disks.is_full { Probe::FullDisk } else { Probe::FailedAtWrite };
        judges.saw(what);
        self.look_at_death(judges);
        self.process = None;
        self.end_life(true, judges);
    }

    /// Starts a process on what the disks hold, if none runs. One whose disks are hurt may not start.
    pub fn start(&mut self, instant: Instant, judges: &mut Judges) -> Vec<Out> {
        if self.process.is_some() {
            return Vec::new();
        }
        // What a process finds in its log it takes for durable, and so it must be: an engine that
        // replays its log at opening writes it down anew.
        if self.log.sync().is_err() {
            judges.saw(Probe::FullAtStart);
            return Vec::new();
        }
        self.life += 1;
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
        let lanes = ShuffledLanes::new(self.config.raft_workers, self.life);
        let store = store.with_lanes(Box::new(lanes));
        // One lane, so that the order in which regions' writes reach the disk is the seed's alone.
        let apply_lanes = ShuffledLanes::new(1, self.life);
        let server = Server::new(store.read_views().clone());
        self.process = Some(Process {
            store,
            applier: Applier::new(self.data.clone())
                .with_shares_of(APPLY_SHARE_BYTES)
                .with_lanes(Box::new(apply_lanes))
                .planting(self.config.planted),
            background: Background::new(self.data.clone(), SnapshotStorage::Memory)
                .expect("memory does not fail")
                .planting(self.config.planted),
            inbox: VecDeque::new(),
            is_busy: true,
            is_tick_due: false,
            tick_at: instant,
            syncing: None,
            applying: VecDeque::new(),
            in_background: VecDeque::new(),
            server,
            txn: None,
            facts: Facts::default(),
        });
        let mut outs = Vec::new();
        outs.push(self.next_tick(instant));
        self.begin(effects, instant, judges, &mut outs);
        outs
    }

    /// The process dies. A log write under way may have reached the kernel or not.
    pub fn kill(&mut self, judges: &mut Judges) {
        self.look_at_death(judges);
        let Some(process) = self.process.take() else { return };
        if let Some((effects, _)) = process.syncing
            && self.dice.happens(500)
        {
            self.write_all_the_same(effects.log);
        }
        self.end_life(true, judges);
    }

    /// The power fails: what was not synced is gone, from some point on.
    pub fn power_off(&mut self, judges: &mut Judges) {
        self.look_at_death(judges);
        if self.process.is_some() {
            let seen = [
                (Probe::StalledLosesPower, self.disks.is_stalled()),
                (Probe::LeaseLostWithPower, judges.has_lease(self.id)),
            ];
            seen.into_iter().filter(|(_, is_so)| *is_so).for_each(|(p, _)| judges.saw(p));
        }
        let process = self.process.take();
        let was_up = process.is_some();
        if let Some((effects, _)) = process.and_then(|process| process.syncing) {
            self.write_all_the_same(effects.log);
        }
        let unsynced = (self.log.unsynced_writes(), self.data.unsynced_writes());
        let keep = self.dice.within(0..unsynced.0 as u64 + 1);
        let lost_of_log = self.log.power_loss(keep as usize);
        let keep = self.dice.within(0..unsynced.1 as u64 + 1);
        let lost_of_data = self.data.power_loss(keep as usize);
        let seen = [
            (Probe::LogTailLost, lost_of_log > 0),
            (Probe::LogTailKept, lost_of_log < unsynced.0),
            (Probe::DataTailLost, lost_of_data > 0),
            (Probe::CutsApart, lost_of_log > 0 && unsynced.1 > 0 && lost_of_data == 0),
        ];
        seen.into_iter().filter(|(_, is_so)| *is_so).for_each(|(probe, _)| judges.saw(probe));
        self.end_life(was_up, judges);
    }

    fn end_life(&mut self, was_up: bool, judges: &mut Judges) {
        self.life += 1;
        self.paused = Held::default();
        // The disks stand still for the next process as well, but what this one had asked is void.
        self.disks.log_stall.locals.clear();
        self.disks.data_stall.locals.clear();
        judges.stopped(self.id, was_up);
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
            // A disk that takes no writes keeps the vote.
            let _ = self.log.write(LogBatch { groups: vec![(group, write)] });
        }
    }

    /// The process stands still.
    pub fn pause(&mut self) {
        self.paused.is_on |= self.process.is_some();
    }

    /// It goes on: everything that should have happened meanwhile happens now.
    pub fn resume(&mut self) -> Vec<Out> {
        self.paused.release()
    }
}

impl Process {
    /// Whether a snapshot that was taken is not in the engine yet, and whether one is there whose log is not.
    pub(super) fn is_installing(&self) -> (bool, bool) {
        let before = self
            .in_background
            .iter()
            .any(|task| matches!(task, BackgroundTask::InstallSnapshot { .. }));
        let is_installed = |inbound: &Inbound| {
            matches!(inbound, Inbound::Message(StoreMsg::SnapshotInstalled { ok: true, .. }))
        };
        let clears = self.syncing.iter().flat_map(|(effects, _)| &effects.log.groups);
        let after = self.inbox.iter().any(is_installed)
            || clears.into_iter().any(|(_, write)| {
                write.clear && write.state.as_ref().is_some_and(|state| state.truncated_index > 0)
            });
        (before, after)
    }
}
