//! Who uses the cluster meanwhile, and what they were told.
//!
//! | user | does | truth that is checked |
//! |---|---|---|
//! | registers | get, put, delete, compare-and-swap on a few keys, never sending a write twice | the history of each key is linearizable |
//! | writers | each key once, raw and transactional in turn | what was acknowledged is there at the end |
//! | bank | transfers between accounts, and sums of all of them in one snapshot | money is neither made nor lost |
//! | timestamps | asks for one after the other | later than every one that was answered before it was asked for |
//!
//! Registers take turns: after some hundreds of calls on a key its successor is used, because the
//! cost of checking grows steeply with a key's calls. Everybody works at a fixed pace, so that the
//! cluster is busy and the machine is not: a test of faults, not of speed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use client::{Client, Timestamp};
use tests::history::{Call, History, Outcome};
use tests::sim::dice::{Dice, mix};

use super::report::Progress;

/// Registers in use at a time, and calls on each before its successor's turn.
const REGISTERS: u64 = 6;
const CALLS_PER_REGISTER: u64 = 300;
/// Clients that call registers; each has connections and a map of regions of its own.
pub(super) const REGISTER_CLIENTS: u64 = 8;
const WRITERS: usize = 2;
const TELLERS: u64 = 2;
const ACCOUNTS: u64 = 8;
const BALANCE: u64 = 100;
const CLOCKS: usize = 2;
/// A call that takes longer than this is given up by its client.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);
/// Time between the calls of one client.
const PACE: Duration = Duration::from_millis(15);
/// Keys read at once by the audit.
const AUDIT_BATCH: usize = 500;

/// What the users know at the end.
#[derive(Default)]
pub(super) struct Told {
    /// Keys whose writing was acknowledged; the value is the key.
    pub(super) written: Vec<String>,
    /// What cannot be: sums that are wrong, timestamps that went back.
    pub(super) wrong: Vec<String>,
    pub(super) transfers: u64,
    pub(super) sums: u64,
    pub(super) timestamps: u64,
}

/// What the users share.
pub(super) struct Books {
    stop: AtomicBool,
    calls: AtomicU64,
    history: Mutex<History>,
    told: Mutex<Told>,
    pub(super) progress: Progress,
}

impl Books {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// One of the registers in use.
    fn register(&self, pick: u64) -> u64 {
        let turn = self.calls.load(Ordering::Relaxed) / (REGISTERS * CALLS_PER_REGISTER);
        turn * REGISTERS + pick % REGISTERS
    }

    /// A key in use, as regions are cut.
    pub(super) fn key_in_use(&self, pick: u64) -> String {
        key_of(self.register(pick))
    }
}

/// Where a register lives: scattered, so that splits anywhere part registers in use.
fn key_of(register: u64) -> String {
    format!("r/{:08x}", mix(register) >> 32)
}

/// Everybody at work.
pub(super) struct Load {
    pub(super) books: Arc<Books>,
    endpoints: Vec<String>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    pub(super) async fn start(endpoints: &[String], seed: u64) -> Self {
        let books = Arc::new(Books {
            stop: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            history: Mutex::default(),
            told: Mutex::default(),
            progress: Progress::new(REGISTER_CLIENTS as usize),
        });
        let shared = connect(endpoints).await;
        open_accounts(&shared).await;
        let mut tasks = Vec::new();
        for number in 0..REGISTER_CLIENTS {
            let dice = Dice::new(seed).stream("registers").stream(&number.to_string());
            let client = connect(endpoints).await;
            tasks.push(tokio::spawn(use_registers(client, number, dice, books.clone())));
        }
        for number in 0..WRITERS {
            tasks.push(tokio::spawn(write(shared.clone(), number, books.clone())));
        }
        for number in 0..TELLERS {
            let dice = Dice::new(seed).stream("bank").stream(&number.to_string());
            tasks.push(tokio::spawn(transfer(shared.clone(), dice, books.clone())));
        }
        tasks.push(tokio::spawn(sum_up(shared.clone(), books.clone())));
        let latest = Arc::new(Mutex::new(Timestamp::default()));
        for _ in 0..CLOCKS {
            let client = connect(endpoints).await;
            tasks.push(tokio::spawn(ask_time(client, latest.clone(), books.clone())));
        }
        Self { books, endpoints: endpoints.to_vec(), tasks }
    }

