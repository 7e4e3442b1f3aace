//! Bugs that others met, each by the name that the literature and the issue trackers gave rise to. A test
//! here fails when the guard against its bug is taken away.

use super::*;

mod g_split_and_snapshot;
mod r_membership;
