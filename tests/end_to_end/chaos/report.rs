//! What happened, for a person: progress meanwhile, and the summary.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tests::history::Outcome;

use super::load::{Books, Tally};
use super::nemesis::Mischief;
use super::watch::{CALL_TIMEOUT, Watch};

/// A time without any answer is worth a line from this length on.
const GAP_MIN: Duration = Duration::from_millis(500);
/// So many of the longest are told.
const GAPS_TOLD: usize = 3;

/// How the users fare.
pub(super) struct Progress(Mutex<Counts>);

struct Counts {
    begin: Instant,
    done: u64,
    refused: u64,
    unknown: u64,
    last_success: Instant,
    /// Times without any success, as offsets from the beginning.
    gaps: Vec<(Duration, Duration)>,
    /// When the latest success of each user began.
    latest: Vec<Option<Instant>>,
}

impl Progress {
    pub(super) fn new(users: usize) -> Self {
        let now = Instant::now();
        Self(Mutex::new(Counts {
            begin: now,
            done: 0,
            refused: 0,
            unknown: 0,
            last_success: now,
            gaps: Vec::new(),
            latest: vec![None; users],
        }))
    }

    /// A user's call on a register ended now.
    pub(super) fn called(&self, user: u64, start: Instant, outcome: Outcome) {
        let is_answered = {
            let mut counts = self.0.lock().unwrap();
            match outcome {
                Outcome::Refused => counts.refused += 1,
                Outcome::Unknown => counts.unknown += 1,
                Outcome::Read(_) | Outcome::Done | Outcome::Differed(_) => counts.done += 1,
            }
            !matches!(outcome, Outcome::Refused | Outcome::Unknown)
        };
        if is_answered {
            self.answered(user, start);
        }
    }

    /// A user's call, or transaction, has succeeded.
    pub(super) fn answered(&self, user: u64, start: Instant) {
        let now = Instant::now();
        let mut counts = self.0.lock().unwrap();
        let gap = (counts.last_success - counts.begin, now - counts.begin);
        if gap.1.saturating_sub(gap.0) >= GAP_MIN {
            counts.gaps.push(gap);
        }
        counts.last_success = now;
        counts.latest[user as usize] = Some(start);
    }

    /// Whether each of these users has had success with something begun after this moment.
    pub(super) fn answered_since(&self, users: Range<usize>, moment: Instant) -> bool {
        let counts = self.0.lock().unwrap();
        counts.latest[users].iter().all(|latest| latest.is_some_and(|start| start >= moment))
    }
}

/// What was done to the cluster, and when.
pub(super) struct Diary {
    pub(super) begin: Instant,
    file: Mutex<File>,
    counts: Mutex<BTreeMap<Mischief, u64>>,
    /// From when to when, as offsets, and what.
    faults: Mutex<Vec<(Duration, Duration, String)>>,
}

impl Diary {
    /// Also written to a file, line by line: there when the run ends badly.
    pub(super) fn open(file: &Path) -> Self {
        Self {
            begin: Instant::now(),
            file: Mutex::new(File::create(file).unwrap()),
            counts: Mutex::default(),
            faults: Mutex::default(),
        }
    }

    pub(super) fn note(&self, line: impl std::fmt::Display) {
        let line = format!("{:8.3} s  {line}", self.begin.elapsed().as_secs_f64());
        println!("{line}");
        writeln!(self.file.lock().unwrap(), "{line}").unwrap();
    }

    pub(super) fn count(&self, kind: Mischief) {
        *self.counts.lock().unwrap().entry(kind).or_default() += 1;
    }

    /// A fault that began then is over now.
    pub(super) fn over(&self, began: Instant, what: &str) {
        let began = began - self.begin;
        self.faults.lock().unwrap().push((began, self.begin.elapsed(), what.to_owned()));
    }

    /// The summary of a run, without the verdict.
    pub(super) fn summary(&self, books: &Books) -> String {
        let counts = books.progress.0.lock().unwrap();
        let mut text = String::new();
        let minutes = self.begin.elapsed().as_secs_f64() / 60.0;
        let calls = counts.done + counts.refused + counts.unknown;
        let _ = writeln!(
            text,
            "{minutes:.1} minutes; {calls} register calls: {} answered, {} refused, {} unknown",
            counts.done, counts.refused, counts.unknown
        );
        text.push_str(&transactions(&books.tally()));
        text.push_str(&calls_told(&books.watch));
        let faults = self.counts.lock().unwrap();
        let _ = write!(text, "{} faults:", faults.values().sum::<u64>());
        for (kind, count) in faults.iter() {
            let _ = write!(text, " {kind:?} {count}");
        }
        text.push('\n');
        let offset = counts.begin.saturating_duration_since(self.begin);
        let mut gaps = counts.gaps.clone();
        gaps.sort_by_key(|(from, to)| std::cmp::Reverse(*to - *from));
        let longest = gaps.first().map_or(Duration::ZERO, |(from, to)| *to - *from);
        let _ = writeln!(
            text,
            "longest time without any answer: {:.1} s{}",
            longest.as_secs_f64(),
            if gaps.is_empty() { " (none above 0.5 s)" } else { "" }
        );
        for (from, to) in gaps.iter().take(GAPS_TOLD) {
            let (from, to) = (*from + offset, *to + offset);
            let _ = writeln!(
                text,
                "  {:.1} s at {:.1} s, during: {}",
                (to - from).as_secs_f64(),
                from.as_secs_f64(),
                self.during(from, to)
            );
        }
        text
    }

    fn during(&self, from: Duration, to: Duration) -> String {
        let faults = self.faults.lock().unwrap();
        let met = faults.iter().filter(|(began, ended, _)| *began <= to && *ended >= from);
        let named: Vec<&str> = met.map(|(_, _, what)| what.as_str()).collect();
        if named.is_empty() { "nothing".into() } else { named.join("; ") }
    }
}

/// A table: how many transactions of each kind ended in which way, as their clients were told.
fn transactions(tally: &Tally) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{:<40}{:>10}{:>10}{:>10}", "", "committed", "refused", "unknown");
    for (kind, endings) in &tally.0 {
        let _ = writeln!(
            text,
            "{:<40}{:>10}{:>10}{:>10}",
            kind.to_string(),
            endings.committed,
            endings.refused,
            endings.unknown
        );
    }
    text
}

fn calls_told(watch: &Watch) -> String {
    let (longest, which) = watch.longest();
    let mut text = format!(
        "{} calls, the longest {:.1} s ({}) of at most {:.1} s; {} hung\n",
        watch.calls(),
        longest.as_secs_f64(),
        which.trim_end(),
        CALL_TIMEOUT.as_secs_f64(),
        watch.hung().len()
    );
    let (count, words) = watch.rejected();
    if count > 0 {
        let _ = writeln!(text, "{count} calls were turned away for good, as these:");
        words.iter().for_each(|words| text.push_str(&format!("  {words}\n")));
    }
    text
}
