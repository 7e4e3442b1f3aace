//! What is left of a run when it is over.

/// How a run went.
#[derive(Clone, Debug)]
pub struct Summary {
    /// A number that repeats for a seed.
    pub hash: u64,
    /// Events that happened.
    pub events: u64,
    /// Calls of clients that ended well.
    pub calls: u64,
    /// Leaderships seen.
    pub leaders: usize,
    /// Entries committed.
    pub entries: usize,
    /// Crashes of a process, with or without its power.
    pub crashes: u64,
    /// What was broken, if anything.
    pub violation: Option<String>,
    /// The newest lines of the trace, when lines were asked for.
    pub lines: Vec<String>,
}

impl Summary {
    /// What is left to say of a run that ended by a failed assertion.
    pub fn of_panic(words: &str) -> Self {
        Self {
            hash: 0,
            events: 0,
            calls: 0,
            leaders: 0,
            entries: 0,
            crashes: 0,
            violation: Some(format!("panic: {words}")),
            lines: Vec::new(),
        }
    }
}
