//! One test binary.

mod labs;
mod simulation;
mod tidy;
