//! Checkers look at one region and say what it needs.

pub mod replicas;

use crate::operator::Operator;

/// What a checker found.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// The region needs nothing.
    Healthy,
    /// The region needs something that cannot be done now, and why.
    Blocked(String),
    /// The region needs this.
    Wants(Operator),
    /// A plan needs ids and none are reserved: this bound has to be saved first.
    NeedsIds(u64),
}
