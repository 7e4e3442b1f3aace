//! Timestamps grow (I11): each is larger than every one that had been answered before it was asked for.

/// What was answered so far.
#[derive(Debug, Default)]
pub struct Timestamps {
    newest: u64,
    count: u64,
}

impl Timestamps {
    /// Told that somebody asks; what is answered must be larger than the returned one.
    pub fn asks(&self) -> u64 {
        self.newest
    }

    /// Told what somebody was answered who asked when `floor` was the newest.
    pub fn answered(&mut self, floor: u64, timestamp: u64) -> Result<(), String> {
        if timestamp <= floor {
            return Err(format!("timestamp {timestamp} was asked for after {floor} was answered"));
        }
        self.newest = self.newest.max(timestamp);
        self.count += 1;
        Ok(())
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_goes_back_is_found() {
        let mut timestamps = Timestamps::default();
        let (one, two) = (timestamps.asks(), timestamps.asks());
        // Those under way at once may be answered in any order.
        assert!(timestamps.answered(one, 8).is_ok());
        assert!(timestamps.answered(two, 7).is_ok());
        let three = timestamps.asks();
        assert!(timestamps.answered(three, 8).is_err());
        assert!(timestamps.answered(three, 9).is_ok());
        assert_eq!(timestamps.count(), 3);
    }
}
