//! What the stores hold of transactions fits together (I9).
//!
//! - A transaction has one fate: it is committed at one timestamp on all its keys, or rolled back, and never
//!   both.
//! - A lock stands on a key only as long as its transaction has no record there.
//! - One start, one record: no key has two commits of one transaction.
//!
//! The records are looked at again and again while the world goes on, for garbage is collected and with it
//! goes what tells the tale. What was seen once is remembered: it also says what became of transactions whose
//! clients never heard.

use std::collections::BTreeMap;

/// What the records say of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It is committed, at this timestamp.
    Committed(u64),
    /// It is rolled back.
    RolledBack,
}

/// A record on one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub start_ts: u64,
    /// What it says.
    pub says: Recorded,
}

/// Everything ever seen.
#[derive(Debug, Default)]
pub struct TxnRecords {
    /// By start: the fate, and the key where it was first seen.
    fates: BTreeMap<u64, (Recorded, String)>,
}

impl TxnRecords {
    /// Told of all that one store holds on one key: its lock, if any, by its start (`None` too when the lock
    /// may stand beside a record of its own transaction), and all records.
    pub fn key(&mut self, key: &str, lock: Option<u64>, records: &[Record]) -> Result<(), String> {
        let mut own: BTreeMap<u64, Recorded> = BTreeMap::new();
        for record in records {
            let Record { start_ts, says } = *record;
            if let Some(before) = own.insert(start_ts, says) {
                return Err(format!("{key}: txn {start_ts} is {before:?} and {says:?}"));
            }
            let (known, place) = self.fates.entry(start_ts).or_insert((says, key.to_owned()));
            if *known != says {
                return Err(format!("txn {start_ts} is {known:?} on {place}, {says:?} on {key}"));
            }
        }
        match lock.and_then(|start_ts| Some((start_ts, own.get(&start_ts)?))) {
            None => Ok(()),
            Some((start_ts, says)) => {
                Err(format!("{key}: txn {start_ts} holds a lock and is {says:?}"))
            }
        }
    }

    /// What the records say of the transaction that began then; `None` when there never was one.
    pub fn fate(&self, start_ts: u64) -> Option<Recorded> {
        self.fates.get(&start_ts).map(|(recorded, _)| *recorded)
    }

    /// How many transactions left records.
    pub fn count(&self) -> usize {
        self.fates.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(start_ts: u64, at: u64) -> Record {
        Record { start_ts, says: Recorded::Committed(at) }
    }

    fn rolled_back(start_ts: u64) -> Record {
        Record { start_ts, says: Recorded::RolledBack }
    }

    #[test]
    fn one_fate_a_transaction() {
        let mut records = TxnRecords::default();
        assert!(records.key("a", Some(9), &[committed(1, 3), rolled_back(4)]).is_ok());
        assert!(records.key("b", None, &[committed(1, 3)]).is_ok());
        assert_eq!(records.fate(1), Some(Recorded::Committed(3)));
        assert_eq!((records.fate(9), records.count()), (None, 2));
        assert!(records.key("b", None, &[committed(1, 4)]).is_err());
        assert!(records.key("b", None, &[rolled_back(1)]).is_err());
        assert!(records.key("b", None, &[committed(4, 8)]).is_err());
    }

    #[test]
    fn a_lock_goes_when_the_record_comes() {
        let mut records = TxnRecords::default();
        assert!(records.key("a", Some(1), &[committed(1, 3)]).is_err());
        assert!(records.key("a", Some(2), &[rolled_back(2)]).is_err());
        assert!(records.key("c", None, &[committed(7, 9), committed(7, 9)]).is_err());
    }
}
