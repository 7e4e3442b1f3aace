//! Users of lists: each transaction reads some, and appends to some a number that nobody else appends.
//!
//! Lists lie scattered over the key space, so most transactions meet several regions. Some commits
//! are dropped half-way, as by a caller that has lost its patience: their outcome is unknown. After some
//! hundreds of transactions fresh lists are used; those of one turn are judged together.

use std::time::{Duration, Instant};

use client::{Client, ReplicaRead, TransactionClient};
use tests::checkers::list_append::{Ending, ListTransaction, Step};
use tests::sim::dice::{Dice, mix};

use super::txn::{Kind, Txn};
use super::{Books, transaction_pace};
use crate::chaos::watch::{Failed, Watch};

/// Lists in use at a time.
pub(in crate::chaos) const LISTS: u64 = 6;
/// Of a thousand commits so many are dropped, after at most this many milliseconds.
const DROPPED: u64 = 30;
const DROPPED_AFTER_MAX_MS: u64 = 40;

/// Where a list lives.
pub(super) fn key_of(list: u64) -> String {
    format!("l/{:08x}", mix(list) >> 32)
}

/// The lists of a turn.
fn lists_of_turn(turn: u64) -> std::ops::Range<u64> {
    turn * LISTS..(turn + 1) * LISTS
}

pub(super) async fn use_lists(
    client: Client,
    user: u64,
    mut dice: Dice,
    books: std::sync::Arc<Books>,
) {
    let transactions = client.transactions();
    let mut next_number = 0;
    let mut pace = transaction_pace();
    while !books.is_over() {
        pace.tick().await;
        let turn = books.lists.take();
        let kind = Kind::draw(&mut dice);
        let mut lists: Vec<u64> = lists_of_turn(turn).collect();
        dice.shuffle(&mut lists);
        lists.truncate(dice.within(1..5) as usize);
        let start = Instant::now();
        let began = books.stamp();
        let mut steps = Vec::new();
        let outcome = if kind == Kind::Snapshot {
            let by_follower = dice.happens(300);
            read(&transactions, &books.watch, &lists, by_follower, &mut steps).await
        } else {
            let plan: Vec<(u64, Option<u64>)> = lists
                .iter()
                .enumerate()
                .map(|(at, list)| {
                    next_number += 1;
                    let appends = dice.happens(600) || (at == 0 && kind.is_pessimistic());
                    (*list, appends.then_some(next_number << 8 | user))
                })
                .collect();
            let patience = dice.happens(DROPPED).then(|| dice.within(0..DROPPED_AFTER_MAX_MS));
            let patience = patience.map(Duration::from_millis);
            append(&transactions, &books.watch, kind, &plan, patience, &mut steps).await
        };
        let (ending, ended) = match outcome {
            Ok(()) => (Ending::Ok, books.stamp()),
            Err(Failed::Refused) => (Ending::Failed, u64::MAX),
            Err(Failed::Unknown) => (Ending::Unknown, u64::MAX),
        };
        books.ended(user, kind, start, &outcome);
        if !steps.is_empty() {
            books.notes().lists.push(ListTransaction { began, ended, ending, steps });
        }
    }
}

async fn read(
    transactions: &TransactionClient,
    watch: &Watch,
    lists: &[u64],
    by_follower: bool,
    steps: &mut Vec<Step>,
) -> Result<(), Failed> {
    let mut snapshot = watch.call("snapshot", "of lists", transactions.snapshot()).await?;
    if by_follower {
        snapshot = snapshot.with_replica_read(ReplicaRead::Follower);
    }
    for list in lists {
        let key = key_of(*list);
        let seen = watch.call("get in a snapshot", &key, snapshot.get(&key)).await?;
        steps.push(Step::Read(*list, numbers(seen.as_deref())));
    }
    Ok(())
}

/// Reads every list of the plan and appends where there is a number to append. Whatever fails before
/// the commit has done nothing.
async fn append(
    transactions: &TransactionClient,
    watch: &Watch,
    kind: Kind,
    plan: &[(u64, Option<u64>)],
    patience: Option<Duration>,
    steps: &mut Vec<Step>,
) -> Result<(), Failed> {
    let refused = |_| Failed::Refused;
    let txn = Txn::begin(transactions, kind, watch).await.map_err(refused)?;
    for (list, number) in plan {
        if let Err(failed) = step(&txn, watch, *list, *number, steps).await {
            txn.give_up(watch).await;
            return Err(refused(failed));
        }
    }
    let commit = txn.commit(watch);
    let committed = match patience {
        None => commit.await,
        Some(patience) => {
            tokio::time::timeout(patience, commit).await.unwrap_or(Err(Failed::Unknown))
        }
    };
    committed.map(drop)
}

async fn step(
    txn: &Txn,
    watch: &Watch,
    list: u64,
    number: Option<u64>,
    steps: &mut Vec<Step>,
) -> Result<(), Failed> {
    let key = key_of(list);
    let mut seen = numbers(txn.get(watch, &key).await?.as_deref());
    steps.push(Step::Read(list, seen.clone()));
    if let Some(number) = number {
        seen.push(number);
        // Noted first: should the call hang, the number may be seen all the same.
        steps.push(Step::Append(list, number));
        txn.put(watch, &key, text_of(&seen)).await?;
    }
    Ok(())
}

/// The last word on every list: one transaction a turn, which reads all of them.
pub(super) async fn read_all(transactions: &TransactionClient, books: &Books) {
    for turn in 0..=books.lists.now() {
        let began = books.stamp();
        let keys: Vec<String> = lists_of_turn(turn).map(key_of).collect();
        let snapshot = transactions.snapshot().await.expect("a healed cluster answers");
        let pairs = snapshot.batch_get(&keys).await.expect("a healed cluster answers");
        let steps = lists_of_turn(turn).zip(&keys).map(|(list, key)| {
            let pair = pairs.iter().find(|(found, _)| found == key.as_bytes());
            Step::Read(list, numbers(pair.map(|(_, value)| value.as_ref())))
        });
        let (steps, ended) = (steps.collect(), books.stamp());
        let reading = ListTransaction { began, ended, ending: Ending::Ok, steps };
        books.notes().last_lists.push(reading);
    }
}

fn text_of(list: &[u64]) -> String {
    list.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
}

fn numbers(value: Option<&[u8]>) -> Vec<u64> {
    let text = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    let parsed = |word: &str| {
        word.parse().unwrap_or_else(|_| panic!("a list holds {text:?}, which nobody writes"))
    };
    text.split_whitespace().map(parsed).collect()
}
