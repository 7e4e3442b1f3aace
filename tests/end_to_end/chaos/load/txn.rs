//! One transaction, of whichever kind: how it begins, reads, writes and ends.
//!
//! | kind | locks | commits |
//! |---|---|---|
//! | snapshot | nothing | never: it only reads |
//! | optimistic | in its commit | in two phases; or when all keys are locked; or at once where one region has all |
//! | pessimistic | what it reads for update and what it writes, right away | likewise |
//!
//! A pessimistic transaction reads for update only, and writes something: what it has read is then
//! true at its commit, whenever it was locked. What it read without a lock would be of another time.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use client::{
    PessimisticTransaction, Timestamp, Transaction, TransactionClient, TransactionOptions,
};
use tests::sim::dice::Dice;

use crate::chaos::watch::{Failed, Watch};

/// How a transaction is to commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::chaos) enum Way {
    /// Prewrite, then commit.
    TwoPhases,
    /// Committed when the last key is locked.
    Async,
    /// With one request where one region has all keys; else as `Async`.
    OnePhase,
}

/// How a transaction locks and commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::chaos) enum Kind {
    /// Reads only, at one timestamp.
    Snapshot,
    /// Locks when it commits.
    Optimistic(Way),
    /// Locks as it goes.
    Pessimistic(Way),
}

impl Kind {
    /// Those that write.
    pub(in crate::chaos) const WRITING: [Self; 6] = [
        Self::Optimistic(Way::TwoPhases),
        Self::Optimistic(Way::Async),
        Self::Optimistic(Way::OnePhase),
        Self::Pessimistic(Way::TwoPhases),
        Self::Pessimistic(Way::Async),
        Self::Pessimistic(Way::OnePhase),
    ];

    /// One of all kinds.
    pub(super) fn draw(dice: &mut Dice) -> Self {
        if dice.within(0..7) == 0 { Self::Snapshot } else { Self::draw_writing(dice) }
    }

    /// One of those that write.
    pub(super) fn draw_writing(dice: &mut Dice) -> Self {
        *dice.one_of(&Self::WRITING).expect("there are kinds")
    }

    pub(super) fn is_pessimistic(self) -> bool {
        matches!(self, Self::Pessimistic(_))
    }

    fn options(self) -> TransactionOptions {
        let way = match self {
            Self::Snapshot => Way::TwoPhases,
            Self::Optimistic(way) | Self::Pessimistic(way) => way,
        };
        TransactionOptions {
            async_commit: way != Way::TwoPhases,
            one_phase_commit: way == Way::OnePhase,
            ..Default::default()
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (style, way) = match self {
            Self::Snapshot => return f.write_str("snapshot, read only"),
            Self::Optimistic(way) => ("optimistic", way),
            Self::Pessimistic(way) => ("pessimistic", way),
        };
        let way = match way {
            Way::TwoPhases => "two phases",
            Way::Async => "async commit",
            Way::OnePhase => "one phase where it fits",
        };
        write!(f, "{style}, {way}")
    }
}

/// A transaction that writes, under way.
pub(super) enum Txn {
    Optimistic(Transaction),
    Pessimistic(PessimisticTransaction),
}

impl Txn {
    pub(super) async fn begin(
        transactions: &TransactionClient,
        kind: Kind,
        watch: &Watch,
    ) -> Result<Self, Failed> {
        let transactions = transactions.with_options(kind.options());
        if kind.is_pessimistic() {
            let begun = watch.call("begin", kind, transactions.begin_pessimistic());
            begun.await.map(Self::Pessimistic)
        } else {
            watch.call("begin", kind, transactions.begin()).await.map(Self::Optimistic)
        }
    }

    pub(super) fn start(&self) -> Timestamp {
        match self {
            Self::Optimistic(txn) => txn.start_timestamp(),
            Self::Pessimistic(txn) => txn.start_timestamp(),
        }
    }

    /// A key's value: of the snapshot, or locked.
    pub(super) async fn get(&self, watch: &Watch, key: &str) -> Result<Option<Bytes>, Failed> {
        match self {
            Self::Optimistic(txn) => watch.call("get", key, txn.get(key)).await,
            Self::Pessimistic(txn) => {
                watch.call("get for update", key, txn.get_for_update(key)).await
            }
        }
    }

    pub(super) async fn put(&self, watch: &Watch, key: &str, value: String) -> Result<(), Failed> {
        match self {
            Self::Optimistic(txn) => watch.call("put", key, async { txn.put(key, value) }).await,
            Self::Pessimistic(txn) => watch.call("locking put", key, txn.put(key, value)).await,
        }
    }

    pub(super) async fn delete(&self, watch: &Watch, key: &str) -> Result<(), Failed> {
        match self {
            Self::Optimistic(txn) => watch.call("delete", key, async { txn.delete(key) }).await,
            Self::Pessimistic(txn) => watch.call("locking delete", key, txn.delete(key)).await,
        }
    }

    /// Keeps others from writing a key, and does not write it.
    pub(super) async fn keep(&self, watch: &Watch, key: &str) -> Result<(), Failed> {
        match self {
            Self::Optimistic(txn) => watch.call("lock", key, async { txn.lock(key) }).await,
            Self::Pessimistic(txn) => watch.call("lock keys", key, txn.lock_keys([key])).await,
        }
    }

    /// When it was committed; nothing if it wrote nothing.
    pub(super) async fn commit(&self, watch: &Watch) -> Result<Option<Timestamp>, Failed> {
        let start = self.start();
        match self {
            Self::Optimistic(txn) => watch.call("commit of", start, txn.commit()).await,
            Self::Pessimistic(txn) => watch.call("locked commit of", start, txn.commit()).await,
        }
    }

    /// Ends it without a commit. If locks stay behind, they expire.
    pub(super) async fn give_up(self, watch: &Watch) {
        let start = self.start();
        match self {
            Self::Optimistic(txn) => txn.rollback(),
            Self::Pessimistic(txn) => {
                let _ = watch.call("rollback of", start, txn.rollback()).await;
            }
        }
    }
}

/// How transactions of one kind have ended, as their clients were told.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::chaos) struct Endings {
    pub(in crate::chaos) committed: u64,
    pub(in crate::chaos) refused: u64,
    pub(in crate::chaos) unknown: u64,
}

/// All transactions of the load, by kind.
#[derive(Debug, Default)]
pub(in crate::chaos) struct Tally(pub(in crate::chaos) BTreeMap<Kind, Endings>);

impl Tally {
    pub(super) fn count<T>(&mut self, kind: Kind, outcome: &Result<T, Failed>) {
        let endings = self.0.entry(kind).or_default();
        match outcome {
            Ok(_) => endings.committed += 1,
            Err(Failed::Refused) => endings.refused += 1,
            Err(Failed::Unknown) => endings.unknown += 1,
        }
    }
}
