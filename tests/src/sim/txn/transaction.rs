//! A transaction of a simulated client: what it reads, reserves and buffers before it commits.
//!
//! Everything it reads from the store is noted in the history, as it came.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use kv::keys::Key;
use proto::kvrpcpb::{
    GetRequest, KeyError, Mutation, Op, PessimisticLockKeyResultType, PessimisticLockRequest,
    PessimisticLockWakeUpMode, ScanRequest, TxnHeartBeatRequest,
};
use proto::tikvpb::batch_commands_request::request::Cmd as Command;
use proto::{memcomparable, metapb};

use super::requests::{Over, Tries, expect_answer};
use super::resolver::Standing;
use super::session::Session;
use super::workload::{Value, key_number, user_key, value_bytes, value_of};
use crate::sim::events::{Instant, MILLISECOND, SECOND};
use crate::sim::options::Plant;
use crate::sim::probes::Probe;
use crate::transactions::{Change, Fate, Read, Transaction, Write};

/// A transaction gives up what it does after so long.
const PATIENCE: Instant = 6 * SECOND;

/// How a transaction goes about it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Style {
    pub(super) is_pessimistic: bool,
    /// A pessimistic lock is taken in spite of a newer write.
    pub(super) forces: bool,
    pub(super) is_async: bool,
    pub(super) is_one_phase: bool,
    /// The commit is later than everything that was acknowledged before it was wanted.
    pub(super) is_linear: bool,
    /// Readers may push its commit.
    pub(super) may_be_pushed: bool,
    /// Its lock is kept alive.
    pub(super) has_heartbeat: bool,
}

/// What is known of a transaction under way, for when its client crashes.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) transaction: Transaction<Value>,
    /// From now on it may be committed without its client.
    pub(super) may_be_committed: bool,
}

/// The transaction cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stopped;

impl From<Over> for Stopped {
    fn from(_: Over) -> Self {
        Self
    }
}

/// A key that was reserved.
#[derive(Clone, Debug)]
pub(super) struct Reserved {
    pub(super) since: u64,
    pub(super) value: Option<Value>,
}

/// One transaction.
pub(super) struct Txn {
    pub(super) session: Session,
    pub(super) style: Style,
    pub(super) start_ts: u64,
    pub(super) for_update_ts: u64,
    pub(super) primary: Option<Key>,
    pub(super) reserved: BTreeMap<u64, Reserved>,
    pub(super) buffer: BTreeMap<u64, Change<Value>>,
    pub(super) deadline: Instant,
    /// The client's clock at the beginning.
    began_at: Instant,
    base_ttl_ms: u64,
    /// Transactions whose locks need not be minded.
    passed: BTreeSet<u64>,
    /// Whether its locks are to be kept alive.
    pub(super) is_alive: Rc<Cell<bool>>,
}

impl Txn {
    /// Begins one; `None` when there is no timestamp.
    pub(super) async fn begin(session: &Session, style: Style) -> Option<Self> {
        let deadline = session.now() + PATIENCE;
        let began = session.shared_mut().next_stamp();
        let start_ts = session.timestamp(deadline).await?;
        let mut shared = session.shared_mut();
        let client = shared.ledger.names[session.slot];
        let transaction = Transaction {
            client,
            began,
            ended: u64::MAX,
            start_ts,
            fate: Fate::Unknown,
            reads: Vec::new(),
            writes: Vec::new(),
        };
        shared.open[session.slot] = Some(Open { transaction, may_be_committed: false });
        let base_ttl_ms = shared.ledger.ttl_ms;
        drop(shared);
        Some(Self {
            session: session.clone(),
            style,
            start_ts,
            for_update_ts: 0,
            primary: None,
            reserved: BTreeMap::new(),
            buffer: BTreeMap::new(),
            deadline,
            began_at: session.clock(),
            base_ttl_ms,
            passed: BTreeSet::new(),
            is_alive: Rc::new(Cell::new(true)),
        })
    }

    /// How long its locks are to stand, in milliseconds.
    pub(super) fn ttl_ms(&self) -> u64 {
        self.base_ttl_ms + (self.session.clock() - self.began_at) / MILLISECOND
    }

    fn note(&self, read: Read<Value>) {
        let mut shared = self.session.shared_mut();
        let open = shared.open[self.session.slot].as_mut().expect("it is under way");
        open.transaction.reads.push(read);
    }

    /// The value of a key: one's own, a reserved one, or the snapshot's.
    pub(super) async fn get(&mut self, number: u64) -> Result<Option<Value>, Stopped> {
        match self.buffer.get(&number) {
            Some(Change::Put(value)) => return Ok(Some(value.clone())),
            Some(Change::Delete) => return Ok(None),
            Some(Change::Keep) | None => {}
        }
        let key = Key::new(user_key(number));
        let value = loop {
            let (passed, version) = (self.passed.clone(), self.start_ts);
            let (_, answer) = self
                .session
                .ask(key.encoded(), self.deadline, &mut Tries::default(), |mut context| {
                    context.resolved_locks = passed.iter().copied().collect();
                    let key = key.user().clone();
                    Command::Get(GetRequest {
                        context: Some(context),
                        key,
                        version,
                        ..Default::default()
                    })
                })
                .await?;
            let answer = expect_answer!(answer, Get);
            match answer.error {
                Some(error) => self.make_way(&error, version).await?,
                None => break (!answer.not_found).then(|| value_of(&answer.value)),
            }
        };
        self.note(Read { key: number, value: value.clone(), at: self.start_ts });
        Ok(value)
    }

