//! How many peers a store may be given, and relieved of, in a minute.
//!
//! A peer that comes is a snapshot written, one that goes is a range cleared: a store that gets
//! too many of either at once serves its clients late. Each store has a bucket of tokens for each
//! direction; it fills at the store's rate and holds what one second brings, or one region, if
//! that is more. A plan takes its tokens when it is taken up, however it ends.
//!
//! | a region of | costs |
//! |---|---|
//! | at most [`FREE_MIB`] | nothing |
//! | at most [`SMALL_MIB`] | [`SMALL_COST`] |
//! | more | [`REGION_COST`] |
//!
//! What an administrator orders is not held up, but it takes tokens as well. Taking peers from a
//! store that leaves or is lost is free: that is what it waits for.
//!
//! Left out: limits that follow the load of the store (PD's version 2).

use std::collections::BTreeMap;

use proto::StoreId;
use serde::{Deserialize, Serialize};

use crate::cluster::Moment;

/// Regions up to this size cost nothing.
pub const FREE_MIB: u64 = 1;
/// Regions up to this size cost [`SMALL_COST`].
pub const SMALL_MIB: u64 = 20;
/// Tokens that a small region costs.
pub const SMALL_COST: u64 = 200;
/// Tokens that a region costs; a rate of one a minute brings so many in a minute.
pub const REGION_COST: u64 = 1_000;

/// From this rate on there is no limit, as PD's tools say it.
pub const UNLIMITED: PerMinute = PerMinute { thousandths: 100_000_000_000 };

/// Milliseconds in a minute: parts of a token, so that every millisecond brings a whole number.
const PARTS: u64 = 60_000;

/// A rate, in thousandths of a region a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "f64", into = "f64")]
pub struct PerMinute {
    thousandths: u64,
}

impl PerMinute {
    /// So many regions a minute.
    pub const fn whole(regions: u64) -> Self {
        Self { thousandths: regions.saturating_mul(1_000) }
    }

    /// Whether nothing is held up.
    pub fn is_unlimited(self) -> bool {
        self >= UNLIMITED
    }

    /// Parts of tokens that a bucket can hold.
    fn capacity(self) -> u64 {
        (REGION_COST * PARTS).max(self.thousandths.saturating_mul(1_000))
    }
}

impl From<f64> for PerMinute {
    fn from(regions: f64) -> Self {
        let thousandths = (regions * 1_000.0).round();
        Self { thousandths: if thousandths > 0.0 { thousandths as u64 } else { 0 } }
    }
}

impl From<PerMinute> for f64 {
    fn from(rate: PerMinute) -> Self {
        rate.thousandths as Self / 1_000.0
    }
}

/// What a peer does to its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// It comes.
    AddPeer,
    /// It goes.
    RemovePeer,
}

impl Direction {
    /// The direction as PD's tools name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::AddPeer => "add-peer",
            Self::RemovePeer => "remove-peer",
        }
    }
}

/// A store's rates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct StoreRates {
    /// Peers that may come in a minute.
    pub add_peer: PerMinute,
    /// Peers that may go in a minute.
    pub remove_peer: PerMinute,
}

impl Default for StoreRates {
    fn default() -> Self {
        Self { add_peer: PerMinute::whole(15), remove_peer: PerMinute::whole(15) }
    }
}

impl StoreRates {
    /// The rate of one direction.
    pub fn of(self, direction: Direction) -> PerMinute {
        match direction {
            Direction::AddPeer => self.add_peer,
            Direction::RemovePeer => self.remove_peer,
        }
    }

    /// Sets one direction, or both.
    pub fn set(&mut self, direction: Option<Direction>, rate: PerMinute) {
        if direction != Some(Direction::RemovePeer) {
            self.add_peer = rate;
        }
        if direction != Some(Direction::AddPeer) {
            self.remove_peer = rate;
        }
    }
}

/// Tokens that a peer of a region of that size costs.
pub fn cost(size_mib: u64) -> u64 {
    match size_mib {
        size if size <= FREE_MIB => 0,
        size if size <= SMALL_MIB => SMALL_COST,
        _ => REGION_COST,
    }
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    parts: u64,
    at_ms: u64,
}

impl Bucket {
    fn parts_at(self, rate: PerMinute, moment: Moment) -> u64 {
        let passed_ms = moment.steady_ms.saturating_sub(self.at_ms);
        let gained = rate.thousandths.saturating_mul(passed_ms);
        self.parts.saturating_add(gained).min(rate.capacity())
    }
}

