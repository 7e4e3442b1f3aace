//! One member: the shell round its machines, its disk, its clocks.
//!
//! What it does is what the scheduler's own shell does (`scheduler/src/server/`): a thread drains the inbox,
//! takes rounds, waits for the disk, applies, and begins or ends the leader's affairs; requests are answered
//! beside it, from what is in memory, as long as the lease holds *after* the grant. The disk takes its time,
//! and while the thread waits for it requests go on being answered.

use std::collections::BTreeMap;

use proto::schedulerpb::{Change, Identity, Member as Description};
use proto::{Timestamp, eraftpb, metapb, pdpb};
use raftstore::engine::memory::MemoryLog;
use raftstore::msg::{Now, ReplyId};
use scheduler::cluster::{Cluster, Moment, Policy, Writes};
use scheduler::ids::{BLOCK, Ids};
use scheduler::member::machine::State;
use scheduler::member::reign::Reign;
use scheduler::member::{Effects, Member, Options as MemberOptions, Round, records};

use super::options::Plant;
use super::tiles::STORES;
use crate::sim::dice::Dice;
use crate::sim::events::{Instant, MILLISECOND};

/// The length of a tick on the member's own clock.
const TICK: Instant = 50 * MILLISECOND;
/// How long a sync takes on a healthy disk, usually.
pub(super) const SYNC_USUAL: Instant = MILLISECOND;
/// Clocks run apart by at most this many millionths.
const DRIFT_PPM_MAX: u64 = 5_000;
/// Where wall clocks stand when the world begins, in milliseconds.
const WALL_MS: u64 = 1_700_000_000_000;

/// Something that happens on a member, or waits while it stands still.
#[derive(Clone, Debug)]
pub(super) enum Local {
    /// Time has passed.
    Tick,
    /// The disk has what was written.
    Synced,
    /// Another member speaks.
    Message(Box<eraftpb::Message>),
    /// A region's leader speaks.
    Heartbeat(Box<pdpb::RegionHeartbeatRequest>),
    /// A client wants so many timestamps, or ids.
    Ask(Question),
    /// What was granted is about to be sent, if the lease still holds.
    Reply(Question, Granted),
}

/// What a client asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) client: u64,
    /// Which of the client's questions it is: late answers are thrown away.
    pub(super) number: u64,
    pub(super) wants_ids: bool,
    pub(super) count: u32,
    /// The latest timestamp that anybody had when it was asked.
    pub(super) before: u64,
}

/// What was granted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Granted {
    Timestamps(Timestamp),
    Ids(u64),
}

/// What a member asks of the world.
#[derive(Debug)]
pub(super) enum Out {
    /// To another member.
    Send(Box<eraftpb::Message>),
    /// To itself, so much later.
    After(Instant, Local),
    /// To a client; nothing means that it has to ask somebody else.
    Answer(Question, Option<Granted>),
    /// The picture has taken something in.
    Believed,
}

/// A process.
pub(super) struct Process {
    pub(super) member: Member<MemoryLog>,
    pub(super) state: State,
    reign: Option<Reign>,
    pub(super) cluster: Option<Cluster>,
    inbox: Vec<eraftpb::Message>,
    /// A round that waits for the disk.
    round: Option<Round>,
    is_tick_due: bool,
    /// When the thread last looked at the clock before it went to the disk.
    looked_at: Now,
    replies: u64,
    naive: Naive,
}

/// Timestamps as somebody might make them who has not thought about clocks.
#[derive(Clone, Copy, Debug, Default)]
struct Naive {
    at_us: u64,
    physical_ms: u64,
    logical: u64,
}

/// One member.
pub(super) struct Host {
    pub(super) id: u64,
    options: MemberOptions,
    plant: Option<Plant>,
    pub(super) log: MemoryLog,
    pub(super) process: Option<Process>,
    /// Which start of the process this is: what was meant for an earlier one is lost.
    pub(super) boot: u64,
    /// What waits while the process stands still.
    pub(super) held: Option<Vec<Local>>,
    pub(super) sync_usual: Instant,
    drift_ppm: i64,
    /// By how much its wall clock is wrong.
    pub(super) wall_error_ms: i64,
    dice: Dice,
}

