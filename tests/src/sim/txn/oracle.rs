//! The source of timestamps: the scheduler's own machine, on members whose clocks disagree.
//!
//! Three members have clocks of their own, seconds apart. One leads, and serves timestamps below a bound that
//! takes a while to be saved; when another takes over it begins at the saved bound, after a pause in which
//! nobody answers. What is left out is how they agree on who leads: the scheduler's tests see to that.

use proto::Timestamp;
use scheduler::cluster::Moment;
use scheduler::timestamps::{Answer, Timestamps};

use crate::sim::dice::Dice;
use crate::sim::events::{Instant, MILLISECOND};
use crate::sim::options::Plant;

/// Where the members' clocks stand when the world begins, in milliseconds.
const WALL_MS: u64 = 1_700_000_000_000;

/// How long it takes to save a bound.
const SAVE_USUAL: Instant = 3 * MILLISECOND;

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sim) struct Asker {
    /// A store and its life, or a client.
    pub store: Option<(u64, u64)>,
    /// The number of its question.
    pub id: u64,
    /// The newest timestamp answered when it asked.
    pub floor: u64,
}

/// What the oracle wants of the world.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish {
    /// This asker is answered.
    Answer(Asker, u64),
    /// A bound is saved after a while: under this leadership.
    Save(Instant, u64, u64),
}

/// The members, and who leads.
#[derive(Debug)]
pub(super) struct Oracle {
    dice: Dice,
    /// By member: how far its clock is behind the fastest, in milliseconds.
    behind_ms: Vec<u64>,
    leader: usize,
    /// Counts leaderships.
    leadership: u64,
    /// Nobody leads before.
    leads_from: Instant,
    timestamps: Option<Timestamps>,
    saved_bound_ms: u64,
    is_saving: bool,
    waiting: Vec<Asker>,
    plant: Option<Plant>,
}

impl Oracle {
    pub(super) fn new(mut dice: Dice, plant: Option<Plant>) -> Self {
        let behind_ms = (0..3).map(|_| dice.within(0..4_000)).collect();
        Self {
            dice,
            behind_ms,
            leader: 0,
            leadership: 1,
            leads_from: 0,
            timestamps: None,
            saved_bound_ms: 0,
            is_saving: false,
            waiting: Vec::new(),
            plant,
        }
    }

    fn moment(&self, now: Instant) -> Moment {
        let steady_ms = now / MILLISECOND;
        Moment { steady_ms, wall_ms: WALL_MS + steady_ms - self.behind_ms[self.leader] }
    }

    /// Somebody asks for a timestamp.
    pub(super) fn ask(&mut self, asker: Asker, now: Instant) -> Vec<Wish> {
        if now < self.leads_from {
            // Nobody is there; who asked asks again.
            return Vec::new();
        }
        let moment = self.moment(now);
        let saved = match self.plant {
            Some(Plant::BoundForgotten) => 0,
            _ => self.saved_bound_ms,
        };
        let timestamps = self.timestamps.get_or_insert_with(|| Timestamps::begin(saved, moment));
        match timestamps.grant(1, moment) {
            Answer::Granted { last: Timestamp(last) } => {
                let mut wishes = vec![Wish::Answer(asker, last)];
                if let Some(bound_ms) = timestamps.wants_bound(moment).filter(|_| !self.is_saving) {
                    wishes.push(self.save(bound_ms));
                }
                wishes
            }
            Answer::NeedBound(bound_ms) => {
                self.waiting.push(asker);
                if self.is_saving { Vec::new() } else { vec![self.save(bound_ms)] }
            }
            Answer::Refused(_) => Vec::new(),
        }
    }

    fn save(&mut self, bound_ms: u64) -> Wish {
        self.is_saving = true;
        Wish::Save(self.dice.delay(SAVE_USUAL), self.leadership, bound_ms)
    }

    /// A bound is durable, if the one who saved it still leads.
    pub(super) fn saved(&mut self, leadership: u64, bound_ms: u64, now: Instant) -> Vec<Wish> {
        if leadership != self.leadership {
            return Vec::new();
        }
        self.is_saving = false;
        self.saved_bound_ms = self.saved_bound_ms.max(bound_ms);
        if let Some(timestamps) = &mut self.timestamps {
            timestamps.bound_saved(bound_ms);
        }
        let waiting = std::mem::take(&mut self.waiting);
        waiting.into_iter().flat_map(|asker| self.ask(asker, now)).collect()
    }

    /// Another member takes over after a pause, or the same again.
    pub(super) fn change_leader(&mut self, now: Instant, pause: Instant) {
        self.leader = self.dice.within(0..self.behind_ms.len() as u64) as usize;
        self.leadership += 1;
        self.leads_from = now + pause;
        self.timestamps = None;
        self.is_saving = false;
        self.waiting.clear();
    }
}
