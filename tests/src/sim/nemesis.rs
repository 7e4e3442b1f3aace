//! Who hurts whom, and when.
//!
//! A nemesis thinks of mischiefs, each a few acts spread over time that end by undoing themselves;
//! mischiefs overlap. Each seed draws which kinds it uses at all (swarm testing): a run in which
//! everything happens all the time makes no progress and so tests little.
//!
//! Mischiefs are numbered, and what one of them is does not depend on what the others did: a run can be
//! repeated with some of them left out, to see which are needed for a failure.

#![allow(clippy::wildcard_enum_match_arm, reason = "an observer looks for some kinds among many")]

use super::dice::Dice;
use super::events::{Instant, MILLISECOND, SECOND};
use super::life::{Disk, SYNC_USUAL};
use super::mail::OUTSIDE;

/// One thing done to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Messages from the first store no longer reach the second.
    Cut(u64, u64),
    /// They do again.
    Restore(u64, u64),
    /// Messages from the first store to the second take so much longer; 0: no longer so.
    Clog(u64, u64, Instant),
    /// The process dies, the machine lives: everything written is still there.
    Kill(u64),
    /// The power fails: what was not synced may be gone.
    PowerOff(u64),
    /// The store starts again on what its disk holds. Nothing happens if it runs.
    Start(u64),
    /// The process stands still while its clock and the world go on.
    Pause(u64),
    /// It goes on.
    Resume(u64),
    /// Each sync of the log takes about this long from now on.
    SlowLog(u64, Instant),
    /// Applying and background work take so many times as long.
    SlowData(u64, u64),
    /// Nothing on the disk ends.
    Stall(u64, Disk),
    /// Both disks go on.
    Unstall(u64),
    /// After so many operations the disk fails.
    Fail(u64, Disk, u64),
    /// The disks are full.
    Fill(u64),
    /// The disks are whole and have room.
    Mend(u64),
    /// The clock jumps forward.
    Jump(u64, u64),
}

/// A kind of mischief.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mischief {
    /// One store loses all its links to others.
    Isolate,
    /// One link fails in one direction.
    OneWay,
    /// Two camps.
    Halves,
    /// Two camps that share one store.
    Bridge,
    /// Links go one by one, and come back in another order.
    Swizzle,
    /// One store is cut off from clients and scheduler only.
    Unheard,
    /// Links of one store take very long for a while.
    Clog,
    /// One process dies.
    Kill,
    /// One machine loses power.
    PowerOff,
    /// Every machine loses power at once.
    Blackout,
    /// One store dies and is back before anybody noticed.
    Bounce,
    /// One process stands still.
    Pause,
    /// One disk is slow.
    SlowDisk,
    /// One disk stands still, and goes on or loses power.
    StallDisk,
    /// One disk fails at its n-th operation.
    FailDisk,
    /// The disks of one store are full for a while.
    FullDisk,
    /// One clock jumps forward.
    ClockJump,
    /// The link from the leader's side is cut, then another store is bounced: the classical way to
    /// two leaders at once.
    CutThenBounce,
}

/// Every kind.
pub const MISCHIEFS: [Mischief; 18] = [
    Mischief::Isolate,
    Mischief::OneWay,
    Mischief::Halves,
    Mischief::Bridge,
    Mischief::Swizzle,
    Mischief::Unheard,
    Mischief::Clog,
    Mischief::Kill,
    Mischief::PowerOff,
    Mischief::Blackout,
    Mischief::Bounce,
    Mischief::Pause,
    Mischief::SlowDisk,
    Mischief::StallDisk,
    Mischief::FailDisk,
    Mischief::FullDisk,
    Mischief::ClockJump,
    Mischief::CutThenBounce,
];

/// Acts with the time from now until each.
pub type Plan = Vec<(Instant, Act)>;

/// A mischief as it was thought of.
#[derive(Clone, Debug)]
pub struct Thought {
    /// Which one of the run.
    pub number: u32,
    /// What kind.
    pub kind: Mischief,
    /// What is to be done.
    pub plan: Plan,
    /// After how long to think of the next.
    pub pause: Instant,
}

