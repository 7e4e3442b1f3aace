//! What transactions are asked to do, and the ledger of what they did.
//!
//! | workload | a transaction | must hold |
//! |---|---|---|
//! | lists | reads lists, and appends to some | no anomaly in `checkers::list_append` |
//! | bank | moves money between accounts, which come and go; or counts it | the sum stays |
//! | fork | writes one of a few keys; or reads all of them | two readers never disagree about who wrote first |
//! | counter | adds one | nobody sees it go back; in the end it is what was added |
//! | set | inserts a key that nobody has; or lists all keys | what was acknowledged is there, and nothing else |
//! | skew | of two who are on call takes one off if both are | nothing: both may go |
//! | guarded skew | the same, for update | one of them stays |
//!
//! Whatever they read and write goes to `checkers::snapshot_isolation` as well. Readers read key by key or
//! scan, while regions split under their hands.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::session::{Session, Shared};
use super::transaction::{Stopped, Style, Txn};
use crate::checkers::list_append::{Ending, ListTransaction, Step};
use crate::sim::dice::{Dice, mix};
use crate::sim::options::Plant;
use crate::sim::probes::Probe;
use crate::transactions::{Change, Fate, Transaction};

/// What a key holds: a few numbers.
pub(super) type Value = Vec<u64>;

/// Accounts of the bank, and what each holds at first.
const ACCOUNTS: u64 = 6;
const BALANCE: u64 = 100;

/// A list is left alone when it is so long, and a fresh one begun.
const LIST_LENGTH_MAX: usize = 40;

/// What a transaction is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Workload {
    /// Lists of numbers.
    Lists,
    /// Accounts.
    Bank,
    /// Keys written one by one, and read together.
    Fork,
    /// One number that grows.
    Counter,
    /// Keys that are inserted once.
    Set,
    /// Write skew.
    Skew,
    /// Write skew, forbidden.
    GuardedSkew,
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Lists,
        Self::Bank,
        Self::Fork,
        Self::Counter,
        Self::Set,
        Self::Skew,
        Self::GuardedSkew,
    ];

    /// Its keys begin here.
    fn base(self) -> u64 {
        (self as u64 + 1) * 10_000
    }

    fn of(key: u64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|workload| (workload.base()..workload.base() + 10_000).contains(&key))
    }
}

/// The bytes of a key. Neighbouring numbers lie far apart, so that every region sees traffic.
pub(super) fn user_key(number: u64) -> Bytes {
    Bytes::from(format!("{:02x}/t{number:06}", mix(number) & 0xff))
}

/// The number of a key.
pub(super) fn key_number(key: &[u8]) -> u64 {
    let digits = key.get(4..).and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| digits.parse().ok()).expect("a key ends with its number")
}

/// The bytes of a value. Lists of some length are too long for a record.
pub(super) fn value_bytes(value: &Value) -> Bytes {
    value.iter().flat_map(|number| number.to_be_bytes()).collect()
}

/// The value written as these bytes.
pub(super) fn value_of(bytes: &[u8]) -> Value {
    assert!(bytes.len().is_multiple_of(8), "a value comes back as it was written: {bytes:?}");
    let (numbers, _) = bytes.as_chunks::<8>();
    numbers.iter().map(|number| u64::from_be_bytes(*number)).collect()
}

/// What was done, and what is known of the keys.
#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) history: Vec<Transaction<Value>>,
    /// Steps on lists, by the start of their transaction.
    steps: BTreeMap<u64, Vec<Step>>,
    /// By client: its name. One that crashes gets another.
    pub(super) names: Vec<u64>,
    next_name: u64,
    next_number: u64,
    lists: Vec<u64>,
    next_list: u64,
    next_member: u64,
    styles: Styles,
    workloads: Vec<Workload>,
    /// How long locks stand without being kept alive, in milliseconds.
    pub(super) ttl_ms: u64,
    pub(super) plant: Option<Plant>,
    done: u64,
}

