//! One replica: a group member and its surroundings.
//!
//! ```text
//!              ┌── writes waiting ──┐                   ┌── ApplyTask ──► Applier ──┐
//!  requests ──►│   reads waiting    │──► Group (raft) ──┤                           │
//!              └────────────────────┘        ▲          └── messages, log writes    │
//!                 proposals ◄─ index@term ───┴──────────────── on_applied ◄─────────┘
//! ```
//!
//! What a leader knows besides lives in [`Role::Leader`] and is gone with the role. Proposals and
//! reads whose index is known outlive it: they are settled by the log.
//!
//! A peer is in one [`Phase`]. While a snapshot is being installed, or its tombstone written, or in
//! quarantine, it takes no ready: it is silent, and raft takes silence for a slow network.

pub(crate) mod admission;
pub(crate) mod lease;
pub(crate) mod mail;
pub(crate) mod proposals;
mod ready;
pub(crate) mod sleep;
pub(crate) mod ticker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proto::{PeerId, Refusal, RegionId, metapb};
use raft::eraftpb::{Message, MessageType};

use crate::config::Config;
use crate::effects::{Effects, Report};
use crate::engine::{LogEngine, RangeSize};
use crate::error::Fault;
use crate::group::{Group, GroupSettings};
use crate::msg::{Now, Reply, ReplyId};
use crate::operation::check_consistency::{Check, Hashes};
use crate::operation::compact_log::LogUse;
use crate::operation::read::WaitingReads;
use crate::operation::snapshot::Snapshots;
use crate::operation::split::SplitAsk;
use crate::operation::transfer_leader::Offer;
use crate::operation::write::WaitingWrites;
use crate::plant::{Bug, Planted};
use crate::read_view::{Published, Publisher, ReadView};
use crate::storage::group_log::{GroupLog, Position};
use lease::{Lease, Mark, Voters};
use mail::Mail;
use proposals::Proposals;
pub(crate) use ready::is_initial;
use sleep::Rest;
use ticker::Ticker;

/// Senders remembered by a peer; beyond it newcomers that are no members get no answers.
const SENDERS_MAX: usize = 64;

/// What a peer is given at each turn.
pub(crate) struct Round<'a> {
    pub(crate) config: &'a Config,
    pub(crate) now: Now,
    pub(crate) effects: &'a mut Effects,
}

impl Round<'_> {
    pub(crate) fn reply(&mut self, to: ReplyId, reply: Reply) {
        self.effects.replies.push((to, reply));
    }

    pub(crate) fn refuse_all(&mut self, all: impl IntoIterator<Item = ReplyId>, why: &Refusal) {
        self.effects.replies.extend(all.into_iter().map(|reply| (reply, Err(why.clone()))));
    }
}

/// What a peer is busy with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing special.
    Serving,
    /// A snapshot is on its way into the engine.
    Installing,
    /// Its tombstone is being written.
    Leaving,
    /// Its data differ from those of a majority: it takes part in nothing until it is removed.
    Quarantined,
}

/// Who a peer is in its group. Candidates are followers that know no leader.
#[derive(Debug)]
pub(crate) enum Role {
    Follower,
    Leader(Box<Leader>),
}

