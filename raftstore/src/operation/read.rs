//! A read that found no lease: a barrier.
//!
//! A barrier answers when a new snapshot of the engine sees every write that was acknowledged before the
//! barrier was asked for. The caller then takes its snapshot. (Reads with a lease never come here, see
//! [`ReadView`](crate::read_view::ReadView).)
//!
//! **Leader.** With a lease: at once, since what was acknowledged was applied here. Without: all reads of
//! a round share one *read index*: raft notes its commit index, asks a quorum by a heartbeat whether it
//! still leads, and once that index is applied the reads are answered. A new leader does not know what is
//! committed until an entry of its own term is; its reads wait for that.
//!
//! **Follower, learner** (`replica_read`). It asks the leader for the read index and waits until it has
//! applied as far.
//!
//! **A replica may be ahead of its leader.** It applies what the leader has committed, perhaps before the
//! leader itself does, and shows it. Were the leader to answer alone then, a client could see a write at a
//! replica and miss it at the leader. So a leader that has told a replica a read index answers alone, for as
//! long as that replica may still read by it, only when it has applied all that is committed; and so does a
//! new leader, whose predecessor may have told one.
//!
//! **Lost rounds.** A leader's heartbeats repeat the newest question by themselves. A follower asks again
//! after `read_index_retry_ticks`, and every question has a new name: an old answer, come late, must not
//! pass for the answer to a newer read.
//!
//! **Losing the role.** What a leader has asked is forgotten by raft; those reads are told who leads.

use std::collections::VecDeque;

use proto::Refusal;
use raft::ReadState;

use crate::config::Config;
use crate::engine::LogEngine;
use crate::msg::{Answer, Now, ReplyId, Target};
use crate::peer::lease::Mark;
use crate::peer::{Leader, Peer, Role, Round};
use crate::plant::Bug;

/// Reads of one region that wait for an answer; beyond it readers are told to come back.
const READS_MAX: usize = 65_536;

/// A read without a deadline waits no longer, in microseconds; then it is told to come back.
const READ_WAIT_MICROS_MAX: u64 = 10_000_000;

/// A replica may read by an index that it was told for so many times the wait of a read: its clock may be
/// slow, and its reader late.
const REPLICA_WAITS: u64 = 2;

#[derive(Debug)]
struct Read {
    reply: ReplyId,
    /// Version of the region's epoch that the caller knows.
    version: u64,
    deadline: Now,
    replica_read: bool,
}

/// Reads asked for together.
#[derive(Debug)]
struct Question {
    mark: Mark,
    asked_tick: u64,
    reads: Vec<Read>,
    /// Known once a quorum has answered.
    index: Option<u64>,
}

/// Reads of one region that are not answered yet.
#[derive(Debug, Default)]
pub(crate) struct WaitingReads {
    new: Vec<Read>,
    asked: VecDeque<Question>,
}

impl WaitingReads {
    /// Takes everybody who waits.
    pub(crate) fn take_all(&mut self) -> Vec<ReplyId> {
        let asked = self.asked.drain(..).flat_map(|question| question.reads);
        self.new.drain(..).chain(asked).map(|read| read.reply).collect()
    }

    fn len(&self) -> usize {
        let asked = self.asked.iter().map(|question| question.reads.len());
        self.new.len() + asked.sum::<usize>()
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.new.is_empty() && self.asked.is_empty()
    }
}

impl<L: LogEngine> Peer<L> {
    /// A caller wants a barrier, and the target is this peer.
    pub(crate) fn add_read(&mut self, target: &Target, reply: ReplyId, round: &mut Round<'_>) {
        if target.is_late(round.now) {
            round.reply(reply, Err(Refusal::deadline_exceeded()));
            return;
        }
        if self.reads.len() >= READS_MAX {
            let reason = "too many reads wait for this region".into();
            round.reply(reply, Err(Refusal::ServerIsBusy { reason, backoff_ms: 0 }));
            return;
        }
        let deadline = target.deadline.unwrap_or_else(|| round.now.plus(READ_WAIT_MICROS_MAX));
        let (version, replica_read) = (target.epoch.version, target.replica_read);
        self.reads.new.push(Read { reply, version, deadline, replica_read });
    }

    /// A replica asks for a read index.
    pub(crate) fn on_replica_asks(&mut self, config: &Config) {
        let until = self.replicas_read_until(config);
        if let Some(leader) = self.leader_mut() {
            leader.replicas_read_until = until;
        }
    }

    /// The tick until which replicas may read by what they are told now.
    pub(crate) fn replicas_read_until(&self, config: &Config) -> u64 {
        self.ticker.ticks() + REPLICA_WAITS * READ_WAIT_MICROS_MAX.div_ceil(config.tick_micros())
    }

    /// Whether a replica may show what is committed and not applied here.
    pub(crate) fn may_be_behind(&self, leader: &Leader) -> bool {
        self.ticker.ticks() < leader.replicas_read_until
            && self.applied.index < self.group.committed_index()
    }

    /// Whether reads wait to be asked for.
    pub(crate) fn has_new_reads(&self) -> bool {
        !self.reads.new.is_empty()
    }