/// How likely each way of committing is, in thousandths.
#[derive(Clone, Copy, Debug)]
struct Styles {
    pessimistic: u64,
    forces: u64,
    asynchronous: u64,
    one_phase: u64,
    linear: u64,
    pushed: u64,
    heartbeat: u64,
}

impl Ledger {
    pub(super) fn new(
        mut dice: Dice,
        clients: usize,
        workloads: Vec<Workload>,
        plant: Option<Plant>,
    ) -> Self {
        let styles = Styles {
            pessimistic: dice.within(0..700),
            forces: dice.within(0..500),
            asynchronous: dice.within(0..900),
            one_phase: dice.within(0..700),
            linear: dice.within(0..1_000),
            pushed: dice.within(0..800),
            heartbeat: dice.within(0..800),
        };
        let names = (0..clients as u64).collect();
        Self {
            history: Vec::new(),
            steps: BTreeMap::new(),
            names,
            next_name: clients as u64,
            next_number: 1,
            lists: (0..dice.within(2..5)).map(|n| Workload::Lists.base() + n).collect(),
            next_list: Workload::Lists.base() + 5,
            next_member: Workload::Set.base(),
            styles,
            workloads,
            ttl_ms: dice.within(200..2_500),
            plant,
            done: 0,
        }
    }

    /// A crashed client comes back as another.
    pub(super) fn rename(&mut self, slot: usize) {
        self.names[slot] = self.next_name;
        self.next_name += 1;
    }

    /// A transaction has ended.
    pub(super) fn close(&mut self, transaction: Transaction<Value>) {
        self.done += u64::from(matches!(transaction.fate, Fate::Committed(_)));
        self.history.push(transaction);
    }

    /// How many are committed, for all that their clients know.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    /// Every key that was ever used.
    pub(super) fn keys(&self) -> Vec<u64> {
        let mut keys = BTreeSet::new();
        for workload in &self.workloads {
            let base = workload.base();
            match workload {
                Workload::Lists => keys.extend(base..self.next_list),
                Workload::Set => keys.extend(base..self.next_member),
                Workload::Bank => keys.extend(base..base + ACCOUNTS),
                Workload::Fork => keys.extend(base..base + 4),
                Workload::Counter => keys.extend(base..base + 2),
                Workload::Skew | Workload::GuardedSkew => keys.extend(base..base + 2),
            }
        }
        keys.into_iter().collect()
    }

    /// The transactions on lists, with what they did in order.
    pub(super) fn list_history(&self) -> Vec<ListTransaction> {
        let of = |transaction: &Transaction<Value>| {
            let steps = self.steps.get(&transaction.start_ts)?.clone();
            let ending = match transaction.fate {
                Fate::Committed(_) => Ending::Ok,
                Fate::Aborted => Ending::Failed,
                Fate::Unknown => Ending::Unknown,
            };
            let (began, ended) = (transaction.began, transaction.ended);
            Some(ListTransaction { began, ended, ending, steps })
        };
        self.history.iter().filter_map(of).collect()
    }
}

