//! The framework in which schedulers even out the cluster, in the words of those who thought of it.
//!
//! ```text
//!   Coordinator ── holds ──► ScheduleController = Scheduler + Controller        (one each)
//!        │ tick                  │                  │           └ may it look now, may it act?
//!        ▼                       ▼                  └ what is spread unevenly?
//!      Desk: the stores as the plans under way will leave them ──► Selector ──► Operator
//!                                                                     ▲
//!                                                         Filter: true = not this store
//! ```
//!
//! A [`Scheduler`] looks at all stores and returns operators; it changes nothing itself. Its
//! [`Controller`] says when it may look (often while it finds something, ever more seldom when it does
//! not), and whether it may act: within the limit of its kind, and not paused. The [`Coordinator`]
//! holds them by name, each name once, gives them their turns, and keeps the list of them and their
//! arguments, the [`Roster`], in the group's log. A new leader of the scheduler begins with the
//! roster and nothing else: what a scheduler remembers between turns it can do without.
//!
//! | article's word | here |
//! |---|---|
//! | `GetName`, `GetType` | [`Scheduler::name`], [`Scheduler::type_name`] |
//! | `GetMinInterval`, `GetNextInterval` | [`Scheduler::min_interval_ms`], [`Scheduler::next_interval_ms`] |
//! | `Prepare`, `Cleanup` | [`Scheduler::prepare`], [`Scheduler::cleanup`] |
//! | `Schedule`, `IsScheduleAllowed` | [`Scheduler::schedule`], [`Scheduler::is_schedule_allowed`] |
//! | `GetResourceKind`, the older form of all of this | [`simple`] |
//!
//! Left out: a queue of plans that wait for a limit (they are thought of again), and diagnosis over
//! time.

mod bars;
mod catalog;
mod controller;
mod coordinator;
mod desk;
mod dice;
mod filter;
mod roster;
mod selector;
pub mod simple;

use std::fmt;

use serde_json::Value;

pub use bars::Bars;
pub use catalog::{Catalog, Make};
pub use controller::{Controller, MAX_INTERVAL_MS, MIN_INTERVAL_MS, grown};
pub use coordinator::{Coordinator, ScheduleController, Turn};
pub use desk::Desk;
pub use dice::Dice;
pub use filter::{Filter, TableFilter, source_refused, target_refused};
pub use roster::{Entry, Roster};
pub use selector::{ByScore, Selector};

use crate::cluster::{Moment, RegionRecord};
use crate::operator::{Operator, Purpose};
use crate::placement::{Candidate, View};

/// What a scheduler says of a region or a store when it is asked why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has nothing to do with it.
    Silent,
    /// In words, with numbers.
    Says(String),
}

impl Verdict {
    /// In words.
    pub fn says(words: impl Into<String>) -> Self {
        Self::Says(words.into())
    }
}

/// Looks at all stores, and says what to move.
pub trait Scheduler: fmt::Debug + Send {
    /// Unique among the schedulers: what people add, pause and remove it by.
    fn name(&self) -> &str;

    /// What kind of scheduler it is: what it is registered by.
    fn type_name(&self) -> &'static str;

    /// What its operators are for: their limit.
    fn purpose(&self) -> Purpose;

    /// The shortest wait between two looks, in milliseconds.
    fn min_interval_ms(&self) -> u64 {
        MIN_INTERVAL_MS
    }

    /// The wait after a look in vain.
    fn next_interval_ms(&self, interval_ms: u64) -> u64 {
        grown(interval_ms)
    }

    /// It is about to begin; an error keeps it from that. What it holds from now on is in
    /// [`Self::bars`].
    fn prepare(&mut self, view: View<'_>) -> Result<(), String> {
        let _ = view;
        Ok(())
    }

    /// It has ended.
    fn cleanup(&mut self) {}

    /// Whether it may act: its kind's limit is not reached.
    fn is_schedule_allowed(&self, view: View<'_>) -> bool {
        view.operators.room(self.purpose(), view.policy) > 0
    }

    /// What to do, as many plans as the desk has room for. Plans that the desk has not made are to be
    /// [noted](Desk::note).
    fn schedule(&mut self, desk: &mut Desk<'_>) -> Vec<Operator>;

    /// Stores whose leaders it has decided about.
    fn bars(&self) -> Bars {
        Bars::default()
    }

    /// Its arguments, as they are kept and shown. `Null` when it takes none.
    fn arguments(&self) -> Value {
        Value::Null
    }

    /// New arguments, in the words of the tools; an error names what cannot be meant, and changes
    /// nothing.
    fn configure(&mut self, arguments: &Value, view: View<'_>) -> Result<(), String> {
        let _ = (arguments, view);
        Err(format!("{} has nothing to configure", self.name()))
    }

    /// One of its stores is to be let go of, as tools name it behind the scheduler's name. `false`
    /// when it has no such store; then `true` means that it has some left.
    fn let_go(&mut self, store: proto::StoreId) -> LetGo {
        let _ = store;
        LetGo::NotHeld
    }

    /// Why this region is (not) moved.
    fn verdict(&self, view: View<'_>, record: &RegionRecord) -> Verdict;

    /// Why this store does (not) get or lose something.
    fn store_verdict(&self, view: View<'_>, store: &Candidate<'_>) -> Verdict {
        let _ = (view, store);
        Verdict::Silent
    }
}

/// What became of a store that a scheduler was to let go of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetGo {
    /// It did not hold it.
    NotHeld,
    /// It holds others.
    HoldsOthers,
    /// It was the last; the scheduler has nothing more to do.
    WasLast,
}

/// Seconds from now, on the wall clock, as milliseconds.
fn after(moment: Moment, seconds: u64) -> u64 {
    moment.wall_ms.saturating_add(seconds.saturating_mul(1_000))
}

#[cfg(test)]
mod articles;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod world;
