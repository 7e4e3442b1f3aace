//! One member of one raft group: a `RawNode` over a [`GroupLog`], made deterministic and made safe
//! to feed from a network. Peers of a store are such members, and so is a scheduler.
//!
//! ```text
//!  step, tick, propose, read_index, …      what happens
//!          │
//!          ▼
//!    take_ready ──► TakenReady { send_now, write, send_after_persist, committed, … }
//!          │                                   │
//!          │        the shell writes the log   ▼
//!    on_persisted(number) ◄────────────────────┘
//!    apply_conf_change, applied_to             as the committed entries are applied
//! ```
//!
//! **Running ahead of the disk.** A leader's messages leave before its own disk has the entries;
//! acknowledgements and votes leave after. One exception: while a leader's own term or vote is not
//! durable (it won alone, without asking), its messages wait too. Else it could crash, win the same
//! term again, and fill it differently under a learner's eyes.
//!
//! **Determinism.** The raft crate draws election timeouts from the thread's generator at every
//! reset. After each call into it the timeout is pinned to a hash of seed, group, member and tick;
//! the draw is never read. Its maps use a fixed hasher, so their order repeats.
//!
//! **Bad input.** The crate panics on what an honest peer never says: a commit beyond the last
//! entry, an append with holes, a read index without a context. [`Group::step`] refuses these.

use std::collections::{BTreeSet, VecDeque};

use proto::{PeerId, RegionId};
use raft::eraftpb::{
    ConfChange, ConfChangeSingle, ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType,
    Snapshot,
};
use raft::{ProgressState, RawNode, ReadState, SnapshotStatus, StateRole};

use crate::config::Config;
use crate::engine::{GroupWrite, LogEngine};
use crate::error::Fault;
use crate::storage::group_log::{GroupLog, Position};
use crate::wire;

mod ask_again;
mod sanity;

use ask_again::Asked;

pub use sanity::Unsound;

/// What a member's raft is told about time and sizes.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    /// A leader is heard from every so many ticks.
    pub heartbeat_ticks: usize,
    /// A follower campaigns after this many ticks without a leader, up to twice as many.
    pub election_ticks: usize,
    /// Appends in flight to one follower.
    pub inflight_messages_max: usize,
    /// Entries in one append, in bytes.
    pub message_bytes_max: u64,
    /// Committed entries handed out at once, in bytes.
    pub committed_bytes_max: u64,
    /// Entries proposed but not committed, in bytes; beyond it proposals are dropped.
    pub uncommitted_bytes_max: u64,
    /// Seed of election timeouts.
    pub seed: u64,
}

impl From<&Config> for GroupSettings {
    fn from(config: &Config) -> Self {
        Self {
            heartbeat_ticks: config.heartbeat_ticks,
            election_ticks: config.election_ticks,
            inflight_messages_max: config.inflight_messages_max,
            message_bytes_max: config.message_bytes_max,
            committed_bytes_max: config.committed_bytes_max,
            uncommitted_bytes_max: config.uncommitted_bytes_max,
            seed: config.seed,
        }
    }
}

/// Whole ticks that a deposed leader waits before it campaigns, when it had to refuse its vote.
const DEPOSED_PATIENCE_TICKS: usize = 2;

/// The consensus library would not take a proposal: not the leader, a transfer is under way, or too
/// much is uncommitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("proposal dropped")]
pub struct ProposalDropped;

/// One `Ready`, taken apart by when its parts may leave.
#[derive(Debug, Default)]
pub struct TakenReady {
    /// To be given to [`Group::on_persisted`].
    pub number: u64,
    /// Messages that need no disk.
    pub send_now: Vec<Message>,
    /// What the disk must learn.
    pub write: Option<GroupWrite>,
    /// Messages that promise what `write`, and every write before, makes durable.
    pub send_after_persist: Vec<Message>,
    /// Whether [`Group::on_persisted`] is to be called; else there was nothing to wait for.
    pub awaits_persist: bool,
    /// Entries to apply, consecutive.
    pub committed: Vec<Entry>,
    /// A snapshot to install first. Then `write` clears the log, and must not be written before
    /// the state machine has the snapshot durably; no ready may be taken meanwhile.
    pub snapshot: Option<Snapshot>,
    /// Reads that may be served once the index in them is applied.
    pub read_states: Vec<ReadState>,
}

