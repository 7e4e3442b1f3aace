//! Who waits for whom: a graph of transactions, and the circle that one more edge would close.
//!
//! A transaction may wait for several keys at once, and for one key with several requests. Each edge
//! is there for as long as somebody holds it up: a waiting request, or (where a whole cluster's waits
//! come together) the store that told of it, for a limited time. So the graph is as large as there are
//! waiters, and what a store cannot take back any more goes by itself.
//!
//! A store keeps one graph of its own waits ([`super::lock_wait`]); the store that leads the first
//! region keeps one of everybody's ([`crate::deadlock`]).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::deadlock::WaitForEntry;

use super::problem::Deadlock;

/// Edges of one graph; a wait beyond is not looked at, and ends by its time limit.
pub const EDGES_MAX: usize = 64 * 1024;

/// Edges from waiter to holder. Moments are milliseconds on a clock of the caller's.
#[derive(Clone, Debug, Default)]
pub struct WaitGraph {
    /// Waiter → (holder, key waited for) → what is known of it.
    edges: BTreeMap<u64, BTreeMap<(u64, Bytes), Edge>>,
    count: usize,
}

#[derive(Clone, Debug, Default)]
struct Edge {
    /// Names the statement that waits, for a person.
    tag: Bytes,
    /// Who holds the edge up, each until when.
    held_up: BTreeMap<u64, u64>,
}

impl Edge {
    fn stands(&self, now: u64) -> bool {
        self.held_up.values().any(|until| now < *until)
    }
}

impl WaitGraph {
    /// Adds that `wait.txn` waits for `wait.wait_for_txn` to release `wait.key`, held up by `by` until
    /// then; instead returns the circle if that would close one.
    pub fn wait(
        &mut self,
        wait: &WaitForEntry,
        by: u64,
        until: u64,
        now: u64,
    ) -> Result<(), Deadlock> {
        let (waiter, holder) = (wait.txn, wait.wait_for_txn);
        if let Some(mut wait_chain) = self.path(holder, waiter, now) {
            let last = wait_chain.last().expect("a path has an edge");
            let (deadlock_key_hash, deadlock_key) = (last.key_hash, last.key.clone());
            wait_chain.push(entry(waiter, holder, &wait.key, &wait.resource_group_tag));
            return Err(Deadlock {
                start_ts: waiter,
                lock_ts: holder,
                lock_key: wait.key.clone(),
                deadlock_key_hash,
                deadlock_key,
                wait_chain,
            });
        }
        if self.count >= EDGES_MAX {
            self.drop_expired(now);
            if self.count >= EDGES_MAX {
                return Ok(());
            }
        }
        let edges = self.edges.entry(waiter).or_default();
        let edge = edges.entry((holder, wait.key.clone())).or_insert_with(|| {
            self.count += 1;
            Edge { tag: wait.resource_group_tag.clone(), held_up: BTreeMap::new() }
        });
        edge.held_up.insert(by, until);
        Ok(())
    }

    /// `by` no longer holds up this edge.
    pub fn stop_waiting(&mut self, wait: &WaitForEntry, by: u64) {
        let (waiter, place) = (wait.txn, (wait.wait_for_txn, wait.key.clone()));
        self.retain_of(waiter, |at, edge| {
            if *at == place {
                edge.held_up.remove(&by);
            }
            !edge.held_up.is_empty()
        });
    }

    /// A transaction has ended: it waits for nothing, and `by` says so.
    pub fn end(&mut self, waiter: u64, by: u64) {
        self.retain_of(waiter, |_, edge| {
            edge.held_up.remove(&by);
            !edge.held_up.is_empty()
        });
    }

    /// Whatever `by` holds up is no longer held up.
    pub fn let_go(&mut self, by: u64) {
        self.retain(|edge| {
            edge.held_up.remove(&by);
            !edge.held_up.is_empty()
        });
    }

    /// Removes what nobody holds up any more.
    pub fn drop_expired(&mut self, now: u64) {
        self.retain(|edge| edge.stands(now));
    }

    /// Whether no transaction waits.
    pub fn is_empty(&self) -> bool {
        self.edges.is_empty()
    }

