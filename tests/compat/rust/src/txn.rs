//! The transactional API.

use std::collections::HashSet;

use anyhow::{Result, ensure};
use tikv_client::{
    CheckLevel, TimestampExt as _, Transaction, TransactionClient, TransactionOptions,
};

use crate::playground::Playground;

async fn client(cluster: &Playground) -> Result<TransactionClient> {
    Ok(TransactionClient::new_with_config(cluster.endpoints(), cluster.config()).await?)
}

fn key(prefix: &str, number: usize) -> Vec<u8> {
    format!("t/{prefix}/{number:05}").into_bytes()
}

pub async fn timestamps(cluster: &Playground) -> Result<()> {
    let client = client(cluster).await?;
    let tasks: Vec<_> = (0..256)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.current_timestamp().await })
        })
        .collect();
    let mut seen = HashSet::new();
    for task in tasks {
        seen.insert(task.await??.version());
    }
    ensure!(seen.len() == 256, "{} of 256 timestamps are different", seen.len());
    Ok(())
}

pub async fn crud(cluster: &Playground) -> Result<()> {
    let client = client(cluster).await?;
    let mut txn = client.begin_optimistic().await?;
    ensure!(txn.get(key("crud", 0)).await?.is_none(), "a key that was never written");
    for n in 0..100 {
        txn.put(key("crud", n), vec![b'v'; n * 10]).await?;
    }
    ensure!(txn.get(key("crud", 3)).await? == Some(vec![b'v'; 30]), "own writes are seen");
    txn.commit().await?;

    let mut txn = client.begin_optimistic().await?;
    let found: Vec<_> = txn.batch_get((0..100).map(|n| key("crud", n))).await?.collect();
    ensure!(found.len() == 100, "batch get found {} of 100", found.len());
    for pair in &found {
        let name = String::from_utf8(pair.key().clone().into())?;
        let number: usize = name.rsplit('/').next().unwrap_or_default().parse()?;
        ensure!(pair.value().len() == number * 10, "{name} has {} bytes", pair.value().len());
    }
    ensure!(txn.key_exists(key("crud", 1)).await?, "the key exists");
    txn.delete(key("crud", 1)).await?;
    txn.commit().await?;

    let mut txn = client.begin_optimistic().await?;
    ensure!(txn.get(key("crud", 1)).await?.is_none(), "a deleted key");
    ensure!(txn.get(key("crud", 2)).await?.is_some(), "its neighbour");
    txn.rollback().await?;
    Ok(())
}

pub async fn scans(cluster: &Playground) -> Result<()> {
    let client = client(cluster).await?;
    let mut txn = client.begin_optimistic().await?;
    for n in (0..60).step_by(2) {
        txn.put(key("scan", n), n.to_string().into_bytes()).await?;
    }
    txn.commit().await?;
    let mut txn = client.begin_optimistic().await?;
    txn.put(key("scan", 7), b"own".to_vec()).await?;
    txn.delete(key("scan", 8)).await?;
    let all: Vec<_> = txn.scan(key("scan", 0)..key("scan", 60), 1000).await?.collect();
    ensure!(all.len() == 30, "{} pairs: 30 committed, one added, one removed", all.len());
    ensure!(all.windows(2).all(|pair| pair[0].key() < pair[1].key()), "in order");
    let few: Vec<_> = txn.scan(key("scan", 20).., 3).await?.collect();
    ensure!(Vec::<u8>::from(few[0].key().clone()) == key("scan", 20), "from the start");
    let back: Vec<_> = txn.scan_reverse(key("scan", 0)..key("scan", 60), 5).await?.collect();
    ensure!(Vec::<u8>::from(back[0].key().clone()) == key("scan", 58), "from the end");
    ensure!(back.windows(2).all(|pair| pair[0].key() > pair[1].key()), "in reverse order");
    txn.rollback().await?;
    Ok(())
}

