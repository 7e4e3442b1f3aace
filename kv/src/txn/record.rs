//! What the lock and write families hold: a [`Lock`] says that a transaction is under way on a key, a
//! [`Write`] what became of one.
//!
//! The bytes are TiKV's, so that its tools read our engine:
//!
//! ```text
//! lock   type · len+primary · start_ts · ttl · tagged fields
//! write  type · start_ts · tagged fields
//! ```
//!
//! Numbers in the head are base-128 varints, lengths of bytes zigzag varints, timestamps in tagged
//! fields eight bytes big-endian. A field that has its zero value is left out.

use bytes::{BufMut, Bytes};
use proto::kvrpcpb::{LockInfo, Op};
use raftstore::error::Fault;

use crate::keys::Key;

/// Longest value that stands in its lock and commit record; a longer one goes to the default family.
pub const SHORT_VALUE_BYTES_MAX: usize = 255;

/// The "short value" of a rollback record that must not be collapsed.
const PROTECTED: &[u8] = b"p";

/// What a lock will turn into when it is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// A new value.
    Put,
    /// A deletion.
    Delete,
    /// Nothing: the key was only to be kept from others.
    Lock,
    /// Nothing yet: a pessimistic transaction has reserved the key and will prewrite it later.
    Pessimistic,
}

impl LockKind {
    fn byte(self) -> u8 {
        match self {
            Self::Put => b'P',
            Self::Delete => b'D',
            Self::Lock => b'L',
            Self::Pessimistic => b'S',
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            b'P' => Self::Put,
            b'D' => Self::Delete,
            b'L' => Self::Lock,
            b'S' => Self::Pessimistic,
            _ => return None,
        })
    }

    /// The operation that clients are told of.
    pub fn to_wire(self) -> Op {
        match self {
            Self::Put => Op::Put,
            Self::Delete => Op::Del,
            Self::Lock => Op::Lock,
            Self::Pessimistic => Op::PessimisticLock,
        }
    }
}

/// A transaction is under way on a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// What it will turn into.
    pub kind: LockKind,
    /// The user key whose fate is the transaction's.
    pub primary: Bytes,
    /// Which transaction.
    pub start_ts: u64,
    /// How long it may stay, in milliseconds from the physical part of `start_ts`.
    pub ttl: u64,
    /// The value to be, when it is short.
    pub short_value: Option<Bytes>,
    /// Not 0 for pessimistic transactions: up to where the key was checked for newer writes.
    pub for_update_ts: u64,
    /// How many keys the transaction has, as far as it told.
    pub txn_size: u64,
    /// It will not be committed before this; 0 forbids readers to push it.
    pub min_commit_ts: u64,
    /// Committed as soon as all keys are locked, without waiting for the primary's commit record.
    pub async_commit: bool,
    /// In the primary of an async commit: all other keys of the transaction.
    pub secondaries: Vec<Bytes>,
    /// Transactions rolled back on this key while the lock stood here, whose rollback records a
    /// commit at the same timestamp would overwrite.
    pub rollback_ts: Vec<u64>,
    /// Where the newest value was when the lock was taken, and how many records lie between; written
    /// by TiKV to skip records, kept by us.
    pub last_change: Option<(u64, u64)>,
    /// Who wrote it, for change feeds.
    pub txn_source: u64,
    /// Taken in spite of a newer write; the client knows and will look again.
    pub locked_with_conflict: bool,
    /// Not 0 for locks of a pipelined transaction.
    pub generation: u64,
}

impl Lock {
    /// A lock with everything optional left out.
    pub fn new(kind: LockKind, primary: impl Into<Bytes>, start_ts: u64, ttl: u64) -> Self {
        Self {
            kind,
            primary: primary.into(),
            start_ts,
            ttl,
            short_value: None,
            for_update_ts: 0,
            txn_size: 0,
            min_commit_ts: 0,
            async_commit: false,
            secondaries: Vec::new(),
            rollback_ts: Vec::new(),
            last_change: None,
            txn_source: 0,
            locked_with_conflict: false,
            generation: 0,
        }
    }

    /// Whether its time is over at `current_ts`. Only milliseconds count.
    pub fn is_expired(&self, current_ts: u64) -> bool {
        let physical = |ts: u64| proto::Timestamp(ts).physical();
        physical(self.start_ts).saturating_add(self.ttl) < physical(current_ts)
    }

