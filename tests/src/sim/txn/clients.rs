//! All transactional clients of a run, the source of timestamps, and what the judges know of both.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Waker};

use kv::keys::Key;
use kv::txn::record::{Lock, Write, WriteKind};
use proto::KeyRange;
use raftstore::engine::memory::MemoryData;
use raftstore::engine::{ColumnFamily, Cursor as _, DataEngine as _, Snapshot as _};

use super::oracle::Oracle;
use super::session::{Arrival, Session, Shared, Task, Wish};
use super::transaction::Txn;
use super::workload::{self, Ledger, Value};
use crate::checkers::timestamps::Timestamps;
use crate::checkers::txn_records::{Record, Recorded, TxnRecords};
use crate::checkers::{list_append, snapshot_isolation};
use crate::sim::dice::Dice;
use crate::sim::events::{Instant, MILLISECOND, SECOND};
use crate::sim::options::{Plant, Transacting};
use crate::sim::probes::Probe;
use crate::sim::region_map::RegionMap;
use crate::transactions::{Fate, Transaction};

/// Keys that the last readers read in one transaction.
const LAST_LOOK_KEYS: usize = 40;

/// Bytes of a version behind a key.
const VERSION_BYTES: usize = 8;

/// The clients.
pub(in crate::sim) struct TxnClients {
    shared: Rc<RefCell<Shared>>,
    /// By client: what it is doing.
    tasks: Vec<Vec<Task>>,
    clock_rates: Vec<u64>,
    think: Instant,
    pub(super) oracle: Oracle,
    pub(super) timestamps: Timestamps,
    records: TxnRecords,
}

