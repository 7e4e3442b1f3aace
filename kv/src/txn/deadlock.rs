//! Who waits for whom: a graph of transactions, and the circle that one more edge would close.
//!
//! A transaction may wait for several keys at once. Edges go when waiting ends, so the graph is as
//! large as there are waiters.
//!
//! Left out: transactions that wait on different stores. Their circles are broken by the waiters'
//! time limit, as every wait is short (see [`super::lock_wait`]).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::deadlock::WaitForEntry;

use super::problem::Deadlock;
use crate::keys::Key;

/// Edges from waiter to holder.
#[derive(Clone, Debug, Default)]
pub struct WaitGraph {
    /// Waiter → (holder, key waited for) → how many requests wait so.
    edges: BTreeMap<u64, BTreeMap<(u64, Bytes), usize>>,
}

impl WaitGraph {
    /// Adds that `waiter` waits for `holder` to release `key`; instead returns the circle if that
    /// would close one.
    pub fn wait(&mut self, waiter: u64, holder: u64, key: &Key) -> Result<(), Deadlock> {
        if let Some(mut wait_chain) = self.path(holder, waiter) {
            let last = wait_chain.last().expect("a path has an edge");
            let deadlock_key_hash = last.key_hash;
            wait_chain.push(edge(waiter, holder, key.user()));
            return Err(Deadlock {
                start_ts: waiter,
                lock_ts: holder,
                lock_key: key.user().clone(),
                deadlock_key_hash,
                wait_chain,
            });
        }
        let count = self.edges.entry(waiter).or_default();
        *count.entry((holder, key.user().clone())).or_default() += 1;
        Ok(())
    }

    /// `waiter` no longer waits so.
    pub fn stop_waiting(&mut self, waiter: u64, holder: u64, key: &Key) {
        let Some(edges) = self.edges.get_mut(&waiter) else { return };
        let edge = (holder, key.user().clone());
        if let Some(count) = edges.get_mut(&edge) {
            *count -= 1;
            if *count == 0 {
                edges.remove(&edge);
            }
        }
        if edges.is_empty() {
            self.edges.remove(&waiter);
        }
    }

    /// Every edge.
    pub fn entries(&self) -> Vec<WaitForEntry> {
        let of = |(waiter, edges): (&u64, &BTreeMap<(u64, Bytes), usize>)| {
            edges.keys().map(|(holder, key)| edge(*waiter, *holder, key)).collect::<Vec<_>>()
        };
        self.edges.iter().flat_map(of).collect()
    }

    /// The edges that lead from one transaction to another.
    fn path(&self, from: u64, to: u64) -> Option<Vec<WaitForEntry>> {
        let mut seen = BTreeSet::from([from]);
        // Transactions to look at, each with how it was reached.
        let mut reached: Vec<(u64, Option<usize>, Option<WaitForEntry>)> = vec![(from, None, None)];
        let mut next = 0;
        while next < reached.len() {
            let txn = reached[next].0;
            for (holder, key) in self.edges.get(&txn).into_iter().flat_map(BTreeMap::keys) {
                let step = edge(txn, *holder, key);
                if *holder == to {
                    let mut path = vec![step];
                    let mut at = Some(next);
                    while let Some(index) = at {
                        path.extend(reached[index].2.clone());
                        at = reached[index].1;
                    }
                    path.reverse();
                    return Some(path);
                }
                if seen.insert(*holder) {
                    reached.push((*holder, Some(next), Some(step)));
                }
            }
            next += 1;
        }
        None
    }
}

fn edge(waiter: u64, holder: u64, key: &Bytes) -> WaitForEntry {
    WaitForEntry {
        txn: waiter,
        wait_for_txn: holder,
        key_hash: key_hash(key),
        key: key.clone(),
        ..Default::default()
    }
}

/// Any stable hash will do: clients only compare it with their own record of this answer (FNV-1a).
pub fn key_hash(key: &[u8]) -> u64 {
    key.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &'static str) -> Key {
        Key::new(name)
    }

    #[test]
    fn the_edge_that_closes_a_circle_is_refused_with_the_circle() {
        let mut graph = WaitGraph::default();
        graph.wait(1, 2, &key("b")).unwrap();
        graph.wait(2, 3, &key("c")).unwrap();
        graph.wait(9, 1, &key("a")).unwrap();
        let deadlock = graph.wait(3, 1, &key("a")).unwrap_err();
        assert_eq!((deadlock.start_ts, deadlock.lock_ts), (3, 1));
        assert_eq!(deadlock.deadlock_key_hash, key_hash(b"c"));
        let chain: Vec<_> = deadlock.wait_chain.iter().map(|e| (e.txn, e.wait_for_txn)).collect();
        assert_eq!(chain, [(1, 2), (2, 3), (3, 1)]);
        assert_eq!(graph.entries().len(), 3);
    }

    #[test]
    fn an_edge_that_is_gone_closes_nothing() {
        let mut graph = WaitGraph::default();
        graph.wait(1, 2, &key("b")).unwrap();
        graph.wait(1, 2, &key("b")).unwrap();
        graph.stop_waiting(1, 2, &key("b"));
        graph.wait(2, 1, &key("a")).unwrap_err();
        graph.stop_waiting(1, 2, &key("b"));
        graph.wait(2, 1, &key("a")).unwrap();
        graph.stop_waiting(2, 1, &key("a"));
        assert!(graph.entries().is_empty());
    }
}
