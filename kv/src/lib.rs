#![doc = include_str!("../README.md")]

pub mod config;
pub mod error;
pub mod raw;
pub mod storage;
pub mod txn;

pub use config::{ApiVersion, Config, StorageKind};
pub use error::StartError;