impl Host {
    /// A founding member on an empty disk.
    pub(super) fn found(
        id: u64,
        members: u64,
        options: &MemberOptions,
        plant: Option<Plant>,
        dice: &Dice,
    ) -> Self {
        let describe = |id: u64| Description {
            member_id: id,
            name: format!("m{id}"),
            peer_urls: vec![format!("http://m{id}:2380")],
            ..Description::default()
        };
        let founders: Vec<_> = (1..=members).map(describe).collect();
        let state = State::founding(founders, records::FOUNDING_INDEX, records::FOUNDING_TERM);
        let log = MemoryLog::new();
        let identity = Identity { member_id: id, ..Identity::default() };
        records::write_founding(&log, &identity, &state).expect("memory does not fail");
        let mut dice = dice.stream(&format!("host {id}"));
        let mut options = options.clone();
        options.group.seed = dice.next_u64();
        let drift = i64::try_from(dice.within(0..2 * DRIFT_PPM_MAX)).expect("small");
        Self {
            id,
            options,
            plant,
            log,
            process: None,
            boot: 0,
            held: None,
            sync_usual: SYNC_USUAL,
            drift_ppm: drift - i64::try_from(DRIFT_PPM_MAX).expect("small"),
            wall_error_ms: i64::try_from(dice.within(0..2_000)).expect("small") - 1_000,
            dice,
        }
    }

    fn has(&self, plant: Plant) -> bool {
        self.plant == Some(plant)
    }

    /// The member's own steady clock.
    fn now(&self, instant: Instant) -> Now {
        Now(instant.saturating_add_signed(instant as i64 / 1_000_000 * self.drift_ppm))
    }

    fn moment(&self, instant: Instant) -> Moment {
        let steady_ms = self.now(instant).0 / MILLISECOND;
        let wall_ms = (WALL_MS + steady_ms).saturating_add_signed(self.wall_error_ms);
        Moment { steady_ms, wall_ms }
    }

    /// The process starts.
    pub(super) fn start(&mut self) -> Vec<Out> {
        let opened = Member::open(self.log.clone(), self.id, self.options.clone());
        let (member, state) = opened.expect("a member starts from what it had on its disk");
        self.boot += 1;
        self.process = Some(Process {
            member,
            state,
            reign: None,
            cluster: None,
            inbox: Vec::new(),
            round: None,
            is_tick_due: false,
            looked_at: Now::default(),
            replies: 0,
            naive: Naive::default(),
        });
        let first = self.dice.within(1..TICK);
        vec![Out::After(first, Local::Tick)]
    }

    /// The process ends. Its disk has all that was written.
    pub(super) fn kill(&mut self) {
        self.process = None;
        self.held = None;
    }

    /// The power fails: of what was not synced the disk has the first few writes.
    pub(super) fn power_off(&mut self) {
        self.kill();
        let unsynced = self.log.unsynced_writes() as u64;
        let kept = self.dice.within(0..unsynced + 1);
        self.log.power_loss(kept as usize);
    }

    /// Something happens here.
    pub(super) fn happen(&mut self, local: Local, instant: Instant) -> Vec<Out> {
        if let Some(held) = &mut self.held {
            held.push(local);
            return Vec::new();
        }
        let now = self.now(instant);
        let mut outs = Vec::new();
        match local {
            Local::Tick => {
                outs.push(Out::After(TICK, Local::Tick));
                self.process().is_tick_due = true;
                self.go_on(now, instant, &mut outs);
            }
            Local::Message(message) => {
                self.process().inbox.push(*message);
                self.go_on(now, instant, &mut outs);
            }
            Local::Synced => {
                self.log.sync().expect("memory does not fail");
                if let Some(round) = self.process().round.take() {
                    self.finish(round, instant, &mut outs);
                }
                self.go_on(now, instant, &mut outs);
            }
            Local::Heartbeat(heartbeat) => self.hear(*heartbeat, instant, &mut outs),
            Local::Ask(question) => self.ask(question, instant, &mut outs),
            Local::Reply(question, granted) => {
                let holds = self.has(Plant::LeaseCheckedFirst) || self.may_serve(instant);
                outs.push(Out::Answer(question, holds.then_some(granted)));
            }
        }
        outs
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("what happens here happens to a process")
    }

    /// The thread: everything that can be done before the disk has to be waited for.
    fn go_on(&mut self, now: Now, instant: Instant, outs: &mut Vec<Out>) {
        if self.process().round.is_some() {
            return;
        }
        self.process().looked_at = now;
        let process = self.process();
        let messages = std::mem::take(&mut process.inbox);
        messages.into_iter().for_each(|message| process.member.step(message));
        if std::mem::take(&mut process.is_tick_due) {
            let mut effects = Effects::default();
            process.member.tick(now, &process.state, &mut effects);
            self.perform(effects, instant, outs);
        }
        while let Some(mut round) = {
            let process = self.process();
            process.member.take_round(&process.state)
        } {
            let send_now = std::mem::take(&mut round.send_now);
            outs.extend(send_now.into_iter().map(|message| Out::Send(Box::new(message))));
            let log = std::mem::take(&mut round.log);
            if log.is_empty() {
                self.finish(round, instant, outs);
                continue;
            }
            self.log.write_unsynced(log).expect("memory does not fail");
            let takes = self.dice.delay(self.sync_usual);
            outs.push(Out::After(takes, Local::Synced));
            if self.has(Plant::AcknowledgeBeforeSync) {
                self.finish(round, instant, outs);
                continue;
            }
            self.process().round = Some(round);
            return;
        }
        self.settle(instant, outs);
    }

