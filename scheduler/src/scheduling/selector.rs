//! Selectors: of several stores, which one to take from, and which one to give to.

use super::filter::{Filter, source_refused, target_refused};
use crate::placement::Candidate;

/// Picks stores. Both picks are `None` when the filters leave nobody.
pub trait Selector {
    /// The best store to take from.
    fn select_source<'c, 'a>(
        &self,
        stores: &'c [Candidate<'a>],
        filters: &[&dyn Filter],
    ) -> Option<&'c Candidate<'a>>;

    /// The best store to give to.
    fn select_target<'c, 'a>(
        &self,
        stores: &'c [Candidate<'a>],
        filters: &[&dyn Filter],
    ) -> Option<&'c Candidate<'a>>;
}

/// Takes from the store with the highest score, and gives to the one with the lowest; of equals, the
/// one with the lowest id.
pub struct ByScore<S> {
    /// How loaded a store is.
    pub score: S,
}

impl<S: Fn(&Candidate<'_>) -> i64> Selector for ByScore<S> {
    fn select_source<'c, 'a>(
        &self,
        stores: &'c [Candidate<'a>],
        filters: &[&dyn Filter],
    ) -> Option<&'c Candidate<'a>> {
        stores
            .iter()
            .filter(|store| source_refused(store, filters).is_none())
            .max_by_key(|store| ((self.score)(store), std::cmp::Reverse(store.store.id())))
    }

    fn select_target<'c, 'a>(
        &self,
        stores: &'c [Candidate<'a>],
        filters: &[&dyn Filter],
    ) -> Option<&'c Candidate<'a>> {
        stores
            .iter()
            .filter(|store| target_refused(store, filters).is_none())
            .min_by_key(|store| ((self.score)(store), store.store.id()))
    }
}
