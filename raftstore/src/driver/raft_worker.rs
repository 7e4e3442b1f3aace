//! The round: drain the inbox, step, flush, perform the effects in one fixed order.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::Sender;
use proto::{StoreId, raft_serverpb::RaftMessage};

use super::background_worker::is_sync;
use super::clock::Clock;
use super::inbox::InboxEnd;
use super::observer::Observer;
use super::replies::Replies;
use super::router::Envelope;
use crate::applier::Applier;
use crate::clock_trust::ClockTrust;
use crate::effects::Effects;
use crate::engine::{DataEngine, LogEngine};
use crate::error::Fault;
use crate::msg::{BackgroundTask, StoreMsg};
use crate::store::Store;
use crate::transport::Transport;

/// Messages taken in one round. What is left waits for the next: a round must end for its first
/// message to be answered.
const ROUND_MESSAGES_MAX: usize = 4096;

/// So many ticks in which nothing is due are slept through at most: clocks are compared after each sleep,
/// and what happened in between is not seen.
const TICKS_SLEPT_MAX: u64 = 5;

/// Owns the machines of a store and performs what they ask for.
pub(super) struct RaftWorker<D: DataEngine, L: LogEngine> {
    pub(super) store: Store<D, L>,
    /// Folded into this thread: on two cores a hop to another thread costs more than applying. On more
    /// of them lanes take what is worth a hop.
    pub(super) applier: Applier<D>,
    pub(super) log: L,
    pub(super) inbox: InboxEnd,
    pub(super) background: Sender<BackgroundTask>,
    pub(super) syncs: Sender<BackgroundTask>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) clock: Clock,
    pub(super) clock_trust: ClockTrust,
    pub(super) tick_micros: u64,
    pub(super) replies: Replies,
}

impl<D: DataEngine, L: LogEngine> RaftWorker<D, L> {
    /// Works until told to stop, or until a fault, which it reports. Everybody who still waits is
    /// answered when the worker is dropped.
    pub(super) fn run(mut self, first: Effects) {
        if let Err(fault) = self.work(first) {
            tracing::error!(%fault, "the store stops");
            self.observer.fault(fault);
        }
    }

    fn work(&mut self, first: Effects) -> Result<(), Fault> {
        self.perform_all(first)?;
        let mut ticked_at = self.clock.now();
        loop {
            let mut effects = Effects::default();
            let planned = self.store.ticks_until_due().min(TICKS_SLEPT_MAX);
            let tick_at = ticked_at.plus(planned * self.tick_micros);
            let first = self.inbox.next_until(self.clock.instant_of(tick_at));
            // By its own word the store had nothing to do in the ticks before the one that is due. They
            // come before messages that came after them.
            let since = self.clock.now().since(ticked_at);
            let idle = (since / self.tick_micros).min(planned - 1);
            if idle > 0 {
                let counted = self.judge_clock(idle, since - idle * self.tick_micros);
                for tick in 1..=counted {
                    self.store.tick(ticked_at.plus(tick * self.tick_micros), &mut effects)?;
                }
                ticked_at = ticked_at.plus(idle * self.tick_micros);
            }
            let stopping = self.take_messages(first, &mut effects)?;
            // Messages first: a follower that was kept from its inbox for a while has not therefore
            // missed its leader. For the same reason, and because leases count on a tick being no
            // shorter than it says, ticks that were missed are not made up for.
            let now = self.clock.now();
            if now >= tick_at {
                if self.judge_clock(1, 0) > 0 {
                    self.store.tick(now, &mut effects)?;
                }
                ticked_at = now;
            }
            self.perform_all(effects)?;
            if stopping {
                return Ok(());
            }
        }
    }

    /// Compares the clocks, and lets leaders answer alone or not. Returns how many of these ticks have passed
    /// on both; the last of them was due `late` microseconds ago.
    fn judge_clock(&mut self, wanted: u64, late: u64) -> u64 {
        let verdict = self.clock_trust.judge(self.clock.read(), wanted, late);
        if let Some(doubt) = verdict.doubt {
            tracing::warn!(store = %self.store.id(), %doubt, "for now every read asks a quorum");
        }
        self.store.use_leases(verdict.trusts);
        verdict.ticks
    }

    /// Takes a message and what else is there. Returns whether this was the last round.
    fn take_messages(
        &mut self,
        first: Option<Envelope>,
        effects: &mut Effects,
    ) -> Result<bool, Fault> {
        let mut next = first;
        let now = self.clock.now();
        let mut taken = 0;
        while let Some(envelope) = next {
            let message = match envelope {
                Envelope::Message(message) => message,
                Envelope::Write { target, batch, done } => {
                    let reply = self.replies.wait_for_done(done.undetermined_if_dropped());
                    StoreMsg::Write { target, batch, reply }
                }
                Envelope::ReadBarrier { target, done } => {
                    StoreMsg::ReadBarrier { target, reply: self.replies.wait_for_done(done) }
                }
                Envelope::Split { target, keys, done } => {
                    let done = done.undetermined_if_dropped();
                    let reply = Some(self.replies.wait_for_regions(done));
                    StoreMsg::Split { target, keys, reply }
                }
                Envelope::CheckConsistency { region_id, done } => {
                    let reply = self.replies.wait_for_done(done);
                    StoreMsg::CheckConsistency { region_id, reply }
                }
                Envelope::Stop => return Ok(true),
            };
            self.store.step(message, now, effects)?;
            taken += 1;
            next = if taken < ROUND_MESSAGES_MAX { self.inbox.try_next() } else { None };
        }
        Ok(false)
    }

    /// Performs effects and what follows from them, until nothing does.
    fn perform_all(&mut self, mut effects: Effects) -> Result<(), Fault> {
        loop {
            self.store.flush(self.clock.now(), &mut effects);
            if effects.is_empty() {
                return Ok(());
            }
            effects = self.perform(effects)?;
        }
    }

    /// The one fixed order; [`Effects`] says why. Returns what the store asks for next.
    fn perform(&mut self, effects: Effects) -> Result<Effects, Fault> {
        let mut next = Effects::default();
        self.send(effects.send_now);
        if !effects.log.is_empty() {
            self.log.write(effects.log)?;
        }
        self.send(effects.send_after_persist);
        if !effects.persisted.is_empty() {
            self.store.on_persisted(effects.persisted, self.clock.now(), &mut next)?;
        }
        for snapshot in effects.snapshots {
            self.transport.send_snapshot(snapshot);
        }
        if !effects.apply.is_empty() {
            for applied in self.applier.apply(effects.apply)? {
                self.store.on_applied(applied, self.clock.now(), &mut next)?;
            }
        }
        for task in effects.background {
            let worker = if is_sync(&task) { &self.syncs } else { &self.background };
            // A background worker ends early only at a fault, which stops this one too.
            drop(worker.send(task));
        }
        for report in effects.reports {
            self.observer.report(report);
        }
        for (id, reply) in effects.replies {
            self.replies.answer(id, reply);
        }
        Ok(next)
    }

    /// One call a store: the transport turns it into one message on the stream.
    fn send(&self, messages: Vec<RaftMessage>) {
        let mut by_store: BTreeMap<StoreId, Vec<RaftMessage>> = BTreeMap::new();
        for message in messages {
            let to = message.to_peer.as_ref().map_or(0, |peer| peer.store_id);
            by_store.entry(StoreId(to)).or_default().push(message);
        }
        for (to, messages) in by_store {
            self.transport.send(to, messages);
        }
    }
}
