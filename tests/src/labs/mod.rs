//! What the course's labs stand on; the tests themselves are in `suites/labs/`.
//!
//! | folder | for labs |
//! |---|---|
//! | [`raft`] | 2A, 3A and half of 2C: consensus alone, message by message |
//! | [`cluster`] | 2B, 3B and the other half of 2C: stores, clients and a scheduler in virtual time |
//! | [`scheduler`] | 3C: the real scheduler's machine, told what the tests declare |

pub mod cluster;
pub mod raft;
pub mod scheduler;
