//! Snapshot isolation, by the transactions' own timestamps.
//!
//! Every transaction says at which timestamp it began and at which it was committed. Then there is nothing
//! to search: the versions of each key stand in the order of their commits, and each sentence is looked up.
//!
//! | sentence | broken by |
//! |---|---|
//! | a transaction commits after it began, and no two begin at one timestamp | a clock that goes back |
//! | a read sees the newest version at or before its timestamp | stale, dirty, torn or future reads |
//! | between a writer's look at a key and its commit nobody else commits there | lost updates |
//! | who began after another was acknowledged begins at or after its commit | reads of the past |
//! | who began after another had ended has a larger start | a clock that goes back |
//!
//! Write skew breaks none of them, and is allowed. It takes `n log n` in reads and writes.
//!
//! A transaction of unknown fate counts as not committed: whoever calls knows better, from the records that
//! the stores hold, and says so first.

use std::collections::BTreeMap;
use std::fmt::Debug;

use crate::transactions::{Change, Transaction};

/// One committed write of a key.
struct Version<'a, V> {
    commit_ts: u64,
    writer: usize,
    change: &'a Change<V>,
}

/// Checks a whole history; the first sentence that does not hold is told.
pub fn check<V: PartialEq + Debug>(history: &[Transaction<V>]) -> Result<(), String> {
    check_timestamps(history)?;
    let versions = versions_of(history)?;
    for transaction in history {
        check_reads(transaction, history, &versions)?;
    }
    for (number, transaction) in history.iter().enumerate() {
        check_writes(number, transaction, history, &versions)?;
    }
    check_order(history)
}

fn check_timestamps<V: Debug>(history: &[Transaction<V>]) -> Result<(), String> {
    let mut by_start: BTreeMap<u64, usize> = BTreeMap::new();
    for (number, transaction) in history.iter().enumerate() {
        if let Some(commit_ts) = transaction.commit_ts()
            && commit_ts <= transaction.start_ts
            && !transaction.writes.is_empty()
        {
            return Err(format!("committed before it began: {transaction}"));
        }
        if let Some(other) = by_start.insert(transaction.start_ts, number) {
            let other = &history[other];
            return Err(format!("two begin at one timestamp: {other}, and {transaction}"));
        }
    }
    Ok(())
}

type Versions<'a, V> = BTreeMap<u64, Vec<Version<'a, V>>>;

/// By key: what was committed, oldest first.
fn versions_of<V: PartialEq + Debug>(
    history: &[Transaction<V>],
) -> Result<Versions<'_, V>, String> {
    let mut versions: Versions<'_, V> = BTreeMap::new();
    for (writer, transaction) in history.iter().enumerate() {
        let Some(commit_ts) = transaction.commit_ts() else { continue };
        for write in &transaction.writes {
            let version = Version { commit_ts, writer, change: &write.change };
            versions.entry(write.key).or_default().push(version);
        }
    }
    for (key, all) in &mut versions {
        all.sort_by_key(|version| version.commit_ts);
        if let Some([one, two]) = all.array_windows().find(|[a, b]| a.commit_ts == b.commit_ts) {
            let (one, two) = (&history[one.writer], &history[two.writer]);
            return Err(format!("key {key} is committed twice at one timestamp: {one}, and {two}"));
        }
    }
    Ok(versions)
}

/// The newest version at or before a timestamp that has or removes a value.
fn visible<'a, V>(versions: &'a [Version<'_, V>], ts: u64) -> Option<&'a Version<'a, V>> {
    let until = versions.partition_point(|version| version.commit_ts <= ts);
    versions[..until].iter().rev().find(|version| !matches!(version.change, Change::Keep))
}

fn check_reads<V: PartialEq + Debug>(
    transaction: &Transaction<V>,
    history: &[Transaction<V>],
    versions: &Versions<'_, V>,
) -> Result<(), String> {
    for read in &transaction.reads {
        let all = versions.get(&read.key).map_or(&[][..], Vec::as_slice);
        let version = visible(all, read.at);
        let expected = version.and_then(|version| match version.change {
            Change::Put(value) => Some(value),
            Change::Delete | Change::Keep => None,
        });
        if expected != read.value.as_ref() {
            let (key, at, seen) = (read.key, read.at, &read.value);
            let whose = match version {
                Some(version) => format!("written by {}", history[version.writer]),
                None => "for nobody had written it".into(),
            };
            return Err(format!(
                "key {key} at {at} is {expected:?}, {whose}; but {seen:?} was read by {transaction}"
            ));
        }
    }
    Ok(())
}

