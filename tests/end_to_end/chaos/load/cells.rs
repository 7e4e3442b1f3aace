//! Users of cells: transactional registers, whose transactions say at which timestamps they read and commit.
//!
//! The client tells when a transaction began and when it was committed, and the versions of a key name both
//! for every transaction that wrote it. So the fate of a commit that nobody heard of is read from the
//! stores: some time later, when no request of it can be under way any more, and before old versions are
//! removed; at the latest at the end.
//!
//! What it does not tell is when a pessimistic lock was taken. But what is locked stays as it is until the
//! commit, so a committed transaction has read what was there right before its commit: which asks for more
//! than the lock's own moment does. What a pessimistic transaction read that was not committed is not judged.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::txn::{Deed, LockRecord};
use client::{Client, Snapshot, TransactionClient};
use tests::sim::dice::Dice;
use tests::transactions::{Change, Fate, Read, Transaction, Write};

use super::registers::parsed;
use super::txn::{Kind, Txn};
use super::{Books, LAST_READER, transaction_pace};
use crate::chaos::watch::{Failed, Watch};
use crate::cluster::until;

/// Cells in use at a time.
pub(in crate::chaos) const CELLS: u64 = 6;
/// No request is under way so long after its call: pauses and partitions are over in a tenth of it.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// A transaction on cells.
#[derive(Clone, Debug)]
pub(in crate::chaos) struct CellTransaction {
    pub(in crate::chaos) kind: Kind,
    pub(in crate::chaos) told: Transaction<u64>,
    /// Whether the fate was read from the stores, because nobody had told it.
    pub(in crate::chaos) was_unknown: bool,
}

/// A fate that has to be read from the stores.
pub(super) struct Open {
    /// Which transaction of the history.
    at: usize,
    /// One of the keys that it writes.
    key: String,
    since: Instant,
}

/// Cells of one turn are neighbours, so that they can be scanned.
pub(super) fn key_of(cell: u64) -> String {
    format!("x/{:07}", cell)
}

fn cells_of_turn(turn: u64) -> Range<u64> {
    turn * CELLS..(turn + 1) * CELLS
}

/// What a transaction does with a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Read,
    Write(u64),
    ReadAndWrite(u64),
    Delete,
    Keep,
}

impl Act {
    fn draw(dice: &mut Dice, value: u64) -> Self {
        match dice.within(0..9) {
            0..=2 => Self::Read,
            3 => Self::Write(value),
            4..=6 => Self::ReadAndWrite(value),
            7 => Self::Delete,
            _ => Self::Keep,
        }
    }
}

pub(super) async fn use_cells(client: Client, user: u64, mut dice: Dice, books: Arc<Books>) {
    let transactions = client.transactions();
    let mut next_value = 0;
    let mut pace = transaction_pace();
    while !books.is_over() {
        pace.tick().await;
        settle_one(&transactions, &books).await;
        let turn = books.cells.take();
        let kind = Kind::draw(&mut dice);
        let mut cells: Vec<u64> = cells_of_turn(turn).collect();
        dice.shuffle(&mut cells);
        let start = Instant::now();
        let mut visit = Visit::new(&books.watch, books.stamp(), user, kind);
        let outcome = if kind == Kind::Snapshot {
            visit.look(&transactions, turn, dice.happens(500)).await
        } else {
            cells.truncate(dice.within(1..5) as usize);
            let mut acts: Vec<(u64, Act)> = Vec::new();
            for (at, cell) in cells.into_iter().enumerate() {
                next_value += 1;
                let value = next_value << 8 | user;
                let writes = at == 0 && kind.is_pessimistic();
                let act =
                    if writes { Act::ReadAndWrite(value) } else { Act::draw(&mut dice, value) };
                acts.push((cell, act));
            }
            visit.act(&transactions, &acts).await
        };
        books.ended(user, kind, start, &outcome);
        let mut told = visit.told;
        match outcome {
            Ok(fate) => told.fate = fate,
            Err(Failed::Refused) => told.fate = Fate::Aborted,
            Err(Failed::Unknown) => told.fate = Fate::Unknown,
        }
        if told.fate != Fate::Unknown {
            told.ended = books.stamp();
        }
        // One that has not begun has nothing to tell.
        if told.start_ts != 0 {
            note(&books, CellTransaction { kind, told, was_unknown: false });
        }
    }
}

