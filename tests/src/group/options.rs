//! What a run is made of, drawn from its seed; and the bugs that can be planted in the shell.
//!
//! Looked for in vain: a lease that is looked at before the grant and not after it. Whoever asked did so
//! before that look, so what others were given in between is nothing that he can have known of; the look
//! after the grant is a second lock on the same door. And, in two hundred seeds, a member that votes at once
//! after a restart, which the group's own tests find in a world made for it (`scheduler/src/member/tests/`).

use scheduler::member;

use crate::sim::dice::Dice;
use crate::sim::events::{Instant, MILLISECOND, SECOND};
use crate::sim::network::Weather;

/// A mistake of the shell's. The number is that of its story, or of the invariant that it breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// O1. A leader that comes back goes on with the timestamps it remembers.
    ReignKept,
    /// O2. The time of the last timestamp is compared in microseconds and kept in milliseconds: within one
    /// millisecond the counter begins anew.
    CounterBeginsAnew,
    /// O3. The lease is looked at with the time from before the disk was waited for.
    ClockReadBeforeDisk,
    /// O4. The lease is looked at on ticks: what was asked while the process stood still is answered by a look
    /// from before.
    LeaseCheckedOnTicks,
    /// O4. A member serves as long as it believes that it leads.
    LeaseUnchecked,
    /// O4. A bound counts as saved when it has been proposed.
    BoundBeforeSaved,
    /// O5. The wall clock is believed whatever it says.
    ClockBelieved,
    /// O6. What the epoch of a heartbeat says is not looked at.
    EpochUnchecked,
    /// O7. A new leader gives out what is left of the block of ids that it finds.
    IdsOfPredecessor,
    /// R10. A member that restarts votes at once.
    VoteAfterRestart,
    /// L5. A lease that is longer than the others keep quiet.
    LongLease,
    /// R11. A member acknowledges what is not on its disk yet.
    AcknowledgeBeforeSync,
}

/// Those that are looked for.
pub const PLANTS: &[Plant] = &[
    Plant::ReignKept,
    Plant::CounterBeginsAnew,
    Plant::ClockReadBeforeDisk,
    Plant::LeaseCheckedOnTicks,
    Plant::LeaseUnchecked,
    Plant::BoundBeforeSaved,
    Plant::ClockBelieved,
    Plant::EpochUnchecked,
    Plant::IdsOfPredecessor,
    Plant::LongLease,
    Plant::AcknowledgeBeforeSync,
];

/// One kind of mischief.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mischief {
    /// The process ends; the disk has all that was written.
    Kill,
    /// The power fails; the disk has what was synced, and perhaps some of the rest.
    PowerOff,
    /// The power fails for all at once.
    AllOff,
    /// The process stands still, longer than a lease.
    Pause,
    /// One member hears nobody and is heard by nobody.
    Isolate,
    /// One direction of one link is cut.
    OneWay,
    /// One member is cut off for a while; when it is back the leader is, and another restarts.
    Deceive,
    /// Syncs take long, up to several leases.
    SlowDisk,
    /// Somebody sets a wall clock, forwards or back: a second, an hour, a year.
    SetClock,
    /// An administrator has another member lead.
    HandOver,
}

/// All of them.
pub const MISCHIEFS: &[Mischief] = &[
    Mischief::Kill,
    Mischief::PowerOff,
    Mischief::AllOff,
    Mischief::Pause,
    Mischief::Isolate,
    Mischief::OneWay,
    Mischief::Deceive,
    Mischief::SlowDisk,
    Mischief::SetClock,
    Mischief::HandOver,
];

/// A run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where all randomness comes from.
    pub seed: u64,
    /// How many members there are.
    pub members: u64,
    /// How bad the network is.
    pub weather: Weather,
    /// What goes wrong.
    pub mischiefs: Vec<Mischief>,
    /// Between two mischiefs, usually.
    pub mischief_every: Instant,
    /// A process that was ended stays so for at most so long.
    pub down_most: Instant,
    /// How long a sync takes on a healthy disk, usually.
    pub sync_usual: Instant,
    /// How long things go wrong.
    pub trouble: Instant,
    /// How a member is run.
    pub member: member::Options,
    /// Clients that ask for timestamps and ids.
    pub clients: u64,
    /// Questions that are for ids, in thousandths.
    pub asks_ids: u64,
    /// Between an answer and a client's next question, usually.
    pub think: Instant,
    /// Between two changes of the regions, usually.
    pub news_every: Instant,
    /// A mistake in the shell.
    pub plant: Option<Plant>,
}

