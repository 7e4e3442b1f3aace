//! What a transaction has written and not yet committed.
//!
//! One change per key: later ones fold into earlier ones so that what is sent in the end has the
//! effect of all in their order. An `insert` leaves its mark, the demand that the key did not exist,
//! whatever happens to the key afterwards. Keys are in the wire's form.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use proto::{KeyRange, kvrpcpb};

use crate::raw::KvPair;
use crate::scan::Order;

/// What becomes of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Put(Bytes),
    Delete,
    /// Written, provided that it did not exist.
    Insert(Bytes),
    /// Inserted and deleted again: nothing is written, but it must not have existed.
    Absent,
    /// Not written, but nobody else may have written it since the transaction began.
    Lock,
}

impl Change {
    /// The value that the transaction itself sees; the outer `None` is "as in the snapshot".
    fn value(&self) -> Option<Option<&Bytes>> {
        match self {
            Self::Put(value) | Self::Insert(value) => Some(Some(value)),
            Self::Delete | Self::Absent => Some(None),
            Self::Lock => None,
        }
    }
}

/// The changes, by key.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    changes: BTreeMap<Bytes, Change>,
    bytes: usize,
}

impl Buffer {
    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether anything is written at all, or keys are only locked.
    pub(super) fn writes(&self) -> bool {
        self.changes.values().any(|change| *change != Change::Lock)
    }

    /// How much has been written, keys and values, overwritten ones included.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The value seen by the transaction; the outer `None` is "as in the snapshot".
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<Bytes>> {
        self.changes.get(key).and_then(Change::value).map(|value| value.cloned())
    }

    pub(super) fn put(&mut self, key: Bytes, value: Bytes) {
        let change = match self.changes.get(&key) {
            Some(Change::Insert(_) | Change::Absent) => Change::Insert(value),
            Some(Change::Put(_) | Change::Delete | Change::Lock) | None => Change::Put(value),
        };
        self.set(key, change);
    }

    /// `false`: the transaction itself has written a value there.
    pub(super) fn insert(&mut self, key: Bytes, value: Bytes) -> bool {
        let change = match self.changes.get(&key) {
            Some(Change::Put(_) | Change::Insert(_)) => return false,
            // Deleted by this transaction: there is nothing left to exist.
            Some(Change::Delete) => Change::Put(value),
            Some(Change::Absent | Change::Lock) | None => Change::Insert(value),
        };
        self.set(key, change);
        true
    }

    pub(super) fn delete(&mut self, key: Bytes) {
        let change = match self.changes.get(&key) {
            Some(Change::Insert(_) | Change::Absent) => Change::Absent,
            Some(Change::Put(_) | Change::Delete | Change::Lock) | None => Change::Delete,
        };
        self.set(key, change);
    }

    pub(super) fn lock(&mut self, key: Bytes) {
        self.changes.entry(key).or_insert(Change::Lock);
    }

    fn set(&mut self, key: Bytes, change: Change) {
        self.bytes += key.len() + change.value().flatten().map_or(0, Bytes::len);
        self.changes.insert(key, change);
    }

    /// What of the snapshot's pairs the transaction sees. The pairs are all of `covered`, in order.
    pub(super) fn overlay(
        &self,
        covered: &KeyRange,
        pairs: Vec<KvPair>,
        order: Order,
    ) -> Vec<KvPair> {
        if covered.is_empty() {
            return pairs;
        }
        let end = covered.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let from = Bound::Included(covered.start.as_ref());
        let mut changes = self.changes.range::<[u8], _>((from, end)).peekable();
        if changes.peek().is_none() {
            return pairs;
        }
        let mut seen: BTreeMap<Bytes, Bytes> = pairs.into_iter().collect();
        for (key, change) in changes {
            match change.value() {
                Some(Some(value)) => {
                    seen.insert(key.clone(), value.clone());
                }
                Some(None) => {
                    seen.remove(key);
                }
                None => {}
            }
        }
        match order {
            Order::Forward => seen.into_iter().collect(),
            Order::Reverse => seen.into_iter().rev().collect(),
        }
    }

