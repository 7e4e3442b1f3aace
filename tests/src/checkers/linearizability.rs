//! Could one register, served by one careful clerk, have given these answers?
//!
//! The search of Wing and Gong with Lowe's memory of visited states, key by key: linearizability is
//! local, so a history is linearizable exactly when each key's is.
//!
//! A call whose outcome is unknown may take effect at any time after it was called, or never: it has
//! no return, and the search is done when every call *with* a return has found its place. Calls that
//! certainly did not happen, and reads nobody saw the answer of, are left out.
//!
//! Values are unique, which makes two short cuts right: a value that was read but never written is a
//! violation at once; and an unknown write whose value nobody ever saw is left out, for placing it
//! could not explain anything. Without the second, proving a violation beside twenty unknown writes
//! takes minutes.
//!
//! Cost grows steeply with the calls of one key that overlap; workloads keep to ten clients and five
//! hundred calls a key.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use crate::history::{Call, Operation, Outcome};
use crate::sim::dice::mix;

/// The search gives up on a key after this many steps, and says so.
const STEPS_MAX: usize = 20_000_000;

/// What the checker found.
#[derive(Clone, Debug)]
pub enum Violation {
    /// No order explains the answers of this key.
    Impossible {
        /// Which register.
        key: u64,
        /// The call that could not be placed when the search had come furthest.
        culprit: String,
        /// The calls round it.
        story: Vec<String>,
    },
    /// The search was given up. Make the workload smaller.
    Undecided {
        /// Which register.
        key: u64,
        /// How many calls it has.
        calls: usize,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Impossible { key, culprit, story } => {
                writeln!(
                    f,
                    "register {key} is not linearizable; no place for {culprit}; near it:"
                )?;
                story.iter().try_for_each(|line| writeln!(f, "    {line}"))
            }
            Self::Undecided { key, calls } => {
                writeln!(f, "register {key} with {calls} calls: search given up")
            }
        }
    }
}

/// Checks every key.
pub fn check(operations: &[Operation]) -> Result<(), Violation> {
    let mut keys: BTreeMap<u64, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        let says_something = match (operation.call, operation.outcome) {
            (_, Outcome::Refused) | (Call::Read, Outcome::Unknown) => false,
            (
                Call::Read | Call::Write(_) | Call::Delete | Call::CompareAndSet(..),
                Outcome::Read(_) | Outcome::Done | Outcome::Differed(_) | Outcome::Unknown,
            ) => true,
        };
        if says_something {
            keys.entry(operation.key).or_default().push(operation);
        }
    }
    keys.into_iter().try_for_each(|(key, mut operations)| {
        operations = without_the_unseen(key, operations)?;
        Search::new(&operations).run(key)
    })
}

/// Leaves out unknown writes of values that nobody saw; fails on values that nobody wrote.
fn without_the_unseen(key: u64, operations: Vec<&Operation>) -> Result<Vec<&Operation>, Violation> {
    let mut seen: BTreeSet<u64> = BTreeSet::new();
    for operation in &operations {
        match operation.call {
            Call::CompareAndSet(old, _) if !matches!(operation.outcome, Outcome::Differed(_)) => {
                seen.extend(old);
            }
            Call::CompareAndSet(..) | Call::Read | Call::Write(_) | Call::Delete => {}
        }
        if let Outcome::Read(value) | Outcome::Differed(value) = operation.outcome {
            if let Some(value) = value
                && !operations.iter().any(|other| writes(other, value))
            {
                let story = vec![format!("nobody wrote {value}")];
                return Err(Violation::Impossible { key, culprit: operation.to_string(), story });
            }
            seen.extend(value);
        }
    }
    let matters = |operation: &&Operation| match (operation.call, operation.outcome) {
        (Call::Write(value) | Call::CompareAndSet(_, value), Outcome::Unknown) => {
            seen.contains(&value)
        }
        _ => true,
    };
    Ok(operations.into_iter().filter(matters).collect())
}

fn writes(operation: &Operation, value: u64) -> bool {
    match operation.call {
        Call::Write(new) => new == value,
        Call::CompareAndSet(_, new) => {
            new == value && !matches!(operation.outcome, Outcome::Differed(_))
        }
        Call::Read | Call::Delete => false,
    }
}

/// The register after the call, or `None` if the call cannot have had its outcome here.
fn step(register: Option<u64>, operation: &Operation) -> Option<Option<u64>> {
    match (operation.call, operation.outcome) {
        (Call::Read, Outcome::Read(seen)) => (seen == register).then_some(register),
        (Call::Write(value), Outcome::Done | Outcome::Unknown) => Some(Some(value)),
        (Call::Delete, Outcome::Done | Outcome::Unknown) => Some(None),
        (Call::CompareAndSet(old, new), Outcome::Done) => (old == register).then_some(Some(new)),
        (Call::CompareAndSet(old, _), Outcome::Differed(seen)) => {
            (seen == register && old != register).then_some(register)
        }
        (Call::CompareAndSet(old, new), Outcome::Unknown) => {
            // Taking effect as a failure changes nothing, which is the same as never.
            (old == register).then_some(Some(new))
        }
        (Call::Read | Call::Write(_) | Call::Delete | Call::CompareAndSet(..), _) => {
            panic!("a call has an outcome of its kind: {operation}")
        }
    }
}