fn check_writes<V: PartialEq + Debug>(
    number: usize,
    transaction: &Transaction<V>,
    history: &[Transaction<V>],
    versions: &Versions<'_, V>,
) -> Result<(), String> {
    let Some(commit_ts) = transaction.commit_ts() else { return Ok(()) };
    for write in &transaction.writes {
        let all = &versions[&write.key];
        let from = all.partition_point(|version| version.commit_ts <= write.since);
        let to = all.partition_point(|version| version.commit_ts < commit_ts);
        let between = all.get(from..to).unwrap_or_default();
        // Whoever only made sure that nothing changes has changed nothing.
        let intruder = between
            .iter()
            .find(|version| version.writer != number && !matches!(version.change, Change::Keep));
        if let Some(intruder) = intruder {
            let (key, since, intruder) = (write.key, write.since, &history[intruder.writer]);
            return Err(format!(
                "key {key} was another's between {since} and {commit_ts}: {intruder}; yet \
                 {transaction}"
            ));
        }
    }
    Ok(())
}

/// Who began after another had ended sees what it did, and has a larger start.
fn check_order<V: Debug>(history: &[Transaction<V>]) -> Result<(), String> {
    let mut by_end: Vec<&Transaction<V>> = history.iter().collect();
    by_end.sort_by_key(|transaction| transaction.ended);
    let mut by_begin = by_end.clone();
    by_begin.sort_by_key(|transaction| transaction.began);
    let mut ended = by_end.into_iter().peekable();
    let (mut newest_commit, mut newest_start) = (None, None);
    let commit_of = |t: &Transaction<V>| match t.writes.is_empty() {
        // Who wrote nothing has nothing to be seen.
        true => 0,
        false => t.commit_ts().unwrap_or(0),
    };
    for transaction in by_begin {
        while let Some(before) = ended.next_if(|before| before.ended < transaction.began) {
            if newest_commit.is_none_or(|newest| commit_of(newest) < commit_of(before)) {
                newest_commit = Some(before);
            }
            if newest_start.is_none_or(|newest: &Transaction<V>| newest.start_ts < before.start_ts)
            {
                newest_start = Some(before);
            }
        }
        if let Some(before) = newest_commit
            && commit_of(before) > transaction.start_ts
        {
            return Err(format!("{before} was acknowledged before the beginning of {transaction}"));
        }
        if let Some(before) = newest_start
            && before.start_ts >= transaction.start_ts
        {
            return Err(format!("time went back from {before} to {transaction}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transactions::{Fate, Read, Write};

    /// A transaction that began and ended at its timestamps, as if stamps were timestamps.
    fn committed(start: u64, commit: u64) -> Transaction<u64> {
        Transaction {
            client: start,
            began: start * 10,
            ended: commit * 10,
            start_ts: start,
            fate: Fate::Committed(commit),
            reads: Vec::new(),
            writes: Vec::new(),
        }
    }

    impl Transaction<u64> {
        fn r(mut self, key: u64, value: impl Into<Option<u64>>) -> Self {
            self.reads.push(Read { key, value: value.into(), at: self.start_ts });
            self
        }

        fn r_at(mut self, key: u64, value: impl Into<Option<u64>>, at: u64) -> Self {
            self.reads.push(Read { key, value: value.into(), at });
            self
        }

        fn w(self, key: u64, value: u64) -> Self {
            let since = self.start_ts;
            self.w_since(key, Change::Put(value), since)
        }

        fn w_since(mut self, key: u64, change: Change<u64>, since: u64) -> Self {
            self.writes.push(Write { key, change, since });
            self
        }

        fn aborted(mut self) -> Self {
            self.fate = Fate::Aborted;
            self
        }
    }

    fn complaint(history: &[Transaction<u64>]) -> String {
        check(history).unwrap_err()
    }

    #[test]
    fn what_is_right_is_let_pass() {
        let keep = Change::Keep;
        let history = [
            committed(1, 3).w(1, 10).w(2, 20),
            committed(4, 6).r(1, 10).w(1, 11),
            // A reader of the time before, while another commits.
            committed(5, 5).r(1, 10).r(2, 20).r(3, None),
            committed(7, 9).r(1, 11).w_since(2, Change::Delete, 7).aborted(),
            // Locked late: what was committed meanwhile was seen.
            committed(2, 12).r(1, None).r_at(1, 11, 10).w_since(1, Change::Put(12), 10),
            committed(13, 15).r(2, 20).w_since(2, keep, 13),
            committed(14, 16).r(2, 20).w_since(2, Change::Delete, 14),
        ];
        assert_eq!(check(&history), Ok(()));
    }

    #[test]
    fn write_skew_is_allowed() {
        let history = [
            committed(1, 2).w(1, 1).w(2, 1),
            committed(3, 5).r(1, 1).r(2, 1).w(1, 0),
            committed(4, 6).r(1, 1).r(2, 1).w(2, 0),
        ];
        assert_eq!(check(&history), Ok(()));
        // Unless a reader makes sure of what it read.
        let keeps = |t: Transaction<u64>, key| {
            let since = t.start_ts;
            t.w_since(key, Change::Keep, since)
        };
        let history = [
            committed(1, 2).w(1, 1).w(2, 1),
            keeps(committed(3, 5).r(1, 1).r(2, 1).w(1, 0), 2),
            keeps(committed(4, 6).r(1, 1).r(2, 1).w(2, 0), 1),
        ];
        assert!(complaint(&history).starts_with("key 1 was another's"));
    }

    #[test]
    fn phenomena_are_found() {
        let base = committed(1, 2).w(1, 10).w(2, 10);
        // Read skew: one key of before, one of after.
        let skew =
            [base.clone(), committed(3, 5).w(1, 11).w(2, 11), committed(6, 6).r(1, 11).r(2, 10)];
        assert!(complaint(&skew).starts_with("key 2 at 6 is Some(11)"));
        // A read of what was never committed.
        let dirty = [base.clone(), committed(3, 5).w(1, 11).aborted(), committed(6, 6).r(1, 11)];
        assert!(complaint(&dirty).contains("but Some(11) was read"));
        // A read of the future.
        let future = [base.clone(), committed(3, 9).w(1, 11), committed(4, 4).r(1, 11)];
        assert!(complaint(&future).contains("but Some(11) was read"));
        // A read of nothing where something was.
        let lost = [base.clone(), committed(4, 4).r(1, None)];
        assert!(complaint(&lost).contains("but None was read"));
        // Two count from the same number.
        let update =
            [base.clone(), committed(3, 5).r(1, 10).w(1, 11), committed(4, 7).r(1, 10).w(1, 12)];
        assert!(complaint(&update).starts_with("key 1 was another's between 4 and 7"));
        // The same, though the other commits below its own lock's look.
        let locked = committed(3, 9).r_at(1, 10, 4).w_since(1, Change::Put(12), 4);
        let update = [base.clone(), committed(5, 6).r(1, 10).w(1, 11), locked];
        assert!(complaint(&update).starts_with("key 1 was another's between 4 and 9"));
        let twice = [base, committed(3, 5).w(1, 11), committed(4, 5).w(1, 12)];
        assert!(complaint(&twice).contains("twice at one timestamp"));
    }

    #[test]
    fn time_that_goes_back_is_found() {
        let early = committed(4, 5).w(1, 1);
        assert!(
            complaint(&[Transaction { start_ts: 5, ..early.clone() }]).contains("before it began")
        );
        let twin = Transaction { client: 9, ..committed(4, 4) };
        assert!(complaint(&[early.clone(), twin]).contains("one timestamp"));
        // Acknowledged, and then not in the snapshot of one who came after.
        let after = Transaction { began: 60, ended: 70, ..committed(3, 3).r(1, None) };
        assert!(complaint(&[early, after]).contains("was acknowledged before"));
        let reader =
            |start_ts, began| Transaction { began, ended: began, ..committed(start_ts, start_ts) };
        assert!(complaint(&[reader(8, 1), reader(7, 2)]).starts_with("time went back"));
    }
}
