//! From keys to regions, stores and answers.
//!
//! A request is tried until it is answered by somebody who serves it, or the caller's deadline passes. Every
//! transactional command may come twice, so nothing is lost by asking again; but a caller may have to know
//! that an earlier try, unanswered, is still on its way ([`Tries`]).

use futures_util::future::join_all;
use kv::keys::Key;
use proto::tikvpb::batch_commands_request::request::Cmd as Command;
use proto::tikvpb::batch_commands_response::response::Cmd as Answer;
use proto::{Refusal, errorpb, kvrpcpb, metapb};

use super::session::Session;
use crate::sim::events::{Instant, MILLISECOND};

/// How long one try waits for its answer, longer than a lock is waited for.
const TRY_PATIENCE: std::ops::Range<Instant> = 300 * MILLISECOND..2_000 * MILLISECOND;

/// What is known of the tries of a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tries {
    /// One of them was not answered, or in a way that says nothing: it may be performed yet.
    pub(super) is_lost: bool,
    /// There was more than one.
    pub(super) is_repeated: bool,
}

/// Nobody served the request before the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Over;

/// Takes the region error out of an answer.
fn refusal_in(answer: &mut Answer) -> Option<errorpb::Error> {
    macro_rules! refusal {
        ($($kind:ident)*) => {
            match answer {
                $(Answer::$kind(response) => response.region_error.take(),)*
                other => panic!("no client of the simulator is answered {other:?}"),
            }
        };
    }
    refusal! {
        Get Scan Prewrite Commit BatchGet BatchRollback ScanLock ResolveLock PessimisticLock
        PessimisticRollback CheckTxnStatus TxnHeartBeat CheckSecondaryLocks
    }
}

impl Session {
    /// The region that holds a key, as far as the client knows.
    pub(super) fn region_of(&self, key: &[u8]) -> Option<metapb::Region> {
        self.shared().map.region_of(key).cloned()
    }

    /// One try at one region.
    async fn try_once(
        &self,
        region: &metapb::Region,
        make: impl FnOnce(kvrpcpb::Context) -> Command,
        tries: &mut Tries,
    ) -> Option<Answer> {
        let store = self.choose_store(region)?;
        let peer = region.peers.iter().find(|peer| peer.store_id == store).copied();
        let context = kvrpcpb::Context {
            region_id: region.id,
            region_epoch: region.region_epoch,
            peer,
            is_retry_request: tries.is_repeated,
            ..Default::default()
        };
        tries.is_repeated = true;
        let patience = self.within(TRY_PATIENCE);
        let Some(mut answer) = self.send(store, make(context), patience).await else {
            // Perhaps nobody is there.
            tries.is_lost = true;
            self.shared_mut().map.forget_leaders();
            return None;
        };
        match refusal_in(&mut answer).map(Refusal::from) {
            None => Some(answer),
            Some(refusal) => {
                tries.is_lost |= matches!(refusal, Refusal::UndeterminedResult { .. });
                self.shared_mut().map.learn_from(store, &refusal);
                None
            }
        }
    }

    fn choose_store(&self, region: &metapb::Region) -> Option<u64> {
        let mut shared = self.shared_mut();
        let guess = shared.map.leader_of(region.id).filter(|_| !shared.dice.happens(20));
        let holders: Vec<u64> = region.peers.iter().map(|peer| peer.store_id).collect();
        guess.or_else(|| shared.dice.one_of(&holders).copied())
    }

    /// Asks the region that holds a key until it answers. The region is told with the answer.
    pub(super) async fn ask(
        &self,
        key: &[u8],
        deadline: Instant,
        tries: &mut Tries,
        make: impl Fn(kvrpcpb::Context) -> Command,
    ) -> Result<(metapb::Region, Answer), Over> {
        loop {
            if let Some(region) = self.region_of(key)
                && let Some(answer) = self.try_once(&region, &make, tries).await
            {
                return Ok((region, answer));
            }
            if self.now() >= deadline {
                return Err(Over);
            }
            self.rest().await;
        }
    }

    /// The keys by region, in the order of the keys.
    pub(super) fn groups(&self, keys: &[Key]) -> Vec<(metapb::Region, Vec<Key>)> {
        let mut groups: Vec<(metapb::Region, Vec<Key>)> = Vec::new();
        for key in keys {
            let Some(region) = self.region_of(key.encoded()) else { continue };
            match groups.iter_mut().find(|(known, _)| known.id == region.id) {
                Some((_, keys)) => keys.push(key.clone()),
                None => groups.push((region, vec![key.clone()])),
            }
        }
        groups
    }

    /// Asks all regions that hold these keys, side by side, each about its own, until all have answered or
    /// `took` does not want to go on.
    pub(super) async fn ask_all<E: From<Over>>(
        &self,
        keys: &[Key],
        deadline: Instant,
        tries: &mut Tries,
        make: impl Fn(kvrpcpb::Context, &[Key]) -> Command,
        mut took: impl FnMut(&[Key], Answer) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut left = keys.to_vec();
        while !left.is_empty() {
            let groups = self.groups(&left);
            let all = join_all(groups.iter().map(|(region, keys)| async {
                let mut own = *tries;
                let answer = self.try_once(region, |context| make(context, keys), &mut own).await;
                (own, answer)
            }));
            let answers = all.await;
            let mut verdict = Ok(());
            for ((_, keys), (own, answer)) in groups.iter().zip(answers) {
                tries.is_lost |= own.is_lost;
                tries.is_repeated |= own.is_repeated;
                let Some(answer) = answer else { continue };
                left.retain(|key| !keys.contains(key));
                verdict = verdict.and_then(|()| took(keys, answer));
            }
            verdict?;
            if !left.is_empty() {
                if self.now() >= deadline {
                    return Err(Over.into());
                }
                self.rest().await;
            }
        }
        Ok(())
    }
}

/// Takes the answer that a command of this kind gets.
macro_rules! expect_answer {
    ($answer:expr, $kind:ident) => {
        match $answer {
            proto::tikvpb::batch_commands_response::response::Cmd::$kind(response) => response,
            other => panic!("asked for {}, answered {other:?}", stringify!($kind)),
        }
    };
}
pub(super) use expect_answer;
