#![doc = include_str!("../README.md")]

pub mod campaign;
pub mod checkers;
pub mod group;
pub mod history;
pub mod labs;
pub mod placement;
pub mod sim;
pub mod transactions;
pub mod workload;
