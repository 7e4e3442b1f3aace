//! Which schedulers there are, and those that carry out a wish rather than even something out.

use serde_json::Value;

use crate::balancers::{leaders, regions};
use crate::scheduling::{Make, Scheduler};

/// Every type, and how it is made.
pub const ALL: &[(&str, Make)] = &[
    ("balance-region", |arguments| plain(regions::BalanceRegion, arguments)),
    ("balance-leader", |arguments| plain(leaders::BalanceLeader, arguments)),
];

/// The types that a new cluster begins with.
pub const DEFAULT_TYPES: &[&str] = &["balance-region", "balance-leader"];

/// One that takes no arguments; tools may name it in them all the same.
fn plain(scheduler: impl Scheduler + 'static, _: &Value) -> Result<Box<dyn Scheduler>, String> {
    Ok(Box::new(scheduler))
}
