//! The scheduler as a raft group: one member of it.
//!
//! ```text
//!   step, tick, propose                                       Effects
//!        │                                                       ▲
//!        ▼                the shell sends, and writes the log    │
//!     Member ── take_round ─► Round ─────────────────────► finish_round
//!        │                                                       │
//!        └─ Group (raft over the member's log)                   └─ State: entries applied
//! ```
//!
//! A member is a machine: no thread, clock, socket or file. The shell drives it in rounds, as a
//! store drives its peers, and owns the [`State`], so that others may read it between rounds.
//!
//! **Who serves.** The raft leader, once an entry of its own term is applied (then everything that
//! earlier leaders had acknowledged is in the state) and while its lease holds (`lease.rs`). What it
//! then owes before the first answer is told in [`reign`].
//!
//! **A vote is a promise not to vote otherwise.** A lease counts on members that heard the leader
//! to keep quiet for a while. A member that restarts has forgotten whom it heard, so it casts no
//! vote until the longest lease it can have granted is over.
//!
//! **Membership.** One change at a time; the entry carries who the member is. A new member begins
//! as a learner, gets the state as a snapshot, and is promoted by the leader when it has caught up.
//!
//! **Resigning.** A leader hands over to a member of a higher priority, and when its log no longer moves
//! (`resign.rs`).
//!
//! Left out: joint consensus.

pub mod join;
mod lease;
pub mod history;
pub mod machine;
mod proposals;
pub mod records;
pub mod reign;
mod resign;

use std::collections::BTreeMap;

use prost::Message as _;
use proto::schedulerpb::{self, Change};
use proto::{PeerId, eraftpb};
use raft::eraftpb as core;
use raftstore::engine::{LogBatch, LogEngine};
use raftstore::error::Fault;
use raftstore::group::{Group, GroupSettings, TakenReady, conf_change_of};
use raftstore::msg::{Now, ReplyId};
use raftstore::storage::group_log::{GroupLog, Position};
use raftstore::wire;

use lease::Lease;
use machine::State;
pub use proposals::Outcome;
use proposals::{Kind, Proposals};
use resign::Stuck;
pub use resign::{PRIORITY_TICKS, STUCK_TICKS};

/// Recent entries kept in memory, in bytes.
const ENTRY_CACHE_BYTES: usize = 4 << 20;
/// A learner this many entries behind the commit index has caught up.
const CAUGHT_UP_ENTRIES: u64 = 64;
/// A snapshot not acknowledged for so many ticks is sent again.
const SNAPSHOT_RETRY_TICKS: u64 = 100;
/// While a new cluster has no leader, its first member asks for votes every so many ticks, instead
/// of waiting for an election timeout that nobody's silence calls for.
const FOUNDING_CAMPAIGN_TICKS: u64 = 2;

/// How a member is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Raft's timing and sizes.
    pub group: GroupSettings,
    /// How long a quorum's answer lets a leader serve, in microseconds from the question.
    pub lease_us: u64,
    /// Ticks of a lease, rounded up: for as long a restarted member casts no vote.
    pub lease_ticks: u64,
    /// A copy of the state is made, and the log cut, when this many entries were applied since
    /// the last one.
    pub copy_after_entries: u64,
    /// Entries kept before the copy, for members that are a little behind.
    pub keep_entries: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            group: GroupSettings {
                heartbeat_ticks: 2,
                election_ticks: 10,
                inflight_messages_max: 256,
                message_bytes_max: 1 << 20,
                committed_bytes_max: 16 << 20,
                uncommitted_bytes_max: 64 << 20,
                seed: 0,
            },
            lease_us: 400_000,
            lease_ticks: 8,
            copy_after_entries: 4_096,
            keep_entries: 512,
        }
    }
}

/// Who leads, as one member sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The current term.
    pub term: u64,
    /// Who leads in it; 0 when nobody is known to.
    pub leader_id: u64,
    /// Whether this member leads and has applied an entry of this term.
    pub may_reign: bool,
    /// Whether leadership is being handed over, so that nothing may be served.
    pub is_handing_over: bool,
}

/// A change of the membership.
#[derive(Clone, Debug, PartialEq)]
pub enum Membership {
    /// A new member, as a learner at first.
    Admit(schedulerpb::Member),
    /// A member goes. It cannot be the leader: hand over first.
    Dismiss(u64),
}

