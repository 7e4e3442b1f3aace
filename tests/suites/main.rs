//! One test binary.

mod labs;
mod planted;
mod simulation;
mod tidy;
mod two_peers;