    /// Answers new reads by lease, or asks a question for all of them.
    pub(crate) fn ask_reads(&mut self, round: &mut Round<'_>) {
        if self.reads.new.is_empty() {
            return;
        }
        if self.answers_unasked() {
            let reads = std::mem::take(&mut self.reads.new);
            self.answer_reads(reads, round);
            return;
        }
        match &self.role {
            Role::Leader(_) => {
                if self.lease_until(round).is_some_and(|until| round.now < until) {
                    let reads = std::mem::take(&mut self.reads.new);
                    self.answer_reads(reads, round);
                    return;
                }
                if !self.group.is_committed_in_term() {
                    return;
                }
            }
            Role::Follower => {
                if self.group.leader().is_none() {
                    return;
                }
            }
        }
        if self.planted.has(Bug::ReadJoinsQuestion)
            && let Some(asked) = self.reads.asked.back_mut().filter(|asked| asked.index.is_none())
        {
            asked.reads.append(&mut self.reads.new);
            return;
        }
        let mut mark = self.next_mark();
        if let Role::Leader(leader) = &mut self.role {
            leader.lease.on_sent(mark, round.now);
        } else if self.planted.has(Bug::OldAnswerTaken) {
            mark.number = 0;
        }
        self.group.read_index(mark.encode());
        self.reads.asked.push_back(Question {
            mark,
            asked_tick: self.ticker.ticks(),
            reads: std::mem::take(&mut self.reads.new),
            index: None,
        });
    }

    /// Planted: whether the reads are answered by what is applied here, and nobody is asked.
    fn answers_unasked(&self) -> bool {
        match &self.role {
            Role::Leader(_) => {
                self.planted.has(Bug::BarrierWithoutQuorum)
                    || (self.planted.has(Bug::BarrierBeforeOwnEntry)
                        && !self.group.is_committed_in_term())
            }
            Role::Follower => self.planted.has(Bug::FollowerAnswersUnasked),
        }
    }

    /// Raft has the answer to a question.
    pub(crate) fn on_read_state(&mut self, state: ReadState) {
        let mark = Mark::decode(&state.request_ctx);
        if let Some(question) =
            self.reads.asked.iter_mut().find(|question| Some(question.mark) == mark)
        {
            question.index = Some(state.index);
        }
    }

    /// Answers the reads whose index is applied.
    pub(crate) fn serve_reads(&mut self, round: &mut Round<'_>) {
        let applied = self.applied.index;
        let waits = self.leader().is_some() || !self.planted.has(Bug::FollowerAnswersUnapplied);
        let mut due = Vec::new();
        self.reads.asked.retain_mut(|question| {
            let is_due = question.index.is_some_and(|index| index <= applied || !waits);
            if is_due {
                due.append(&mut question.reads);
            }
            !is_due
        });
        self.answer_reads(due, round);
    }

    /// What the index covers may include a split, after which another region takes the writes of a part:
    /// the epoch is compared again.
    fn answer_reads(&self, reads: Vec<Read>, round: &mut Round<'_>) {
        let version = proto::region::epoch(&self.region).version;
        for read in reads {
            let answer = if read.version == version {
                Ok(Answer::Done)
            } else {
                Err(Refusal::EpochNotMatch { current_regions: vec![self.region.clone()] })
            };
            round.reply(read.reply, answer);
        }
    }

    /// Questions asked in another role have lost their answers.
    pub(crate) fn on_role_changed_for_reads(&mut self, round: &mut Round<'_>) {
        if self.reads.is_empty() {
            return;
        }
        let leads = matches!(self.role, Role::Leader(_));
        let refusal = self.not_leader();
        let mut unanswered = std::mem::take(&mut self.reads.new);
        self.reads.asked.retain_mut(|question| {
            if question.index.is_none() {
                unanswered.append(&mut question.reads);
            }
            question.index.is_some()
        });
        for read in unanswered {
            if leads || read.replica_read {
                self.reads.new.push(read);
            } else {
                round.reply(read.reply, Err(refusal.clone()));
            }
        }
    }

    /// Asks again what a follower has asked in vain, and answers those who have waited too long.
    pub(crate) fn tick_reads(&mut self, round: &mut Round<'_>) {
        if self.reads.is_empty() {
            return;
        }
        let tick = self.ticker.ticks();
        let is_follower = matches!(self.role, Role::Follower);
        let mut again = Vec::new();
        self.reads.asked.retain_mut(|question| {
            let is_lost = is_follower
                && question.index.is_none()
                && tick - question.asked_tick >= round.config.read_index_retry_ticks;
            if is_lost {
                again.append(&mut question.reads);
            }
            !is_lost
        });
        self.reads.new.append(&mut again);
        let late = Refusal::ReadIndexNotReady {
            region_id: self.region.id,
            reason: "no read index within the deadline".into(),
        };
        let questions = self.reads.asked.iter_mut().map(|question| &mut question.reads);
        for reads in questions.chain(std::iter::once(&mut self.reads.new)) {
            reads.retain(|read| {
                let is_late = read.deadline < round.now;
                if is_late {
                    round.effects.replies.push((read.reply, Err(late.clone())));
                }
                !is_late
            });
        }
    }
}
