//! When a leader gives up its office by itself.
//!
//! **Another shall lead.** People may give members priorities. A leader of some time ([`PRIORITY_TICKS`]) hands
//! over as soon as a voter of a higher priority than its own is heard and has caught up, to the highest of
//! them, and tries again after as long. A member that is behind or silent is passed by until it is well; among
//! equals nobody moves.
//!
//! **It hangs in part.** Heartbeats may come and go, so that the lease holds, while nothing gets into the log:
//! appends are lost, or the disks of a quorum stand still. Nobody would take such a leader's place by himself.
//! So a leader whose log has had something to commit for [`STUCK_TICKS`] without committing anything steps
//! down. It cannot hand over, because who takes over must have all of its log first. For as long as the others
//! need to notice and elect one of themselves ([`REST_TICKS`]) it does not campaign. A log that has nothing
//! to commit is not stuck; but that does not last, since the bound of timestamps goes through it every few
//! seconds. In a group of one there is nobody else to lead.
//!
//! Left out: judging a leader by how slow it is.

use proto::PeerId;
use raftstore::engine::LogEngine;

use super::Member;
use super::machine::State;

/// How long a leader leads before it looks for a member that should rather lead, and how long it waits between
/// two tries to hand over.
pub const PRIORITY_TICKS: u64 = 100;
/// A voter of a higher priority takes over when it has all but so many entries.
const CAUGHT_UP_ENTRIES: u64 = 64;
/// For so many ticks a log may hold entries that are not committed.
pub const STUCK_TICKS: u64 = 80;

/// For so many ticks a member that stepped down does not ask for votes: two election timeouts of the others.
const REST_TICKS: u64 = 50;

/// How long nothing was committed although there was something to.
#[derive(Debug, Default)]
pub(super) struct Stuck {
    committed: u64,
    since_tick: u64,
}

impl Stuck {
    /// Looks at the log once a tick; says whether it has been stuck for too long.
    fn is_stuck(&mut self, committed: u64, last: u64, tick: u64) -> bool {
        if committed == last || committed != self.committed {
            *self = Self { committed, since_tick: tick };
        }
        tick.saturating_sub(self.since_tick) >= STUCK_TICKS
    }
}

impl<L: LogEngine> Member<L> {
    /// A leader's look at itself, once a tick.
    pub(super) fn maybe_resign(&mut self, state: &State) {
        let (committed, last) = (self.group.committed_index(), self.group.last_index());
        let is_stuck = self.stuck.is_stuck(committed, last, self.ticks);
        if is_stuck && !self.group.is_only_voter() {
            tracing::warn!(committed, last, "nothing is committed any more: this member resigns");
            self.group.step_down();
            self.rests_until_tick = self.ticks + REST_TICKS;
            self.notice_leadership();
        } else if self.ticks >= self.yields_from_tick
            && let Some(better) = self.better_leader(state)
        {
            self.yields_from_tick = self.ticks + PRIORITY_TICKS;
            tracing::info!(to = %format!("{better:x}"), "a member of a higher priority shall lead");
            self.hand_over(better);
        }
    }

    /// The voter of the highest priority above this member's, if one is well.
    fn better_leader(&self, state: &State) -> Option<u64> {
        let own = state.members().get(&self.id()).map_or(0, |member| member.leader_priority);
        let committed = self.group.committed_index();
        let prs = self.group.raft().prs();
        let is_well = |id: u64| {
            let is_voter = self.group.voters().contains(&PeerId(id));
            let progress = prs.get(id).filter(|_| is_voter);
            progress
                .is_some_and(|pr| pr.recent_active && pr.matched + CAUGHT_UP_ENTRIES >= committed)
        };
        let members = state.members().values();
        members
            .filter(|member| member.leader_priority > own && is_well(member.member_id))
            .max_by_key(|member| (member.leader_priority, member.member_id))
            .map(|member| member.member_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_stuck_when_it_holds_something_and_commits_nothing() {
        let mut stuck = Stuck::default();
        assert!(!stuck.is_stuck(5, 5, 1));
        assert!(!stuck.is_stuck(5, 5, 500), "there is nothing to commit");
        assert!(!stuck.is_stuck(5, 6, 501));
        assert!(!stuck.is_stuck(5, 9, 499 + STUCK_TICKS));
        assert!(stuck.is_stuck(5, 9, 500 + STUCK_TICKS));
        assert!(!stuck.is_stuck(6, 9, 501 + STUCK_TICKS), "it goes on");
    }
}
