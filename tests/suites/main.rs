//! One test binary.

mod labs;
mod simulation;
mod tidy;
mod two_peers;
