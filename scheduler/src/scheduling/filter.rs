//! Filters: which stores must not be used.
//!
//! A filter answers *true when the store cannot be chosen*, as a source to take something from, or as
//! a target to put something on. The tables of [`crate::placement`] are the filters that matter;
//! [`TableFilter`] makes one of a table and a question.

use crate::placement::{Candidate, Predicate, Question, excluded};

/// A reason not to choose a store.
pub trait Filter {
    /// What it looks at, for people.
    fn name(&self) -> &str;

    /// Whether the store must not be used as a source.
    fn filter_source(&self, store: &Candidate<'_>) -> bool;

    /// Whether the store must not be used as a target.
    fn filter_target(&self, store: &Candidate<'_>) -> bool;
}

/// Two tables of predicates, about one region.
pub struct TableFilter<'q, 'a> {
    /// For people.
    pub name: &'static str,
    /// What keeps a store from giving.
    pub source: &'static [Predicate],
    /// What keeps a store from taking.
    pub target: &'static [Predicate],
    /// The region, and who else has it.
    pub question: &'q Question<'a>,
}

impl Filter for TableFilter<'_, '_> {
    fn name(&self) -> &str {
        self.name
    }

    fn filter_source(&self, store: &Candidate<'_>) -> bool {
        excluded(self.source, store, self.question).is_some()
    }

    fn filter_target(&self, store: &Candidate<'_>) -> bool {
        excluded(self.target, store, self.question).is_some()
    }
}

/// The first filter that speaks against the store as a source.
pub fn source_refused<'f>(
    store: &Candidate<'_>,
    filters: &[&'f dyn Filter],
) -> Option<&'f dyn Filter> {
    filters.iter().copied().find(|filter| filter.filter_source(store))
}

/// The first filter that speaks against the store as a target.
pub fn target_refused<'f>(
    store: &Candidate<'_>,
    filters: &[&'f dyn Filter],
) -> Option<&'f dyn Filter> {
    filters.iter().copied().find(|filter| filter.filter_target(store))
}