/// Events in order, as a list from which a placed call's two events are lifted out.
struct Search<'a> {
    operations: &'a [&'a Operation],
    events: Vec<Event>,
    next: Vec<usize>,
    previous: Vec<usize>,
    /// Where the return of each call stands, if it has one.
    return_at: Vec<Option<usize>>,
}

#[derive(Clone, Copy)]
enum Event {
    Call(usize),
    Return(usize),
}

/// Both ends of the list.
const HEAD: usize = 0;

impl<'a> Search<'a> {
    fn new(operations: &'a [&'a Operation]) -> Self {
        let mut stamped: Vec<(u64, Event)> = Vec::with_capacity(operations.len() * 2);
        for (call, operation) in operations.iter().enumerate() {
            stamped.push((operation.called, Event::Call(call)));
            if operation.outcome != Outcome::Unknown {
                stamped.push((operation.returned, Event::Return(call)));
            }
        }
        stamped.sort_by_key(|(stamp, _)| *stamp);
        // Node 0 is the head; event i is node i + 1.
        let nodes = stamped.len() + 1;
        let mut return_at = vec![None; operations.len()];
        for (position, (_, event)) in stamped.iter().enumerate() {
            if let Event::Return(call) = event {
                return_at[*call] = Some(position + 1);
            }
        }
        Self {
            operations,
            events: stamped.into_iter().map(|(_, event)| event).collect(),
            next: (0..nodes).map(|node| (node + 1) % nodes).collect(),
            previous: (0..nodes).map(|node| (node + nodes - 1) % nodes).collect(),
            return_at,
        }
    }

    fn run(mut self, key: u64) -> Result<(), Violation> {
        let mut register = None;
        let mut placed: u128 = 0;
        let mut visited: HashSet<(u128, Option<u64>)> = HashSet::new();
        let mut path: Vec<(usize, Option<u64>)> = Vec::new();
        let mut returns_left = self.return_at.iter().flatten().count();
        let mut furthest = (0, HEAD);
        let mut node = self.next[HEAD];
        for _ in 0..STEPS_MAX {
            if returns_left == 0 {
                return Ok(());
            }
            let event = (node != HEAD).then(|| self.events[node - 1]);
            if let Some(Event::Call(call)) = event {
                let fingerprint = placed ^ zobrist(call);
                match step(register, self.operations[call]) {
                    Some(after) if visited.insert((fingerprint, after)) => {
                        path.push((node, register));
                        register = after;
                        placed = fingerprint;
                        returns_left -= usize::from(self.return_at[call].is_some());
                        self.lift(node, call);
                        node = self.next[HEAD];
                    }
                    Some(_) | None => node = self.next[node],
                }
                continue;
            }
            // A return that comes before its call found a place: the last choice was wrong.
            if path.len() >= furthest.0 && node != HEAD {
                furthest = (path.len(), node);
            }
            let Some((last, before)) = path.pop() else {
                return Err(self.impossible(key, furthest.1));
            };
            let Event::Call(call) = self.events[last - 1] else {
                unreachable!("only calls are placed")
            };
            register = before;
            placed ^= zobrist(call);
            returns_left += usize::from(self.return_at[call].is_some());
            self.unlift(last, call);
            node = self.next[last];
        }
        Err(Violation::Undecided { key, calls: self.operations.len() })
    }

    fn lift(&mut self, node: usize, call: usize) {
        self.remove(node);
        if let Some(node) = self.return_at[call] {
            self.remove(node);
        }
    }

    /// Exactly backwards, or the links would tangle.
    fn unlift(&mut self, node: usize, call: usize) {
        if let Some(node) = self.return_at[call] {
            self.insert(node);
        }
        self.insert(node);
    }

    fn remove(&mut self, node: usize) {
        let (previous, next) = (self.previous[node], self.next[node]);
        self.next[previous] = next;
        self.previous[next] = previous;
    }

    fn insert(&mut self, node: usize) {
        let (previous, next) = (self.previous[node], self.next[node]);
        self.next[previous] = node;
        self.previous[next] = node;
    }

    fn impossible(&self, key: u64, node: usize) -> Violation {
        let culprit = match node.checked_sub(1).map(|position| self.events[position]) {
            Some(Event::Call(call) | Event::Return(call)) => call,
            None => 0,
        };
        let from = culprit.saturating_sub(STORY_CALLS);
        let to = (culprit + STORY_CALLS).min(self.operations.len());
        Violation::Impossible {
            key,
            culprit: self.operations[culprit].to_string(),
            story: self.operations[from..to].iter().map(ToString::to_string).collect(),
        }
    }
}

/// How many calls before and after the culprit are shown.
const STORY_CALLS: usize = 12;

