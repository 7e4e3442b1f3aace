//! The anomalies of the literature, written down from their definitions; and good histories into which each
//! of them is planted.

use super::*;
use crate::sim::dice::Dice;

/// A committed transaction that overlaps with every other.
fn t(steps: Vec<Step>) -> ListTransaction {
    ListTransaction { began: 0, ended: 1_000, ending: Ending::Ok, steps }
}

/// The same, with time.
fn at(began: u64, ended: u64, steps: Vec<Step>) -> ListTransaction {
    ListTransaction { began, ended, ending: Ending::Ok, steps }
}

fn a(key: u64, number: u64) -> Step {
    Step::Append(key, number)
}

fn r(key: u64, list: &[u64]) -> Step {
    Step::Read(key, list.to_vec())
}

fn ended(ending: Ending, transaction: ListTransaction) -> ListTransaction {
    ListTransaction { ending, ..transaction }
}

fn kinds(history: &[ListTransaction]) -> Vec<Kind> {
    check(history).into_iter().map(|anomaly| anomaly.kind).collect()
}

const X: u64 = 1;
const Y: u64 = 2;

#[test]
fn nothing_is_wrong_with_one_after_the_other() {
    let history = [
        at(0, 1, vec![a(X, 1), a(Y, 1)]),
        at(2, 3, vec![r(X, &[1]), a(X, 2), r(X, &[1, 2])]),
        at(4, 5, vec![r(X, &[1, 2]), r(Y, &[1])]),
        ended(Ending::Failed, at(6, 7, vec![r(X, &[9]), a(X, 3)])),
        ended(Ending::Unknown, at(8, u64::MAX, vec![a(X, 4)])),
        ended(Ending::Unknown, at(8, u64::MAX, vec![a(X, 5)])),
        at(10, 11, vec![r(X, &[1, 2, 5])]),
    ];
    assert_eq!(check(&history), []);
}

#[test]
fn g0_writes_in_a_circle() {
    let history = [
        t(vec![a(X, 1), a(Y, 1)]),
        t(vec![a(X, 2), a(Y, 2)]),
        t(vec![r(X, &[1, 2]), r(Y, &[2, 1])]),
    ];
    assert_eq!(kinds(&history), [Kind::G0]);
}

#[test]
fn g1a_a_read_of_what_was_aborted() {
    let history = [ended(Ending::Failed, t(vec![a(X, 1)])), t(vec![r(X, &[1])])];
    assert_eq!(kinds(&history), [Kind::G1a]);
}

#[test]
fn g1b_a_read_between_two_writes_of_one() {
    let history = [t(vec![a(X, 1), a(X, 2)]), t(vec![r(X, &[1])]), t(vec![r(X, &[1, 2])])];
    assert!(kinds(&history).contains(&Kind::G1b));
}

#[test]
fn g1c_each_reads_what_the_other_wrote() {
    let history = [t(vec![a(X, 1), r(Y, &[2])]), t(vec![a(Y, 2), r(X, &[1])])];
    assert_eq!(kinds(&history), [Kind::G1c]);
}

#[test]
fn g_single_one_key_of_before_and_one_of_after() {
    let history = [t(vec![a(X, 1), a(Y, 1)]), t(vec![r(X, &[1]), r(Y, &[])]), t(vec![r(Y, &[1])])];
    assert_eq!(kinds(&history), [Kind::GSingle]);
}

#[test]
fn a_lost_update() {
    // Both count from the same list; the second puts its number behind the first's …
    let history =
        [t(vec![r(X, &[]), a(X, 1)]), t(vec![r(X, &[]), a(X, 2)]), t(vec![r(X, &[1, 2])])];
    assert_eq!(kinds(&history), [Kind::LostUpdate, Kind::GSingle]);
    // … or in its place.
    let history = [t(vec![r(X, &[]), a(X, 1)]), t(vec![r(X, &[]), a(X, 2)]), t(vec![r(X, &[2])])];
    assert!(kinds(&history).contains(&Kind::LostUpdate));
}

#[test]
fn g_nonadjacent_the_long_fork() {
    // Two readers see two writers in opposite orders.
    let history = [
        t(vec![a(X, 1)]),
        t(vec![a(Y, 1)]),
        t(vec![r(X, &[1]), r(Y, &[])]),
        t(vec![r(X, &[]), r(Y, &[1])]),
    ];
    assert_eq!(kinds(&history), [Kind::GNonadjacent]);
}

