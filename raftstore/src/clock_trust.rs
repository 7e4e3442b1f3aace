//! May leases be used? Two clocks of one machine are compared, tick by tick.
//!
//! A lease is safe as long as the clocks of any two stores run apart by no more than
//! [`Config::clock_drift_max_ppm`] says. No store can see another's clock. But a machine has clocks that fail in
//! different ways: one that is steered to follow the world's time and goes on while the machine sleeps, and one
//! that is the bare counter. As long as both agree to half of the bound, and one of them is right to the other
//! half, the store's own clock is within it.
//!
//! ```text
//!  own    ├────────────────────┤ … as many microseconds as the other has counted?
//!  other  ├──────────────────────┤     no: own is slow, and its leases are too long
//!       base                  reading
//! ```
//!
//! | seen | then |
//! |---|---|
//! | the clocks ran apart by more than half of the bound since the window's base | no leases until [`DOUBT_MICROS`] after it was last seen |
//! | own runs fast | besides, a tick is one only when the other clock says so too: others count on this store's patience |
//! | two readings are further apart than half a lease, and than was planned | no leases for a lease: the process stood still, and nobody knows what the machine did meanwhile |
//!
//! Without leases every read asks a quorum, and is as right as ever, only slower.
//!
//! A window is [`WINDOW_MICROS`] long, so that errors far below the bound do not add up. A clock that suddenly
//! goes wrong is noticed at the next tick. A reading whose two halves were taken too far apart says nothing and
//! is passed over.
//!
//! Left out: both clocks standing still together, as when a virtual machine is moved. The patience that a
//! restarted store owes to leases it has promised is measured on its own clock only.

use crate::config::Config;
use crate::msg::Now;

/// Errors below the bound are forgotten after so long, in microseconds.
const WINDOW_MICROS: u64 = 5_000_000;

/// So long after clocks were last seen to run apart leases are used again, in microseconds.
const DOUBT_MICROS: u64 = 30_000_000;

/// A reading whose halves are further apart than this, in microseconds, is not compared.
const APART_MICROS_MAX: u64 = 1_000;

/// Both clocks, read one right after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The store's own clock, by which leases and ticks are told.
    pub own: Now,
    /// The other one, if there is one.
    pub other: Option<Now>,
    /// So many microseconds may lie between the two.
    pub apart: u64,
}

/// Why leases are not to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The own clock ran slow by so many parts in a million.
    Slow(u64),
    /// The own clock ran fast by so many parts in a million.
    Fast(u64),
    /// So many microseconds lie between two readings.
    Paused(u64),
}

impl std::fmt::Display for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Slow(ppm) => write!(f, "the clock runs slow by {ppm} ppm"),
            Self::Fast(ppm) => write!(f, "the clock runs fast by {ppm} ppm"),
            Self::Paused(micros) => write!(f, "the process stood still for {} ms", micros / 1000),
        }
    }
}

/// What follows from a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether leases may be used.
    pub trusts: bool,
    /// So many ticks have passed, on both clocks.
    pub ticks: u64,
    /// Why leases may not be used from now on; told once, when it begins.
    pub doubt: Option<Doubt>,
}

/// Judges the clocks of one store.
#[derive(Clone, Debug)]
pub struct ClockTrust {
    is_allowed: bool,
    drift_max_ppm: u64,
    pause_micros_max: u64,
    lease_micros: u64,
    tick_micros: u64,
    tick_micros_min: u64,
    /// Where the window begins.
    base: Option<Reading>,
    last: Option<Now>,
    /// When the last tick was, on the other clock.
    ticked: Option<Now>,
    doubts_until: Option<Now>,
}

impl ClockTrust {
    /// Nothing is known, and so nothing is doubted.
    pub fn new(config: &Config) -> Self {
        let lease_micros = config.lease_micros();
        Self {
            is_allowed: config.leases,
            drift_max_ppm: config.clock_drift_max_ppm() / 2,
            pause_micros_max: lease_micros / 2,
            lease_micros,
            tick_micros: config.tick_micros(),
            tick_micros_min: config.tick_micros() / 10 * 9,
            base: None,
            last: None,
            ticked: None,
            doubts_until: None,
        }
    }