pub async fn conflict(cluster: &Playground) -> Result<()> {
    let client = client(cluster).await?;
    let mut first = client.begin_optimistic().await?;
    let mut second = client.begin_optimistic().await?;
    first.put(key("conflict", 0), b"first".to_vec()).await?;
    second.put(key("conflict", 0), b"second".to_vec()).await?;
    first.commit().await?;
    ensure!(second.commit().await.is_err(), "the second writer began before the first's commit");
    second.rollback().await.ok();
    let mut reader = client.begin_optimistic().await?;
    ensure!(reader.get(key("conflict", 0)).await? == Some(b"first".to_vec()), "the first won");
    reader.rollback().await?;
    Ok(())
}

pub async fn insert_duplicate(cluster: &Playground) -> Result<()> {
    let client = client(cluster).await?;
    let mut txn = client.begin_optimistic().await?;
    txn.put(key("insert", 0), b"there".to_vec()).await?;
    txn.commit().await?;
    let options = TransactionOptions::new_optimistic().drop_check(CheckLevel::None);
    let mut txn = client.begin_with_options(options).await?;
    txn.insert(key("insert", 0), b"again".to_vec()).await?;
    ensure!(txn.commit().await.is_err(), "an insert over an existing key");
    Ok(())
}

pub async fn snapshot(cluster: &Playground) -> Result<()> {
    let client = client(cluster).await?;
    let mut txn = client.begin_optimistic().await?;
    txn.put(key("snapshot", 0), b"old".to_vec()).await?;
    txn.commit().await?;
    let then = client.current_timestamp().await?;
    let mut txn = client.begin_optimistic().await?;
    txn.put(key("snapshot", 0), b"new".to_vec()).await?;
    txn.commit().await?;
    let mut past = client.snapshot(then, TransactionOptions::new_optimistic());
    ensure!(past.get(key("snapshot", 0)).await? == Some(b"old".to_vec()), "the past is kept");
    let now = client.current_timestamp().await?;
    let mut present = client.snapshot(now, TransactionOptions::new_optimistic());
    ensure!(present.get(key("snapshot", 0)).await? == Some(b"new".to_vec()), "the present");
    Ok(())
}

pub async fn large(cluster: &Playground) -> Result<()> {
    let client = client(cluster).await?;
    let mut txn = client.begin_optimistic().await?;
    for n in 0..200 {
        txn.put(key("large", n), vec![n as u8; 15_000]).await?;
    }
    txn.commit().await?;
    let now = client.current_timestamp().await?;
    let mut snapshot = client.snapshot(now, TransactionOptions::new_optimistic());
    for n in 0..200 {
        let value = snapshot.get(key("large", n)).await?;
        ensure!(value == Some(vec![n as u8; 15_000]), "value {n}");
    }
    Ok(())
}

pub async fn rollback(cluster: &Playground) -> Result<()> {
    let client = client(cluster).await?;
    let mut txn = client.begin_pessimistic().await?;
    ensure!(txn.get_for_update(key("rollback", 0)).await?.is_none(), "never written");
    txn.put(key("rollback", 0), b"x".to_vec()).await?;
    txn.rollback().await?;
    let mut txn = client.begin_optimistic().await?;
    ensure!(txn.get(key("rollback", 0)).await?.is_none(), "nothing is left");
    txn.put(key("rollback", 0), b"y".to_vec()).await?;
    txn.commit().await?;
    Ok(())
}

pub async fn pessimistic(cluster: &Playground) -> Result<()> {
    let client = client(cluster).await?;
    let mut first = client.begin_pessimistic().await?;
    first.put(key("pessimistic", 0), b"first".to_vec()).await?;
    let options = TransactionOptions::new_pessimistic().drop_check(CheckLevel::None);
    let mut second = client.begin_with_options(options).await?;
    let refused = second.lock_keys([key("pessimistic", 0)]).await;
    ensure!(refused.is_err(), "the second locks what the first holds");
    second.rollback().await.ok();
    first.commit().await?;
    let mut third = client.begin_pessimistic().await?;
    let value = third.get_for_update(key("pessimistic", 0)).await?;
    ensure!(value == Some(b"first".to_vec()), "the lock is gone, the value is there");
    third.rollback().await?;
    Ok(())
}

