//! Who hurts whom, and when.
//!
//! A nemesis thinks of mischiefs, each a few acts spread over time that end by undoing themselves;
//! mischiefs overlap. Each seed draws which kinds it uses at all (swarm testing): a run in which
//! everything happens all the time makes no progress and so tests little.

use super::dice::Dice;
use super::events::{Instant, MILLISECOND, SECOND};

/// One thing done to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Messages from the first store no longer reach the second.
    Cut(u64, u64),
    /// They do again.
    Restore(u64, u64),
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
    /// Each sync takes about this long from now on.
    Disk(u64, Instant),
}

/// A kind of mischief.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mischief {
    /// One store loses all its links.
    Isolate,
    /// One link fails in one direction.
    OneWay,
    /// Two camps.
    Halves,
    /// Links go one by one, and come back in another order.
    Swizzle,
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
    /// The link from the leader's side is cut, then another store is bounced: the classical way to
    /// two leaders at once.
    CutThenBounce,
}

const MISCHIEFS: [Mischief; 11] = [
    Mischief::Isolate,
    Mischief::OneWay,
    Mischief::Halves,
    Mischief::Swizzle,
    Mischief::Kill,
    Mischief::PowerOff,
    Mischief::Blackout,
    Mischief::Bounce,
    Mischief::Pause,
    Mischief::SlowDisk,
    Mischief::CutThenBounce,
];

/// How long a sync takes on a healthy disk.
pub const SYNC_USUAL: Instant = MILLISECOND;

/// Acts with the time from now until each.
pub type Plan = Vec<(Instant, Act)>;

/// Thinks of mischief.
#[derive(Debug)]
pub struct Nemesis {
    dice: Dice,
    kinds: Vec<Mischief>,
    /// Usual time between two mischiefs.
    pause: Instant,
}

impl Nemesis {
    /// A nemesis with a taste of its own, as far as it is not given.
    pub fn new(mut dice: Dice, kinds: Option<Vec<Mischief>>, pause: Option<Instant>) -> Self {
        let mut drawn = MISCHIEFS.to_vec();
        dice.shuffle(&mut drawn);
        drawn.truncate(dice.within(1..MISCHIEFS.len() as u64 + 1) as usize);
        let drawn_pause = dice.within(300 * MILLISECOND..4 * SECOND);
        Self { dice, kinds: kinds.unwrap_or(drawn), pause: pause.unwrap_or(drawn_pause) }
    }

    /// The next mischief, and after how long to ask again.
    pub fn next(&mut self, stores: &[u64]) -> (Plan, Instant) {
        let kind = *self.dice.one_of(&self.kinds).expect("a nemesis has at least one kind");
        let plan = self.plan(kind, stores);
        (plan, self.dice.within(self.pause / 2..self.pause * 2))
    }

    fn plan(&mut self, kind: Mischief, stores: &[u64]) -> Plan {
        let victim = self.a_store(stores);
        let lasts = self.dice.within(50 * MILLISECOND..4 * SECOND);
        match kind {
            Mischief::Isolate => cut_for(&links_between(&[victim], stores), 0, lasts),
            Mischief::OneWay => {
                let other = self.a_store(stores);
                cut_for(&[(victim, other)], 0, lasts)
            }
            Mischief::Halves => {
                let mut shuffled = stores.to_vec();
                self.dice.shuffle(&mut shuffled);
                let camp = shuffled.len() / 2;
                cut_for(&links_between(&shuffled[..camp], stores), 0, lasts)
            }
            Mischief::Swizzle => self.swizzle(stores, lasts),
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
            Mischief::SlowDisk => {
                let sync = self.dice.within(5 * MILLISECOND..300 * MILLISECOND);
                vec![(0, Act::Disk(victim, sync)), (lasts, Act::Disk(victim, SYNC_USUAL))]
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

    #[test]
    fn every_mischief_undoes_itself() {
        for seed in 0..50 {
            let mut nemesis = Nemesis::new(Dice::new(seed), None, None);
            for kind in MISCHIEFS {
                let mut plan = nemesis.plan(kind, &[1, 2, 3]);
                plan.sort_by_key(|(at, _)| *at);
                let count =
                    |test: fn(&Act) -> bool| plan.iter().filter(|(_, act)| test(act)).count();
                assert_eq!(
                    count(|act| matches!(act, Act::Cut(..))),
                    count(|act| matches!(act, Act::Restore(..))),
                );
                assert_eq!(
                    count(|act| matches!(act, Act::Kill(_) | Act::PowerOff(_))),
                    count(|act| matches!(act, Act::Start(_))),
                );
            }
        }
    }
}
