//! The truths, and what they are told.

use std::collections::{BTreeMap, BTreeSet};

use proto::Timestamp;
use scheduler::cluster::{Cluster, RegionRecord};

use super::tiles::KEYS;

/// What has been answered and believed so far.
#[derive(Debug, Default)]
pub struct Judge {
    /// The first timestamp of each batch that was answered, and how many it has.
    granted: BTreeMap<u64, u64>,
    latest: u64,
    ids: BTreeSet<u64>,
    /// Of each picture, by member and term: the version known for each key, and the epochs of regions.
    pictures: BTreeMap<(u64, u64), Seen>,
    /// What is wrong.
    violation: Option<String>,
    /// How many timestamps were answered.
    pub timestamps: u64,
    /// How many heartbeats were believed.
    pub believed: u64,
}

#[derive(Debug, Default)]
struct Seen {
    versions: Vec<u64>,
    epochs: BTreeMap<u64, (u64, u64)>,
}

impl Judge {
    /// What was found wrong first.
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// Something else is wrong.
    pub fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// The latest timestamp that anybody has been answered: whoever asks now must get a later one.
    pub fn latest(&self) -> u64 {
        self.latest
    }

    /// A client is answered. It asked when `before` was the latest that anybody had.
    pub fn answered(&mut self, member: u64, last: Timestamp, count: u64, before: u64) {
        self.timestamps += count;
        let first = last.0 - (count - 1);
        if first <= before {
            let before = Timestamp(before);
            self.fail(format!(
                "I11: m{member} gives {} after {before} had been given",
                Timestamp(first)
            ));
        }
        let overlaps = |(&other, &others): (&u64, &u64)| other + others > first;
        if self.granted.range(..=last.0).next_back().is_some_and(overlaps) {
            self.fail(format!("I11: m{member} gives {last} a second time"));
        }
        self.granted.insert(first, count);
        self.latest = self.latest.max(last.0);
    }

    /// A client is answered with ids.
    pub fn took_ids(&mut self, member: u64, last: u64, count: u64) {
        for id in last + 1 - count..=last {
            if !self.ids.insert(id) {
                self.fail(format!("O7: m{member} gives id {id} a second time"));
            }
        }
    }

    /// A leader's picture has taken a heartbeat in, or not: it must be whole and not older than before.
    pub fn pictures(&mut self, member: u64, term: u64, cluster: &Cluster) {
        let seen = self.pictures.entry((member, term)).or_default();
        seen.versions.resize(usize::from(KEYS), 0);
        let wrong = look(cluster, seen);
        self.believed += 1;
        if let Some(wrong) = wrong {
            self.fail(format!("I8: the picture of m{member} in term {term}: {wrong}"));
        }
    }
}

fn look(cluster: &Cluster, seen: &mut Seen) -> Option<String> {
    let regions: Vec<_> = cluster.regions().iter().collect();
    for pair in regions.windows(2) {
        let (left, right) = (pair[0].range(), pair[1].range());
        if left.overlaps(&right) {
            return Some(format!("{} overlaps {}", pair[0].id(), pair[1].id()));
        }
    }
    for record in &regions {
        let by_id = cluster.regions().by_id(record.id());
        let by_key = cluster.regions().by_key(&record.region.start_key);
        if by_id != Some(record) || by_key != Some(record) {
            return Some(format!("{} is not found by its id and its keys", record.id()));
        }
    }
    // A key that is nobody's for a moment may be taken by whoever speaks next, so what was known of it
    // counts for nothing then; the same goes for a region that is out of sight.
    for key in 0..KEYS {
        let known = cluster.regions().by_key(&[key]).map_or(0, |record| record.epoch().version);
        let before = std::mem::replace(&mut seen.versions[usize::from(key)], known);
        if known != 0 && known < before {
            return Some(format!("the region of key {key} had version {before}, and has {known}"));
        }
    }
    let epoch = |record: &RegionRecord| (record.epoch().version, record.epoch().conf_ver);
    let now: BTreeMap<u64, (u64, u64)> =
        regions.iter().map(|record| (record.id().0, epoch(record))).collect();
    let before = std::mem::replace(&mut seen.epochs, now.clone());
    for (id, (version, conf_ver)) in now {
        let Some(&(known_version, known_conf_ver)) = before.get(&id) else { continue };
        if version < known_version || conf_ver < known_conf_ver {
            return Some(format!(
                "r{id} had epoch v{known_version}.c{known_conf_ver}, and has v{version}.c{conf_ver}"
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_that_was_given_or_is_late_is_found_out() {
        let mut judge = Judge::default();
        judge.answered(1, Timestamp(30), 3, 0);
        judge.answered(2, Timestamp(27), 2, 0);
        assert_eq!(judge.violation(), None, "asked for before the first was answered");
        judge.answered(2, Timestamp(28), 1, 0);
        assert!(judge.violation().unwrap().contains("second time"));
        let mut judge = Judge::default();
        judge.answered(1, Timestamp(30), 1, 0);
        let before = judge.latest();
        judge.answered(2, Timestamp(29), 1, before);
        assert!(judge.violation().unwrap().contains("I11"));
    }

    #[test]
    fn an_id_that_was_given_is_found_out() {
        let mut judge = Judge::default();
        judge.took_ids(1, 10, 3);
        judge.took_ids(1, 13, 3);
        assert_eq!(judge.violation(), None);
        judge.took_ids(2, 8, 1);
        assert!(judge.violation().unwrap().contains("id 8"));
    }
}
