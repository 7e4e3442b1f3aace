//! The last changes of values, for those who watch: what was written and deleted, in the log's order.
//!
//! ```text
//!     forgotten            kept                    to come
//!  ──────────────────┤───────────────────────┤·············► revision
//!                  first                   applied
//! ```
//!
//! A revision is the index of the entry that made the change. Whoever watches from one on gets
//! every change from there, or is told that some of them are forgotten, reads everything anew and
//! watches from there. Each member keeps its own, in memory: a new leader goes on with what it has
//! applied itself, and begins where it was started or got a snapshot.
//!
//! It is no part of the state: two states are equal whatever way they came.

use std::collections::VecDeque;

use bytes::Bytes;
use proto::schedulerpb::KeyValue;

/// Changes that are kept; the oldest are forgotten, and who still waits for them reads anew.
pub const CHANGES_MAX: usize = 8_192;

/// Bytes that they may take, keys and values of before and after; the same happens beyond.
pub const CHANGES_BYTES_MAX: usize = 16 << 20;

/// A value was written or deleted.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueChange {
    /// The index of the entry that did it; entries that change several values have one for all.
    pub revision: u64,
    /// The value's key.
    pub key: Bytes,
    /// What it is now; `None` when it was deleted.
    pub after: Option<KeyValue>,
    /// What it was before; `None` when there was none.
    pub before: Option<KeyValue>,
}

impl ValueChange {
    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        let values = self.after.iter().chain(&self.before);
        self.key.len() + values.map(|value| value.key.len() + value.value.len()).sum::<usize>()
    }
}

/// Changes from the revision asked for on are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// The first revision from which all are known.
    pub first: u64,
}

/// The changes that are kept.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// By revision, rising.
    changes: VecDeque<ValueChange>,
    bytes: usize,
    /// All changes of this revision and later ones are kept.
    first: u64,
}

impl PartialEq for History {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl History {
    /// Nothing is known of how the state of this index came to be.
    pub fn after(index: u64) -> Self {
        Self { first: index + 1, ..Self::default() }
    }

    /// A value changes, at a revision not below the last one.
    pub fn push(&mut self, change: ValueChange) {
        self.bytes += change.bytes();
        self.changes.push_back(change);
        while self.changes.len() > CHANGES_MAX || self.bytes > CHANGES_BYTES_MAX {
            let Some(oldest) = self.changes.pop_front() else { break };
            self.bytes -= oldest.bytes();
            // Of its revision, too, not everything is known any more.
            self.first = self.first.max(oldest.revision + 1);
        }
    }

    /// The changes of this revision and of later ones, in order.
    pub fn since(&self, revision: u64) -> Result<impl Iterator<Item = &ValueChange>, Forgotten> {
        if revision < self.first {
            return Err(Forgotten { first: self.first });
        }
        let from = self.changes.partition_point(|change| change.revision < revision);
        Ok(self.changes.range(from..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(revision: u64, bytes: usize) -> ValueChange {
        let value = KeyValue { value: vec![0; bytes].into(), ..KeyValue::default() };
        ValueChange { revision, key: "k".into(), after: Some(value), before: None }
    }

    fn revisions(history: &History, from: u64) -> Result<Vec<u64>, Forgotten> {
        Ok(history.since(from)?.map(|change| change.revision).collect())
    }

    #[test]
    fn changes_are_found_from_their_revision_on() {
        let mut history = History::after(10);
        assert_eq!(revisions(&history, 10), Err(Forgotten { first: 11 }));
        assert_eq!(revisions(&history, 11), Ok(vec![]));
        for revision in [12, 12, 15] {
            history.push(change(revision, 1));
        }
        assert_eq!(revisions(&history, 11), Ok(vec![12, 12, 15]));
        assert_eq!(revisions(&history, 12), Ok(vec![12, 12, 15]));
        assert_eq!(revisions(&history, 13), Ok(vec![15]));
        assert_eq!(revisions(&history, 99), Ok(vec![]));
    }

    #[test]
    fn the_oldest_are_forgotten_with_all_of_their_revision() {
        let mut history = History::after(0);
        for revision in 1..=CHANGES_MAX as u64 {
            history.push(change(revision, 1));
        }
        assert_eq!(revisions(&history, 1).unwrap().len(), CHANGES_MAX);
        history.push(change(CHANGES_MAX as u64, 1));
        assert_eq!(revisions(&history, 1), Err(Forgotten { first: 2 }));
        assert_eq!(revisions(&history, 2).unwrap().len(), CHANGES_MAX);

        let mut history = History::after(0);
        let half = CHANGES_BYTES_MAX / 2;
        for (revision, bytes) in [(1, 5), (1, half - 4), (2, half)] {
            history.push(change(revision, bytes));
        }
        assert_eq!(revisions(&history, 1), Err(Forgotten { first: 2 }));
        assert_eq!(revisions(&history, 2), Ok(vec![2]));
        history.push(change(3, CHANGES_BYTES_MAX));
        assert_eq!(revisions(&history, 3), Err(Forgotten { first: 4 }), "alone it is too large");
        assert_eq!(history.bytes, 0);
    }
}