impl Options {
    /// The run of this seed.
    pub fn of_seed(seed: u64) -> Self {
        let mut dice = Dice::new(seed).stream("options");
        let weather = Weather::draw(&mut dice);
        let members = if dice.happens(250) { 5 } else { 3 };
        // Some runs have one kind of trouble, the others all.
        let mischiefs = if dice.happens(300) {
            dice.one_of(MISCHIEFS).copied().into_iter().collect()
        } else {
            MISCHIEFS.to_vec()
        };
        // Often enough that members which were away are brought up by a copy of the state.
        let member = member::Options {
            copy_after_entries: dice.within(20..200),
            keep_entries: dice.within(5..50),
            ..member::Options::default()
        };
        Self {
            seed,
            members,
            weather,
            mischiefs,
            mischief_every: dice.within(300 * MILLISECOND..3 * SECOND),
            down_most: 3 * SECOND,
            sync_usual: MILLISECOND,
            trouble: 20 * SECOND,
            member,
            clients: 6,
            asks_ids: 200,
            think: 15 * MILLISECOND,
            news_every: 150 * MILLISECOND,
            plant: None,
        }
    }

    /// The same with a bug in it.
    #[must_use]
    pub fn with_plant(mut self, plant: Plant) -> Self {
        self.plant = Some(plant);
        if plant == Plant::VoteAfterRestart {
            self.member.lease_ticks = 0;
        }
        if plant == Plant::LongLease {
            self.member.lease_us = 3 * SECOND;
        }
        self
    }

    /// The world in which the bug is likely: what it needs goes wrong, and often.
    pub fn likely(seed: u64, plant: Plant) -> Self {
        let mut options = Self::of_seed(seed);
        options.weather = Weather::FAIR;
        options.members = 3;
        options.mischief_every = 700 * MILLISECOND;
        options.mischiefs = match plant {
            Plant::ReignKept => vec![Mischief::HandOver, Mischief::SetClock],
            Plant::CounterBeginsAnew => vec![Mischief::HandOver],
            Plant::ClockReadBeforeDisk => vec![Mischief::SlowDisk, Mischief::Isolate],
            Plant::LeaseCheckedOnTicks | Plant::LeaseUnchecked => {
                vec![Mischief::Pause, Mischief::Isolate]
            }
            Plant::BoundBeforeSaved => {
                vec![Mischief::Isolate, Mischief::PowerOff, Mischief::SlowDisk]
            }
            Plant::ClockBelieved => vec![Mischief::SetClock],
            Plant::EpochUnchecked => vec![Mischief::OneWay],
            Plant::IdsOfPredecessor => vec![Mischief::HandOver, Mischief::Kill],
            Plant::VoteAfterRestart => vec![Mischief::Deceive],
            Plant::LongLease => vec![Mischief::Isolate],
            Plant::AcknowledgeBeforeSync => vec![Mischief::AllOff],
        };
        if [Plant::CounterBeginsAnew, Plant::BoundBeforeSaved, Plant::IdsOfPredecessor]
            .contains(&plant)
        {
            options.think = MILLISECOND / 2;
        }
        if plant == Plant::EpochUnchecked {
            options.weather = Weather { very_late: 300, ..Weather::FAIR };
        }
        if plant == Plant::AcknowledgeBeforeSync {
            options.sync_usual = 200 * MILLISECOND;
        }
        if plant == Plant::VoteAfterRestart {
            // Back before the lease that it has granted is over.
            options.down_most = 60 * MILLISECOND;
            options.mischief_every = 5 * SECOND;
            // Whoever was away may only be voted for if it has missed nothing.
            options.news_every = 3_600 * SECOND;
            options.asks_ids = 0;
        }
        options
    }
}
