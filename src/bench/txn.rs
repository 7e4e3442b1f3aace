//! Transactions that read some keys and write some others, chosen evenly.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use client::{PessimisticTransaction, Result, Transaction, TransactionClient, TransactionOptions};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::load::{self, Bed, Turn, Workload};
use crate::args::{BenchTxnFlags, Locking};
use crate::exit::Outcome;

struct Transactions {
    client: TransactionClient,
    locking: Locking,
    keys: u64,
    reads: usize,
    writes: usize,
    value_bytes: usize,
}

pub(super) async fn run(flags: BenchTxnFlags) -> Outcome {
    let bed = Bed::make(&flags.load).await?;
    let workload = Arc::new(Transactions {
        client: client_of(&bed, flags.two_phases),
        locking: flags.locking,
        keys: flags.load.keys.max(1),
        reads: flags.reads,
        writes: flags.writes,
        value_bytes: flags.load.value_bytes,
    });
    let load = load::drive(workload, &flags.load).await?;
    let mut report = load::report();
    load::add(&mut report, "txn", &load);
    report.print(flags.load.output);
    bed.clear_away().await
}

/// Transactions that take short cuts, or never do.
pub(super) fn client_of(bed: &Bed, two_phases: bool) -> TransactionClient {
    let options =
        if two_phases { TransactionOptions::two_phases() } else { TransactionOptions::default() };
    bed.client.transactions().with_options(options)
}

/// The key of a number.
fn key_of(number: u64) -> String {
    format!("bench/txn/{number:012}")
}

impl Workload for Transactions {
    async fn turn(&self, dice: &mut StdRng) -> Turn {
        let mut draw = |count| -> Vec<String> {
            (0..count).map(|_| key_of(dice.random_range(0..self.keys))).collect()
        };
        let (reads, writes) = (draw(self.reads), draw(self.writes));
        let value = load::value(dice, self.value_bytes);
        let runs = AtomicU64::new(0);
        let outcome = match self.locking {
            Locking::Optimistic => {
                let body = async |txn: Transaction| -> Result<()> {
                    runs.fetch_add(1, Ordering::Relaxed);
                    txn.batch_get(&reads).await?;
                    writes.iter().try_for_each(|key| txn.put(key, value.clone()))
                };
                self.client.run(body).await
            }
            Locking::Pessimistic => {
                let body = async |txn: PessimisticTransaction| -> Result<()> {
                    runs.fetch_add(1, Ordering::Relaxed);
                    txn.batch_get(&reads).await?;
                    txn.batch_put(writes.iter().map(|key| (key, value.clone()))).await
                };
                self.client.run_pessimistic(body).await
            }
        };
        let repeated = runs.into_inner().saturating_sub(1);
        Turn { operation: "transaction", repeated, outcome }
    }
}
