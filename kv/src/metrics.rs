//! What a monitor may read of one store. One registry per store: several live in one process.
//!
//! Counters are counted where things happen in the shells; the machines count nothing. What the
//! machines know of themselves is read at each scrape by collectors registered in `server`.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Which RPC.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct RpcLabels {
    pub(crate) rpc: &'static str,
}

/// The numbers of one store.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    /// Unary RPCs by name.
    pub(crate) rpcs: Family<RpcLabels, Counter>,
    /// Commands received on batched streams.
    pub(crate) batch_commands: Counter,
    /// Raft messages received from other stores.
    pub(crate) raft_messages_received: Counter,
    /// Raft messages that a full queue or a broken stream swallowed.
    pub(crate) raft_messages_lost: Counter,
    /// Reads answered under a lease on the task that received them.
    pub(crate) reads_by_lease: Counter,
    /// Reads that asked the leader for a barrier.
    pub(crate) reads_by_barrier: Counter,
    /// Batches written through the log.
    pub(crate) writes: Counter,
    /// Requests refused with a region error by `Storage`.
    pub(crate) refusals: Counter,
    /// Circles of waiting transactions found while this store was the detector.
    pub(crate) deadlocks: Counter,
    /// Locks of old transactions resolved.
    pub(crate) old_locks: Counter,
    /// Records found to be garbage and removed on demand; what compaction removes is not counted.
    pub(crate) old_versions: Counter,
    /// Snapshots sent to other stores, completely.
    pub(crate) snapshots_sent: Counter,
    /// Snapshots received from other stores, completely.
    pub(crate) snapshots_received: Counter,
}

impl Metrics {
    /// All zero.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("tessera_store");
        let rpcs = Family::<RpcLabels, Counter>::default();
        registry.register("rpcs", "Unary RPCs received", rpcs.clone());
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        Self {
            batch_commands: counter("batch_commands", "Commands received on batched streams"),
            raft_messages_received: counter("raft_messages_received", "Raft messages received"),
            raft_messages_lost: counter("raft_messages_lost", "Raft messages lost before sending"),
            reads_by_lease: counter("reads_by_lease", "Views taken under a leader's lease"),
            reads_by_barrier: counter("reads_by_barrier", "Views that needed a read barrier"),
            writes: counter("writes", "Batches written through the raft log"),
            deadlocks: counter("deadlocks", "Circles of waiting transactions found here"),
            old_locks: counter("old_locks", "Locks of old transactions resolved"),
            old_versions: counter("old_versions", "Old records removed on demand"),
            refusals: counter("refusals", "Views and writes refused with a region error"),
            snapshots_sent: counter("snapshots_sent", "Snapshots sent completely"),
            snapshots_received: counter("snapshots_received", "Snapshots received completely"),
            rpcs,
            registry: Mutex::new(registry),
        }
    }

    /// Adds numbers that are read at each scrape.
    pub(crate) fn collect(&self, collector: Arc<impl Collector>) {
        self.registry.lock().register_collector(Box::new(collector));
    }

    /// Everything in the text format that Prometheus scrapes.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        let written = prometheus_client::encoding::text::encode(&mut text, &self.registry.lock());
        written.expect("writing to a string does not fail");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_stores_of_a_process_count_apart() {
        let (one, two) = (Metrics::new(), Metrics::new());
        one.writes.inc_by(3);
        one.rpcs.get_or_create(&RpcLabels { rpc: "kv_get" }).inc();
        assert!(one.render().contains("tessera_store_writes_total 3"));
        assert!(one.render().contains("tessera_store_rpcs_total{rpc=\"kv_get\"} 1"));
        assert!(two.render().contains("tessera_store_writes_total 0"));
    }
}
