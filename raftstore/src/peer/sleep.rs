//! When a quiet region stops ticking, and what wakes it.
//!
//! Ten thousand regions that nobody uses would tick and send heartbeats all day. So a region where nothing
//! happens falls asleep: its peers are not ticked and say nothing. That their stores live is told once for
//! all of them (`store/sleepers.rs`).
//!
//! ```text
//!  leader                                            followers
//!  nothing happened for `sleep_after_ticks`
//!        ├──────────── MsgHibernateRequest ───────────► have everything, applied everything: asleep
//!        │◄─────────── MsgHibernateResponse ──────────┤
//!  all have agreed: asleep
//!
//!  a write, a read, an order: awake
//!        ├──────────── MsgHeartbeat, at once ─────────► answered in sleep
//!        ├──────────── MsgAppend ─────────────────────► awake
//! ```
//!
//! **Falling asleep.** The leader sees that every member has answered of late, has every entry and knows it to
//! be committed; that nobody waits for anything; that no split, change of members, transfer, snapshot or cut
//! of the log is under way, and the membership is not joint; and that nobody has read under its lease. It asks
//! all members, again every election timeout, and sleeps when all have agreed and still nothing has happened.
//! Until then it ticks. A follower that agrees sleeps at once: whether its leader sleeps is nothing to it, as
//! long as the leader's store lives.
//!
//! **What wakes a peer:**
//!
//! | cause | how |
//! |---|---|
//! | a write, a read without a lease, a split, an order | they are for this peer |
//! | a raft message | any but a heartbeat that says nothing new, and the answers to one: those are dealt with in sleep |
//! | `MsgRegionWakeUp` | a follower that woke for a reason of its own asks its leader to wake too |
//! | a store it counts on is silent for an election timeout, stays out of reach, or was started anew | `store/sleepers.rs`; a leader counts on the stores of all members, a follower on its leader's |
//! | the leader's store says that its peer does not lead | an answer to the follower's question, one in a long while |
//! | a restart | every peer begins awake |
//!
//! **Time after a sleep.** A leader that wakes speaks at once and gives its followers an election timeout to
//! answer before it looks for its quorum. For a follower so much time without a leader has passed as its
//! leader's store was silent: while it was heard, its leader is taken for alive, and nobody else gets a vote.
//! When it is certain that the leader leads no more (it asks for votes itself, or its store was started anew)
//! all the time since the last heartbeat counts. Never does more count than has passed since then: the
//! leader's lease relies on it. Nor more than an election timeout, so that woken followers campaign one after
//! the other.
//!
//! **Leases** are told by the clock and end while the leader sleeps. The first read finds none, becomes a read
//! index, and wakes the leader.
//!
//! **Duties** of a sleeper are few and done without waking it: a leader reports its region and looks at its
//! log every `region_heartbeat_ticks`, a follower asks its leader's store every [`ASK_LEADER_TICKS`].
//!
//! Left out: a region with a member that does not answer stays awake, however long.

use std::collections::BTreeSet;

use proto::{PeerId, StoreId, metapb, raft_serverpb, region};
use raft::eraftpb::{Message, MessageType};
use raft_serverpb::{ExtraMessage, ExtraMessageType, RaftMessage};

use super::{Peer, Phase, Role, Round};
use crate::config::Config;
use crate::engine::LogEngine;
use crate::msg::Now;

/// A sleeping follower asks its leader's store so often whether the peer there still leads.
const ASK_LEADER_TICKS: u64 = 12_000;

/// How near a peer is to sleep.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// Ticks in a row at which nothing was found to have happened.
    quiet_ticks: u64,
    /// The last entry at the last of them.
    last_index: u64,
    /// The members that have yet to agree, while they are asked.
    undecided: Option<BTreeSet<PeerId>>,
    sleep: Option<Sleep>,
    /// Whom to call to wake, with the next flush.
    calls: Option<metapb::Peer>,
}

/// Of a peer that sleeps.
#[derive(Clone, Copy, Debug)]
struct Sleep {
    /// The store's tick up to which the peer's duties are done.
    since: u64,
    /// The store's tick at which the group's count of ticks without a leader was right.
    counted: u64,
}

/// Why a peer wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Somebody wants something of this peer.
    Wanted,
    /// A member speaks: this one.
    Spoken(PeerId),
    /// Perhaps the region has no leader, or the leader cannot reach a member.
    Doubt,
    /// The leader leads no more.
    LeaderGone,
}

/// What a peer that wakes is told by its store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waking {
    pub(crate) cause: Cause,
    /// The store's tick.
    pub(crate) tick: u64,
    pub(crate) now: Now,
}

impl<L: LogEngine> Peer<L> {
    pub(crate) fn is_asleep(&self) -> bool {
        self.rest.sleep.is_some()
    }

    /// Something happened: not yet.
    pub(crate) fn stir(&mut self) {
        self.rest.quiet_ticks = 0;
        self.rest.undecided = None;
    }