/// One transaction of one of the workloads.
pub(super) async fn run_one(session: &Session) {
    let (workload, style) = {
        let mut shared = session.shared_mut();
        let shared = &mut *shared;
        let workload = *shared.dice.one_of(&shared.ledger.workloads).expect("there is work");
        let styles = shared.ledger.styles;
        let dice = &mut shared.dice;
        let is_pessimistic = dice.happens(styles.pessimistic);
        let style = Style {
            is_pessimistic,
            forces: is_pessimistic && dice.happens(styles.forces),
            is_async: dice.happens(styles.asynchronous),
            is_one_phase: dice.happens(styles.one_phase),
            is_linear: dice.happens(styles.linear),
            may_be_pushed: dice.happens(styles.pushed),
            has_heartbeat: dice.happens(styles.heartbeat),
        };
        (workload, style)
    };
    let Some(mut txn) = Txn::begin(session, style).await else { return };
    let body = match workload {
        Workload::Lists => lists(&mut txn).await,
        Workload::Bank => bank(&mut txn).await,
        Workload::Fork => fork(&mut txn).await,
        Workload::Counter => counter(&mut txn).await,
        Workload::Set => set(&mut txn).await,
        Workload::Skew => skew(&mut txn, Workload::Skew.base(), false).await,
        Workload::GuardedSkew => skew(&mut txn, Workload::GuardedSkew.base(), true).await,
    };
    // Some think for long before they commit: longer than their locks stand.
    if session.happens(30) {
        let pause = session.within(0..3_000_000);
        session.sleep(pause).await;
    }
    match body {
        Ok(()) => {
            let copy = txn.has(Plant::BlindRetry).then(|| txn.buffer.clone());
            let fate = txn.commit().await;
            if matches!(fate, Fate::Committed(_)) && style.is_pessimistic {
                session.saw(Probe::PessimisticCommitted);
            }
            if let (Fate::Aborted, Some(buffer)) = (fate, copy) {
                write_again(session, buffer).await;
            }
        }
        Err(Stopped) => txn.roll_back().await,
    }
}

/// The planted bug: what was refused is written all the same, and taken for the transaction that read.
async fn write_again(session: &Session, buffer: BTreeMap<u64, Change<Value>>) {
    let Some(mut txn) = Txn::begin(session, Style::default()).await else { return };
    let refused = session.shared().ledger.history.last().cloned();
    if let Some(refused) = refused {
        let steps = session.shared_mut().ledger.steps.remove(&refused.start_ts);
        if let Some(steps) = steps {
            session.shared_mut().ledger.steps.insert(txn.start_ts, steps);
        }
        let mut shared = session.shared_mut();
        let open = shared.open[session.slot].as_mut().expect("it is under way");
        open.transaction.reads = refused.reads;
        open.transaction.began = refused.began;
    }
    txn.buffer = buffer;
    txn.commit().await;
}

async fn lists(txn: &mut Txn) -> Result<(), Stopped> {
    for _ in 0..txn.session.within(1..5) {
        let key = {
            let mut shared = txn.session.shared_mut();
            let Shared { dice, ledger, .. } = &mut *shared;
            *dice.one_of(&ledger.lists).expect("there are lists")
        };
        let mut list = if txn.style.is_pessimistic {
            txn.get_for_update(key).await?
        } else {
            txn.get(key).await?
        }
        .unwrap_or_default();
        let mut steps = vec![Step::Read(key, list.clone())];
        if list.len() >= LIST_LENGTH_MAX {
            let mut shared = txn.session.shared_mut();
            let ledger = &mut shared.ledger;
            let fresh = ledger.next_list;
            if let Some(place) = ledger.lists.iter_mut().find(|known| **known == key) {
                *place = fresh;
                ledger.next_list += 1;
            }
        } else if txn.session.happens(500) {
            let number = txn.session.shared_mut().ledger.number();
            list.push(number);
            steps.push(Step::Append(key, number));
            txn.put(key, list);
        }
        let start_ts = txn.start_ts;
        txn.session.shared_mut().ledger.steps.entry(start_ts).or_default().extend(steps);
    }
    Ok(())
}

/// Every key of a workload, read one by one or scanned.
async fn read_all(txn: &mut Txn, keys: &[u64]) -> Result<BTreeMap<u64, Value>, Stopped> {
    if txn.session.happens(500) {
        return txn.scan(keys, Bytes::new(), Bytes::from_static(b"z")).await;
    }
    let mut found = BTreeMap::new();
    for key in keys {
        if let Some(value) = txn.get(*key).await? {
            found.insert(*key, value);
        }
    }
    Ok(found)
}

