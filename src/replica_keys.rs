//! What a store's file may say of regions, raft logs and snapshots: keys of tikv-server.
//!
//! Of each pair of limits one may be left out: a region is split when it is half as large again as its parts
//! shall be, and there are ten thousand keys to a mebibyte.

use serde::{Deserialize, Deserializer};

/// When a region is split and into what: section `coprocessor`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct RegionSection {
    region_max_size: Option<Size>,
    region_split_size: Option<Size>,
    region_max_keys: Option<u64>,
    region_split_keys: Option<u64>,
}

/// How replicas behave: section `raftstore`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct RaftSection {
    raft_workers: Option<usize>,
    right_derive_when_split: Option<bool>,
    region_split_check_diff: Option<Size>,
    split_region_check_tick_interval: Option<Period>,
    pd_heartbeat_tick_interval: Option<Period>,
    pd_store_heartbeat_tick_interval: Option<Period>,
    raft_entry_max_size: Option<Size>,
    raft_log_gc_threshold: Option<u64>,
    raft_log_gc_count_limit: Option<u64>,
    raft_log_gc_size_limit: Option<Size>,
    raft_log_reserve_max_ticks: Option<u64>,
    hibernate_regions: Option<bool>,
    consistency_check_interval: Option<Period>,
}

/// Keys to a mebibyte when only one of both is said.
const KEYS_PER_MIB: u64 = 10_000;

impl RegionSection {
    /// Carries over what was said.
    pub(crate) fn apply(&self, to: &mut raftstore::config::Config) {
        let bytes = |size: Option<Size>| size.map(|size| size.0);
        let told = pair(bytes(self.region_max_size), bytes(self.region_split_size));
        if let Some((split, part)) = told {
            (to.region_split_bytes, to.region_part_bytes) = (split, part);
            let keys = |bytes: u64| (bytes >> 20).max(1) * KEYS_PER_MIB;
            (to.region_split_keys, to.region_part_keys) =
                (keys(split).max(keys(part) + 1), keys(part));
        }
        if let Some((split, part)) = pair(self.region_max_keys, self.region_split_keys) {
            (to.region_split_keys, to.region_part_keys) = (split, part);
        }
        // Written bytes before a look: no more than a part of what is looked for.
        if told.is_some() {
            to.split_check_written_bytes =
                to.split_check_written_bytes.min(to.region_part_bytes / 6);
        }
    }
}

/// The limit and the part, when at least one of them is said.
fn pair(limit: Option<u64>, part: Option<u64>) -> Option<(u64, u64)> {
    match (limit, part) {
        (None, None) => None,
        (Some(limit), Some(part)) => Some((limit, part)),
        (Some(limit), None) => Some((limit, limit / 3 * 2)),
        (None, Some(part)) => Some((part.saturating_add(part.div_ceil(2)), part)),
    }
}

