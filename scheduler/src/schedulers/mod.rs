//! Which schedulers there are, and those that carry out a wish rather than even something out.
//!
//! | type | does |
//! |---|---|
//! | `balance-region`, `balance-leader`, `hot-region` | even something out: see [`crate::balancers`] |
//! | `evict-leader` | leaders leave certain stores |
//! | `grant-leader` | certain stores lead whatever they can |
//! | `evict-slow-store` | leaders leave a store while it is slow |
//! | `shuffle-leader`, `shuffle-region` | leaders, peers wander about |

mod evict_leader;
mod evict_slow_store;
mod grant_leader;
mod held_stores;
mod shuffle_leader;
mod shuffle_region;

use serde_json::Value;

pub use evict_leader::EvictLeader;
pub use evict_slow_store::EvictSlowStore;
pub use grant_leader::GrantLeader;
pub use shuffle_leader::ShuffleLeader;
pub use shuffle_region::ShuffleRegion;

use crate::balancers::{hot, leaders, regions};
use crate::scheduling::{Make, Scheduler};

/// Every type, and how it is made.
pub const ALL: &[(&str, Make)] = &[
    ("balance-region", |arguments| plain(regions::BalanceRegion, arguments)),
    ("balance-leader", |arguments| plain(leaders::BalanceLeader, arguments)),
    ("hot-region", |arguments| plain(hot::HotRegion::default(), arguments)),
    ("evict-leader", EvictLeader::make),
    ("grant-leader", GrantLeader::make),
    ("evict-slow-store", EvictSlowStore::make),
    ("shuffle-leader", |arguments| plain(ShuffleLeader, arguments)),
    ("shuffle-region", ShuffleRegion::make),
];

/// The types that a new cluster begins with.
pub const DEFAULT_TYPES: &[&str] =
    &["balance-region", "balance-leader", "hot-region", "evict-slow-store"];

/// One that takes no arguments; tools may name it in them all the same.
fn plain(scheduler: impl Scheduler + 'static, _: &Value) -> Result<Box<dyn Scheduler>, String> {
    Ok(Box::new(scheduler))
}

#[cfg(test)]
mod tests;
