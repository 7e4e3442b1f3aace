//! The bank: tellers move money, and leave a receipt for every transfer; auditors count.
//!
//! A receipt is written together with the two balances. So what became of a transfer of which nobody
//! heard is read at the end, and every balance can be checked by itself, not only their sum: a transfer
//! that is lost as a whole leaves the sum as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use client::{Client, KvPair, ReplicaRead, Snapshot, TransactionClient};
use tests::checkers::list_append::Ending;
use tests::sim::dice::Dice;

use super::registers::parsed;
use super::txn::{Kind, Txn};
use super::{AUDIT_BATCH, Books, pace, transaction_pace};
use crate::chaos::watch::{Failed, Watch};

pub(in crate::chaos) const ACCOUNTS: u64 = 8;
pub(in crate::chaos) const BALANCE: u64 = 100;

/// One transfer.
#[derive(Clone, Debug)]
pub(in crate::chaos) struct Transfer {
    pub(in crate::chaos) from: u64,
    pub(in crate::chaos) to: u64,
    pub(in crate::chaos) amount: u64,
    /// The key of its receipt.
    pub(in crate::chaos) receipt: String,
    pub(in crate::chaos) ending: Ending,
}

/// What the bank holds at the end.
#[derive(Clone, Debug, Default)]
pub(in crate::chaos) struct Vault {
    pub(in crate::chaos) balances: BTreeMap<u64, u64>,
    pub(in crate::chaos) receipts: BTreeSet<String>,
}

pub(super) fn account(number: u64) -> String {
    format!("b/{number}")
}

pub(super) async fn open_accounts(client: &Client) {
    let txn = client.transactions().begin().await.unwrap();
    for number in 0..ACCOUNTS {
        txn.put(account(number), BALANCE.to_string()).unwrap();
    }
    txn.commit().await.unwrap();
}

pub(super) async fn transfer(client: Client, user: u64, mut dice: Dice, books: Arc<Books>) {
    let transactions = client.transactions();
    let mut pace = transaction_pace();
    let mut number = 0;
    while !books.is_over() {
        pace.tick().await;
        let (from, to) = (dice.within(0..ACCOUNTS), dice.within(0..ACCOUNTS));
        let (amount, kind) = (dice.within(1..20), Kind::draw_writing(&mut dice));
        if from == to {
            continue;
        }
        number += 1;
        let receipt = format!("c/{user}/{number:07}");
        let mut transfer = Transfer { from, to, amount, receipt, ending: Ending::Failed };
        let start = Instant::now();
        let moved = move_money(&transactions, &books.watch, kind, &transfer).await;
        // Where the account did not hold enough, nothing was to be committed.
        if moved != Ok(false) {
            books.ended(user, kind, start, &moved);
        }
        transfer.ending = match moved {
            Ok(true) => Ending::Ok,
            Ok(false) | Err(Failed::Refused) => Ending::Failed,
            Err(Failed::Unknown) => Ending::Unknown,
        };
        books.notes().transfers.push(transfer);
    }
}

/// Whether there was enough to move. Whatever fails before the commit has moved nothing.
async fn move_money(
    transactions: &TransactionClient,
    watch: &Watch,
    kind: Kind,
    transfer: &Transfer,
) -> Result<bool, Failed> {
    let refused = |_| Failed::Refused;
    let txn = Txn::begin(transactions, kind, watch).await.map_err(refused)?;
    match rewrite(&txn, watch, transfer).await {
        Ok(true) => txn.commit(watch).await.map(|_| true),
        Ok(false) => {
            txn.give_up(watch).await;
            Ok(false)
        }
        Err(failed) => {
            txn.give_up(watch).await;
            Err(refused(failed))
        }
    }
}

