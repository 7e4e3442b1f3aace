//! Users of raw registers: get, put, delete and compare-and-swap, no write ever sent twice.
//!
//! Registers take turns: after some hundreds of calls on a key its successor is used, because the
//! cost of checking grows steeply with a key's calls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use client::Client;
use tests::history::{Call, Outcome};
use tests::sim::dice::{Dice, mix};

use super::{Books, LAST_READER, pace};
use crate::chaos::watch::Failed;

/// Registers in use at a time, and calls on each before its successor's turn.
pub(super) const REGISTERS: u64 = 6;
pub(super) const CALLS_PER_REGISTER: u64 = 300;

/// Where a register lives: scattered, so that splits anywhere part registers in use.
pub(super) fn key_of(register: u64) -> String {
    format!("r/{:08x}", mix(register) >> 32)
}

pub(super) async fn use_registers(client: Client, user: u64, mut dice: Dice, books: Arc<Books>) {
    let raw = client.raw().strict();
    // What this client believes is there: compare-and-swap needs a chance.
    let mut believed: BTreeMap<u64, Option<u64>> = BTreeMap::new();
    let mut pace = pace();
    let mut next_value = 0;
    while !books.is_over() {
        pace.tick().await;
        let register = books.registers.take() * REGISTERS + dice.next_u64() % REGISTERS;
        let key = key_of(register);
        next_value += 1;
        let value = next_value << 8 | user;
        let call = match dice.within(0..10) {
            0..=3 => Call::Read,
            4..=6 => Call::Write(value),
            7 => Call::Delete,
            _ => Call::CompareAndSet(believed.get(&register).copied().flatten(), value),
        };
        let id = books.history.lock().unwrap().call(user, register, call);
        let start = Instant::now();
        let answer = async {
            match call {
                Call::Read => raw.get(&key).await.map(|value| Outcome::Read(value.map(parsed))),
                Call::Write(value) => {
                    raw.put(&key, value.to_string()).await.map(|()| Outcome::Done)
                }
                Call::Delete => raw.delete(&key).await.map(|()| Outcome::Done),
                Call::CompareAndSet(old, new) => {
                    let old = old.map(|old| old.to_string());
                    raw.compare_and_swap(&key, old, new.to_string()).await.map(|swap| {
                        let previous = swap.previous.map(parsed);
                        if swap.swapped { Outcome::Done } else { Outcome::Differed(previous) }
                    })
                }
            }
        };
        let outcome = match books.watch.call("raw call on", &key, answer).await {
            Ok(outcome) => outcome,
            Err(Failed::Refused) => Outcome::Refused,
            Err(Failed::Unknown) => Outcome::Unknown,
        };
        match (call, outcome) {
            (_, Outcome::Read(seen) | Outcome::Differed(seen)) => {
                believed.insert(register, seen);
            }
            (Call::Write(value) | Call::CompareAndSet(_, value), Outcome::Done) => {
                believed.insert(register, Some(value));
            }
            _ => {}
        }
        books.history.lock().unwrap().end(id, outcome);
        books.progress.called(user, start, outcome);
    }
}

pub(super) fn parsed(value: impl AsRef<[u8]>) -> u64 {
    let text = String::from_utf8_lossy(value.as_ref()).into_owned();
    text.parse().unwrap_or_else(|_| panic!("a register holds {text:?}, which nobody writes"))
}

/// The last word on every register, as reads of one more client: a lost write shows here at last.
pub(super) async fn read_all(client: &Client, books: &Books) {
    let registers: BTreeSet<u64> = {
        let history = books.history.lock().unwrap();
        history.operations().iter().map(|operation| operation.key).collect()
    };
    for register in registers {
        let id = books.history.lock().unwrap().call(LAST_READER, register, Call::Read);
        let value = client.raw().get(key_of(register)).await.expect("a healed cluster answers");
        books.history.lock().unwrap().end(id, Outcome::Read(value.map(parsed)));
    }
}