/// Thinks of mischief.
#[derive(Debug)]
pub struct Nemesis {
    dice: Dice,
    kinds: Vec<Mischief>,
    /// Usual time between two mischiefs.
    pause: Instant,
    thoughts: u32,
}

impl Nemesis {
    /// A nemesis with a taste of its own, as far as it is not given.
    pub fn new(mut dice: Dice, kinds: Option<Vec<Mischief>>, pause: Option<Instant>) -> Self {
        let mut drawn = MISCHIEFS.to_vec();
        dice.shuffle(&mut drawn);
        drawn.truncate(dice.within(1..MISCHIEFS.len() as u64 + 1) as usize);
        let drawn_pause = dice.within(600 * MILLISECOND..6 * SECOND);
        let (kinds, pause) = (kinds.unwrap_or(drawn), pause.unwrap_or(drawn_pause));
        Self { dice, kinds, pause, thoughts: 0 }
    }

    /// The next mischief.
    pub fn next(&mut self, stores: &[u64]) -> Thought {
        let kind = *self.dice.one_of(&self.kinds).expect("a nemesis has at least one kind");
        let plan = self.plan(kind, stores);
        let pause = self.dice.within(self.pause / 2..self.pause * 2);
        self.thoughts += 1;
        Thought { number: self.thoughts, kind, plan, pause }
    }

    fn plan(&mut self, kind: Mischief, stores: &[u64]) -> Plan {
        let victim = self.a_store(stores);
        let lasts = self.dice.within(50 * MILLISECOND..3 * SECOND);
        match kind {
            Mischief::Isolate => cut_for(&links_between(&[victim], stores), 0, lasts),
            Mischief::OneWay => {
                let other = self.a_store(stores);
                cut_for(&[(victim, other)], 0, lasts)
            }
            Mischief::Halves => {
                let camp = self.camp(stores);
                cut_for(&links_between(&camp, stores), 0, lasts)
            }
            Mischief::Bridge => {
                let others: Vec<u64> = stores.iter().copied().filter(|s| *s != victim).collect();
                let camp = self.camp(&others);
                cut_for(&links_between(&camp, &others), 0, lasts)
            }
            Mischief::Swizzle => self.swizzle(stores, lasts),
            Mischief::Unheard => cut_for(&[(victim, OUTSIDE), (OUTSIDE, victim)], 0, lasts),
            Mischief::Clog => self.clog(victim, stores, lasts),
            Mischief::Kill => vec![(0, Act::Kill(victim)), (lasts, Act::Start(victim))],
            Mischief::PowerOff => vec![(0, Act::PowerOff(victim)), (lasts, Act::Start(victim))],
            Mischief::Blackout => stores
                .iter()
                .flat_map(|store| {
                    let back = lasts / 4 + self.dice.within(0..SECOND);
                    [(0, Act::PowerOff(*store)), (back, Act::Start(*store))]
                })
                .collect(),
            Mischief::Bounce => self.bounce(victim, 0),
            Mischief::Pause => {
                // Around the length of a lease and of an election timeout, where it matters.
                let lasts = self.dice.within(20 * MILLISECOND..1_500 * MILLISECOND);
                vec![(0, Act::Pause(victim)), (lasts, Act::Resume(victim))]
            }
            Mischief::SlowDisk => self.slow_disk(victim, lasts),
            Mischief::StallDisk => self.stall_disk(victim),
            Mischief::FailDisk => {
                let disk = self.a_disk();
                let operations = self.dice.within(0..60);
                let fail = Act::Fail(victim, disk, operations);
                vec![(0, fail), (lasts, Act::Mend(victim)), (lasts, Act::Start(victim))]
            }
            Mischief::FullDisk => {
                // Whoever looks after the store starts it again and again.
                let vain = self.dice.within(0..lasts);
                vec![
                    (0, Act::Fill(victim)),
                    (vain, Act::Start(victim)),
                    (lasts, Act::Mend(victim)),
                    (lasts + self.dice.within(0..SECOND), Act::Start(victim)),
                ]
            }
            Mischief::ClockJump => {
                let micros = if self.dice.happens(500) {
                    self.dice.within(100 * MILLISECOND..SECOND)
                } else {
                    self.dice.within(SECOND..3_600 * SECOND)
                };
                vec![(0, Act::Jump(victim, micros))]
            }
            Mischief::CutThenBounce => {
                let mut plan = cut_for(&links_between(&[victim], stores), 0, lasts);
                for other in stores.iter().filter(|store| **store != victim) {
                    if self.dice.happens(600) {
                        let after = self.dice.within(0..300 * MILLISECOND);
                        plan.extend(self.bounce(*other, after));
                    }
                }
                plan
            }
        }
    }