    /// Whether it only reserves the key.
    pub fn is_pessimistic(&self) -> bool {
        self.kind == LockKind::Pessimistic
    }

    /// What a client that meets the lock on `key` is told.
    pub fn info(&self, key: &Key) -> LockInfo {
        LockInfo {
            primary_lock: self.primary.clone(),
            lock_version: self.start_ts,
            key: key.user().clone(),
            lock_ttl: self.ttl,
            txn_size: self.txn_size,
            lock_type: self.kind.to_wire() as i32,
            lock_for_update_ts: self.for_update_ts,
            use_async_commit: self.async_commit,
            min_commit_ts: self.min_commit_ts,
            secondaries: self.secondaries.clone(),
            ..Default::default()
        }
    }

    /// Its bytes in the lock family.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(32 + self.primary.len());
        out.push(self.kind.byte());
        put_bytes(&mut out, &self.primary);
        put_varint(&mut out, self.start_ts);
        put_varint(&mut out, self.ttl);
        if let Some(value) = &self.short_value {
            put_short_value(&mut out, value);
        }
        let mut number = |tag: u8, value: u64| {
            if value > 0 {
                out.push(tag);
                out.put_u64(value);
            }
        };
        number(b'f', self.for_update_ts);
        number(b't', self.txn_size);
        number(b'c', self.min_commit_ts);
        if self.async_commit {
            out.push(b'a');
            put_varint(&mut out, self.secondaries.len() as u64);
            self.secondaries.iter().for_each(|key| put_bytes(&mut out, key));
        }
        if !self.rollback_ts.is_empty() {
            out.push(b'r');
            put_varint(&mut out, self.rollback_ts.len() as u64);
            self.rollback_ts.iter().for_each(|ts| out.put_u64(*ts));
        }
        put_last_change(&mut out, self.last_change);
        if self.txn_source > 0 {
            out.push(b's');
            put_varint(&mut out, self.txn_source);
        }
        if self.locked_with_conflict {
            out.push(b'F');
        }
        if self.generation > 0 {
            out.push(b'g');
            out.put_u64(self.generation);
        }
        out.into()
    }

    /// The lock behind these bytes. `place` says whose they are, for the fault.
    pub fn decode(bytes: &[u8], place: impl std::fmt::Display) -> Result<Self, Fault> {
        Self::parse(bytes).ok_or_else(|| corrupt("lock", place, bytes))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        let kind = LockKind::from_byte(input.byte()?)?;
        let primary = input.bytes()?;
        let mut lock = Self::new(kind, primary, input.varint()?, input.varint()?);
        while let Some(tag) = input.byte() {
            match tag {
                b'v' => lock.short_value = Some(input.short_value()?),
                b'f' => lock.for_update_ts = input.number()?,
                b't' => lock.txn_size = input.number()?,
                b'c' => lock.min_commit_ts = input.number()?,
                b'a' => {
                    lock.async_commit = true;
                    for _ in 0..input.varint()? {
                        lock.secondaries.push(input.bytes()?);
                    }
                }
                b'r' => {
                    for _ in 0..input.varint()? {
                        lock.rollback_ts.push(input.number()?);
                    }
                }
                b'l' => lock.last_change = Some((input.number()?, input.varint()?)),
                b's' => lock.txn_source = input.varint()?,
                b'F' => lock.locked_with_conflict = true,
                b'g' => lock.generation = input.number()?,
                _ => return None,
            }
        }
        Some(lock)
    }
}

/// What a transaction did to a key in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    /// Set a value.
    Put,
    /// Deleted it.
    Delete,
    /// Only kept others from it.
    Lock,
    /// Nothing, and it never will: the record stops a late prewrite.
    Rollback,
}

impl WriteKind {
    fn byte(self) -> u8 {
        match self {
            Self::Put => b'P',
            Self::Delete => b'D',
            Self::Lock => b'L',
            Self::Rollback => b'R',
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            b'P' => Self::Put,
            b'D' => Self::Delete,
            b'L' => Self::Lock,
            b'R' => Self::Rollback,
            _ => return None,
        })
    }

    /// Whether readers see it.
    pub fn is_data(self) -> bool {
        matches!(self, Self::Put | Self::Delete)
    }

    /// The operation that clients are told of.
    pub fn to_wire(self) -> Op {
        match self {
            Self::Put => Op::Put,
            Self::Delete => Op::Del,
            Self::Lock => Op::Lock,
            Self::Rollback => Op::Rollback,
        }
    }
}

