//! Who waits for which log entry.
//!
//! Every proposal is answered exactly once: when its index is applied (with its term, or with
//! another that overwrote it), or when it has waited too long.

use std::collections::BTreeMap;

use raftstore::msg::ReplyId;

/// Ticks after which a proposal's fate is declared unknown. Whoever waits gave up long before;
/// this keeps the table small while no quorum is there.
pub(crate) const FORGET_AFTER_TICKS: u64 = 400;

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Agreed on and applied here, as this entry.
    Applied {
        /// The entry's index.
        index: u64,
    },
    /// This member does not lead, or not in the term the proposal was made for. Nothing happened.
    NotLeader,
    /// The log would not take it just now. Nothing happened and nothing will.
    Dropped,
    /// Another leader's entry took its place. Nothing happened and nothing will.
    Overwritten,
    /// Nobody can say whether it was or will be applied.
    Unknown,
}

/// What a proposal was for: raft replaces a membership change that comes too early by nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Change,
    Membership,
}

#[derive(Debug)]
struct Waiting {
    term: u64,
    kind: Kind,
    reply: ReplyId,
    since_tick: u64,
}

/// The table of who waits.
#[derive(Debug, Default)]
pub(crate) struct Proposals {
    by_index: BTreeMap<u64, Waiting>,
}

impl Proposals {
    /// Notes that `reply` waits for the entry at `index`; gives back whom that displaces.
    pub(crate) fn wait(
        &mut self,
        index: u64,
        term: u64,
        kind: Kind,
        reply: ReplyId,
        tick: u64,
    ) -> Option<(ReplyId, Outcome)> {
        let displaced =
            self.by_index.insert(index, Waiting { term, kind, reply, since_tick: tick });
        displaced.map(|waiting| (waiting.reply, Outcome::Overwritten))
    }

    /// The entry at `index` was applied.
    pub(crate) fn applied(
        &mut self,
        index: u64,
        term: u64,
        kind: Kind,
    ) -> Option<(ReplyId, Outcome)> {
        let waiting = self.by_index.remove(&index)?;
        let outcome = match waiting {
            Waiting { term: proposed, .. } if proposed != term => Outcome::Overwritten,
            Waiting { kind: proposed, .. } if proposed != kind => Outcome::Dropped,
            Waiting { .. } => Outcome::Applied { index },
        };
        Some((waiting.reply, outcome))
    }

    /// A snapshot took the place of everything up to `index`; what it held cannot be seen.
    pub(crate) fn skipped(&mut self, index: u64) -> Vec<(ReplyId, Outcome)> {
        let later = self.by_index.split_off(&(index + 1));
        let skipped = std::mem::replace(&mut self.by_index, later);
        skipped.into_values().map(|waiting| (waiting.reply, Outcome::Unknown)).collect()
    }

    /// Those who have waited too long.
    pub(crate) fn expired(&mut self, tick: u64) -> Vec<(ReplyId, Outcome)> {
        let late = |waiting: &Waiting| waiting.since_tick + FORGET_AFTER_TICKS <= tick;
        let expired: Vec<u64> = self
            .by_index
            .iter()
            .filter(|(_, waiting)| late(waiting))
            .map(|(&index, _)| index)
            .collect();
        expired
            .iter()
            .filter_map(|index| self.by_index.remove(index))
            .map(|waiting| (waiting.reply, Outcome::Unknown))
            .collect()
    }

    /// Everybody, because the member stops.
    pub(crate) fn abandon(&mut self) -> Vec<(ReplyId, Outcome)> {
        std::mem::take(&mut self.by_index)
            .into_values()
            .map(|waiting| (waiting.reply, Outcome::Unknown))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proposal_is_answered_by_what_stands_at_its_index() {
        let mut proposals = Proposals::default();
        for (index, kind) in [(5, Kind::Change), (6, Kind::Change), (7, Kind::Membership)] {
            assert_eq!(proposals.wait(index, 2, kind, ReplyId(index), 0), None);
        }
        let applied = |index| Some((ReplyId(index), Outcome::Applied { index }));
        assert_eq!(proposals.applied(5, 2, Kind::Change), applied(5));
        assert_eq!(proposals.applied(6, 3, Kind::Change), Some((ReplyId(6), Outcome::Overwritten)));
        assert_eq!(proposals.applied(7, 2, Kind::Change), Some((ReplyId(7), Outcome::Dropped)));
        assert_eq!(proposals.applied(5, 2, Kind::Change), None, "only once");
    }

    #[test]
    fn nobody_waits_for_ever() {
        let mut proposals = Proposals::default();
        proposals.wait(5, 2, Kind::Change, ReplyId(1), 0);
        proposals.wait(9, 2, Kind::Change, ReplyId(2), 10);
        assert_eq!(proposals.expired(FORGET_AFTER_TICKS - 1), []);
        assert_eq!(proposals.expired(FORGET_AFTER_TICKS), [(ReplyId(1), Outcome::Unknown)]);
        assert_eq!(proposals.skipped(9), [(ReplyId(2), Outcome::Unknown)]);
        assert_eq!(proposals.abandon(), []);
    }
}
