//! A run that fails has had dozens of mischiefs; a few of them matter.
//!
//! Mischiefs are left out, many at once and then one by one, as long as the run still fails. Bounded: each
//! try is a whole run. What is left is told together with the last events of the region that the violation
//! names.

use std::collections::BTreeSet;
use std::fmt;

use super::run_caught;
use crate::sim::events::{Instant, SECOND};
use crate::sim::nemesis::Mischief;
use crate::sim::options::Options;
use crate::sim::summary::Summary;

/// Runs spent on one failure.
const RUNS_MAX: u32 = 80;

/// Events told of the region, the newest ones.
const LINES_TOLD: usize = 60;

/// A failure with nothing in it that it does not need, as far as was tried.
#[derive(Clone, Debug)]
pub struct Shrunk {
    seed: u64,
    violation: String,
    /// What is left: number, when it begins, kind.
    pub needed: Vec<(u32, Instant, Mischief)>,
    mischiefs_before: usize,
    runs: u32,
    lines: Vec<String>,
}

/// Shrinks the failure of a run with these options.
pub fn shrink(options: &Options) -> Shrunk {
    let mut options = options.clone();
    let first = run_caught(&options, false);
    let mut needed: Vec<u32> = first.story.iter().map(|(number, ..)| *number).collect();
    if needed.is_empty() {
        // A failed assertion leaves no story: the number of mischiefs is bounded by the run's length.
        needed = (1..=options.safety.div_ceil(SECOND / 10) as u32).collect();
    }
    let mischiefs_before = first.story.len();
    let mut fails = |kept: &[u32]| {
        options.only = Some(kept.iter().copied().collect());
        run_caught(&options, false).violation.is_some()
    };
    let runs = remove_what_is_not_needed(&mut needed, RUNS_MAX, &mut fails);
    options.only = Some(needed.into_iter().collect::<BTreeSet<u32>>());
    let last = run_caught(&options, true);
    let violation = last.violation.clone().or(first.violation).unwrap_or_default();
    Shrunk {
        seed: options.seed,
        needed: last.story.clone(),
        mischiefs_before,
        runs,
        lines: last_of_region(&last, &violation),
        violation,
    }
}

/// Removes ever smaller pieces as long as the rest fails. Returns how often it was tried.
fn remove_what_is_not_needed(
    kept: &mut Vec<u32>,
    tries_max: u32,
    fails: &mut impl FnMut(&[u32]) -> bool,
) -> u32 {
    let mut tries = 0;
    let mut piece = kept.len();
    while piece > 0 {
        // The newest first: what came after the failure is never needed.
        let mut end = kept.len();
        while end > 0 {
            if tries == tries_max {
                return tries;
            }
            let start = end.saturating_sub(piece);
            let rest: Vec<u32> = [&kept[..start], &kept[end..]].concat();
            tries += 1;
            if fails(&rest) {
                *kept = rest;
            }
            end = start;
        }
        piece /= 2;
    }
    tries
}

/// The newest lines that name the region or the register of which the violation speaks; of all when it
/// names none. Ticks and rounds are left out: they say nothing.
fn last_of_region(run: &Summary, violation: &str) -> Vec<String> {
    let name = region_in(violation).map(|id| format!("r{id}")).or(register_in(violation));
    let is_of_it = |line: &&String| {
        let mut words = line.split([' ', '.', ',', ';', '(', ')']);
        let is_heard = line.contains(" mischief ") || line.contains(" => ");
        is_heard || name.as_ref().is_none_or(|name| words.any(|word| word == name))
    };
    let is_dull = |line: &&String| {
        ["Tick", "Round", "Synced", "Apply", "Background"].iter().any(|end| line.ends_with(end))
            || line.contains(" Think(")
            || line.contains(" Deadline(")
    };
    let lines = run.lines.iter().filter(|line| !is_dull(line) && is_of_it(line));
    let lines: Vec<String> = lines.cloned().collect();
    lines[lines.len().saturating_sub(LINES_TOLD)..].to_vec()
}

/// The register that a sentence names, as the trace writes it: `k4`.
fn register_in(sentence: &str) -> Option<String> {
    let number = sentence.strip_prefix("register ")?.split(' ').next()?;
    Some(format!("k{number}"))
}

/// The region that a sentence names: `r17`.
fn region_in(sentence: &str) -> Option<u64> {
    let words = sentence.split(|c: char| !c.is_alphanumeric());
    words.filter_map(|word| word.strip_prefix('r')?.parse().ok()).next()
}

impl fmt::Display for Shrunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.violation)?;
        writeln!(f, "replay: cargo xtask replay {}", self.seed)?;
        let numbers: Vec<String> = self.needed.iter().map(|(n, ..)| n.to_string()).collect();
        writeln!(
            f,
            "with {} of {} mischiefs (after {} more runs): cargo xtask replay {} --only {}",
            self.needed.len(),
            self.mischiefs_before,
            self.runs,
            self.seed,
            if numbers.is_empty() { "none".to_owned() } else { numbers.join(",") }
        )?;
        for (number, at, kind) in &self.needed {
            writeln!(f, "    {number:>4} at {:>7.3} s {kind:?}", *at as f64 / SECOND as f64)?;
        }
        writeln!(f, "the last of it:")?;
        self.lines.iter().try_for_each(|line| writeln!(f, "    {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_needed_is_left() {
        for needed in [vec![], vec![3], vec![1, 40], vec![7, 8, 39]] {
            let mut kept: Vec<u32> = (1..=40).collect();
            let mut fails = |rest: &[u32]| needed.iter().all(|number| rest.contains(number));
            let tries = remove_what_is_not_needed(&mut kept, 1000, &mut fails);
            assert_eq!(kept, needed, "after {tries}");
        }
        let mut kept: Vec<u32> = (1..=40).collect();
        let tries = remove_what_is_not_needed(&mut kept, 5, &mut |_| false);
        assert_eq!((tries, kept.len()), (5, 40), "effort is bounded");
    }

    #[test]
    fn the_region_of_a_sentence_is_found() {
        assert_eq!(region_in("r12 has two leaders in term 5: p1, p3"), Some(12));
        assert_eq!(region_in("s1 goes back from v2.c1 to r3 [a,b) v1.c1"), Some(3));
        assert_eq!(region_in("register 4 is not linearizable"), None);
        assert_eq!(register_in("register 4 is not linearizable"), Some("k4".to_owned()));
    }
}
