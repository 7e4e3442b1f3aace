//! A client of the course: asks the scheduler for the region of a key and its leader, asks the leader, and
//! tries again.
//!
//! ```text
//!  request        region of the key, with its epoch now ──► ask_leader ──► answer
//!    ▲              no answer, or a refusal: after 100 ms from the beginning,
//!    └────────────  for at least ten times and the given time
//!  ask_leader     the scheduler's leader
//!                   no answer within a second: the scheduler again, or any peer of the region
//!                   "not the leader": the one it names, or the scheduler again
//! ```
//!
//! A write whose answer got lost is written again. So each key of a test has one writer, and its value
//! depends on the key only.

use std::fmt::Debug;
use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use proto::{KeyRange, Refusal, RegionId, metapb, region};
use raftstore::engine::{ColumnFamily, WriteBatch};
use raftstore::msg::Target;

use super::server::{Answer, Asked, Question, Response};
use super::tasks::Cluster;
use super::world::Event;
use crate::sim::dice::Dice;
use crate::sim::events::{Instant, MILLISECOND, SECOND};

/// A region is looked for that often, with pauses of [`REGION_PAUSE`].
const REGION_LOOKS: u64 = 100;
const REGION_PAUSE: Instant = 20 * MILLISECOND;

/// A leader is looked for that often, with pauses of [`POLL_PAUSE`].
const LEADER_LOOKS: u64 = 500;

/// Between two looks at what will soon be true.
pub(super) const POLL_PAUSE: Instant = 10 * MILLISECOND;

/// A store that has not answered for so long is given up.
const ANSWER_PATIENCE: Instant = SECOND;

/// Reads and writes go on for at least so long, and at least [`ATTEMPTS_MIN`] times.
const REQUEST_PATIENCE: Instant = 5 * SECOND;
const ATTEMPTS_MIN: u64 = 10;

/// Between two attempts.
const ATTEMPT_PAUSE: Instant = 100 * MILLISECOND;

impl Cluster {
    /// The region of a key, as the scheduler knows it; `None` when it knows none for two seconds.
    pub async fn region_of(&self, key: &[u8]) -> Option<metapb::Region> {
        for _ in 0..REGION_LOOKS {
            let found = self.world.borrow().scheduler.region_of(key).cloned();
            if found.is_some() {
                return found;
            }
            self.pause(REGION_PAUSE).await;
        }
        None
    }

    /// The region of a key. Panics when the scheduler knows none for two seconds.
    pub async fn must_region_of(&self, key: impl AsRef<[u8]>) -> metapb::Region {
        let key = key.as_ref();
        let found = self.region_of(key).await;
        found.unwrap_or_else(|| panic!("no region of {key:?} for two seconds"))
    }

    /// The leader of a region, as the scheduler knows it. Panics when it knows none for five seconds.
    pub async fn leader_of(&self, region_id: u64) -> metapb::Peer {
        for _ in 0..LEADER_LOOKS {
            let found = self.world.borrow().scheduler.leader(region_id);
            if let Some(leader) = found {
                return leader;
            }
            self.pause(POLL_PAUSE).await;
        }
        panic!("no leader of region {region_id} for five seconds")
    }

    /// Asks one store once, whoever leads; `None` when no answer comes within this time.
    pub async fn ask(
        &self,
        store: u64,
        of: &metapb::Region,
        question: Question,
        patience: Instant,
    ) -> Option<Response> {
        let (call, deadline) = {
            let mut world = self.world.borrow_mut();
            let call = world.begin_call(patience);
            let target = Target {
                region_id: RegionId(of.id),
                epoch: region::epoch(of),
                ..Target::default()
            };
            let asked = Asked { call, target, question };
            let delay = world.outside_delay(store);
            world.events.after(delay, Event::Request(store, Box::new(asked)));
            (call, world.events.now() + patience)
        };
        poll_fn(|_| {
            let mut world = self.world.borrow_mut();
            if let Some(response) = world.take_response(call) {
                return Poll::Ready(Some(response));
            }
            if world.events.now() < deadline {
                return Poll::Pending;
            }
            world.forget_call(call);
            Poll::Ready(None)
        })
        .await
    }

