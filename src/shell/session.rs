//! What the shell remembers between statements, and does for each: a client, a mode, and perhaps an
//! open transaction.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::raw::{Swap, Ttl};
use client::{
    At, Client, Error, KvPair, PessimisticTransaction, RawClient, Snapshot, Span, Timestamp,
    Transaction, TransactionClient, Versions,
};
use futures_util::TryStreamExt as _;
use parking_lot::Mutex;

use super::statement::{Mode, Scan, Statement};

/// How many keys are kept in mind for completion; the first ones seen stay.
const KEYS_KNOWN_MAX: usize = 1_000;

/// What a statement gave.
#[derive(Debug)]
pub(super) enum Said {
    Value {
        key: Vec<u8>,
        value: Option<Bytes>,
    },
    Pairs {
        pairs: Vec<KvPair>,
        scan: Scan,
    },
    Count(u64),
    Swapped(Swap),
    Ttl(Ttl),
    Versions {
        key: Vec<u8>,
        versions: Versions,
    },
    Timestamp(Timestamp),
    /// A transaction ended, at this timestamp if it wrote anything.
    Committed(Option<Timestamp>),
    /// Something was done that gives no data; the words are for the person.
    Done(String),
}

/// Why a statement failed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It makes no sense here.
    Mistake(String),
    /// The cluster said no, or nothing.
    Failed(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

fn mistake<T>(words: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Mistake(words.into()))
}

/// A transaction that has begun.
enum Open {
    Optimistic(Transaction),
    Pessimistic(PessimisticTransaction),
}

/// Keys that were seen, for completion. Shared with the line editor's thread.
pub(super) type KeysKnown = Arc<Mutex<BTreeSet<String>>>;

pub(super) struct Session {
    client: Client,
    raw: RawClient,
    transactions: TransactionClient,
    mode: Mode,
    open: Option<Open>,
    pub(super) keys_known: KeysKnown,
}

impl Session {
    pub(super) fn new(client: Client, mode: Mode, timeout: Duration) -> Self {
        let raw = client.raw().with_timeout(timeout);
        let transactions = client.transactions().with_timeout(timeout);
        Self { client, raw, transactions, mode, open: None, keys_known: Arc::default() }
    }

