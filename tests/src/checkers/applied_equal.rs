//! Replicas that applied equally far hold equal data (I6), and applying never goes back but by a
//! loss of power, and then not below what was durable.

use std::collections::BTreeMap;

/// What replicas held at which applied index.
#[derive(Debug, Default)]
pub struct AppliedEqual {
    data: BTreeMap<(u64, u64), (u64, u64)>,
    applied: BTreeMap<(u64, u64), u64>,
}

impl AppliedEqual {
    /// Told how far a store has applied a region, after each step of applying.
    pub fn applied(&mut self, store: u64, region: u64, index: u64) -> Result<(), String> {
        match self.applied.insert((store, region), index) {
            Some(before) if before > index => {
                Err(format!("s{store} r{region} goes back from applied {before} to {index}"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Told that a store lost power: what it applied since the last sync may be gone.
    pub fn restarted(&mut self, store: u64) {
        self.applied.retain(|(other, _), _| *other != store);
    }

    /// Told that a store destroyed its peer of a region; a later one begins anew.
    pub fn destroyed(&mut self, store: u64, region: u64) {
        self.applied.remove(&(store, region));
    }

    /// Told a digest of the region's data on a store that has applied exactly up to an index.
    pub fn data(&mut self, store: u64, region: u64, index: u64, digest: u64) -> Result<(), String> {
        let (first, known) = *self.data.entry((region, index)).or_insert((store, digest));
        if known == digest {
            return Ok(());
        }
        Err(format!("r{region} differs between s{first} and s{store} at applied {index}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_data_at_equal_applied_index_is_found() {
        let mut checker = AppliedEqual::default();
        checker.data(1, 1, 7, 99).unwrap();
        checker.data(2, 1, 7, 99).unwrap();
        assert!(checker.data(3, 1, 7, 98).is_err());
    }

    #[test]
    fn applying_goes_back_only_by_a_restart() {
        let mut checker = AppliedEqual::default();
        checker.applied(1, 1, 7).unwrap();
        assert!(checker.applied(1, 1, 6).is_err());
        checker.restarted(1);
        assert!(checker.applied(1, 1, 6).is_ok());
    }
}
