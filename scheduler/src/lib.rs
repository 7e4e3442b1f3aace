#![doc = include_str!("../README.md")]

// In reading order: the machines that decide, the group they are replicated in, the shell.
pub mod timestamps;
pub mod ids;
pub mod cluster;
pub mod flow;
pub mod placement;
pub mod rules;
pub mod checkers;
pub mod scheduling;
pub mod balancers;
pub mod schedulers;
pub mod scatter;
pub mod operator;
pub mod instructions;
pub mod explain;
pub mod keyspaces;
pub mod gc;
pub mod collection;

pub mod member;

mod config;
mod error;
mod http;
mod server;
mod service;

pub use config::{Config, Data, Listen};
pub use error::StartError;
pub use http::idle_items::has_no_effect;
pub use server::SchedulerNode;
pub use service::VERSION;
