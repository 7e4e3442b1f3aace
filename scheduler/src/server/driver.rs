//! The member's thread: drain the inbox, step, and perform rounds until nothing is left to do.
//!
//! One round: *send what needs no disk, write the log, send what promised it, apply, answer.* What
//! the leader's followers write to their disks goes on while ours is written. Nothing here waits
//! to gather a batch; whatever came in the meantime is the batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use proto::schedulerpb::Change;
use raftstore::engine::LogEngine;
use raftstore::error::Fault;
use raftstore::msg::{Now, ReplyId};
use tokio::sync::oneshot;

use super::links::Links;
use super::node::{Node, REMOVED, Said};
use super::serving::Serving;
use crate::member::{Effects, Member, Outcome};

/// Messages taken from the inbox before a round; the rest waits for the next.
const DRAIN_MESSAGES_MAX: usize = 4_096;
/// Ticks a stopping leader waits for its successor.
const HAND_OVER_TICKS: u64 = 10;

/// The thread's belongings.
pub(super) struct Driver<L: LogEngine> {
    pub(super) node: Arc<Node>,
    pub(super) member: Member<L>,
    pub(super) log: L,
    pub(super) links: Arc<Links>,
    pub(super) inbox: Receiver<Said>,
    pub(super) tick_us: u64,
}

/// Whether to go on.
enum Stopping {
    No,
    HandingOver { until_tick: u64 },
    Now,
}

struct Run<L: LogEngine> {
    driver: Driver<L>,
    waiting: BTreeMap<ReplyId, oneshot::Sender<Outcome>>,
    replies: u64,
    ticks: u64,
    stopping: Stopping,
    serving: Option<Arc<Serving>>,
    is_published: bool,
    /// Whether the others have removed this member.
    is_removed: bool,
}

impl<L: LogEngine> Driver<L> {
    /// Runs until told to stop, or until the disk fails.
    pub(super) fn run(self) {
        let mut run = Run {
            driver: self,
            waiting: BTreeMap::new(),
            replies: 0,
            ticks: 0,
            stopping: Stopping::No,
            serving: None,
            is_published: false,
            is_removed: false,
        };
        let ended = run.go_on();
        run.end_serving();
        let mut effects = Effects::default();
        run.driver.member.abandon(&mut effects);
        run.answer(effects.replies);
        if let Err(fault) = ended {
            run.driver.node.fail(fault.to_string());
        } else if run.is_removed {
            run.driver.node.fail(REMOVED.to_owned());
        }
    }
}