#[test]
fn g2_write_skew_is_told_and_allowed() {
    let history = [
        t(vec![r(X, &[]), r(Y, &[]), a(X, 1)]),
        t(vec![r(X, &[]), r(Y, &[]), a(Y, 1)]),
        t(vec![r(X, &[1]), r(Y, &[1])]),
    ];
    assert_eq!(kinds(&history), [Kind::G2]);
    assert_eq!(check_snapshot_isolation(&history), Ok(()));
}

#[test]
fn what_was_acknowledged_before_is_seen() {
    let history = [at(0, 1, vec![a(X, 1)]), at(2, 3, vec![r(X, &[])]), at(4, 5, vec![r(X, &[1])])];
    assert_eq!(kinds(&history), [Kind::GSingleRealtime]);
    // Gone for good: nobody ever sees it.
    let history = [at(0, 1, vec![a(X, 1)]), at(2, 3, vec![r(X, &[])])];
    assert_eq!(kinds(&history), [Kind::GSingleRealtime]);
    // A read of a list whose last writer had not begun.
    let history = [at(0, 1, vec![r(X, &[1])]), at(2, 3, vec![a(X, 1)])];
    assert_eq!(kinds(&history), [Kind::G1cRealtime]);
    // Two acknowledged one after the other, and written the other way round.
    let history = [at(0, 1, vec![a(X, 1)]), at(2, 3, vec![a(X, 2)]), at(0, 9, vec![r(X, &[2, 1])])];
    assert_eq!(kinds(&history), [Kind::G0Realtime]);
}

#[test]
fn lists_that_cannot_be() {
    assert_eq!(kinds(&[t(vec![r(X, &[7])])]), [Kind::Invented]);
    assert_eq!(kinds(&[t(vec![a(X, 1)]), t(vec![a(X, 1)])]), [Kind::AppendedTwice]);
    assert!(kinds(&[t(vec![a(X, 1)]), t(vec![r(X, &[1, 1])])]).contains(&Kind::Duplicate));
    let history = [
        t(vec![a(X, 1)]),
        t(vec![a(X, 2)]),
        t(vec![r(X, &[1])]),
        t(vec![r(X, &[2])]),
        t(vec![r(X, &[2, 1])]),
    ];
    assert!(kinds(&history).contains(&Kind::IncompatibleOrder));
    assert_eq!(kinds(&[t(vec![a(X, 1), r(X, &[])])]), [Kind::Internal]);
    let history = [t(vec![a(X, 1)]), t(vec![r(X, &[]), r(X, &[1])])];
    assert!(kinds(&history).contains(&Kind::Internal));
}

#[test]
fn an_unknown_write_that_was_read_takes_part() {
    // Unknown, read, and then gone.
    let history = [
        ended(Ending::Unknown, at(0, u64::MAX, vec![a(X, 1), a(Y, 1)])),
        at(0, 5, vec![r(X, &[1]), r(Y, &[])]),
        at(0, 9, vec![r(Y, &[1])]),
    ];
    assert_eq!(kinds(&history), [Kind::GSingle]);
}

/// A store with snapshots and first committers that win, and clients that overlap in it.
struct Model {
    dice: Dice,
    keys: u64,
    /// By key: numbers with the moment of their commit.
    lists: Vec<Vec<(u64, u64)>>,
    moment: u64,
    next_number: u64,
}

struct Running {
    began: u64,
    snapshot: u64,
    steps: Vec<Step>,
    appended: Vec<(u64, u64)>,
    left: u64,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let keys = dice.within(2..5);
        let lists = vec![Vec::new(); keys as usize];
        Self { dice, keys, lists, moment: 0, next_number: 0 }
    }

    fn tick(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    fn begin(&mut self) -> Running {
        let (began, snapshot) = (self.tick(), self.tick());
        let left = self.dice.within(1..5);
        Running { began, snapshot, steps: Vec::new(), appended: Vec::new(), left }
    }

    /// A key is read before it is appended to, as on a store of values.
    fn step(&mut self, running: &mut Running) {
        running.left -= 1;
        let key = self.dice.within(0..self.keys);
        let committed = self.lists[key as usize].iter().filter(|(_, at)| *at <= running.snapshot);
        let mut list: Vec<u64> = committed.map(|(number, _)| *number).collect();
        list.extend(running.appended.iter().filter(|(k, _)| *k == key).map(|(_, n)| *n));
        running.steps.push(Step::Read(key, list));
        if self.dice.happens(500) {
            self.next_number += 1;
            running.steps.push(Step::Append(key, self.next_number));
            running.appended.push((key, self.next_number));
        }
    }

    fn commit(&mut self, running: Running) -> ListTransaction {
        let commit = self.tick();
        let conflict = running.appended.iter().any(|(key, _)| {
            self.lists[*key as usize].last().is_some_and(|(_, at)| *at > running.snapshot)
        });
        if !conflict {
            for (key, number) in &running.appended {
                self.lists[*key as usize].push((*number, commit));
            }
        }
        let ending = match conflict {
            true => Ending::Failed,
            false if self.dice.happens(30) => Ending::Unknown,
            false => Ending::Ok,
        };
        let ended = if ending == Ending::Unknown { u64::MAX } else { self.tick() };
        ListTransaction { began: running.began, ended, ending, steps: running.steps }
    }

    fn run(mut self, transactions: usize) -> Vec<ListTransaction> {
        let clients = self.dice.within(2..6) as usize;
        let mut running: Vec<Option<Running>> = (0..clients).map(|_| None).collect();
        let mut history = Vec::new();
        while history.len() < transactions {
            let client = self.dice.within(0..clients as u64) as usize;
            match running[client].take() {
                None => running[client] = Some(self.begin()),
                Some(mut one) if one.left > 0 => {
                    self.step(&mut one);
                    running[client] = Some(one);
                }
                Some(one) => history.push(self.commit(one)),
            }
        }
        history
    }
}