/// How a transfer commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Optimistic,
    AsyncCommit,
    OnePhase,
    Pessimistic,
}

impl Mode {
    fn options(self) -> TransactionOptions {
        let options = match self {
            Self::Optimistic => TransactionOptions::new_optimistic(),
            Self::AsyncCommit => TransactionOptions::new_optimistic().use_async_commit(),
            Self::OnePhase => TransactionOptions::new_optimistic().try_one_pc(),
            Self::Pessimistic => TransactionOptions::new_pessimistic(),
        };
        options.drop_check(CheckLevel::None)
    }
}

const ACCOUNTS: usize = 20;
const TASKS: u64 = 8;
const TRANSFERS: u64 = 15;
const START: u64 = 100;

/// Eight tasks move money between twenty accounts; the sum never changes.
pub async fn bank(cluster: &Playground, mode: Mode) -> Result<()> {
    let client = client(cluster).await?;
    let prefix = format!("bank-{mode:?}");
    let mut txn = client.begin_with_options(mode.options()).await?;
    for n in 0..ACCOUNTS {
        txn.put(key(&prefix, n), START.to_string().into_bytes()).await?;
    }
    txn.commit().await?;
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let (client, prefix) = (client.clone(), prefix.clone());
        tasks.push(tokio::spawn(async move {
            let mut random = task * 7919 + 1;
            let mut committed = 0;
            for _ in 0..TRANSFERS {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let from = (random >> 33) as usize % ACCOUNTS;
                let to = (from + 1 + (random >> 45) as usize % (ACCOUNTS - 1)) % ACCOUNTS;
                let mut txn = client.begin_with_options(mode.options()).await?;
                let moved = transfer(&mut txn, &key(&prefix, from), &key(&prefix, to), mode).await;
                match moved {
                    Ok(()) if txn.commit().await.is_ok() => committed += 1,
                    _ => {
                        txn.rollback().await.ok();
                    }
                }
            }
            Ok::<u64, anyhow::Error>(committed)
        }));
    }
    let mut committed = 0;
    for task in tasks {
        committed += task.await??;
    }
    ensure!(committed > 0, "no transfer of {} went through", TASKS * TRANSFERS);
    let mut txn = client.begin_optimistic().await?;
    let mut sum = 0;
    for n in 0..ACCOUNTS {
        sum += balance(txn.get(key(&prefix, n)).await?)?;
    }
    txn.rollback().await?;
    ensure!(sum == START * ACCOUNTS as u64, "{sum} of {} are left", START * ACCOUNTS as u64);
    Ok(())
}

async fn transfer(txn: &mut Transaction, from: &[u8], to: &[u8], mode: Mode) -> Result<()> {
    let (source, target) = if mode == Mode::Pessimistic {
        // In one order, so that two transfers cannot wait for each other.
        let (low, high) = if from < to { (from, to) } else { (to, from) };
        let low_value = txn.get_for_update(low.to_vec()).await?;
        let high_value = txn.get_for_update(high.to_vec()).await?;
        if from < to { (low_value, high_value) } else { (high_value, low_value) }
    } else {
        (txn.get(from.to_vec()).await?, txn.get(to.to_vec()).await?)
    };
    let (source, target) = (balance(source)?, balance(target)?);
    let amount = source.min(7);
    txn.put(from.to_vec(), (source - amount).to_string().into_bytes()).await?;
    txn.put(to.to_vec(), (target + amount).to_string().into_bytes()).await?;
    Ok(())
}

fn balance(value: Option<Vec<u8>>) -> Result<u64> {
    let value = value.ok_or_else(|| anyhow::anyhow!("an account is gone"))?;
    Ok(String::from_utf8(value)?.parse()?)
}
