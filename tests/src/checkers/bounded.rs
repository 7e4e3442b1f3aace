//! Queues stay short (I13): whatever goes wrong, nothing that a store keeps grows without end.
//!
//! A bound here is not the store's own limit. It lies far above what a sound store ever reaches in these
//! runs, and far below what a queue reaches that nobody empties.

use std::collections::BTreeMap;

/// The longest that each queue ever was.
#[derive(Clone, Debug, Default)]
pub struct Bounded {
    longest: BTreeMap<&'static str, usize>,
}

impl Bounded {
    /// Told how long a store's queue is, and how long it may be.
    pub fn queue(
        &mut self,
        store: u64,
        name: &'static str,
        length: usize,
        most: usize,
    ) -> Result<(), String> {
        let longest = self.longest.entry(name).or_default();
        *longest = length.max(*longest);
        if length <= most {
            return Ok(());
        }
        Err(format!("s{store} keeps {length} {name}, more than {most}"))
    }

    /// The longest that each queue ever was, by name.
    pub fn longest(&self) -> &BTreeMap<&'static str, usize> {
        &self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_grows_without_end_is_found() {
        let mut checker = Bounded::default();
        assert!(checker.queue(1, "messages", 10, 10).is_ok());
        assert!(checker.queue(2, "messages", 3, 10).is_ok());
        assert!(checker.queue(1, "messages", 11, 10).is_err());
        assert_eq!(checker.longest()["messages"], 11);
    }
}
