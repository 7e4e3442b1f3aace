//! What goes wrong, in which order and for how long: drawn from the seed alone.
//!
//! Three lanes run side by side, each one mischief after the other, so that a partition meets a
//! killed store. A step names no victim: whoever leads is found when the step begins, and a number
//! drawn beforehand picks among equals. So the schedule of a seed is always the same, and what it
//! meets is not: real processes decide that.

use std::time::Duration;

use tests::sim::dice::Dice;

/// A kind of mischief.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mischief {
    /// SIGKILL for a store, which starts again later.
    KillStore,
    /// SIGKILL for the store that leads a key in use.
    KillLeaderStore,
    /// SIGKILL for two stores: regions may lose their majority.
    KillTwoStores,
    /// SIGKILL for a scheduler member.
    KillMember,
    /// SIGKILL for the scheduler's leader.
    KillLeaderMember,
    /// SIGKILL for everything at once.
    KillAll,
    /// SIGSTOP for a store, shorter than a lease.
    PauseStoreShortly,
    /// SIGSTOP for the store that leads a key in use, longer than a lease and an election.
    PauseLeaderStore,
    /// SIGSTOP for the scheduler's leader, longer than its lease.
    PauseLeaderMember,
    /// What one node sends to one other is lost; the other direction works.
    OneWay,
    /// What the store that leads a key in use sends is lost; it hears the others.
    MuteLeaderStore,
    /// It hears nobody, and is heard: a leader whose followers never answer.
    DeafenLeaderStore,
    /// The same for the scheduler's leader.
    DeafenLeaderMember,
    /// A store hears no other node and is not heard; clients still reach it.
    IsolateStore,
    /// The same for the store that leads a key in use: it must not answer from an old lease.
    IsolateLeaderStore,
    /// The same for the scheduler's leader.
    IsolateLeaderMember,
    /// Nodes fall into two camps.
    Halves,
    /// Nodes lose their links one after the other, and get them back in another order.
    Swizzle,
    /// A region is cut at a key in use.
    Split,
    /// The scheduler's leader hands over to another member.
    HandOver,
}

impl Mischief {
    /// What is done to processes.
    pub(super) const PROCESSES: &[Self] = &[
        Self::KillStore,
        Self::KillLeaderStore,
        Self::KillTwoStores,
        Self::KillMember,
        Self::KillLeaderMember,
        Self::KillAll,
        Self::PauseStoreShortly,
        Self::PauseLeaderStore,
        Self::PauseLeaderMember,
    ];

    /// What is done to links.
    pub(super) const LINKS: &[Self] = &[
        Self::OneWay,
        Self::MuteLeaderStore,
        Self::DeafenLeaderStore,
        Self::DeafenLeaderMember,
        Self::IsolateStore,
        Self::IsolateLeaderStore,
        Self::IsolateLeaderMember,
        Self::Halves,
        Self::Swizzle,
    ];

    /// What an operator might do on the same day.
    pub(super) const TOPOLOGY: &[Self] = &[Self::Split, Self::HandOver];
}

/// One mischief: what, to whom, how long, and how long it is quiet afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) kind: Mischief,
    /// Picks the victim where any would do.
    pub(super) pick: u64,
    pub(super) lasts: Duration,
    pub(super) calm: Duration,
}

/// One lane's endless schedule.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    dice: Dice,
    kinds: &'static [Mischief],
    /// Milliseconds of calm between two steps, from and to.
    calm: (u64, u64),
    /// No step lasts longer: a run of seconds wants more than two of them.
    lasts_max: Duration,
}

impl Lane {
    pub(super) fn new(
        dice: Dice,
        kinds: &'static [Mischief],
        calm: (u64, u64),
        lasts_max: Duration,
    ) -> Self {
        Self { dice, kinds, calm, lasts_max }
    }

    pub(super) fn next(&mut self) -> Step {
        let kind = *self.dice.one_of(self.kinds).expect("a lane has kinds");
        let milliseconds = match kind {
            // A lease is 400 ms by default, an election 500 to 1000.
            Mischief::PauseStoreShortly => self.dice.within(30..350),
            Mischief::PauseLeaderStore | Mischief::PauseLeaderMember => {
                self.dice.within(450..4_000)
            }
            Mischief::KillAll => self.dice.within(0..500),
            Mischief::KillStore
            | Mischief::KillLeaderStore
            | Mischief::KillTwoStores
            | Mischief::KillMember
            | Mischief::KillLeaderMember => self.dice.within(0..5_000),
            Mischief::OneWay
            | Mischief::MuteLeaderStore
            | Mischief::DeafenLeaderStore
            | Mischief::DeafenLeaderMember
            | Mischief::IsolateStore
            | Mischief::IsolateLeaderStore
            | Mischief::IsolateLeaderMember
            | Mischief::Halves
            | Mischief::Swizzle => self.dice.within(300..6_000),
            Mischief::Split | Mischief::HandOver => 0,
        };
        Step {
            kind,
            pick: self.dice.next_u64(),
            lasts: Duration::from_millis(milliseconds).min(self.lasts_max),
            calm: Duration::from_millis(self.dice.within(self.calm.0..self.calm.1)),
        }
    }
}

#[test]
fn a_seed_draws_the_same_schedule_again() {
    for kinds in [Mischief::PROCESSES, Mischief::LINKS, Mischief::TOPOLOGY] {
        let draw = |seed| {
            let mut lane = Lane::new(Dice::new(seed), kinds, (100, 2000), Duration::MAX);
            (0..60).map(|_| lane.next()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        for kind in kinds {
            assert!(draw(7).iter().any(|step| step.kind == *kind), "{kind:?} is never drawn");
        }
    }
}
