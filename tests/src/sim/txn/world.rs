//! Transactions in the world: what carries their requests and answers, who crashes, and how it ends.

use proto::Timestamp;
use proto::tikvpb::batch_commands_response::response::Cmd as Answer;

use super::clients::{AWAY, Collecting, LAST_LOOK, TxnClients};
use super::oracle::{self, Asker};
use super::server::TxnCall;
use super::session::{Arrival, Wish};
use crate::sim::dice::mix;
use crate::sim::events::{Instant, MILLISECOND, SECOND};
use crate::sim::mail::OUTSIDE;
use crate::sim::node::Local;
use crate::sim::probes::Probe;
use crate::sim::world::{Event, World};

/// How often the records on the disks are looked at.
const SWEEP_EVERY: Instant = 400 * MILLISECOND;

/// How often some client crashes, usually.
const CRASH_EVERY: Instant = SECOND;

/// How often the scheduler changes its leader, usually, and for how long at most nobody leads.
const ORACLE_MOVES_EVERY: Instant = 3 * SECOND;
const ORACLE_AWAY_MAX: Instant = 1_500 * MILLISECOND;

/// Usual pause between two collections of garbage, and between two looks at one.
const COLLECT_EVERY: Instant = SECOND;
const LOOK_AGAIN: Instant = 200 * MILLISECOND;
/// How long a store takes to hear of a safe point.
const TELL_USUAL: Instant = 50 * MILLISECOND;

/// Something that happens to transactional clients or the source of timestamps.
#[derive(Debug)]
pub(in crate::sim) enum TxnEvent {
    /// Something comes to the wait with this number.
    Arrive(u64, Arrival),
    /// A client begins to live.
    Come(usize),
    /// Some client crashes.
    Crash,
    /// A question comes to the source of timestamps.
    Ask(Asker),
    /// A bound is durable, under this leadership.
    Saved(u64, u64),
    /// The scheduler changes its leader.
    OracleMoves,
    /// The records are looked at.
    Sweep,
    /// Garbage is to be collected, or it is looked how far that has come.
    Collect,
}

impl TxnEvent {
    /// What must repeat.
    pub(in crate::sim) fn digest(&self) -> u64 {
        match self {
            Self::Arrive(id, arrival) => {
                let what = match arrival {
                    Arrival::Answer(_) => 1,
                    Arrival::Timestamp(timestamp) => *timestamp,
                    Arrival::Over => 2,
                };
                mix(*id) ^ what
            }
            Self::Come(slot) => mix(3 ^ (*slot as u64) << 8),
            Self::Crash => 4,
            Self::Ask(asker) => mix(5 ^ asker.id << 8),
            Self::Saved(_, bound_ms) => mix(6 ^ bound_ms << 8),
            Self::OracleMoves => 7,
            Self::Sweep => 8,
            Self::Collect => 9,
        }
    }
}

impl World {
    /// The clients begin.
    pub(in crate::sim) fn begin_transactions(&mut self) {
        let Some(txn) = &self.txn else { return };
        if txn.life.is_some() {
            self.judges.compare_data(false);
        }
        for slot in 0..txn.count() {
            let delay = self.dice.within(0..SECOND);
            self.events.after(delay, Event::Txn(TxnEvent::Come(slot)));
        }
        for (usual, event) in [
            (CRASH_EVERY, TxnEvent::Crash),
            (ORACLE_MOVES_EVERY, TxnEvent::OracleMoves),
            (SWEEP_EVERY, TxnEvent::Sweep),
            (COLLECT_EVERY, TxnEvent::Collect),
        ] {
            self.events.after(usual, Event::Txn(event));
        }
    }