    /// What stands before the cursor.
    pub(super) fn prompt(&self) -> &'static str {
        match (&self.open, self.mode) {
            (Some(Open::Optimistic(_)), _) => "txn (optimistic)> ",
            (Some(Open::Pessimistic(_)), _) => "txn (pessimistic)> ",
            (None, Mode::Txn) => "tessera> ",
            (None, Mode::Raw) => "raw> ",
        }
    }

    pub(super) fn is_in_transaction(&self) -> bool {
        self.open.is_some()
    }

    /// Gives an open transaction up. Whether there was one.
    pub(super) async fn give_up(&mut self) -> bool {
        match self.open.take() {
            None => return false,
            Some(Open::Optimistic(txn)) => txn.rollback(),
            // If the locks cannot be released they expire.
            Some(Open::Pessimistic(txn)) => drop(txn.rollback().await),
        }
        true
    }

    /// Waits for what goes on in the background, such as the second half of a commit.
    pub(super) async fn settle(&self, within: Duration) {
        // Whoever meets the locks that are left resolves them.
        let _ = self.client.settled(within).await;
    }

    /// Does what a statement says. Help, timing and leaving are not its business.
    pub(super) async fn perform(&mut self, statement: Statement) -> Result<Said, Trouble> {
        match statement {
            Statement::In(mode, None) if self.is_in_transaction() && mode == Mode::Raw => {
                mistake("a transaction is open; commit or rollback first")
            }
            Statement::In(mode, None) => {
                self.mode = mode;
                Ok(Said::Done(match mode {
                    Mode::Raw => "raw keys from now on".into(),
                    Mode::Txn => "transactional keys from now on".into(),
                }))
            }
            Statement::In(mode, Some(statement)) => self.in_mode(mode, *statement).await,
            statement => self.in_mode(self.mode, statement).await,
        }
    }

    async fn in_mode(&mut self, mode: Mode, statement: Statement) -> Result<Said, Trouble> {
        if let Statement::Timestamp = statement {
            return Ok(Said::Timestamp(self.client.timestamp().await?));
        }
        let said = match mode {
            Mode::Raw => self.on_raw(statement).await?,
            Mode::Txn => self.on_txn(statement).await?,
        };
        self.remember(&said);
        Ok(said)
    }

    async fn on_raw(&self, statement: Statement) -> Result<Said, Trouble> {
        let raw = &self.raw;
        match statement {
            Statement::Get { for_update: true, .. } => mistake("only transactions read for update"),
            Statement::Get { at: Some(_), .. } | Statement::Count { at: Some(_), .. } => {
                mistake("raw keys have no past; only transactional keys are read at a moment")
            }
            Statement::Get { key, .. } => {
                let value = raw.get(&key).await?;
                Ok(Said::Value { key, value })
            }
            Statement::Put { key, value, ttl: None } => {
                raw.put(&key, value).await?;
                done("written")
            }
            Statement::Put { key, value, ttl: Some(ttl) } => {
                raw.put_with_ttl(&key, value, ttl).await?;
                done("written")
            }
            Statement::Insert { key, value } => {
                let swap = raw.compare_and_swap(&key, None::<Bytes>, value).await?;
                if swap.swapped { done("written") } else { mistake("the key exists") }
            }
            Statement::Delete { key } => {
                raw.delete(&key).await?;
                done("removed")
            }
            Statement::Scan(scan) if scan.at.is_some() => {
                mistake("raw keys have no past; only transactional keys are read at a moment")
            }
            Statement::Scan(scan) => {
                let (span, limit) = (scan.span.clone(), scan.limit);
                let pairs = match (scan.keys_only, scan.reverse) {
                    (_, true) => raw.scan_reverse(span, limit).await?,
                    (true, false) => {
                        let keys = raw.scan_keys(span, limit).await?;
                        keys.into_iter().map(|key| (key, Bytes::new())).collect()
                    }
                    (false, false) => raw.scan(span, limit).await?,
                };
                Ok(Said::Pairs { pairs, scan })
            }
            Statement::Count { span, at: None } => {
                let counted = raw.stream(span).try_fold(0, async |count, _| Ok(count + 1)).await?;
                Ok(Said::Count(counted))
            }
            Statement::Swap { key, expected, new } => {
                Ok(Said::Swapped(raw.compare_and_swap(&key, expected, new).await?))
            }
            Statement::Ttl { key } => Ok(Said::Ttl(raw.ttl(&key).await?)),
            Statement::DeleteRange { span } => {
                raw.delete_range(span).await?;
                done("removed")
            }
            Statement::Begin { .. }
            | Statement::Lock { .. }
            | Statement::Commit
            | Statement::Rollback
            | Statement::Versions { .. } => {
                mistake("raw keys know no transactions; `txn` goes over to transactional keys")
            }
            other => mistake(format!("{other:?} is not about keys")),
        }
    }

    async fn on_txn(&mut self, statement: Statement) -> Result<Said, Trouble> {
        match statement {
            Statement::Begin { .. } if self.is_in_transaction() => {
                mistake("a transaction is open; commit or rollback first")
            }
            Statement::Begin { is_pessimistic } => {
                let (open, start) = if is_pessimistic {
                    let txn = self.transactions.begin_pessimistic().await?;
                    let start = txn.start_timestamp();
                    (Open::Pessimistic(txn), start)
                } else {
                    let txn = self.transactions.begin().await?;
                    let start = txn.start_timestamp();
                    (Open::Optimistic(txn), start)
                };
                self.open = Some(open);
                done(format!("begun at {start}"))
            }
            Statement::Commit => match self.open.take() {
                None => mistake("there is no transaction to commit"),
                Some(Open::Optimistic(txn)) => Ok(Said::Committed(txn.commit().await?)),
                Some(Open::Pessimistic(txn)) => {
                    let committed = txn.commit().await;
                    if committed.is_err() {
                        // What it could not commit it gives back; locks that are left expire.
                        drop(txn.rollback().await);
                    }
                    Ok(Said::Committed(committed?))
                }
            },
            Statement::Rollback if self.give_up().await => done("rolled back"),
            Statement::Rollback => mistake("there is no transaction to roll back"),
            Statement::Versions { key } => {
                let versions = self.transactions.versions(&key).await?;
                Ok(Said::Versions { key, versions })
            }
            Statement::Swap { .. } | Statement::Ttl { .. } | Statement::DeleteRange { .. } => {
                mistake("only raw keys have this; `raw` goes over to them, or put it in front")
            }
            Statement::Put { ttl: Some(_), .. } => mistake("only raw keys expire"),
            Statement::Get { at: Some(at), key, .. } => {
                let value = self.moment(at).await?.get(&key).await?;
                Ok(Said::Value { key, value })
            }
            Statement::Scan(scan) => self.scan(scan).await,
            Statement::Count { span, at } => self.count(span, at).await,
            statement => match &self.open {
                None => self.alone(statement).await,
                Some(Open::Optimistic(txn)) => optimistic(txn, statement).await,
                Some(Open::Pessimistic(txn)) => pessimistic(txn, statement).await,
            },
        }
    }

    /// A statement outside of a transaction is one of its own.
    async fn alone(&self, statement: Statement) -> Result<Said, Trouble> {
        match statement {
            Statement::Get { for_update: true, .. } | Statement::Lock { .. } => {
                mistake("a lock lives in a transaction; begin one first")
            }
            Statement::Get { key, .. } => {
                let value = self.moment(At::Now).await?.get(&key).await?;
                Ok(Said::Value { key, value })
            }
            statement => {
                let txn = self.transactions.begin().await?;
                optimistic(&txn, statement).await?;
                Ok(Said::Committed(txn.commit().await?))
            }
        }
    }

    /// What is read outside of a transaction's own eyes: committed data at a moment.
    async fn moment(&self, at: At) -> Result<Snapshot, Trouble> {
        Ok(self.transactions.snapshot_as_of(at).await?)
    }

    async fn scan(&self, scan: Scan) -> Result<Said, Trouble> {
        let (span, limit) = (scan.span.clone(), scan.limit);
        let pairs = match (&self.open, scan.at) {
            (Some(Open::Optimistic(txn)), None) if scan.reverse => {
                txn.scan_reverse(span, limit).await?
            }
            (Some(Open::Optimistic(txn)), None) => txn.scan(span, limit).await?,
            (Some(Open::Pessimistic(txn)), None) if scan.reverse => {
                txn.scan_reverse(span, limit).await?
            }
            (Some(Open::Pessimistic(txn)), None) => txn.scan(span, limit).await?,
            (_, at) => {
                let snapshot = self.moment(at.unwrap_or(At::Now)).await?;
                if scan.reverse {
                    snapshot.scan_reverse(span, limit).await?
                } else {
                    snapshot.scan(span, limit).await?
                }
            }
        };
        Ok(Said::Pairs { pairs, scan })
    }

    async fn count(&self, span: Span, at: Option<At>) -> Result<Said, Trouble> {
        let counted = match (&self.open, at) {
            (Some(Open::Optimistic(txn)), None) => txn.scan(span, usize::MAX).await?.len() as u64,
            (Some(Open::Pessimistic(txn)), None) => txn.scan(span, usize::MAX).await?.len() as u64,
            (_, at) => {
                let snapshot = self.moment(at.unwrap_or(At::Now)).await?;
                snapshot.stream(span).try_fold(0, async |count, _| Ok(count + 1)).await?
            }
        };
        Ok(Said::Count(counted))
    }

    fn remember(&self, said: &Said) {
        let mut known = self.keys_known.lock();
        let mut learn = |key: &[u8]| {
            if known.len() < KEYS_KNOWN_MAX {
                known.insert(crate::keys::show(key));
            }
        };
        match said {
            Said::Value { key, .. } | Said::Versions { key, .. } => learn(key),
            Said::Pairs { pairs, .. } => pairs.iter().for_each(|(key, _)| learn(key)),
            Said::Count(_)
            | Said::Swapped(_)
            | Said::Ttl(_)
            | Said::Timestamp(_)
            | Said::Committed(_)
            | Said::Done(_) => {}
        }
    }
}

