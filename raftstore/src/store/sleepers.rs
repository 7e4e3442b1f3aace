//! Which peers of a store tick and which sleep (`peer/sleep.rs`), and how stores know of each other that
//! they live.
//!
//! A peer that sleeps hears nothing of its region. What it must know is whether the other store lives: a
//! follower whether its leader's does, a leader whether those of all members do. That is the same for all
//! sleepers that count on the same store, so it costs one message for a pair of stores now and then, however
//! many regions sleep.
//!
//! ```text
//!  s1: nothing heard of s2 for two fifths           s2
//!      of an election timeout
//!        ├── MsgCheckStalePeer, of any sleeper ──────► heard s1
//!        │◄─ MsgCheckStalePeerResponse ──────────────┤ "r7's leader is p8; I live since …"
//!      heard s2
//! ```
//!
//! - Any message from a store is a sign of life; while regions are awake nobody asks. Since the question is
//!   a sign of life too, only one of two stores asks as a rule.
//! - Silence is counted in the ticks of the store that waits, as raft does. A store that stood still has not
//!   therefore missed anything.
//! - **Silent for an election timeout**: all who count on it wake. Followers then campaign as soon as they would
//!   have if they had been awake all the time; that is how a dead leader is replaced in the usual time. When the
//!   transport says that the store is out of reach, two fifths of that are enough.
//! - **Started anew**: the answer names the life of the store. In another life none of its peers leads or knows
//!   a leader: all who count on it wake.
//! - The answer also says who leads the region that the question was about. A follower that hears of another
//!   leader than it knows, or of none, wakes. For this a question goes out now and then even where all is
//!   well, each about the next region.
//!
//! A question that finds its peer removed is answered as every message from the past is, too
//! (`operation/stale_peer.rs`).
//!
//! **All at once.** When ten thousand leaders wake in one moment their heartbeats do not fit into the queues to
//! other stores. Leaders that wake for a neighbour's sake, or that followers call, do so a few at a time; those
//! of which something is wanted do not wait.
//!
//! **Duties.** What a sleeper has to do now and then is in a list by tick; nothing looks through all sleepers.
//! Duties that are due within a second are done in one tick ([`DUTY_GRAIN_TICKS`]), so that ten thousand sleepers
//! wake a store's threads as seldom as a few. When all sleep, the store says in how many ticks something is due,
//! and its shell sleeps too.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use proto::{PeerId, RegionId, StoreId, metapb, raft_serverpb, region};
use raft::eraftpb::Message;
use raft_serverpb::{ExtraMessage, ExtraMessageType, RaftMessage};

use super::Store;
use crate::effects::Effects;
use crate::engine::{DataEngine, LogEngine};
use crate::msg::Now;
use crate::peer::Round;
use crate::peer::sleep::{Cause, Waking};

/// Stores whose signs of life are noted; more are not, and nobody who would count on them sleeps.
const NEIGHBOURS_MAX: usize = 4096;

/// So many leaders wake in one tick for the sake of a neighbour; more wait for the next.
const LEADERS_WOKEN_MAX: usize = 256;

/// So many election timeouts after one question the next goes out to a store that is heard anyway.
const QUESTION_ELECTIONS: u64 = 3;

/// Duties are done in ticks that are multiples of this: a second, with the usual ticks. Duties that come soon
/// are not put off for so long, see [`due_together`].
const DUTY_GRAIN_TICKS: u64 = 20;

/// A duty is put off by no more than this part of the time until it is due.
const DUTY_LATER_PART: u64 = 8;

/// Who ticks, who sleeps, and what is known of other stores.
#[derive(Debug, Default)]
pub(super) struct Sleepers {
    awake: BTreeSet<RegionId>,
    asleep: BTreeMap<RegionId, Slumber>,
    /// Who counts on which store.
    counting: BTreeMap<StoreId, BTreeSet<RegionId>>,
    /// What sleepers have to do, by the tick at which it is due.
    duties: BTreeSet<(u64, RegionId)>,
    /// Leaders whose turn to wake has not come.
    waking: BTreeMap<RegionId, Cause>,
    woken_this_tick: usize,
    neighbours: BTreeMap<StoreId, Neighbour>,
}

