//! Who uses the cluster meanwhile, and what they were told.
//!
//! | user | does | truth that is checked | file |
//! |---|---|---|---|
//! | registers | raw get, put, delete, compare-and-swap on a few keys, never sending a write twice | the history of each key is linearizable | `registers` |
//! | lists | transactions that read lists and append to some | no anomaly but write skew, found from the lists alone | `lists` |
//! | cells | transactions that read, write, delete and lock registers | every one saw its snapshot, and nobody wrote behind its back: by timestamps | `cells` |
//! | tellers | transfers between accounts, with receipts | every balance is what the transfers make it | `bank` |
//! | auditors | count all accounts in one snapshot | money is neither made nor lost; a snapshot does not change | `bank` |
//! | writers | each key once, raw and transactional in turn | what was acknowledged is there at the end | `writers` |
//! | clocks | ask for timestamps, one after the other | later than every one that was answered before it was asked for | `writers` |
//!
//! Every transaction of lists, cells and tellers is of a kind that is drawn (`txn`): a snapshot,
//! optimistic or pessimistic, in two phases, by async commit or in one phase. Everybody works at a
//! fixed pace, so that the cluster is busy and the machine is not: a test of faults, not of speed.
//! Every call goes through the watch, which tells those that do not come back.

mod bank;
mod cells;
mod lists;
mod registers;
mod txn;
mod writers;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use client::metrics::CommitWay;
use client::{Client, Timestamp};
use proto::memcomparable;
use tests::checkers::list_append::ListTransaction;
use tests::history::History;
use tests::sim::dice::{Dice, mix};

pub(super) use self::bank::{ACCOUNTS, BALANCE, Transfer, Vault, check_sum};
pub(super) use self::cells::CellTransaction;
pub(super) use self::lists::LISTS;
pub(super) use self::txn::{Kind, Tally};
use super::report::Progress;
use super::watch::{CALL_TIMEOUT, Failed, HUNG_AFTER, Watch};

/// Clients that call registers; each has connections and a map of regions of its own.
const REGISTER_USERS: u64 = 8;
const LIST_USERS: u64 = 4;
const CELL_USERS: u64 = 3;
const TELLERS: u64 = 2;
/// Those whose answers are waited for, numbered in this order.
const USERS: u64 = REGISTER_USERS + LIST_USERS + CELL_USERS + TELLERS;
/// The number of one more: who reads every register at the end.
const LAST_READER: u64 = USERS;
const WRITERS: usize = 2;
const CLOCKS: usize = 2;
/// Transactions on lists, or on cells, before fresh ones are used.
const TRANSACTIONS_PER_TURN: u64 = 300;
/// Time between the calls of one client, and between the transactions of one, which make several.
const PACE: Duration = Duration::from_millis(15);
const TRANSACTION_PACE: Duration = Duration::from_millis(40);
/// How long one of the last readings may take. A lock that a lost commit has left may have to run out
/// first, which takes some seconds more than the commit itself.
const LAST_CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Keys read at once by the audit.
const AUDIT_BATCH: usize = 500;

/// What the users know at the end.
#[derive(Default)]
pub(super) struct Notes {
    /// Keys whose writing was acknowledged; the value is the key.
    written: Vec<String>,
    /// What cannot be: sums that are wrong, timestamps that went back.
    wrong: Vec<String>,
    sums: u64,
    /// Snapshots that were read once more.
    rereads: u64,
    timestamps: u64,
    transfers: Vec<Transfer>,
    lists: Vec<ListTransaction>,
    /// Every list at the end, one transaction a turn.
    last_lists: Vec<ListTransaction>,
    cells: Vec<CellTransaction>,
    /// Transactions on cells of which nobody has heard how they ended.
    open_cells: VecDeque<cells::Open>,
}

/// A number that grows by one every so many calls: which registers, lists or cells are in use.
struct Turns {
    calls: AtomicU64,
    calls_per_turn: u64,
}

impl Turns {
    fn new(calls_per_turn: u64) -> Self {
        Self { calls: AtomicU64::new(0), calls_per_turn }
    }

    fn now(&self) -> u64 {
        self.calls.load(Ordering::Relaxed) / self.calls_per_turn
    }

    /// Counts a call, and says in which turn it is.
    fn take(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed) / self.calls_per_turn
    }
}

