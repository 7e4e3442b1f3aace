//! What the course's labs stand on; the tests themselves are in `suites/labs/`.
//!
//! | folder | for labs |
//! |---|---|
//! | [`raft`] | 2A, 3A and half of 2C: consensus alone, message by message |

pub mod raft;