fn note(books: &Books, mut transaction: CellTransaction) {
    let fate = transaction.told.fate;
    decide(&mut transaction, fate);
    let mut notes = books.notes();
    if let (Fate::Unknown, Some(write)) = (fate, transaction.told.writes.first()) {
        let (at, key) = (notes.cells.len(), key_of(write.key));
        notes.open_cells.push_back(Open { at, key, since: Instant::now() });
    }
    notes.cells.push(transaction);
}

/// The fate is known. What was locked was true right before the commit.
fn decide(transaction: &mut CellTransaction, fate: Fate) {
    let told = &mut transaction.told;
    told.fate = fate;
    if !transaction.kind.is_pessimistic() {
        return;
    }
    match fate {
        Fate::Committed(at) => {
            told.reads.iter_mut().for_each(|read| read.at = at - 1);
            told.writes.iter_mut().for_each(|write| write.since = at - 1);
        }
        Fate::Aborted => told.reads.clear(),
        Fate::Unknown => {}
    }
}

/// A transaction as it is done and noted.
struct Visit<'a> {
    watch: &'a Watch,
    kind: Kind,
    told: Transaction<u64>,
}

impl<'a> Visit<'a> {
    fn new(watch: &'a Watch, began: u64, user: u64, kind: Kind) -> Self {
        let told = Transaction {
            client: user,
            began,
            ended: u64::MAX,
            start_ts: 0,
            fate: Fate::Aborted,
            reads: Vec::new(),
            writes: Vec::new(),
        };
        Self { watch, kind, told }
    }

    fn saw(&mut self, cell: u64, value: Option<u64>) {
        let at = self.told.start_ts;
        self.told.reads.push(Read { key: cell, value, at });
    }

    fn writes(&mut self, cell: u64, change: Change<u64>) {
        let since = self.told.start_ts;
        self.told.writes.push(Write { key: cell, change, since });
    }

    /// Reads all cells of a turn at one timestamp.
    async fn look(
        &mut self,
        transactions: &TransactionClient,
        turn: u64,
        scans: bool,
    ) -> Result<Fate, Failed> {
        let snapshot = self.watch.call("snapshot", "of cells", transactions.snapshot()).await?;
        self.told.start_ts = snapshot.timestamp().0;
        let keys: Vec<String> = cells_of_turn(turn).map(key_of).collect();
        let pairs = self.pairs(&snapshot, &keys, scans).await?;
        for (cell, key) in cells_of_turn(turn).zip(&keys) {
            let pair = pairs.iter().find(|(found, _)| found == key.as_bytes());
            self.saw(cell, pair.map(|(_, value)| parsed(value)));
        }
        Ok(Fate::Committed(self.told.start_ts))
    }

    async fn pairs(
        &self,
        snapshot: &Snapshot,
        keys: &[String],
        scans: bool,
    ) -> Result<Vec<client::KvPair>, Failed> {
        let (first, last) = (&keys[0], &keys[keys.len() - 1]);
        if scans {
            let range = first.as_str()..=last.as_str();
            self.watch.call("scan from", first, snapshot.scan(range, keys.len())).await
        } else {
            self.watch.call("batch get from", first, snapshot.batch_get(keys)).await
        }
    }

    /// Does all of it, and commits. Whatever fails before the commit has done nothing.
    async fn act(
        &mut self,
        transactions: &TransactionClient,
        acts: &[(u64, Act)],
    ) -> Result<Fate, Failed> {
        let refused = |_| Failed::Refused;
        let txn = Txn::begin(transactions, self.kind, self.watch).await.map_err(refused)?;
        self.told.start_ts = txn.start().0;
        for (cell, act) in acts {
            if let Err(failed) = self.one(&txn, *cell, *act).await {
                txn.give_up(self.watch).await;
                return Err(refused(failed));
            }
        }
        let committed = txn.commit(self.watch).await?;
        Ok(Fate::Committed(committed.map_or(self.told.start_ts, |at| at.0)))
    }

    async fn one(&mut self, txn: &Txn, cell: u64, act: Act) -> Result<(), Failed> {
        let (watch, key) = (self.watch, key_of(cell));
        if matches!(act, Act::Read | Act::ReadAndWrite(_)) {
            let value = txn.get(watch, &key).await?;
            self.saw(cell, value.map(parsed));
        }
        match act {
            Act::Read => Ok(()),
            Act::Write(value) | Act::ReadAndWrite(value) => {
                self.writes(cell, Change::Put(value));
                txn.put(watch, &key, value.to_string()).await
            }
            Act::Delete => {
                self.writes(cell, Change::Delete);
                txn.delete(watch, &key).await
            }
            Act::Keep => {
                self.writes(cell, Change::Keep);
                txn.keep(watch, &key).await
            }
        }
    }
}