    /// Takes a reading: once when the store opens, and whenever the own clock says that ticks have passed. So
    /// many are wanted, of which the last was due `late` microseconds before the reading.
    pub fn judge(&mut self, reading: Reading, wanted: u64, late: u64) -> Verdict {
        let own = reading.own;
        // More than a tick late is a pause.
        let late = late.min(self.tick_micros);
        // A store that has nothing to do for some ticks says so before, and sleeps.
        let planned = (wanted + 1) * self.tick_micros + late;
        let pause_micros_max = self.pause_micros_max.max(planned);
        let paused = self.last.map(|last| own.since(last)).filter(|gap| *gap > pause_micros_max);
        let ran_apart = self.compare(reading);
        let doubt = ran_apart.or(paused.map(Doubt::Paused));
        let trusted = self.doubts_until.is_none();
        if let Some(doubt) = doubt {
            let lasts = match doubt {
                Doubt::Slow(_) | Doubt::Fast(_) => DOUBT_MICROS,
                Doubt::Paused(_) => self.lease_micros,
            };
            self.doubts_until = self.doubts_until.max(Some(own.plus(lasts)));
        }
        self.doubts_until.take_if(|until| *until <= own);
        self.last = Some(own);
        Verdict {
            trusts: self.is_allowed && self.doubts_until.is_none(),
            ticks: self.ticks(reading, wanted, late),
            doubt: doubt.filter(|_| trusted),
        }
    }

    /// Whether the clocks ran apart since the window's base by more than they may.
    fn compare(&mut self, reading: Reading) -> Option<Doubt> {
        let other = reading.other.filter(|_| reading.apart <= APART_MICROS_MAX)?;
        let Some((base, base_other)) = self.base.and_then(|base| Some((base, base.other?))) else {
            self.base = Some(reading);
            return None;
        };
        let (by_own, by_other) = (reading.own.since(base.own), other.since(base_other));
        let apart = by_own.abs_diff(by_other);
        let allowed = u128::from(by_own.max(by_other)) * u128::from(self.drift_max_ppm) / 1_000_000;
        // A microsecond is cut off at each end.
        let allowed = allowed as u64 + base.apart + reading.apart + 2;
        let is_over = by_own.max(by_other) >= WINDOW_MICROS;
        if is_over || apart > allowed {
            self.base = Some(reading);
        }
        let ppm = u128::from(apart) * 1_000_000 / u128::from(by_other.max(1));
        let ppm = u64::try_from(ppm).unwrap_or(u64::MAX);
        (apart > allowed).then_some(if by_own < by_other {
            Doubt::Slow(ppm)
        } else {
            Doubt::Fast(ppm)
        })
    }

