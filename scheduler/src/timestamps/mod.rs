//! Ordered timestamps, reserved ahead on disk.
//!
//! A timestamp is a millisecond and a counter within it. Only the leader of the scheduler group
//! hands them out, from memory; what makes that safe over crashes is the *bound*, a millisecond
//! saved through the group's log before any timestamp at or past it may leave.
//!
//! ```text
//!        served from memory            reserved, not yet served          not ours to serve
//! ──────────────────────────┤·······································├──────────────────────►
//!                        physical                                 bound                   ms
//! ```
//!
//! A new leader starts *at* the saved bound or at its clock, whichever is later, and so above
//! everything any leader before it can have served.
//!
//! Invariants
//! - Every granted timestamp is larger than every one granted before it, here or elsewhere.
//! - `physical < bound` whenever something is granted.
//! - One value of this type lives for one leadership. A leader that comes back begins anew from
//!   the saved bound and never goes on with what it remembered.
//!
//! The clock is a guest here. It may stand still, go back or leap: going back holds the
//! physical part (the counter goes on, and overflows into the next millisecond); a leap forward
//! is followed only at twice real time, so a clock that was wrong for a moment does not push
//! the whole cluster's time far into the future for ever.
//!
//! A new leader has nothing to hold its clock against: nobody may have asked for timestamps for days,
//! and then the bound is old. It believes its clock. When that lies more than [`LEAP_ALERT_MS`] past
//! the bound it says so, as a clock that is set does ([`ClockNews`]): timestamps never go back, so a
//! wrong clock is for people to see while little rests on it.
//!
//! Left out: timestamps per data centre, and suffix bits.

use std::fmt;

use proto::Timestamp;
use proto::timestamp::LOGICAL_BITS;

use crate::cluster::Moment;

/// How far ahead of the clock the bound is saved. A leader that crashes wastes at most this much
/// of the millisecond axis; a longer window means fewer writes to the group's log.
pub const WINDOW_MS: u64 = 5_000;

/// The bound is renewed in the background when less than this is left: the group then has this
/// long to make it durable before a request must wait.
pub const RENEW_WHEN_LEFT_MS: u64 = 2_000;

/// How far the served millisecond may lag behind the clock rather than wait for a new bound. A
/// larger lag would make locks look younger than they are.
pub const LAG_MAX_MS: u64 = 50;

/// A clock that differs by more than this from where steady time says it should be has been set,
/// not adjusted: it is not believed at once.
pub const CLOCK_STEP_MAX_MS: u64 = 1_000;

/// A new leader says so when its clock lies further than this past the bound that it finds: a day. A
/// cluster that was asked for timestamps meanwhile was never so far behind.
pub const LEAP_ALERT_MS: u64 = 24 * 60 * 60 * 1_000;

/// Timestamps one request may ask for. More than this does not fit into a millisecond and is
/// refused.
pub const COUNT_MAX: u32 = (1 << LOGICAL_BITS) - 1;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `count` timestamps, all of one millisecond; `last` is the largest of them.
    Granted {
        /// The others are the `count - 1` right below it.
        last: Timestamp,
    },
    /// Nothing was granted. Save this bound through the group, say so with
    /// [`Timestamps::bound_saved`], and ask again.
    NeedBound(u64),
    /// Nothing was granted, and why.
    Refused(Refused),
}

/// Why no timestamps are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Zero timestamps were asked for. A mistake of the caller.
    CountNotPositive,
    /// More than [`COUNT_MAX`] were asked for. Ask for fewer at a time.
    CountTooLarge,
    /// So many were handed out that the served time has run a whole window ahead of the clock.
    /// Wait some milliseconds and ask again.
    AheadOfClock,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Clients of PD know this text.
            Self::CountNotPositive => f.write_str("tso count should be positive"),
            Self::CountTooLarge => write!(f, "tso count should be at most {COUNT_MAX}"),
            Self::AheadOfClock => f.write_str("timestamps have run ahead of the clock"),
        }
    }
}

/// Something about the clock that people should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockNews {
    /// At the beginning of a leadership it lay this far past the bound, in milliseconds, and was believed.
    Leapt(u64),
    /// It has been set by this much, in milliseconds, and is not followed at once.
    Set(i64),
    /// It is right again, or caught up with.
    Right,
}

impl fmt::Display for ClockNews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leapt(ms) => {
                write!(f, "timestamps leap {ms} ms ahead with the clock of a new leader")
            }
            Self::Set(ms) => write!(f, "the clock is off by {ms} ms and is not believed"),
            Self::Right => f.write_str("the clock is right again"),
        }
    }
}