/// What one round asks of the world, before [`Member::finish_round`].
#[derive(Debug)]
pub struct Round {
    /// To be sent at once.
    pub send_now: Vec<eraftpb::Message>,
    /// To be made durable; may be empty.
    pub log: LogBatch,
    ready: TakenReady,
}

/// What came of steps, ticks and rounds.
#[derive(Debug, Default)]
pub struct Effects {
    /// To be sent: everything it promises is durable.
    pub send: Vec<eraftpb::Message>,
    /// Answers; each reply id appears once.
    pub replies: Vec<(ReplyId, Outcome)>,
    /// Changes that were applied, in order.
    pub applied: Vec<Change>,
    /// Whether members came or went.
    pub is_membership_changed: bool,
}

/// One member.
pub struct Member<L: LogEngine> {
    group: Group<L>,
    options: Options,
    lease: Lease,
    lease_term: u64,
    proposals: Proposals,
    ticks: u64,
    /// Votes are cast from this tick on.
    votes_from_tick: u64,
    applied: Position,
    /// The index of the copy of the state on disk.
    copied_index: u64,
    /// A copy that goes to disk with the next write.
    copy: Option<schedulerpb::StateSnapshot>,
    /// Snapshots under way, and since which tick.
    snapshots: BTreeMap<u64, u64>,
    /// Whether this member's log, as leader's, moves.
    stuck: Stuck,
    /// Having resigned, it does not campaign before this tick.
    rests_until_tick: u64,
    /// From this tick on it hands over to a member of a higher priority.
    yields_from_tick: u64,
}

impl<L: LogEngine> std::fmt::Debug for Member<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member")
            .field("id", &self.group.id())
            .field("term", &self.group.term())
            .field("applied", &self.applied)
            .finish_non_exhaustive()
    }
}

impl<L: LogEngine> Member<L> {
    /// Opens the member on its log. Returns its state too: what the copy on disk says; the
    /// entries after it come out of the first rounds again.
    pub fn open(log: L, id: u64, options: Options) -> Result<(Self, State), Fault> {
        let (state, conf_state) = records::read_state(&log)?;
        let applied = Position { index: state.index(), term: state.term() };
        let has_history =
            log.state(records::LOG_GROUP)?.is_some_and(|raft| raft.hard_state.term > 0);
        let group_log = GroupLog::open(
            log,
            records::LOG_GROUP,
            wire::conf_state_from_wire(conf_state),
            applied,
            ENTRY_CACHE_BYTES,
        )?;
        let group = Group::new(PeerId(id), group_log, applied.index, &options.group)?;
        let member = Self {
            group,
            lease: Lease::new(options.lease_us),
            lease_term: 0,
            proposals: Proposals::default(),
            ticks: 0,
            votes_from_tick: if has_history { options.lease_ticks + 1 } else { 0 },
            applied,
            copied_index: applied.index,
            copy: None,
            snapshots: BTreeMap::new(),
            stuck: Stuck::default(),
            rests_until_tick: 0,
            yields_from_tick: 0,
            options,
        };
        Ok((member, state))
    }

    /// This member's id.
    pub fn id(&self) -> u64 {
        self.group.id().0
    }

    /// Who leads.
    pub fn view(&self) -> View {
        View {
            term: self.group.term(),
            leader_id: self.group.leader().map_or(0, |leader| leader.0),
            may_reign: self.group.is_leader() && self.applied.term == self.group.term(),
            is_handing_over: self.group.transferee().is_some(),
        }
    }

    /// This member, as leader, may serve strictly before this moment.
    pub fn lease_until(&self) -> Now {
        if self.group.is_leader() && self.lease_term == self.group.term() {
            self.lease.until()
        } else {
            Now::default()
        }
    }

    /// Another member speaks. What an honest one never says is dropped.
    pub fn step(&mut self, message: eraftpb::Message) {
        let Some(message) = wire::message_from_wire(message) else {
            tracing::debug!("dropped a raft message of an unknown type");
            return;
        };
        let asks_for_a_vote = matches!(
            message.msg_type,
            core::MessageType::MsgRequestVote | core::MessageType::MsgRequestPreVote
        );
        if asks_for_a_vote && self.ticks < self.votes_from_tick {
            tracing::debug!(from = message.from, "no vote so soon after a restart");
            return;
        }
        if message.msg_type == core::MessageType::MsgSnapshot
            && decode_snapshot(message.get_snapshot()).is_none()
        {
            tracing::warn!(from = message.from, "dropped a damaged snapshot");
            return;
        }
        if let Err(unsound) = self.group.step(message) {
            tracing::debug!(%unsound, "dropped a raft message");
        }
        self.notice_leadership();
    }

