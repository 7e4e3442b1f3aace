//! The RPC side of a simulated store: what `kv` does with a register request, as small as it can be.
//!
//! A reader takes its snapshot and looks afterwards whether it may serve it; between the two the
//! world goes on. Writers and exchanges hold a latch on their key, so that nothing passes between
//! what an exchange read and what it writes, as long as this store leads in the same term.

use std::collections::{BTreeMap, BTreeSet};

use kv::storage::View;
use proto::{Refusal, RegionId, region};
use raftstore::engine::memory::MemorySnapshot;
use raftstore::engine::{ColumnFamily, DataEngine as _, Snapshot as _, WriteBatch};
use raftstore::msg::{Now, Reply, ReplyId, StoreMsg, Target};
use raftstore::read_view::{Before, ReadPath, ReadViews};

use super::clients::{Request, Response};
use super::events::{Instant, MILLISECOND};
use super::judges::Judges;
use super::node::{Inbound, Local, Node, Out};
use super::options::Plant;
use super::probes::Probe;
use super::txn::Done;
use crate::history::{Call, Outcome};
use crate::workload::{key_bytes, value_bytes, value_number};

/// Requests under way on one store.
#[derive(Debug)]
pub(super) struct Server {
    views: ReadViews,
    replies: u64,
    waiting: BTreeMap<ReplyId, Waiting>,
    latches: BTreeSet<u64>,
}

#[derive(Debug)]
pub(super) enum Waiting {
    /// For a read barrier, asked for in this term; then the register is read anew.
    Barrier(Request, Option<u64>),
    /// For a write; then the client hears this.
    Write(Request, Outcome),
    /// For a read barrier, on behalf of a transactional command, with its first look.
    View(Target, Before, Done<View<MemorySnapshot>>),
    /// For a write of a transactional command.
    Batch(Done<()>),
}

/// A snapshot on its way to be looked at.
#[derive(Debug)]
pub struct Look {
    request: Request,
    snapshot: MemorySnapshot,
    before: Before,
}

impl Server {
    pub(super) fn new(views: ReadViews) -> Self {
        Self { views, replies: 0, waiting: BTreeMap::new(), latches: BTreeSet::new() }
    }

    /// How many wait for the store.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How many keys are latched.
    pub(super) fn latched(&self) -> usize {
        self.latches.len()
    }

    /// What the store shows of its regions.
    pub(super) fn views(&self) -> &ReadViews {
        &self.views
    }

    /// The number under which the store answers.
    pub(super) fn wait(&mut self, waiting: Waiting) -> ReplyId {
        self.replies += 1;
        self.waiting.insert(ReplyId(self.replies), waiting);
        ReplyId(self.replies)
    }
}

fn target_of(request: &Request) -> Target {
    Target {
        region_id: RegionId(request.region.id),
        epoch: region::epoch(&request.region),
        replica_read: request.replica_read,
        ..Target::default()
    }
}

fn read(snapshot: &MemorySnapshot, key: u64) -> Option<u64> {
    let value = snapshot.get(ColumnFamily::Default, &key_bytes(key));
    value.expect("memory does not fail").map(|bytes| value_number(&bytes))
}

impl Node {
    pub(super) fn on_request(&mut self, request: Request, outs: &mut Vec<Out>) {
        if request.call != Call::Read && !self.process().server.latches.insert(request.key) {
            let refusal = Refusal::ServerIsBusy { reason: "latch".into(), backoff_ms: 0 };
            return respond(&request, Err(refusal), outs);
        }
        match request.call {
            Call::Read | Call::CompareAndSet(..) => self.take_snapshot(request, outs),
            Call::Write(value) => self.propose(request, Some(value), None, outs),
            Call::Delete => self.propose(request, None, None, outs),
        }
    }

    fn take_snapshot(&mut self, request: Request, outs: &mut Vec<Out>) {
        let region_id = RegionId(request.region.id);
        let before = self.process().server.views.before_snapshot(region_id);
        let snapshot = self.data.snapshot();
        // A task between two steps may be kept waiting for as long as the machine likes.
        let slow = self.plant() == Some(Plant::SnapshotBeforeLeadership) || self.dice().happens(20);
        let delay = if slow {
            self.dice().within(0..1_500 * MILLISECOND)
        } else {
            self.dice().within(1..100)
        };
        outs.push(Out::After(delay, Local::Look(Box::new(Look { request, snapshot, before }))));
    }

