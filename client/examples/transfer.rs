//! Moving money: conflicts, deadlocks and unknown outcomes, and what to do about each.
//!
//! `cargo run -p tessera-client --example transfer [HOST:PORT]`

use client::{Client, Error, ErrorKind, LockWait, Result, TransactionOptions};
use std::time::Duration;

fn balance(value: Option<impl AsRef<[u8]>>) -> u64 {
    value.and_then(|value| String::from_utf8_lossy(value.as_ref()).parse().ok()).unwrap_or(0)
}

/// What a program can do about a transfer that failed.
fn what_to_do(error: &Error) -> &'static str {
    if *error.kind() == ErrorKind::Stopped {
        "tell ada"
    } else if error.is_undetermined() {
        // It may have happened; doing it again could do it twice.
        "read the accounts, and decide"
    } else if error.is_retryable() {
        // It has not happened, and only others were in its way.
        "try again later"
    } else {
        "look into it"
    }
}

/// What the example shows.
pub(crate) async fn example(client: &Client) -> Result<()> {
    // A lock that is not to be had within a second is reported, not waited for.
    let options = TransactionOptions {
        lock_wait: LockWait::For(Duration::from_secs(1)),
        ..TransactionOptions::default()
    };
    let transactions = client.transactions().with_options(options);
    transactions
        .run(|txn| async move {
            txn.put("account/ada", "100")?;
            txn.put("account/bob", "0")
        })
        .await?;

    // `run_pessimistic` repeats what lost its locks to a deadlock. `Error::stop` gives up: nothing of
    // the transaction happens.
    let transfer = |amount: u64| {
        transactions.run_pessimistic(move |txn| async move {
            let ada = balance(txn.get_for_update("account/ada").await?);
            let bob = balance(txn.get_for_update("account/bob").await?);
            if ada < amount {
                return Err(Error::stop("ada has not that much"));
            }
            txn.put("account/ada", (ada - amount).to_string()).await?;
            txn.put("account/bob", (bob + amount).to_string()).await
        })
    };
    transfer(30).await?;
    let error = transfer(1_000).await.expect_err("there were 100 at first");
    assert_eq!(what_to_do(&error), "tell ada");
    let now = transactions.snapshot().await?;
    let accounts = now.batch_get(["account/ada", "account/bob"]).await?;
    let held: Vec<_> = accounts.into_iter().map(|(_, value)| balance(Some(value))).collect();
    assert_eq!(held, [70, 30]);
    Ok(())
}

#[tokio::main]
#[allow(dead_code, reason = "the tests call the example itself")]
async fn main() -> Result<()> {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2379".into());
    example(&Client::connect([endpoint]).await?).await
}