    fn bounce(&mut self, victim: u64, after: Instant) -> Plan {
        let down = self.dice.within(0..20 * MILLISECOND);
        let act = if self.dice.happens(500) { Act::Kill(victim) } else { Act::PowerOff(victim) };
        vec![(after, act), (after + down, Act::Start(victim))]
    }

    /// Victims lose their links one by one, and get them back one by one in another order.
    fn swizzle(&mut self, stores: &[u64], lasts: Instant) -> Plan {
        let mut victims = stores.to_vec();
        self.dice.shuffle(&mut victims);
        victims.truncate(self.dice.within(1..stores.len() as u64 + 1) as usize);
        victims
            .iter()
            .flat_map(|victim| {
                let from = self.dice.within(0..lasts);
                let to = lasts + self.dice.within(0..lasts);
                cut_for(&links_between(&[*victim], stores), from, to)
            })
            .collect()
    }

    fn clog(&mut self, victim: u64, stores: &[u64], lasts: Instant) -> Plan {
        let more = self.dice.within(50 * MILLISECOND..3 * SECOND);
        let mut links = links_between(&[victim], stores);
        // One direction only, half the time.
        if self.dice.happens(500) {
            links.retain(|(from, _)| *from == victim);
        }
        let clogs = links.iter().map(|(a, b)| (0, Act::Clog(*a, *b, more)));
        clogs.chain(links.iter().map(|(a, b)| (lasts, Act::Clog(*a, *b, 0)))).collect()
    }

    fn slow_disk(&mut self, victim: u64, lasts: Instant) -> Plan {
        let mut plan = Vec::new();
        let disk = self.a_disk();
        if disk != Disk::Data {
            let sync = self.dice.within(5 * MILLISECOND..300 * MILLISECOND);
            plan.push((0, Act::SlowLog(victim, sync)));
            plan.push((lasts, Act::SlowLog(victim, SYNC_USUAL)));
        }
        if disk != Disk::Log {
            plan.push((0, Act::SlowData(victim, self.dice.within(10..500))));
            plan.push((lasts, Act::SlowData(victim, 1)));
        }
        plan
    }

    fn stall_disk(&mut self, victim: u64) -> Plan {
        let stall = Act::Stall(victim, self.a_disk());
        let lasts = self.dice.within(100 * MILLISECOND..3 * SECOND);
        let mut plan = vec![(0, stall), (lasts, Act::Unstall(victim))];
        if self.dice.happens(500) {
            plan.insert(1, (lasts, Act::PowerOff(victim)));
            plan.push((lasts + self.dice.within(0..SECOND), Act::Start(victim)));
        }
        plan
    }

    fn camp(&mut self, stores: &[u64]) -> Vec<u64> {
        let mut camp = stores.to_vec();
        self.dice.shuffle(&mut camp);
        camp.truncate(stores.len() / 2);
        camp
    }

    fn a_disk(&mut self) -> Disk {
        *self.dice.one_of(&[Disk::Log, Disk::Data, Disk::Both]).expect("three kinds of disks")
    }

    fn a_store(&mut self, stores: &[u64]) -> u64 {
        *self.dice.one_of(stores).expect("a world has stores")
    }
}

/// Both directions of every link between a camp and the stores outside it.
fn links_between(camp: &[u64], stores: &[u64]) -> Vec<(u64, u64)> {
    camp.iter()
        .flat_map(|inside| {
            stores
                .iter()
                .filter(|store| !camp.contains(store))
                .flat_map(|outside| [(*inside, *outside), (*outside, *inside)])
        })
        .collect()
}

