//! Messages of transactions lost, late, doubled and out of order, against a dumb model.
//!
//! In some stories pessimistic locks are kept in memory; they are lost with their leader, or saved, at any time.
//!
//! Clients lock, prewrite, flush, say that they live, commit and give up; others meet their locks and
//! resolve them; readers read. Every request may be delivered up to three times, at any later moment, and
//! once more when all is over and old versions are collected. (Clients ask again while they have no answer;
//! what failed for good is not tried again.) What must hold:
//!
//! - the same request again, at once, changes nothing;
//! - all who learn a transaction's fate learn the same one, and its records agree;
//! - nobody writes to a key between its lock and the commit of the pessimistic transaction that locked it;
//! - every read, at the time it was made, saw what the commits in timestamp order say;
//! - when all is over, everything delivered again changes nothing that a reader can see;
//! - collecting garbage changes nothing that a reader at or after the safe point can see, and nothing that
//!   is delivered afterwards does.
//!
//! The order is drawn from the test's input, so a failure shrinks to a short story.

#![allow(clippy::unwrap_used, reason = "a story that cannot be told is a failed test")]

mod clients;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proto::kvrpcpb::{
    BatchRollbackRequest, CheckSecondaryLocksRequest, CheckTxnStatusRequest, CleanupRequest,
    CommitRequest, GetRequest, PessimisticRollbackRequest, ResolveLockRequest, ScanLockRequest,
    TxnHeartBeatRequest,
};
use raftstore::engine::DataEngine as _;
use raftstore::engine::memory::MemoryData;

use super::dump::{dump, dump_reserved};
use super::reservations::Led;
use super::{TimestampFuture, TimestampSource, Transactions};
use crate::config::ApiVersion;
use crate::storage::local::LocalStorage;

const KEYS: [&str; 3] = ["a", "b", "c"];
const TRANSACTIONS_MAX: usize = 6;
/// A pipelined client writes each key so often.
const LAST_GENERATION: u64 = 2;

/// The one region, for locks in memory.
const HERE: Led = Led { region_id: 0, term: 1, version: 0 };

struct FirstTimestamp;

impl TimestampSource for FirstTimestamp {
    fn fresh(&self) -> TimestampFuture {
        Box::pin(async { Ok(0) })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    TwoPhase,
    Async,
    OnePhase,
    /// Locks first, then two phases.
    Pessimistic,
    /// Flushes each key twice, then commits.
    Pipelined,
}

#[derive(Clone, Debug)]
enum Message {
    /// One key; the client reads its latest value as of `for_update_ts`.
    Lock {
        txn: usize,
        key: usize,
        for_update_ts: u64,
    },
    Unlock {
        txn: usize,
        key: usize,
        for_update_ts: u64,
    },
    Flush {
        txn: usize,
        key: usize,
        generation: u64,
    },
    Heartbeat {
        txn: usize,
    },
    Cleanup {
        txn: usize,
        key: usize,
    },
    /// One key each, as if every key had its region; all keys at once in one phase.
    Prewrite {
        txn: usize,
        keys: Vec<usize>,
    },
    Commit {
        txn: usize,
        key: usize,
        commit_ts: u64,
    },
    Rollback {
        txn: usize,
        key: usize,
    },
    Resolve {
        start_ts: u64,
        key: usize,
        commit_ts: u64,
    },
}

impl Message {
    /// Whose it is; resolving is nobody's.
    fn txn(&self) -> Option<usize> {
        match self {
            Self::Lock { txn, .. }
            | Self::Unlock { txn, .. }
            | Self::Flush { txn, .. }
            | Self::Heartbeat { txn }
            | Self::Cleanup { txn, .. }
            | Self::Prewrite { txn, .. }
            | Self::Commit { txn, .. }
            | Self::Rollback { txn, .. } => Some(*txn),
            Self::Resolve { .. } => None,
        }
    }
}

#[derive(Debug)]
struct Client {
    start_ts: u64,
    style: Style,
    /// By key: whether it deletes.
    writes: BTreeMap<usize, bool>,
    waits_for: Vec<usize>,
    min_commit_ts: u64,
    /// Of a pessimistic transaction: as of when it last asked for each lock. It hears no answer to what it asked
    /// for before.
    asked: BTreeMap<usize, u64>,
    /// Keys that it has locked, with when it looked.
    locked: BTreeMap<usize, u64>,
    gave_up: bool,
    sent_commits: bool,
}

impl Client {
    fn primary(&self) -> usize {
        *self.writes.keys().next().unwrap()
    }
}

/// Bytes that decide; zeros when they are used up.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn below(&mut self, limit: usize) -> usize {
        usize::from(*self.0.next().unwrap_or(&0)) % limit
    }

    fn is_empty(&self) -> bool {
        self.0.len() == 0
    }
}

