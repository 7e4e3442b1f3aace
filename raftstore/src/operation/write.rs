//! Put, delete, delete range.
//!
//! **Enter.** A write that passes admission waits in its region's queue until the round's flush. The
//! queue is bounded; when it is full the caller is told to come back.
//!
//! **Fold.** At the flush all waiting writes of the region become one entry (or a few, each at most
//! `entry_bytes_max`): replicating an entry costs the same for one write as for a hundred. Nothing waits
//! for company: what is there when the round ends is what is folded, and while the log is being written
//! the next writes gather by themselves. All writes of an entry share one epoch; each has a reply of its
//! own.
//!
//! **Apply.** The epoch is compared again: a split may have come between. Only the version matters, a
//! change of membership does not move keys. A refusal while applying is the same on every replica.
//!
//! **Answer.** By index and term, when applied here (`peer/proposals.rs`).
//!
//! While a split is on its way writes wait rather than being proposed in vain, and so they do while
//! leadership is being handed over: the new leader is named in the answer then.

use std::collections::VecDeque;

use proto::{Refusal, metapb};

use crate::applier::Delegate;
use crate::command::Fold;
use crate::engine::{LogEngine, WriteBatch};
use crate::msg::{Answer, ReplyId, Target};
use crate::peer::admission;
use crate::peer::{Peer, Round};
use crate::plant::Bug;

/// Writes of one region that wait to be proposed.
#[derive(Debug, Default)]
pub(crate) struct WaitingWrites {
    queue: VecDeque<WaitingWrite>,
    bytes: usize,
}

#[derive(Debug)]
struct WaitingWrite {
    target: Target,
    batch: WriteBatch,
    reply: ReplyId,
}

impl WaitingWrites {
    fn push(&mut self, write: WaitingWrite) {
        self.bytes += write.batch.bytes();
        self.queue.push_back(write);
    }

    fn pop(&mut self) -> Option<WaitingWrite> {
        let write = self.queue.pop_front()?;
        self.bytes -= write.batch.bytes();
        Some(write)
    }

    fn unpop(&mut self, write: WaitingWrite) {
        self.bytes += write.batch.bytes();
        self.queue.push_front(write);
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes everybody who waits.
    pub(crate) fn take_all(&mut self) -> Vec<ReplyId> {
        self.bytes = 0;
        self.queue.drain(..).map(|write| write.reply).collect()
    }
}

impl<L: LogEngine> Peer<L> {
    /// A caller wants to write, and the target is this peer.
    pub(crate) fn add_write(
        &mut self,
        target: Target,
        batch: WriteBatch,
        reply: ReplyId,
        round: &mut Round<'_>,
    ) {
        let view = self.view();
        let admitted = admission::check_write(&batch, &view.region, &view.range, round.config);
        let refused = match admitted {
            Err(refusal) => Some(refusal),
            Ok(()) if target.is_late(round.now) => Some(Refusal::deadline_exceeded()),
            Ok(()) if self.writes.bytes + batch.bytes() > round.config.waiting_bytes_max => {
                let reason = "too many writes wait for this region".into();
                Some(Refusal::ServerIsBusy { reason, backoff_ms: 0 })
            }
            Ok(()) => None,
        };
        match refused {
            Some(refusal) => round.reply(reply, Err(refusal)),
            None => self.writes.push(WaitingWrite { target, batch, reply }),
        }
    }

    /// Folds what waits into entries and proposes them.
    pub(crate) fn propose_writes(&mut self, round: &mut Round<'_>) {
        let may = self.leader().is_some_and(|leader| leader.pending_split.is_none())
            && self.group.transferee().is_none()
            && self.group.is_persisted();
        while may && !self.writes.queue.is_empty() {
            let epoch = proto::region::epoch(&self.region);
            let mut fold = Fold::new(epoch);
            let mut folded = Vec::new();
            while let Some(write) = self.writes.pop() {
                let is_full = !folded.is_empty()
                    && fold.len() + Fold::bytes_of(&write.batch) > round.config.entry_bytes_max;
                if is_full {
                    self.writes.unpop(write);
                    break;
                }
                match self.still_welcome(&write, &epoch, round) {
                    Err(refusal) => round.reply(write.reply, Err(refusal)),
                    Ok(()) => {
                        fold.push(&write.batch);
                        folded.push(write);
                    }
                }
            }
            if folded.is_empty() {
                return;
            }
            match self.group.propose(fold.finish()) {
                Ok(at) => {
                    let replies: Vec<_> = folded.into_iter().map(|write| write.reply).collect();
                    if self.planted.has(Bug::AnsweredWhenProposed) {
                        replies.iter().for_each(|to| round.reply(*to, Ok(Answer::Done)));
                    } else {
                        self.proposals.push(at, replies);
                    }
                }
                Err(_) => {
                    // Too much is uncommitted: wait for some of it.
                    folded.into_iter().rev().for_each(|write| self.writes.unpop(write));
                    return;
                }
            }
        }
    }

    /// The write may have waited through a split, or for too long.
    fn still_welcome(
        &self,
        write: &WaitingWrite,
        epoch: &metapb::RegionEpoch,
        round: &Round<'_>,
    ) -> Result<(), Refusal> {
        if write.target.epoch.version != epoch.version
            && !self.planted.has(Bug::WaitingWriteUnchecked)
        {
            return Err(Refusal::EpochNotMatch { current_regions: vec![self.region.clone()] });
        }
        if write.target.is_late(round.now) {
            return Err(Refusal::deadline_exceeded());
        }
        Ok(())
    }

    /// Nobody here can propose them: whoever waits is told who leads.
    pub(crate) fn refuse_writes(&mut self, round: &mut Round<'_>) {
        if !self.writes.queue.is_empty() {
            let refusal = self.not_leader();
            let waiting = self.writes.take_all();
            round.refuse_all(waiting, &refusal);
        }
    }

    /// Answers those who have waited for longer than they wanted to.
    pub(crate) fn refuse_late_writes(&mut self, round: &mut Round<'_>) {
        if !self.writes.queue.iter().any(|write| write.target.is_late(round.now)) {
            return;
        }
        let (late, in_time): (VecDeque<_>, _) = std::mem::take(&mut self.writes.queue)
            .into_iter()
            .partition(|write| write.target.is_late(round.now));
        self.writes.queue = in_time;
        for write in late {
            self.writes.bytes -= write.batch.bytes();
            round.reply(write.reply, Err(Refusal::deadline_exceeded()));
        }
    }
}

impl Delegate {
    /// Applies a write: adds its changes to the round's batch, or refuses it.
    pub(crate) fn apply_write(
        &mut self,
        epoch: &metapb::RegionEpoch,
        changes: WriteBatch,
        batch: &mut WriteBatch,
    ) -> Result<(), Refusal> {
        if epoch.version != proto::region::epoch(&self.region).version
            && !self.planted.has(Bug::EpochUncheckedWhenApplied)
        {
            return Err(Refusal::EpochNotMatch { current_regions: vec![self.region.clone()] });
        }
        self.bytes_written += changes.bytes() as u64;
        self.keys_written += changes.len() as u64;
        batch.append(changes);
        Ok(())
    }
}