    fn finish(&mut self, round: Round, instant: Instant, outs: &mut Vec<Out>) {
        let mut effects = Effects::default();
        let process = self.process();
        process
            .member
            .finish_round(round, &mut process.state, &mut effects)
            .expect("memory does not fail");
        self.perform(effects, instant, outs);
    }

    fn perform(&mut self, effects: Effects, instant: Instant, outs: &mut Vec<Out>) {
        outs.extend(effects.send.into_iter().map(|message| Out::Send(Box::new(message))));
        self.begin_or_end_reign(instant);
        if let Some(reign) = &mut self.process().reign {
            effects.applied.iter().for_each(|change| reign.on_applied(change));
        }
    }

    /// Leadership begins, goes on, or ends; what the leader wants is proposed.
    fn settle(&mut self, instant: Instant, outs: &mut Vec<Out>) {
        self.begin_or_end_reign(instant);
        self.propose_wants(instant);
        // What was proposed just now makes a round of its own.
        let process = self.process();
        if let Some(reign) = &process.reign
            && reign.is_ready()
            && process.cluster.is_none()
        {
            self.load_picture(instant);
        }
        let _ = outs;
    }

    fn begin_or_end_reign(&mut self, instant: Instant) {
        let moment = self.moment(instant);
        let keeps = self.has(Plant::ReignKept);
        let takes_rest = self.has(Plant::IdsOfPredecessor);
        let process = self.process();
        let view = process.member.view();
        let may_reign = view.may_reign && !view.is_handing_over;
        let is_over = process.reign.as_ref().is_some_and(|reign| reign.term() != view.term);
        if is_over || !may_reign {
            process.cluster = None;
            if !keeps {
                process.reign = None;
            }
        }
        if may_reign && process.reign.is_none() {
            let mut reign = Reign::begin(view.term, &process.state, moment);
            let bound = process.state.id_bound();
            if takes_rest && bound > BLOCK {
                *reign.ids_mut() = Ids::begin(bound - BLOCK);
                reign.ids_mut().bound_saved(bound);
            }
            process.reign = Some(reign);
            process.naive = Naive::default();
        }
    }

    fn propose_wants(&mut self, instant: Instant) {
        let moment = self.moment(instant);
        let random = self.dice.next_u64();
        let believes_early = self.has(Plant::BoundBeforeSaved);
        let process = self.process();
        let Some(reign) = &mut process.reign else { return };
        if let Some(change) = reign.wants(moment, random) {
            if believes_early {
                reign.on_applied(&change);
            }
            self.propose(&change);
        }
    }

    fn propose(&mut self, change: &Change) {
        let process = self.process();
        process.replies += 1;
        let (reply, term) = (ReplyId(process.replies), process.member.view().term);
        // Nobody waits: a change that is lost is heard of again.
        process.member.propose(reply, term, change, &mut Effects::default());
    }

    /// The leader's picture, from what the log holds; the first leader registers the stores.
    fn load_picture(&mut self, instant: Instant) {
        let moment = self.moment(instant);
        let policy = Policy { halt_scheduling: true, ..Policy::default() };
        let process = self.process();
        let state = &process.state;
        let (stores, regions) = (state.stores().values().cloned(), state.regions().cloned());
        let version = state.cluster_version().to_owned();
        let mut cluster = Cluster::load(policy, &version, stores, regions, moment);
        let mut all = Writes::default();
        if process.state.stores().is_empty() {
            for id in 1..=STORES {
                let address = format!("store-{id}:20160");
                let store =
                    metapb::Store { id, address, version: "8.5.0".into(), ..Default::default() };
                let writes = cluster.put_store(store, moment).expect("a new store is welcome");
                all.stores.extend(writes.stores);
            }
        }
        process.cluster = Some(cluster);
        self.write(all);
    }

    fn write(&mut self, writes: Writes) {
        if writes.is_empty() {
            return;
        }
        let change = Change {
            put_stores: writes.stores,
            forget_stores: writes.removed_stores,
            put_regions: writes.regions,
            forget_regions: writes.removed_regions,
            cluster_version: writes.cluster_version.unwrap_or_default(),
            ..Change::default()
        };
        self.propose(&change);
    }

