//! The raw API: no transactions, single keys and ranges.

use anyhow::{Result, ensure};
use tikv_client::RawClient;

use crate::playground::{ApiVersion, Playground};

async fn client(cluster: &Playground) -> Result<RawClient> {
    Ok(RawClient::new_with_config(cluster.endpoints(), cluster.config()).await?)
}

fn key(prefix: &str, number: usize) -> Vec<u8> {
    format!("{prefix}/{number:04}").into_bytes()
}

/// How much to ask a scan for that should find `expected` pairs. Without keyspaces the last region has
/// no end, and this client then begins a scan again at the first key until its limit is reached, with
/// any server; so there it is asked for no more than what there is.
fn limit(cluster: &Playground, expected: u32) -> u32 {
    if cluster.api() == ApiVersion::V2 { 1000 } else { expected }
}

pub async fn crud(cluster: &Playground) -> Result<()> {
    let client = client(cluster).await?;
    ensure!(client.get("crud/none".to_owned()).await?.is_none(), "a key that was never written");
    client.put("crud/a".to_owned(), b"1".to_vec()).await?;
    ensure!(client.get("crud/a".to_owned()).await? == Some(b"1".to_vec()), "what was put");
    client.put("crud/a".to_owned(), b"2".to_vec()).await?;
    ensure!(client.get("crud/a".to_owned()).await? == Some(b"2".to_vec()), "the newer value");
    client.delete("crud/a".to_owned()).await?;
    ensure!(client.get("crud/a".to_owned()).await?.is_none(), "a deleted key");

    let pairs: Vec<(Vec<u8>, Vec<u8>)> =
        (0..200).map(|n| (key("crud/batch", n), vec![b'v'; 300 + n])).collect();
    client.batch_put(pairs.clone()).await?;
    let found = client.batch_get(pairs.iter().map(|(key, _)| key.clone())).await?;
    ensure!(found.len() == 200, "batch get found {} of 200", found.len());
    for pair in &found {
        let name: Vec<u8> = pair.key().clone().into();
        ensure!(pairs.iter().any(|(key, value)| *key == name && value == pair.value()), "pairs");
    }
    client.batch_delete(pairs.iter().map(|(key, _)| key.clone())).await?;
    let left = client.batch_get(pairs.iter().map(|(key, _)| key.clone())).await?;
    ensure!(left.is_empty(), "{} keys survived a batch delete", left.len());
    Ok(())
}

pub async fn scans(cluster: &Playground) -> Result<()> {
    let client = client(cluster).await?;
    for n in 0..50 {
        client.put(key("scan", n), format!("value {n}").into_bytes()).await?;
    }
    let all = client.scan(key("scan", 0)..key("scan", 50), limit(cluster, 50)).await?;
    ensure!(all.len() == 50, "scanned {} of 50", all.len());
    ensure!(all.windows(2).all(|pair| pair[0].key() < pair[1].key()), "in order");
    let some = client.scan(key("scan", 10)..key("scan", 20), 5).await?;
    ensure!(some.len() == 5, "the limit holds");
    ensure!(Vec::<u8>::from(some[0].key().clone()) == key("scan", 10), "from the start");
    let keys = client.scan_keys(key("scan", 10)..=key("scan", 20), limit(cluster, 11)).await?;
    ensure!(keys.len() == 11, "an inclusive end is included");
    let back = client.scan_reverse(key("scan", 0)..key("scan", 50), 10).await?;
    ensure!(back.len() == 10, "reverse scan found {}", back.len());
    ensure!(Vec::<u8>::from(back[0].key().clone()) == key("scan", 49), "from the end");
    ensure!(back.windows(2).all(|pair| pair[0].key() > pair[1].key()), "in reverse order");
    Ok(())
}

pub async fn delete_range(cluster: &Playground) -> Result<()> {
    let client = client(cluster).await?;
    for n in 0..30 {
        client.put(key("range", n), b"x".to_vec()).await?;
    }
    client.delete_range(key("range", 10)..key("range", 20)).await?;
    let left = client.scan_keys(key("range", 0)..key("range", 30), limit(cluster, 20)).await?;
    let expected: Vec<Vec<u8>> = (0..10).chain(20..30).map(|n| key("range", n)).collect();
    let left: Vec<Vec<u8>> = left.into_iter().map(Into::into).collect();
    ensure!(left == expected, "{} keys are left: {left:?}", left.len());
    ensure!(client.get(key("range", 9)).await?.is_some(), "the left neighbour");
    ensure!(client.get(key("range", 20)).await?.is_some(), "the right neighbour");
    Ok(())
}

pub async fn compare_and_swap(cluster: &Playground) -> Result<()> {
    let client = client(cluster).await?.with_atomic_for_cas();
    let name = || "cas/counter".to_owned();
    client.delete(name()).await?;
    let (previous, swapped) = client.compare_and_swap(name(), None, b"0".to_vec()).await?;
    ensure!(previous.is_none() && swapped, "absent, as expected");
    let (previous, swapped) =
        client.compare_and_swap(name(), Some(b"7".to_vec()), b"8".to_vec()).await?;
    ensure!(previous == Some(b"0".to_vec()) && !swapped, "a wrong guess changes nothing");
    ensure!(client.get(name()).await? == Some(b"0".to_vec()), "still the old value");

    // Eight tasks count together; no increment may be lost.
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let client = client.clone();
        tasks.push(tokio::spawn(async move {
            let mut done = 0;
            while done < 10 {
                let current = client.get("cas/counter".to_owned()).await?.unwrap_or_default();
                let number: u64 = String::from_utf8(current.clone())?.parse()?;
                let next = (number + 1).to_string().into_bytes();
                let (_, swapped) =
                    client.compare_and_swap("cas/counter".to_owned(), Some(current), next).await?;
                done += u64::from(swapped);
            }
            Ok::<_, anyhow::Error>(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    ensure!(client.get(name()).await? == Some(b"80".to_vec()), "80 increments");
    Ok(())
}

pub async fn ttl(cluster: &Playground) -> Result<()> {
    let client = client(cluster).await?;
    ensure!(client.get_key_ttl_secs("ttl/none".to_owned()).await?.is_none(), "no key, no time");
    client.put_with_ttl("ttl/a".to_owned(), b"x".to_vec(), 10).await?;
    let left = client.get_key_ttl_secs("ttl/a".to_owned()).await?;
    ensure!(left.is_some_and(|left| (5..=10).contains(&left)), "{left:?} seconds are left of 10");
    client.put_with_ttl("ttl/short".to_owned(), b"x".to_vec(), 1).await?;
    let start = std::time::Instant::now();
    while client.get("ttl/short".to_owned()).await?.is_some() {
        ensure!(start.elapsed().as_secs() < 10, "a value of one second lives on");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(())
}
