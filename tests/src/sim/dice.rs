//! Seeded randomness: one stream a purpose, so that a draw more in the network does not shift the
//! nemesis.
//!
//! The generator is SplitMix64, written out here: a seed kept in `tests/seeds` must mean the same
//! run after an upgrade of any crate.

use std::ops::Range;

/// A stream of pseudo-random numbers that repeats exactly for the same seed.
#[derive(Clone, Debug)]
pub struct Dice {
    state: u64,
}

/// One step of SplitMix64's finaliser; also a fair hash of one number.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A 64-bit digest of bytes (FNV-1a, then mixed). Not against an adversary.
pub fn digest(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    }))
}

impl Dice {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self { state: mix(seed) }
    }

    /// An independent stream for one purpose. Does not advance this one.
    pub fn stream(&self, purpose: &str) -> Self {
        Self { state: mix(self.state ^ digest(purpose.as_bytes())) }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number of the range, which must not be empty. The bias of the remainder is below 2^-40 for
    /// every range used here.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        assert!(range.start < range.end, "a range to draw from has something in it");
        range.start + self.next_u64() % (range.end - range.start)
    }

    /// Whether an event of `per_mille` thousandths happens now.
    pub fn happens(&mut self, per_mille: u64) -> bool {
        self.within(0..1000) < per_mille
    }

    /// One of the items; `None` when there are none.
    pub fn one_of<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        (!items.is_empty()).then(|| &items[self.within(0..items.len() as u64) as usize])
    }

    /// Puts the items into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.within(0..last as u64 + 1) as usize);
        }
    }

    /// A delay with a long tail: mostly near `usual`, one time in fifty up to twenty times that.
    pub fn delay(&mut self, usual: u64) -> u64 {
        let usual = usual.max(1);
        if self.happens(20) {
            self.within(usual..usual * 20)
        } else {
            self.within(usual / 2..usual * 2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_streams_do_not_disturb_each_other() {
        let draw = |mut dice: Dice| (0..8).map(|_| dice.next_u64()).collect::<Vec<_>>();
        assert_eq!(draw(Dice::new(7)), draw(Dice::new(7)));
        assert_ne!(draw(Dice::new(7)), draw(Dice::new(8)));
        let dice = Dice::new(7);
        let network = draw(dice.stream("network"));
        let _ = draw(dice.stream("nemesis"));
        assert_eq!(network, draw(dice.stream("network")));
    }

    #[test]
    fn draws_stay_within_their_range() {
        let mut dice = Dice::new(1);
        for _ in 0..1000 {
            assert!((3..9).contains(&dice.within(3..9)));
        }
        assert!((0..1000).filter(|_| dice.happens(250)).count().abs_diff(250) < 60);
    }
}