    pub(super) fn on_look(
        &mut self,
        look: Look,
        instant: Instant,
        judges: &mut Judges,
        outs: &mut Vec<Out>,
    ) {
        let Look { request, snapshot, mut before } = look;
        let now = self.now(instant);
        let target = target_of(&request);
        if self.plant() == Some(Plant::SnapshotBeforeLeadership) {
            before = self.process().server.views.before_snapshot(target.region_id);
        }
        let (path, view) = match self.process().server.views.check(&before, &target, now) {
            Ok(checked) => checked,
            Err(refusal) => return self.end(&request, Err(refusal), outs),
        };
        let term = before.term();
        judges.saw(match path {
            ReadPath::Lease => Probe::LeaseRead,
            ReadPath::Barrier if target.replica_read => Probe::ReplicaRead,
            ReadPath::Barrier if view.holds_lease(now) => Probe::SnapshotTooEarly,
            ReadPath::Barrier => Probe::LeaseRefused,
        });
        match path {
            ReadPath::Lease => self.has_read(request, &snapshot, term, outs),
            ReadPath::Barrier => {
                let process = self.process();
                let reply = process.server.wait(Waiting::Barrier(request, term));
                process.inbox.push_back(Inbound::Message(StoreMsg::ReadBarrier { target, reply }));
                self.wake(outs);
            }
        }
    }

    /// The value is known; an exchange must not outlive the term before which it was read.
    fn has_read(
        &mut self,
        request: Request,
        snapshot: &MemorySnapshot,
        term: Option<u64>,
        outs: &mut Vec<Out>,
    ) {
        let value = read(snapshot, request.key);
        match request.call {
            Call::CompareAndSet(old, new) if old == value => {
                self.propose(request, Some(new), term, outs);
            }
            Call::CompareAndSet(..) => self.end(&request, Ok(Outcome::Differed(value)), outs),
            Call::Read | Call::Write(_) | Call::Delete => {
                self.end(&request, Ok(Outcome::Read(value)), outs);
            }
        }
    }

    fn propose(
        &mut self,
        request: Request,
        value: Option<u64>,
        term: Option<u64>,
        outs: &mut Vec<Out>,
    ) {
        let mut batch = WriteBatch::new();
        match value {
            Some(value) => {
                batch.put(ColumnFamily::Default, key_bytes(request.key), value_bytes(value));
            }
            None => batch.delete(ColumnFamily::Default, key_bytes(request.key)),
        }
        let target = Target { term, ..target_of(&request) };
        let process = self.process();
        let reply = process.server.wait(Waiting::Write(request, Outcome::Done));
        process.inbox.push_back(Inbound::Message(StoreMsg::Write { target, batch, reply }));
        self.wake(outs);
    }

    pub(super) fn on_reply(
        &mut self,
        id: ReplyId,
        reply: Reply,
        judges: &mut Judges,
        outs: &mut Vec<Out>,
    ) {
        let Some(waiting) = self.process().server.waiting.remove(&id) else {
            if id.0 <= self.process().server.replies {
                judges.fail(format!("s{} answers {id:?} twice", self.id));
            }
            // Not a register request's.
            return outs.push(Out::Reply(id, reply));
        };
        match (waiting, reply) {
            (Waiting::Barrier(request, _) | Waiting::Write(request, _), Err(refusal)) => {
                self.end(&request, Err(refusal), outs);
            }
            (Waiting::View(_, _, done), Err(refusal)) => self.answer_task(done, Err(refusal)),
            (Waiting::View(target, before, done), Ok(_)) => {
                self.on_barrier_passed(&target, &before, done);
            }
            (Waiting::Batch(done), answer) => self.answer_task(done, answer.map(|_| ())),
            (Waiting::Write(request, outcome), Ok(_)) => self.end(&request, Ok(outcome), outs),
            (Waiting::Barrier(request, term), Ok(_)) => {
                // The epoch is looked at again: the register may have moved while we waited.
                let snapshot = self.data.snapshot();
                let views = &self.process().server.views;
                let target = target_of(&request);
                let before = views.before_snapshot(target.region_id);
                match views.check(&before, &target, Now(0)) {
                    Ok(_) => self.has_read(request, &snapshot, term, outs),
                    Err(refusal) => self.end(&request, Err(refusal), outs),
                }
            }
        }
    }

    fn end(&mut self, request: &Request, result: Result<Outcome, Refusal>, outs: &mut Vec<Out>) {
        if request.call != Call::Read {
            self.process().server.latches.remove(&request.key);
        }
        respond(request, result, outs);
    }
}

fn respond(request: &Request, result: Result<Outcome, Refusal>, outs: &mut Vec<Out>) {
    outs.push(Out::Respond(Response { slot: request.slot, attempt: request.attempt, result }));
}
