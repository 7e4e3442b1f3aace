#![doc = include_str!("../README.md")]

// In reading order: a node, what it is told, who it is, what it answers, where it reads and writes,
// what it says to others.
pub mod server;
pub mod config;
pub mod error;
mod identity;

mod service;
pub mod keys;
mod deadline;
pub mod raw;
pub mod txn;
pub mod plant;
pub mod storage;

mod deadlock;
mod gc;
mod net;
mod scheduler_link;
mod bounds;
mod drain;
mod handover;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

mod metrics;
mod settings;
mod status;

pub use bounds::keyspace_bounds;
pub use config::{ApiVersion, Config, StorageKind};
pub use error::StartError;
pub use server::StoreNode;