#[derive(Debug)]
struct Slumber {
    counts_on: BTreeSet<StoreId>,
    duty_at: u64,
}

/// What is known of another store.
#[derive(Clone, Copy, Debug)]
struct Neighbour {
    /// The tick at which it was last heard.
    heard: u64,
    /// The tick at which it was said to be out of reach, if it was not heard since.
    doubted: Option<u64>,
    /// Which life it last said it was in.
    life: Option<u64>,
    /// The region that it was last asked about.
    asked: RegionId,
}

impl Sleepers {
    /// A peer ticks from now on.
    pub(super) fn rouse(&mut self, region_id: RegionId) {
        self.forget(region_id);
        self.awake.insert(region_id);
    }

    /// A peer is no more.
    pub(super) fn forget(&mut self, region_id: RegionId) {
        self.awake.remove(&region_id);
        self.waking.remove(&region_id);
        let Some(slumber) = self.asleep.remove(&region_id) else { return };
        self.duties.remove(&(slumber.duty_at, region_id));
        for store in slumber.counts_on {
            if let Some(counting) = self.counting.get_mut(&store) {
                counting.remove(&region_id);
                if counting.is_empty() {
                    self.counting.remove(&store);
                }
            }
        }
    }

    fn bed(&mut self, region_id: RegionId, counts_on: BTreeSet<StoreId>, duty_at: u64) {
        self.forget(region_id);
        for store in &counts_on {
            self.counting.entry(*store).or_default().insert(region_id);
        }
        self.duties.insert((duty_at, region_id));
        self.asleep.insert(region_id, Slumber { counts_on, duty_at });
    }

    /// Those who tick.
    pub(super) fn awake(&self) -> impl Iterator<Item = RegionId> + '_ {
        self.awake.iter().copied()
    }

    /// How many sleep.
    #[cfg(test)]
    pub(super) fn asleep(&self) -> usize {
        self.asleep.len()
    }

    /// A sign of life, perhaps with the number of that life. Returns whether it is a new one.
    fn hear(&mut self, store: StoreId, life: Option<u64>, tick: u64) -> bool {
        if !self.neighbours.contains_key(&store) && self.neighbours.len() >= NEIGHBOURS_MAX {
            return false;
        }
        let new = Neighbour { heard: tick, doubted: None, life: None, asked: RegionId::default() };
        let neighbour = self.neighbours.entry(store).or_insert(new);
        neighbour.heard = tick;
        neighbour.doubted = None;
        // What comes late from an earlier life says nothing.
        let is_another = life.is_some_and(|life| neighbour.life.is_some_and(|known| life > known));
        neighbour.life = neighbour.life.max(life);
        is_another
    }

    /// For how many ticks a store was not heard.
    fn silence(&self, store: StoreId, tick: u64) -> u64 {
        self.neighbours
            .get(&store)
            .map_or(u64::MAX, |neighbour| tick.saturating_sub(neighbour.heard))
    }

    fn counting_on(&self, store: StoreId) -> Vec<RegionId> {
        self.counting.get(&store).into_iter().flatten().copied().collect()
    }
}

impl<D: DataEngine, L: LogEngine> Store<D, L> {
    /// Wakes a peer if it sleeps; if not, keeps it awake for a while.
    pub(crate) fn wake(&mut self, region_id: RegionId, cause: Cause, now: Now) {
        let Some(peer) = self.peers.get_mut(&region_id) else { return };
        let (tick, sleepers) = (self.ticks, &self.sleepers);
        let was_asleep = peer.is_asleep();
        let waking = Waking { cause, tick, now };
        peer.wake(waking, |store| sleepers.silence(store, tick), &self.config);
        if was_asleep {
            tracing::debug!(store = %self.id, region = %region_id, ?cause, "a peer wakes");
            self.sleepers.rouse(region_id);
            self.touched.insert(region_id);
        }
    }