    /// Time passes. Ticks must be at least the tick's length apart, also after a pause: a member
    /// that counts a pause as the leader's silence would break the leader's lease.
    pub fn tick(&mut self, now: Now, state: &State, effects: &mut Effects) {
        self.ticks += 1;
        if self.ticks >= self.rests_until_tick || self.group.is_leader() {
            self.group.tick();
        }
        self.notice_leadership();
        effects.replies.extend(self.proposals.expired(self.ticks));
        if self.group.is_leader() {
            self.lead(now, state);
        } else if self.should_campaign() {
            self.group.campaign();
        }
    }

    /// A leader's duties at a tick.
    fn lead(&mut self, now: Now, state: &State) {
        // With the heartbeat that this tick sends: both travel together, and members that have nothing to do
        // wake once for the two. A leader without a lease does not wait for that.
        let beats = self.group.raft().heartbeat_elapsed() == 0;
        if beats || now >= self.lease.until() {
            self.renew_lease(now);
        }
        let raft = self.group.raft();
        let is_stuck = |id: u64| {
            raft.prs().get(id).is_some_and(|pr| pr.state == raft::ProgressState::Snapshot)
        };
        let ticks = self.ticks;
        self.snapshots.retain(|&id, _| is_stuck(id));
        let late: Vec<u64> = self
            .snapshots
            .iter()
            .filter(|&(_, &since)| since + SNAPSHOT_RETRY_TICKS <= ticks)
            .map(|(&id, _)| id)
            .collect();
        for id in late {
            self.snapshot_failed(id);
        }
        self.promote_learners(state);
        self.maybe_resign(state);
    }

    /// Asks everybody whether this member still leads, unless it is about to stop leading.
    fn renew_lease(&mut self, now: Now) {
        let may_ask = self.group.is_committed_in_term() && self.group.transferee().is_none();
        if may_ask {
            let round = self.lease.begin_round(now);
            self.group.read_index(round.to_vec());
        }
    }

    fn promote_learners(&mut self, state: &State) {
        let committed = self.group.committed_index();
        let caught_up = state.members().values().find(|member| {
            let progress = self.group.raft().prs().get(member.member_id);
            member.is_learner
                && progress.is_some_and(|pr| {
                    pr.recent_active && pr.matched + CAUGHT_UP_ENTRIES >= committed
                })
        });
        if let Some(member) = caught_up {
            let member = schedulerpb::Member { is_learner: false, ..member.clone() };
            let change = conf_change(core::ConfChangeType::AddNode, &member);
            // Dropped: another change is pending; the next tick tries again.
            self.group.propose_conf_change(change).ok();
        }
    }

    /// A member that cannot be waiting for anybody need not wait for a timeout.
    fn should_campaign(&self) -> bool {
        if self.group.is_only_voter() {
            return true;
        }
        let is_first = self.group.voters().first() == Some(&self.group.id());
        let is_founding = self.group.term() <= records::FOUNDING_TERM;
        is_first
            && is_founding
            && self.group.leader().is_none()
            && self.ticks % FOUNDING_CAMPAIGN_TICKS == 1
    }

    /// What a leader had proven ends with its leadership.
    fn notice_leadership(&mut self) {
        let term = self.group.term();
        if !self.group.is_leader() {
            self.lease.give_up();
            self.lease_term = 0;
        } else if self.lease_term != term {
            self.lease.give_up();
            self.lease_term = term;
            self.snapshots.clear();
            self.stuck = Stuck::default();
            self.yields_from_tick = self.ticks + PRIORITY_TICKS;
        }
    }

    /// Proposes a change, if this member leads in this term. Answered in [`Effects::replies`],
    /// now or later, once.
    pub fn propose(&mut self, reply: ReplyId, term: u64, change: &Change, effects: &mut Effects) {
        if !self.group.is_leader() || self.group.term() != term {
            effects.replies.push((reply, Outcome::NotLeader));
            return;
        }
        match self.group.propose(change.encode_to_vec()) {
            Ok(at) => self.wait(at, Kind::Change, reply, effects),
            Err(_) => effects.replies.push((reply, Outcome::Dropped)),
        }
    }