struct World {
    engine: MemoryData,
    transactions: Transactions<LocalStorage<MemoryData>>,
    runtime: tokio::runtime::Runtime,
    clock: u64,
    clients: Vec<Client>,
    /// On their way, with how often each may still arrive.
    pool: Vec<(Message, usize)>,
    sent: Vec<Message>,
    /// By start: committed then, or 0 for rolled back.
    fates: BTreeMap<u64, u64>,
    reads: Vec<(u64, usize, Option<Bytes>)>,
    story: Vec<String>,
}

/// A failure tells what happened.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}\n{}", self.story.join("\n"), self.dump());
        }
    }
}

impl World {
    fn new() -> Self {
        let engine = MemoryData::new();
        let storage = LocalStorage::new(engine.clone());
        Self {
            transactions: Transactions::new(storage, ApiVersion::V1, Arc::new(FirstTimestamp)),
            engine,
            runtime: tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap(),
            clock: 0,
            clients: Vec::new(),
            pool: Vec::new(),
            sent: Vec::new(),
            fates: BTreeMap::new(),
            reads: Vec::new(),
            story: Vec::new(),
        }
    }

    fn dump(&self) -> String {
        dump(&self.engine) + &dump_reserved(self.transactions.reservations())
    }

    /// The store leads the region, for the first time or again: what was in memory before is lost.
    fn lead(&mut self) {
        self.story.push("the store leads".into());
        self.transactions.reservations().on_leader_lost(HERE.region_id, HERE.term);
        self.transactions.reservations().on_leader(HERE);
    }

    /// It is about to hand over.
    fn save(&mut self) {
        self.story.push("locks are saved".into());
        let context = proto::kvrpcpb::Context::default();
        self.runtime.block_on(self.transactions.save_reservations(&context)).unwrap();
        assert!(self.transactions.reservations().is_empty());
    }

