//! Same index and term, same entry, and the same entry before it (I2).

use std::collections::BTreeMap;

/// Every entry that any replica ever made durable.
#[derive(Debug, Default)]
pub struct LogMatch {
    entries: BTreeMap<(u64, u64, u64), Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Seen {
    digest: u64,
    previous_term: Option<u64>,
}

impl LogMatch {
    /// Told whenever a replica persists an entry. `previous_term` is the term of the entry before it
    /// where that is known.
    pub fn persisted(
        &mut self,
        region: u64,
        index: u64,
        term: u64,
        digest: u64,
        previous_term: Option<u64>,
    ) -> Result<(), String> {
        let seen =
            self.entries.entry((region, index, term)).or_insert(Seen { digest, previous_term });
        if seen.digest != digest {
            return Err(format!("r{region} {index}@{term} exists with two contents"));
        }
        match (seen.previous_term, previous_term) {
            (Some(known), Some(now)) if known != now => Err(format!(
                "r{region} {index}@{term} follows an entry of term {known} and one of term {now}"
            )),
            (None, Some(now)) => {
                seen.previous_term = Some(now);
                Ok(())
            }
            (Some(_), Some(_)) | (_, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_that_differ_below_an_equal_entry_are_found() {
        let mut checker = LogMatch::default();
        checker.persisted(1, 4, 2, 9, Some(1)).unwrap();
        checker.persisted(1, 4, 2, 9, None).unwrap();
        assert!(checker.persisted(1, 4, 2, 8, None).is_err());
        assert!(checker.persisted(1, 4, 2, 9, Some(2)).is_err());
        assert!(checker.persisted(1, 4, 3, 8, Some(2)).is_ok());
    }
}
