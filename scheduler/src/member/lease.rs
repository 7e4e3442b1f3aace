//! Until when a leader may serve without asking anybody.
//!
//! A round of heartbeats that a quorum has answered proves that no other leader could be elected
//! for as long as those members keep quiet, counted from when they heard it, and so in any case
//! from when it was *sent*. The lease is shorter than that by two ticks: one for where in a tick
//! the heartbeat arrived, one for clocks that do not run alike.
//!
//! A leader that hands over its leadership asks another to campaign at once, which ends the
//! others' silence: the lease is given up before the message leaves.

use std::collections::VecDeque;

use raftstore::msg::Now;

/// Rounds that may be unanswered at once; older ones are forgotten.
const ROUNDS_MAX: usize = 64;

/// Rounds under way, and what they have proven.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    length_us: u64,
    last_round: u64,
    rounds: VecDeque<(u64, Now)>,
    until: Now,
}

impl Lease {
    pub(crate) fn new(length_us: u64) -> Self {
        Self { length_us, ..Self::default() }
    }

    /// A round is about to be sent; returns the name that its answers will carry.
    pub(crate) fn begin_round(&mut self, now: Now) -> [u8; 8] {
        self.last_round += 1;
        if self.rounds.len() == ROUNDS_MAX {
            self.rounds.pop_front();
        }
        self.rounds.push_back((self.last_round, now));
        self.last_round.to_be_bytes()
    }

    /// A quorum has answered this round, and so every earlier one.
    pub(crate) fn round_answered(&mut self, name: &[u8]) {
        let Ok(name) = name.try_into() else { return };
        let answered = u64::from_be_bytes(name);
        while let Some(&(round, sent)) = self.rounds.front() {
            if round > answered {
                break;
            }
            self.rounds.pop_front();
            if round == answered {
                self.until = self.until.max(sent.plus(self.length_us));
            }
        }
    }

    /// Not to be believed any more, nor the answers to rounds under way.
    pub(crate) fn give_up(&mut self) {
        self.rounds.clear();
        self.until = Now::default();
    }

    /// The lease holds strictly before this moment.
    pub(crate) fn until(&self) -> Now {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_when_the_round_was_sent() {
        let mut lease = Lease::new(400);
        let first = lease.begin_round(Now(1_000));
        let second = lease.begin_round(Now(1_100));
        assert_eq!(lease.until(), Now(0));
        lease.round_answered(&second);
        assert_eq!(lease.until(), Now(1_500));
        lease.round_answered(&first);
        assert_eq!(lease.until(), Now(1_500), "a late answer takes nothing back");
    }

    #[test]
    fn answers_to_rounds_from_before_giving_up_prove_nothing() {
        let mut lease = Lease::new(400);
        let before = lease.begin_round(Now(1_000));
        lease.give_up();
        lease.round_answered(&before);
        assert_eq!(lease.until(), Now(0));
        let after = lease.begin_round(Now(1_200));
        lease.round_answered(&after);
        assert_eq!(lease.until(), Now(1_600));
    }

    #[test]
    fn answers_that_are_no_rounds_of_ours_are_ignored() {
        let mut lease = Lease::new(400);
        lease.begin_round(Now(1));
        lease.round_answered(b"nonsense and too long");
        lease.round_answered(&77_u64.to_be_bytes());
        assert_eq!(lease.until(), Now(0));
    }
}
