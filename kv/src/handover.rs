//! Before a leader hands over, and before its region is split: pessimistic locks that are in memory only
//! ([`crate::txn::reservations`]) are written into the log, where the next leader finds them.
//!
//! ```text
//! raft worker ─ HandingOver ─► queue ─► save ─► HandOver ─► raft worker: leadership moves
//! scheduler ── ids for a split ───────► save ─► SplitIds ─► raft worker: the split is proposed
//! ```
//!
//! Usually there are none, and nothing is written. What cannot be written in time is lost with the leader, which
//! its transactions find out when they prewrite.

use std::time::Duration;

use proto::{PeerId, RegionId, kvrpcpb, metapb};
use raftstore::driver::Router;
use raftstore::engine::DataEngine;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::storage::replicated::Replicated;
use crate::txn::Transactions;

/// Handovers that wait; at the limit one is lost, and its order is given again.
const WAITING_MAX: usize = 16 * 1024;

/// Regions whose locks are written at once; more wait.
const AT_ONCE_MAX: usize = 64;

/// How long writing a region's locks may take. A handover that waits for longer than an election timeout is
/// forgotten.
const SAVE_TIME_MAX: Duration = Duration::from_millis(300);

/// A leader is about to hand over.
#[derive(Debug)]
pub(crate) struct HandingOver {
    pub(crate) region: metapb::Region,
    pub(crate) term: u64,
    pub(crate) to: PeerId,
}

/// Where leaders say so, and where [`run`] hears it.
pub(crate) fn queue() -> (mpsc::Sender<HandingOver>, mpsc::Receiver<HandingOver>) {
    mpsc::channel(WAITING_MAX)
}

/// Answers each leader that is about to hand over. Ends when nobody will say so any more.
pub(crate) async fn run<D: DataEngine>(
    transactions: Transactions<Replicated<D>>,
    router: Router<D>,
    mut asked: mpsc::Receiver<HandingOver>,
) {
    let mut under_way = JoinSet::new();
    while let Some(HandingOver { region, term, to }) = asked.recv().await {
        while under_way.len() >= AT_ONCE_MAX {
            under_way.join_next().await;
        }
        while under_way.try_join_next().is_some() {}
        let (transactions, router) = (transactions.clone(), router.clone());
        under_way.spawn(async move {
            save(&transactions, &region).await;
            router.hand_over(RegionId(region.id), term, to);
        });
    }
}

/// Writes what is in memory of this region, as far as that succeeds.
pub(crate) async fn save<D: DataEngine>(
    transactions: &Transactions<Replicated<D>>,
    region: &metapb::Region,
) {
    let context = kvrpcpb::Context {
        region_id: region.id,
        region_epoch: region.region_epoch,
        max_execution_duration_ms: SAVE_TIME_MAX.as_millis() as u64,
        ..Default::default()
    };
    if let Err(stop) = transactions.save_reservations(&context).await {
        let region = region.id;
        tracing::debug!(region, ?stop, "pessimistic locks in memory may be lost with their leader");
    }
}