    fn ticks(&mut self, reading: Reading, wanted: u64, late: u64) -> u64 {
        let Some(other) = reading.other else { return wanted };
        let Some(ticked) = self.ticked else {
            self.ticked = Some(other);
            return wanted;
        };
        let passed = other.since(ticked);
        let ticks = ((passed + reading.apart) / self.tick_micros_min).min(wanted);
        if ticks > 0 {
            // What has passed of the next tick counts for it. No more than that: others count on so many
            // ticks taking so long, whenever they begin to count.
            let begun = passed.saturating_sub(ticks * self.tick_micros).min(late);
            self.ticked = Some(Now(other.0 - begun));
        }
        ticks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: u64 = 50_000;

    /// Readings at every tick of an own clock that runs at this rate, in millionths of the other's; returns
    /// after how many ticks which doubt is told, whether leases are used then, and how many were ticks.
    fn run(rate: u64, ticks: u64) -> (Option<(u64, Doubt)>, bool, u64) {
        let mut trust = ClockTrust::new(&Config::default());
        let (mut told, mut counted, mut trusts) = (None, 0, true);
        for tick in 0..=ticks {
            let own = 1_000_000 + tick * TICK;
            let other = 77_000_000 + tick * TICK * 1_000_000 / rate;
            let verdict =
                trust.judge(Reading { own: Now(own), other: Some(Now(other)), apart: 20 }, 1, 0);
            told = told.or(verdict.doubt.map(|doubt| (tick, doubt)));
            trusts = verdict.trusts;
            counted += verdict.ticks;
        }
        (told, trusts, counted)
    }

    #[test]
    fn bug_l5_clocks_within_half_the_bound_are_trusted_and_no_others() {
        let bound = Config::default().clock_drift_max_ppm();
        assert_eq!(bound, 6211);
        for within in [1_000_000, 1_000_500, 999_500, 1_000_000 + bound / 2, 1_000_000 - bound / 2]
        {
            assert_eq!(run(within, 400), (None, true, 401), "{within}");
        }
        // The nearer to the bound, the longer it takes to be sure; never longer than a window.
        for (rate, at_most) in [(1_004_000, 100), (996_000, 100), (1_050_000, 2), (950_000, 2)] {
            let (told, trusts, _) = run(rate, 400);
            let (tick, doubt) = told.unwrap();
            assert!(tick <= at_most, "{rate} was noticed after {tick} ticks");
            assert_eq!(matches!(doubt, Doubt::Slow(_)), rate < 1_000_000, "{doubt}");
            assert!(!trusts);
        }
    }

    #[test]
    fn bug_l5_a_clock_at_half_or_double_speed_is_noticed_at_the_first_tick() {
        let (told, trusts, _) = run(500_000, 40);
        assert_eq!(told, Some((1, Doubt::Slow(500_000))));
        assert!(!trusts);
        let (told, trusts, counted) = run(2_000_000, 40);
        assert_eq!(told, Some((1, Doubt::Fast(1_000_000))));
        assert!(!trusts);
        assert_eq!(counted, 21, "every other tick is none");
    }

    #[test]
    fn bug_l5_after_a_pause_leases_are_not_used_for_as_long_as_one_lasts() {
        let mut trust = ClockTrust::new(&Config::default());
        let mut at = |micros: u64| {
            let both = Now(micros);
            let verdict = trust.judge(Reading { own: both, other: Some(both), apart: 0 }, 1, 0);
            (verdict.trusts, verdict.doubt)
        };
        assert_eq!(at(0), (true, None));
        assert_eq!(at(200_000), (true, None), "half a lease");
        assert_eq!(at(400_001), (false, Some(Doubt::Paused(200_001))));
        assert_eq!(at(600_000), (false, None), "told once");
        assert_eq!(at(800_000), (false, None));
        assert_eq!(at(800_001), (true, None));
    }

    #[test]
    fn a_machine_that_slept_is_found_out_by_the_clock_that_did_not_count() {
        let mut trust = ClockTrust::new(&Config::default());
        let mut at = |own: u64, other: u64| {
            trust.judge(Reading { own: Now(own), other: Some(Now(other)), apart: 0 }, 1, 0)
        };
        assert!(at(0, 0).trusts);
        let woken = at(3_600_000_000, 10_000);
        assert!(matches!(woken.doubt, Some(Doubt::Fast(_))) && !woken.trusts && woken.ticks == 0);
        // Trust comes back, half a minute later.
        let mut ticks = 0u64;
        while !at(3_600_000_000 + ticks * TICK, 10_000 + ticks * TICK).trusts {
            ticks += 1;
        }
        assert_eq!(ticks, DOUBT_MICROS / TICK);
    }

    #[test]
    fn a_reading_that_was_interrupted_says_nothing() {
        let mut trust = ClockTrust::new(&Config::default());
        let mut at = |own: u64, other: u64, apart: u64| {
            trust.judge(Reading { own: Now(own), other: Some(Now(other)), apart }, 1, 0).doubt
        };
        assert_eq!(at(0, 0, 0), None);
        assert_eq!(at(TICK, TICK + 9_000, 9_000), None);
        assert_eq!(at(2 * TICK, 2 * TICK, 10), None);
        assert!(at(3 * TICK, 3 * TICK + 900, 900).is_none(), "it may be the reading's fault");
        assert!(at(4 * TICK, 4 * TICK + 3_000, 10).is_some());
    }

    #[test]
    fn a_single_clock_is_believed_but_for_its_pauses() {
        let mut trust = ClockTrust::new(&Config::default());
        let mut at = |own: u64| trust.judge(Reading { own: Now(own), other: None, apart: 0 }, 1, 0);
        assert!(
            (0..100).all(|tick| at(tick * TICK) == Verdict { trusts: true, ticks: 1, doubt: None })
        );
        assert!(!at(10_000_000).trusts);
    }

    #[test]
    fn ticks_that_were_slept_through_count_on_both_clocks() {
        let mut trust = ClockTrust::new(&Config::default());
        let mut at = |own: u64, other: u64, wanted: u64| {
            trust.judge(Reading { own: Now(own), other: Some(Now(other)), apart: 0 }, wanted, 0)
        };
        at(0, 0, 1);
        let slept = at(5 * TICK, 5 * TICK, 5);
        assert_eq!(slept, Verdict { trusts: true, ticks: 5, doubt: None }, "it was planned");
        // The other clock says that less has passed: the machine slept, not the store.
        assert_eq!(at(9 * TICK, 7 * TICK, 4).ticks, 2);
    }

    /// As the raft worker asks: for the ticks in which nothing was due, and then for the one that is.
    #[test]
    fn a_store_that_sleeps_as_it_planned_loses_neither_leases_nor_ticks() {
        const SLACK: u64 = 60;
        for planned in 1..=5 {
            let mut trust = ClockTrust::new(&Config::default());
            let mut counted = 0;
            let mut at = |micros: u64, wanted: u64, late: u64| {
                let (own, other) = (Now(micros), Some(Now(micros)));
                let verdict = trust.judge(Reading { own, other, apart: 0 }, wanted, late);
                assert_eq!((verdict.trusts, verdict.doubt), (true, None), "{planned}, {micros}");
                counted += verdict.ticks;
            };
            at(0, 1, 0);
            let idle = planned - 1;
            let mut ticked = 0;
            for round in 0..100 {
                // Every other sleep is cut short by a message, in the last tick.
                if idle > 0 && round % 2 == 0 {
                    let late = TICK / 10 * 9;
                    at(ticked + idle * TICK + late, idle, late);
                } else if idle > 0 {
                    at(ticked + planned * TICK + SLACK, idle, TICK + SLACK);
                }
                ticked += planned * TICK + SLACK + 5;
                at(ticked, 1, 0);
            }
            assert_eq!(counted, 1 + 100 * planned);
        }
    }

    #[test]
    fn bug_l5_a_clock_that_runs_fast_wins_no_ticks_by_being_asked_between_them() {
        let mut trust = ClockTrust::new(&Config::default());
        let mut counted = 0;
        let ask = |trust: &mut ClockTrust, own: u64, wanted: u64, late: u64| {
            let reading = Reading { own: Now(own), other: Some(Now(own / 2)), apart: 0 };
            trust.judge(reading, wanted, late).ticks
        };
        ask(&mut trust, 0, 1, 0);
        // Three ticks pass by the own clock: asked after nine tenths of the third, and at its end.
        for round in 0..100 {
            let begin = round * 3 * TICK;
            counted += ask(&mut trust, begin + 2 * TICK + TICK / 10 * 9, 2, TICK / 10 * 9);
            counted += ask(&mut trust, begin + 3 * TICK, 1, 0);
        }
        assert!(counted <= 300 / 2 * 10 / 9, "{counted} of 150");
    }

    #[test]
    fn a_gap_that_was_not_planned_is_a_pause() {
        for (gap, wanted, late, is_pause) in
            [(6, 5, 0, false), (6, 4, 2, false), (6, 1, 0, true), (20, 4, 16, true)]
        {
            let mut trust = ClockTrust::new(&Config::default());
            let mut at = |micros: u64, wanted: u64, late: u64| {
                let both = Now(micros);
                trust.judge(Reading { own: both, other: Some(both), apart: 0 }, wanted, late)
            };
            at(0, 1, 0);
            let verdict = at(gap * TICK, wanted, late * TICK);
            let doubt = is_pause.then_some(Doubt::Paused(gap * TICK));
            assert_eq!((verdict.doubt, verdict.trusts), (doubt, !is_pause), "{gap}");
        }
    }
}
