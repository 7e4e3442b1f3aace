//! Reading the past, long ranges, and other replicas than the leader.
//!
//! `cargo run -p tessera-client --example past [HOST:PORT]`

use client::{At, Client, ReplicaRead, Result, Span};
use futures_util::TryStreamExt as _;

/// What the example shows.
pub(crate) async fn example(client: &Client) -> Result<()> {
    let transactions = client.transactions();
    let write = |value: &'static str| {
        transactions.run(move |txn| async move {
            for number in 0..100 {
                txn.put(format!("past/{number:03}"), value)?;
            }
            Ok(())
        })
    };
    write("old").await?;
    let then = transactions.timestamp().await?;
    write("new").await?;

    // As it was at a timestamp. `"5s ago".parse::<At>()` works as well.
    let old = transactions.snapshot_as_of(At::Timestamp(then)).await?;
    assert_eq!(old.get("past/007").await?.as_deref(), Some(&b"old"[..]));

    // A stream fetches page by page, and goes on wherever regions are split or move meanwhile. The
    // followers help out.
    let now = transactions.snapshot().await?.with_replica_read(ReplicaRead::Mixed);
    let mut pairs = now.stream(Span::prefix("past/"));
    let mut count = 0;
    while let Some((_, value)) = pairs.try_next().await? {
        assert_eq!(&value[..], b"new");
        count += 1;
    }
    assert_eq!(count, 100);

    // What is kept of one key: for a person who wants to see.
    let versions = transactions.versions("past/007").await?;
    assert!(versions.writes.len() >= 2);
    Ok(())
}

#[tokio::main]
#[allow(dead_code, reason = "the tests call the example itself")]
async fn main() -> Result<()> {
    let endpoint = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2379".into());
    example(&Client::connect([endpoint]).await?).await
}