async fn bank(txn: &mut Txn) -> Result<(), Stopped> {
    let base = Workload::Bank.base();
    let accounts: Vec<u64> = (base..base + ACCOUNTS).collect();
    if txn.session.happens(400) {
        // Judged when it is over: what was read is in the history.
        read_all(txn, &accounts).await?;
        return Ok(());
    }
    let (mut from, to) = (txn.session.within(0..ACCOUNTS), txn.session.within(0..ACCOUNTS));
    if from == to {
        from = (to + 1) % ACCOUNTS;
    }
    let (from, to) = (base + from, base + to);
    let amount = txn.session.within(1..30);
    let held = |value: Option<Value>| value.map_or(0, |value| value[0]);
    let (has, gets) = if txn.style.is_pessimistic {
        (held(txn.get_for_update(from).await?), held(txn.get_for_update(to).await?))
    } else {
        (held(txn.get(from).await?), held(txn.get(to).await?))
    };
    let amount = amount.min(has);
    if amount == 0 {
        return Ok(());
    }
    let number = txn.session.shared_mut().ledger.number();
    if has == amount {
        txn.delete(from);
    } else {
        txn.put(from, vec![has - amount, number]);
    }
    txn.put(to, vec![gets + amount, number]);
    Ok(())
}

/// The bank opens: once, before anything else.
pub(super) async fn open_bank(session: &Session) -> bool {
    let Some(mut txn) = Txn::begin(session, Style::default()).await else { return false };
    for account in 0..ACCOUNTS {
        let number = session.shared_mut().ledger.number();
        txn.put(Workload::Bank.base() + account, vec![BALANCE, number]);
    }
    for base in [Workload::Skew.base(), Workload::GuardedSkew.base()] {
        for key in 0..2 {
            let number = session.shared_mut().ledger.number();
            txn.put(base + key, vec![1, number]);
        }
    }
    matches!(txn.commit().await, Fate::Committed(_))
}

async fn fork(txn: &mut Txn) -> Result<(), Stopped> {
    let base = Workload::Fork.base();
    let keys: Vec<u64> = (base..base + 4).collect();
    if txn.session.happens(500) {
        read_all(txn, &keys).await?;
        return Ok(());
    }
    let key = base + txn.session.within(0..4);
    if txn.style.is_pessimistic {
        txn.get_for_update(key).await?;
    }
    let number = txn.session.shared_mut().ledger.number();
    txn.put(key, vec![number]);
    Ok(())
}

async fn counter(txn: &mut Txn) -> Result<(), Stopped> {
    let key = Workload::Counter.base() + txn.session.within(0..2);
    let now = if txn.style.is_pessimistic || txn.session.happens(300) {
        txn.get_for_update(key).await?
    } else {
        txn.get(key).await?
    };
    let count = now.map_or(0, |value| value[0]);
    if txn.session.happens(700) {
        let number = txn.session.shared_mut().ledger.number();
        txn.put(key, vec![count + 1, number]);
    }
    Ok(())
}

async fn set(txn: &mut Txn) -> Result<(), Stopped> {
    let base = Workload::Set.base();
    if txn.session.happens(150) {
        let keys: Vec<u64> = (base..txn.session.shared().ledger.next_member).collect();
        read_all(txn, &keys).await?;
        return Ok(());
    }
    for _ in 0..txn.session.within(1..3) {
        let key = {
            let mut shared = txn.session.shared_mut();
            shared.ledger.next_member += 1;
            shared.ledger.next_member - 1
        };
        if txn.style.is_pessimistic {
            txn.get_for_update(key).await?;
        }
        let number = txn.session.shared_mut().ledger.number();
        txn.put(key, vec![number]);
    }
    Ok(())
}

async fn skew(txn: &mut Txn, base: u64, is_guarded: bool) -> Result<(), Stopped> {
    let (one, other) = if txn.session.happens(500) { (base, base + 1) } else { (base + 1, base) };
    let mut on_call = Vec::new();
    for key in [one, other] {
        let value = if is_guarded { txn.get_for_update(key).await? } else { txn.get(key).await? };
        on_call.push(value.map_or(0, |value| value[0]));
    }
    let number = txn.session.shared_mut().ledger.number();
    match on_call[..] {
        [1, 1] => txn.put(one, vec![0, number]),
        [0, _] => txn.put(one, vec![1, number]),
        _ => {}
    }
    Ok(())
}