    pub(in crate::sim) fn on_txn(&mut self, event: TxnEvent) {
        let now = self.events.now();
        let Some(mut txn) = self.txn.take() else { return };
        match event {
            TxnEvent::Arrive(id, arrival) => txn.arrive(id, arrival, now),
            TxnEvent::Come(slot) => {
                if self.is_restless {
                    // The first to live opens the bank, once.
                    let opens_bank = slot == 0 && txn.begun() == 0;
                    txn.come(slot, opens_bank, now);
                }
            }
            TxnEvent::Crash => {
                if self.is_restless {
                    // The first client stays until the bank is open.
                    let first = u64::from(txn.done() == 0);
                    let slot = self.dice.within(first..txn.count() as u64) as usize;
                    if txn.crash(slot) {
                        let away = self.dice.within(AWAY);
                        self.events.after(away, Event::Txn(TxnEvent::Come(slot)));
                    }
                    let next = self.dice.delay(CRASH_EVERY);
                    self.events.after(next, Event::Txn(TxnEvent::Crash));
                }
            }
            TxnEvent::Ask(asker) => {
                let wishes = txn.oracle.ask(asker, now);
                self.grant_oracle(&mut txn.timestamps, wishes);
            }
            TxnEvent::Saved(leadership, bound_ms) => {
                let wishes = txn.oracle.saved(leadership, bound_ms, now);
                self.grant_oracle(&mut txn.timestamps, wishes);
            }
            TxnEvent::OracleMoves => {
                if self.is_restless {
                    let pause = self.dice.within(0..ORACLE_AWAY_MAX);
                    txn.oracle.change_leader(now, pause);
                    self.judges.saw(Probe::OracleMoved);
                    let next = self.dice.delay(ORACLE_MOVES_EVERY);
                    self.events.after(next, Event::Txn(TxnEvent::OracleMoves));
                }
            }
            TxnEvent::Collect => {
                if self.is_restless && txn.life.is_some() {
                    let pause = self.collect(&mut txn);
                    self.events.after(pause, Event::Txn(TxnEvent::Collect));
                }
            }
            TxnEvent::Sweep => {
                self.sweep_all(&mut txn);
                self.events.after(SWEEP_EVERY, Event::Txn(TxnEvent::Sweep));
            }
        }
        for probe in txn.take_probes() {
            self.judges.saw(probe);
        }
        let floor = txn.timestamps.asks();
        for wish in txn.take_wishes() {
            match wish {
                Wish::Send(id, store, command) => {
                    let Some(delay) = self.network.arrivals(OUTSIDE, store).first().copied() else {
                        continue;
                    };
                    let call = TxnCall { id, command: *command };
                    let local = Local::TxnCall(Box::new(call));
                    self.events.after(delay, Event::At(store, None, local));
                }
                Wish::Ask(id) => self.ask_oracle(Asker { store: None, id, floor }),
                Wish::Over(id, delay) => {
                    let over = TxnEvent::Arrive(id, Arrival::Over);
                    self.events.after(delay, Event::Txn(over));
                }
            }
        }
        self.txn = Some(txn);
    }

    fn sweep_all(&mut self, txn: &mut TxnClients) {
        for node in self.nodes.values() {
            if let Err(what) = txn.sweep(&node.data) {
                self.judges.fail(what);
            }
        }
    }

    /// The next step of a collection, if it is due: all stores hear of the safe point, then the locks before
    /// it go, then the garbage. Says when to look again.
    fn collect(&mut self, txn: &mut TxnClients) -> Instant {
        let life = txn.life.expect("looked at before");
        let Some(collecting) = txn.collecting else {
            let newest = Timestamp(txn.timestamps.asks()).physical();
            let safe_point = Timestamp::new(newest.saturating_sub(life / MILLISECOND), 0).0;
            txn.collecting = Some(Collecting { safe_point, is_heard: false });
            self.tell_safe_points(safe_point, 0);
            return LOOK_AGAIN;
        };
        let Collecting { safe_point, is_heard } = collecting;
        if !is_heard {
            if self.nodes.values().all(|node| node.has_heard(safe_point)) {
                txn.collecting = Some(Collecting { safe_point, is_heard: true });
                txn.collect(safe_point, self.events.now());
            } else {
                // Who was not there, or stood still, is told again.
                self.tell_safe_points(safe_point, 0);
            }
            return LOOK_AGAIN;
        }
        match txn.collected() {
            (resolved_before, _) if resolved_before >= safe_point => {
                // The last look at what is about to go.
                self.sweep_all(txn);
                txn.records.forget(safe_point);
                self.tell_safe_points(safe_point, safe_point);
                self.judges.saw(Probe::GarbageCollected);
                txn.collecting = None;
                self.dice.delay(COLLECT_EVERY)
            }
            (_, true) => LOOK_AGAIN,
            // Not all locks could be looked after: once more.
            (_, false) => {
                txn.collect(safe_point, self.events.now());
                LOOK_AGAIN
            }
        }
    }

    fn tell_safe_points(&mut self, txn_safe_point: u64, gc_safe_point: u64) {
        for store in self.stores() {
            let node = self.nodes.get_mut(&store).expect("a store exists");
            let (known_txn, known_gc) = node.safe_points;
            node.safe_points = (known_txn.max(txn_safe_point), known_gc.max(gc_safe_point));
            let delay = self.dice.delay(TELL_USUAL);
            let local = Local::SafePoints(txn_safe_point, gc_safe_point);
            self.events.after(delay, Event::At(store, None, local));
        }
    }

    /// A store asks for a timestamp.
    pub(in crate::sim) fn store_asks_oracle(&mut self, store: u64, id: u64) {
        let Some(txn) = &self.txn else { return };
        let life = self.nodes[&store].life();
        self.ask_oracle(Asker { store: Some((store, life)), id, floor: txn.timestamps.asks() });
    }

