//! At most one leader a region and term (I1), and it holds every committed entry (I3).

use std::collections::BTreeMap;

use super::committed::Committed;

/// Who was seen leading.
#[derive(Debug, Default)]
pub struct OneLeader {
    leaders: BTreeMap<(u64, u64), u64>,
}

impl OneLeader {
    /// Told whenever a peer is seen leading. Returns whether this leadership is news.
    pub fn leads(&mut self, region: u64, term: u64, peer: u64) -> Result<bool, String> {
        match self.leaders.insert((region, term), peer) {
            None => Ok(true),
            Some(known) if known == peer => Ok(false),
            Some(other) => {
                Err(format!("r{region} has two leaders in term {term}: p{other}, p{peer}"))
            }
        }
    }

    /// Told of a new leader's log: it must hold what was committed in earlier terms. `term_at` says
    /// the term of its entry, `None` for what it has cut off or does not have past its last index.
    pub fn is_complete(
        region: u64,
        term: u64,
        committed: &Committed,
        last_index: u64,
        term_at: impl Fn(u64) -> Option<u64>,
    ) -> Result<(), String> {
        for (index, entry) in committed.newest_first(region) {
            if entry.term >= term {
                continue;
            }
            if index > last_index {
                return Err(format!(
                    "r{region} leader of term {term} ends at {last_index} and lacks {index}@{}",
                    entry.term
                ));
            }
            match term_at(index) {
                Some(own) if own != entry.term => {
                    return Err(format!(
                        "r{region} leader of term {term} has {index}@{own}, committed is {index}@{}",
                        entry.term
                    ));
                }
                Some(_) => {}
                // Cut off: it was applied here, and what was applied is compared elsewhere.
                None => break,
            }
        }
        Ok(())
    }

    /// How many leaderships there were.
    pub fn count(&self) -> usize {
        self.leaders.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_leaders_of_one_term_are_found() {
        let mut checker = OneLeader::default();
        assert_eq!(checker.leads(1, 5, 7), Ok(true));
        assert_eq!(checker.leads(1, 5, 7), Ok(false));
        assert_eq!(checker.leads(1, 6, 8), Ok(true));
        assert_eq!(checker.leads(2, 5, 8), Ok(true));
        assert!(checker.leads(1, 5, 8).is_err());
    }

    #[test]
    fn a_leader_without_a_committed_entry_is_found() {
        let mut committed = Committed::default();
        committed.entry(1, 4, 2, 99).unwrap();
        assert!(OneLeader::is_complete(1, 3, &committed, 4, |_| Some(2)).is_ok());
        assert!(OneLeader::is_complete(1, 3, &committed, 3, |_| Some(2)).is_err());
        assert!(OneLeader::is_complete(1, 3, &committed, 4, |_| Some(1)).is_err());
        assert!(OneLeader::is_complete(2, 3, &committed, 0, |_| None).is_ok());
    }
}
