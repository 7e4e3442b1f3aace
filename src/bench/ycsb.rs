//! The six core workloads of YCSB, on raw keys or in transactions.
//!
//! | workload | operations | keys are drawn |
//! |---|---|---|
//! | a | 50 % read, 50 % update | a few often, most rarely |
//! | b | 95 % read, 5 % update | likewise |
//! | c | read | likewise |
//! | d | 95 % read, 5 % insert | the newest most often |
//! | e | 95 % scan of up to 100, 5 % insert | a few often |
//! | f | 50 % read, 50 % read, modify and write | likewise |

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use client::{Client, RawClient, Result, Transaction, TransactionClient};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::load::{self, Bed, Turn, Workload};
use super::zipfian::Zipfian;
use crate::args::{BenchYcsbFlags, YcsbWorkload};
use crate::ctl::keyspace::failure;
use crate::exit::Outcome;

/// The longest scan.
const SCAN_MAX: usize = 100;
/// How many keys one request of the loading phase writes.
const LOADED_AT_ONCE: usize = 500;

enum Api {
    Raw(RawClient),
    Txn(TransactionClient),
}

struct Ycsb {
    workload: YcsbWorkload,
    api: Api,
    drawn: Zipfian,
    /// Keys below this number exist, or are about to.
    keys: AtomicU64,
    value_bytes: usize,
}

pub(super) async fn run(flags: BenchYcsbFlags) -> Outcome {
    let bed = Bed::make(&flags.load).await?;
    let keys = flags.load.keys.max(1);
    let mut report = load::report();
    let workloads = if flags.workloads.is_empty() {
        YcsbWorkload::ALL.to_vec()
    } else {
        flags.workloads.clone()
    };
    for workload in workloads {
        let ycsb = Arc::new(Ycsb {
            workload,
            api: api_of(&bed.client, flags.txn),
            drawn: Zipfian::new(keys),
            keys: AtomicU64::new(keys),
            value_bytes: flags.load.value_bytes,
        });
        eprintln!("ycsb {}: loading {keys} keys", workload.letter());
        ycsb.fill(keys, flags.load.seed).await.map_err(|error| failure(&error))?;
        let load = load::drive(ycsb, &flags.load).await?;
        load::add(&mut report, &format!("ycsb {}", workload.letter()), &load);
    }
    report.print(flags.load.output);
    bed.clear_away().await
}

fn api_of(client: &Client, txn: bool) -> Api {
    if txn { Api::Txn(client.transactions()) } else { Api::Raw(client.raw()) }
}

/// Keys of neighbouring numbers lie apart, as hashed keys do.
fn key_of(number: u64) -> String {
    format!("bench/ycsb/user{:020}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

impl Ycsb {
    async fn fill(&self, keys: u64, seed: u64) -> Result<()> {
        let mut dice = StdRng::seed_from_u64(seed);
        for first in (0..keys).step_by(LOADED_AT_ONCE) {
            let end = (first + LOADED_AT_ONCE as u64).min(keys);
            let pairs: Vec<_> = (first..end)
                .map(|number| (key_of(number), load::value(&mut dice, self.value_bytes)))
                .collect();
            match &self.api {
                Api::Raw(raw) => raw.batch_put(pairs).await?,
                Api::Txn(txns) => {
                    txns.run(async |txn: Transaction| {
                        pairs.iter().try_for_each(|(key, value)| txn.put(key, value.clone()))
                    })
                    .await?;
                }
            }
        }
        Ok(())
    }

    async fn read(&self, key: &str) -> Result<()> {
        match &self.api {
            Api::Raw(raw) => raw.get(key).await.map(drop),
            Api::Txn(txns) => txns.snapshot().await?.get(key).await.map(drop),
        }
    }

    async fn write(&self, key: &str, value: bytes::Bytes, runs: &AtomicU64) -> Result<()> {
        match &self.api {
            Api::Raw(raw) => raw.put(key, value).await,
            Api::Txn(txns) => {
                txns.run(async |txn: Transaction| {
                    runs.fetch_add(1, Ordering::Relaxed);
                    txn.put(key, value.clone())
                })
                .await
            }
        }
    }

    async fn read_modify_write(
        &self,
        key: &str,
        value: bytes::Bytes,
        runs: &AtomicU64,
    ) -> Result<()> {
        match &self.api {
            Api::Raw(raw) => {
                raw.get(key).await?;
                raw.put(key, value).await
            }
            Api::Txn(txns) => {
                txns.run(async |txn: Transaction| {
                    runs.fetch_add(1, Ordering::Relaxed);
                    txn.get(key).await?;
                    txn.put(key, value.clone())
                })
                .await
            }
        }
    }

    async fn scan(&self, key: String, limit: usize) -> Result<()> {
        match &self.api {
            Api::Raw(raw) => raw.scan(key.., limit).await.map(drop),
            Api::Txn(txns) => txns.snapshot().await?.scan(key.., limit).await.map(drop),
        }
    }

    /// One of the keys that exist.
    fn draw(&self, dice: &mut StdRng) -> String {
        let keys = self.keys.load(Ordering::Relaxed);
        key_of(match self.workload {
            YcsbWorkload::D => keys - 1 - self.drawn.rank(dice).min(keys - 1),
            YcsbWorkload::A
            | YcsbWorkload::B
            | YcsbWorkload::C
            | YcsbWorkload::E
            | YcsbWorkload::F => self.drawn.scattered(dice),
        })
    }
}

impl Workload for Ycsb {
    async fn turn(&self, dice: &mut StdRng) -> Turn {
        let is_rare = dice.random_range(0..100) < self.workload.rare_percent();
        let runs = AtomicU64::new(0);
        let value = load::value(dice, if is_rare { self.value_bytes } else { 0 });
        let (operation, outcome) = match (self.workload, is_rare) {
            (YcsbWorkload::E, false) => {
                let limit = dice.random_range(1..=SCAN_MAX);
                ("scan", self.scan(self.draw(dice), limit).await)
            }
            (_, false) => ("read", self.read(&self.draw(dice)).await),
            (YcsbWorkload::D | YcsbWorkload::E, true) => {
                let key = key_of(self.keys.fetch_add(1, Ordering::Relaxed));
                ("insert", self.write(&key, value, &runs).await)
            }
            (YcsbWorkload::F, true) => {
                let outcome = self.read_modify_write(&self.draw(dice), value, &runs).await;
                ("read-modify-write", outcome)
            }
            (YcsbWorkload::A | YcsbWorkload::B | YcsbWorkload::C, true) => {
                ("update", self.write(&self.draw(dice), value, &runs).await)
            }
        };
        Turn { operation, repeated: runs.into_inner().saturating_sub(1), outcome }
    }
}
