//! One test binary.

mod group;
mod labs;
mod placement;
mod planted;
mod simulation;
mod tidy;
mod two_peers;