/// Hands out timestamps for one leadership.
#[derive(Clone, Debug)]
pub struct Timestamps {
    /// The millisecond being served.
    physical_ms: u64,
    /// The counter of the last timestamp granted in that millisecond; 0 when there is none yet.
    logical: u64,
    /// Durable; timestamps at or past this millisecond may not be granted.
    bound_ms: u64,
    /// What time it is, as far as we believe the clock. Never goes back.
    believed_ms: u64,
    /// The steady time at which `believed_ms` was right.
    believed_at_steady_ms: u64,
    /// How far the clock differs from what we believe, when it has been set.
    clock_step_ms: i64,
    /// What nobody was told of yet.
    leapt: Option<ClockNews>,
    /// Whether people were told that the clock has been set.
    is_set_told: bool,
    /// Whether anything was asked for since the bound was last saved: an idle scheduler does not
    /// write to its log.
    in_demand: bool,
}

impl Timestamps {
    /// Begins a leadership. `saved_bound_ms` is the bound in the group's replicated state, read
    /// after everything committed under earlier leaders has been applied.
    pub fn begin(saved_bound_ms: u64, moment: Moment) -> Self {
        let start_ms = saved_bound_ms.max(moment.wall_ms);
        let leap_ms = start_ms - saved_bound_ms;
        // A new cluster has no bound yet.
        let is_leap = saved_bound_ms > 0 && leap_ms > LEAP_ALERT_MS;
        Self {
            physical_ms: saved_bound_ms,
            logical: 0,
            bound_ms: saved_bound_ms,
            believed_ms: start_ms,
            believed_at_steady_ms: moment.steady_ms,
            clock_step_ms: 0,
            leapt: is_leap.then_some(ClockNews::Leapt(leap_ms)),
            is_set_told: false,
            in_demand: true,
        }
    }

    /// Grants `count` timestamps. The caller checks that its lease still holds *after* this and
    /// before it answers: what is granted here and not sent is merely a gap.
    pub fn grant(&mut self, count: u32, moment: Moment) -> Answer {
        if count == 0 {
            return Answer::Refused(Refused::CountNotPositive);
        }
        if count > COUNT_MAX {
            return Answer::Refused(Refused::CountTooLarge);
        }
        self.in_demand = true;
        let now_ms = self.believe(moment);
        // Nothing is reserved, or so little that serving it would lag behind the clock.
        if self.bound_ms <= self.physical_ms || now_ms >= self.bound_ms + LAG_MAX_MS {
            return Answer::NeedBound(self.next_bound(now_ms));
        }
        // A request that finds the clock just past the bound is served below it; the lag is small.
        let clock_ms = now_ms.min(self.bound_ms - 1);
        if clock_ms > self.physical_ms {
            self.physical_ms = clock_ms;
            self.logical = 0;
        }
        let mut physical_ms = self.physical_ms;
        let mut last = self.logical + u64::from(count);
        if last >= 1 << LOGICAL_BITS {
            physical_ms += 1;
            last = u64::from(count);
        }
        if physical_ms >= self.bound_ms {
            let bound_ms = self.next_bound(now_ms);
            return if physical_ms < bound_ms {
                Answer::NeedBound(bound_ms)
            } else {
                Answer::Refused(Refused::AheadOfClock)
            };
        }
        (self.physical_ms, self.logical) = (physical_ms, last);
        Answer::Granted { last: Timestamp::new(physical_ms, last) }
    }

    /// A bound to save in the background, before a request must wait for it; `None` while enough
    /// is reserved or nobody asks for timestamps. Call it on every tick.
    pub fn wants_bound(&mut self, moment: Moment) -> Option<u64> {
        let now_ms = self.believe(moment);
        let runs_short = self.bound_ms < now_ms.max(self.physical_ms) + RENEW_WHEN_LEFT_MS;
        let bound_ms = self.next_bound(now_ms);
        (self.in_demand && runs_short && bound_ms > self.bound_ms).then_some(bound_ms)
    }

    /// The bound is durable on a quorum. Answers may come late and out of order; an older bound
    /// changes nothing.
    pub fn bound_saved(&mut self, bound_ms: u64) {
        if bound_ms > self.bound_ms {
            self.bound_ms = bound_ms;
            self.in_demand = false;
        }
    }

    /// The durable bound.
    pub fn bound_ms(&self) -> u64 {
        self.bound_ms
    }

