//! The RPC side of a store: what `kv` does with a request, as small as it can be.
//!
//! A reader looks at the region, takes a snapshot of the engine, and looks again whether it may serve
//! from it: by the leader's lease, or else from a snapshot taken after a read barrier. So a leader that
//! was deposed behind its back either knows by its lease, or gets no barrier.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::{KeyRange, Refusal, metapb};
use raftstore::engine::memory::MemorySnapshot;
use raftstore::engine::{ColumnFamily, Cursor as _, DataEngine as _, Snapshot as _, WriteBatch};
use raftstore::msg::{Now, Reply, ReplyId, StoreMsg, Target};
use raftstore::read_view::{Before, ReadPath, ReadView};

use super::world::{CallId, Event, World};
use crate::sim::node::Local;

/// What is asked of a region.
#[derive(Clone, Debug)]
pub enum Question {
    /// Change these keys.
    Write(WriteBatch),
    /// What is the value?
    Get(ColumnFamily, Bytes),
    /// What is in the default family from a key of the region up to another, as far as the region goes?
    Scan(Bytes, Bytes),
}

/// The good answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The write is applied.
    Done,
    /// The value, if there is one.
    Value(Option<Bytes>),
    /// Values in key order, and the region in which they were found.
    Values(metapb::Region, Vec<Bytes>),
}

/// How a store answers.
pub type Response = Result<Answer, Refusal>;

/// A request on its way to a store.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) call: CallId,
    pub(super) target: Target,
    pub(super) question: Question,
}

/// A snapshot on its way to be looked at.
#[derive(Debug)]
pub(super) struct Look {
    asked: Asked,
    snapshot: MemorySnapshot,
    before: Before,
}

/// Requests under way on a store.
#[derive(Debug, Default)]
pub(super) struct Server {
    replies: u64,
    waiting: BTreeMap<ReplyId, Asked>,
}

impl Server {
    fn wait(&mut self, asked: Asked) -> ReplyId {
        self.replies += 1;
        self.waiting.insert(ReplyId(self.replies), asked);
        ReplyId(self.replies)
    }

    /// The process is gone, and who waited gets no answer.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
    }
}

impl World {
    /// A request arrives. A store that is down does not answer.
    pub(super) fn on_request(&mut self, store: u64, asked: Asked) {
        let node = &self.nodes[&store];
        let Some(views) = node.views() else { return };
        let target = asked.target.clone();
        if let Question::Write(batch) = &asked.question {
            let batch = batch.clone();
            let reply = self.server(store).wait(asked);
            let message = StoreMsg::Write { target, batch, reply };
            return self.at_store(store, Local::Arrives(Box::new(message)));
        }
        let before = views.before_snapshot(target.region_id);
        let look = Look { asked, snapshot: node.data.snapshot(), before };
        let life = node.life();
        let delay = self.dice.within(1..100);
        self.events.after(delay, Event::Look(store, life, Box::new(look)));
    }

    /// May the snapshot that was taken be served?
    pub(super) fn on_look(&mut self, store: u64, life: u64, look: Look) {
        let Look { asked, snapshot, before } = look;
        let node = &self.nodes[&store];
        let Some(views) = node.views().filter(|_| node.life() == life) else { return };
        let target = asked.target.clone();
        match views.check(&before, &target, node.now(self.events.now())) {
            Err(refusal) => self.respond(store, &asked, Err(refusal)),
            Ok((ReadPath::Lease, view)) => {
                let response = read(&snapshot, &view, &asked.question);
                self.respond(store, &asked, response);
            }
            Ok((ReadPath::Barrier, _)) => {
                let reply = self.server(store).wait(asked);
                let message = StoreMsg::ReadBarrier { target, reply };
                self.at_store(store, Local::Arrives(Box::new(message)));
            }
        }
    }

    /// The store answers one of its messages.
    pub(super) fn on_reply(&mut self, store: u64, id: ReplyId, reply: Reply) {
        let Some(asked) = self.server(store).waiting.remove(&id) else { return };
        let response = match (reply, &asked.question) {
            (Err(refusal), _) => Err(refusal),
            (Ok(_), Question::Write(_)) => Ok(Answer::Done),
            (Ok(_), Question::Get(..) | Question::Scan(..)) => self.read_anew(store, &asked),
        };
        self.respond(store, &asked, response);
    }

    /// After the barrier: the region is looked at again, it may have changed while we waited.
    fn read_anew(&self, store: u64, asked: &Asked) -> Response {
        let node = &self.nodes[&store];
        let views = node.views().expect("a process that answers runs");
        let snapshot = node.data.snapshot();
        let before = views.before_snapshot(asked.target.region_id);
        // A lease is not asked for: no moment is before the beginning.
        let (_, view) = views.check(&before, &asked.target, Now(0))?;
        read(&snapshot, &view, &asked.question)
    }

    fn respond(&mut self, store: u64, asked: &Asked, response: Response) {
        let delay = self.outside_delay(store);
        self.events.after(delay, Event::Respond(asked.call, response));
    }

    fn server(&mut self, store: u64) -> &mut Server {
        self.servers.get_mut(&store).expect("a store exists")
    }
}

/// Reads what is asked for, if it lies in the region.
fn read(snapshot: &MemorySnapshot, view: &ReadView, question: &Question) -> Response {
    let outside = |key: &Bytes| Refusal::KeyNotInRegion {
        key: key.clone(),
        region_id: view.region.id,
        start_key: view.region.start_key.clone(),
        end_key: view.region.end_key.clone(),
    };
    match question {
        Question::Write(_) => unreachable!("a write is not read"),
        Question::Get(cf, key) => {
            if !view.range.contains(key) {
                return Err(outside(key));
            }
            Ok(Answer::Value(snapshot.get(*cf, key).expect("memory does not fail")))
        }
        Question::Scan(from, to) => {
            if !view.range.contains(from) {
                return Err(outside(from));
            }
            let wanted = KeyRange { start: from.clone(), end: Some(to.clone()) };
            let range = view.range.intersection(&wanted);
            let mut cursor = snapshot.cursor(ColumnFamily::Default, &range);
            let mut values = Vec::new();
            let mut on_key = cursor.seek_to_first().expect("memory does not fail");
            while on_key {
                values.push(Bytes::copy_from_slice(cursor.value()));
                on_key = cursor.next().expect("memory does not fail");
            }
            Ok(Answer::Values(view.region.clone(), values))
        }
    }
}