    /// Counts quiet ticks, and asks the members when there were enough.
    pub(crate) fn tick_sleep(&mut self, round: &mut Round<'_>) {
        let after = round.config.sleep_after_ticks;
        if after == 0 || self.leader().is_none() {
            return;
        }
        let last_index = self.group.last_index();
        let is_read = self.publisher.reads().take_is_fresh();
        if is_read || last_index != self.rest.last_index || !self.is_quiet(round) {
            self.rest.last_index = last_index;
            self.stir();
            return;
        }
        self.rest.quiet_ticks += 1;
        let more = self.rest.quiet_ticks.checked_sub(after);
        if more.is_some_and(|more| more.is_multiple_of(round.config.election_ticks as u64)) {
            let others = self.others();
            self.rest.undecided = Some(others.iter().map(|peer| PeerId(peer.id)).collect());
            for other in others {
                self.say_extra(ExtraMessageType::MsgHibernateRequest, last_index, other, round);
            }
        }
    }

    /// Whether this leader has asked all members, and all have agreed.
    pub(crate) fn has_agreement(&self) -> bool {
        self.rest.undecided.as_ref().is_some_and(BTreeSet::is_empty)
    }

    /// A member agrees to sleep at this entry.
    pub(crate) fn on_agreed(&mut self, from: PeerId, index: u64, round: &Round<'_>) {
        if self.group.last_index() == index && self.is_quiet(round) {
            self.rest.undecided.iter_mut().for_each(|undecided| {
                undecided.remove(&from);
            });
        } else {
            self.stir();
        }
    }

    /// The leader wants to sleep: agrees if there is nothing to do here either. Returns whether it did.
    pub(crate) fn on_asked_to_sleep(
        &mut self,
        from: metapb::Peer,
        epoch: &metapb::RegionEpoch,
        index: u64,
        round: &mut Round<'_>,
    ) -> bool {
        let may = round.config.sleep_after_ticks > 0
            && self.group.leader() == Some(PeerId(from.id))
            && self.leader().is_none()
            && *epoch == region::epoch(&self.region)
            && self.applied.index == index
            && self.group.committed_index() == index
            && self.is_idle();
        if may {
            self.say_extra(ExtraMessageType::MsgHibernateResponse, index, from, round);
        }
        may
    }

    /// Whether a leader's region may sleep as far as can be seen here.
    pub(crate) fn is_quiet(&self, round: &Round<'_>) -> bool {
        let Some(leader) = self.leader() else { return false };
        leader.term == self.group.term()
            && self.applied.term == leader.term
            && self.group.is_settled()
            && self.is_idle()
            && leader.pending_split.is_none()
            && leader.check.is_none()
            && leader.split_ask.is_none()
            && leader.joint_since.is_none()
            && leader.heartbeat_at.is_none()
            && leader.has_reported
            && leader.reported_pending.is_empty()
            && !self.is_looking_for_keys()
            && self.offer(round).is_none()
            && self.others().iter().all(|peer| {
                self.group.raft().prs().get(peer.id).is_some()
                    && (self.is_asleep() || self.is_heard(PeerId(peer.id), round))
            })
    }

    /// Whether nothing waits here for anything, whoever leads.
    fn is_idle(&self) -> bool {
        self.phase == Phase::Serving
            && self.awaits_sync.is_none()
            && self.is_initialized()
            && !region::is_joint(&self.region)
            && self.group.last_index() == self.applied.index
            && self.handed_index == self.applied.index
            && self.group.is_persisted()
            && self.log_use.cut.is_none()
            && self.proposals.is_empty()
            && self.writes.is_empty()
            && self.reads.is_empty()
            && self.abandoned.is_empty()
            && self.snapshots.is_idle()
    }

    fn others(&self) -> Vec<metapb::Peer> {
        let members = self.region.peers.iter();
        members.filter(|peer| peer.id != self.meta.id).copied().collect()
    }

    /// Sleeps from this tick of the store on.
    pub(crate) fn fall_asleep(&mut self, tick: u64) {
        self.stir();
        self.rest.sleep = Some(Sleep { since: tick, counted: tick });
        self.group.free_buffers();
        self.publisher.set_asleep(true);
    }

    /// The stores that a sleeper counts on.
    pub(crate) fn counts_on(&self) -> BTreeSet<StoreId> {
        let others = self.others();
        let leads = self.leader().is_some();
        let needed =
            others.iter().filter(|peer| leads || self.group.leader() == Some(PeerId(peer.id)));
        needed.map(|peer| StoreId(peer.store_id)).collect()
    }

    /// Whether this message must not find the peer asleep. An awake one is kept from sleep by it.
    pub(crate) fn is_disturbed_by(&self, message: &Message) -> bool {
        let is_of_term = message.term == self.group.term();
        let says_nothing = match (&self.role, message.msg_type) {
            (Role::Leader(_), MessageType::MsgHeartbeatResponse) => true,
            (Role::Leader(_), MessageType::MsgAppendResponse) => !message.reject,
            (Role::Follower, MessageType::MsgHeartbeat) => {
                self.group.leader() == Some(PeerId(message.from))
                    && message.commit <= self.group.committed_index()
            }
            _ => false,
        };
        !(is_of_term && says_nothing)
    }

