//! When to read: now, a while ago, or at a timestamp.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use proto::Timestamp;

/// A moment to read at. Written as `now`, `5s ago` (`ms`, `s`, `m`, `h`, `d`, also together as in
/// `1h30m ago`), or a timestamp's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Everything committed so far.
    Now,
    /// This long ago, by the scheduler's clock. Old versions are kept for a while only.
    Ago(Duration),
    /// A timestamp.
    Timestamp(Timestamp),
}

impl At {
    /// The timestamp that is meant when it is `now`. A timestamp is taken as it is.
    pub(crate) fn timestamp(self, now: Timestamp) -> Timestamp {
        match self {
            Self::Now => now,
            Self::Ago(ago) => {
                let ago = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
                Timestamp::new(now.physical().saturating_sub(ago), 0)
            }
            Self::Timestamp(at) => at,
        }
    }
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("now") {
            return Ok(Self::Now);
        }
        if let Ok(number) = text.parse() {
            return Ok(Self::Timestamp(Timestamp(number)));
        }
        let ago = text.strip_suffix("ago").and_then(|pieces| duration(pieces.trim()));
        ago.map(Self::Ago).ok_or_else(|| {
            format!("\"{text}\" is no moment: write now, a timestamp, or a time as in '5s ago'")
        })
    }
}

/// `1h30m`: the sum of its pieces.
fn duration(mut text: &str) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    if text.is_empty() {
        return None;
    }
    while !text.is_empty() {
        let digits = text.find(|c: char| !c.is_ascii_digit())?;
        let (number, rest) = text.split_at(digits);
        let rest = rest.trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(letters);
        let millis = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        let piece = Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(millis)?);
        sum = sum.checked_add(piece)?;
        text = rest.trim_start();
    }
    Some(sum)
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now => f.write_str("now"),
            Self::Ago(ago) => write!(f, "{}ms ago", ago.as_millis()),
            Self::Timestamp(at) => write!(f, "{at}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_three_ways() {
        let millis = |millis| Ok(At::Ago(Duration::from_millis(millis)));
        assert_eq!("now".parse(), Ok(At::Now));
        assert_eq!("4482".parse(), Ok(At::Timestamp(Timestamp(4482))));
        assert_eq!("5s ago".parse(), millis(5_000));
        assert_eq!(" 1h30m ago".parse(), millis(5_400_000));
        assert_eq!("250 ms ago".parse(), millis(250));
        for nonsense in ["", "ago", "5 ago", "s ago", "5s", "5y ago", "-1s ago", "yesterday"] {
            assert!(nonsense.parse::<At>().is_err(), "{nonsense:?}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read() {
        for at in [At::Now, At::Ago(Duration::from_millis(1500)), At::Timestamp(Timestamp(7))] {
            assert_eq!(at.to_string().parse(), Ok(at));
        }
    }

    #[test]
    fn ago_counts_from_the_schedulers_now() {
        let now = Timestamp::new(10_000, 7);
        let at = |at: At| at.timestamp(now);
        assert_eq!(at(At::Now), now);
        assert_eq!(at(At::Ago(Duration::from_secs(4))), Timestamp::new(6_000, 0));
        assert_eq!(at(At::Ago(Duration::MAX)), Timestamp::new(0, 0));
        assert_eq!(at(At::Timestamp(Timestamp(3))), Timestamp(3));
    }
}