/// What became of a transaction on a key; stored under its commit timestamp, a rollback under the
/// transaction's start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// What it did.
    pub kind: WriteKind,
    /// Which transaction.
    pub start_ts: u64,
    /// The value, when it is short.
    pub short_value: Option<Bytes>,
    /// Another transaction, whose start is this record's commit timestamp, was rolled back on this
    /// key; there is room for one record only.
    pub overlapped_rollback: bool,
    /// Readers at or after this timestamp do not see the record: it was rewritten (for the flag
    /// above) when a newer version stood already, which a replica may have collected with it.
    pub gc_fence: Option<u64>,
    /// As in [`Lock::last_change`].
    pub last_change: Option<(u64, u64)>,
    /// Who wrote it, for change feeds.
    pub txn_source: u64,
}

impl Write {
    /// A record with everything optional left out.
    pub fn new(kind: WriteKind, start_ts: u64, short_value: Option<Bytes>) -> Self {
        Self {
            kind,
            start_ts,
            short_value,
            overlapped_rollback: false,
            gc_fence: None,
            last_change: None,
            txn_source: 0,
        }
    }

    /// The record of a rolled-back transaction. A protected one is never collapsed with others.
    pub fn rollback(start_ts: u64, protected: bool) -> Self {
        let mark = protected.then(|| Bytes::from_static(PROTECTED));
        Self::new(WriteKind::Rollback, start_ts, mark)
    }

    /// Whether it is a rollback that must stay.
    pub fn is_protected_rollback(&self) -> bool {
        self.kind == WriteKind::Rollback && self.short_value.as_deref() == Some(PROTECTED)
    }

    /// Whether readers at `ts` must take the key as deleted here.
    pub fn is_fenced_at(&self, ts: u64) -> bool {
        self.gc_fence.is_some_and(|fence| 0 < fence && fence <= ts)
    }

    /// Its bytes in the write family.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(16);
        out.push(self.kind.byte());
        put_varint(&mut out, self.start_ts);
        if let Some(value) = &self.short_value {
            put_short_value(&mut out, value);
        }
        if self.overlapped_rollback {
            out.push(b'R');
        }
        if let Some(fence) = self.gc_fence {
            out.push(b'F');
            out.put_u64(fence);
        }
        put_last_change(&mut out, self.last_change);
        if self.txn_source > 0 {
            out.push(b'S');
            put_varint(&mut out, self.txn_source);
        }
        out.into()
    }

    /// The record behind these bytes. `place` says whose they are, for the fault.
    pub fn decode(bytes: &[u8], place: impl std::fmt::Display) -> Result<Self, Fault> {
        Self::parse(bytes).ok_or_else(|| corrupt("commit record", place, bytes))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut input = Input(bytes);
        let kind = WriteKind::from_byte(input.byte()?)?;
        let mut write = Self::new(kind, input.varint()?, None);
        while let Some(tag) = input.byte() {
            match tag {
                b'v' => write.short_value = Some(input.short_value()?),
                b'R' => write.overlapped_rollback = true,
                b'F' => write.gc_fence = Some(input.number()?),
                b'l' => write.last_change = Some((input.number()?, input.varint()?)),
                b'S' => write.txn_source = input.varint()?,
                _ => return None,
            }
        }
        Some(write)
    }
}

fn corrupt(what: &str, place: impl std::fmt::Display, bytes: &[u8]) -> Fault {
    Fault::Corrupt {
        place: format!("{what} of {place}"),
        detail: format!("{} is not one", proto::key::Readable(bytes)),
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A length is written as a signed number, so it takes twice its value.
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, (bytes.len() as u64) << 1);
    out.extend_from_slice(bytes);
}

fn put_short_value(out: &mut Vec<u8>, value: &[u8]) {
    let len = u8::try_from(value.len()).expect("only short values stand in records");
    out.push(b'v');
    out.push(len);
    out.extend_from_slice(value);
}

