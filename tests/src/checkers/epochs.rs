//! Epochs only grow, on every store and for every region; and one epoch is one description (I5).

use std::collections::BTreeMap;

use proto::{metapb, region};

/// What regions looked like at which epoch, and which epoch each store has reached.
#[derive(Debug, Default)]
pub struct Epochs {
    reached: BTreeMap<(u64, u64), metapb::RegionEpoch>,
    /// By region, version and conf version.
    described: BTreeMap<(u64, u64, u64), metapb::Region>,
}

impl Epochs {
    /// Told of a region as a store has applied it. Returns whether that is news from this store.
    pub fn describes(&mut self, store: u64, new: &metapb::Region) -> Result<bool, String> {
        let epoch = region::epoch(new);
        match self.reached.insert((store, new.id), epoch) {
            Some(before) if before == epoch => return Ok(false),
            Some(before) if region::is_epoch_stale(&epoch, &before) => {
                return Err(format!(
                    "s{store} goes back from v{}.c{} to {}",
                    before.version,
                    before.conf_ver,
                    region::Readable(new)
                ));
            }
            Some(_) | None => {}
        }
        let key = (new.id, epoch.version, epoch.conf_ver);
        let known = self.described.entry(key).or_insert_with(|| new.clone());
        if known == new {
            return Ok(true);
        }
        Err(format!(
            "one epoch, two descriptions: {} and, on s{store}, {}",
            region::Readable(known),
            region::Readable(new)
        ))
    }

    /// Told that a store ended: what it applied last may be gone.
    pub fn restarted(&mut self, store: u64) {
        self.reached.retain(|(other, _), _| *other != store);
    }

    /// Told that a store destroyed its peer of a region; a later one begins where the region is then.
    pub fn destroyed(&mut self, store: u64, region: u64) {
        self.reached.remove(&(store, region));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(version: u64, conf_ver: u64, end: &'static str) -> metapb::Region {
        metapb::Region {
            id: 1,
            end_key: end.into(),
            region_epoch: Some(metapb::RegionEpoch { conf_ver, version }),
            ..Default::default()
        }
    }

    #[test]
    fn an_epoch_that_goes_back_is_found() {
        let mut checker = Epochs::default();
        assert_eq!(checker.describes(1, &region(1, 1, "")), Ok(true));
        assert_eq!(checker.describes(1, &region(1, 1, "")), Ok(false));
        assert_eq!(checker.describes(1, &region(2, 1, "m")), Ok(true));
        assert!(checker.describes(1, &region(1, 2, "")).is_err());
        // Another store may be behind, and so may this one after a restart.
        assert_eq!(checker.describes(2, &region(1, 1, "")), Ok(true));
        checker.restarted(1);
        assert_eq!(checker.describes(1, &region(1, 1, "")), Ok(true));
    }

    #[test]
    fn two_descriptions_of_one_epoch_are_found() {
        let mut checker = Epochs::default();
        checker.describes(1, &region(2, 1, "m")).unwrap();
        assert!(checker.describes(2, &region(2, 1, "n")).is_err());
        checker.destroyed(2, 1);
        assert!(checker.describes(2, &region(2, 1, "m")).is_ok());
    }
}