    /// A peer sleeps from now on, if all stores that it would count on are known.
    fn put_to_sleep(&mut self, region_id: RegionId) {
        let Some(peer) = self.peers.get_mut(&region_id) else { return };
        let counts_on = peer.counts_on();
        let is_known = |store: &StoreId| self.sleepers.neighbours.contains_key(store);
        if peer.is_asleep() || !counts_on.iter().all(is_known) {
            return;
        }
        peer.fall_asleep(self.ticks);
        let duty_at = due_together(self.ticks, peer.ticks_until_duty(&self.config));
        self.sleepers.bed(region_id, counts_on, duty_at);
        tracing::debug!(store = %self.id, region = %region_id, "a peer falls asleep");
    }

    /// The transport says that a store is out of reach. It may be a moment's trouble.
    pub(super) fn doubt_store(&mut self, store: StoreId) {
        if let Some(neighbour) = self.sleepers.neighbours.get_mut(&store) {
            neighbour.doubted.get_or_insert(self.ticks);
        }
    }

    /// Once a tick: puts leaders to sleep whose members have all agreed, looks after the stores that
    /// sleepers count on, and does duties.
    pub(super) fn tick_sleepers(&mut self, agreed: Vec<RegionId>, now: Now, effects: &mut Effects) {
        for region_id in agreed {
            self.put_to_sleep(region_id);
        }
        self.sleepers.woken_this_tick = 0;
        for (region_id, cause) in std::mem::take(&mut self.sleepers.waking) {
            self.wake_in_turn(region_id, cause, now);
        }
        let patience = self.config.election_ticks as u64;
        let pause = pause_of(patience);
        let stores: Vec<StoreId> = self.sleepers.counting.keys().copied().collect();
        for store in stores {
            let silence = self.sleepers.silence(store, self.ticks);
            let neighbour = self.sleepers.neighbours.get(&store);
            let is_stranger = neighbour.is_none_or(|neighbour| neighbour.life.is_none());
            let doubted = neighbour.and_then(|neighbour| neighbour.doubted);
            if silence >= patience || doubted.is_some_and(|since| self.ticks - since > pause) {
                self.wake_those_who_count_on(store, Cause::Doubt, now);
            } else if is_stranger
                || doubted.is_some()
                || (silence > 0 && silence.is_multiple_of(pause))
                || self.ticks.is_multiple_of(QUESTION_ELECTIONS * patience)
            {
                self.ask_whether_it_lives(store, effects);
            }
        }
        while let Some((at, region_id)) = self.sleepers.duties.first().copied()
            && at <= self.ticks
        {
            self.sleepers.duties.remove(&(at, region_id));
            self.do_duty(region_id, now, effects);
        }
    }

    /// In so many ticks something is due; in those before it nothing is, unless a message comes. Never 0.
    pub fn ticks_until_due(&self) -> u64 {
        let Sleepers { awake, waking, counting, duties, .. } = &self.sleepers;
        if !awake.is_empty() || !waking.is_empty() || self.syncs.asked_at.is_some() {
            return 1;
        }
        let patience = self.config.election_ticks as u64;
        let until = |every: u64| every - self.ticks % every;
        let mut due = until(self.config.store_heartbeat_ticks);
        if let Some((at, _)) = duties.first() {
            due = due.min(at.saturating_sub(self.ticks));
        }
        if !counting.is_empty() {
            due = due.min(until(QUESTION_ELECTIONS * patience));
        }
        for store in counting.keys() {
            let Some(neighbour) = self.sleepers.neighbours.get(store) else { return 1 };
            if neighbour.life.is_none() || neighbour.doubted.is_some() {
                return 1;
            }
            let silence = self.ticks.saturating_sub(neighbour.heard);
            let pause = pause_of(patience);
            due = due.min(pause - silence % pause).min(patience.saturating_sub(silence));
        }
        due.max(1)
    }

