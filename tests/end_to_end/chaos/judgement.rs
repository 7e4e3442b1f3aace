//! What the evidence says: each promise is held against what was seen, and told with how much was looked at.
//!
//! | promise | judged by |
//! |---|---|
//! | registers are linearizable | `checkers::linearizability`, key by key |
//! | lists show no anomaly but write skew | `checkers::list_append`, turn by turn, everything read at the end included |
//! | cells show snapshot isolation | `checkers::snapshot_isolation`, all at once |
//! | every balance is what the transfers make it | receipts |
//! | what was acknowledged is there, and what was refused is not | the last reading of each |
//!
//! A commit of which nobody has heard how it ended is neither done nor failed until the stores have said so:
//! its number is in a list, its record on a key, its receipt in the vault, or they are not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use tests::checkers::linearizability::{self, Violation};
use tests::checkers::list_append::{self, Ending, ListTransaction, Step};
use tests::checkers::snapshot_isolation;
use tests::history::{History, Operation};
use tests::transactions::{Fate, Transaction};

use super::load::{ACCOUNTS, BALANCE, CellTransaction, Evidence, LISTS, Transfer, Vault};

/// What was looked at, and what does not hold.
#[derive(Debug, Default)]
pub(super) struct Judgement {
    pub(super) checked: Vec<String>,
    pub(super) violations: Vec<String>,
}

/// How many commits ended in which way when nobody had been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Unknown {
    committed: u64,
    not: u64,
}

impl Unknown {
    fn count(&mut self, is_committed: bool) {
        *(if is_committed { &mut self.committed } else { &mut self.not }) += 1;
    }
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { committed, not } = self;
        let all = committed + not;
        write!(f, "{all} of unknown outcome: {committed} turned out committed, {not} not")
    }
}

/// Everything.
pub(super) fn judge(evidence: &Evidence) -> Judgement {
    let mut judgement = Judgement { violations: evidence.wrong.clone(), ..Default::default() };
    judge_registers(&evidence.history, &mut judgement);
    judge_lists(&evidence.lists, &evidence.last_lists, &mut judgement);
    judge_cells(&evidence.cells, &mut judgement);
    judge_bank(&evidence.transfers, &evidence.vault, &mut judgement);
    judgement.checked.push(format!(
        "{} sums and {} snapshots read again; {} acknowledged writes read back; {} timestamps",
        evidence.sums, evidence.rereads, evidence.written, evidence.timestamps
    ));
    judgement
}

fn judge_registers(history: &History, judgement: &mut Judgement) {
    let mut registers: BTreeMap<u64, Vec<Operation>> = BTreeMap::new();
    for operation in history.operations() {
        registers.entry(operation.key).or_default().push(operation.clone());
    }
    let (mut linearizable, mut undecided) = (0, 0);
    for operations in registers.values() {
        match linearizability::check(operations) {
            Ok(()) => linearizable += 1,
            Err(Violation::Undecided { .. }) => undecided += 1,
            Err(violation @ Violation::Impossible { .. }) => {
                judgement.violations.push(violation.to_string());
            }
        }
    }
    judgement.checked.push(format!(
        "{} calls on registers: {linearizable} linearizable, {undecided} undecided",
        history.operations().len()
    ));
}

fn appends(transaction: &ListTransaction) -> impl Iterator<Item = (u64, u64)> {
    transaction.steps.iter().filter_map(|step| match step {
        Step::Append(list, number) => Some((*list, *number)),
        Step::Read(..) => None,
    })
}