    /// Everything in a range of keys that is one of these, as of the snapshot. Buffered writes are not seen.
    pub(super) async fn scan(
        &mut self,
        numbers: &[u64],
        lower: Bytes,
        upper: Bytes,
    ) -> Result<BTreeMap<u64, Value>, Stopped> {
        let limit = self.session.within(1..12) as u32;
        let mut found = BTreeMap::new();
        let mut from = lower.clone();
        while from < upper {
            let (passed, version) = (self.passed.clone(), self.start_ts);
            let start = memcomparable::encode(&from);
            let (region, answer) = self
                .session
                .ask(&start, self.deadline, &mut Tries::default(), |mut context| {
                    context.resolved_locks = passed.iter().copied().collect();
                    Command::Scan(ScanRequest {
                        context: Some(context),
                        start_key: from.clone(),
                        end_key: upper.clone(),
                        limit,
                        version,
                        ..Default::default()
                    })
                })
                .await?;
            let answer = expect_answer!(answer, Scan);
            let in_the_way =
                answer.error.or_else(|| answer.pairs.iter().find_map(|pair| pair.error.clone()));
            if let Some(error) = in_the_way {
                self.make_way(&error, version).await?;
                continue;
            }
            for pair in &answer.pairs {
                found.insert(key_number(&pair.key), value_of(&pair.value));
            }
            from = match answer.pairs.last() {
                Some(last) if answer.pairs.len() == limit as usize => {
                    [last.key.as_ref(), &[0]].concat().into()
                }
                Some(_) | None => next_region(&region).unwrap_or_else(|| upper.clone()),
            };
        }
        for number in numbers
            .iter()
            .filter(|number| (lower.clone()..upper.clone()).contains(&user_key(**number)))
        {
            let value = found.get(number).cloned();
            self.note(Read { key: *number, value, at: self.start_ts });
        }
        Ok(found)
    }

    /// A lock stands in the way of a read: it goes, is passed by, or is waited for.
    async fn make_way(&mut self, error: &KeyError, caller_ts: u64) -> Result<(), Stopped> {
        let Some(lock) = &error.locked else { return Err(Stopped) };
        match self.session.resolve(lock, caller_ts, self.deadline).await? {
            Standing::Gone => {}
            Standing::Passed => {
                self.passed.insert(lock.lock_version);
            }
            Standing::Alive => self.session.rest().await,
        }
        if self.session.now() >= self.deadline { Err(Stopped) } else { Ok(()) }
    }

    /// Reserves a key, and says what it holds: in a pessimistic transaction now, in an optimistic one by a
    /// lock at the end.
    pub(super) async fn get_for_update(&mut self, number: u64) -> Result<Option<Value>, Stopped> {
        if !self.style.is_pessimistic {
            let value = self.get(number).await?;
            self.buffer.entry(number).or_insert(Change::Keep);
            return Ok(value);
        }
        if let Some(change) = self.buffer.get(&number) {
            match change {
                Change::Put(value) => return Ok(Some(value.clone())),
                Change::Delete => return Ok(None),
                Change::Keep => {}
            }
        }
        if let Some(reserved) = self.reserved.get(&number) {
            return Ok(reserved.value.clone());
        }
        let key = Key::new(user_key(number));
        let is_first = self.primary.is_none();
        let primary = self.primary.get_or_insert_with(|| key.clone()).clone();
        let reserved = loop {
            let Some(now_ts) = self.session.timestamp(self.deadline).await else {
                return Err(Stopped);
            };
            self.for_update_ts = self.for_update_ts.max(now_ts);
            if let Some(reserved) = self.try_reserve(&key, &primary, is_first).await? {
                break reserved;
            }
        };
        if is_first && self.style.has_heartbeat {
            self.keep_alive(&primary);
        }
        self.for_update_ts = self.for_update_ts.max(reserved.since);
        self.note(Read { key: number, value: reserved.value.clone(), at: reserved.since });
        self.reserved.insert(number, reserved.clone());
        self.buffer.entry(number).or_insert(Change::Keep);
        Ok(reserved.value)
    }

