//! What simulated clients ask for: registers under a few keys, with unique values.
//!
//! Keys rotate: after [`CALLS_PER_KEY`] calls a key is left alone and a fresh one takes its place, so
//! that the linearizability search stays small however long the run is.

use bytes::Bytes;

use crate::history::Call;
use crate::sim::dice::{Dice, mix};

/// Calls on one key before it is retired.
pub const CALLS_PER_KEY: u64 = 400;

/// Longest padding behind a value, in bytes. Long enough that regions grow and entries differ in size.
const PADDING_MAX: u64 = 256;

/// Registers, read and written at random.
#[derive(Debug)]
pub struct Registers {
    dice: Dice,
    /// Keys in use, with the calls they have had.
    keys: Vec<(u64, u64)>,
    next_key: u64,
    next_value: u64,
    /// Reads, in thousandths of all calls.
    reads: u64,
    /// Exchanges, in thousandths of the other calls.
    exchanges: u64,
    /// The value each client last saw, so that exchanges sometimes succeed.
    last_seen: Option<u64>,
}

impl Registers {
    /// A workload on so many keys at a time.
    pub fn new(mut dice: Dice, keys: u64) -> Self {
        let reads = dice.within(300..800);
        let exchanges = dice.within(0..300);
        Self {
            dice,
            keys: (0..keys).map(|key| (key, 0)).collect(),
            next_key: keys,
            next_value: 1,
            reads,
            exchanges,
            last_seen: None,
        }
    }

    /// The next call, and on which key.
    pub fn next_call(&mut self) -> (u64, Call) {
        let position = self.dice.within(0..self.keys.len() as u64) as usize;
        let (key, calls) = &mut self.keys[position];
        let chosen = *key;
        *calls += 1;
        if *calls == CALLS_PER_KEY {
            (*key, *calls) = (self.next_key, 0);
            self.next_key += 1;
        }
        let call = if self.dice.happens(self.reads) {
            Call::Read
        } else if self.dice.happens(self.exchanges) {
            Call::CompareAndSet(self.last_seen, self.fresh_value())
        } else if self.dice.happens(50) {
            Call::Delete
        } else {
            Call::Write(self.fresh_value())
        };
        (chosen, call)
    }

    /// Told what a read saw.
    pub fn saw(&mut self, value: Option<u64>) {
        self.last_seen = value;
    }

    /// Every key that was ever used.
    pub fn keys_used(&self) -> impl Iterator<Item = u64> + use<> {
        0..self.next_key
    }

    /// A value that nobody has written yet.
    pub fn fresh_value(&mut self) -> u64 {
        self.next_value += 1;
        self.next_value - 1
    }
}

/// The bytes of a key. Neighbouring numbers lie far apart, so that every region sees traffic.
pub fn key_bytes(key: u64) -> Bytes {
    Bytes::from(format!("{:02x}/{key}", mix(key) & 0xff))
}

/// The bytes of a value: the number, then padding whose length depends on it.
pub fn value_bytes(value: u64) -> Bytes {
    let mut bytes = value.to_be_bytes().to_vec();
    bytes.resize(8 + (mix(value) % PADDING_MAX) as usize, b'.');
    Bytes::from(bytes)
}

/// The value written as these bytes. Panics on anything that [`value_bytes`] does not make: a store
/// that returns such bytes has damaged them.
pub fn value_number(bytes: &[u8]) -> u64 {
    let number = bytes.get(..8).expect("a value begins with its number");
    let value = u64::from_be_bytes(number.try_into().expect("eight bytes are eight bytes"));
    assert_eq!(value_bytes(value), bytes, "a value comes back as it was written");
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_unique_and_survive_their_bytes() {
        let mut registers = Registers::new(Dice::new(1), 3);
        let mut values = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            if let (_, Call::Write(value) | Call::CompareAndSet(_, value)) = registers.next_call() {
                assert!(values.insert(value));
                assert_eq!(value_number(&value_bytes(value)), value);
            }
        }
    }

    #[test]
    fn keys_rotate() {
        let mut registers = Registers::new(Dice::new(1), 2);
        for _ in 0..CALLS_PER_KEY * 5 {
            registers.next_call();
        }
        assert!(registers.keys_used().count() >= 5);
    }
}
