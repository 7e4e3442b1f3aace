//! One test binary.

mod simulation;
