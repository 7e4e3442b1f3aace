//! What was moved, beside the least that had to be.

use std::collections::BTreeMap;
use std::fmt;

/// What happened in a run, since it was last reset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// New peers, each of which copies its region.
    pub peers_added: u64,
    /// … and how much that was, in MiB.
    pub added_mib: u64,
    /// Peers that went.
    pub peers_removed: u64,
    /// Leads that were handed over.
    pub leaders_moved: u64,
    /// Orders that a region did not follow.
    pub dropped: u64,
    /// Heartbeats of regions.
    pub beats: u64,
}

impl Tally {
    /// Whether anything was moved.
    pub fn moved_anything(&self) -> bool {
        self.peers_added + self.peers_removed + self.leaders_moved > 0
    }
}

/// How a case went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What it is called.
    pub case: &'static str,
    /// When the last thing moved, in milliseconds from the beginning.
    pub converged_ms: u64,
    /// What was moved until then.
    pub tally: Tally,
    /// The least number of new peers that leads there.
    pub least_peers: u64,
    /// The least number of leads to hand over.
    pub least_leaders: u64,
    /// Peers of each store in the end.
    pub peers: BTreeMap<u64, u64>,
    /// Leads of each store in the end.
    pub leaders: BTreeMap<u64, u64>,
    /// MiB of each store in the end.
    pub mib: BTreeMap<u64, u64>,
}

impl Outcome {
    /// The head of the table that cases are printed in.
    pub const HEAD: &'static str = "case                          rest after   new peers (least)   \
                                    leads moved (least)   dropped   peers min-max   leads min-max";

    /// The least and the most of a table of stores.
    pub fn span(of: &BTreeMap<u64, u64>) -> (u64, u64) {
        let least = of.values().min().copied().unwrap_or(0);
        (least, of.values().max().copied().unwrap_or(0))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (peers, leaders) = (Self::span(&self.peers), Self::span(&self.leaders));
        let tally = &self.tally;
        write!(
            f,
            "{:<30} {:>7.1} s   {:>9} {:>7}   {:>11} {:>7}   {:>7}   {:>6}-{:<6}   {:>6}-{:<6}",
            self.case,
            self.converged_ms as f64 / 1_000.0,
            tally.peers_added,
            format!("({})", self.least_peers),
            tally.leaders_moved,
            format!("({})", self.least_leaders),
            tally.dropped,
            peers.0,
            peers.1,
            leaders.0,
            leaders.1
        )
    }
}

/// The least number of things to move so that no store has more than its share: what each has above it.
pub fn least_moves<'a>(have: impl IntoIterator<Item = &'a u64>) -> u64 {
    let have: Vec<u64> = have.into_iter().copied().collect();
    let share = have.iter().sum::<u64>().div_ceil((have.len() as u64).max(1));
    have.iter().map(|have| have.saturating_sub(share)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_is_what_stores_have_above_their_share() {
        assert_eq!(least_moves(&[100, 100, 100, 0, 0, 0]), 150);
        assert_eq!(least_moves(&[17, 17, 16]), 0);
        assert_eq!(least_moves(&[]), 0);
    }
}
