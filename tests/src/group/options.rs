//! What a run is made of, drawn from its seed; and the bugs that can be planted in the shell.

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
    /// O4. The lease is looked at before the grant and not after it: a pause between the two is not noticed.
    LeaseCheckedFirst,
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

/// All of them.
pub const PLANTS: &[Plant] = &[
    Plant::ReignKept,
    Plant::CounterBeginsAnew,
    Plant::ClockReadBeforeDisk,
    Plant::LeaseCheckedFirst,
    Plant::LeaseUnchecked,
    Plant::BoundBeforeSaved,
    Plant::ClockBelieved,
    Plant::EpochUnchecked,
    Plant::IdsOfPredecessor,
    Plant::VoteAfterRestart,
    Plant::LongLease,
    Plant::AcknowledgeBeforeSync,
];

/// One kind of harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
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
    /// Syncs take long, up to several leases.
    SlowDisk,
    /// Somebody sets a wall clock, forwards or back: a second, an hour, a year.
    SetClock,
    /// An administrator has another member lead.
    HandOver,
}

/// All of them.
pub const HARMS: &[Harm] = &[
    Harm::Kill,
    Harm::PowerOff,
    Harm::AllOff,
    Harm::Pause,
    Harm::Isolate,
    Harm::OneWay,
    Harm::SlowDisk,
    Harm::SetClock,
    Harm::HandOver,
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
    pub harms: Vec<Harm>,
    /// Between two harms, usually.
    pub harm_every: Instant,
    /// How long things go wrong.
    pub trouble: Instant,
    /// How a member is run.
    pub member: member::Options,
    /// Clients that ask for timestamps and ids.
    pub clients: u64,
    /// Between an answer and a client's next question, usually.
    pub think: Instant,
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
        let harms = if dice.happens(300) {
            dice.one_of(HARMS).copied().into_iter().collect()
        } else {
            HARMS.to_vec()
        };
        let mut member = member::Options::default();
        // Often enough that members which were away are brought up by a copy of the state.
        member.copy_after_entries = dice.within(20..200);
        member.keep_entries = dice.within(5..50);
        Self {
            seed,
            members,
            weather,
            harms,
            harm_every: dice.within(300 * MILLISECOND..3 * SECOND),
            trouble: 20 * SECOND,
            member,
            clients: 6,
            think: 15 * MILLISECOND,
            plant: None,
        }
    }

    /// The same with a bug in it.
    #[must_use]
    pub fn with_plant(mut self, plant: Plant) -> Self {
        self.plant = Some(plant);
        match plant {
            Plant::VoteAfterRestart => self.member.lease_ticks = 0,
            Plant::LongLease => self.member.lease_us = 3 * SECOND,
            _ => {}
        }
        self
    }

    /// The world in which the bug is likely: what it needs goes wrong, and often.
    pub fn likely(seed: u64, plant: Plant) -> Self {
        let mut options = Self::of_seed(seed);
        options.weather = Weather::FAIR;
        options.members = 3;
        options.harm_every = 700 * MILLISECOND;
        options.harms = match plant {
            Plant::ReignKept => vec![Harm::HandOver, Harm::SetClock],
            Plant::CounterBeginsAnew => vec![Harm::HandOver],
            Plant::ClockReadBeforeDisk => vec![Harm::SlowDisk, Harm::Isolate],
            Plant::LeaseCheckedFirst | Plant::LeaseUnchecked => vec![Harm::Pause, Harm::Isolate],
            Plant::BoundBeforeSaved => vec![Harm::Isolate, Harm::PowerOff, Harm::SlowDisk],
            Plant::ClockBelieved => vec![Harm::SetClock],
            Plant::EpochUnchecked => vec![Harm::OneWay],
            Plant::IdsOfPredecessor => vec![Harm::HandOver, Harm::Kill],
            Plant::VoteAfterRestart => vec![Harm::Kill, Harm::Isolate],
            Plant::LongLease => vec![Harm::Isolate],
            Plant::AcknowledgeBeforeSync => vec![Harm::PowerOff, Harm::AllOff, Harm::Isolate],
        };
        match plant {
            Plant::CounterBeginsAnew | Plant::BoundBeforeSaved | Plant::IdsOfPredecessor => {
                options.think = MILLISECOND / 2;
            }
            Plant::EpochUnchecked => options.weather = Weather { very_late: 300, ..Weather::FAIR },
            _ => {}
        }
        options
    }
}