/// What only a leader knows, in one term.
#[derive(Debug)]
pub(crate) struct Leader {
    pub(crate) term: u64,
    pub(crate) since: Now,
    pub(crate) lease: Lease,
    /// When each follower was last heard.
    pub(crate) heard: BTreeMap<PeerId, Now>,
    /// Until this tick a replica may read by an index that it was told.
    pub(crate) replicas_read_until: u64,
    /// A split proposed but not applied: writes wait, and the lease is off, since it may take effect
    /// on another store first.
    pub(crate) pending_split: Option<u64>,
    /// Leadership was offered to another.
    pub(crate) offer: Option<Offer>,
    /// The tick at which the membership was first seen to be joint, while it is.
    pub(crate) joint_since: Option<u64>,
    /// Ids were asked for a split.
    pub(crate) split_ask: Option<SplitAsk>,
    /// Something changed that the scheduler should know.
    pub(crate) heartbeat_due: bool,
    /// Whether it has reported since it leads.
    pub(crate) has_reported: bool,
    /// At this tick the scheduler is told again how the region looks.
    pub(crate) heartbeat_at: Option<u64>,
    /// Followers that lacked log entries when last reported.
    pub(crate) reported_pending: BTreeSet<PeerId>,
    /// A look for split keys is under way.
    pub(crate) split_check_since: Option<u64>,
    /// A comparison of the replicas is under way.
    pub(crate) check: Option<Check>,
    /// Peers that said they are in quarantine.
    pub(crate) quarantined: BTreeSet<PeerId>,
}

/// How much a region holds and how much of it is new. Estimates.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Bytes in the region when last measured, and written since.
    pub(crate) size_bytes: u64,
    /// Keys in the region when last measured, and written since.
    pub(crate) size_keys: u64,
    /// Written since the last look for split keys.
    pub(crate) unchecked: RangeSize,
    /// Written since the last region heartbeat.
    pub(crate) bytes_written: u64,
    /// Written since the last region heartbeat.
    pub(crate) keys_written: u64,
}

/// One replica.
pub(crate) struct Peer<L: LogEngine> {
    pub(crate) meta: metapb::Peer,
    /// The region as last applied here. Without peers: nothing has arrived yet.
    pub(crate) region: metapb::Region,
    pub(crate) group: Group<L>,
    /// What came since its last turn.
    pub(crate) mail: Mail,
    pub(crate) applied: Position,
    /// The last entry given to the applier.
    pub(crate) handed_index: u64,
    pub(crate) phase: Phase,
    pub(crate) role: Role,
    pub(crate) proposals: Proposals,
    pub(crate) writes: WaitingWrites,
    pub(crate) reads: WaitingReads,
    pub(crate) snapshots: Snapshots,
    pub(crate) log_use: LogUse,
    pub(crate) hashes: Hashes,
    pub(crate) traffic: Traffic,
    pub(crate) ticker: Ticker,
    rest: Rest,
    pub(crate) publisher: Publisher,
    pub(crate) leaderless_ticks: u64,
    /// Terms in which this peer led, and the tick at which each ended, while somebody may still wait for
    /// what was proposed in them.
    abandoned: VecDeque<(u64, u64)>,
    pub(crate) voters: Voters,
    /// Peers that spoke to us; those of the region itself come first.
    senders: BTreeMap<PeerId, metapb::Peer>,
    /// Before this moment no votes: a promise of an earlier life may still hold.
    votes_from: Now,
    /// Until this sync of the data engine the peer keeps still: its log must not be durable before
    /// the region is.
    awaits_sync: Option<u64>,
    generation: u64,
    marks: u64,
    incarnation: u64,
    is_published: bool,
    pub(crate) planted: Planted,
}

/// What a peer begins with.
pub(crate) struct PeerStart<L> {
    pub(crate) meta: metapb::Peer,
    pub(crate) region: metapb::Region,
    pub(crate) log: GroupLog<L>,
    pub(crate) applied: Position,
    pub(crate) votes_from: Now,
    pub(crate) awaits_sync: Option<u64>,
    pub(crate) generation: u64,
}