fn put_last_change(out: &mut Vec<u8>, last_change: Option<(u64, u64)>) {
    if let Some((ts, versions)) = last_change {
        out.push(b'l');
        out.put_u64(ts);
        put_varint(out, versions);
    }
}

/// What is left to read; every method takes from the front, `None` when there is too little.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take(&mut self, len: usize) -> Option<&[u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Option<u64> {
        self.take(8).map(|bytes| u64::from_be_bytes(bytes.try_into().expect("eight were taken")))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<Bytes> {
        let len = self.varint()?;
        if len & 1 == 1 {
            return None;
        }
        self.take(usize::try_from(len >> 1).ok()?).map(Bytes::copy_from_slice)
    }

    fn short_value(&mut self) -> Option<Bytes> {
        let len = usize::from(self.byte()?);
        self.take(len).map(Bytes::copy_from_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_known_bytes() {
        let mut lock = Lock::new(LockKind::Put, "pk", 300, 10);
        assert_eq!(lock.encode()[..], [b'P', 4, b'p', b'k', 0xac, 0x02, 10]);
        lock.short_value = Some("v".into());
        lock.for_update_ts = 1;
        lock.min_commit_ts = 2;
        lock.async_commit = true;
        lock.secondaries = vec!["s".into()];
        lock.rollback_ts = vec![3];
        let mut expected =
            b"P\x04pk\xac\x02\x0av\x01vf\0\0\0\0\0\0\0\x01c\0\0\0\0\0\0\0\x02".to_vec();
        expected.extend_from_slice(b"a\x01\x02sr\x01\0\0\0\0\0\0\0\x03");
        assert_eq!(lock.encode()[..], expected);

        let mut write = Write::new(WriteKind::Delete, 5, None);
        assert_eq!(write.encode()[..], *b"D\x05");
        write.overlapped_rollback = true;
        write.gc_fence = Some(7);
        assert_eq!(write.encode()[..], *b"D\x05RF\0\0\0\0\0\0\0\x07");
        assert_eq!(Write::rollback(5, true).encode()[..], *b"R\x05v\x01p");
        assert!(!Write::rollback(5, false).is_protected_rollback());
    }

    #[test]
    fn a_lock_expires_by_milliseconds() {
        let at = |physical| proto::Timestamp::new(physical, 9).0;
        let lock = Lock::new(LockKind::Put, "k", at(100), 10);
        assert!(!lock.is_expired(0));
        assert!(!lock.is_expired(at(110)));
        assert!(lock.is_expired(at(111)));
        assert!(lock.is_expired(u64::MAX));
    }

    prop_compose! {
        fn locks()(
            kind in prop::sample::select(vec![
                LockKind::Put, LockKind::Delete, LockKind::Lock, LockKind::Pessimistic,
            ]),
            primary in prop::collection::vec(any::<u8>(), 0..300),
            head in any::<(u64, u64)>(),
            value in prop::option::of(prop::collection::vec(any::<u8>(), 0..=255)),
            numbers in any::<[u64; 5]>(),
            secondaries in prop::option::of(prop::collection::vec(
                prop::collection::vec(any::<u8>(), 0..9), 0..3)),
            rollback_ts in prop::collection::vec(any::<u64>(), 0..3),
            last_change in any::<Option<(u64, u64)>>(),
            locked_with_conflict in any::<bool>(),
        ) -> Lock {
            let mut lock = Lock::new(kind, primary, head.0, head.1);
            lock.short_value = value.map(Bytes::from);
            lock.for_update_ts = numbers[0];
            lock.txn_size = numbers[1];
            lock.min_commit_ts = numbers[2];
            lock.txn_source = numbers[3];
            lock.generation = numbers[4];
            lock.async_commit = secondaries.is_some();
            lock.secondaries =
                secondaries.unwrap_or_default().into_iter().map(Bytes::from).collect();
            lock.rollback_ts = rollback_ts;
            lock.last_change = last_change;
            lock.locked_with_conflict = locked_with_conflict;
            lock
        }
    }

    proptest! {
        #[test]
        fn locks_come_back(lock in locks()) {
            prop_assert_eq!(Lock::parse(&lock.encode()), Some(lock));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            Lock::parse(&bytes);
            Write::parse(&bytes);
        }
    }
}
