//! What happened, twice: as a number that must repeat for a seed, and as the last lines for a person.

use std::collections::VecDeque;

use super::dice::mix;
use super::events::{Instant, MILLISECOND};

/// Lines kept for a person; of a longer run the end.
const LINES_MAX: usize = 200_000;

/// A digest of everything that happened so far, and the newest of it in words.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    events: u64,
    lines: VecDeque<String>,
    /// Whether lines are kept: they cost more than the run itself.
    verbose: bool,
}

impl Trace {
    /// Nothing happened yet.
    pub fn new(verbose: bool) -> Self {
        Self { verbose, ..Self::default() }
    }

    /// Something happened; `facts` is what must repeat.
    pub fn note(&mut self, now: Instant, facts: &[u64], line: impl FnOnce() -> String) {
        self.events += 1;
        self.hash = facts.iter().fold(mix(self.hash ^ now), |hash, fact| mix(hash ^ fact));
        self.remark(now, line);
    }

    /// Something that a person wants to read, and that follows from what happened.
    pub fn remark(&mut self, now: Instant, line: impl FnOnce() -> String) {
        if !self.verbose {
            return;
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        let (millis, micros) = (now / MILLISECOND, now % MILLISECOND);
        self.lines.push_back(format!("{millis:>9}.{micros:03} {}", line()));
    }

    /// Equal for equal runs.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How much happened.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The newest lines.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