/// A random-looking word a call: the exclusive or of a set of them stands for the set.
fn zobrist(call: usize) -> u128 {
    let low = mix(call as u64);
    u128::from(mix(low ^ 0x5bd1_e995)) << 64 | u128::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::History;
    use crate::sim::dice::Dice;

    /// `client called..returned call -> outcome`, all on one key.
    fn operation(called: u64, returned: u64, call: Call, outcome: Outcome) -> Operation {
        Operation { client: called, key: 1, call, called, returned, outcome }
    }

    #[test]
    fn a_read_must_see_the_last_finished_write() {
        let write = operation(1, 2, Call::Write(5), Outcome::Done);
        let fresh = operation(3, 4, Call::Read, Outcome::Read(Some(5)));
        let stale = operation(3, 4, Call::Read, Outcome::Read(None));
        assert!(check(&[write.clone(), fresh]).is_ok());
        assert!(matches!(check(&[write, stale]), Err(Violation::Impossible { key: 1, .. })));
    }

    #[test]
    fn overlapping_calls_may_take_effect_in_either_order() {
        let write = operation(1, 10, Call::Write(5), Outcome::Done);
        let before = operation(2, 3, Call::Read, Outcome::Read(None));
        let after = operation(4, 5, Call::Read, Outcome::Read(Some(5)));
        let again = operation(6, 7, Call::Read, Outcome::Read(None));
        assert!(check(&[write.clone(), before.clone(), after.clone()]).is_ok());
        assert!(check(&[write, before, after, again]).is_err(), "a value seen stays seen");
    }

    #[test]
    fn an_unknown_write_may_happen_late_or_never_but_not_twice() {
        let unknown = operation(1, u64::MAX, Call::Write(5), Outcome::Unknown);
        let write = operation(2, 3, Call::Write(6), Outcome::Done);
        let sees = |at, value| operation(at, at + 1, Call::Read, Outcome::Read(Some(value)));
        assert!(check(&[unknown.clone(), write.clone(), sees(4, 6)]).is_ok());
        assert!(check(&[unknown.clone(), write.clone(), sees(4, 6), sees(6, 5)]).is_ok());
        assert!(check(&[unknown, write, sees(4, 5), sees(6, 6), sees(8, 5)]).is_err());
    }

    #[test]
    fn an_exchange_happens_only_on_the_value_it_expects() {
        let write = operation(1, 2, Call::Write(5), Outcome::Done);
        let exchange =
            |at, old, outcome| operation(at, at + 1, Call::CompareAndSet(old, at), outcome);
        assert!(check(&[write.clone(), exchange(3, Some(5), Outcome::Done)]).is_ok());
        assert!(check(&[write.clone(), exchange(3, None, Outcome::Differed(Some(5)))]).is_ok());
        assert!(check(&[write.clone(), exchange(3, None, Outcome::Done)]).is_err());
        let twice = [exchange(3, Some(5), Outcome::Done), exchange(5, Some(5), Outcome::Done)];
        assert!(check(&[&[write][..], &twice].concat()).is_err());
    }

    /// A correct register, many clients, calls that overlap and sometimes end unknown.
    fn busy_history(seed: u64) -> Vec<Operation> {
        let mut dice = Dice::new(seed);
        let mut history = History::default();
        let mut register: Option<u64> = None;
        let mut under_way = BTreeMap::new();
        for value in 0..400 {
            let client = dice.within(0..8);
            match under_way.remove(&client) {
                None => {
                    let call = if dice.happens(500) { Call::Read } else { Call::Write(value) };
                    let id = history.call(client, 1, call);
                    under_way.insert(client, (id, call));
                }
                Some((id, Call::Read)) => history.end(id, Outcome::Read(register)),
                Some((id, call)) => {
                    let happens = dice.happens(900);
                    if let (Call::Write(value), true) = (call, happens) {
                        register = Some(value);
                    }
                    let known = happens && dice.happens(950);
                    history.end(id, if known { Outcome::Done } else { Outcome::Unknown });
                }
            }
        }
        history.operations().to_vec()
    }

    #[test]
    fn histories_of_a_correct_register_pass_and_a_changed_answer_is_found() {
        for seed in 0..20 {
            let mut operations = busy_history(seed);
            check(&operations).expect("a correct register is linearizable");
            // The first value read again at the very end, after other writes finished.
            let first = operations.iter().find_map(|operation| {
                if let Outcome::Read(value) = operation.outcome { value } else { None }
            });
            let end = operations.iter().map(|operation| operation.called).max().unwrap() + 1000;
            let read = |at| operation(at, at + 1, Call::Read, Outcome::Read(first));
            let write = operation(end, end + 1, Call::Write(100_000), Outcome::Done);
            operations.extend([write, read(end + 2)]);
            let verdict = check(&operations);
            assert!(
                matches!(verdict, Err(Violation::Impossible { .. })),
                "seed {seed}: stale read"
            );
            assert!(check(&[read(1)]).is_err(), "a value nobody wrote");
        }
    }
}