impl RaftSection {
    /// Carries over what was said.
    pub(crate) fn apply(&self, to: &mut raftstore::config::Config) {
        let Self {
            raft_workers,
            right_derive_when_split,
            region_split_check_diff,
            split_region_check_tick_interval,
            pd_heartbeat_tick_interval,
            pd_store_heartbeat_tick_interval,
            raft_entry_max_size,
            raft_log_gc_threshold,
            raft_log_gc_count_limit,
            raft_log_gc_size_limit,
            raft_log_reserve_max_ticks,
            hibernate_regions,
            consistency_check_interval,
        } = self;
        to.raft_workers = raft_workers.unwrap_or(to.raft_workers);
        let set = |to: &mut u64, said: Option<u64>| *to = said.unwrap_or(*to);
        to.right_derive_when_split = right_derive_when_split.unwrap_or(to.right_derive_when_split);
        set(&mut to.split_check_written_bytes, region_split_check_diff.map(|size| size.0));
        let tick_ms = to.tick_interval_ms;
        let ticks = |period: &Option<Period>| period.map(|it| it.0.div_ceil(tick_ms).max(1));
        set(&mut to.split_check_ticks, ticks(split_region_check_tick_interval));
        set(&mut to.region_heartbeat_ticks, ticks(pd_heartbeat_tick_interval));
        set(&mut to.store_heartbeat_ticks, ticks(pd_store_heartbeat_tick_interval));
        if let Some(size) = raft_entry_max_size {
            to.entry_bytes_max = usize::try_from(size.0).unwrap_or(usize::MAX);
        }
        set(&mut to.compact_log_entries_min, *raft_log_gc_threshold);
        set(&mut to.compact_log_entries_max, *raft_log_gc_count_limit);
        set(&mut to.compact_log_bytes_max, raft_log_gc_size_limit.map(|size| size.0));
        set(&mut to.compact_log_looks_max, *raft_log_reserve_max_ticks);
        if *hibernate_regions == Some(false) {
            to.sleep_after_ticks = 0;
        }
        let ticks = |period: Period| period.0.div_ceil(to.tick_interval_ms);
        let check = consistency_check_interval.map(ticks);
        set(&mut to.consistency_check_ticks, check);
    }
}

/// Bytes: a number, or a text such as "96MiB". As in the originals a KB is a KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Said {
            Bytes(u64),
            Text(String),
        }
        match Said::deserialize(deserializer)? {
            Said::Bytes(bytes) => Ok(Self(bytes)),
            Said::Text(text) => parse(&text)
                .map(Self)
                .ok_or_else(|| serde::de::Error::custom(format!("\"{text}\" is no size"))),
        }
    }
}

fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A length of time in milliseconds: a text such as "500ms", "1s" or "1h30m".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Period(pub(crate) u64);

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom(format!("\"{text}\" is no length of time"));
        parse_period(&text).map(Self).ok_or_else(wrong)
    }
}