    /// Ends the work, reads everything once more with a client that knows nothing yet, and hands
    /// over what was seen.
    pub(super) async fn finish(self) -> (History, Told) {
        self.books.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        let reader = connect(&self.endpoints).await;
        read_all_registers(&reader, &self.books).await;
        let mut told = std::mem::take(&mut *self.books.told());
        let missing = missing(&reader, &told.written).await;
        told.wrong.extend(missing);
        if let Err(wrong) = sum(&reader).await {
            told.wrong.push(wrong);
        }
        let history = std::mem::take(&mut *self.books.history.lock().unwrap());
        (history, told)
    }
}

async fn connect(endpoints: &[String]) -> Client {
    let config = client::Config {
        timeout: CALL_TIMEOUT,
        store_timeout: Duration::from_millis(1_500),
        scheduler_timeout: Duration::from_millis(1_500),
        ..Default::default()
    };
    Client::connect_with(endpoints.iter().cloned(), config).await.unwrap()
}

/// Wakes at a pace that does not try to make up for lost turns.
fn pace() -> tokio::time::Interval {
    let mut interval = tokio::time::interval(PACE);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

async fn use_registers(client: Client, number: u64, mut dice: Dice, books: Arc<Books>) {
    let raw = client.raw().strict();
    // What this client believes is there: compare-and-swap needs a chance.
    let mut believed: BTreeMap<u64, Option<u64>> = BTreeMap::new();
    let mut pace = pace();
    let mut next_value = 0;
    while !books.is_over() {
        pace.tick().await;
        let register = books.register(dice.next_u64());
        let key = key_of(register);
        next_value += 1;
        let value = next_value << 8 | number;
        let call = match dice.within(0..10) {
            0..=3 => Call::Read,
            4..=6 => Call::Write(value),
            7 => Call::Delete,
            _ => Call::CompareAndSet(believed.get(&register).copied().flatten(), value),
        };
        books.calls.fetch_add(1, Ordering::Relaxed);
        let id = books.history.lock().unwrap().call(number, register, call);
        let start = Instant::now();
        let outcome = match call {
            Call::Read => raw.get(&key).await.map(|value| Outcome::Read(value.map(parsed))),
            Call::Write(value) => raw.put(&key, value.to_string()).await.map(|()| Outcome::Done),
            Call::Delete => raw.delete(&key).await.map(|()| Outcome::Done),
            Call::CompareAndSet(old, new) => {
                let old = old.map(|old| old.to_string());
                raw.compare_and_swap(&key, old, new.to_string()).await.map(|swap| {
                    let previous = swap.previous.map(parsed);
                    if swap.swapped { Outcome::Done } else { Outcome::Differed(previous) }
                })
            }
        };
        let outcome = outcome.unwrap_or_else(|error| match error.is_undetermined() {
            true => Outcome::Unknown,
            false => Outcome::Refused,
        });
        match (call, outcome) {
            (_, Outcome::Read(seen) | Outcome::Differed(seen)) => {
                believed.insert(register, seen);
            }
            (Call::Write(value) | Call::CompareAndSet(_, value), Outcome::Done) => {
                believed.insert(register, Some(value));
            }
            _ => {}
        }
        books.history.lock().unwrap().end(id, outcome);
        books.progress.called(number as usize, start, outcome);
    }
}

fn parsed(value: impl AsRef<[u8]>) -> u64 {
    let text = String::from_utf8_lossy(value.as_ref()).into_owned();
    text.parse().unwrap_or_else(|_| panic!("a register holds {text:?}, which nobody writes"))
}

/// The last word on every register, as reads of one more client: a lost write shows here at last.
async fn read_all_registers(client: &Client, books: &Books) {
    let registers: std::collections::BTreeSet<u64> = {
        let history = books.history.lock().unwrap();
        history.operations().iter().map(|operation| operation.key).collect()
    };
    for register in registers {
        let id = books.history.lock().unwrap().call(REGISTER_CLIENTS, register, Call::Read);
        let value = client.raw().get(key_of(register)).await.expect("a healed cluster answers");
        books.history.lock().unwrap().end(id, Outcome::Read(value.map(parsed)));
    }
}

async fn write(client: Client, writer: usize, books: Arc<Books>) {
    let mut pace = pace();
    let mut number = 0_u64;
    while !books.is_over() {
        pace.tick().await;
        number += 1;
        let is_transaction = number.is_multiple_of(2);
        let kind = if is_transaction { "t" } else { "w" };
        let key = format!("{kind}/{writer}/{number:07}");
        let written = if is_transaction {
            put_in_transaction(&client, &key).await
        } else {
            client.raw().put(&key, key.clone()).await
        };
        if written.is_ok() {
            books.told().written.push(key);
        }
    }
}

async fn put_in_transaction(client: &Client, key: &str) -> client::Result<()> {
    let txn = client.transactions().begin().await?;
    txn.put(key, key.to_owned())?;
    txn.commit().await.map(drop)
}

/// Acknowledged keys that are not there, or hold something else.
async fn missing(client: &Client, written: &[String]) -> Vec<String> {
    let snapshot = client.transactions().snapshot().await.expect("a healed cluster answers");
    let raw = client.raw();
    let mut wrong = Vec::new();
    for batch in written.chunks(AUDIT_BATCH) {
        let (transactional, plain): (Vec<&String>, Vec<&String>) =
            batch.iter().partition(|key| key.starts_with('t'));
        let mut found: BTreeMap<_, _> =
            raw.batch_get(&plain).await.expect("a healed cluster answers").into_iter().collect();
        found.extend(snapshot.batch_get(&transactional).await.expect("a healed cluster answers"));
        for key in batch {
            let value = found.get(key.as_bytes());
            if value.map(|value| value.as_ref()) != Some(key.as_bytes()) {
                wrong.push(format!("{key} was acknowledged, and is {value:?} at the end"));
            }
        }
    }
    wrong
}

fn account(number: u64) -> String {
    format!("b/{number}")
}

async fn open_accounts(client: &Client) {
    let txn = client.transactions().begin().await.unwrap();
    for number in 0..ACCOUNTS {
        txn.put(account(number), BALANCE.to_string()).unwrap();
    }
    txn.commit().await.unwrap();
}

async fn transfer(client: Client, mut dice: Dice, books: Arc<Books>) {
    let mut pace = pace();
    while !books.is_over() {
        pace.tick().await;
        let (from, to) = (dice.within(0..ACCOUNTS), dice.within(0..ACCOUNTS));
        let amount = dice.within(1..20);
        if from != to && move_money(&client, from, to, amount).await.is_ok() {
            books.told().transfers += 1;
        }
    }
}

/// Conflicts and faults are the caller's to shrug at: the sum tells whether anything went wrong.
async fn move_money(client: &Client, from: u64, to: u64, amount: u64) -> client::Result<()> {
    let txn = client.transactions().begin().await?;
    let (from, to) = (account(from), account(to));
    let (source, target) = (txn.get(&from).await?, txn.get(&to).await?);
    let (source, target) = (source.map_or(0, parsed), target.map_or(0, parsed));
    if source < amount {
        txn.rollback();
        return Ok(());
    }
    txn.put(&from, (source - amount).to_string())?;
    txn.put(&to, (target + amount).to_string())?;
    txn.commit().await.map(drop)
}

async fn sum_up(client: Client, books: Arc<Books>) {
    let mut pace = pace();
    while !books.is_over() {
        pace.tick().await;
        match sum(&client).await {
            Ok(true) => books.told().sums += 1,
            Ok(false) => {}
            Err(wrong) => books.told().wrong.push(wrong),
        }
    }
}

/// Whether the sum could be read; it must be right then.
async fn sum(client: &Client) -> Result<bool, String> {
    let Ok(snapshot) = client.transactions().snapshot().await else { return Ok(false) };
    let Ok(pairs) = snapshot.batch_get((0..ACCOUNTS).map(account)).await else { return Ok(false) };
    let sum: u64 = pairs.iter().map(|(_, value)| parsed(value)).sum();
    if sum == ACCOUNTS * BALANCE {
        Ok(true)
    } else {
        Err(format!("the accounts hold {sum} at {}: {pairs:?}", snapshot.timestamp()))
    }
}

async fn ask_time(client: Client, latest: Arc<Mutex<Timestamp>>, books: Arc<Books>) {
    let mut pace = pace();
    while !books.is_over() {
        pace.tick().await;
        let before = *latest.lock().unwrap();
        let Ok(now) = client.timestamp().await else { continue };
        let mut told = books.told();
        told.timestamps += 1;
        if now <= before {
            told.wrong.push(format!("timestamp {now} came after {before}"));
        }
        drop(told);
        let mut latest = latest.lock().unwrap();
        *latest = now.max(*latest);
    }
}
