//! Stores whose leaders somebody has decided about: others keep off.
//!
//! A store that is being emptied of leaders must not get new ones from a balancer, and one that was
//! granted leaders must not lose them to one. Each scheduler says which stores it holds so; judges
//! see all of them together.

use std::collections::BTreeSet;

use proto::StoreId;

/// The stores held by all schedulers together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bars {
    /// No leader may come here.
    pub no_leaders_in: BTreeSet<StoreId>,
    /// No leader may go from here.
    pub no_leaders_out: BTreeSet<StoreId>,
}

impl Bars {
    /// Adds those of another.
    pub fn join(&mut self, other: Self) {
        self.no_leaders_in.extend(other.no_leaders_in);
        self.no_leaders_out.extend(other.no_leaders_out);
    }

    /// Whether somebody holds the store.
    pub fn hold(&self, store: StoreId) -> bool {
        self.no_leaders_in.contains(&store) || self.no_leaders_out.contains(&store)
    }
}
