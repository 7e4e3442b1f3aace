//! What a simulated store lets the judges see, and the rare things that are seen on the way.
//!
//! Looks and never touches: nothing here changes what the store does.

#![allow(clippy::wildcard_enum_match_arm, reason = "an observer looks for some kinds among many")]

use std::collections::{BTreeMap, BTreeSet};

use proto::{KeyRange, PeerId, StoreId, eraftpb, region};
use raft::eraftpb::ConfChangeV2;
use raftstore::command::Command;
use raftstore::effects::{Effects, Report};
use raftstore::engine::LogEngine as _;
use raftstore::group::conf_change_v2_of;
use raftstore::msg::{Applied, ApplyTask, Outcome, StoreMsg};
use raftstore::wire;

use super::events::Instant;
use super::judges::{Committed, Judges};
use super::node::{Inbound, Node, Process};
use super::probes::Probe;
use crate::checkers::at_rest::UnderWay;
use crate::checkers::leases::Held;

/// Messages that a store has not stepped yet, at most. A second of silence is made up for by a few hundred.
const INBOX_MAX: usize = 20_000;
/// Apply tasks that wait, at most.
const APPLYING_MAX: usize = 5_000;
/// Background tasks that wait, at most.
const IN_BACKGROUND_MAX: usize = 2_000;
/// Requests under way on a store, at most: each client has one, and some that it gave up.
const REQUESTS_MAX: usize = 2_000;

/// What is remembered between a round's messages and its effects.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// The scheduler gave an order in this round.
    had_order: bool,
    /// Regions for which somebody asked for a barrier in this round.
    barriers: BTreeSet<u64>,
    /// Regions whose membership changed in this round.
    changed: BTreeSet<u64>,
    /// Regions whose read index was asked for and has not come.
    unanswered: BTreeSet<u64>,
    /// Regions led here, and in which term.
    led: BTreeMap<u64, u64>,
    /// Snapshots on their way out and in, as the store last said.
    snapshots: (u32, u32),
}

impl Node {
    /// A message comes from outside.
    pub(super) fn look_at_arrival(&mut self, message: &StoreMsg, judges: &mut Judges) {
        let StoreMsg::Raft(envelope) = message else { return };
        let Some(inner) = &envelope.message else { return };
        let process = self.process();
        let views = process.store.read_views();
        let here = views.by_id(proto::RegionId(envelope.region_id));
        match inner.msg_type() {
            eraftpb::MessageType::MsgReadIndexResp => {
                process.facts.unanswered.remove(&envelope.region_id);
            }
            eraftpb::MessageType::MsgRequestVote | eraftpb::MessageType::MsgRequestPreVote
                if here.is_none() =>
            {
                let (start, end) = (envelope.start_key.clone(), envelope.end_key.clone());
                let range = KeyRange::from_wire(start, end);
                if views.all().iter().any(|view| view.is_initialized && view.range.overlaps(&range))
                {
                    judges.saw(Probe::EarlyVote);
                }
            }
            _ => {}
        }
        if here.is_some_and(|view| inner.term > 0 && inner.term < view.term) {
            judges.saw(Probe::MessageOfOldTerm);
        }
    }

    /// A round takes these.
    pub(super) fn look_at_drained(&mut self, drained: &[Inbound], judges: &mut Judges) {
        let process = self.process();
        process.facts.had_order = false;
        process.facts.barriers.clear();
        process.facts.changed.clear();
        for inbound in drained {
            match inbound {
                Inbound::Message(StoreMsg::Order(_)) => process.facts.had_order = true,
                Inbound::Message(StoreMsg::ReadBarrier { target, .. }) => {
                    process.facts.barriers.insert(target.region_id.0);
                }
                Inbound::Applied(applied) => look_at_outcomes(process, applied, judges),
                Inbound::Message(_) => {}
            }
        }
    }

