//! A store that nobody asks for anything any more waits for nothing (I12): every request is answered, and
//! no snapshot is on its way.

/// What a store still has under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnderWay {
    /// By name: how many.
    pub counts: Vec<(&'static str, usize)>,
}

impl UnderWay {
    /// Adds what there is of a kind.
    pub fn with(mut self, name: &'static str, count: usize) -> Self {
        self.counts.push((name, count));
        self
    }

    /// Adds what there is of several kinds.
    pub fn with_all(mut self, all: impl IntoIterator<Item = (&'static str, usize)>) -> Self {
        self.counts.extend(all);
        self
    }
}

/// Checks one store after everything has come to rest.
pub fn check(store: u64, left: &UnderWay) -> Result<(), String> {
    let waiting: Vec<String> = left
        .counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    if waiting.is_empty() {
        return Ok(());
    }
    Err(format!("s{store} is left alone and does not come to rest: {}", waiting.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_is_never_answered_is_found() {
        let rest = UnderWay::default().with("requests", 0).with("snapshots sent", 0);
        assert_eq!(check(1, &rest), Ok(()));
        let leak = rest.with("latches", 2);
        assert!(check(1, &leak).unwrap_err().ends_with("rest: 2 latches"));
    }
}
