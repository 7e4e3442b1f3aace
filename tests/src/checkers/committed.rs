//! What is committed stays (I3), and is the same command on all replicas (I4).

use std::collections::BTreeMap;

/// One committed entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommittedEntry {
    /// Its term.
    pub term: u64,
    /// A digest of what it carries.
    pub digest: u64,
}

/// Every entry that any replica was ever given to apply.
#[derive(Debug, Default)]
pub struct Committed {
    entries: BTreeMap<(u64, u64), CommittedEntry>,
}

impl Committed {
    /// Told whenever a replica is given an entry to apply. Returns whether it is the first time.
    pub fn entry(
        &mut self,
        region: u64,
        index: u64,
        term: u64,
        digest: u64,
    ) -> Result<bool, String> {
        let entry = CommittedEntry { term, digest };
        match self.entries.insert((region, index), entry) {
            None => Ok(true),
            Some(known) if known == entry => Ok(false),
            Some(known) => Err(format!(
                "r{region} commits {index}@{term} after {index}@{} (digests {digest:x}, {:x})",
                known.term, known.digest
            )),
        }
    }

    /// The committed entries of a region, newest first.
    pub fn newest_first(&self, region: u64) -> impl Iterator<Item = (u64, CommittedEntry)> + '_ {
        self.entries
            .range((region, 0)..=(region, u64::MAX))
            .rev()
            .map(|((_, index), entry)| (*index, *entry))
    }

    /// How many entries were committed.
    pub fn count(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_entry_at_a_committed_index_is_found() {
        let mut checker = Committed::default();
        assert_eq!(checker.entry(1, 4, 2, 99), Ok(true));
        assert_eq!(checker.entry(1, 4, 2, 99), Ok(false));
        assert!(checker.entry(1, 4, 3, 99).is_err());
        let mut checker = Committed::default();
        checker.entry(1, 4, 2, 99).unwrap();
        assert!(checker.entry(1, 4, 2, 98).is_err());
    }
}
