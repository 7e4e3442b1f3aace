//! Money moves between accounts, and the sum stays what it was: a load that is also a check.
//!
//! Now and then a caller counts all accounts at one timestamp. A sum that is not the one at the
//! beginning is a broken promise of the cluster, and the benchmark fails with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use client::{Error, PessimisticTransaction, Result, Span, Transaction, TransactionClient};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::load::{self, Bed, Turn, Workload};
use super::txn::client_of;
use crate::args::{BenchBankFlags, Locking};
use crate::ctl::keyspace::failure;
use crate::exit::{Failure, Outcome};

const BALANCE_AT_FIRST: u64 = 1_000;
/// One operation in this many counts the money.
const COUNTS_ONE_IN: u32 = 20;
/// How many accounts one transaction opens.
const OPENED_AT_ONCE: u64 = 500;
const PREFIX: &str = "bench/bank/";

struct Bank {
    client: TransactionClient,
    locking: Locking,
    accounts: u64,
    /// The first sum that was wrong; `u64::MAX` as long as all were right.
    wrong_sum: AtomicU64,
}

pub(super) async fn run(flags: BenchBankFlags) -> Outcome {
    let bed = Bed::make(&flags.load).await?;
    let bank = Arc::new(Bank {
        client: client_of(&bed, flags.two_phases),
        locking: flags.locking,
        accounts: flags.load.keys.max(2),
        wrong_sum: AtomicU64::new(u64::MAX),
    });
    bank.open().await.map_err(|error| failure(&error))?;
    let load = load::drive(bank.clone(), &flags.load).await?;
    let mut report = load::report();
    load::add(&mut report, "bank", &load);
    report.print(flags.load.output);
    let last = bank.count().await.map_err(|error| failure(&error))?;
    let wrong = Some(bank.wrong_sum.load(Ordering::Relaxed)).filter(|sum| *sum != u64::MAX);
    bed.clear_away().await?;
    match wrong.or((last != bank.total()).then_some(last)) {
        None => Ok(()),
        Some(sum) => Err(Failure::failed(format!(
            "bank: the accounts held {sum} together, not {}: transactions were not isolated",
            bank.total()
        ))),
    }
}

fn key_of(account: u64) -> String {
    format!("{PREFIX}{account:012}")
}

fn balance(key: &str, value: Option<impl AsRef<[u8]>>) -> Result<u64> {
    let number = value.as_ref().and_then(|value| std::str::from_utf8(value.as_ref()).ok());
    let number = number.and_then(|text| text.parse().ok());
    number.ok_or_else(|| Error::stop(format!("{key} holds no balance")))
}

impl Bank {
    fn total(&self) -> u64 {
        self.accounts * BALANCE_AT_FIRST
    }

    /// Every account with the same balance, and no others.
    async fn open(&self) -> Result<()> {
        let old = self.client.snapshot().await?.scan_keys(Span::prefix(PREFIX), usize::MAX).await?;
        for keys in old.chunks(OPENED_AT_ONCE as usize) {
            self.client
                .run(async |txn: Transaction| keys.iter().try_for_each(|key| txn.delete(key)))
                .await?;
        }
        for first in (0..self.accounts).step_by(OPENED_AT_ONCE as usize) {
            let end = (first + OPENED_AT_ONCE).min(self.accounts);
            self.client
                .run(async |txn: Transaction| {
                    let value = BALANCE_AT_FIRST.to_string();
                    (first..end).try_for_each(|account| txn.put(key_of(account), value.clone()))
                })
                .await?;
        }
        Ok(())
    }

    /// All the money there is, at one timestamp.
    async fn count(&self) -> Result<u64> {
        let snapshot = self.client.snapshot().await?;
        let pairs = snapshot.scan(Span::prefix(PREFIX), usize::MAX).await?;
        pairs.iter().try_fold(0, |sum, (_, value)| Ok(sum + balance("an account", Some(value))?))
    }

    async fn transfer(&self, from: &str, to: &str, amount: u64, runs: &AtomicU64) -> Result<()> {
        match self.locking {
            Locking::Optimistic => {
                let body = async |txn: Transaction| -> Result<()> {
                    runs.fetch_add(1, Ordering::Relaxed);
                    let (source, target) =
                        (balance(from, txn.get(from).await?)?, balance(to, txn.get(to).await?)?);
                    let moved = amount.min(source);
                    txn.put(from, (source - moved).to_string())?;
                    txn.put(to, (target + moved).to_string())
                };
                self.client.run(body).await
            }
            Locking::Pessimistic => {
                let body = async |txn: PessimisticTransaction| -> Result<()> {
                    runs.fetch_add(1, Ordering::Relaxed);
                    let source = balance(from, txn.get_for_update(from).await?)?;
                    let target = balance(to, txn.get_for_update(to).await?)?;
                    let moved = amount.min(source);
                    txn.put(from, (source - moved).to_string()).await?;
                    txn.put(to, (target + moved).to_string()).await
                };
                self.client.run_pessimistic(body).await
            }
        }
    }
}

impl Workload for Bank {
    async fn turn(&self, dice: &mut StdRng) -> Turn {
        if dice.random_range(0..COUNTS_ONE_IN) == 0 {
            let outcome = self.count().await.map(|sum| {
                if sum != self.total() {
                    self.wrong_sum.store(sum, Ordering::Relaxed);
                }
            });
            return Turn::once("count", outcome);
        }
        let from = dice.random_range(0..self.accounts);
        let to = (from + dice.random_range(1..self.accounts)) % self.accounts;
        let amount = dice.random_range(1..=10);
        let runs = AtomicU64::new(0);
        let outcome = self.transfer(&key_of(from), &key_of(to), amount, &runs).await;
        Turn { operation: "transfer", repeated: runs.into_inner().saturating_sub(1), outcome }
    }
}