impl<L: LogEngine> Peer<L> {
    pub(crate) fn new(start: PeerStart<L>, config: &Config) -> Result<Self, Fault> {
        let PeerStart { meta, region, log, applied, votes_from, awaits_sync, generation } = start;
        let region_id = RegionId(region.id);
        let settings = GroupSettings::from(config);
        let group = Group::new(PeerId(meta.id), log, applied.index, &settings)?;
        let publisher = Publisher::new(Published {
            region: region.clone(),
            peer: meta,
            term: group.term(),
            leader: None,
            is_leader: false,
            is_initialized: !region.peers.is_empty(),
        });
        Ok(Self {
            voters: Voters::of(group.members()),
            group,
            mail: Mail::new(),
            applied,
            handed_index: applied.index,
            phase: Phase::Serving,
            role: Role::Follower,
            proposals: Proposals::default(),
            writes: WaitingWrites::default(),
            reads: WaitingReads::default(),
            snapshots: Snapshots::default(),
            log_use: LogUse::default(),
            hashes: Hashes::default(),
            traffic: Traffic::default(),
            ticker: Ticker::new(region_id),
            rest: Rest::default(),
            publisher,
            leaderless_ticks: 0,
            abandoned: VecDeque::new(),
            senders: BTreeMap::new(),
            votes_from,
            awaits_sync,
            generation,
            marks: 0,
            incarnation: config.incarnation,
            is_published: false,
            planted: config.planted,
            meta,
            region,
        })
    }