    /// Proposes a change of the membership. Answered like a change of the state.
    pub fn propose_membership(
        &mut self,
        reply: ReplyId,
        membership: Membership,
        effects: &mut Effects,
    ) {
        if !self.group.is_leader() {
            effects.replies.push((reply, Outcome::NotLeader));
            return;
        }
        let change = match membership {
            Membership::Admit(member) => {
                let member = schedulerpb::Member { is_learner: true, ..member };
                conf_change(core::ConfChangeType::AddLearnerNode, &member)
            }
            Membership::Dismiss(id) if id == self.id() => {
                effects.replies.push((reply, Outcome::Dropped));
                return;
            }
            Membership::Dismiss(member_id) => {
                let member = schedulerpb::Member { member_id, ..Default::default() };
                conf_change(core::ConfChangeType::RemoveNode, &member)
            }
        };
        match self.group.propose_conf_change(change) {
            Ok(at) => self.wait(at, Kind::Membership, reply, effects),
            Err(_) => effects.replies.push((reply, Outcome::Dropped)),
        }
    }

    fn wait(&mut self, at: Position, kind: Kind, reply: ReplyId, effects: &mut Effects) {
        effects.replies.extend(self.proposals.wait(at.index, at.term, kind, reply, self.ticks));
    }

    /// Begins to hand the leadership over: to this member, or, for 0, to the one that is furthest.
    /// The lease is given up at once.
    pub fn hand_over(&mut self, to: u64) {
        if !self.group.is_leader() {
            return;
        }
        let raft = self.group.raft();
        let furthest = self
            .group
            .voters()
            .into_iter()
            .filter(|voter| voter.0 != raft.id && (to == 0 || voter.0 == to))
            .filter_map(|voter| raft.prs().get(voter.0).map(|pr| (pr, voter)))
            .filter(|(pr, _)| pr.recent_active)
            .max_by_key(|(pr, voter)| (pr.matched, voter.0))
            .map(|(_, voter)| voter);
        if let Some(voter) = furthest {
            self.lease.give_up();
            self.group.transfer_leader(voter);
        }
    }

    /// A member does not answer.
    pub fn unreachable(&mut self, id: u64) {
        self.group.report_unreachable(PeerId(id));
        if self.snapshots.contains_key(&id) {
            self.snapshot_failed(id);
        }
    }

    fn snapshot_failed(&mut self, id: u64) {
        self.snapshots.remove(&id);
        self.group.report_snapshot(PeerId(id), false);
    }

    /// Everybody who waits is told that nobody knows: the member stops.
    pub fn abandon(&mut self, effects: &mut Effects) {
        effects.replies.extend(self.proposals.abandon());
    }

    /// Takes what is to be done next, if anything. The shell sends, writes, and gives the round
    /// to [`Self::finish_round`] before it takes another.
    pub fn take_round(&mut self, state: &State) -> Option<Round> {
        self.lay_out_snapshots(state);
        let mut ready = self.group.take_ready()?;
        let mut log = LogBatch::default();
        if let Some(write) = ready.write.take() {
            log.groups.push((records::LOG_GROUP, write));
            // A copy allows the cut in this very write, so they go together.
            let copy = self.copy.take();
            let restored = ready.snapshot.as_ref().and_then(decode_snapshot);
            log.groups.extend(restored.or(copy).as_ref().map(records::state_write));
        }
        let send_now = std::mem::take(&mut ready.send_now);
        Some(Round { send_now: self.outgoing(send_now), log, ready })
    }

    /// Members that are too far behind for the log get the state as it is now.
    fn lay_out_snapshots(&mut self, state: &State) {
        for to in self.group.log_mut().take_wanted_snapshots() {
            let conf_state = self.group.log().conf_state().clone();
            let copy = state.snapshot(wire::conf_state_to_wire(conf_state.clone()));
            let mut snapshot =
                core::Snapshot { data: copy.encode_to_vec().into(), ..Default::default() };
            let metadata = snapshot.mut_metadata();
            metadata.index = state.index();
            metadata.term = state.term();
            metadata.set_conf_state(conf_state);
            self.group.log_mut().offer_snapshot(to, snapshot);
        }
    }

    fn outgoing(&mut self, messages: Vec<core::Message>) -> Vec<eraftpb::Message> {
        for message in &messages {
            if message.msg_type == core::MessageType::MsgSnapshot {
                self.snapshots.insert(message.to, self.ticks);
            }
        }
        messages.into_iter().map(wire::message_to_wire).collect()
    }