    fn now(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn send(&mut self, message: Message, times: usize) {
        self.sent.push(message.clone());
        self.pool.push((message, times));
    }

    fn learn(&mut self, start_ts: u64, fate: u64) {
        self.story.push(format!("  the fate of {start_ts} is {fate}"));
        let known = *self.fates.entry(start_ts).or_insert(fate);
        assert_eq!(known, fate, "the fate of {start_ts} was learnt twice");
    }

    fn commit(&self, start_ts: u64, key: usize, commit_ts: u64) -> bool {
        let request = CommitRequest {
            start_version: start_ts,
            commit_version: commit_ts,
            keys: vec![KEYS[key].into()],
            ..Default::default()
        };
        self.runtime.block_on(self.transactions.commit(request)).error.is_none()
    }

    /// Delivers a message twice in a row and hands the first answer to the client, if it arrives.
    fn deliver(&mut self, message: &Message, arrives: bool, choices: &mut Choices<'_>) {
        self.story.push(format!("{message:?}{}", if arrives { "" } else { ", answer lost" }));
        match message {
            Message::Lock { txn, key, for_update_ts } => {
                let errors = self.lock(*txn, *key, *for_update_ts);
                self.story.push(format!("  {errors:?}"));
                self.again(|world| drop(world.lock(*txn, *key, *for_update_ts)));
                if arrives {
                    self.on_locked(*txn, *key, *for_update_ts, &errors, choices);
                }
            }
            Message::Unlock { txn, key, for_update_ts } => {
                let request = PessimisticRollbackRequest {
                    start_version: self.clients[*txn].start_ts,
                    for_update_ts: *for_update_ts,
                    keys: vec![KEYS[*key].into()],
                    ..Default::default()
                };
                let send = |world: &Self| {
                    world.runtime.block_on(world.transactions.pessimistic_rollback(request.clone()))
                };
                send(self);
                self.again(|world| drop(send(world)));
            }
            Message::Flush { txn, key, generation } => {
                let errors = self.flush(*txn, *key, *generation);
                self.story.push(format!("  {errors:?}"));
                self.again(|world| drop(world.flush(*txn, *key, *generation)));
                if arrives {
                    self.on_flushed(*txn, *key, *generation, &errors, choices);
                }
            }
            Message::Heartbeat { txn } => {
                let client = &self.clients[*txn];
                let request = TxnHeartBeatRequest {
                    primary_lock: KEYS[client.primary()].into(),
                    start_version: client.start_ts,
                    advise_lock_ttl: 20,
                    min_commit_ts: client.start_ts + 2,
                    ..Default::default()
                };
                let send = |world: &Self| {
                    world.runtime.block_on(world.transactions.txn_heart_beat(request.clone()))
                };
                send(self);
                self.again(|world| drop(send(world)));
            }
            Message::Cleanup { txn, key } => {
                let request = CleanupRequest {
                    key: KEYS[*key].into(),
                    start_version: self.clients[*txn].start_ts,
                    ..Default::default()
                };
                let send = |world: &Self| {
                    world.runtime.block_on(world.transactions.cleanup(request.clone()))
                };
                send(self);
                self.again(|world| drop(send(world)));
            }
            Message::Prewrite { txn, keys } => {
                let answer = self.prewrite(*txn, keys);
                self.story.push(format!("  {answer:?}"));
                self.again(|world| drop(world.prewrite(*txn, keys)));
                if arrives {
                    self.on_prewritten(*txn, keys, &answer, choices);
                }
            }
            Message::Commit { txn, key, commit_ts } => {
                let start_ts = self.clients[*txn].start_ts;
                let is_committed = self.commit(start_ts, *key, *commit_ts);
                self.story.push(format!("  committed: {is_committed}"));
                self.again(|world| {
                    assert_eq!(world.commit(start_ts, *key, *commit_ts), is_committed)
                });
                if arrives && *key == self.clients[*txn].primary() {
                    self.learn(start_ts, if is_committed { *commit_ts } else { 0 });
                    if is_committed {
                        self.send_commits(*txn, *commit_ts, choices);
                    } else {
                        self.give_up(*txn, choices);
                    }
                }
            }
            Message::Rollback { txn, key } => {
                let request = BatchRollbackRequest {
                    start_version: self.clients[*txn].start_ts,
                    keys: vec![KEYS[*key].into()],
                    ..Default::default()
                };
                let send = |world: &Self| {
                    world.runtime.block_on(world.transactions.batch_rollback(request.clone()))
                };
                send(self);
                self.again(|world| drop(send(world)));
            }
            Message::Resolve { start_ts, key, commit_ts } => {
                let request = ResolveLockRequest {
                    start_version: *start_ts,
                    commit_version: *commit_ts,
                    keys: vec![KEYS[*key].into()],
                    ..Default::default()
                };
                let send = |world: &Self| {
                    world.runtime.block_on(world.transactions.resolve_lock(request.clone()))
                };
                send(self);
                self.again(|world| drop(send(world)));
            }
        }
    }

    fn again(&self, send: impl FnOnce(&Self)) {
        let before = self.dump();
        send(self);
        assert_eq!(before, self.dump(), "the same request again changed the records");
    }

    /// Somebody meets a lock and asks what became of its transaction.
    fn resolve(&mut self, number: usize, in_pool: bool, choices: &mut Choices<'_>) -> bool {
        let request = ScanLockRequest { max_version: self.clock, ..Default::default() };
        let locks = self.runtime.block_on(self.transactions.scan_lock(request)).locks;
        if locks.is_empty() {
            return false;
        }
        let lock = &locks[number % locks.len()];
        let start_ts = lock.lock_version;
        let mut status = CheckTxnStatusRequest {
            primary_key: lock.primary_lock.clone(),
            lock_ts: start_ts,
            caller_start_ts: self.clock,
            current_ts: u64::MAX,
            rollback_if_not_exist: true,
            ..Default::default()
        };
        let ask = |world: &Self, status: &CheckTxnStatusRequest| {
            let answer =
                world.runtime.block_on(world.transactions.check_txn_status(status.clone()));
            world.again(|world| {
                drop(world.runtime.block_on(world.transactions.check_txn_status(status.clone())));
            });
            answer
        };
        let mut answer = ask(self, &status);
        if let Some(info) = answer.lock_info.clone() {
            assert!(info.use_async_commit, "no other lock is alive at the end of time");
            let mut min_commit_ts = info.min_commit_ts;
            let request = CheckSecondaryLocksRequest {
                keys: info.secondaries.clone(),
                start_version: start_ts,
                ..Default::default()
            };
            let ask_others = |world: &Self| {
                world.runtime.block_on(world.transactions.check_secondary_locks(request.clone()))
            };
            let others = ask_others(self);
            self.again(|world| drop(ask_others(world)));
            if others.commit_ts > 0 {
                answer.commit_version = others.commit_ts;
            } else if others.locks.len() == info.secondaries.len() {
                for lock in &others.locks {
                    min_commit_ts = min_commit_ts.max(lock.min_commit_ts);
                }
                answer.commit_version = min_commit_ts;
            } else {
                status.force_sync_commit = true;
                answer.commit_version = 0;
            }
        }
        let commit_ts = answer.commit_version;
        self.story.push(format!("somebody met {start_ts} on {:?}: {commit_ts}", lock.key));
        self.clock = self.clock.max(commit_ts);
        self.learn(start_ts, commit_ts);
        for (key, name) in KEYS.iter().enumerate() {
            if locks.iter().any(|lock| lock.lock_version == start_ts && lock.key == *name) {
                let message = Message::Resolve { start_ts, key, commit_ts };
                if in_pool {
                    self.send(message, 1 + choices.below(3));
                } else {
                    self.deliver(&message, true, choices);
                }
            }
        }
        true
    }

    fn resolve_all(&mut self, choices: &mut Choices<'_>) {
        let mut rounds = 0;
        while self.resolve(0, false, choices) {
            rounds += 1;
            assert!(rounds <= TRANSACTIONS_MAX, "a lock stays:\n{}", dump(&self.engine));
        }
    }

    fn get(&self, key: usize, ts: u64) -> Option<Option<Bytes>> {
        let request = GetRequest { key: KEYS[key].into(), version: ts, ..Default::default() };
        let answer = self.runtime.block_on(self.transactions.get(request));
        match answer.error {
            Some(_) => None,
            None => Some((!answer.not_found).then_some(answer.value)),
        }
    }

    /// What the commits in timestamp order say.
    fn expected(&self, key: usize, ts: u64) -> Option<Bytes> {
        let committed = |client: &&Client| {
            let at = self.fates.get(&client.start_ts).copied().unwrap_or(0);
            0 < at && at <= ts && client.writes.contains_key(&key)
        };
        let last = self.clients.iter().filter(committed).max_by_key(|c| self.fates[&c.start_ts])?;
        (!last.writes[&key]).then(|| value_of(last.start_ts))
    }

    /// Old versions go, and with them whatever nobody at or after the safe point needs.
    fn collect_garbage(&self, safe_point: u64) {
        self.transactions.safe_points().adopt(safe_point, safe_point);
        self.engine.raise_safe_point(safe_point).unwrap();
        self.engine.collect_garbage(&proto::KeyRange::all()).unwrap();
    }

    fn check_locked(&self) {
        let fate = |client: &Client| self.fates.get(&client.start_ts).copied().unwrap_or(0);
        for client in &self.clients {
            for (key, locked_at) in &client.locked {
                let between = |other: &&Client| {
                    other.writes.contains_key(key)
                        && (locked_at + 1..fate(client)).contains(&fate(other))
                };
                let other = self.clients.iter().find(between);
                assert!(other.is_none(), "{client:?} had locked what {other:?} wrote");
            }
        }
    }

    fn check_all_reads(&self) {
        self.check_locked();
        for ts in self.engine.safe_point()..=self.clock {
            for (key, name) in KEYS.iter().enumerate() {
                let seen = self.get(key, ts).expect("no lock is left");
                assert_eq!(seen, self.expected(key, ts), "{name} at {ts}");
            }
        }
        for (ts, key, seen) in &self.reads {
            assert_eq!(seen, &self.expected(*key, *ts), "{} was read at {ts}", KEYS[*key]);
        }
    }
}

/// Long enough now and then to lie apart from its record.
fn value_of(start_ts: u64) -> Bytes {
    let len = if start_ts.is_multiple_of(3) { 300 } else { 1 };
    start_ts.to_string().repeat(len).into()
}

/// Plays the story that these bytes tell.
pub(crate) fn play(input: &[u8]) {
    let mut choices = Choices(input.iter());
    let mut world = World::new();
    let in_memory = choices.below(3) > 0;
    if in_memory {
        world.lead();
    }
    while !choices.is_empty() {
        match choices.below(9) {
            7 if in_memory && choices.below(2) == 0 => world.lead(),
            7 if in_memory => world.save(),
            0 if world.clients.len() < TRANSACTIONS_MAX => world.begin(&mut choices),
            1 => {
                let number = choices.below(16);
                world.resolve(number, true, &mut choices);
            }
            2 => {
                let (key, ts) = (choices.below(KEYS.len()), world.now());
                if let Some(seen) = world.get(key, ts) {
                    world.reads.push((ts, key, seen));
                }
            }
            _ if world.pool.is_empty() => {
                if world.clients.len() < TRANSACTIONS_MAX {
                    world.begin(&mut choices);
                }
            }
            _ => {
                let at = choices.below(world.pool.len());
                let (message, times) = &mut world.pool[at];
                let message = message.clone();
                *times -= 1;
                let is_last = *times == 0;
                if is_last {
                    world.pool.swap_remove(at);
                }
                let arrives = is_last || choices.below(3) > 0;
                world.deliver(&message, arrives, &mut choices);
            }
        }
    }
    while let Some((message, _)) = world.pool.pop() {
        world.deliver(&message, true, &mut choices);
    }
    world.resolve_all(&mut choices);
    world.check_all_reads();
    let safe_point = input.len() as u64 * 7 % (world.clock + 1);
    world.story.push(format!("the safe point is {safe_point}"));
    world.collect_garbage(safe_point);
    world.check_all_reads();

    for message in world.sent.clone().into_iter().rev() {
        world.deliver(&message, false, &mut choices);
        world.pool.clear();
    }
    world.resolve_all(&mut choices);
    world.check_all_reads();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn requests_late_doubled_and_out_of_order_change_nothing(
            input in prop::collection::vec(any::<u8>(), 0..250),
        ) {
            super::play(&input);
        }
    }
}