/// Judges what was done to lists; `last` is what was read of each of them at the end.
fn judge_lists(history: &[ListTransaction], last: &[ListTransaction], judgement: &mut Judgement) {
    let mut there: BTreeSet<(u64, u64)> = BTreeSet::new();
    for step in last.iter().flat_map(|reading| &reading.steps) {
        if let Step::Read(list, numbers) = step {
            there.extend(numbers.iter().map(|number| (*list, *number)));
        }
    }
    let mut turns: BTreeMap<u64, Vec<ListTransaction>> = BTreeMap::new();
    let (mut unknown, mut reads, mut appended) = (Unknown::default(), 0, 0);
    for transaction in history.iter().chain(last) {
        let mut transaction = transaction.clone();
        let own = || appends(&transaction);
        match transaction.ending {
            Ending::Ok => {
                for (list, number) in own().filter(|append| !there.contains(append)) {
                    judgement.violations.push(format!(
                        "{number} was appended to list {list} for certain, and is not there at the \
                         end: {transaction}"
                    ));
                }
                appended += own().count();
                reads += transaction.steps.len() - own().count();
            }
            Ending::Failed => {}
            Ending::Unknown => {
                let is_committed = own().any(|append| there.contains(&append));
                if own().next().is_some() {
                    unknown.count(is_committed);
                }
                // All of it is there then, or the checker says what is not.
                transaction.ending = if is_committed { Ending::Ok } else { Ending::Failed };
            }
        }
        let (Step::Read(list, _) | Step::Append(list, _)) = transaction.steps[0];
        turns.entry(list / LISTS).or_default().push(transaction);
    }
    let mut skews = 0;
    for (turn, transactions) in &turns {
        for anomaly in list_append::check(transactions) {
            if anomaly.kind.is_allowed() {
                skews += 1;
            } else {
                judgement.violations.push(format!("lists of turn {turn}: {anomaly}"));
            }
        }
    }
    judgement.checked.push(format!(
        "{} transactions on lists, {} turns: {appended} appends, {reads} reads, write skew in {skews} \
         turns (allowed); {unknown}",
        history.len(),
        turns.len()
    ));
}

fn judge_cells(history: &[CellTransaction], judgement: &mut Judgement) {
    let told: Vec<Transaction<u64>> =
        history.iter().map(|transaction| transaction.told.clone()).collect();
    if let Err(violation) = snapshot_isolation::check(&told) {
        judgement.violations.push(format!("cells: {violation}"));
    }
    let mut unknown = Unknown::default();
    for transaction in history.iter().filter(|transaction| transaction.was_unknown) {
        unknown.count(matches!(transaction.told.fate, Fate::Committed(_)));
    }
    let reads: usize = told.iter().map(|transaction| transaction.reads.len()).sum();
    judgement.checked.push(format!(
        "{} transactions on cells: {reads} reads against the versions of their timestamps; {unknown}",
        told.len()
    ));
}

fn judge_bank(transfers: &[Transfer], vault: &Vault, judgement: &mut Judgement) {
    let mut balances: BTreeMap<u64, i64> =
        (0..ACCOUNTS).map(|account| (account, BALANCE as i64)).collect();
    let (mut moved, mut unknown) = (0, Unknown::default());
    for Transfer { from, to, amount, receipt, ending } in transfers {
        let is_there = vault.receipts.contains(receipt);
        match ending {
            Ending::Ok if !is_there => {
                judgement.violations.push(format!(
                    "{amount} were moved from {from} to {to} for certain, and {receipt} is not there"
                ));
            }
            Ending::Failed if is_there => {
                judgement.violations.push(format!(
                    "nothing was moved from {from} to {to} for certain, and {receipt} is there"
                ));
            }
            Ending::Ok | Ending::Failed => {}
            Ending::Unknown => unknown.count(is_there),
        }
        if is_there {
            moved += 1;
            *balances.entry(*from).or_default() -= *amount as i64;
            *balances.entry(*to).or_default() += *amount as i64;
        }
    }
    for (account, expected) in &balances {
        let held = vault.balances.get(account);
        if held.map(|held| *held as i64) != Some(*expected) {
            judgement.violations.push(format!(
                "account {account} holds {held:?}, and its transfers make it {expected}"
            ));
        }
    }
    judgement.checked.push(format!(
        "{} transfers: {moved} receipts, {} balances as they make them; {unknown}",
        transfers.len(),
        vault.balances.len()
    ));
}

