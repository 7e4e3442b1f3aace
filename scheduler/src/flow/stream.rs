//! One stream of reads or writes: how fast it has been of late, and for how long it has been hot.

use std::collections::VecDeque;

/// So much in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Bytes a second.
    pub bytes: u64,
    /// Keys a second.
    pub keys: u64,
    /// Requests a second; 0 when stores do not count them.
    pub queries: u64,
}

impl Rates {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes + other.bytes,
            keys: self.keys + other.keys,
            queries: self.queries + other.queries,
        }
    }

    /// What is left without the other.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.saturating_sub(other.bytes),
            keys: self.keys.saturating_sub(other.keys),
            queries: self.queries.saturating_sub(other.queries),
        }
    }

    /// Whether it reaches the other in any of the three.
    pub fn reaches(self, threshold: Self) -> bool {
        self.bytes >= threshold.bytes
            || self.keys >= threshold.keys
            || self.queries >= threshold.queries
    }
}

/// What was counted within some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Bytes.
    pub bytes: u64,
    /// Keys.
    pub keys: u64,
    /// Requests.
    pub queries: u64,
    /// Within so many milliseconds.
    pub ms: u64,
}

impl Sample {
    fn add(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.keys = self.keys.saturating_add(other.keys);
        self.queries = self.queries.saturating_add(other.queries);
        self.ms = self.ms.saturating_add(other.ms);
    }
}

/// Reports that the rates are the average of.
const WINDOW: usize = 5;
/// A report about less time is counted together with the next: heartbeats that tell of a change
/// come in quick succession, and what they count means little.
const REPORT_MS_MIN: u64 = 5_000;
/// Reports in a row that must show a hot stream cold before it is forgotten.
const ANTI_COUNT: u32 = 2;
/// A degree says how long a stream has been hot, but no longer than this.
const DEGREE_MAX: u32 = 100_000;

/// One stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    window: VecDeque<Sample>,
    partial: Sample,
    rates: Rates,
    degree: u32,
    anti_count: u32,
}

impl Stream {
    /// The average of late.
    pub(super) fn rates(&self) -> Rates {
        self.rates
    }

    /// Reports in a row that have shown it hot, less those that have not.
    pub(super) fn degree(&self) -> u32 {
        self.degree
    }

    /// Reports in a row that would have to show it cold before it is forgotten.
    pub(super) fn anti_count(&self) -> u32 {
        self.anti_count
    }

    /// Something was counted. `true` when it completes a report: then the rates are new, and the
    /// stream is to be [judged](Self::judge).
    pub(super) fn count(&mut self, sample: Sample) -> bool {
        self.partial.add(sample);
        if self.partial.ms < REPORT_MS_MIN {
            return false;
        }
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        self.window.push_back(std::mem::take(&mut self.partial));
        let mut sum = Sample::default();
        self.window.iter().for_each(|sample| sum.add(*sample));
        let per_second = |counted: u64| {
            let rate = u128::from(counted) * 1_000 / u128::from(sum.ms.max(1));
            u64::try_from(rate).unwrap_or(u64::MAX)
        };
        self.rates = Rates {
            bytes: per_second(sum.bytes),
            keys: per_second(sum.keys),
            queries: per_second(sum.queries),
        };
        true
    }

    /// Whether the last report shows it hot decides how it stands.
    pub(super) fn judge(&mut self, threshold: Rates) {
        if self.rates.reaches(threshold) {
            self.degree = (self.degree + 1).min(DEGREE_MAX);
            self.anti_count = ANTI_COUNT;
        } else {
            self.degree = self.degree.saturating_sub(1);
            self.anti_count = self.anti_count.saturating_sub(1);
            if self.anti_count == 0 {
                self.degree = 0;
            }
        }
    }

    /// A share of it, for one of so many parts that its region was split into.
    pub(super) fn share(&self, parts: u64) -> Self {
        let share = |sample: &Sample| Sample {
            bytes: sample.bytes / parts,
            keys: sample.keys / parts,
            queries: sample.queries / parts,
            ms: sample.ms,
        };
        let rates = Rates {
            bytes: self.rates.bytes / parts,
            keys: self.rates.keys / parts,
            queries: self.rates.queries / parts,
        };
        Self {
            window: self.window.iter().map(share).collect(),
            partial: share(&self.partial),
            rates,
            degree: self.degree,
            anti_count: self.anti_count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    const THRESHOLD: Rates = Rates { bytes: 1_000, keys: 100, queries: 100 };

    fn bytes(bytes: u64, ms: u64) -> Sample {
        Sample { bytes, ms, ..Sample::default() }
    }

    #[test]
    fn the_rate_is_an_average_over_time_and_not_over_reports() {
        let mut stream = Stream::default();
        assert!(stream.count(bytes(60_000, MINUTE)));
        assert_eq!(stream.rates().bytes, 1_000);
        // A burst in a heartbeat that came at once: counted with what follows.
        assert!(!stream.count(bytes(50_000, 10)));
        assert_eq!(stream.rates().bytes, 1_000);
        assert!(stream.count(bytes(10_000, MINUTE)));
        assert_eq!(stream.rates().bytes, 999);
        for _ in 0..WINDOW {
            stream.count(bytes(6_000, MINUTE));
        }
        assert_eq!(stream.rates().bytes, 100, "the past is forgotten");
    }

    #[test]
    fn a_stream_is_hot_after_a_while_and_cold_after_two_reports() {
        let mut stream = Stream::default();
        for degree in 1..=3 {
            stream.count(bytes(120_000, MINUTE));
            stream.judge(THRESHOLD);
            assert_eq!(stream.degree(), degree);
        }
        for _ in 0..WINDOW {
            stream.count(bytes(0, MINUTE));
        }
        stream.judge(THRESHOLD);
        assert_eq!(stream.degree(), 2, "once may be chance");
        stream.judge(THRESHOLD);
        assert_eq!(stream.degree(), 0);
    }
}
