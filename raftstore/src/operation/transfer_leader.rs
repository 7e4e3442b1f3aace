//! Handing leadership over.
//!
//! Begun by the scheduler, or here when a leader is to be removed. Raft lets the target catch up, then
//! calls it to campaign at once (`MsgTimeoutNow`); nothing is written to the log for it. While it lasts
//! writes wait in their queue and the lease is off; raft gives up after an election timeout.
//!
//! A target must be a voter that answers and follows the log closely: handing over to one that must
//! first catch up far would only stop the writes.

use proto::PeerId;
use raft::ProgressState;

use crate::engine::LogEngine;
use crate::peer::{Peer, Round};

/// A target that lacks more entries than this is not asked.
const LAG_ENTRIES_MAX: u64 = 128;

impl<L: LogEngine> Peer<L> {
    /// Hands leadership to the first of these that can take it; without a choice, to the most advanced.
    pub(crate) fn transfer_leader(&mut self, wanted: &[PeerId], round: &Round<'_>) -> bool {
        if self.leader().is_none() || self.group.raft().has_pending_conf() {
            return false;
        }
        let Some(target) = self.best_transferee(wanted, round) else { return false };
        self.group.transfer_leader(target);
        true
    }

    fn best_transferee(&self, wanted: &[PeerId], round: &Round<'_>) -> Option<PeerId> {
        let heard = &self.leader()?.heard;
        let answers = |voter: &PeerId| {
            let heard = heard.get(voter);
            heard.is_some_and(|heard| round.now.since(*heard) < round.config.election_micros())
        };
        let raft = self.group.raft();
        let last = self.group.last_index();
        let mut best: Option<(u64, PeerId)> = None;
        for voter in self.voters().iter().filter(|voter| **voter != self.id()) {
            let Some(progress) = raft.prs().get(voter.0) else { continue };
            let can = answers(voter)
                && progress.state != ProgressState::Snapshot
                && progress.matched + LAG_ENTRIES_MAX >= last
                && (wanted.is_empty() || wanted.contains(voter));
            if can && best.is_none_or(|(matched, _)| progress.matched > matched) {
                best = Some((progress.matched, *voter));
            }
        }
        best.map(|(_, voter)| voter)
    }
}
