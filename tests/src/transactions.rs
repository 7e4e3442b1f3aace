//! What transactions did: the history that the checkers of isolation look at.
//!
//! A transaction reads and writes numbered keys between two stamps of one counter, so that it is known
//! which ended before which began. What it read is noted as it came from the store: what it sees of its
//! own writes is not here.
//!
//! Two languages share these words. In a history with *timestamps* every transaction says when it began
//! and was committed, and [`crate::checkers::snapshot_isolation`] takes it at its word. In a history of
//! *lists* every write appends a number that nobody else appends, every read sees a whole list, and
//! [`crate::checkers::list_append`] finds out by itself who came before whom.

use std::fmt;

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is committed, at this timestamp (0 when the history has none).
    Committed(u64),
    /// It certainly is not and will not be.
    Aborted,
    /// Nobody told the client.
    Unknown,
}

/// What a transaction read: of one key, from the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read<V> {
    /// Which key.
    pub key: u64,
    /// What was there; `None` when nothing was.
    pub value: Option<V>,
    /// As of when: the transaction's start, or later when the key was locked to be read.
    pub at: u64,
}

/// What a transaction wrote to one key, or reserved there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write<V> {
    /// Which key.
    pub key: u64,
    /// What becomes of it.
    pub change: Change<V>,
    /// Since when nobody else may have written there: the transaction's start, or when it locked the key.
    pub since: u64,
}

/// What a write does to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<V> {
    /// It has this value afterwards.
    Put(V),
    /// It has none.
    Delete,
    /// It keeps its value; the transaction only made sure that nobody else changed it.
    Keep,
}

/// One transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction<V> {
    /// Who ran it. A client runs one at a time.
    pub client: u64,
    /// Stamp before its first request.
    pub began: u64,
    /// Stamp after its last answer; `u64::MAX` while its fate is unknown.
    pub ended: u64,
    /// Its snapshot.
    pub start_ts: u64,
    /// How it ended.
    pub fate: Fate,
    /// What it read, in order.
    pub reads: Vec<Read<V>>,
    /// What it wrote, each key once.
    pub writes: Vec<Write<V>>,
}

impl<V> Transaction<V> {
    /// When it was committed, if it was.
    pub fn commit_ts(&self) -> Option<u64> {
        match self.fate {
            Fate::Committed(commit_ts) => Some(commit_ts),
            Fate::Aborted | Fate::Unknown => None,
        }
    }
}

impl<V: fmt::Debug> fmt::Display for Transaction<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{} {}", self.client, self.start_ts)?;
        match self.fate {
            Fate::Committed(commit_ts) => write!(f, "..{commit_ts}")?,
            Fate::Aborted => f.write_str(" aborted")?,
            Fate::Unknown => f.write_str(" unknown")?,
        }
        for read in &self.reads {
            write!(f, " r{}", read.key)?;
            if read.at != self.start_ts {
                write!(f, "@{}", read.at)?;
            }
            match &read.value {
                Some(value) => write!(f, "={value:?}")?,
                None => f.write_str("=nothing")?,
            }
        }
        for write in &self.writes {
            match &write.change {
                Change::Put(value) => write!(f, " w{}={value:?}", write.key)?,
                Change::Delete => write!(f, " d{}", write.key)?,
                Change::Keep => write!(f, " l{}", write.key)?,
            }
        }
        Ok(())
    }
}