#[test]
fn histories_of_a_store_with_snapshots_hold() {
    let mut skewed = 0;
    for seed in 0..150 {
        let history = Model::new(seed).run(120);
        assert_eq!(check_snapshot_isolation(&history), Ok(()), "seed {seed}");
        skewed += u64::from(!check(&history).is_empty());
    }
    assert!(skewed > 15, "write skew happens among so many: {skewed}");
}

/// Every read of a committed transaction that sees at least so much.
fn reads(history: &[ListTransaction], length: usize) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (at, transaction) in history.iter().enumerate().filter(|(_, t)| t.ending == Ending::Ok) {
        let mut touched = BTreeSet::new();
        for (place, step) in transaction.steps.iter().enumerate() {
            match step {
                // The first look at a key, so that only the store can be to blame.
                Step::Read(key, list) if touched.insert(*key) && list.len() >= length => {
                    found.push((at, place));
                }
                Step::Read(..) => {}
                Step::Append(key, _) => {
                    touched.insert(*key);
                }
            }
        }
    }
    found
}

fn list_at(history: &mut [ListTransaction], (at, place): (usize, usize)) -> &mut Vec<u64> {
    match &mut history[at].steps[place] {
        Step::Read(_, list) => list,
        Step::Append(..) => panic!("a read stands there"),
    }
}

/// Whether the transaction looks at the key once, and does not write there.
fn only_looks(history: &[ListTransaction], (at, place): (usize, usize)) -> bool {
    let key_of = |step: &Step| match step {
        Step::Read(key, _) | Step::Append(key, _) => *key,
    };
    let key = key_of(&history[at].steps[place]);
    history[at].steps.iter().filter(|step| key_of(step) == key).count() == 1
}

type Mutation = fn(&mut [ListTransaction], &mut Dice) -> bool;

/// The last number of a list that somebody acknowledged long before is not there.
fn stale_read(history: &mut [ListTransaction], dice: &mut Dice) -> bool {
    let mut candidates = reads(history, 1);
    candidates.retain(|place| only_looks(history, *place));
    let known = history.to_vec();
    candidates.retain(|(at, place)| {
        let Step::Read(key, list) = &known[*at].steps[*place] else { return false };
        let wanted = Step::Append(*key, list[list.len() - 1]);
        let writer = known.iter().find(|t| t.steps.contains(&wanted));
        writer.is_some_and(|t| t.ending == Ending::Ok && t.ended < known[*at].began)
    });
    let Some(place) = dice.one_of(&candidates).copied() else { return false };
    list_at(history, place).pop();
    true
}

/// A number of an aborted transaction is seen.
fn dirty_read(history: &mut [ListTransaction], dice: &mut Dice) -> bool {
    let aborted: Vec<(u64, u64)> = history
        .iter()
        .filter(|t| t.ending == Ending::Failed)
        .flat_map(|t| &t.steps)
        .filter_map(|step| match step {
            Step::Append(key, number) => Some((*key, *number)),
            Step::Read(..) => None,
        })
        .collect();
    let mut candidates = reads(history, 0);
    candidates.retain(|place| only_looks(history, *place));
    let Some(place) = dice.one_of(&candidates).copied() else { return false };
    let Step::Read(key, _) = history[place.0].steps[place.1] else { return false };
    let Some((_, number)) = aborted.iter().find(|(other, _)| *other == key) else { return false };
    list_at(history, place).push(*number);
    true
}

