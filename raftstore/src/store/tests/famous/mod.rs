//! Bugs that others met, each by the name that the literature and the issue trackers gave rise to. A test
//! here fails when the guard against its bug is taken away.
//!
//! Rows that are not about stores have their tests where their code is: L9 and L10 in `kv/src/txn`, G11, S1
//! and S3 in `tests/engines`, S2 beside the driver.

use super::*;
use crate::group::Group;

mod g_split_and_snapshot;
mod l_reads;
mod r_log;
mod r_membership;

/// One of three stores and the next, round in a circle.
fn next_of(store: u64) -> u64 {
    store % 3 + 1
}

fn group(cluster: &Cluster, store: u64) -> &Group<MemoryLog> {
    &cluster.store(store).peers[&RegionId(1)].group
}

/// Messages that a filter has kept.
type Kept = std::rc::Rc<std::cell::RefCell<Vec<RaftMessage>>>;

/// Delivers what was kept, late.
fn deliver(cluster: &mut Cluster, messages: &[RaftMessage]) {
    for message in messages {
        let to = StoreId(message.to_peer.unwrap().store_id);
        cluster.tell(to, StoreMsg::Raft(Box::new(message.clone())));
    }
    cluster.run();
}