/// The whole history, for a person who looks into a failure.
pub(super) fn tell(evidence: &Evidence) -> String {
    let mut text = String::new();
    for operation in evidence.history.operations() {
        let _ = writeln!(text, "{operation}");
    }
    for transaction in evidence.lists.iter().chain(&evidence.last_lists) {
        let _ = writeln!(text, "{transaction}");
    }
    for CellTransaction { kind, told, was_unknown } in &evidence.cells {
        let how = if *was_unknown { " (fate read from the stores)" } else { "" };
        let _ = writeln!(text, "{told} [{}..{}] {kind}{how}", told.began, told.ended);
    }
    for transfer in &evidence.transfers {
        let _ = writeln!(text, "{transfer:?}");
    }
    let _ = writeln!(text, "{:?}", evidence.vault);
    text
}

/// Histories in which something is wrong on purpose.
mod planted {
    use client::KvPair;
    use tests::transactions::{Change, Read, Write};

    use super::super::load::{Kind, check_sum};
    use super::*;

    fn list(began: u64, ended: u64, ending: Ending, steps: Vec<Step>) -> ListTransaction {
        ListTransaction { began, ended, ending, steps }
    }

    fn read(list: u64, numbers: &[u64]) -> Step {
        Step::Read(list, numbers.to_vec())
    }

    fn violations_of_lists(history: &[ListTransaction], last: &[Step]) -> Vec<String> {
        let mut judgement = Judgement::default();
        judge_lists(history, &[list(90, 91, Ending::Ok, last.to_vec())], &mut judgement);
        judgement.violations
    }

    fn two_appends() -> Vec<ListTransaction> {
        vec![
            list(1, 2, Ending::Ok, vec![read(0, &[]), Step::Append(0, 5), Step::Append(1, 6)]),
            list(3, 4, Ending::Ok, vec![read(0, &[5]), Step::Append(0, 7)]),
        ]
    }

    #[test]
    fn lists_that_are_in_order_are_let_pass() {
        let last = [read(0, &[5, 7]), read(1, &[6])];
        assert_eq!(violations_of_lists(&two_appends(), &last), Vec::<String>::new());
    }

    #[test]
    fn a_lost_append_is_found() {
        let found = violations_of_lists(&two_appends(), &[read(0, &[5]), read(1, &[6])]);
        assert!(found[0].starts_with("7 was appended to list 0 for certain"), "{found:?}");
        let found = violations_of_lists(&two_appends(), &[read(0, &[7]), read(1, &[6])]);
        assert!(found[0].starts_with("5 was appended to list 0 for certain"), "{found:?}");
    }

    #[test]
    fn an_append_of_unknown_fate_is_there_as_a_whole_or_not_at_all() {
        let mut history = two_appends();
        let steps = vec![Step::Append(0, 8), Step::Append(1, 9)];
        history.push(list(5, u64::MAX, Ending::Unknown, steps));
        let none = [read(0, &[5, 7]), read(1, &[6])];
        assert_eq!(violations_of_lists(&history, &none), Vec::<String>::new());
        let all = [read(0, &[5, 7, 8]), read(1, &[6, 9])];
        assert_eq!(violations_of_lists(&history, &all), Vec::<String>::new());
        let torn = [read(0, &[5, 7, 8]), read(1, &[6])];
        assert!(violations_of_lists(&history, &torn)[0].contains("GSingle"));
    }

    #[test]
    fn an_append_that_was_refused_must_not_be_seen() {
        let mut history = two_appends();
        history.push(list(5, u64::MAX, Ending::Failed, vec![Step::Append(0, 8)]));
        let last = [read(0, &[5, 7, 8]), read(1, &[6])];
        assert!(violations_of_lists(&history, &last)[0].contains("G1a"));
    }

    fn transfer(from: u64, to: u64, amount: u64, number: u64, ending: Ending) -> Transfer {
        Transfer { from, to, amount, receipt: format!("c/0/{number}"), ending }
    }