impl TxnClients {
    pub(in crate::sim) fn new(dice: &Dice, options: &Transacting, plant: Option<Plant>) -> Self {
        let count = options.clients as usize;
        let ledger = Ledger::new(dice.stream("styles"), count, options.workloads.clone(), plant);
        let shared = Shared::new(dice.stream("transactions"), count, ledger);
        let mut clocks = dice.stream("client clocks");
        Self {
            shared: Rc::new(RefCell::new(shared)),
            tasks: (0..count).map(|_| Vec::new()).collect(),
            clock_rates: (0..count).map(|_| clocks.within(500..2_000)).collect(),
            think: options.think,
            oracle: Oracle::new(dice.stream("oracle"), plant),
            timestamps: Timestamps::default(),
            records: TxnRecords::default(),
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.tasks.len()
    }

    /// How many transactions are committed, for all that their clients know.
    pub(in crate::sim) fn done(&self) -> u64 {
        self.shared.borrow().ledger.done()
    }

    /// How many transactions there were.
    pub(in crate::sim) fn begun(&self) -> u64 {
        self.shared.borrow().ledger.history.len() as u64
    }

    /// Told of the cluster.
    pub(in crate::sim) fn learn(&self, what: impl FnOnce(&mut RegionMap)) {
        what(&mut self.shared.borrow_mut().map);
    }

    fn session(&self, slot: usize) -> Session {
        Session::new(self.shared.clone(), slot, self.clock_rates[slot])
    }

    /// A client begins to live.
    pub(super) fn come(&mut self, slot: usize, opens_bank: bool, now: Instant) {
        let (session, think) = (self.session(slot), self.think);
        let task = async move {
            while opens_bank && !workload::open_bank(&session).await {
                session.rest().await;
            }
            loop {
                let pause = session.shared_mut().dice.delay(think);
                session.sleep(pause).await;
                if !session.shared().is_restless {
                    return;
                }
                workload::run_one(&session).await;
            }
        };
        self.tasks[slot].push(Box::pin(task));
        self.poll(slot, now);
    }

    /// A client is gone in the middle of what it did.
    pub(super) fn crash(&mut self, slot: usize) {
        if self.tasks[slot].is_empty() {
            return;
        }
        // Dropped without a borrow of what they share.
        drop(std::mem::take(&mut self.tasks[slot]));
        let mut shared = self.shared.borrow_mut();
        shared.spawned.retain(|(whose, _)| *whose != slot);
        let stamp = shared.next_stamp();
        if let Some(open) = shared.open[slot].take() {
            let mut transaction = open.transaction;
            if open.may_be_committed {
                shared.probes.push(Probe::ClientCrashedCommitting);
            } else {
                (transaction.fate, transaction.ended) = (Fate::Aborted, stamp);
            }
            shared.ledger.close(transaction);
        }
        shared.ledger.rename(slot);
    }

    /// Something comes to whoever waits for it.
    pub(super) fn arrive(&mut self, id: u64, arrival: Arrival, now: Instant) {
        let whose = self.shared.borrow_mut().arrive(id, arrival);
        if let Some(slot) = whose {
            self.poll(slot, now);
        }
    }

    fn poll(&mut self, slot: usize, now: Instant) {
        self.shared.borrow_mut().now = now;
        let mut context = Context::from_waker(Waker::noop());
        let mut tasks = std::mem::take(&mut self.tasks[slot]);
        loop {
            tasks.retain_mut(|task| task.as_mut().poll(&mut context).is_pending());
            let spawned = std::mem::take(&mut self.shared.borrow_mut().spawned);
            if spawned.is_empty() {
                break;
            }
            // A task spawns for its own client; it runs for the first time in the next turn.
            tasks.extend(spawned.into_iter().map(|(_, task)| task));
        }
        self.tasks[slot] = tasks;
    }

    /// What the clients want of the world.
    pub(super) fn take_wishes(&self) -> Vec<Wish> {
        std::mem::take(&mut self.shared.borrow_mut().wishes)
    }

    /// The rare things that they saw.
    pub(super) fn take_probes(&self) -> Vec<Probe> {
        std::mem::take(&mut self.shared.borrow_mut().probes)
    }

    /// Nobody begins anything any more.
    pub(in crate::sim) fn calm_down(&self) {
        self.shared.borrow_mut().is_restless = false;
    }

    /// How many clients are still at something.
    pub(super) fn busy(&self) -> usize {
        self.tasks.iter().filter(|tasks| !tasks.is_empty()).count()
    }

    /// The last client looks after every lock that is left, and reads every key.
    pub(super) fn look_at_all(&mut self, now: Instant) {
        let session = self.session(0);
        let task = async move {
            session.resolve_all().await;
            let keys = session.shared().ledger.keys();
            for keys in keys.chunks(LAST_LOOK_KEYS) {
                let Some(mut txn) = Txn::begin(&session, Default::default()).await else { return };
                for key in keys {
                    // What stops a reader here is found by whoever looks whether all was read.
                    if txn.get(*key).await.is_err() {
                        break;
                    }
                }
                txn.commit().await;
            }
        };
        self.tasks[0].push(Box::pin(task));
        self.poll(0, now);
    }

    /// Looks at the records on a disk; says how many locks are left.
    pub(super) fn sweep(&mut self, data: &MemoryData) -> Result<usize, String> {
        let snapshot = data.snapshot();
        let mut locks = std::collections::BTreeMap::new();
        let mut cursor = snapshot.cursor(ColumnFamily::Lock, &KeyRange::all());
        let mut on_key = cursor.seek_to_first().expect("memory does not fail");
        while on_key {
            let key = Key::from_encoded(cursor.key()).expect("locks lie on transactional keys");
            let lock = Lock::decode(cursor.value(), &key).map_err(|fault| fault.to_string())?;
            locks.insert(key, lock);
            on_key = cursor.next().expect("memory does not fail");
        }
        let mut records: std::collections::BTreeMap<Key, Vec<Record>> =
            locks.keys().map(|key| (key.clone(), Vec::new())).collect();
        let mut cursor = snapshot.cursor(ColumnFamily::Write, &KeyRange::all());
        let mut on_key = cursor.seek_to_first().expect("memory does not fail");
        while on_key {
            let bytes = cursor.key();
            let encoded = &bytes[..bytes.len() - VERSION_BYTES];
            let key = Key::from_encoded(encoded).expect("records lie on transactional keys");
            let commit_ts = key.version_in(bytes).expect("it has a version");
            let write = Write::decode(cursor.value(), &key).map_err(|fault| fault.to_string())?;
            let says = match write.kind {
                WriteKind::Rollback => Recorded::RolledBack,
                WriteKind::Put | WriteKind::Delete | WriteKind::Lock => {
                    Recorded::Committed(commit_ts)
                }
            };
            let of_key = records.entry(key).or_default();
            of_key.push(Record { start_ts: write.start_ts, says });
            if write.overlapped_rollback {
                of_key.push(Record { start_ts: commit_ts, says: Recorded::RolledBack });
            }
            on_key = cursor.next().expect("memory does not fail");
        }
        for (key, records) in &records {
            // A reservation in spite of a conflict may come after its transaction's end.
            let lock = locks.get(key).filter(|lock| !lock.locked_with_conflict);
            self.records.key(&key.to_string(), lock.map(|lock| lock.start_ts), records)?;
        }
        Ok(locks.len())
    }

    /// Everything has come to rest: judges the history.
    pub(super) fn judge(&mut self) -> Result<(), String> {
        let shared = self.shared.borrow();
        let lists = shared.ledger.list_history();
        let mut history = shared.ledger.history.clone();
        for transaction in &mut history {
            self.settle(transaction)?;
        }
        self.everything_was_read(&history, &shared.ledger.keys())?;
        list_append::check_snapshot_isolation(&lists)?;
        workload::check(&history)?;
        snapshot_isolation::check(&history)
    }

    /// The records know what became of a transaction, and must agree with what its client was told.
    fn settle(&self, transaction: &mut Transaction<Value>) -> Result<(), String> {
        let recorded = self.records.fate(transaction.start_ts);
        match (transaction.fate, recorded) {
            (Fate::Unknown, Some(Recorded::Committed(commit_ts))) => {
                transaction.fate = Fate::Committed(commit_ts);
            }
            (Fate::Unknown, _) => transaction.fate = Fate::Aborted,
            (Fate::Committed(_), _) if transaction.writes.is_empty() => {}
            (Fate::Committed(told), Some(Recorded::Committed(at))) if told == at => {}
            (Fate::Aborted, None | Some(Recorded::RolledBack)) => {}
            (Fate::Committed(_) | Fate::Aborted, _) => {
                return Err(format!("recorded as {recorded:?}, told was {transaction}"));
            }
        }
        Ok(())
    }

    /// The last readers have read every key.
    fn everything_was_read(
        &self,
        history: &[Transaction<Value>],
        keys: &[u64],
    ) -> Result<(), String> {
        let last = history.iter().rev().take(keys.len().div_ceil(LAST_LOOK_KEYS));
        let read: usize = last.map(|transaction| transaction.reads.len()).sum();
        if read < keys.len() {
            return Err(format!("of {} keys the healed cluster answers {read}", keys.len()));
        }
        Ok(())
    }

    /// How many timestamps were handed out, and how many transactions left records.
    pub(in crate::sim) fn counts(&self) -> (u64, usize) {
        (self.timestamps.count(), self.records.count())
    }
}

/// How long the last client has to look after all locks and read all keys.
pub(super) const LAST_LOOK: Instant = 60 * SECOND;

/// A client that crashed comes back after so long.
pub(super) const AWAY: std::ops::Range<Instant> = 10 * MILLISECOND..2 * SECOND;