/// The buckets of all stores. One that nobody has drawn from is full.
#[derive(Clone, Debug, Default)]
pub struct StoreLimits {
    buckets: BTreeMap<(StoreId, Direction), Bucket>,
}

impl StoreLimits {
    fn parts(&self, store: StoreId, direction: Direction, rate: PerMinute, moment: Moment) -> u64 {
        let bucket = self.buckets.get(&(store, direction));
        bucket.map_or(rate.capacity(), |bucket| bucket.parts_at(rate, moment))
    }

    /// Tokens that are there now; all that anybody can want where there is no limit.
    pub fn tokens(
        &self,
        store: StoreId,
        direction: Direction,
        rate: PerMinute,
        moment: Moment,
    ) -> u64 {
        if rate.is_unlimited() {
            return u64::MAX;
        }
        self.parts(store, direction, rate, moment) / PARTS
    }

    /// Takes tokens, or what there is of them.
    pub fn take(
        &mut self,
        store: StoreId,
        direction: Direction,
        rate: PerMinute,
        tokens: u64,
        moment: Moment,
    ) {
        if tokens == 0 || rate.is_unlimited() {
            return;
        }
        let parts = self.parts(store, direction, rate, moment).saturating_sub(tokens * PARTS);
        self.buckets.insert((store, direction), Bucket { parts, at_ms: moment.steady_ms });
    }

    /// A store that is gone needs no buckets.
    pub fn forget(&mut self, store: StoreId) {
        self.buckets.retain(|(of, _), _| *of != store);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: StoreId = StoreId(1);

    fn at(steady_ms: u64) -> Moment {
        Moment { steady_ms, wall_ms: 0 }
    }

    /// Regions of that size that one store is given within so many milliseconds.
    fn given_within(ms: u64, size_mib: u64, rate: PerMinute) -> usize {
        let mut limits = StoreLimits::default();
        let mut given = 0;
        for now in 0..=ms {
            let tokens = cost(size_mib);
            while given < 100_000
                && limits.tokens(STORE, Direction::AddPeer, rate, at(now)) >= tokens.max(1)
            {
                limits.take(STORE, Direction::AddPeer, rate, tokens, at(now));
                given += 1;
            }
        }
        given
    }

    #[test]
    fn s3_9_fifteen_regions_a_minute_and_small_ones_five_times_as_many() {
        let rate = StoreRates::default().add_peer;
        assert_eq!(given_within(60_000, 96, rate), 15 + 1, "one was there at once");
        assert_eq!(given_within(60_000, 20, rate), 75 + 5);
        assert_eq!(given_within(10, 1, rate), 100_000, "an empty one costs nothing");
        // Faster than one a second: a second's worth at once.
        assert_eq!(given_within(0, 96, PerMinute::whole(600)), 10);
        assert_eq!(given_within(1, 96, UNLIMITED), 100_000);
        assert_eq!(given_within(60_000, 96, PerMinute::from(0.5)), 1);
    }

    #[test]
    fn directions_and_stores_do_not_share() {
        let rate = PerMinute::whole(15);
        let mut limits = StoreLimits::default();
        limits.take(STORE, Direction::AddPeer, rate, REGION_COST, at(0));
        let tokens = |limits: &StoreLimits, store, direction| {
            limits.tokens(StoreId(store), direction, rate, at(0))
        };
        assert_eq!(tokens(&limits, 1, Direction::AddPeer), 0);
        assert_eq!(tokens(&limits, 1, Direction::RemovePeer), REGION_COST);
        assert_eq!(tokens(&limits, 2, Direction::AddPeer), REGION_COST);
        // Debt is not remembered: an administrator's order does not stop repairs for long.
        limits.take(STORE, Direction::AddPeer, rate, 5 * REGION_COST, at(0));
        assert_eq!(limits.tokens(STORE, Direction::AddPeer, rate, at(4_000)), REGION_COST);
        limits.forget(STORE);
        assert_eq!(tokens(&limits, 1, Direction::AddPeer), REGION_COST);
    }

    #[test]
    fn rates_are_written_as_pd_does() {
        let rates = StoreRates { add_peer: PerMinute::from(0.5), ..StoreRates::default() };
        let text = serde_json::to_string(&rates).unwrap();
        assert_eq!(text, r#"{"add-peer":0.5,"remove-peer":15.0}"#);
        assert_eq!(serde_json::from_str::<StoreRates>(&text).unwrap(), rates);
        assert_eq!(serde_json::from_str::<StoreRates>("{}").unwrap(), StoreRates::default());
        assert_eq!(PerMinute::from(-1.0), PerMinute::whole(0));
    }
}