    fn do_duty(&mut self, region_id: RegionId, now: Now, effects: &mut Effects) {
        let Some(peer) = self.peers.get_mut(&region_id) else { return };
        let mut round = Round { config: &self.config, now, effects };
        let must_wake = peer.do_duty(self.ticks, &mut round);
        let duty_at = due_together(self.ticks, peer.ticks_until_duty(&self.config));
        if let Some(slumber) = self.sleepers.asleep.get_mut(&region_id) {
            slumber.duty_at = duty_at;
            self.sleepers.duties.insert((duty_at, region_id));
        }
        self.touched.insert(region_id);
        if must_wake {
            self.wake(region_id, Cause::Wanted, now);
        }
    }

    /// Asks a store about the next of the regions whose sleepers count on it.
    fn ask_whether_it_lives(&mut self, store: StoreId, effects: &mut Effects) {
        let Some(counting) = self.sleepers.counting.get(&store) else { return };
        let Some(neighbour) = self.sleepers.neighbours.get_mut(&store) else { return };
        let behind = (Bound::Excluded(neighbour.asked), Bound::Unbounded);
        let next = counting.range(behind).next().or(counting.first());
        let Some(peer) = next.and_then(|region_id| self.peers.get(region_id)) else { return };
        neighbour.asked = peer.region_id();
        let to = region::peer_on(&peer.region, store);
        effects.send_now.extend(to.map(|to| peer.question(*to, &self.config)));
    }

    /// A store is silent, cannot be reached, or was started anew.
    fn wake_those_who_count_on(&mut self, store: StoreId, cause: Cause, now: Now) {
        let sleepers = self.sleepers.counting_on(store);
        if !sleepers.is_empty() {
            let (peers, id) = (sleepers.len(), self.id);
            tracing::info!(store = %id, other = %store, peers, ?cause, "sleeping peers wake");
        }
        for region_id in sleepers {
            self.wake_in_turn(region_id, cause, now);
        }
    }

    /// Wakes a peer; leaders no more than so many in a tick.
    fn wake_in_turn(&mut self, region_id: RegionId, cause: Cause, now: Now) {
        let Some(peer) = self.peers.get(&region_id) else { return };
        if peer.is_asleep() && peer.leader().is_some() {
            if self.sleepers.woken_this_tick == LEADERS_WOKEN_MAX {
                self.sleepers.waking.insert(region_id, cause);
                return;
            }
            self.sleepers.woken_this_tick += 1;
        }
        self.wake(region_id, cause, now);
    }

    /// A message that says no more than that its sender's store lives.
    pub(super) fn note_sign_of_life(&mut self, message: &RaftMessage) {
        if let Some(from) = &message.from_peer {
            self.sleepers.hear(StoreId(from.store_id), None, self.ticks);
        }
    }

