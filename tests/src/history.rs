//! What clients called, and what they saw.
//!
//! A history is the only thing a linearizability checker may look at. Stamps come from one counter,
//! so two events never share an instant and their order is the order in which they happened.

use std::fmt;

/// What a client asks of one register. Values are unique in a history, so that a read names the
/// write it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// What is the value?
    Read,
    /// Set the value.
    Write(u64),
    /// Remove the value.
    Delete,
    /// Set the value to the second if it is the first.
    CompareAndSet(Option<u64>, u64),
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A read saw this.
    Read(Option<u64>),
    /// The write, removal or exchange happened.
    Done,
    /// The comparison failed; this was there instead.
    Differed(Option<u64>),
    /// It certainly did not happen.
    Refused,
    /// Nobody told the client; it may have happened, may happen later, or never.
    Unknown,
}

/// One call of one client.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Who called. A client has at most one call under way.
    pub client: u64,
    /// Which register.
    pub key: u64,
    /// What was asked.
    pub call: Call,
    /// When it was asked.
    pub called: u64,
    /// When the client learned the outcome.
    pub returned: u64,
    /// How it ended; `Unknown` while under way.
    pub outcome: Outcome,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{} k{} ", self.client, self.key)?;
        match self.call {
            Call::Read => f.write_str("read")?,
            Call::Write(value) => write!(f, "write {value}")?,
            Call::Delete => f.write_str("delete")?,
            Call::CompareAndSet(old, new) => write!(f, "set {} to {new}", Shown(old))?,
        }
        match self.outcome {
            Outcome::Read(value) => write!(f, " -> {}", Shown(value))?,
            Outcome::Done => f.write_str(" -> done")?,
            Outcome::Differed(value) => write!(f, " -> differed, {}", Shown(value))?,
            Outcome::Refused => f.write_str(" -> refused")?,
            Outcome::Unknown => return write!(f, " -> unknown [{}..]", self.called),
        }
        write!(f, " [{}..{}]", self.called, self.returned)
    }
}

struct Shown(Option<u64>);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => write!(f, "{value}"),
            None => f.write_str("nothing"),
        }
    }
}

/// All calls of a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
    stamp: u64,
}

/// A call under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperationId(usize);

impl History {
    /// Notes that a client calls now.
    pub fn call(&mut self, client: u64, key: u64, call: Call) -> OperationId {
        let called = self.next_stamp();
        self.operations.push(Operation {
            client,
            key,
            call,
            called,
            returned: u64::MAX,
            outcome: Outcome::Unknown,
        });
        OperationId(self.operations.len() - 1)
    }

    /// Notes that the client learns the outcome now.
    pub fn end(&mut self, id: OperationId, outcome: Outcome) {
        let stamp = self.next_stamp();
        let operation = &mut self.operations[id.0];
        assert_eq!(operation.returned, u64::MAX, "a call ends once: {operation}");
        if outcome != Outcome::Unknown {
            operation.returned = stamp;
        }
        operation.outcome = outcome;
    }

    /// Every call so far, in the order of calling.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// The call with this id.
    pub fn get(&self, id: OperationId) -> &Operation {
        &self.operations[id.0]
    }

    fn next_stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }
}
