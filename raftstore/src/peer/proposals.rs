//! Who waits for which entry.
//!
//! A proposal is settled by its place in the log and nothing else: when an entry is committed at its
//! index, it is either this one (same term) or it was overwritten. An entry of a newer term committed
//! before that index says the same. Losing leadership settles nothing:
//! the next leader may still commit what we proposed. So proposals outlive the role, for an election timeout:
//! a peer that is cut off may never learn what became of them, and its callers are told that nobody knows
//! rather than left waiting. Every one is answered once.

use std::collections::BTreeMap;

use raft::eraftpb::Entry;

use crate::msg::ReplyId;
use crate::storage::group_log::Position;

/// Proposals not yet applied, by index and term.
#[derive(Debug, Default)]
pub(crate) struct Proposals(BTreeMap<(u64, u64), Vec<ReplyId>>);

impl Proposals {
    /// Remembers who waits for the entry at this position.
    pub(crate) fn push(&mut self, at: Position, replies: Vec<ReplyId>) {
        if !replies.is_empty() {
            self.0.insert((at.index, at.term), replies);
        }
    }

    /// These entries are committed: takes those who wait for others in their places, or behind them for
    /// an entry of an older term, which cannot come any more since terms never go back in a log.
    pub(crate) fn take_overwritten(&mut self, committed: &[Entry]) -> Vec<ReplyId> {
        let (Some(first), Some(last)) = (committed.first(), committed.last()) else {
            return Vec::new();
        };
        let lost: Vec<(u64, u64)> = self
            .0
            .range((first.index, 0)..)
            .map(|(key, _)| *key)
            .filter(|(index, term)| {
                committed
                    .get((index - first.index) as usize)
                    .map_or(*term < last.term, |entry| entry.term != *term)
            })
            .collect();
        lost.iter().flat_map(|key| self.0.remove(key).unwrap_or_default()).collect()
    }

    /// Everything up to here is applied: takes those who waited for it, in log order.
    pub(crate) fn take_applied(&mut self, upto: u64) -> Vec<(u64, Vec<ReplyId>)> {
        let rest = self.0.split_off(&(upto + 1, 0));
        let applied = std::mem::replace(&mut self.0, rest);
        applied.into_iter().map(|((index, _), replies)| (index, replies)).collect()
    }

    /// Takes those who wait for what was proposed up to this term.
    pub(crate) fn take_proposed_in(&mut self, term: u64) -> Vec<ReplyId> {
        let (lost, kept) =
            std::mem::take(&mut self.0).into_iter().partition(|((_, at), _)| *at <= term);
        self.0 = kept;
        let lost: BTreeMap<(u64, u64), Vec<ReplyId>> = lost;
        lost.into_values().flatten().collect()
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes everybody who waits.
    pub(crate) fn take_all(&mut self) -> Vec<ReplyId> {
        std::mem::take(&mut self.0).into_values().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(terms: &[u64], first: u64) -> Vec<Entry> {
        let entry = |(at, term): (usize, &u64)| Entry {
            index: first + at as u64,
            term: *term,
            ..Default::default()
        };
        terms.iter().enumerate().map(entry).collect()
    }

    fn at(index: u64, term: u64) -> Position {
        Position { index, term }
    }

    #[test]
    fn behind_an_entry_of_a_newer_term_none_of_an_older_one_can_come() {
        let mut proposals = Proposals::default();
        proposals.push(at(12, 3), vec![ReplyId(1)]);
        proposals.push(at(13, 5), vec![ReplyId(2)]);
        assert_eq!(proposals.take_overwritten(&entries(&[3], 10)), vec![]);
        assert_eq!(proposals.take_overwritten(&entries(&[5], 11)), vec![ReplyId(1)]);
        assert_eq!(proposals.take_all(), vec![ReplyId(2)]);
    }

    #[test]
    fn what_was_proposed_in_a_lost_term_is_given_up_and_nothing_else() {
        let mut proposals = Proposals::default();
        proposals.push(at(10, 3), vec![ReplyId(1)]);
        proposals.push(at(12, 5), vec![ReplyId(2)]);
        assert_eq!(proposals.take_proposed_in(2), vec![]);
        assert_eq!(proposals.take_proposed_in(4), vec![ReplyId(1)]);
        assert_eq!(proposals.take_proposed_in(5), vec![ReplyId(2)]);
    }

    /// S0.47: two proposals may have one index, never one index and term.
    #[test]
    fn an_entry_of_another_term_in_its_place_settles_a_proposal() {
        let mut proposals = Proposals::default();
        proposals.push(at(10, 3), vec![ReplyId(1)]);
        proposals.push(at(11, 3), vec![ReplyId(2), ReplyId(3)]);
        // Led again, and proposed at an index where an older proposal may still win.
        proposals.push(at(11, 5), vec![ReplyId(4)]);
        proposals.push(at(12, 5), vec![ReplyId(5)]);
        assert_eq!(proposals.take_overwritten(&entries(&[3, 3], 10)), vec![ReplyId(4)]);
        let applied = proposals.take_applied(11);
        assert_eq!(applied, vec![(10, vec![ReplyId(1)]), (11, vec![ReplyId(2), ReplyId(3)])]);
        assert_eq!(proposals.take_all(), vec![ReplyId(5)]);
        assert_eq!(proposals.take_all(), vec![]);
    }
}