    /// The changes as they are sent, in the order of their keys.
    pub(super) fn into_mutations(self) -> Vec<kvrpcpb::Mutation> {
        let mutation = |(key, change)| {
            let (op, value) = match change {
                Change::Put(value) => (kvrpcpb::Op::Put, value),
                Change::Delete => (kvrpcpb::Op::Del, Bytes::new()),
                Change::Insert(value) => (kvrpcpb::Op::Insert, value),
                Change::Absent => (kvrpcpb::Op::CheckNotExists, Bytes::new()),
                Change::Lock => (kvrpcpb::Op::Lock, Bytes::new()),
            };
            kvrpcpb::Mutation { op: op as i32, key, value, ..Default::default() }
        };
        self.changes.into_iter().map(mutation).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pair(key: &'static str, value: &'static str) -> KvPair {
        (key.into(), value.into())
    }

    fn ops(buffer: Buffer) -> Vec<(String, kvrpcpb::Op)> {
        let name = |key: &Bytes| String::from_utf8_lossy(key).into_owned();
        buffer.into_mutations().iter().map(|m| (name(&m.key), m.op())).collect()
    }

    #[test]
    fn a_transaction_reads_its_own_writes() {
        let mut buffer = Buffer::default();
        buffer.put("a".into(), "1".into());
        buffer.delete("b".into());
        buffer.lock("c".into());
        assert_eq!(buffer.get(b"a"), Some(Some("1".into())));
        assert_eq!(buffer.get(b"b"), Some(None));
        assert_eq!(buffer.get(b"c"), None);
        assert_eq!(buffer.get(b"d"), None);
    }

    #[test]
    fn an_insert_leaves_its_demand_behind() {
        let mut buffer = Buffer::default();
        assert!(buffer.insert("a".into(), "1".into()));
        assert!(!buffer.insert("a".into(), "2".into()));
        buffer.put("a".into(), "3".into());
        assert!(buffer.insert("b".into(), "1".into()));
        buffer.delete("b".into());
        assert_eq!(buffer.get(b"b"), Some(None));
        buffer.delete("c".into());
        assert!(buffer.insert("c".into(), "1".into()));
        assert_eq!(
            ops(buffer),
            [
                ("a".into(), kvrpcpb::Op::Insert),
                ("b".into(), kvrpcpb::Op::CheckNotExists),
                ("c".into(), kvrpcpb::Op::Put),
            ]
        );
    }

    #[test]
    fn a_lock_gives_way_to_a_write_and_not_the_other_way_round() {
        let mut buffer = Buffer::default();
        buffer.lock("a".into());
        buffer.put("a".into(), "1".into());
        buffer.put("b".into(), "1".into());
        buffer.lock("b".into());
        let put = kvrpcpb::Op::Put;
        assert_eq!(ops(buffer), [("a".into(), put), ("b".into(), put)]);
    }

    #[test]
    fn writes_outside_of_what_was_read_are_not_mixed_in() {
        let mut buffer = Buffer::default();
        buffer.put("a".into(), "1".into());
        buffer.put("c".into(), "3".into());
        buffer.delete("d".into());
        buffer.put("z".into(), "26".into());
        let covered = KeyRange::from_wire("b", "m");
        let pairs = vec![pair("b", "2"), pair("d", "4")];
        let seen = buffer.overlay(&covered, pairs.clone(), Order::Forward);
        assert_eq!(seen, [pair("b", "2"), pair("c", "3")]);
        let reversed = pairs.into_iter().rev().collect();
        let seen = buffer.overlay(&covered, reversed, Order::Reverse);
        assert_eq!(seen, [pair("c", "3"), pair("b", "2")]);
    }

    proptest! {
        #[test]
        fn the_overlay_is_what_a_map_would_hold(
            stored in proptest::collection::btree_map(0u8..20, any::<u8>(), 0..15),
            changes in proptest::collection::vec((0u8..20, proptest::option::of(any::<u8>())), 0..15),
            start in 0u8..20, len in 1u8..20,
        ) {
            let bytes = |byte: u8| Bytes::from(vec![byte]);
            let within = |key: u8| key >= start && key < start.saturating_add(len);
            let mut buffer = Buffer::default();
            let mut expected = stored.clone();
            for (key, value) in changes {
                match value {
                    Some(value) => {
                        buffer.put(bytes(key), bytes(value));
                        expected.insert(key, value);
                    }
                    None => {
                        buffer.delete(bytes(key));
                        expected.remove(&key);
                    }
                }
            }
            let covered = KeyRange { start: bytes(start), end: Some(bytes(start.saturating_add(len))) };
            let pairs = |map: &BTreeMap<u8, u8>| -> Vec<KvPair> {
                map.iter().filter(|(k, _)| within(**k)).map(|(k, v)| (bytes(*k), bytes(*v))).collect()
            };
            let seen = buffer.overlay(&covered, pairs(&stored), Order::Forward);
            prop_assert_eq!(seen, pairs(&expected));
        }
    }
}