/// One member of one raft group.
pub struct Group<L: LogEngine> {
    node: RawNode<GroupLog<L>>,
    seed: u64,
    ticks: u64,
    /// Readies not yet durable, with the last entry of each that still stands.
    outstanding: VecDeque<(u64, u64)>,
    /// Up to this ready, a term or vote of ours is not durable.
    term_unpersisted: Option<u64>,
    asked: Asked,
}

impl<L: LogEngine> Group<L> {
    /// A member that has applied up to `applied`. Its membership is the log's.
    pub fn new(
        id: PeerId,
        log: GroupLog<L>,
        applied_index: u64,
        settings: &GroupSettings,
    ) -> Result<Self, Fault> {
        let group = log.group();
        let config = raft::Config {
            id: id.0,
            election_tick: settings.election_ticks,
            heartbeat_tick: settings.heartbeat_ticks,
            applied: applied_index,
            max_size_per_msg: settings.message_bytes_max,
            max_inflight_msgs: settings.inflight_messages_max,
            check_quorum: true,
            pre_vote: true,
            skip_bcast_commit: true,
            batch_append: true,
            max_uncommitted_size: settings.uncommitted_bytes_max,
            max_committed_size_per_ready: settings.committed_bytes_max,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(ToTracing, slog::o!());
        let node = RawNode::new(&config, log, &logger).map_err(|error| Fault::Corrupt {
            place: format!("state of {group}.{id}"),
            detail: error.to_string(),
        })?;
        let mut member = Self {
            node,
            seed: mix(settings.seed ^ mix(group.0) ^ mix(id.0.rotate_left(32))),
            ticks: 0,
            outstanding: VecDeque::new(),
            term_unpersisted: None,
            asked: Asked::default(),
        };
        member.pin();
        Ok(member)
    }

    /// This member.
    pub fn id(&self) -> PeerId {
        PeerId(self.node.raft.id)
    }

    /// The group.
    pub fn group(&self) -> RegionId {
        self.log().group()
    }

    /// The log.
    pub fn log(&self) -> &GroupLog<L> {
        self.node.store()
    }

    /// The log, to cut it or offer snapshots.
    pub fn log_mut(&mut self) -> &mut GroupLog<L> {
        self.node.mut_store()
    }

    /// The raft state, to look at.
    pub fn raft(&self) -> &raft::Raft<GroupLog<L>> {
        &self.node.raft
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    /// Who leads, as far as this member knows.
    pub fn leader(&self) -> Option<PeerId> {
        let id = self.node.raft.leader_id;
        (id != raft::INVALID_ID).then_some(PeerId(id))
    }

    /// Whether a leader was heard of late (or is this member). One that does not vote never gives up on
    /// the leader it knows; but it counts how long it has heard nothing.
    pub fn hears_leader(&self) -> bool {
        let raft = &self.node.raft;
        let is_patient = raft.promotable() || raft.election_elapsed < 2 * raft.election_timeout();
        self.leader().is_some() && is_patient
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    /// The last entry, durable or not.
    pub fn last_index(&self) -> u64 {
        self.node.raft.raft_log.last_index()
    }

    /// The commit index.
    pub fn committed_index(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    /// The current membership: in a joint one both halves.
    pub fn members(&self) -> &ConfState {
        self.log().conf_state()
    }

    /// The voters of the current membership, in order; in a joint one, of either half.
    pub fn voters(&self) -> BTreeSet<PeerId> {
        self.node.raft.prs().conf().voters().ids().iter().map(PeerId).collect()
    }

    /// Whether this member is the only voter.
    pub fn is_only_voter(&self) -> bool {
        let raft = &self.node.raft;
        raft.prs().is_singleton() && raft.promotable()
    }

    /// Whether an entry of the current term is committed. Before, a leader does not know what is
    /// committed, and must not answer reads.
    pub fn is_committed_in_term(&self) -> bool {
        self.node.raft.commit_to_current_term()
    }

    /// One tick passed. Returns whether a ready is likely.
    pub fn tick(&mut self) -> bool {
        self.ticks += 1;
        if !self.may_campaign_alone() {
            return false;
        }
        let due = self.node.tick();
        self.pin();
        let again = self.asked.due(&self.node.raft, self.ticks).to_vec();
        let is_asking = !again.is_empty();
        // By the usual way, so that they leave behind what they rely on.
        self.node.raft.msgs.extend(again);
        due || is_asking
    }

    /// A message came. Refuses what an honest peer never says; everything else is raft's to judge.
    pub fn step(&mut self, message: Message) -> Result<(), Unsound> {
        sanity::check(&self.node, &message)?;
        let answers_a_vote = matches!(
            message.msg_type,
            MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse
        );
        if answers_a_vote && !self.outstanding.is_empty() {
            // The shell has not told us yet that our request is durable; raft relies on that order.
            return Err(Unsound("a vote before its request is durable"));
        }
        if message.msg_type == MessageType::MsgTimeoutNow && !self.may_campaign_alone() {
            return Err(Unsound("a call to campaign before the log is durable"));
        }
        let may_depose = self.is_leader() && message.msg_type == MessageType::MsgRequestVote;
        // What raft refuses (a response from a stranger) is as good as lost.
        let _ = self.node.step(message);
        self.pin();
        if may_depose && !self.is_leader() && self.node.raft.vote == raft::INVALID_ID {
            self.hurry();
        }
        Ok(())
    }

    /// Deposed by a candidate who cannot win, since its log is behind (its call to campaign came late, after
    /// the transfer was given up): the one whose log is ahead campaigns soon, and not only after an
    /// election timeout. Not at once: the others may have elected the candidate after all, and it is heard
    /// by then.
    fn hurry(&mut self) {
        let raft = &mut self.node.raft;
        let patience = DEPOSED_PATIENCE_TICKS + 1;
        raft.election_elapsed = raft.randomized_election_timeout().saturating_sub(patience);
    }

    /// Campaigns at once. `false` when it must wait for the disk: try again after the next tick.
    pub fn campaign(&mut self) -> bool {
        if !self.may_campaign_alone() {
            return false;
        }
        let _ = self.node.campaign();
        self.pin();
        true
    }

    /// Whether a change of membership is committed and not applied here. Until it is this member does not
    /// campaign, not even when it is called to.
    pub fn has_unapplied_conf_change(&self) -> bool {
        let log = &self.node.raft.raft_log;
        let context = raft::GetEntriesContext::empty(false);
        let unapplied = log.slice(log.applied + 1, log.committed + 1, None, context);
        // What cannot be read now (a snapshot is on its way) may hide one.
        unapplied.map_or(true, |entries| {
            entries.iter().any(|entry| entry.entry_type != EntryType::EntryNormal)
        })
    }

    /// Proposes an entry; returns where it stands.
    pub fn propose(&mut self, data: Vec<u8>) -> Result<Position, ProposalDropped> {
        if !self.is_leader() {
            return Err(ProposalDropped);
        }
        let result = self.node.propose(Vec::new(), data);
        self.pin();
        result.map_err(|_| ProposalDropped)?;
        Ok(Position { index: self.last_index(), term: self.term() })
    }

    /// Proposes a change of one member; returns where it stands. Refused while another is pending.
    pub fn propose_conf_change(&mut self, change: ConfChange) -> Result<Position, ProposalDropped> {
        if !self.is_leader() || self.node.raft.has_pending_conf() {
            return Err(ProposalDropped);
        }
        let result = self.node.propose_conf_change(Vec::new(), change);
        self.pin();
        result.map_err(|_| ProposalDropped)?;
        Ok(Position { index: self.last_index(), term: self.term() })
    }

    /// Proposes to enter a joint membership, or (without changes) to leave one; returns where it stands.
    /// Refused when it is not the other of the two that is due, or while another change is pending.
    pub fn propose_conf_change_v2(
        &mut self,
        change: ConfChangeV2,
    ) -> Result<Position, ProposalDropped> {
        // Raft would put an empty entry in the place of what it does not like.
        let is_joint = !self.members().voters_outgoing.is_empty();
        if !self.is_leader()
            || self.node.raft.has_pending_conf()
            || is_joint != change.changes.is_empty()
        {
            return Err(ProposalDropped);
        }
        let result = self.node.propose_conf_change(Vec::new(), change);
        self.pin();
        result.map_err(|_| ProposalDropped)?;
        Ok(Position { index: self.last_index(), term: self.term() })
    }

    /// A change of membership was applied by the state machine.
    pub fn apply_conf_change(&mut self, change: &ConfChange) -> Result<(), raft::Error> {
        self.apply_conf_change_v2(&in_general(change.clone()))
    }

    /// A change of membership, of whatever kind, was applied by the state machine.
    pub fn apply_conf_change_v2(&mut self, change: &ConfChangeV2) -> Result<(), raft::Error> {
        let conf_state = self.node.apply_conf_change(change)?;
        self.node.mut_store().set_conf_state(conf_state);
        self.pin();
        Ok(())
    }

    /// Ceases to lead: this member has no vote any more. Raft would let it go on.
    pub fn step_down(&mut self) {
        let term = self.term();
        self.node.raft.become_follower(term, raft::INVALID_ID);
        self.pin();
    }

    /// The state machine has applied up to here. Changes of membership come before.
    pub fn applied_to(&mut self, index: u64) {
        self.node.advance_apply_to(index);
        self.pin();
    }

    /// Asks for a read index. The answer carries the context; it may never come.
    pub fn read_index(&mut self, context: Vec<u8>) {
        self.node.read_index(context);
        self.pin();
    }

    /// Begins to hand leadership over. No proposals are taken until it is done or given up, which
    /// is after an election timeout.
    pub fn transfer_leader(&mut self, to: PeerId) {
        self.node.transfer_leader(to.0);
        self.pin();
    }

    /// To whom leadership is being handed over.
    pub fn transferee(&self) -> Option<PeerId> {
        self.node.raft.lead_transferee.map(PeerId)
    }

    /// A follower does not answer: probe it again rather than trusting what was sent.
    pub fn report_unreachable(&mut self, peer: PeerId) {
        self.node.report_unreachable(peer.0);
        self.pin();
    }

    /// A snapshot was taken by the follower, or was not.
    pub fn report_snapshot(&mut self, to: PeerId, ok: bool) {
        let status = if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
        self.node.report_snapshot(to.0, status);
        self.pin();
    }

    /// Heartbeats at once, so that followers learn the newest commit index.
    pub fn ping(&mut self) {
        self.node.ping();
        self.pin();
    }

    /// Whether followers are told of every new commit at once rather than with the next entry. Raft
    /// does so by itself while a change of membership is pending.
    pub fn set_broadcast_commits(&mut self, on: bool) {
        self.node.skip_bcast_commit(!on);
    }

    /// Tells the followers the newest commit, if this member leads.
    pub fn broadcast_commit(&mut self) {
        if self.is_leader() {
            self.node.raft.bcast_append();
            self.pin();
        }
    }

    /// Whether every member has every entry, knows that all of them are committed, and nothing else is
    /// under way. Only a leader knows.
    pub fn is_settled(&self) -> bool {
        let raft = &self.node.raft;
        let last = raft.raft_log.last_index();
        self.is_leader()
            && raft.raft_log.committed == last
            && raft.raft_log.applied == last
            && self.outstanding.is_empty()
            && !raft.has_pending_conf()
            && raft.lead_transferee.is_none()
            && raft.pending_read_count() == 0
            && raft.prs().iter().all(|(id, progress)| {
                *id == raft.id
                    || (progress.state == ProgressState::Replicate
                        && progress.matched == last
                        && progress.committed_index == last)
            })
    }

    /// Ticks since this member heard of its leader; of a leader, since it looked for its quorum.
    pub fn elapsed_ticks(&self) -> u64 {
        self.node.raft.election_elapsed as u64
    }

    /// A follower was not ticked for a while: so many ticks passed without its leader.
    pub fn set_elapsed_ticks(&mut self, ticks: u64) {
        self.node.raft.election_elapsed = ticks as usize;
        self.pin();
    }

    /// A leader was not ticked for a while: speaks to its followers at once, and gives them a whole
    /// election timeout to answer before it looks for its quorum.
    pub fn resume_leading(&mut self) {
        self.node.raft.election_elapsed = 0;
        self.ping();
    }

    /// Gives back memory that only a busy member needs.
    pub fn free_buffers(&mut self) {
        let applied = self.node.raft.raft_log.applied;
        self.node.mut_store().forget_cached(applied);
        self.node.raft.maybe_free_inflight_buffers();
    }

    /// Whether there is something to take.
    pub fn has_ready(&self) -> bool {
        self.node.has_ready() || self.log().has_write()
    }

    /// Takes what is ready, if anything.
    pub fn take_ready(&mut self) -> Option<TakenReady> {
        if !self.has_ready() {
            return None;
        }
        let mut ready = self.node.ready();
        let number = ready.number();
        let entries = ready.take_entries();
        let snapshot = (!ready.snapshot().is_empty()).then(|| ready.snapshot().clone());
        let mut taken = TakenReady {
            number,
            committed: ready.take_committed_entries(),
            read_states: ready.take_read_states(),
            ..TakenReady::default()
        };
        let term_before = self.log().hard_state().clone();
        let log = self.node.mut_store();
        if let Some(snapshot) = &snapshot {
            let metadata = snapshot.get_metadata();
            log.restore(
                Position { index: metadata.index, term: metadata.term },
                metadata.get_conf_state().clone(),
            );
        }
        if let Some(state) = ready.hs() {
            if state.term != term_before.term || state.vote != term_before.vote {
                self.term_unpersisted = Some(number);
            }
            log.set_hard_state(state.clone());
        }
        let mut last_index = 0;
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            last_index = last.index;
            let before = first.index - 1;
            self.outstanding.iter_mut().for_each(|(_, last)| *last = (*last).min(before));
            log.append(entries);
        }
        taken.write = log.take_write();
        taken.send_after_persist = ready.take_persisted_messages();
        let messages = ready.take_messages();
        if self.term_unpersisted.is_some() {
            taken.send_after_persist.extend(messages);
        } else {
            taken.send_now = messages;
        }
        taken.snapshot = snapshot;
        let leaving = taken.send_now.iter().chain(&taken.send_after_persist);
        self.asked.note(leaving, self.ticks);
        self.node.advance_append_async(ready);
        taken.awaits_persist = taken.write.is_some() || !self.outstanding.is_empty();
        if taken.awaits_persist {
            self.outstanding.push_back((number, last_index));
        } else {
            self.node.on_persist_ready(number);
        }
        self.pin();
        Some(taken)
    }

    /// The write of this ready, and of every earlier one, is durable.
    pub fn on_persisted(&mut self, number: u64) {
        let mut last_index = 0;
        while let Some((_, last)) = self.outstanding.pop_front_if(|(n, _)| *n <= number) {
            last_index = last;
        }
        if self.term_unpersisted.is_some_and(|unpersisted| unpersisted <= number) {
            self.term_unpersisted = None;
        }
        self.node.on_persist_ready(number);
        self.node.mut_store().persisted_to(last_index);
        self.pin();
    }

    /// Whether everything taken is durable.
    pub fn is_persisted(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// Readies taken and not known to be durable.
    pub fn unpersisted_readies(&self) -> usize {
        self.outstanding.len()
    }

    /// The only voter wins the moment it campaigns, and raft wants its log durable then.
    fn may_campaign_alone(&self) -> bool {
        self.is_leader() || !self.is_only_voter() || self.outstanding.is_empty()
    }

    /// Replaces the election timeout that raft may just have drawn. It draws when it resets the
    /// elapsed time, and does not look before the next tick; any value in range is legal.
    fn pin(&mut self) {
        let raft = &mut self.node.raft;
        if raft.election_elapsed == 0 {
            let least = raft.election_timeout();
            let drawn = mix(self.seed ^ self.ticks) % least as u64;
            raft.set_randomized_election_timeout(least + drawn as usize);
        }
    }
}

/// A change of one member, as an entry carries it; `None` for every other entry.
pub fn conf_change_of(entry: &Entry) -> Option<ConfChange> {
    (entry.entry_type == EntryType::EntryConfChange)
        .then(|| wire::conf_change_from_entry(entry.data.clone()))
        .flatten()
}

/// A change of membership of whatever kind, as an entry carries it; `None` for every other entry.
pub fn conf_change_v2_of(entry: &Entry) -> Option<ConfChangeV2> {
    match entry.entry_type {
        EntryType::EntryNormal => None,
        EntryType::EntryConfChange => conf_change_of(entry).map(in_general),
        EntryType::EntryConfChangeV2 => wire::conf_change_v2_from_entry(entry.data.clone()),
    }
}

/// A change of one member in the form of a change of several.
fn in_general(change: ConfChange) -> ConfChangeV2 {
    let single = ConfChangeSingle {
        change_type: change.change_type,
        node_id: change.node_id,
        ..Default::default()
    };
    ConfChangeV2 { changes: vec![single].into(), context: change.context, ..Default::default() }
}

/// Spreads the bits of a number (the finaliser of splitmix64).
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The raft crate logs through slog; its messages go where ours go.
struct ToTracing;

impl slog::Drain for ToTracing {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &slog::Record<'_>, _: &slog::OwnedKVList) -> Result<(), slog::Never> {
        match record.level() {
            slog::Level::Critical | slog::Level::Error => {
                tracing::error!(target: "raft", "{}", record.msg());
            }
            slog::Level::Warning => tracing::warn!(target: "raft", "{}", record.msg()),
            slog::Level::Info | slog::Level::Debug => {
                tracing::debug!(target: "raft", "{}", record.msg());
            }
            slog::Level::Trace => tracing::trace!(target: "raft", "{}", record.msg()),
        }
        Ok(())
    }
}
