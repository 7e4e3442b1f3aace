//! The cluster's eye and hand: placement, timestamps, ids.

pub mod balancers;
pub mod checkers;
pub mod cluster;
pub mod explain;
pub mod gc;
pub mod ids;
pub mod keyspaces;
pub mod operator;
pub mod placement;
pub mod timestamps;
