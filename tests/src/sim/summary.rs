//! What is left of a run when it is over.

use std::any::Any;
use std::collections::BTreeMap;

use super::events::Instant;
use super::nemesis::Mischief;
use super::probes::Probes;

/// How a run went.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// A number that repeats for a seed.
    pub hash: u64,
    /// Events that happened.
    pub events: u64,
    /// How much of the world's time has passed.
    pub simulated: Instant,
    /// Calls of clients that ended well.
    pub calls: u64,
    /// Those of them that ended while things went wrong.
    pub calls_in_trouble: u64,
    /// Calls whose outcomes were checked, known or not.
    pub checked: u64,
    /// Transactions that ended, and were judged.
    pub transactions: u64,
    /// Those of them whose clients know that they are committed.
    pub committed: u64,
    /// Timestamps handed out.
    pub timestamps: u64,
    /// Leaderships seen.
    pub leaders: usize,
    /// Entries committed.
    pub entries: usize,
    /// Ends of a process: killed, without power, or stopped by its disk.
    pub crashes: u64,
    /// Mischiefs done, by kind.
    pub mischiefs: BTreeMap<Mischief, u64>,
    /// Each of them: its number, when it began, and its kind.
    pub story: Vec<(u32, Instant, Mischief)>,
    /// Messages lost, repeated or cut off.
    pub messages_lost: u64,
    /// The rare things that happened.
    pub probes: Probes,
    /// The longest that each queue of a store was.
    pub queues: BTreeMap<&'static str, usize>,
    /// What was broken, if anything.
    pub violation: Option<String>,
    /// The newest lines of the trace, when lines were asked for.
    pub lines: Vec<String>,
}

impl Summary {
    /// What is left to say of a run that a failed assertion ended outside of its events.
    pub fn of_panic(panic: &(dyn Any + Send)) -> Self {
        Self { violation: Some(in_words(panic)), ..Self::default() }
    }
}

/// What a failed assertion says.
pub fn in_words(panic: &(dyn Any + Send)) -> String {
    let words = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panic: {}", words.unwrap_or("an assertion failed"))
}