    /// By how much the clock is off from the time served, when somebody has set it. Zero in good
    /// health.
    pub fn clock_step_ms(&self) -> i64 {
        self.clock_step_ms
    }

    /// What people should know of the clock and were not told yet. Call it on every tick, after
    /// [`Self::wants_bound`].
    pub fn clock_news(&mut self) -> Option<ClockNews> {
        let leapt = self.leapt.take();
        if leapt.is_some() {
            return leapt;
        }
        let is_set = self.clock_step_ms != 0;
        if is_set == self.is_set_told {
            return None;
        }
        self.is_set_told = is_set;
        Some(if is_set { ClockNews::Set(self.clock_step_ms) } else { ClockNews::Right })
    }

    fn next_bound(&self, now_ms: u64) -> u64 {
        // Never from `physical_ms`, which a greedy client drives: the clock alone opens windows.
        // At the start of a leadership `now_ms` is not below the bound that was found.
        now_ms + WINDOW_MS
    }

    /// What time it is: the clock, unless it has been set.
    fn believe(&mut self, moment: Moment) -> u64 {
        let elapsed_ms = moment.steady_ms.saturating_sub(self.believed_at_steady_ms);
        self.believed_at_steady_ms = self.believed_at_steady_ms.max(moment.steady_ms);
        let expected_ms = self.believed_ms + elapsed_ms;
        let wall_ms = moment.wall_ms;
        self.clock_step_ms = 0;
        if wall_ms > expected_ms + CLOCK_STEP_MAX_MS {
            // Set forward: follow at twice real time until it is caught up with.
            self.clock_step_ms = i64::try_from(wall_ms - expected_ms).unwrap_or(i64::MAX);
            self.believed_ms = expected_ms + elapsed_ms;
        } else if wall_ms + CLOCK_STEP_MAX_MS < expected_ms {
            // Set back: go on without it, or locks would not expire until it is back.
            self.clock_step_ms = -i64::try_from(expected_ms - wall_ms).unwrap_or(i64::MAX);
            self.believed_ms = expected_ms;
        } else {
            self.believed_ms = self.believed_ms.max(wall_ms);
        }
        self.believed_ms
    }
}