/// Reads the fate of the oldest transaction that nobody heard of, once it is old enough.
async fn settle_one(transactions: &TransactionClient, books: &Books) {
    let open = {
        let mut notes = books.notes();
        let open = notes.open_cells.pop_front_if(|open| open.since.elapsed() > SETTLED_AFTER);
        open.map(|open| (notes.cells[open.at].told.start_ts, open))
    };
    let Some((start_ts, open)) = open else { return };
    match fate_of(transactions, &books.watch, &open.key, start_ts).await {
        Some(fate) => settle(books, open.at, fate),
        None => books.notes().open_cells.push_back(open),
    }
}

/// Reads the fates of all that are left; nobody uses cells any more.
pub(super) async fn settle_all(transactions: &TransactionClient, watch: &Watch, books: &Books) {
    let open = std::mem::take(&mut books.notes().open_cells);
    for Open { at, key, .. } in open {
        let start_ts = books.notes().cells[at].told.start_ts;
        let fate = until("the fate of a transaction to be read", || {
            fate_of(transactions, watch, &key, start_ts)
        });
        settle(books, at, fate.await);
    }
}

/// The last word on every cell: a snapshot of each turn.
pub(super) async fn read_all(transactions: &TransactionClient, watch: &Watch, books: &Books) {
    for turn in 0..=books.cells.now() {
        let mut visit = Visit::new(watch, books.stamp(), LAST_READER, Kind::Snapshot);
        let looked = visit.look(transactions, turn, true).await;
        let mut told = visit.told;
        told.fate = looked.expect("a healed cluster answers");
        told.ended = books.stamp();
        note(books, CellTransaction { kind: Kind::Snapshot, told, was_unknown: false });
    }
}

fn settle(books: &Books, at: usize, fate: Fate) {
    let transaction = &mut books.notes().cells[at];
    transaction.was_unknown = true;
    decide(transaction, fate);
}

/// What became of a transaction on one of its keys; nothing while its lock stands there, or nobody answers.
async fn fate_of(
    transactions: &TransactionClient,
    watch: &Watch,
    key: &str,
    start_ts: u64,
) -> Option<Fate> {
    // Whoever reads the key now finds out what became of a lock in the way.
    let snapshot = watch.call("snapshot", "of the past", transactions.snapshot()).await.ok()?;
    watch.call("get of the past", key, snapshot.get(key)).await.ok()?;
    let versions = watch.call("versions of", key, transactions.versions(key)).await.ok()?;
    // A pessimistic lock was never prewritten: without this key there is no commit, and no reader asks.
    let is_open = |lock: LockRecord| lock.start.0 == start_ts && lock.deed != Deed::Pessimistic;
    if versions.lock.is_some_and(is_open) {
        return None;
    }
    let record = versions.writes.iter().find(|record| record.start.0 == start_ts);
    Some(match record {
        None => Fate::Aborted,
        Some(record) if record.deed == Deed::Rollback => Fate::Aborted,
        Some(record) => Fate::Committed(record.commit.0),
    })
}

#[test]
fn what_was_locked_is_judged_at_the_commit_and_only_then() {
    use super::txn::Way;

    let transaction = |kind| {
        let told = Transaction {
            client: 1,
            began: 1,
            ended: 2,
            start_ts: 10,
            fate: Fate::Unknown,
            reads: vec![Read { key: 1, value: Some(7), at: 10 }],
            writes: vec![Write { key: 1, change: Change::Put(8), since: 10 }],
        };
        CellTransaction { kind, told, was_unknown: false }
    };
    let mut locked = transaction(Kind::Pessimistic(Way::Async));
    decide(&mut locked, Fate::Unknown);
    decide(&mut locked, Fate::Committed(20));
    assert_eq!((locked.told.reads[0].at, locked.told.writes[0].since), (19, 19));
    let mut given_up = transaction(Kind::Pessimistic(Way::Async));
    decide(&mut given_up, Fate::Aborted);
    assert!(given_up.told.reads.is_empty());
    let mut optimistic = transaction(Kind::Optimistic(Way::Async));
    decide(&mut optimistic, Fate::Committed(20));
    assert_eq!((optimistic.told.reads[0].at, optimistic.told.writes[0].since), (10, 10));
}
