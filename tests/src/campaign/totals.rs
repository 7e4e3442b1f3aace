//! What many runs came to, for a person to read and for a test to judge.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::sim::events::SECOND;
use crate::sim::nemesis::Mischief;
use crate::sim::probes::{Probe, Probes};
use crate::sim::summary::Summary;

/// A run that broke something.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What was broken.
    pub violation: String,
}

/// Sums over runs.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Runs, the failed one included.
    pub runs: u64,
    /// The world's time, in microseconds.
    pub simulated: u64,
    /// Events.
    pub events: u64,
    /// Calls that ended well.
    pub calls: u64,
    /// Those of them that ended while things went wrong.
    pub calls_in_trouble: u64,
    /// Calls whose outcome was checked.
    pub checked: u64,
    /// Transactions that were judged, …
    pub transactions: u64,
    /// … in so many runs.
    pub transacting_runs: u64,
    /// Those of them whose clients know that they are committed.
    pub committed: u64,
    /// Timestamps handed out.
    pub timestamps: u64,
    /// Entries committed.
    pub entries: u64,
    /// Leaderships.
    pub leaders: u64,
    /// Processes that ended.
    pub crashes: u64,
    /// Messages that did not arrive.
    pub messages_lost: u64,
    /// Mischiefs, by kind.
    pub mischiefs: BTreeMap<Mischief, u64>,
    /// Rare things that happened.
    pub probes: Probes,
    /// In how many runs each of them did.
    pub probed_runs: BTreeMap<Probe, u64>,
    /// The longest that each queue of a store was.
    pub queues: BTreeMap<&'static str, usize>,
    /// How long all that took, in real time. Told, never judged.
    pub took: Duration,
    /// The failed run with the lowest seed, if one failed.
    pub failure: Option<Failure>,
}

impl Totals {
    /// Adds one run.
    pub fn add(&mut self, seed: u64, summary: Summary) {
        self.runs += 1;
        self.simulated += summary.simulated;
        self.events += summary.events;
        self.calls += summary.calls;
        self.calls_in_trouble += summary.calls_in_trouble;
        self.checked += summary.checked;
        self.transactions += summary.transactions;
        self.committed += summary.committed;
        self.timestamps += summary.timestamps;
        self.transacting_runs += u64::from(summary.transactions > 0);
        self.entries += summary.entries as u64;
        self.leaders += summary.leaders as u64;
        self.crashes += summary.crashes;
        self.messages_lost += summary.messages_lost;
        self.probes.add(&summary.probes);
        for probe in Probe::ALL.iter().filter(|probe| summary.probes.hits(**probe) > 0) {
            *self.probed_runs.entry(*probe).or_default() += 1;
        }
        self.merge_maps(&summary.mischiefs, &summary.queues);
        if let Some(violation) = summary.violation {
            self.fail(Failure { seed, violation });
        }
    }

    /// Adds other sums.
    pub fn merge(&mut self, other: Self) {
        self.runs += other.runs;
        self.simulated += other.simulated;
        self.events += other.events;
        self.calls += other.calls;
        self.calls_in_trouble += other.calls_in_trouble;
        self.checked += other.checked;
        self.transactions += other.transactions;
        self.committed += other.committed;
        self.timestamps += other.timestamps;
        self.transacting_runs += other.transacting_runs;
        self.entries += other.entries;
        self.leaders += other.leaders;
        self.crashes += other.crashes;
        self.messages_lost += other.messages_lost;
        self.probes.add(&other.probes);
        for (probe, runs) in &other.probed_runs {
            *self.probed_runs.entry(*probe).or_default() += runs;
        }
        self.merge_maps(&other.mischiefs, &other.queues);
        if let Some(failure) = other.failure {
            self.fail(failure);
        }
    }

    fn merge_maps(
        &mut self,
        mischiefs: &BTreeMap<Mischief, u64>,
        queues: &BTreeMap<&'static str, usize>,
    ) {
        for (kind, count) in mischiefs {
            *self.mischiefs.entry(*kind).or_default() += count;
        }
        for (name, length) in queues {
            let longest = self.queues.entry(name).or_default();
            *longest = (*longest).max(*length);
        }
    }

    fn fail(&mut self, failure: Failure) {
        if self.failure.as_ref().is_none_or(|known| failure.seed < known.seed) {
            self.failure = Some(failure);
        }
    }

    /// Probes that must be hit in a long campaign and were not.
    pub fn missed(&self) -> Vec<Probe> {
        self.probes.never().filter(|probe| probe.is_must()).collect()
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.simulated as f64 / SECOND as f64;
        let took = self.took.as_secs_f64().max(f64::MIN_POSITIVE);
        writeln!(
            f,
            "{} seeds, {:.2} simulated hours in {took:.0} s ({:.0} to one), {} events",
            self.runs,
            seconds / 3600.0,
            seconds / took,
            self.events
        )?;
        writeln!(
            f,
            "{} operations checked, {} answered, {:.0} a second in trouble; {} entries, {} leaders",
            self.checked,
            self.calls,
            self.calls_in_trouble as f64 / (self.runs.max(1) * 60) as f64,
            self.entries,
            self.leaders
        )?;
        writeln!(
            f,
            "{} transactions checked in {} seeds, {} committed; {} timestamps",
            self.transactions, self.transacting_runs, self.committed, self.timestamps
        )?;
        let mischiefs: u64 = self.mischiefs.values().sum();
        write!(f, "{mischiefs} mischiefs:")?;
        self.mischiefs.iter().try_for_each(|(kind, count)| write!(f, " {kind:?} {count}"))?;
        writeln!(f, "\n{} processes ended, {} messages lost", self.crashes, self.messages_lost)?;
        write!(f, "longest queues:")?;
        self.queues.iter().try_for_each(|(name, length)| write!(f, " {length} {name}"))?;
        let never: Vec<Probe> = self.probes.never().collect();
        writeln!(f, "\nprobes: {} hit, {} never", Probe::ALL.len() - never.len(), never.len())?;
        for probe in Probe::ALL {
            let runs = self.probed_runs.get(probe).copied().unwrap_or(0);
            let hits = self.probes.hits(*probe);
            let mark = match (hits, probe.is_must()) {
                (0, true) => "NEVER",
                (0, false) => "never",
                _ => "",
            };
            writeln!(f, "{hits:>9} in {runs:>5} runs  {mark:5} {}", probe.words())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(violation: Option<&str>) -> Summary {
        let mut summary = Summary { calls: 3, checked: 4, ..Summary::default() };
        summary.probes.saw(Probe::LogCut);
        summary.mischiefs.insert(Mischief::Kill, 2);
        summary.queues.insert("messages", 7);
        summary.violation = violation.map(str::to_owned);
        summary
    }

    #[test]
    fn sums_are_sums_and_the_lowest_failure_is_told() {
        let (mut one, mut two) = (Totals::default(), Totals::default());
        one.add(9, run(Some("late")));
        one.add(10, run(None));
        two.add(4, run(Some("early")));
        one.merge(two);
        assert_eq!((one.runs, one.calls, one.checked), (3, 9, 12));
        assert_eq!(one.mischiefs[&Mischief::Kill], 6);
        assert_eq!((one.queues["messages"], one.probed_runs[&Probe::LogCut]), (7, 3));
        let failure = one.failure.as_ref().expect("two failed");
        assert_eq!((failure.seed, failure.violation.as_str()), (4, "early"));
        assert!(one.missed().contains(&Probe::Blackout) && !one.missed().contains(&Probe::LogCut));
        assert!(one.to_string().contains("NEVER every store loses power at once"));
    }
}
