//! Programs of ours against the official Rust client, `tikv-client`, unmodified.
//!
//! The program named by the environment variable `TESSERA` is started as a playground on free
//! ports, for each API version and both in one process and in several; every check gets a client of
//! its own. The last line counts what passed.

mod playground;
mod raw;
mod txn;

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use playground::{ApiVersion, Playground};

/// No check takes this long on a slow machine; one that does hangs.
const CHECK_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
}

impl Tally {
    async fn check(&mut self, name: &str, what: impl Future<Output = Result<()>>) {
        let start = Instant::now();
        let outcome = tokio::time::timeout(CHECK_TIMEOUT, what).await;
        let took = start.elapsed().as_millis();
        match outcome {
            Ok(Ok(())) => {
                self.passed += 1;
                println!("  ok      {name} ({took} ms)");
            }
            Ok(Err(error)) => {
                self.failed += 1;
                println!("  FAILED  {name}: {error:#}");
            }
            Err(_) => {
                self.failed += 1;
                println!("  FAILED  {name}: did not finish within {CHECK_TIMEOUT:?}");
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let program = std::env::var("TESSERA")
        .context("TESSERA must name the program under test; `cargo xtask compat` sets it")?;
    let mut tally = Tally::default();
    for (api, processes) in [
        (ApiVersion::V1, false),
        (ApiVersion::V2, false),
        (ApiVersion::V1Ttl, false),
        (ApiVersion::V1, true),
        (ApiVersion::V2, true),
    ] {
        let place = if processes { "several processes" } else { "one process" };
        println!("API {api:?}, {place}");
        let playground = Playground::start(&program, api, processes).await?;
        run(&playground, api, &mut tally).await;
        playground.stop()?;
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    if tally.failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}

async fn run(playground: &Playground, api: ApiVersion, tally: &mut Tally) {
    let cluster = playground;
    tally.check("raw: values come back, deletes remove", raw::crud(cluster)).await;
    tally.check("raw: scans see ranges in order, both ways", raw::scans(cluster)).await;
    tally.check("raw: delete range leaves the neighbours", raw::delete_range(cluster)).await;
    tally.check("raw: compare and swap swaps once", raw::compare_and_swap(cluster)).await;
    if api.has_ttl() {
        tally.check("raw: a time to live counts down", raw::ttl(cluster)).await;
    }
    if api == ApiVersion::V1Ttl {
        return; // Transactions are refused where raw values carry an expiry.
    }
    tally.check("txn: 256 timestamps at once are unique", txn::timestamps(cluster)).await;
    tally.check("txn: values come back, deletes remove", txn::crud(cluster)).await;
    tally.check("txn: scans merge own writes, both ways", txn::scans(cluster)).await;
    tally.check("txn: of two writers one is refused", txn::conflict(cluster)).await;
    tally.check("txn: inserting what exists is refused", txn::insert_duplicate(cluster)).await;
    tally.check("txn: a snapshot does not see the future", txn::snapshot(cluster)).await;
    tally.check("txn: a large transaction is split into batches", txn::large(cluster)).await;
    tally.check("txn: rollback leaves nothing", txn::rollback(cluster)).await;
    tally
        .check("txn: bank of 8 tasks, optimistic", txn::bank(cluster, txn::Mode::Optimistic))
        .await;
    tally
        .check("txn: bank of 8 tasks, async commit", txn::bank(cluster, txn::Mode::AsyncCommit))
        .await;
    tally.check("txn: bank of 8 tasks, one phase", txn::bank(cluster, txn::Mode::OnePhase)).await;
    tally
        .check("txn: bank of 8 tasks, pessimistic", txn::bank(cluster, txn::Mode::Pessimistic))
        .await;
    tally.check("txn: locks of a pessimistic transaction hold", txn::pessimistic(cluster)).await;
}
