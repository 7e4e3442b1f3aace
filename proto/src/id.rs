//! Numbers with a meaning, so that one cannot be passed for another.
//!
//! `Display` is the house's notation: `s1`, `r2`, `p4`.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(value)
            }
        }
    };
}

id!(
    /// One storage node and its disk. Never zero, never reused.
    StoreId,
    "s"
);
id!(
    /// A key range with its own raft group. Never zero, never reused.
    RegionId,
    "r"
);
id!(
    /// One replica of one region on one store; also its id in the raft group. Never reused.
    PeerId,
    "p"
);
id!(
    /// A raft term.
    Term,
    ""
);
id!(
    /// A position in a raft log, counted from 1.
    Index,
    ""
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_in_the_house_notation() {
        assert_eq!(format!("{} {}.{}", StoreId(1), RegionId(2), PeerId(4)), "s1 r2.p4");
    }
}