/// What the users share.
pub(super) struct Books {
    stop: AtomicBool,
    stamps: AtomicU64,
    registers: Turns,
    lists: Turns,
    cells: Turns,
    history: Mutex<History>,
    notes: Mutex<Notes>,
    tally: Mutex<Tally>,
    pub(super) watch: Watch,
    pub(super) progress: Progress,
}

/// A key that somebody uses: its name, and how regions know it.
pub(super) struct KeyInUse {
    pub(super) name: String,
    pub(super) on_wire: Bytes,
}

impl KeyInUse {
    fn raw(name: String) -> Self {
        Self { on_wire: name.clone().into(), name }
    }

    fn transactional(name: String) -> Self {
        Self { on_wire: memcomparable::encode(name.as_bytes()), name }
    }
}

impl Books {
    fn new() -> Self {
        Self {
            stop: AtomicBool::new(false),
            stamps: AtomicU64::new(0),
            registers: Turns::new(registers::REGISTERS * registers::CALLS_PER_REGISTER),
            lists: Turns::new(TRANSACTIONS_PER_TURN),
            cells: Turns::new(TRANSACTIONS_PER_TURN),
            history: Mutex::default(),
            notes: Mutex::default(),
            tally: Mutex::default(),
            watch: Watch::new(CALL_TIMEOUT, HUNG_AFTER),
            progress: Progress::new(USERS as usize),
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap()
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A moment later than all before it.
    fn stamp(&self) -> u64 {
        self.stamps.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// A transaction that began then has ended like this.
    fn ended<T>(&self, user: u64, kind: Kind, start: Instant, outcome: &Result<T, Failed>) {
        self.tally.lock().unwrap().count(kind, outcome);
        // Stragglers of the end are no sign that nobody was answered before them.
        if outcome.is_ok() && !self.is_over() {
            self.progress.answered(user, start);
        }
    }

    /// A key in use, as regions are cut: raw or transactional.
    pub(super) fn key_in_use(&self, pick: u64) -> KeyInUse {
        let which = mix(pick);
        match pick % 5 {
            0 | 1 => {
                let registers = registers::REGISTERS;
                let register = self.registers.now() * registers + which % registers;
                KeyInUse::raw(registers::key_of(register))
            }
            2 => {
                let list = self.lists.now() * LISTS + which % LISTS;
                KeyInUse::transactional(lists::key_of(list))
            }
            3 => {
                let cell = self.cells.now() * cells::CELLS + which % cells::CELLS;
                KeyInUse::transactional(cells::key_of(cell))
            }
            _ => KeyInUse::transactional(bank::account(which % ACCOUNTS)),
        }
    }

    /// Whether every user of raw keys has had an answer to a call begun after this moment.
    pub(super) fn raw_users_answered_since(&self, moment: Instant) -> bool {
        self.progress.answered_since(0..REGISTER_USERS as usize, moment)
    }

    /// Whether every user of transactions has had one committed that began after this moment.
    pub(super) fn transactions_committed_since(&self, moment: Instant) -> bool {
        self.progress.answered_since(REGISTER_USERS as usize..USERS as usize, moment)
    }

    /// How transactions have ended so far, by kind.
    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap()
    }
}

/// Where regions are cut before anybody works, so that transactions meet several from the beginning.
pub(super) fn first_cuts() -> Vec<KeyInUse> {
    let mut cuts = vec![KeyInUse::raw("r/80000000".into())];
    let transactional = [bank::account(ACCOUNTS / 2), "l/80000000".into(), cells::key_of(3)];
    cuts.extend(transactional.map(KeyInUse::transactional));
    cuts
}

/// Everything that was seen, and what was there at the end.
#[derive(Default)]
pub(super) struct Evidence {
    pub(super) history: History,
    pub(super) lists: Vec<ListTransaction>,
    pub(super) last_lists: Vec<ListTransaction>,
    pub(super) cells: Vec<CellTransaction>,
    pub(super) transfers: Vec<Transfer>,
    pub(super) vault: Vault,
    /// Acknowledged writes that were read back.
    pub(super) written: usize,
    pub(super) sums: u64,
    pub(super) rereads: u64,
    pub(super) timestamps: u64,
    /// What was found wrong on the way.
    pub(super) wrong: Vec<String>,
    /// Commits by the way they took, as the clients count them: one phase, async, two phases.
    pub(super) ways: [u64; 3],
}

/// Everybody at work.
pub(super) struct Load {
    pub(super) books: Arc<Books>,
    endpoints: Vec<String>,
    clients: Vec<Client>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    pub(super) async fn start(endpoints: &[String], seed: u64) -> Self {
        let shared = connect(endpoints, CALL_TIMEOUT).await;
        bank::open_accounts(&shared).await;
        let books = Arc::new(Books::new());
        let mut load =
            Self { books, endpoints: endpoints.to_vec(), clients: vec![shared], tasks: Vec::new() };
        let mut user = 0;
        for number in 0..REGISTER_USERS {
            let (dice, books) = (dice(seed, "registers", number), load.books.clone());
            let client = load.client().await;
            load.works(registers::use_registers(client, user, dice, books));
            user += 1;
        }
        for number in 0..LIST_USERS {
            let (dice, books) = (dice(seed, "lists", number), load.books.clone());
            let client = load.client().await;
            load.works(lists::use_lists(client, user, dice, books));
            user += 1;
        }
        for number in 0..CELL_USERS {
            let (dice, books) = (dice(seed, "cells", number), load.books.clone());
            let client = load.client().await;
            load.works(cells::use_cells(client, user, dice, books));
            user += 1;
        }
        let (shared, books) = (load.clients[0].clone(), load.books.clone());
        for number in 0..TELLERS {
            let dice = dice(seed, "bank", number);
            load.works(bank::transfer(shared.clone(), user, dice, books.clone()));
            user += 1;
        }
        assert_eq!(user, USERS, "every user has a number");
        load.works(bank::audit(shared.clone(), books.clone()));
        for number in 0..WRITERS {
            load.works(writers::write(shared.clone(), number, books.clone()));
        }
        let latest = Arc::new(Mutex::new(Timestamp::default()));
        for _ in 0..CLOCKS {
            let client = load.client().await;
            load.works(writers::ask_time(client, latest.clone(), books.clone()));
        }
        load
    }

    async fn client(&mut self) -> Client {
        let client = connect(&self.endpoints, CALL_TIMEOUT).await;
        self.clients.push(client.clone());
        client
    }

    fn works(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(tokio::spawn(work));
    }

    /// Ends the work, reads everything once more with a client that knows nothing yet, and hands
    /// over what was seen.
    pub(super) async fn finish(self) -> Evidence {
        let Self { books, endpoints, clients, tasks } = self;
        books.stop.store(true, Ordering::Relaxed);
        for task in tasks {
            task.await.unwrap();
        }
        // Commits that were cut short end in the background, one way or the other, or leave locks.
        for client in &clients {
            let _ = client.settled(2 * CALL_TIMEOUT).await;
        }
        let reader = connect(&endpoints, LAST_CALL_TIMEOUT).await;
        let watch = Watch::new(LAST_CALL_TIMEOUT, HUNG_AFTER);
        let transactions = reader.transactions();
        registers::read_all(&reader, &books).await;
        lists::read_all(&transactions, &books).await;
        cells::settle_all(&transactions, &watch, &books).await;
        cells::read_all(&transactions, &watch, &books).await;
        let vault = bank::look_into_vault(&transactions, &books).await;
        let notes = std::mem::take(&mut *books.notes());
        let mut wrong = notes.wrong;
        wrong.extend(writers::missing(&reader, &notes.written).await);
        wrong.extend(books.watch.hung());
        wrong.extend(watch.hung());
        let way = |way| clients.iter().map(|client| client.metrics().commits(way)).sum();
        Evidence {
            history: std::mem::take(&mut *books.history.lock().unwrap()),
            lists: notes.lists,
            last_lists: notes.last_lists,
            cells: notes.cells,
            transfers: notes.transfers,
            vault,
            written: notes.written.len(),
            sums: notes.sums,
            rereads: notes.rereads,
            timestamps: notes.timestamps,
            wrong,
            ways: [way(CommitWay::OnePhase), way(CommitWay::Async), way(CommitWay::TwoPhases)],
        }
    }
}

fn dice(seed: u64, purpose: &str, number: u64) -> Dice {
    Dice::new(seed).stream(purpose).stream(&number.to_string())
}

async fn connect(endpoints: &[String], timeout: Duration) -> Client {
    let config = client::Config {
        timeout,
        store_timeout: Duration::from_millis(1_500),
        scheduler_timeout: Duration::from_millis(1_500),
        ..Default::default()
    };
    Client::connect_with(endpoints.iter().cloned(), config).await.unwrap()
}

/// Wakes at a pace that does not try to make up for lost turns.
fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

fn pace() -> tokio::time::Interval {
    every(PACE)
}

fn transaction_pace() -> tokio::time::Interval {
    every(TRANSACTION_PACE)
}