    /// The round's log write is durable: applies what is committed.
    pub fn finish_round(
        &mut self,
        round: Round,
        state: &mut State,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let ready = round.ready;
        if let Some(snapshot) = &ready.snapshot {
            let restored = decode_snapshot(snapshot).ok_or_else(|| Fault::Corrupt {
                place: "a snapshot from the leader".into(),
                detail: "it cannot be read".into(),
            })?;
            *state = State::restore(restored);
            self.applied = Position { index: state.index(), term: state.term() };
            self.copied_index = state.index();
            effects.is_membership_changed = true;
            effects.replies.extend(self.proposals.skipped(state.index()));
        }
        if ready.awaits_persist {
            self.group.on_persisted(ready.number);
        }
        if ready.snapshot.is_some() {
            self.group.applied_to(state.index());
        }
        let send = self.outgoing(ready.send_after_persist);
        effects.send.extend(send);
        for entry in ready.committed {
            self.apply(entry, state, effects)?;
        }
        for read in ready.read_states {
            self.lease.round_answered(&read.request_ctx);
        }
        self.notice_leadership();
        self.maybe_copy(state)?;
        Ok(())
    }

    fn apply(
        &mut self,
        entry: core::Entry,
        state: &mut State,
        effects: &mut Effects,
    ) -> Result<(), Fault> {
        let (index, term) = (entry.index, entry.term);
        let corrupt = |detail: String| Fault::Corrupt {
            place: format!("entry {index}@{term} of the scheduler's log"),
            detail,
        };
        let kind = match entry.entry_type {
            core::EntryType::EntryNormal if entry.data.is_empty() => {
                state.advance(index, term);
                Kind::Change
            }
            core::EntryType::EntryNormal => {
                let change =
                    Change::decode(entry.data).map_err(|error| corrupt(error.to_string()))?;
                state.apply(index, term, change.clone());
                effects.applied.push(change);
                Kind::Change
            }
            core::EntryType::EntryConfChange | core::EntryType::EntryConfChangeV2 => {
                let change = conf_change_of(&entry)
                    .ok_or_else(|| corrupt("not a change of one member".into()))?;
                let member = schedulerpb::Member::decode(change.context.clone())
                    .map_err(|error| corrupt(error.to_string()))?;
                self.group
                    .apply_conf_change(&change)
                    .map_err(|error| corrupt(error.to_string()))?;
                state.advance(index, term);
                match change.change_type {
                    core::ConfChangeType::RemoveNode => state.dismiss(change.node_id),
                    core::ConfChangeType::AddLearnerNode => state.admit(member),
                    core::ConfChangeType::AddNode => state.promote(member.member_id),
                }
                effects.is_membership_changed = true;
                Kind::Membership
            }
        };
        self.applied = Position { index, term };
        self.group.applied_to(index);
        effects.replies.extend(self.proposals.applied(index, term, kind));
        Ok(())
    }

    /// Makes a copy of the state and cuts the log behind it, when enough has happened. Both reach
    /// the disk with the next round, together.
    fn maybe_copy(&mut self, state: &State) -> Result<(), Fault> {
        if self.applied.index < self.copied_index + self.options.copy_after_entries {
            return Ok(());
        }
        let cut = self.applied.index.saturating_sub(self.options.keep_entries);
        // Snapshots begin behind what is cut, and the newest entry stays for the next append.
        let cut = cut.min(self.group.last_index().saturating_sub(1));
        if cut <= self.group.log().truncated().index {
            return Ok(());
        }
        let term = raft::Storage::term(self.group.log(), cut).map_err(|error| Fault::Corrupt {
            place: "the scheduler's log".into(),
            detail: error.to_string(),
        })?;
        let conf_state = self.group.log().conf_state().clone();
        self.copy = Some(state.snapshot(wire::conf_state_to_wire(conf_state)));
        self.copied_index = self.applied.index;
        self.group.log_mut().cut(Position { index: cut, term });
        Ok(())
    }
}

fn conf_change(
    change_type: core::ConfChangeType,
    member: &schedulerpb::Member,
) -> core::ConfChange {
    core::ConfChange {
        change_type,
        node_id: member.member_id,
        context: member.encode_to_vec().into(),
        ..Default::default()
    }
}

/// The state in a raft snapshot; `None` when it is damaged or not of one piece.
fn decode_snapshot(snapshot: &core::Snapshot) -> Option<schedulerpb::StateSnapshot> {
    let copy = machine::decode_snapshot(&snapshot.data).ok()?;
    let metadata = snapshot.get_metadata();
    (copy.index == metadata.index && copy.term == metadata.term).then_some(copy)
}

#[cfg(test)]
mod tests;