    fn violations_of_bank(transfers: &[Transfer], moved: &[u64], held: [u64; 2]) -> Vec<String> {
        let mut vault = Vault::default();
        vault.balances.extend((0..ACCOUNTS).map(|account| (account, BALANCE)));
        vault.balances.extend([(0, held[0]), (1, held[1])]);
        vault.receipts.extend(moved.iter().map(|number| format!("c/0/{number}")));
        let mut judgement = Judgement::default();
        judge_bank(transfers, &vault, &mut judgement);
        judgement.violations
    }

    #[test]
    fn balances_are_what_the_transfers_make_them() {
        let transfers = [
            transfer(0, 1, 10, 1, Ending::Ok),
            transfer(1, 0, 3, 2, Ending::Failed),
            transfer(0, 1, 5, 3, Ending::Unknown),
        ];
        let nothing = Vec::<String>::new();
        // What nobody heard of may have happened or not, and the receipt says which.
        assert_eq!(violations_of_bank(&transfers, &[1], [90, 110]), nothing);
        assert_eq!(violations_of_bank(&transfers, &[1, 3], [85, 115]), nothing);
        let found = violations_of_bank(&transfers, &[1, 3], [90, 110]);
        assert!(found[0].starts_with("account 0 holds Some(90)"), "{found:?}");
        // The sum is right, and yet a transfer is gone.
        let found = violations_of_bank(&transfers, &[], [100, 100]);
        assert!(found[0].starts_with("10 were moved from 0 to 1 for certain"), "{found:?}");
        let found = violations_of_bank(&transfers, &[1, 2], [93, 107]);
        assert!(found[0].starts_with("nothing was moved from 1 to 0 for certain"), "{found:?}");
    }

    #[test]
    fn a_wrong_sum_is_found() {
        let accounts = |first: u64| -> Vec<KvPair> {
            let balance = |account| if account == 0 { first } else { BALANCE };
            let pair =
                |account| (format!("b/{account}").into(), balance(account).to_string().into());
            (0..ACCOUNTS).map(pair).collect()
        };
        assert_eq!(check_sum(&accounts(BALANCE)), Ok(()));
        assert!(check_sum(&accounts(BALANCE - 1)).unwrap_err().starts_with("8 accounts hold 799"));
        // An account that is missing is found although the others hold its money.
        assert!(check_sum(&accounts(2 * BALANCE)[..7]).is_err());
    }

    #[test]
    fn a_read_that_is_not_of_its_snapshot_is_found() {
        let cell = |start_ts: u64, fate, reads, writes| CellTransaction {
            kind: Kind::WRITING[0],
            told: Transaction {
                client: 1,
                began: start_ts,
                ended: u64::MAX,
                start_ts,
                fate,
                reads,
                writes,
            },
            was_unknown: true,
        };
        let write = vec![Write { key: 1, change: Change::Put(7), since: 10 }];
        let read = |value| vec![Read { key: 1, value, at: 30 }];
        let judged = |fate, value| {
            let history = [
                cell(10, fate, Vec::new(), write.clone()),
                cell(30, Fate::Committed(30), read(value), Vec::new()),
            ];
            let mut judgement = Judgement::default();
            judge_cells(&history, &mut judgement);
            judgement.violations
        };
        assert_eq!(judged(Fate::Committed(20), Some(7)), Vec::<String>::new());
        assert_eq!(judged(Fate::Aborted, None), Vec::<String>::new());
        assert!(judged(Fate::Committed(20), None)[0].contains("but None was read"));
        assert!(judged(Fate::Aborted, Some(7))[0].contains("but Some(7) was read"));
    }

    #[test]
    fn what_was_found_on_the_way_is_part_of_the_judgement() {
        let hung = "commit of 7 had not ended".to_owned();
        let mut evidence = Evidence { wrong: vec![hung.clone()], ..Default::default() };
        evidence.vault.balances = (0..ACCOUNTS).map(|account| (account, BALANCE)).collect();
        assert_eq!(judge(&evidence).violations, [hung]);
    }
}