    /// A round is about to write and to send.
    pub(super) fn look_at_writes(&mut self, effects: &Effects, judges: &mut Judges) {
        for (group, write) in &effects.log.groups {
            let Some(first) = write.entries.first() else { continue };
            let on_disk = self.log.state(*group).expect("memory does not fail");
            if !write.clear && on_disk.is_some_and(|state| first.index <= state.last_index) {
                judges.saw(Probe::ConflictTruncated);
            }
            let view = self.process().store.read_views().by_id(*group);
            let proposed = write.entries.iter().filter(|entry| {
                view.as_ref().is_some_and(|view| view.is_leader && view.term == entry.term)
            });
            let leaving = |entry| membership_in(entry).is_some_and(|c| c.changes.is_empty());
            if proposed.clone().any(leaving) {
                let is_ordered = self.process().facts.had_order;
                judges.saw(if is_ordered { Probe::JointLeft } else { Probe::JointLeftUnbidden });
            }
        }
        judges.persists(self.id, &self.log, &effects.log);
        for region_id in std::mem::take(&mut self.process().facts.changed) {
            let written = effects.log.groups.iter().find(|(group, _)| group.0 == region_id);
            let last_written = written.and_then(|(_, write)| write.entries.last());
            let on_disk = self.log.state(proto::RegionId(region_id)).expect("memory does not fail");
            let last = last_written
                .map_or(on_disk.map_or(0, |state| state.last_index), |entry| entry.index);
            judges.members_changed(self.id, region_id, last);
        }
        for message in effects.send_now.iter().chain(&effects.send_after_persist) {
            let is_question = message
                .message
                .as_ref()
                .is_some_and(|inner| inner.msg_type() == eraftpb::MessageType::MsgReadIndex);
            if is_question {
                let facts = &mut self.process().facts;
                let is_first = facts.unanswered.insert(message.region_id);
                if !is_first && !facts.barriers.contains(&message.region_id) {
                    judges.saw(Probe::ReadIndexRetried);
                }
            }
        }
    }

    /// A log write is about to be durable, so long after the round.
    pub(super) fn look_at_sync(&mut self, waited: Instant, judges: &mut Judges) {
        if waited > self.in_world(self.config.election_micros()) {
            judges.saw(Probe::LogStalled);
        }
    }

    /// Entries are given to the applier: they are committed.
    pub(super) fn look_at_commits(&mut self, task: &ApplyTask, judges: &mut Judges) {
        match task {
            ApplyTask::Entries { region_id, entries, .. } => {
                let view = self.process().store.read_views().by_id(*region_id);
                let store = self.id;
                for entry in entries {
                    let is_new = judges.commits(&Committed {
                        store,
                        region: region_id.0,
                        index: entry.index,
                        term: entry.term,
                        data: &entry.data,
                        view: view.as_deref(),
                    });
                    if is_new
                        && let Ok(Command::Write { batch, .. }) =
                            Command::decode(entry.data.clone())
                        && batch.len() > 1
                    {
                        judges.saw(Probe::WritesFolded);
                    }
                }
            }
            ApplyTask::Destroy { .. } => judges.saw(Probe::StaleDestroyed),
            ApplyTask::Quarantine { region_id, odd } => {
                judges.fail(format!("s{} {region_id} differs from a quorum: {odd:?}", self.id));
            }
            ApplyTask::Start { .. } => {}
        }
    }

    /// The background worker answers.
    pub(super) fn look_at_answer(&mut self, message: &StoreMsg, judges: &mut Judges) {
        match message {
            StoreMsg::SnapshotInstalled { region_id, ok: true, .. } => {
                judges.saw(Probe::SnapshotInstalled);
                judges.applied(self.id, &self.data, region_id.0);
            }
            StoreMsg::SplitKeysFound { keys, .. } if !keys.is_empty() => {
                judges.saw(Probe::SplitBySize);
            }
            _ => {}
        }
    }

    /// The store reports.
    pub(super) fn look_at_report(&mut self, report: &Report, judges: &mut Judges) {
        match report {
            Report::LeaderChanged { region, term, is_leader: true } => {
                self.process().facts.led.insert(region.id, *term);
                if let Some(peer) = region::peer_on(region, StoreId(self.id)) {
                    judges.leads(self.id, region.id, *term, peer.id);
                }
            }
            Report::LeaderChanged { region, term, is_leader: false } => {
                if self.process().facts.led.remove(&region.id) == Some(*term) {
                    judges.saw(Probe::LeaderDeposed);
                }
            }
            Report::StoreHeartbeat(stats) => {
                let snapshots = (stats.sending_snap_count, stats.applying_snap_count);
                self.process().facts.snapshots = snapshots;
            }
            Report::RegionHeartbeat(_)
            | Report::AskSplit { .. }
            | Report::RegionsSplit(_)
            | Report::HandingOver { .. }
            | Report::ValidatePeer { .. } => {}
        }
    }