    /// Whether this member may answer now.
    pub(super) fn may_serve(&self, instant: Instant) -> bool {
        let Some(process) = &self.process else { return false };
        let view = process.member.view();
        let is_ready = process.reign.as_ref().is_some_and(|reign| {
            reign.is_ready() && (reign.term() == view.term || self.has(Plant::ReignKept))
        });
        let now = if self.has(Plant::ClockReadBeforeDisk) {
            process.looked_at
        } else {
            self.now(instant)
        };
        let holds = now < process.member.lease_until() || self.has(Plant::LeaseUnchecked);
        view.may_reign && !view.is_handing_over && is_ready && holds
    }

    /// Whether the process stands still.
    pub(super) fn is_paused(&self) -> bool {
        self.held.is_some()
    }

    fn ask(&mut self, question: Question, instant: Instant, outs: &mut Vec<Out>) {
        let may_serve = self.may_serve(instant);
        let moment = self.moment(instant);
        let plant = self.plant;
        let wall_us = moment.wall_ms * MILLISECOND + self.now(instant).0 % MILLISECOND;
        let thinks = self.dice.delay(MILLISECOND);
        let process = self.process();
        let Some(reign) = process.reign.as_mut().filter(|_| may_serve) else {
            outs.push(Out::Answer(question, None));
            return;
        };
        let granted = if question.wants_ids {
            reign.take_ids(u64::from(question.count)).map(Granted::Ids)
        } else {
            reign.grant(question.count, moment).map(Granted::Timestamps)
        };
        match granted {
            Ok(Granted::Timestamps(timestamp)) => {
                let timestamp = process.naive.instead(plant, timestamp, wall_us, question.count);
                outs.push(Out::After(
                    thinks,
                    Local::Reply(question, Granted::Timestamps(timestamp)),
                ));
            }
            Ok(granted) => outs.push(Out::After(thinks, Local::Reply(question, granted))),
            Err(_) => {
                // A bound has to be saved first; the client asks again.
                self.propose_wants(instant);
                let now = self.now(instant);
                self.go_on(now, instant, outs);
                outs.push(Out::Answer(question, None));
            }
        }
    }

    fn hear(
        &mut self,
        mut heartbeat: pdpb::RegionHeartbeatRequest,
        instant: Instant,
        outs: &mut Vec<Out>,
    ) {
        let may_serve = self.may_serve(instant);
        let moment = self.moment(instant);
        let is_blind = self.has(Plant::EpochUnchecked);
        let process = self.process();
        let (Some(cluster), Some(reign)) = (&mut process.cluster, &mut process.reign) else {
            return;
        };
        if !may_serve {
            return;
        }
        if is_blind {
            make_current(&mut heartbeat, cluster);
        }
        let heard = cluster.on_region_heartbeat(heartbeat, reign.ids_mut(), moment);
        // What cannot be meant is refused; the stores here say nothing of the kind.
        let heard = heard.expect("a sound report is listened to");
        self.write(heard.writes);
        outs.push(Out::Believed);
        let now = self.now(instant);
        self.go_on(now, instant, outs);
    }
}

/// Makes a report look as new as anything that is known of its keys.
fn make_current(heartbeat: &mut pdpb::RegionHeartbeatRequest, cluster: &Cluster) {
    heartbeat.term = 0;
    let Some(region) = &mut heartbeat.region else { return };
    let known = cluster.regions().scan(&proto::KeyRange::of(region), 0);
    let by_id = cluster.regions().by_id(proto::RegionId(region.id)).cloned();
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    for record in known.iter().chain(&by_id) {
        let epoch = record.epoch();
        let version = newest.entry("version").or_default();
        *version = epoch.version.max(*version);
        if record.id().0 == region.id {
            newest.insert("conf_ver", epoch.conf_ver);
        }
    }
    if let Some(epoch) = &mut region.region_epoch {
        epoch.version = epoch.version.max(newest.get("version").copied().unwrap_or(0));
        epoch.conf_ver = epoch.conf_ver.max(newest.get("conf_ver").copied().unwrap_or(0));
    }
}

impl Naive {
    /// What a member with that bug would give instead.
    fn instead(
        &mut self,
        plant: Option<Plant>,
        sound: Timestamp,
        wall_us: u64,
        count: u32,
    ) -> Timestamp {
        let begins_anew = match plant {
            Some(Plant::CounterBeginsAnew) => wall_us > self.at_us,
            Some(Plant::ClockBelieved) => wall_us / MILLISECOND != self.physical_ms,
            _ => return sound,
        };
        self.at_us = wall_us;
        if begins_anew {
            self.logical = 0;
            self.physical_ms = match plant {
                // Between the leaders all is well: only within one is the time compared wrongly.
                Some(Plant::CounterBeginsAnew) => self.physical_ms.max(sound.physical()),
                _ => wall_us / MILLISECOND,
            };
        }
        self.logical += u64::from(count);
        Timestamp::new(self.physical_ms, self.logical)
    }
}