    /// Every edge that stands.
    pub fn entries(&self, now: u64) -> Vec<WaitForEntry> {
        let of = |(waiter, edges): (&u64, &BTreeMap<(u64, Bytes), Edge>)| {
            edges
                .iter()
                .filter(|(_, edge)| edge.stands(now))
                .map(|((holder, key), edge)| entry(*waiter, *holder, key, &edge.tag))
                .collect::<Vec<_>>()
        };
        self.edges.iter().flat_map(of).collect()
    }

    fn retain_of(&mut self, waiter: u64, mut stays: impl FnMut(&(u64, Bytes), &mut Edge) -> bool) {
        let Some(edges) = self.edges.get_mut(&waiter) else { return };
        let before = edges.len();
        edges.retain(|place, edge| stays(place, edge));
        self.count -= before - edges.len();
        if edges.is_empty() {
            self.edges.remove(&waiter);
        }
    }

    fn retain(&mut self, mut stays: impl FnMut(&mut Edge) -> bool) {
        self.edges.retain(|_, edges| {
            edges.retain(|_, edge| stays(edge));
            !edges.is_empty()
        });
        self.count = self.edges.values().map(BTreeMap::len).sum();
    }

    /// The edges that lead from one transaction to another.
    fn path(&self, from: u64, to: u64, now: u64) -> Option<Vec<WaitForEntry>> {
        let mut seen = BTreeSet::from([from]);
        // Transactions to look at, each with how it was reached.
        let mut reached: Vec<(u64, Option<usize>, Option<WaitForEntry>)> = vec![(from, None, None)];
        let mut next = 0;
        while next < reached.len() {
            let txn = reached[next].0;
            for ((holder, key), edge) in self.edges.get(&txn).into_iter().flatten() {
                if !edge.stands(now) {
                    continue;
                }
                let step = entry(txn, *holder, key, &edge.tag);
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

/// An edge as stores and clients are told of it.
pub fn entry(waiter: u64, holder: u64, key: &Bytes, tag: &Bytes) -> WaitForEntry {
    WaitForEntry {
        txn: waiter,
        wait_for_txn: holder,
        key_hash: key_hash(key),
        key: key.clone(),
        resource_group_tag: tag.clone(),
        wait_time: 0,
    }
}

/// FarmHash's fingerprint64 of the user key. A client computes it too: when the hash in its deadlock is that
/// of the key which it was about to lock, its statement may be tried again.
pub fn key_hash(key: &[u8]) -> u64 {
    farmhash::fingerprint64(key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FOR_EVER: u64 = u64::MAX;

    fn edge(waiter: u64, holder: u64, key: &'static str) -> WaitForEntry {
        entry(waiter, holder, &Bytes::from(key), &Bytes::new())
    }

    /// One for each way in which the hash treats lengths: to 16, 32, 64, 128 bytes and beyond.
    #[test]
    fn keys_hash_as_clients_hash_them() {
        let known: [(&[u8], u64); 8] = [
            (b"", 0x9ae1_6a3b_2f90_404f),
            (b"a", 0xb345_4265_b6df_75e3),
            (b"abcd", 0x1a55_02de_4a1f_8101),
            (b"abcdefghi", 0x332c_8ed4_dae5_ba42),
            (b"Nepal premier won't resign.", 0x8eb3_808d_1ccf_c779),
            (b"If the enemy is within range, then so are you.", 0xbdd6_9b79_8d6b_a37a),
            (
                b"Give me a rock, paper and scissors and I will move the world.  CCFestoon",
                0xa2b8_bf30_3202_1993,
            ),
            (
                b"The fugacity of a constituent in a mixture of gases at a given temperature is \
                proportional to its mole fraction.  Lewis-Randall Rule",
                0x098e_ff69_58c5_e91a,
            ),
        ];
        for (key, hash) in known {
            assert_eq!(key_hash(key), hash, "{}", proto::key::Readable(key));
        }
    }

    #[test]
    fn the_edge_that_closes_a_circle_is_refused_with_the_circle() {
        let mut graph = WaitGraph::default();
        let tagged = WaitForEntry { resource_group_tag: "select".into(), ..edge(1, 2, "b") };
        graph.wait(&tagged, 0, FOR_EVER, 0).unwrap();
        graph.wait(&edge(2, 3, "c"), 0, FOR_EVER, 0).unwrap();
        graph.wait(&edge(9, 1, "a"), 0, FOR_EVER, 0).unwrap();
        let deadlock = graph.wait(&edge(3, 1, "a"), 0, FOR_EVER, 0).unwrap_err();
        assert_eq!((deadlock.start_ts, deadlock.lock_ts), (3, 1));
        assert_eq!((&deadlock.lock_key[..], &deadlock.deadlock_key[..]), (&b"a"[..], &b"c"[..]));
        assert_eq!(deadlock.deadlock_key_hash, key_hash(b"c"));
        let chain: Vec<_> = deadlock.wait_chain.iter().map(|e| (e.txn, e.wait_for_txn)).collect();
        assert_eq!(chain, [(1, 2), (2, 3), (3, 1)]);
        assert_eq!(deadlock.wait_chain[0].resource_group_tag, "select");
        assert_eq!(graph.entries(0).len(), 3);
    }

    #[test]
    fn an_edge_that_is_gone_closes_nothing() {
        let mut graph = WaitGraph::default();
        graph.wait(&edge(1, 2, "b"), 7, FOR_EVER, 0).unwrap();
        graph.wait(&edge(1, 2, "b"), 8, FOR_EVER, 0).unwrap();
        graph.stop_waiting(&edge(1, 2, "b"), 7);
        graph.wait(&edge(2, 1, "a"), 0, FOR_EVER, 0).unwrap_err();
        graph.stop_waiting(&edge(1, 2, "b"), 8);
        graph.wait(&edge(2, 1, "a"), 0, FOR_EVER, 0).unwrap();
        graph.end(2, 0);
        assert!(graph.is_empty());
    }

    #[test]
    fn an_edge_goes_with_its_time_and_with_who_told_of_it() {
        let mut graph = WaitGraph::default();
        graph.wait(&edge(1, 2, "b"), 7, 100, 0).unwrap();
        graph.wait(&edge(2, 1, "a"), 7, 100, 99).unwrap_err();
        graph.wait(&edge(2, 1, "a"), 7, 200, 100).unwrap();
        assert_eq!(graph.entries(100).len(), 1);
        graph.drop_expired(100);
        graph.let_go(8);
        assert!(!graph.is_empty());
        graph.let_go(7);
        assert!(graph.is_empty() && graph.count == 0);
    }

    proptest! {
        /// Against the dumb twin: is there a way from holder to waiter?
        #[test]
        fn a_wait_is_refused_exactly_when_it_closes_a_circle(
            edges in prop::collection::vec((0_u64..6, 0_u64..6), 0..24),
        ) {
            let mut graph = WaitGraph::default();
            let mut plain: Vec<(u64, u64)> = Vec::new();
            for (waiter, holder) in edges.into_iter().filter(|(waiter, holder)| waiter != holder) {
                let mut reached = BTreeSet::from([holder]);
                for _ in 0..6 {
                    let more = plain.iter().filter(|(from, _)| reached.contains(from));
                    let more: Vec<u64> = more.map(|(_, to)| *to).collect();
                    reached.extend(more);
                }
                let closes = reached.contains(&waiter);
                let answer = graph.wait(&edge(waiter, holder, "k"), 0, FOR_EVER, 0);
                prop_assert_eq!(answer.is_err(), closes);
                if let Err(deadlock) = answer {
                    // The chain is a circle of edges that are there, and the one that closes it.
                    let chain = &deadlock.wait_chain;
                    for pair in chain.windows(2) {
                        prop_assert_eq!(pair[0].wait_for_txn, pair[1].txn);
                        prop_assert!(plain.contains(&(pair[0].txn, pair[0].wait_for_txn)));
                    }
                    prop_assert_eq!(chain[chain.len() - 1].wait_for_txn, chain[0].txn);
                } else {
                    plain.push((waiter, holder));
                }
            }
        }
    }
}