fn cut_for(links: &[(u64, u64)], from: Instant, to: Instant) -> Plan {
    let cuts = links.iter().map(|(a, b)| (from, Act::Cut(*a, *b)));
    cuts.chain(links.iter().map(|(a, b)| (to, Act::Restore(*a, *b)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORES: [u64; 4] = [1, 2, 3, 4];

    /// Every kind of mischief, as fifty seeds think of it, its acts in the order of time.
    fn plans() -> impl Iterator<Item = (Mischief, Plan)> {
        (0..50).flat_map(|seed| {
            let mut nemesis = Nemesis::new(Dice::new(seed), None, None);
            MISCHIEFS.map(|kind| {
                let mut plan = nemesis.plan(kind, &STORES);
                plan.sort_by_key(|(at, _)| *at);
                (kind, plan)
            })
        })
    }

    #[test]
    fn every_mischief_undoes_itself() {
        for (kind, plan) in plans() {
            for store in STORES {
                let mut is_up = true;
                let mut is_well = true;
                let mut cuts = 0;
                for (_, act) in &plan {
                    match act {
                        Act::Cut(from, _) if *from == store => cuts += 1,
                        Act::Restore(from, _) if *from == store => cuts -= 1,
                        Act::Clog(from, _, more) if *from == store => is_well = *more == 0,
                        Act::Kill(s) | Act::PowerOff(s) if *s == store => is_up = false,
                        // Its disk may have stopped it.
                        Act::Fill(s) | Act::Fail(s, ..) if *s == store => {
                            (is_up, is_well) = (false, false);
                        }
                        Act::Start(s) if *s == store => is_up = true,
                        Act::Pause(s) | Act::Stall(s, _) if *s == store => is_well = false,
                        Act::Resume(s) | Act::Unstall(s) | Act::Mend(s) if *s == store => {
                            is_well = true;
                        }
                        Act::SlowLog(s, usual) if *s == store => is_well = *usual == SYNC_USUAL,
                        Act::SlowData(s, times) if *s == store => is_well = *times == 1,
                        _ => {}
                    }
                }
                assert!(is_up && is_well && cuts == 0, "{kind:?} of s{store}: {plan:?}");
            }
        }
    }

    #[test]
    fn a_swizzle_takes_links_one_by_one_and_gives_them_back_in_another_order() {
        let is_swizzle = |(kind, _): &(Mischief, Plan)| *kind == Mischief::Swizzle;
        let mut orders = 0;
        for (_, plan) in plans().filter(is_swizzle) {
            let first_of = |what: fn(&Act) -> Option<u64>| {
                let mut seen: Vec<u64> = Vec::new();
                for store in plan.iter().filter_map(|(_, act)| what(act)) {
                    if !seen.contains(&store) {
                        seen.push(store);
                    }
                }
                seen
            };
            let cut = first_of(|act| if let Act::Cut(s, _) = act { Some(*s) } else { None });
            let back = first_of(|act| if let Act::Restore(s, _) = act { Some(*s) } else { None });
            let last_cut = plan.iter().filter(|(_, act)| matches!(act, Act::Cut(..))).map(|p| p.0);
            let first_back =
                plan.iter().filter(|(_, act)| matches!(act, Act::Restore(..))).map(|p| p.0);
            assert!(last_cut.max() <= first_back.min(), "first all go, then all come");
            orders += u32::from(cut != back);
        }
        assert!(orders > 10, "the order of coming back is its own: {orders}");
    }

    #[test]
    fn mischiefs_are_numbered_and_repeat() {
        let think = || {
            let mut nemesis = Nemesis::new(Dice::new(4), None, None);
            (0..9).map(|_| nemesis.next(&STORES)).collect::<Vec<_>>()
        };
        let (one, two) = (think(), think());
        assert!(one.iter().zip(1..).all(|(thought, number)| thought.number == number));
        assert!(one.iter().zip(&two).all(|(a, b)| a.plan == b.plan && a.pause == b.pause));
    }
}