    /// Asks the leader of this region, whoever it turns out to be; `None` when that came to nothing. What
    /// it answers may be a refusal, but not that it does not lead.
    pub async fn ask_leader(
        &self,
        of: &metapb::Region,
        question: Question,
        patience: Instant,
    ) -> Option<Response> {
        let deadline = self.now() + patience;
        let mut dice = self.dice(&format!("client at {}", self.now()));
        let mut leader = self.leader_of(of.id).await;
        while self.now() < deadline {
            match self.ask(leader.store_id, of, question.clone(), ANSWER_PATIENCE).await {
                None => leader = self.another_leader(of, leader, &mut dice).await,
                Some(Err(Refusal::NotLeader { leader: Some(named), .. })) => leader = named,
                Some(Err(Refusal::NotLeader { leader: None, .. })) => {
                    self.pause(POLL_PAUSE).await;
                    leader = self.another_leader(of, leader, &mut dice).await;
                }
                Some(Err(Refusal::StaleCommand)) => {}
                Some(response) => return Some(response),
            }
        }
        None
    }

    /// The leader that did not answer is perhaps none any more.
    async fn another_leader(
        &self,
        of: &metapb::Region,
        silent: metapb::Peer,
        dice: &mut Dice,
    ) -> metapb::Peer {
        let named = self.leader_of(of.id).await;
        if named.id != silent.id {
            return named;
        }
        dice.one_of(&of.peers).copied().unwrap_or(named)
    }

    /// Asks the region of this key until there is a good answer. Panics when there is none.
    pub async fn request(&self, key: &[u8], question: Question) -> Answer {
        let deadline = self.now() + REQUEST_PATIENCE;
        let mut attempts = 0;
        let mut last = None;
        while attempts < ATTEMPTS_MIN || self.now() < deadline {
            attempts += 1;
            if let Some(region) = self.region_of(key).await {
                match self.ask_leader(&region, question.clone(), REQUEST_PATIENCE).await {
                    Some(Ok(answer)) => return answer,
                    refused => last = Some(refused),
                }
            }
            self.pause(ATTEMPT_PAUSE).await;
        }
        panic!("{question:?} is not answered, at last {last:?}")
    }

    /// Puts a value under a key of the default family.
    pub async fn must_put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.must_put_in(ColumnFamily::Default, key, value).await;
    }

    /// Puts a value under a key.
    pub async fn must_put_in(
        &self,
        cf: ColumnFamily,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) {
        let key = key.into();
        let mut batch = WriteBatch::new();
        batch.put(cf, key.clone(), value);
        let answer = self.request(&key, Question::Write(batch)).await;
        assert_eq!(answer, Answer::Done);
    }

    /// Removes a key of the default family.
    pub async fn must_delete(&self, key: impl Into<Bytes>) {
        self.must_delete_in(ColumnFamily::Default, key).await;
    }

    /// Removes a key.
    pub async fn must_delete_in(&self, cf: ColumnFamily, key: impl Into<Bytes>) {
        let key = key.into();
        let mut batch = WriteBatch::new();
        batch.delete(cf, key.clone());
        let answer = self.request(&key, Question::Write(batch)).await;
        assert_eq!(answer, Answer::Done);
    }

    /// The value under a key of the default family.
    pub async fn get(&self, key: impl Into<Bytes>) -> Option<Bytes> {
        let key = key.into();
        match self.request(&key, Question::Get(ColumnFamily::Default, key.clone())).await {
            Answer::Value(value) => value,
            other @ (Answer::Done | Answer::Values(..)) => panic!("a get is answered {other:?}"),
        }
    }

    /// The value under a key is this. Panics when it is not.
    pub async fn must_get(&self, key: impl Into<Bytes> + Debug, value: impl Into<Bytes>) {
        let key = key.into();
        assert_eq!(self.get(key.clone()).await, Some(value.into()), "under {key:?}");
    }

    /// All values from a key up to another, region by region.
    pub async fn scan(&self, from: impl Into<Bytes>, to: impl Into<Bytes>) -> Vec<Bytes> {
        let (mut from, to) = (from.into(), to.into());
        let mut all = Vec::new();
        while from < to {
            let question = Question::Scan(from.clone(), to.clone());
            match self.request(&from, question).await {
                Answer::Values(region, values) => {
                    assert!(KeyRange::of(&region).contains(&from), "a region without the key");
                    all.extend(values);
                    if region.end_key.is_empty() {
                        break;
                    }
                    from = region.end_key;
                }
                other @ (Answer::Done | Answer::Value(_)) => {
                    panic!("a scan is answered {other:?}");
                }
            }
        }
        all
    }
}
