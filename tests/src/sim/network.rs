//! A network that may lose, delay, repeat and reorder, and whose links can be cut one way.
//!
//! The network decides only *when* and *whether* a message arrives; the world carries it. Reordering
//! needs no code of its own: two messages with independent delays overtake each other.

use std::collections::BTreeMap;

use super::dice::Dice;
use super::events::{Instant, MILLISECOND};

/// How bad the network of a run is. Drawn once a seed.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Messages lost, in thousandths.
    pub loss: u64,
    /// Messages that arrive twice, in thousandths.
    pub repeat: u64,
    /// The usual one-way delay, in microseconds.
    pub delay: Instant,
    /// Messages that take as long as a fast election, in thousandths: the late ones that protocols
    /// forget.
    pub very_late: u64,
}

impl Weather {
    /// Nothing is lost and everything arrives within about a millisecond.
    pub const FAIR: Self = Self { loss: 0, repeat: 0, delay: MILLISECOND / 2, very_late: 0 };

    /// Some weather of this seed: one run in four is fair, the others lose up to a tenth.
    pub fn draw(dice: &mut Dice) -> Self {
        if dice.happens(250) {
            return Self::FAIR;
        }
        Self {
            loss: dice.within(0..100),
            repeat: dice.within(0..50),
            delay: dice.within(MILLISECOND / 5..10 * MILLISECOND),
            very_late: dice.within(0..20),
        }
    }
}

/// A message of the "very late" kind arrives at most this much later.
const VERY_LATE_MAX: Instant = 1_500 * MILLISECOND;

/// The links between stores (and the client side, as store 0).
#[derive(Debug)]
pub struct Network {
    dice: Dice,
    weather: Weather,
    /// How many hold each link cut: those who cut it at once restore it one by one.
    cut: BTreeMap<(u64, u64), u64>,
    /// By how much more each clogged link delays.
    clogged: BTreeMap<(u64, u64), Instant>,
    /// Messages that were sent and will not arrive.
    lost: u64,
}

impl Network {
    /// A whole network.
    pub fn new(dice: Dice, weather: Weather) -> Self {
        Self { dice, weather, cut: BTreeMap::new(), clogged: BTreeMap::new(), lost: 0 }
    }

    /// After how long a message sent now arrives: nothing if it is lost, twice if it is repeated.
    pub fn arrivals(&mut self, from: u64, to: u64) -> Vec<Instant> {
        // Draws happen in any case, so that a cut link does not shift the other draws.
        let lost = self.dice.happens(self.weather.loss);
        let copies = 1 + usize::from(self.dice.happens(self.weather.repeat));
        let more = self.clogged.get(&(from, to)).copied().unwrap_or(0);
        let arrivals = (0..copies).map(|_| self.delay() + more).collect();
        if lost || self.is_cut(from, to) {
            self.lost += 1;
            return Vec::new();
        }
        arrivals
    }

    /// How many messages did not arrive.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn delay(&mut self) -> Instant {
        let delay = self.dice.delay(self.weather.delay);
        if self.dice.happens(self.weather.very_late) {
            delay + self.dice.within(0..VERY_LATE_MAX)
        } else {
            delay
        }
    }

    /// Whether messages from one store no longer reach another. Asked at sending and at arrival:
    /// a cut also swallows what is on its way.
    pub fn is_cut(&self, from: u64, to: u64) -> bool {
        self.cut.contains_key(&(from, to))
    }

    /// Whether any link is cut.
    pub fn has_cuts(&self) -> bool {
        !self.cut.is_empty()
    }

    /// Cuts one direction of one link.
    pub fn cut(&mut self, from: u64, to: u64) {
        *self.cut.entry((from, to)).or_default() += 1;
    }

    /// Restores one direction of one link, as far as the caller had cut it.
    pub fn restore(&mut self, from: u64, to: u64) {
        if let Some(holders) = self.cut.get_mut(&(from, to)) {
            *holders -= 1;
            if *holders == 0 {
                self.cut.remove(&(from, to));
            }
        }
    }

    /// One direction of one link delays everything by so much more; 0 clears it. What was on its way is not
    /// hurried, so what is sent afterwards overtakes it.
    pub fn clog(&mut self, from: u64, to: u64, more: Instant) {
        self.clogged.insert((from, to), more);
    }

    /// Restores every link.
    pub fn restore_all(&mut self) {
        self.cut.clear();
        self.clogged.clear();
    }

    /// The weather from here on.
    pub fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_works_in_one_direction() {
        let mut network = Network::new(Dice::new(1), Weather::FAIR);
        network.cut(1, 2);
        assert!(network.arrivals(1, 2).is_empty());
        assert_eq!(network.arrivals(2, 1).len(), 1);
        network.restore_all();
        assert_eq!(network.arrivals(1, 2).len(), 1);
    }

    #[test]
    fn a_link_cut_twice_is_restored_twice() {
        let mut network = Network::new(Dice::new(1), Weather::FAIR);
        network.cut(1, 2);
        network.cut(1, 2);
        network.restore(1, 2);
        assert!(network.is_cut(1, 2));
        network.restore(1, 2);
        assert!(!network.has_cuts());
    }

    #[test]
    fn a_clogged_link_delays_in_one_direction() {
        let mut network = Network::new(Dice::new(1), Weather::FAIR);
        network.clog(1, 2, MILLISECOND * 1000);
        assert!(network.arrivals(1, 2)[0] > MILLISECOND * 1000);
        assert!(network.arrivals(2, 1)[0] < MILLISECOND * 1000);
        network.clog(1, 2, 0);
        assert!(network.arrivals(1, 2)[0] < MILLISECOND * 1000);
    }

    #[test]
    fn bad_weather_loses_and_repeats() {
        let weather = Weather { loss: 200, repeat: 200, ..Weather::FAIR };
        let mut network = Network::new(Dice::new(1), weather);
        let counts: Vec<usize> = (0..1000).map(|_| network.arrivals(1, 2).len()).collect();
        assert!((100..300).contains(&counts.iter().filter(|n| **n == 0).count()));
        assert!((100..300).contains(&counts.iter().filter(|n| **n == 2).count()));
    }
}
