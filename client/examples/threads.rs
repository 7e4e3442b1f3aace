//! The same client without async: every call blocks its thread.
//!
//! `cargo run -p tessera-client --example threads [HOST:PORT]`

use client::blocking::Client;
use client::{At, Result};

/// What the example shows.
pub(crate) fn example(client: &Client) -> Result<()> {
    client.transactions().run(|txn| txn.put("threads/sum", "0"))?;
    std::thread::scope(|scope| {
        let adders: Vec<_> = (0..4).map(|_| scope.spawn(|| add(client))).collect();
        adders.into_iter().try_for_each(|adder| adder.join().expect("no adder panics"))
    })?;
    let now = client.transactions().snapshot(At::Now)?;
    assert_eq!(now.get("threads/sum")?.as_deref(), Some(&b"20"[..]));
    let pairs = now.iter("threads/".."threads0").collect::<Result<Vec<_>>>()?;
    assert_eq!(pairs.len(), 1);
    Ok(())
}

fn add(client: &Client) -> Result<()> {
    for _ in 0..5 {
        client.transactions().run_pessimistic(|txn| {
            let sum = txn.get_for_update("threads/sum")?.unwrap_or_default();
            let sum = String::from_utf8_lossy(&sum).parse::<u64>().unwrap_or(0);
            txn.put("threads/sum", (sum + 1).to_string())
        })?;
    }
    Ok(())
}

#[allow(dead_code, reason = "the tests call the example itself")]
fn main() -> Result<()> {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2379".into());
    example(&Client::connect([endpoint])?)
}
