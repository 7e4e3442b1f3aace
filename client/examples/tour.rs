//! The first steps: raw keys, a transaction, a transaction that locks.
//!
//! `cargo run -p tessera-client --example tour [HOST:PORT]`, with a cluster at 127.0.0.1:2379 unless
//! told otherwise (`tessera playground`).

use client::{Client, Result};

/// What the example shows.
pub(crate) async fn example(client: &Client) -> Result<()> {
    let raw = client.raw();
    raw.put("greeting", "hello").await?;
    let pairs = raw.scan("a".."z", 100).await?;

    // Runs the closure again when another transaction was faster; commits what it has written.
    let visits = client
        .transactions()
        .run(|txn| async move {
            let seen = txn.get("visits").await?.unwrap_or_default();
            let visits = String::from_utf8_lossy(&seen).parse::<u64>().unwrap_or(0) + 1;
            txn.put("visits", visits.to_string())?;
            Ok(visits)
        })
        .await?;

    // Locks what it reads for update and what it writes, so that its commit does not fail on them.
    client
        .transactions()
        .run_pessimistic(|txn| async move {
            let seen = txn.get_for_update("visits").await?.unwrap_or_default();
            txn.put("visits", format!("{}0", String::from_utf8_lossy(&seen))).await
        })
        .await?;

    assert!(!pairs.is_empty() && visits > 0);
    Ok(())
}

#[tokio::main]
#[allow(dead_code, reason = "the tests call the example itself")]
async fn main() -> Result<()> {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2379".into());
    example(&Client::connect([endpoint]).await?).await
}