/// Judges what the checkers of isolation do not know: what each workload promises.
pub(super) fn check(history: &[Transaction<Value>]) -> Result<(), String> {
    let committed = |t: &&Transaction<Value>| matches!(t.fate, Fate::Committed(_));
    for transaction in history.iter().filter(committed) {
        check_bank(transaction)?;
        check_guard(transaction)?;
    }
    check_counters(history)?;
    check_set(history)
}

/// A snapshot of all accounts adds up.
fn check_bank(transaction: &Transaction<Value>) -> Result<(), String> {
    let of_bank = |key: u64| Workload::of(key) == Some(Workload::Bank);
    let reads: BTreeMap<u64, u64> = transaction
        .reads
        .iter()
        .filter(|read| of_bank(read.key) && read.at == transaction.start_ts)
        .map(|read| (read.key, read.value.as_ref().map_or(0, |value| value[0])))
        .collect();
    let sum: u64 = reads.values().sum();
    // Before the bank opens there is nothing.
    if reads.len() as u64 == ACCOUNTS && sum != ACCOUNTS * BALANCE && sum != 0 {
        return Err(format!("the bank holds {sum} in {transaction}"));
    }
    Ok(())
}

/// Who looked for update never saw both off call.
fn check_guard(transaction: &Transaction<Value>) -> Result<(), String> {
    let of_guard = |key: u64| Workload::of(key) == Some(Workload::GuardedSkew);
    let off: BTreeSet<u64> = transaction
        .reads
        .iter()
        .filter(|read| of_guard(read.key) && read.value.as_ref().is_some_and(|value| value[0] == 0))
        .map(|read| read.key)
        .collect();
    if off.len() == 2 {
        return Err(format!("nobody is on call in {transaction}"));
    }
    Ok(())
}

/// A counter that somebody saw is not seen lower by one who begins later.
fn check_counters(history: &[Transaction<Value>]) -> Result<(), String> {
    let mut sightings: Vec<(u64, bool, u64, u64)> = Vec::new();
    for transaction in history.iter().filter(|t| t.fate != Fate::Aborted) {
        for read in &transaction.reads {
            if Workload::of(read.key) == Some(Workload::Counter) {
                let count = read.value.as_ref().map_or(0, |value| value[0]);
                sightings.push((transaction.began, false, read.key, count));
                if transaction.ended != u64::MAX {
                    sightings.push((transaction.ended, true, read.key, count));
                }
            }
        }
    }
    sightings.sort_unstable();
    let mut highest: BTreeMap<u64, u64> = BTreeMap::new();
    for (stamp, is_end, key, count) in sightings {
        let known = highest.entry(key).or_default();
        if is_end {
            *known = (*known).max(count);
        } else if count < *known {
            return Err(format!("counter {key} went back from {known} to {count} at {stamp}"));
        }
    }
    Ok(())
}

/// The last look at the set sees every acknowledged member.
fn check_set(history: &[Transaction<Value>]) -> Result<(), String> {
    let of_set = |key: u64| Workload::of(key) == Some(Workload::Set);
    let mut last_looks: BTreeMap<u64, (u64, Option<&Value>)> = BTreeMap::new();
    for transaction in history.iter().filter(|t| t.fate != Fate::Aborted) {
        for read in transaction.reads.iter().filter(|read| of_set(read.key)) {
            let look = last_looks.entry(read.key).or_insert((0, None));
            if look.0 <= transaction.began {
                *look = (transaction.began, read.value.as_ref());
            }
        }
    }
    for transaction in history.iter().filter(|t| matches!(t.fate, Fate::Committed(_))) {
        for write in transaction.writes.iter().filter(|write| of_set(write.key)) {
            let (Change::Put(value), Some((looked, seen))) =
                (&write.change, last_looks.get(&write.key))
            else {
                continue;
            };
            if *looked > transaction.ended && *seen != Some(value) {
                return Err(format!("member {} of {transaction} is not in the set", write.key));
            }
        }
    }
    Ok(())
}
