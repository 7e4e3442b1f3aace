//! Everything a store keeps about one key: for a person who wants to see.

use bytes::Bytes;
use proto::{Timestamp, kvrpcpb};

use super::TransactionClient;
use crate::error::{ErrorKind, Result};

/// What a lock or a record does to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Writes a value.
    Put,
    /// Removes it.
    Delete,
    /// Leaves it, and kept others from writing it.
    Lock,
    /// Nothing: its transaction was rolled back.
    Rollback,
    /// A lock taken before the commit: what it will do is not known yet.
    Pessimistic,
    /// Something that this client does not know.
    Unknown,
}

impl Deed {
    fn of(op: kvrpcpb::Op) -> Self {
        match op {
            kvrpcpb::Op::Put | kvrpcpb::Op::Insert => Self::Put,
            kvrpcpb::Op::Del => Self::Delete,
            kvrpcpb::Op::Lock => Self::Lock,
            kvrpcpb::Op::Rollback => Self::Rollback,
            kvrpcpb::Op::PessimisticLock => Self::Pessimistic,
            kvrpcpb::Op::CheckNotExists
            | kvrpcpb::Op::SharedLock
            | kvrpcpb::Op::SharedPessimisticLock => Self::Unknown,
        }
    }
}

/// The lock on a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockRecord {
    /// What will be done when its transaction commits.
    pub deed: Deed,
    /// When its transaction began.
    pub start: Timestamp,
    /// The key that decides about its transaction.
    pub primary: Bytes,
    /// The value that will be written, where there is one.
    pub value: Option<Bytes>,
    /// How long it lives, in milliseconds from the transaction's start.
    pub ttl_ms: u64,
    /// Of a pessimistic transaction: when the lock was taken; else zero.
    pub for_update: Timestamp,
    /// How many keys the transaction writes, as far as the lock says.
    pub txn_size: u64,
    /// Whether the transaction is committed once all its keys are locked.
    pub async_commit: bool,
    /// The other keys of such a transaction; in the lock of its primary only.
    pub secondaries: Vec<Bytes>,
}

/// What a transaction has left on a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteRecord {
    /// What it did.
    pub deed: Deed,
    /// When its transaction began.
    pub start: Timestamp,
    /// When it was committed; of a rollback, the same as its start.
    pub commit: Timestamp,
    /// The value, where there is one.
    pub value: Option<Bytes>,
    /// Whether the transaction that began at the same timestamp was rolled back here.
    pub overlaps_rollback: bool,
}

/// Everything about one key, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// The lock that stands there now.
    pub lock: Option<LockRecord>,
    /// What has been committed and rolled back, as far as it is still kept.
    pub writes: Vec<WriteRecord>,
    /// Values that belong to none of these: by the start of the transaction that wrote them.
    pub stray_values: Vec<(Timestamp, Bytes)>,
}

impl TransactionClient {
    /// Everything the leader of a key's region keeps about the key.
    pub async fn versions(&self, key: impl AsRef<[u8]>) -> Result<Versions> {
        let mut call = self.call("versions");
        let key = self.codec.encode(key.as_ref());
        let (_, answer) = self
            .cluster
            .one(&mut call, &self.codec, &key, |_| kvrpcpb::MvccGetByKeyRequest {
                key: key.clone(),
                ..Default::default()
            })
            .await?;
        if !answer.error.is_empty() {
            let why = format!("the store says: {}", answer.error);
            return Err(call.fail(ErrorKind::Rejected, why));
        }
        Ok(self.versions_of(answer.info.unwrap_or_default()))
    }

    fn versions_of(&self, info: kvrpcpb::MvccInfo) -> Versions {
        let mut long: Vec<_> =
            info.values.into_iter().map(|value| (Timestamp(value.start_ts), value.value)).collect();
        let mut value = |deed: Deed, start: Timestamp, short: Bytes| {
            let at = long.iter().position(|(at, _)| *at == start);
            match deed {
                Deed::Put if short.is_empty() => Some(at.map_or(short, |at| long.remove(at).1)),
                Deed::Put => Some(short),
                Deed::Delete | Deed::Lock | Deed::Rollback | Deed::Pessimistic | Deed::Unknown => {
                    None
                }
            }
        };
        let lock = info.lock.map(|lock| {
            let (deed, start) = (Deed::of(lock.r#type()), Timestamp(lock.start_ts));
            LockRecord {
                deed,
                start,
                value: value(deed, start, lock.short_value),
                primary: self.codec.decode(lock.primary),
                ttl_ms: lock.ttl,
                for_update: Timestamp(lock.for_update_ts),
                txn_size: lock.txn_size,
                async_commit: lock.use_async_commit,
                secondaries: lock.secondaries.into_iter().map(|k| self.codec.decode(k)).collect(),
            }
        });
        let writes = info.writes.into_iter().map(|write| {
            let (deed, start) = (Deed::of(write.r#type()), Timestamp(write.start_ts));
            WriteRecord {
                deed,
                start,
                commit: Timestamp(write.commit_ts),
                value: value(deed, start, write.short_value),
                overlaps_rollback: write.has_overlapped_rollback,
            }
        });
        let writes = writes.collect();
        Versions { lock, writes, stray_values: long }
    }
}
