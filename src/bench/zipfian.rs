//! Numbers of which a few are drawn often and most rarely: the n-th most popular one about n times
//! less often than the first (Gray et al., "Quickly generating billion-record synthetic databases").

use rand::RngExt as _;
use rand::rngs::StdRng;

/// How steep popularity falls; YCSB's constant.
const THETA: f64 = 0.99;

/// Draws from `0..count`.
pub(super) struct Zipfian {
    count: u64,
    zeta: f64,
    eta: f64,
}

impl Zipfian {
    /// Takes time in proportion to `count`, once.
    pub(super) fn new(count: u64) -> Self {
        let zeta = |count: u64| (1..=count).map(|rank| (rank as f64).powf(-THETA)).sum::<f64>();
        let of_all = zeta(count);
        let two_of_all = (2.0 / count as f64).powf(1.0 - THETA);
        let eta = (1.0 - two_of_all) / (1.0 - zeta(2) / of_all);
        Self { count, zeta: of_all, eta }
    }

    /// A rank: 0 is drawn most often.
    pub(super) fn rank(&self, dice: &mut StdRng) -> u64 {
        let drawn: f64 = dice.random();
        let scaled = drawn * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(THETA) {
            return 1.min(self.count - 1);
        }
        let share = (self.eta * drawn - self.eta + 1.0).powf(1.0 / (1.0 - THETA));
        ((self.count as f64 * share) as u64).min(self.count - 1)
    }

    /// The same popularity, but the popular ones do not lie side by side.
    pub(super) fn scattered(&self, dice: &mut StdRng) -> u64 {
        let rank = self.rank(dice);
        // FNV-1a over the bytes of the rank.
        let hash = rank.to_le_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        hash % self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn the_most_popular_is_drawn_as_often_as_the_law_says() {
        let (zipfian, mut dice) = (Zipfian::new(1_000), StdRng::seed_from_u64(1));
        let draws = 100_000;
        let mut counts = vec![0_u32; 1_000];
        for _ in 0..draws {
            counts[zipfian.rank(&mut dice) as usize] += 1;
        }
        let expected = f64::from(draws) / zipfian.zeta;
        let first = f64::from(counts[0]);
        assert!((first / expected - 1.0).abs() < 0.1, "{first} draws, {expected} expected");
        assert!(counts[0] > counts[1] && counts[1] > counts[50] && counts[50] > counts[900]);
    }

    #[test]
    fn every_draw_is_in_bounds() {
        for count in [1, 2, 3, 100] {
            let (zipfian, mut dice) = (Zipfian::new(count), StdRng::seed_from_u64(count));
            for _ in 0..1_000 {
                assert!(zipfian.rank(&mut dice) < count && zipfian.scattered(&mut dice) < count);
            }
        }
    }
}
