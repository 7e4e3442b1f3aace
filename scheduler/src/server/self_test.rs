//! A leader asks itself for a timestamp, as a client would.
//!
//! A leader can hang in part: its lease is renewed by the member's thread, while nobody gets an answer. So it
//! gives itself one timestamp each third of a lease, through everything a client's request goes through: the
//! leader's affairs, the bound that the log has to save, the lease afterwards. One that has not got any for
//! [`PATIENCE_US`] while it led all the time hands over to another member, and asks again.
//!
//! What it cannot notice: a runtime that stands still as a whole. Then raft's messages stand still too, and
//! the others elect somebody without being asked. A log that stands still the member notices by itself
//! (`crate::member`).

use std::sync::Arc;
use std::time::Duration;

use super::node::{Node, Said};

/// For how many microseconds a leader may fail its test.
const PATIENCE_US: u64 = 6_000_000;
/// The shortest time between two tests.
const INTERVAL_MIN: Duration = Duration::from_millis(50);

/// Tests for as long as the member runs.
pub(super) async fn run(node: Arc<Node>) {
    let mut interval = tokio::time::interval((node.lease / 3).max(INTERVAL_MIN));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The term that is being tested, and when it last passed.
    let mut passed = (0, node.clock.steady_us());
    loop {
        interval.tick().await;
        let Some(serving) = node.serving() else { continue };
        if passed.0 != serving.term() || serving.timestamp(&node, 1).await.is_ok() {
            passed = (serving.term(), node.clock.steady_us());
        } else if node.clock.steady_us() >= passed.1 + PATIENCE_US && !serving.has_ended() {
            tracing::warn!(name = %node.name, "this member leads and does not serve: it resigns");
            node.tell(Said::HandOver { to: 0 });
            passed.1 = node.clock.steady_us();
        }
    }
}