fn parse_period(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut total = None;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, unit_and_more) = rest.split_at(digits);
        let letters = unit_and_more.find(|c: char| c.is_ascii_digit());
        let (unit, more) = unit_and_more.split_at(letters.unwrap_or(unit_and_more.len()));
        let ms: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        let part = number.parse::<u64>().ok()?.checked_mul(ms)?;
        total = Some(part.checked_add(total.unwrap_or(0))?);
        rest = more;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_of_time_are_read_in_their_units() {
        let cases =
            [("0s", 0), ("500ms", 500), ("10m", 600_000), ("1h30m", 5_400_000), ("1d", 86_400_000)];
        for (text, millis) in cases {
            assert_eq!(parse_period(text), Some(millis), "{text}");
        }
        for text in ["", "5", "s", "1w", "1h30", "-1s", "99999999999999d"] {
            assert_eq!(parse_period(text), None, "{text}");
        }
    }

    #[test]
    fn replicas_are_compared_as_often_as_is_said() {
        let mut config = raftstore::config::Config::default();
        let section = |text| toml::from_str::<RaftSection>(text).unwrap();
        section("").apply(&mut config);
        assert_eq!(config.consistency_check_ticks, 0);
        section("consistency-check-interval = \"1h\"").apply(&mut config);
        assert_eq!(config.consistency_check_ticks * config.tick_interval_ms, 3_600_000);
        section("consistency-check-interval = \"0s\"").apply(&mut config);
        assert_eq!(config.consistency_check_ticks, 0);
    }

    #[test]
    fn sizes_are_read_with_and_without_units() {
        let cases = [("7", 7), ("7B", 7), ("2KB", 2048), ("96MiB", 96 << 20), (" 1 GB ", 1 << 30)];
        for (text, bytes) in cases {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5GB", "7 apples", "99999999999TB"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn periods_are_read_with_their_units() {
        let cases = [("500ms", 500), ("1s", 1_000), ("2m", 120_000), ("1h30m", 5_400_000)];
        for (text, ms) in cases {
            assert_eq!(parse_period(text), Some(ms), "{text}");
        }
        for text in ["", "1", "s", "1 s", "-1s", "1w", "99999999999999999999s"] {
            assert_eq!(parse_period(text), None, "{text}");
        }
    }

    #[test]
    fn periods_become_ticks_and_at_least_one() {
        let text = "split-region-check-tick-interval = \"1s\"\npd-heartbeat-tick-interval = \"1ms\"\n\
                    pd-store-heartbeat-tick-interval = \"5s\"\nraft-entry-max-size = \"1MB\"\n";
        let mut config = raftstore::config::Config::default();
        toml::from_str::<RaftSection>(text).unwrap().apply(&mut config);
        assert_eq!(config.split_check_ticks, 20);
        assert_eq!((config.region_heartbeat_ticks, config.store_heartbeat_ticks), (1, 100));
        assert_eq!(config.entry_bytes_max, 1 << 20);
    }

    fn applied(text: &str) -> raftstore::config::Config {
        let mut config = raftstore::config::Config::default();
        toml::from_str::<RegionSection>(text).unwrap().apply(&mut config);
        assert_eq!(config.validate(), Ok(()), "{text}");
        config
    }

    /// S0.2, S1.14: a store's file says above which size a region is split, and into what: 64 MB alone, or parts of
    /// 64 MB of what is larger than 96.
    #[test]
    fn a_region_may_be_as_large_as_64_mb_or_split_into_parts_of_64() {
        let config = applied("region-max-size = \"64MB\"");
        assert_eq!(config.region_split_bytes, 64 << 20);
        assert!((1..64 << 20).contains(&config.region_part_bytes), "{}", config.region_part_bytes);
        let config = applied("region-max-size = \"96MB\"\nregion-split-size = \"64MB\"");
        assert_eq!((config.region_split_bytes, config.region_part_bytes), (96 << 20, 64 << 20));
    }

    #[test]
    fn one_of_two_limits_is_enough() {
        let sizes = |text| {
            let config = applied(text);
            (config.region_split_bytes >> 20, config.region_part_bytes >> 20)
        };
        assert_eq!(sizes(""), (144, 96));
        assert_eq!(sizes("region-split-size = \"64MB\""), (96, 64));
        assert_eq!(sizes("region-max-size = \"96MB\"\nregion-split-size = \"64MB\""), (96, 64));
        assert_eq!(sizes("region-max-size = \"63MB\""), (63, 42));
        assert_eq!(applied("region-split-size = \"64MB\"").region_part_keys, 640_000);
        let config = applied("region-max-keys = 30");
        assert_eq!((config.region_split_keys, config.region_part_keys), (30, 20));
        assert_eq!(config.region_split_bytes, 144 << 20);
    }

    #[test]
    fn threads_of_a_store_are_as_many_as_said() {
        let workers = |text| {
            let mut config = raftstore::config::Config::default();
            toml::from_str::<RaftSection>(text).unwrap().apply(&mut config);
            config.validate().map(|()| config.raft_workers)
        };
        assert_eq!(workers(""), Ok(0));
        assert_eq!(workers("raft-workers = 3"), Ok(3));
        assert!(workers("raft-workers = 65").unwrap_err().contains("raft-workers"));
    }

    #[test]
    fn regions_sleep_unless_it_is_forbidden() {
        let after = |text| {
            let mut config = raftstore::config::Config::default();
            toml::from_str::<RaftSection>(text).unwrap().apply(&mut config);
            config.sleep_after_ticks
        };
        assert!(after("") > 0);
        assert_eq!(after("hibernate-regions = true"), after(""));
        assert_eq!(after("hibernate-regions = false"), 0);
    }

    #[test]
    fn the_smallest_regions_are_valid_too() {
        applied("region-split-size = 1000");
        applied("region-max-size = \"1KB\"");
    }
}