    fn ask_oracle(&mut self, asker: Asker) {
        let from = asker.store.map_or(OUTSIDE, |(store, _)| store);
        if let Some(delay) = self.network.arrivals(from, OUTSIDE).first() {
            self.events.after(*delay, Event::Txn(TxnEvent::Ask(asker)));
        }
    }

    fn grant_oracle(
        &mut self,
        timestamps: &mut crate::checkers::timestamps::Timestamps,
        wishes: Vec<oracle::Wish>,
    ) {
        for wish in wishes {
            match wish {
                oracle::Wish::Save(delay, leadership, bound_ms) => {
                    let event = TxnEvent::Saved(leadership, bound_ms);
                    self.events.after(delay, Event::Txn(event));
                }
                oracle::Wish::Answer(asker, timestamp) => {
                    if let Err(what) = timestamps.answered(asker.floor, timestamp) {
                        self.judges.fail(what);
                    }
                    let to = asker.store.map_or(OUTSIDE, |(store, _)| store);
                    let Some(delay) = self.network.arrivals(OUTSIDE, to).first().copied() else {
                        continue;
                    };
                    let event = match asker.store {
                        Some((store, life)) => {
                            Event::At(store, Some(life), Local::Timestamp(asker.id, timestamp))
                        }
                        None => {
                            let arrival = Arrival::Timestamp(timestamp);
                            Event::Txn(TxnEvent::Arrive(asker.id, arrival))
                        }
                    };
                    self.events.after(delay, event);
                }
            }
        }
    }

    /// A store answers a client.
    pub(in crate::sim) fn carry_answer(&mut self, store: u64, id: u64, answer: Box<Answer>) {
        if let Some(delay) = self.network.arrivals(store, OUTSIDE).first() {
            let event = TxnEvent::Arrive(id, Arrival::Answer(answer));
            self.events.after(*delay, Event::Txn(event));
        }
    }

    /// The cluster is healed: every client comes to an end, every lock goes, every key is read.
    pub(in crate::sim) fn end_transactions(&mut self) {
        let Some(txn) = &self.txn else { return };
        if txn.busy() > 0 {
            // Some read hundreds of keys, one after the other.
            let patience = self.events.now() + LAST_LOOK;
            self.go_on_while_busy(patience);
        }
        let busy = self.txn.as_ref().map_or(0, TxnClients::busy);
        if busy > 0 {
            return self.judges.fail(format!("{busy} transactional clients do not come to an end"));
        }
        let now = self.events.now();
        let mut txn = self.txn.take().expect("looked at above");
        txn.look_at_all(now);
        self.txn = Some(txn);
        self.go_on_while_busy(now + LAST_LOOK);
    }

    fn go_on_while_busy(&mut self, end: Instant) {
        while self.txn.as_ref().is_some_and(|txn| txn.busy() > 0)
            && self.judges.violation().is_none()
            && self.events.now() < end
        {
            // The first wishes are granted with the next event.
            self.on_txn(TxnEvent::Arrive(0, Arrival::Over));
            self.go_on_until(self.events.now() + 50 * MILLISECOND);
        }
    }

    /// What some replicas have removed as garbage all remove, so that they can be compared.
    pub(in crate::sim) fn collect_all_garbage(&mut self) {
        if self.txn.as_ref().is_none_or(|txn| txn.life.is_none()) {
            return;
        }
        let newest = self.nodes.values().map(|node| node.safe_points.1).max().unwrap_or(0);
        for node in self.nodes.values_mut().filter(|node| node.is_up()) {
            node.on_safe_points(newest, newest);
        }
        self.judges.compare_data(true);
    }

    /// All replicas are equal: nothing is left over, and the history is judged.
    pub(in crate::sim) fn judge_transactions(&mut self) {
        let Some(mut txn) = self.txn.take() else { return };
        for (store, node) in &self.nodes {
            match txn.sweep(&node.data) {
                Err(what) => self.judges.fail(what),
                // A learner or a peer on its way out may be behind.
                Ok(locks) if locks > 0 && self.holds_voters_only(*store) => {
                    self.judges.fail(format!("{locks} locks are left on s{store}"));
                }
                Ok(_) => {}
            }
        }
        if self.judges.violation().is_none()
            && let Err(what) = txn.judge()
        {
            self.judges.fail(what);
        }
        self.txn = Some(txn);
    }

    fn holds_voters_only(&self, store: u64) -> bool {
        let mut peers = self.overseer.regions().flat_map(|(region, _)| &region.peers);
        peers.all(|peer| peer.store_id != store || !proto::region::is_learner(peer))
    }
}
