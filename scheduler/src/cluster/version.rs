//! Versions of stores, and the cluster's, which is the lowest of them and only rises.

use std::fmt;

/// A semantic version. Pre-release and build parts are read and forgotten: a nightly build takes
/// part like the release it leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Incompatible changes.
    pub major: u64,
    /// Additions.
    pub minor: u64,
    /// Repairs.
    pub patch: u64,
}

impl Version {
    /// Reads "8.5.5", "v8.5.5" or "8.5.5-alpha+abc"; `None` when it is no version. An empty text
    /// is the oldest version of all, for stores from before versions.
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::default());
        }
        let text = text.strip_prefix('v').unwrap_or(text);
        let core = text.split(['-', '+']).next()?;
        let mut parts = core.split('.').map(|part| {
            // `parse` would take a sign.
            part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse::<u64>().ok())?
        });
        let version = Self { major: parts.next()??, minor: parts.next()??, patch: parts.next()?? };
        parts.next().is_none().then_some(version)
    }

    /// Whether a store of this version may take part in a cluster of that version: not older,
    /// but for repairs.
    pub fn may_join(self, cluster: Self) -> bool {
        self >= cluster || (self.major, self.minor) == (cluster.major, cluster.minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_with_and_without_ornaments() {
        let version = Some(Version { major: 8, minor: 5, patch: 5 });
        assert_eq!(Version::parse("8.5.5"), version);
        assert_eq!(Version::parse("v8.5.5-alpha.1+g1234"), version);
        assert_eq!(Version::parse(""), Some(Version::default()));
        for bad in ["8", "8.5", "8.5.x", "a.b.c", "8.5.5.5", "8.+5.5"] {
            assert_eq!(Version::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_older_store_may_join_only_within_the_same_minor_version() {
        let version = |text| Version::parse(text).unwrap();
        assert!(version("8.5.1").may_join(version("8.5.5")));
        assert!(version("9.0.0").may_join(version("8.5.5")));
        assert!(!version("8.4.9").may_join(version("8.5.5")));
        assert!(!version("").may_join(version("8.5.5")));
    }
}
