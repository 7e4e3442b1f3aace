//! Sizes, durations and times as PD writes them.

use std::fmt::Write as _;

/// Bytes in binary units with four digits: `1.5GiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    let mut amount = bytes as f64;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    let decimals = match amount {
        amount if amount >= 1000.0 => 0,
        amount if amount >= 100.0 => 1,
        amount if amount >= 10.0 => 2,
        _ => 3,
    };
    let mut text = format!("{amount:.decimals$}");
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    text.push_str(UNITS[unit]);
    text
}

/// A time that never was, as Go writes it.
pub(super) const NO_TIME: &str = "0001-01-01T00:00:00Z";

/// Seconds as Go writes a duration: `1h2m3s`.
pub(super) fn duration(seconds: u64) -> String {
    let (hours, minutes, rest) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    if hours > 0 {
        write!(text, "{hours}h").ok();
    }
    if hours > 0 || minutes > 0 {
        write!(text, "{minutes}m").ok();
    }
    write!(text, "{rest}s").ok();
    text
}

/// Milliseconds likewise: `10ms`, `1m0s`; with both, what follows the seconds stands behind them.
pub(super) fn duration_ms(ms: u64) -> String {
    match (ms / 1_000, ms % 1_000) {
        (seconds, 0) => duration(seconds),
        (0, ms) => format!("{ms}ms"),
        (seconds, ms) => format!("{}{ms}ms", duration(seconds)),
    }
}

/// Reads a duration of hours, minutes, seconds and milliseconds; in milliseconds.
pub(super) fn parse_duration_ms(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|&at| at > 0)?;
        let amount: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit_ms, length) = if rest.starts_with("ms") {
            (1, 2)
        } else if rest.starts_with('s') {
            (1_000, 1)
        } else if rest.starts_with('m') {
            (60_000, 1)
        } else if rest.starts_with('h') {
            (3_600_000, 1)
        } else {
            return None;
        };
        total = total.checked_add(amount.checked_mul(unit_ms)?)?;
        rest = &rest[length..];
    }
    (!text.is_empty()).then_some(total)
}

/// Milliseconds since 1970 in the form of RFC 3339, in UTC.
pub(super) fn time(ms: u64) -> String {
    let (days, seconds) = (ms / 86_400_000, ms / 1_000 % 86_400);
    // Days since the first of March of the year 0, in eras of 400 years: a leap day, if there is
    // one, is the last day of its year then.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60,
        ms % 1_000
    )
}

/// Bytes as upper-case hexadecimal digits, as PD shows keys.
pub(super) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02X}").ok();
    }
    text
}

/// Reads pairs of hexadecimal digits of either case.
pub(super) fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let digit = |at: usize| char::from(digits[at]).to_digit(16);
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::try_from(digit(at)? * 16 + digit(at + 1)?).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_four_digits() {
        let cases = [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1KiB"),
            (1536 << 20, "1.5GiB"),
            (107_374_182_400, "100GiB"),
            (123_456_789, "117.7MiB"),
            (u64::MAX, "16EiB"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn durations_are_written_and_read_as_go_does() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (123, "2m3s"), (3_723, "1h2m3s")] {
            assert_eq!(duration(seconds), text);
            assert_eq!(parse_duration_ms(text), Some(seconds * 1_000));
        }
        assert_eq!(parse_duration_ms("1h500ms"), Some(3_600_500));
        for (ms, text) in [(0, "0s"), (10, "10ms"), (60_000, "1m0s"), (61_005, "1m1s5ms")] {
            assert_eq!(duration_ms(ms), text);
            assert_eq!(parse_duration_ms(text), Some(ms));
        }
        for bad in ["", "5", "h", "5d", "-5s", "s5"] {
            assert_eq!(parse_duration_ms(bad), None, "{bad}");
        }
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        assert_eq!(parse_hex(&hex(b"a\0\xff")), Some(b"a\0\xff".to_vec()));
        assert_eq!(parse_hex("6d6D"), Some(b"mm".to_vec()));
        for bad in ["6", "6x", "x6", "+6", "\u{e4}"] {
            assert_eq!(parse_hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_know_leap_years() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_827_696_789), "2000-02-29T12:34:56.789Z");
        assert_eq!(time(1_709_251_199_000), "2024-02-29T23:59:59.000Z");
        assert_eq!(time(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }
}