#[cfg(test)]
mod script;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment { steady_ms: ms, wall_ms: 1_000_000 + ms }
    }

    /// As the shell does: save what is asked for and try again.
    fn granted(timestamps: &mut Timestamps, count: u32, moment: Moment) -> Timestamp {
        for _ in 0..2 {
            match timestamps.grant(count, moment) {
                Answer::Granted { last } => return last,
                Answer::NeedBound(bound_ms) => timestamps.bound_saved(bound_ms),
                Answer::Refused(why) => panic!("{why}"),
            }
        }
        panic!("a saved bound was not enough");
    }

    #[test]
    fn nothing_is_granted_before_a_bound_is_saved() {
        let mut timestamps = Timestamps::begin(0, at(0));
        assert_eq!(timestamps.grant(1, at(0)), Answer::NeedBound(1_005_000));
        assert_eq!(timestamps.grant(1, at(0)), Answer::NeedBound(1_005_000));
        timestamps.bound_saved(1_005_000);
        assert_eq!(
            timestamps.grant(1, at(0)),
            Answer::Granted { last: Timestamp::new(1_000_000, 1) }
        );
    }

    /// S1.7: where a millisecond is full the next one is used at once: a million timestamps of one moment are
    /// granted, and none twice.
    #[test]
    fn a_million_in_one_millisecond_are_unique() {
        let mut timestamps = Timestamps::begin(0, at(0));
        let mut before = Timestamp::ZERO;
        for _ in 0..1_000 {
            let last = granted(&mut timestamps, 1_000, at(0));
            assert!(before.0 < last.0 - 999, "{before} then {last}");
            assert!(last.logical() >= 1_000, "the whole block lies in one millisecond");
            before = last;
        }
        assert_eq!(before.physical(), 1_000_003);
    }

    #[test]
    fn a_count_of_zero_or_beyond_a_millisecond_is_refused() {
        let mut timestamps = Timestamps::begin(0, at(0));
        assert_eq!(timestamps.grant(0, at(0)), Answer::Refused(Refused::CountNotPositive));
        assert_eq!(timestamps.grant(262_144, at(0)), Answer::Refused(Refused::CountTooLarge));
        assert_eq!(granted(&mut timestamps, COUNT_MAX, at(0)).logical(), 262_143);
    }

    #[test]
    fn a_greedy_client_cannot_run_further_ahead_than_one_window() {
        let mut timestamps = Timestamps::begin(0, at(0));
        granted(&mut timestamps, COUNT_MAX, at(0));
        let mut served = 1;
        while let Answer::Granted { .. } = timestamps.grant(COUNT_MAX, at(0)) {
            served += 1;
        }
        assert_eq!(served, WINDOW_MS);
        assert_eq!(timestamps.grant(COUNT_MAX, at(0)), Answer::Refused(Refused::AheadOfClock));
        assert!(granted(&mut timestamps, COUNT_MAX, at(10)).physical() > 1_000_000);
    }

    /// S0.23: nobody waits until the clock has passed what was saved: the saved bound is where a new leader begins,
    /// and so above all that was served, though its clock is behind.
    #[test]
    fn a_new_leader_whose_clock_is_behind_starts_above_the_old_one() {
        let mut old = Timestamps::begin(0, at(60_000));
        let served = granted(&mut old, 10, at(60_000));
        // The new leader's clock is a minute behind.
        let mut new = Timestamps::begin(old.bound_ms(), at(0));
        let first = granted(&mut new, 1, at(0));
        assert!(first > served);
        assert_eq!(first.physical(), old.bound_ms());
    }

    #[test]
    fn leadership_regained_does_not_go_on_from_memory() {
        let mut first = Timestamps::begin(0, at(0));
        granted(&mut first, 1, at(0));
        let mut second = Timestamps::begin(first.bound_ms(), at(1_000));
        let between = granted(&mut second, 1, at(1_000));
        let mut again = Timestamps::begin(second.bound_ms(), at(1_100));
        assert!(granted(&mut again, 1, at(1_100)) > between);
    }

    #[test]
    fn a_clock_set_back_an_hour_changes_nothing() {
        let mut timestamps = Timestamps::begin(0, at(0));
        let before = granted(&mut timestamps, 1, at(0));
        let back = |ms| Moment { steady_ms: ms, wall_ms: ms };
        let after = granted(&mut timestamps, 1, back(1_500));
        assert!(after > before);
        assert_eq!(after.physical(), 1_001_500, "time goes on with the steady clock");
        assert!(timestamps.clock_step_ms() < 0);
    }

    #[test]
    fn a_clock_set_forward_a_year_is_followed_slowly() {
        let year_ms = 365 * 86_400_000;
        let leapt = |ms: u64| Moment { steady_ms: ms, wall_ms: 1_000_000 + year_ms + ms };
        let mut timestamps = Timestamps::begin(0, at(0));
        granted(&mut timestamps, 1, at(0));
        let after = granted(&mut timestamps, 1, leapt(1_000));
        assert_eq!(after.physical(), 1_002_000, "twice real time");
        assert!(timestamps.clock_step_ms() > 0);
        // Put right again a second later: no harm done, and never backwards.
        let right = granted(&mut timestamps, 1, at(2_000));
        assert!(right > after && right.physical() <= 1_002_001);
    }

    /// S0.24: under load the bound is written once in three seconds, ahead of time, and timestamps come from
    /// memory.
    #[test]
    fn the_log_is_written_once_in_three_seconds_under_load_and_never_when_idle() {
        let mut timestamps = Timestamps::begin(0, at(0));
        let mut saves = 0;
        for ms in (0..60_000).step_by(50) {
            if let Some(bound_ms) = timestamps.wants_bound(at(ms)) {
                timestamps.bound_saved(bound_ms);
                saves += 1;
            }
            let answer = timestamps.grant(1, at(ms));
            assert!(matches!(answer, Answer::Granted { .. }), "nobody waits: {answer:?}");
        }
        assert!(saves <= 21, "{saves} writes in a minute");
        timestamps.bound_saved(timestamps.bound_ms() + 1);
        for ms in (60_000..600_000).step_by(50) {
            assert_eq!(timestamps.wants_bound(at(ms)), None);
        }
        assert!(matches!(timestamps.grant(1, at(600_000)), Answer::NeedBound(_)));
    }

    #[test]
    fn a_request_right_past_the_bound_is_served_below_it() {
        let mut timestamps = Timestamps::begin(0, at(0));
        granted(&mut timestamps, 1, at(0));
        let bound_ms = timestamps.bound_ms();
        let just_past = at(WINDOW_MS + LAG_MAX_MS - 1);
        assert_eq!(
            timestamps.grant(1, just_past),
            Answer::Granted { last: Timestamp::new(bound_ms - 1, 1) }
        );
        assert!(matches!(timestamps.grant(1, at(WINDOW_MS + LAG_MAX_MS)), Answer::NeedBound(_)));
    }
}