async fn rewrite(txn: &Txn, watch: &Watch, transfer: &Transfer) -> Result<bool, Failed> {
    let (from, to) = (account(transfer.from), account(transfer.to));
    let source = txn.get(watch, &from).await?.map_or(0, parsed);
    if source < transfer.amount {
        return Ok(false);
    }
    let target = txn.get(watch, &to).await?.map_or(0, parsed);
    txn.put(watch, &from, (source - transfer.amount).to_string()).await?;
    txn.put(watch, &to, (target + transfer.amount).to_string()).await?;
    txn.put(watch, &transfer.receipt, transfer.amount.to_string()).await?;
    Ok(true)
}

/// Counts all money in one snapshot, in turn by keys, by a scan, by followers; and looks at a snapshot of
/// before once more, which must not have changed.
pub(super) async fn audit(client: Client, books: Arc<Books>) {
    let transactions = client.transactions();
    let mut before: Option<(Snapshot, Vec<KvPair>)> = None;
    let mut turn = 0_u64;
    let mut pace = pace();
    while !books.is_over() {
        pace.tick().await;
        turn += 1;
        if turn.is_multiple_of(4)
            && let Some((snapshot, pairs)) = before.take()
        {
            if let Ok(again) = count(&books.watch, &snapshot, turn / 4).await {
                let mut notes = books.notes();
                notes.rereads += 1;
                if again != pairs {
                    let at = snapshot.timestamp();
                    notes.wrong.push(format!("at {at} there was {pairs:?}, later {again:?}"));
                }
            }
            continue;
        }
        let snapshot = books.watch.call("snapshot", "of accounts", transactions.snapshot()).await;
        let Ok(snapshot) = snapshot else { continue };
        let Ok(pairs) = count(&books.watch, &snapshot, turn).await else { continue };
        let mut notes = books.notes();
        notes.sums += 1;
        if let Err(wrong) = check_sum(&pairs) {
            notes.wrong.push(format!("at {}: {wrong}", snapshot.timestamp()));
        }
        drop(notes);
        before = Some((snapshot, pairs));
    }
}

async fn count(watch: &Watch, snapshot: &Snapshot, turn: u64) -> Result<Vec<KvPair>, Failed> {
    let keys: Vec<String> = (0..ACCOUNTS).map(account).collect();
    match turn % 3 {
        0 => {
            let scan = snapshot.scan("b/".."b0", keys.len());
            watch.call("scan of", "accounts", scan).await
        }
        1 => watch.call("batch get of", "accounts", snapshot.batch_get(&keys)).await,
        _ => {
            let snapshot = snapshot.with_replica_read(ReplicaRead::Follower);
            let get = snapshot.batch_get(&keys);
            watch.call("batch get from followers of", "accounts", get).await
        }
    }
}

/// Money is neither made nor lost, and no account is either.
pub(in crate::chaos) fn check_sum(pairs: &[KvPair]) -> Result<(), String> {
    let sum: u64 = pairs.iter().map(|(_, value)| parsed(value)).sum();
    if sum == ACCOUNTS * BALANCE && pairs.len() as u64 == ACCOUNTS {
        Ok(())
    } else {
        Err(format!("{} accounts hold {sum}: {pairs:?}", pairs.len()))
    }
}

/// What the bank holds when nobody works any more.
pub(super) async fn look_into_vault(transactions: &TransactionClient, books: &Books) -> Vault {
    let snapshot = transactions.snapshot().await.expect("a healed cluster answers");
    let mut vault = Vault::default();
    for number in 0..ACCOUNTS {
        let value = snapshot.get(account(number)).await.expect("a healed cluster answers");
        vault.balances.extend(value.map(|value| (number, parsed(value))));
    }
    let receipts: Vec<String> =
        books.notes().transfers.iter().map(|transfer| transfer.receipt.clone()).collect();
    for batch in receipts.chunks(AUDIT_BATCH) {
        let found = snapshot.batch_get(batch).await.expect("a healed cluster answers");
        let keys = found.into_iter().map(|(key, _)| String::from_utf8_lossy(&key).into_owned());
        vault.receipts.extend(keys);
    }
    vault
}
