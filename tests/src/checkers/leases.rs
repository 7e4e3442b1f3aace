//! No two stores hold the lease of one region at the same instant of global time (I10).
//!
//! A lease is a span on its store's own clock. Here it is a span of the world's time, which no store sees:
//! from when it was granted to when the store's clock will have reached its end. Whoever grants leases by a
//! wrong clock, or counts votes of stores that have promised to wait, grants two at once.

use std::collections::BTreeMap;

/// A lease as it stands: region, term, and the instant at which it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Whose.
    pub region: u64,
    /// In which term.
    pub term: u64,
    /// When it ends, in the world's time.
    pub until: u64,
}

/// Who holds which lease until when.
#[derive(Debug, Default)]
pub struct Leases {
    /// By region and store: the term and the end.
    held: BTreeMap<(u64, u64), (u64, u64)>,
}

impl Leases {
    /// Told all the leases that a store holds now.
    pub fn holds(&mut self, store: u64, now: u64, leases: &[Held]) -> Result<(), String> {
        self.ended(store);
        for Held { region, term, until } in leases.iter().copied().filter(|held| held.until > now) {
            let others = self.held.range((region, 0)..=(region, u64::MAX));
            let at_once = others.clone().find(|(_, (_, end))| *end > now);
            if let Some(((_, other), (their_term, end))) = at_once {
                return Err(format!(
                    "r{region} has two leases: s{other} in term {their_term} for {} us more, s{store} in term {term}",
                    end - now
                ));
            }
            self.held.insert((region, store), (term, until));
        }
        Ok(())
    }

    /// Told that a store ended.
    pub fn ended(&mut self, store: u64) {
        self.held.retain(|(_, holder), _| *holder != store);
    }

    /// Whether this store holds the lease of any region now.
    pub fn has_any(&self, store: u64, now: u64) -> bool {
        self.held.iter().any(|((_, holder), (_, until))| *holder == store && *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(region: u64, until: u64) -> Held {
        Held { region, term: 6, until }
    }

    #[test]
    fn two_leases_at_once_are_found() {
        let mut checker = Leases::default();
        checker.holds(1, 100, &[lease(1, 500), lease(2, 500)]).unwrap();
        assert!(checker.has_any(1, 499) && !checker.has_any(1, 500));
        assert!(checker.holds(2, 499, &[lease(1, 900)]).is_err());
    }

    #[test]
    fn one_after_the_other_is_as_it_should_be() {
        let mut checker = Leases::default();
        checker.holds(1, 100, &[lease(1, 500)]).unwrap();
        checker.holds(1, 200, &[lease(1, 600)]).unwrap();
        assert!(checker.holds(2, 600, &[lease(1, 900)]).is_ok());
        // Given back before its end, or gone with its store.
        checker.holds(2, 700, &[]).unwrap();
        assert!(checker.holds(1, 701, &[lease(1, 1200)]).is_ok());
        checker.ended(1);
        assert!(checker.holds(2, 702, &[lease(1, 1200)]).is_ok());
    }
}