    async fn try_reserve(
        &mut self,
        key: &Key,
        primary: &Key,
        is_first: bool,
    ) -> Result<Option<Reserved>, Stopped> {
        let request = PessimisticLockRequest {
            mutations: vec![Mutation {
                op: Op::PessimisticLock as i32,
                key: key.user().clone(),
                ..Default::default()
            }],
            primary_lock: primary.user().clone(),
            start_version: self.start_ts,
            lock_ttl: self.ttl_ms(),
            for_update_ts: self.for_update_ts,
            is_first_lock: is_first,
            return_values: true,
            wait_timeout: self.session.within(0..400) as i64,
            wake_up_mode: if self.style.forces {
                PessimisticLockWakeUpMode::WakeUpModeForceLock as i32
            } else {
                0
            },
            ..Default::default()
        };
        let (_, answer) = self
            .session
            .ask(key.encoded(), self.deadline, &mut Tries::default(), |context| {
                let request = PessimisticLockRequest { context: Some(context), ..request.clone() };
                Command::PessimisticLock(request)
            })
            .await?;
        let mut answer = expect_answer!(answer, PessimisticLock);
        if let Some(error) = answer.errors.first() {
            if let Some(lock) = &error.locked {
                let standing = self.session.resolve(lock, 0, self.deadline).await?;
                if standing != Standing::Gone {
                    self.session.rest().await;
                }
            } else if error.conflict.is_none() {
                if error.deadlock.is_some() {
                    self.session.saw(Probe::DeadlockFound);
                }
                return Err(Stopped);
            }
            // Somebody was faster: once more, with a newer timestamp.
            return if self.session.now() >= self.deadline { Err(Stopped) } else { Ok(None) };
        }
        if let Some(result) = answer.results.pop() {
            let is_conflict =
                result.r#type() == PessimisticLockKeyResultType::LockResultLockedWithConflict;
            if is_conflict {
                self.session.saw(Probe::LockedWithConflict);
            }
            let since =
                if is_conflict { result.locked_with_conflict_ts } else { self.for_update_ts };
            let value = result.existence.then(|| value_of(&result.value));
            return Ok(Some(Reserved { since, value }));
        }
        let value = (!answer.not_founds[0]).then(|| value_of(&answer.values[0]));
        Ok(Some(Reserved { since: self.for_update_ts, value }))
    }

    /// Writes a value, at the end.
    pub(super) fn put(&mut self, number: u64, value: Value) {
        self.buffer.insert(number, Change::Put(value));
    }

    /// Removes a key, at the end.
    pub(super) fn delete(&mut self, number: u64) {
        self.buffer.insert(number, Change::Delete);
    }

    /// Tells the primary again and again that the transaction is alive, until it is not.
    pub(super) fn keep_alive(&self, primary: &Key) {
        let (session, is_alive) = (self.session.clone(), self.is_alive.clone());
        let (primary, start_version) = (primary.clone(), self.start_ts);
        let (began_at, base_ttl_ms) = (self.began_at, self.base_ttl_ms);
        let task = async move {
            loop {
                session.sleep(base_ttl_ms * MILLISECOND / 3).await;
                if !is_alive.get() {
                    return;
                }
                let advise_lock_ttl = base_ttl_ms + (session.clock() - began_at) / MILLISECOND;
                let deadline = session.now() + base_ttl_ms * MILLISECOND / 3;
                let answer = session
                    .ask(primary.encoded(), deadline, &mut Tries::default(), |context| {
                        Command::TxnHeartBeat(TxnHeartBeatRequest {
                            context: Some(context),
                            primary_lock: primary.user().clone(),
                            start_version,
                            advise_lock_ttl,
                            ..Default::default()
                        })
                    })
                    .await;
                // Not there: rolled back by others, or not locked yet.
                if let Ok((_, answer)) = answer
                    && expect_answer!(answer, TxnHeartBeat).error.is_none()
                {
                    session.saw(Probe::KeptAlive);
                }
            }
        };
        self.session.spawn(task);
    }

    /// What the history is told of its writes; since when each was nobody else's.
    pub(super) fn writes(&self) -> Vec<Write<Value>> {
        let since = |number| match self.reserved.get(number) {
            Some(reserved) => reserved.since,
            None => self.start_ts,
        };
        self.buffer
            .iter()
            .map(|(key, change)| Write { key: *key, change: change.clone(), since: since(key) })
            .collect()
    }

    /// The mutations, in the order of the keys.
    pub(super) fn mutations(&self) -> BTreeMap<Key, Mutation> {
        let mutation = |(number, change): (&u64, &Change<Value>)| {
            let key = Key::new(user_key(*number));
            let (op, value) = match change {
                Change::Put(value) => (Op::Put, value_bytes(value)),
                Change::Delete => (Op::Del, Bytes::new()),
                Change::Keep => (Op::Lock, Bytes::new()),
            };
            let mutation =
                Mutation { op: op as i32, key: key.user().clone(), value, ..Default::default() };
            (key, mutation)
        };
        self.buffer.iter().map(mutation).collect()
    }

    /// Whether this bug is planted in the client.
    pub(super) fn has(&self, plant: Plant) -> bool {
        self.session.shared().ledger.plant == Some(plant)
    }
}

/// Where the keys behind a region begin, as a user names them; `None` behind the last.
pub(super) fn next_region(region: &metapb::Region) -> Option<Bytes> {
    if region.end_key.is_empty() {
        return None;
    }
    // A region may end anywhere; one that ends at no key ends before all that begin with these bytes.
    let user = memcomparable::decode(&region.end_key).map(Bytes::from);
    Some(user.unwrap_or_else(|| region.end_key.clone()))
}