impl<L: LogEngine> Run<L> {
    fn go_on(&mut self) -> Result<(), Fault> {
        let clock = self.driver.node.clock;
        let mut next_tick_us = clock.steady_us() + self.driver.tick_us;
        loop {
            let mut effects = Effects::default();
            match self.driver.inbox.recv_deadline(clock.instant(next_tick_us)) {
                Ok(said) => self.hear(said, &mut effects),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            for _ in 1..DRAIN_MESSAGES_MAX {
                let Ok(said) = self.driver.inbox.try_recv() else { break };
                self.hear(said, &mut effects);
            }
            let now_us = clock.steady_us();
            if now_us >= next_tick_us {
                // From now, not from when it was due: ticks missed in a pause are not made up for,
                // because a pause of ours is no silence of the leader.
                next_tick_us = now_us + self.driver.tick_us;
                self.tick(&mut effects);
            }
            self.rounds(effects)?;
            if self.is_done() {
                return Ok(());
            }
        }
    }

    fn hear(&mut self, said: Said, effects: &mut Effects) {
        let member = &mut self.driver.member;
        match said {
            Said::Raft(messages) => messages.into_iter().for_each(|message| member.step(message)),
            Said::Propose { term, change, done } => {
                let reply = self.wait(done);
                self.driver.member.propose(reply, term, &change, effects);
            }
            Said::Membership { change, done } => {
                let reply = self.wait(done);
                self.driver.member.propose_membership(reply, change, effects);
            }
            Said::Unreachable { member: id } => member.unreachable(id),
            Said::HandOver { to } => member.hand_over(to),
            Said::Removed => self.is_removed = true,
            Said::Stop { hand_over } => {
                self.stopping = Stopping::Now;
                if hand_over && member.view().leader_id == member.id() {
                    member.hand_over(0);
                    if member.view().is_handing_over {
                        let until_tick = self.ticks + HAND_OVER_TICKS;
                        self.stopping = Stopping::HandingOver { until_tick };
                    }
                }
            }
        }
    }

    fn wait(&mut self, done: oneshot::Sender<Outcome>) -> ReplyId {
        self.replies += 1;
        let reply = ReplyId(self.replies);
        self.waiting.insert(reply, done);
        reply
    }

    fn is_done(&self) -> bool {
        if self.is_removed {
            return true;
        }
        match self.stopping {
            Stopping::No => false,
            Stopping::Now => true,
            Stopping::HandingOver { until_tick } => {
                self.ticks >= until_tick || !self.driver.member.view().is_handing_over
            }
        }
    }

    fn tick(&mut self, effects: &mut Effects) {
        self.ticks += 1;
        let node = &self.driver.node;
        let now = Now(node.clock.steady_us());
        self.driver.member.tick(now, &node.state.read(), effects);
        let Some(serving) = &self.serving else { return };
        log_moved_members(node, serving.term());
        if !self.is_published {
            let moment = node.clock.moment();
            serving.propose_bounds(node, &mut serving.lock(), moment);
        }
    }

    /// Performs rounds until nothing is ready, then tells everybody what has changed.
    fn rounds(&mut self, mut effects: Effects) -> Result<(), Fault> {
        let Driver { node, member, log, links, .. } = &mut self.driver;
        loop {
            let round = member.take_round(&node.state.read());
            let Some(mut round) = round else { break };
            links.send(node, std::mem::take(&mut round.send_now));
            let write = std::mem::take(&mut round.log);
            if !write.is_empty() {
                log.write(write)?;
            }
            member.finish_round(round, &mut node.state.write(), &mut effects)?;
            links.send(node, std::mem::take(&mut effects.send));
        }
        if effects.is_membership_changed {
            let state = node.state.read();
            links.keep_only(|id| state.members().contains_key(&id));
            // Its own removal may reach it while it still listens.
            self.is_removed |= !state.members().contains_key(&node.member_id);
        }
        self.see_to_serving(&effects.applied);
        self.answer(effects.replies);
        Ok(())
    }

    /// Begins, goes on with, or ends the leadership.
    fn see_to_serving(&mut self, applied: &[Change]) {
        let view = self.driver.member.view();
        let node = Arc::clone(&self.driver.node);
        let may_serve = view.may_reign && !view.is_handing_over;
        if self.serving.as_ref().is_some_and(|serving| serving.term() != view.term || !may_serve) {
            self.end_serving();
        }
        node.publish_view(view);
        if !may_serve {
            return;
        }
        let moment = node.clock.moment();
        let serving = self.serving.get_or_insert_with(|| {
            let serving = Serving::begin(&node, &node.state.read(), view.term, moment);
            serving.propose_bounds(&node, &mut serving.lock(), moment);
            log_moved_members(&node, view.term);
            Arc::new(serving)
        });
        for change in applied {
            serving.on_applied(&node, change);
        }
        serving.extend_lease(self.driver.member.lease_until().0);
        // Clients that find a leader want to know where it is.
        if !self.is_published && serving.lock().reign.is_ready() && node.is_listed() {
            self.is_published = true;
            tracing::info!(name = %node.name, term = view.term, "this member serves");
            node.publish_serving(Some(Arc::clone(serving)));
        }
    }

    fn end_serving(&mut self) {
        let Some(serving) = self.serving.take() else { return };
        serving.end();
        if std::mem::take(&mut self.is_published) {
            let node = &self.driver.node;
            tracing::info!(name = %node.name, term = serving.term(), "this member serves no more");
            node.publish_serving(None);
        }
    }

    fn answer(&mut self, replies: Vec<(ReplyId, Outcome)>) {
        for (reply, outcome) in replies {
            // What the leader has decided and its log would not take, its memory must not keep.
            if outcome == Outcome::Dropped {
                self.end_serving();
            }
            if let Some(done) = self.waiting.remove(&reply) {
                // Nobody waits any more: fine.
                done.send(outcome).ok();
            }
        }
    }
}

/// Members may be elsewhere than the log says: the leader logs where they are now.
fn log_moved_members(node: &Node, term: u64) {
    let moved = node.moved_members();
    if !moved.is_empty() {
        node.submit(term, Change { put_members: moved, ..Change::default() });
    }
}
