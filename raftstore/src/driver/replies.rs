//! Which reply id waits for what. Private to the raft worker: machines know numbers, callers hold
//! callbacks, and only this table knows both.

use std::collections::BTreeMap;

use proto::metapb;

use super::promise::Promise;
use crate::msg::{Answer, Reply, ReplyId};

/// Everybody who waits for the store. Dropping the table answers them all.
#[derive(Default)]
pub(super) struct Replies {
    next: u64,
    waiting: BTreeMap<ReplyId, Waiting>,
}

enum Waiting {
    ForDone(Promise<()>),
    ForRegions(Promise<Vec<metapb::Region>>),
}

impl Replies {
    /// A caller waits to hear that something is done.
    pub(super) fn wait_for_done(&mut self, promise: Promise<()>) -> ReplyId {
        self.wait(Waiting::ForDone(promise))
    }

    /// A caller waits to hear of regions.
    pub(super) fn wait_for_regions(&mut self, promise: Promise<Vec<metapb::Region>>) -> ReplyId {
        self.wait(Waiting::ForRegions(promise))
    }

    fn wait(&mut self, waiting: Waiting) -> ReplyId {
        self.next += 1;
        let id = ReplyId(self.next);
        self.waiting.insert(id, waiting);
        id
    }

    /// Passes on what the store answers.
    pub(super) fn answer(&mut self, id: ReplyId, reply: Reply) {
        let waiting = self.waiting.remove(&id);
        match (waiting.expect("a store answers each reply id once"), reply) {
            (Waiting::ForDone(promise), reply) => promise.keep(reply.map(|_| ())),
            (Waiting::ForRegions(promise), Ok(Answer::Regions(regions))) => {
                promise.keep(Ok(regions));
            }
            (Waiting::ForRegions(promise), Ok(Answer::Done)) => promise.keep(Ok(Vec::new())),
            (Waiting::ForRegions(promise), Err(refusal)) => promise.keep(Err(refusal)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use proto::Refusal;

    use super::*;

    #[test]
    fn a_dropped_table_answers_everybody() {
        let (tx, rx) = channel();
        let mut replies = Replies::default();
        for _ in 0..3 {
            let tx = tx.clone();
            replies.wait_for_done(Promise::new(move |answer| tx.send(answer).unwrap()));
        }
        replies.answer(ReplyId(2), Ok(Answer::Done));
        assert_eq!(replies.waiting.len(), 2);
        drop((replies, tx));
        let answers: Vec<_> = rx.iter().collect();
        assert_eq!(answers, [Ok(()), Err(Refusal::closing()), Err(Refusal::closing())]);
    }
}