    /// The process is about to end.
    pub(super) fn look_at_death(&mut self, judges: &mut Judges) {
        let Some(process) = &self.process else { return };
        let (before, after) = process.is_installing();
        if before {
            judges.saw(Probe::CrashBeforeInstall);
        }
        if after {
            judges.saw(Probe::CrashAfterInstall);
        }
    }

    /// The clock jumps.
    pub(super) fn look_at_jump(&mut self, judges: &mut Judges) {
        let leads = self.process().store.read_views().all().iter().any(|view| view.is_leader);
        judges.saw(if leads { Probe::JumpOfLeader } else { Probe::JumpOfFollower });
    }

    /// Which leases the store would serve by, and until when in the world's time.
    pub(super) fn tell_leases(&mut self, instant: Instant, judges: &mut Judges) {
        let now = self.now(instant);
        let views = self.process().store.read_views().all();
        let mut leading = Vec::new();
        let mut held = Vec::new();
        for view in views.iter().filter(|view| view.is_leader) {
            leading.push((view.region.id, view.term));
            if let Some(until) = view.lease_until().filter(|until| *until > now) {
                let until = instant + self.in_world(until.since(now));
                held.push(Held { region: view.region.id, term: view.term, until });
            }
        }
        judges.shows(self.id, instant, &leading, &held);
    }

    /// How long everything is that waits here.
    pub(super) fn judge_queues(&mut self, judges: &mut Judges) {
        let process = self.process();
        let queues = [
            ("messages", process.inbox.len(), INBOX_MAX),
            ("apply tasks", process.applying.len(), APPLYING_MAX),
            ("background tasks", process.in_background.len(), IN_BACKGROUND_MAX),
            ("requests", process.server.waiting(), REQUESTS_MAX),
        ];
        for (name, length, most) in queues {
            judges.queue(self.id, name, length, most);
        }
    }

    /// What is still under way when nobody asks for anything any more.
    pub fn under_way(&self) -> UnderWay {
        let Some(process) = &self.process else { return UnderWay::default() };
        let (sending, installing) = process.facts.snapshots;
        UnderWay::default()
            .with("requests without an answer", process.server.waiting())
            .with("latches", process.server.latched())
            .with_all(process.txn.iter().flat_map(|txn| txn.under_way()))
            .with("snapshots on their way out", sending as usize)
            .with("snapshots on their way in", installing as usize)
    }
}

/// The change of membership in an entry, if it is one.
fn membership_in(entry: &eraftpb::Entry) -> Option<ConfChangeV2> {
    if entry.entry_type() == eraftpb::EntryType::EntryNormal {
        return None;
    }
    conf_change_v2_of(&wire::entry_from_wire(entry.clone())?)
}

/// What more than data an applied entry changed.
fn look_at_outcomes(process: &mut Process, applied: &Applied, judges: &mut Judges) {
    let views = process.store.read_views().clone();
    let Some(view) = views.by_id(applied.region_id) else { return };
    for outcome in &applied.outcomes {
        match outcome {
            Outcome::ConfChanged { change, region: after, .. } => {
                process.facts.changed.insert(after.id);
                if change.changes.len() > 1 {
                    judges.saw(Probe::JointEntered);
                }
                let was_learner = |id| {
                    region::peer_by_id(&view.region, PeerId(id)).is_some_and(region::is_learner)
                };
                if after.peers.iter().any(|p| region::is_incoming(p) && was_learner(p.id)) {
                    judges.saw(Probe::LearnerPromoted);
                }
            }
            Outcome::Split { regions, skipped, .. } => {
                judges.saw(Probe::SplitApplied);
                if !skipped.is_empty() {
                    judges.saw(Probe::SplitOfAbsentChild);
                }
                let in_the_way =
                    |child| views.by_id(child).is_some_and(|view| !view.is_initialized);
                if regions.iter().any(|child| in_the_way(region::id(child))) {
                    judges.saw(Probe::SplitOverEmptyPeer);
                }
            }
            Outcome::LogCut { .. } => judges.saw(Probe::LogCut),
            Outcome::HashDue { .. } => {}
            Outcome::HashAgreed { .. } => judges.saw(Probe::ReplicasCompared),
            Outcome::Refused { refusal: proto::Refusal::EpochNotMatch { .. }, .. } => {
                judges.saw(Probe::RefusedInLog);
            }
            Outcome::Refused { .. } => {}
            Outcome::Removed { .. } if view.is_leader => judges.saw(Probe::LeaderRemoved),
            Outcome::Removed { .. } => {}
        }
    }
}