    /// Distinguishes this peer from an earlier one of the same id in this life of the store.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn region_id(&self) -> RegionId {
        RegionId(self.region.id)
    }

    pub(crate) fn id(&self) -> PeerId {
        PeerId(self.meta.id)
    }

    /// Whether it has data: those that wait for their first snapshot know no other peer.
    pub(crate) fn is_initialized(&self) -> bool {
        !self.region.peers.is_empty()
    }

    pub(crate) fn view(&self) -> &ReadView {
        self.publisher.view()
    }

    pub(crate) fn leader_mut(&mut self) -> Option<&mut Leader> {
        match &mut self.role {
            Role::Leader(leader) => Some(leader),
            Role::Follower => None,
        }
    }

    pub(crate) fn leader(&self) -> Option<&Leader> {
        match &self.role {
            Role::Leader(leader) => Some(leader),
            Role::Follower => None,
        }
    }

    /// The peer with this id, as far as it is known here.
    pub(crate) fn member(&self, id: PeerId) -> Option<&metapb::Peer> {
        proto::region::peer_by_id(&self.region, id).or_else(|| self.senders.get(&id))
    }

    /// Every other peer that is known here.
    pub(crate) fn acquaintances(&self) -> Vec<metapb::Peer> {
        let members = self.region.peers.iter();
        let strangers = self
            .senders
            .values()
            .filter(|peer| proto::region::peer_by_id(&self.region, PeerId(peer.id)).is_none());
        members.chain(strangers).filter(|peer| peer.id != self.meta.id).cloned().collect()
    }

    /// Data was applied.
    pub(crate) fn on_written(&mut self, bytes: u64, keys: u64) {
        self.traffic.size_bytes += bytes;
        self.traffic.size_keys += keys;
        self.traffic.unchecked += RangeSize { bytes, keys };
        self.traffic.bytes_written += bytes;
        self.traffic.keys_written += keys;
    }

    pub(crate) fn not_leader(&self) -> Refusal {
        let leader = self.group.leader().and_then(|id| self.member(id)).cloned();
        Refusal::NotLeader { region_id: self.region.id, leader }
    }

    /// Another peer speaks, and its envelope is in order.
    pub(crate) fn step(&mut self, from: metapb::Peer, message: Message, round: &mut Round<'_>) {
        let is_vote = matches!(
            message.msg_type,
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
        );
        // Before a restart this peer may have heard a leader, which counts on its patience.
        let is_forced = message.context.as_ref() == raft::CAMPAIGN_TRANSFER;
        if is_vote && round.now < self.votes_from && !is_forced {
            return;
        }
        if self.is_disturbed_by(&message) {
            self.stir();
        }
        let sender = PeerId(message.from);
        if self.senders.len() < SENDERS_MAX {
            self.senders.insert(sender, from);
        }
        let term = self.group.term();
        if let Role::Leader(leader) = &mut self.role
            && message.term == term
            && leader.term == term
        {
            leader.heard.insert(sender, round.now);
            if message.msg_type == MessageType::MsgHeartbeatResponse
                && let Some(mark) = Mark::decode(&message.context)
            {
                leader.lease.on_answered(sender, mark);
                if self.planted.has(Bug::LeaseFromAnswer) {
                    leader.lease.on_answered_at(sender, round.now);
                }
            }
        }
        if message.msg_type == MessageType::MsgReadIndex {
            self.on_replica_asks(round.config);
        }
        if message.msg_type == MessageType::MsgTransferLeader {
            self.on_transfer_message(sender, &message, round);
            return;
        }
        if let Err(unsound) = self.group.step(message) {
            tracing::warn!(
                region = %self.region_id(), peer = %self.id(), from = %sender, %unsound,
                "a raft message is dropped"
            );
        }
    }

    /// A name for a heartbeat or a read-index round, never used before.
    pub(crate) fn next_mark(&mut self) -> Mark {
        self.marks += 1;
        Mark { peer: self.id(), incarnation: self.incarnation, number: self.marks }
    }

    /// The data engine is durable up to this request. Returns whether that changes anything here.
    pub(crate) fn on_data_synced(&mut self, ticket: u64) -> bool {
        let cut_is_due = self.log_use.cut.is_some_and(|(_, wanted)| wanted <= ticket);
        if cut_is_due {
            self.perform_cut();
        }
        let may_begin = self.awaits_sync.take_if(|wanted| *wanted <= ticket).is_some();
        cut_is_due || may_begin
    }

    /// Takes what is ready. Returns whether there may be more.
    pub(crate) fn flush(&mut self, round: &mut Round<'_>) -> bool {
        if self.phase != Phase::Serving || self.awaits_sync.is_some() {
            return false;
        }
        self.call_leader(round);
        self.follow_role(round);
        self.propose_writes(round);
        self.ask_reads(round);
        if let Some(ready) = self.group.take_ready() {
            self.take_apart(ready, round);
        }
        self.follow_role(round);
        self.request_snapshots(round);
        self.publish(round);
        self.phase == Phase::Serving && self.group.has_ready()
    }

    /// Raft may have made this peer leader, or no longer: takes over what follows from it.
    fn follow_role(&mut self, round: &mut Round<'_>) {
        let term = self.group.term();
        let leads = self.group.is_leader();
        let led = self.leader().map(|leader| leader.term);
        if leads == led.is_some() && led.is_none_or(|led| led == term) {
            if !leads {
                self.refuse_writes(round);
            }
            return;
        }
        if let Some(led) = led {
            self.abandon(led, round);
        }
        self.forget_made_snapshots();
        let replicas_read_until = self.replicas_read_until(round.config);
        self.role = if leads {
            Role::Leader(Box::new(Leader {
                term,
                since: round.now,
                lease: Lease::new(self.planted),
                heard: BTreeMap::new(),
                replicas_read_until,
                pending_split: None,
                offer: None,
                joint_since: None,
                split_ask: None,
                heartbeat_due: true,
                has_reported: false,
                heartbeat_at: None,
                reported_pending: BTreeSet::new(),
                split_check_since: None,
                check: None,
                quarantined: BTreeSet::new(),
            }))
        } else {
            Role::Follower
        };
        self.group.set_broadcast_commits(false);
        if !leads {
            self.refuse_writes(round);
        }
        self.on_role_changed_for_reads(round);
        round.effects.reports.push(Report::LeaderChanged {
            region: self.region.clone(),
            term,
            is_leader: leads,
        });
    }

    /// This peer leads no longer in this term. What it has proposed may still be committed, and is then
    /// answered, for a while; a split that waits for its ids is not proposed any more.
    fn abandon(&mut self, led: u64, round: &mut Round<'_>) {
        let not_leader = self.not_leader();
        let asked = self.leader_mut().and_then(|leader| leader.split_ask.take());
        round.refuse_all(asked.and_then(|ask| ask.reply), &not_leader);
        if self.planted.has(Bug::UnknownSaidToFail) {
            let proposed = self.proposals.take_proposed_in(led);
            round.refuse_all(proposed, &not_leader);
        }
        self.abandoned.push_back((led, self.ticker.ticks()));
    }

    /// Answers who has waited for an election timeout since this peer ceased to lead: it may be cut off
    /// from those who know what became of the proposal.
    pub(crate) fn tick_abandoned(&mut self, round: &mut Round<'_>) {
        let patience = round.config.election_ticks as u64;
        let tick = self.ticker.ticks();
        let is_due = |(_, since): &mut (u64, u64)| tick - *since >= patience;
        let Some((led, _)) = self.abandoned.pop_front_if(is_due) else { return };
        let unknown = Refusal::UndeterminedResult {
            message: "leadership was lost before the proposal was applied".into(),
        };
        let waiting = self.proposals.take_proposed_in(led);
        round.refuse_all(waiting, &unknown);
    }

    /// The region changed, or was replaced.
    pub(crate) fn set_region(&mut self, region: metapb::Region) {
        if let Some(meta) = proto::region::peer_by_id(&region, self.id()) {
            self.meta = *meta;
        }
        self.region = region;
        self.voters = Voters::of(self.group.members());
        self.is_published = false;
        if let Some(leader) = self.leader_mut() {
            leader.heartbeat_due = true;
        }
    }

    /// Lets readers on other threads see what they may see now.
    pub(crate) fn publish(&mut self, round: &Round<'_>) {
        let term = self.group.term();
        let leader_id = self.group.leader();
        let is_leader = matches!(self.role, Role::Leader(_));
        let view = self.view();
        let shown_leader = view.leader.as_ref().map(|peer| PeerId(peer.id));
        let leader = leader_id.and_then(|id| self.member(id));
        if !self.is_published
            || view.term != term
            || view.is_leader != is_leader
            || shown_leader != leader.map(|peer| PeerId(peer.id))
        {
            let published = Published {
                region: self.region.clone(),
                peer: self.meta,
                term,
                leader: leader.cloned(),
                is_leader,
                is_initialized: self.is_initialized(),
            };
            self.publisher.publish(published);
            self.is_published = true;
        }
        self.publisher.set_lease(self.lease_until(round));
    }

    /// Until when this peer may answer alone, if it may at all.
    pub(crate) fn lease_until(&self, round: &Round<'_>) -> Option<Now> {
        let leader = self.leader()?;
        let may = round.config.leases
            && self.phase == Phase::Serving
            // An entry of an earlier leader may be committed and not yet applied here.
            && (self.applied.term == leader.term || self.planted.has(Bug::LeaseBeforeOwnEntry))
            && leader.term == self.group.term()
            && self.group.transferee().is_none()
            && leader.pending_split.is_none()
            && !self.may_be_behind(leader);
        if !may {
            return None;
        }
        let started = leader.lease.started(self.id(), &self.voters, round.now)?;
        Some(started.plus(round.config.lease_micros()))
    }

    /// Answers everybody who waits: this peer ceases to be. Those whose entry may still be committed by
    /// others are told that nobody knows.
    pub(crate) fn refuse_everybody(&mut self, round: &mut Round<'_>) {
        assert!(self.mail.is_empty(), "{} goes and has mail", self.region_id());
        let gone = Refusal::RegionNotFound { region_id: self.region.id };
        let waiting = self.writes.take_all();
        round.refuse_all(waiting, &gone);
        let reads = self.reads.take_all();
        round.refuse_all(reads, &gone);
        let asked = self.leader_mut().and_then(|leader| leader.split_ask.take());
        round.refuse_all(asked.and_then(|ask| ask.reply), &gone);
        let unknown = Refusal::UndeterminedResult {
            message: "the peer was removed before the proposal was applied here".into(),
        };
        let proposed = self.proposals.take_all();
        round.refuse_all(proposed, &unknown);
    }
}
