#![doc = include_str!("../README.md")]

// In reading order: the vocabulary, the machines, what they stand on, the shell.
pub mod msg;
pub mod effects;
pub mod command;
pub mod config;
pub mod clock_trust;
pub mod error;
pub mod lanes;
pub mod plant;

pub mod store;
pub(crate) mod peer;
pub mod operation;
pub mod applier;

pub mod group;
pub mod read_view;

pub mod storage;
pub mod engine;
pub mod wire;

pub mod transport;
pub mod driver;