    /// Every message is a sign of life of its sender's store; some say more.
    pub(crate) fn hear_store(
        &mut self,
        message: &RaftMessage,
        from: &metapb::Peer,
        to: &metapb::Peer,
        now: Now,
        effects: &mut Effects,
    ) {
        let store = StoreId(from.store_id);
        let extra = message.extra_msg.as_ref();
        let is_question = extra.is_some_and(is_question);
        let is_answer = extra
            .is_some_and(|extra| extra.r#type() == ExtraMessageType::MsgCheckStalePeerResponse);
        let life = extra.filter(|_| is_question || is_answer).map(|extra| extra.index);
        if self.sleepers.hear(store, life, self.ticks) {
            self.wake_those_who_count_on(store, Cause::LeaderGone, now);
        }
        if is_question {
            let answer = self.answer(message, to);
            effects.send_now.push(answer);
        }
        if is_answer {
            self.on_told_who_leads(message, from, now);
        }
    }

    /// "I live, and this is who leads."
    fn answer(&self, message: &RaftMessage, to: &metapb::Peer) -> RaftMessage {
        let peer = self.peers.get(&RegionId(message.region_id));
        let peer = peer.filter(|peer| peer.meta.id == to.id);
        let leader = peer.and_then(|peer| peer.member(peer.group.leader()?)).copied();
        RaftMessage {
            region_id: message.region_id,
            from_peer: message.to_peer,
            to_peer: message.from_peer,
            region_epoch: peer.and_then(|peer| peer.region.region_epoch),
            extra_msg: Some(ExtraMessage {
                r#type: ExtraMessageType::MsgCheckStalePeerResponse.into(),
                index: self.config.incarnation,
                check_peers: leader.into_iter().collect(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn on_told_who_leads(&mut self, message: &RaftMessage, from: &metapb::Peer, now: Now) {
        let region_id = RegionId(message.region_id);
        let Some(peer) = self.peers.get(&region_id).filter(|peer| peer.is_asleep()) else { return };
        let told = message.extra_msg.as_ref().and_then(|extra| extra.check_peers.first());
        let known = peer.group.leader();
        // A follower on another store may know less than we do.
        let may_know = peer.leader().is_some() || known == Some(PeerId(from.id));
        if may_know && told.map(|leader| PeerId(leader.id)) != known {
            self.wake(region_id, Cause::Doubt, now);
        }
    }

    /// A raft message for a peer that serves: it hears it asleep if the message says nothing new.
    pub(crate) fn step_peer(
        &mut self,
        region_id: RegionId,
        from: metapb::Peer,
        message: Message,
        now: Now,
        effects: &mut Effects,
    ) {
        let Some(peer) = self.peers.get(&region_id) else { return };
        if peer.is_disturbed_by(&message) {
            let cause = peer.cause_of(&message);
            self.wake(region_id, cause, now);
        }
        let Some(peer) = self.peers.get_mut(&region_id) else { return };
        peer.step(from, message, &mut Round { config: &self.config, now, effects });
        peer.on_heard_asleep(self.ticks);
        self.touched.insert(region_id);
    }

    /// Peers of a region speak of sleep. `false` when the message is about something else.
    pub(crate) fn on_sleep_message(
        &mut self,
        message: &RaftMessage,
        from: metapb::Peer,
        now: Now,
        effects: &mut Effects,
    ) -> bool {
        let Some(extra) = &message.extra_msg else { return false };
        let region_id = RegionId(message.region_id);
        let Some(peer) = self.peers.get_mut(&region_id) else { return false };
        let mut round = Round { config: &self.config, now, effects };
        // What is unknown here is not taken for the first of the known.
        match ExtraMessageType::try_from(extra.r#type) {
            Ok(ExtraMessageType::MsgHibernateRequest) => {
                let epoch = message.region_epoch.unwrap_or_default();
                if peer.on_asked_to_sleep(from, &epoch, extra.index, &mut round) {
                    self.put_to_sleep(region_id);
                }
            }
            Ok(ExtraMessageType::MsgHibernateResponse) => {
                peer.on_agreed(PeerId(from.id), extra.index, &round);
                if peer.has_agreement() {
                    self.put_to_sleep(region_id);
                }
            }
            Ok(ExtraMessageType::MsgRegionWakeUp) if message.message.is_none() => {
                self.wake_in_turn(region_id, Cause::Spoken(PeerId(from.id)), now);
            }
            _ => return false,
        }
        true
    }
}

/// The tick for a duty that is due in so many ticks: not before, and with others where that costs it little.
fn due_together(tick: u64, due_in: u64) -> u64 {
    let grain = (due_in / DUTY_LATER_PART).clamp(1, DUTY_GRAIN_TICKS);
    (tick + due_in).next_multiple_of(grain)
}

/// After so many ticks of silence a store is asked: twice before anybody wakes for it.
fn pause_of(patience: u64) -> u64 {
    (patience * 2 / 5).max(1)
}

fn is_question(extra: &ExtraMessage) -> bool {
    extra.r#type() == ExtraMessageType::MsgCheckStalePeer && extra.wait_data
}