fn done(words: impl Into<String>) -> Result<Said, Trouble> {
    Ok(Said::Done(words.into()))
}

async fn optimistic(txn: &Transaction, statement: Statement) -> Result<Said, Trouble> {
    match statement {
        Statement::Get { for_update: true, .. } => {
            mistake("this transaction is optimistic; `begin pessimistic` reads for update")
        }
        Statement::Get { key, .. } => {
            let value = txn.get(&key).await?;
            Ok(Said::Value { key, value })
        }
        Statement::Put { key, value, .. } => {
            txn.put(&key, value)?;
            done("to be written")
        }
        Statement::Insert { key, value } => {
            txn.insert(&key, value)?;
            done("to be written, if it does not exist")
        }
        Statement::Delete { key } => {
            txn.delete(&key)?;
            done("to be removed")
        }
        Statement::Lock { keys } => {
            keys.iter().try_for_each(|key| txn.lock(key))?;
            done("checked at the commit: nobody else may have written them")
        }
        other => mistake(format!("{other:?} is not about keys")),
    }
}

async fn pessimistic(txn: &PessimisticTransaction, statement: Statement) -> Result<Said, Trouble> {
    match statement {
        Statement::Get { key, for_update, .. } => {
            let value =
                if for_update { txn.get_for_update(&key).await? } else { txn.get(&key).await? };
            Ok(Said::Value { key, value })
        }
        Statement::Put { key, value, .. } => {
            txn.put(&key, value).await?;
            done("locked, to be written")
        }
        Statement::Insert { key, value } => {
            txn.insert(&key, value).await?;
            done("locked, to be written")
        }
        Statement::Delete { key } => {
            txn.delete(&key).await?;
            done("locked, to be removed")
        }
        Statement::Lock { keys } => {
            txn.lock_keys(keys).await?;
            done("locked")
        }
        other => mistake(format!("{other:?} is not about keys")),
    }
}