    /// Why this message wakes the peer.
    pub(crate) fn cause_of(&self, message: &Message) -> Cause {
        let from = PeerId(message.from);
        let asks_for_votes = matches!(
            message.msg_type,
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote
        );
        let is_leader = self.group.leader() == Some(from);
        if is_leader && asks_for_votes && message.term > self.group.term() {
            Cause::LeaderGone
        } else {
            Cause::Spoken(from)
        }
    }

    /// A heartbeat was dealt with in sleep: raft has counted anew.
    pub(crate) fn on_heard_asleep(&mut self, tick: u64) {
        if let Some(sleep) = &mut self.rest.sleep {
            sleep.counted = tick;
        }
    }

    /// Wakes, if it sleeps. `silence` says for how many ticks a store was not heard.
    pub(crate) fn wake(
        &mut self,
        waking: Waking,
        silence: impl Fn(StoreId) -> u64,
        config: &Config,
    ) {
        self.stir();
        let Some(sleep) = self.rest.sleep.take() else { return };
        self.publisher.set_asleep(false);
        self.ticker.pass(waking.tick - sleep.since);
        if self.leader().is_some() {
            self.resume_leading(waking.now, silence, config);
        } else {
            self.resume_following(waking.cause, waking.tick - sleep.counted, silence, config);
        }
    }

    fn resume_leading(&mut self, now: Now, silence: impl Fn(StoreId) -> u64, config: &Config) {
        for other in self.others() {
            let silent = silence(StoreId(other.store_id)).saturating_mul(config.tick_micros());
            let heard = Now(now.0.saturating_sub(silent));
            if let Some(leader) = self.leader_mut() {
                let last = leader.heard.entry(PeerId(other.id)).or_insert(heard);
                *last = heard.max(*last);
            }
        }
        self.group.resume_leading();
    }

    fn resume_following(
        &mut self,
        cause: Cause,
        slept: u64,
        silence: impl Fn(StoreId) -> u64,
        config: &Config,
    ) {
        let leader = self.group.leader();
        let leader_at = leader.and_then(|id| self.member(id)).copied();
        let before = self.group.elapsed_ticks();
        let is_gone = cause == Cause::LeaderGone;
        let speaks = leader.is_some_and(|leader| cause == Cause::Spoken(leader));
        let all = before.saturating_add(slept);
        let silent = leader_at.map_or(all, |peer| silence(StoreId(peer.store_id)));
        let counts = if is_gone { all } else { all.min(before.max(silent)) };
        let most = (config.election_ticks as u64).max(before);
        self.group.set_elapsed_ticks(counts.min(most));
        self.rest.calls = leader_at.filter(|_| !is_gone && !speaks);
    }

    /// A follower that woke for a reason of its own has its leader wake.
    pub(super) fn call_leader(&mut self, round: &mut Round<'_>) {
        if let Some(leader_at) = self.rest.calls.take() {
            self.say_extra(ExtraMessageType::MsgRegionWakeUp, 0, leader_at, round);
        }
    }

    /// In so many ticks a sleeper has something to do.
    pub(crate) fn ticks_until_duty(&self, config: &Config) -> u64 {
        let leads = self.leader().is_some();
        self.ticker.until(if leads { config.region_heartbeat_ticks } else { ASK_LEADER_TICKS })
    }

    /// Does what a sleeper has to do now and then. Returns whether it must wake for what came of it.
    pub(crate) fn do_duty(&mut self, tick: u64, round: &mut Round<'_>) -> bool {
        let Some(sleep) = &mut self.rest.sleep else { return false };
        self.ticker.pass(tick - std::mem::replace(&mut sleep.since, tick));
        if self.leader().is_some() {
            self.tick_heartbeat(true);
            self.tick_split(true, round);
            self.tick_compact_log(round);
            return !self.is_quiet(round);
        }
        let leader_at = self.group.leader().and_then(|id| self.member(id)).copied();
        if let Some(leader_at) = leader_at {
            round.effects.send_now.push(self.question(leader_at, round.config));
        }
        leader_at.is_none()
    }

    /// "Do you live, and who leads this region?" An answer is wanted in any case.
    pub(crate) fn question(&self, to: metapb::Peer, config: &Config) -> RaftMessage {
        let mut envelope = self.empty_envelope(to);
        envelope.extra_msg = Some(ExtraMessage {
            r#type: ExtraMessageType::MsgCheckStalePeer.into(),
            index: config.incarnation,
            wait_data: true,
            ..Default::default()
        });
        envelope
    }

    fn say_extra(
        &self,
        r#type: ExtraMessageType,
        index: u64,
        to: metapb::Peer,
        round: &mut Round<'_>,
    ) {
        let mut envelope = self.empty_envelope(to);
        envelope.extra_msg =
            Some(ExtraMessage { r#type: r#type.into(), index, ..Default::default() });
        round.effects.send_now.push(envelope);
    }
}