/// Two neighbours in a list stand the other way round for one reader.
fn other_order(history: &mut [ListTransaction], dice: &mut Dice) -> bool {
    let mut candidates = reads(history, 2);
    candidates.retain(|place| only_looks(history, *place));
    // Somebody else must have seen the order, or it is as good as the other.
    let longest = |key: u64| {
        let all = history.iter().filter(|t| t.ending == Ending::Ok).flat_map(|t| &t.steps);
        all.filter(|step| matches!(step, Step::Read(k, list) if *k == key && list.len() >= 2))
            .count()
    };
    let known = history.to_vec();
    candidates.retain(|(at, place)| match &known[*at].steps[*place] {
        Step::Read(key, _) => longest(*key) > 1,
        Step::Append(..) => false,
    });
    let Some(place) = dice.one_of(&candidates).copied() else { return false };
    list_at(history, place).swap(0, 1);
    true
}

/// A number stands in a list twice.
fn repeated(history: &mut [ListTransaction], dice: &mut Dice) -> bool {
    let mut candidates = reads(history, 1);
    candidates.retain(|place| only_looks(history, *place));
    let Some(place) = dice.one_of(&candidates).copied() else { return false };
    let list = list_at(history, place);
    list.push(list[0]);
    true
}

/// Two that appended to one list are said to have read the same.
fn lost_update(history: &mut [ListTransaction], dice: &mut Dice) -> bool {
    let mut candidates = Vec::new();
    for (at, transaction) in history.iter().enumerate().filter(|(_, t)| t.ending == Ending::Ok) {
        for pair in transaction.steps.windows(2) {
            if let [Step::Read(key, list), Step::Append(..)] = pair
                && transaction
                    .steps
                    .iter()
                    .filter(|s| matches!(s, Step::Read(k, _) if k == key))
                    .count()
                    == 1
                && let Some(last) = list.last()
                && history.iter().any(|t| {
                    let mut looked =
                        t.steps.iter().take_while(|s| !matches!(s, Step::Append(k, _) if k == key));
                    t.ending == Ending::Ok
                        && t.steps.contains(&Step::Append(*key, *last))
                        && looked.any(|s| matches!(s, Step::Read(k, _) if k == key))
                        && t.steps
                            .iter()
                            .filter(|s| matches!(s, Step::Append(k, _) if k == key))
                            .count()
                            == 1
                })
            {
                candidates.push((at, *key));
            }
        }
    }
    let Some((at, key)) = dice.one_of(&candidates).copied() else { return false };
    for step in &mut history[at].steps {
        if let Step::Read(read, list) = step
            && *read == key
        {
            list.pop();
        }
    }
    true
}

/// One reader sees one key of a writer's and not the other.
fn torn_read(history: &mut [ListTransaction], dice: &mut Dice) -> bool {
    let known = history.to_vec();
    let mut candidates = Vec::new();
    for (at, transaction) in known.iter().enumerate().filter(|(_, t)| t.ending == Ending::Ok) {
        let looks = || {
            transaction.steps.iter().enumerate().filter_map(|(place, step)| match step {
                Step::Read(key, list) => list.last().map(|last| (place, *key, *last)),
                Step::Append(..) => None,
            })
        };
        for (place, key, last) in looks() {
            let together = looks().any(|(_, other, other_last)| {
                other != key
                    && known.iter().any(|t| {
                        t.steps.contains(&Step::Append(key, last))
                            && t.steps.contains(&Step::Append(other, other_last))
                            && t.steps
                                .iter()
                                .filter(|s| matches!(s, Step::Append(k, _) if *k == key))
                                .count()
                                == 1
                    })
            });
            if together && only_looks(&known, (at, place)) {
                candidates.push((at, place));
            }
        }
    }
    let Some(place) = dice.one_of(&candidates).copied() else { return false };
    list_at(history, place).pop();
    true
}

#[test]
fn whatever_is_planted_in_a_good_history_is_found() {
    let mutations: [(&str, Mutation); 6] = [
        ("stale read", stale_read),
        ("dirty read", dirty_read),
        ("other order", other_order),
        ("repeated", repeated),
        ("lost update", lost_update),
        ("torn read", torn_read),
    ];
    for (name, mutate) in mutations {
        let mut planted = 0;
        for seed in 0..200 {
            let mut history = Model::new(seed).run(80);
            if mutate(&mut history, &mut Dice::new(seed)) {
                planted += 1;
                let verdict = check_snapshot_isolation(&history);
                assert!(verdict.is_err(), "{name}, seed {seed}: {history:#?}");
            }
        }
        assert!(planted > 25, "{name} was planted only {planted} times");
    }
}
