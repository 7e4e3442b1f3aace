//! A committed entry is durable on a quorum of voters (I7).
//!
//! Asked of the disks, not of the replicas' memory, at the moment an entry is first given to anyone
//! to apply: had the power failed everywhere in that instant, the entry would have to come back.

/// Checks one newly committed entry. `durable_on` says which voters hold it on disk; a voter may
/// also hold it inside a durable snapshot.
pub fn check(
    region: u64,
    index: u64,
    term: u64,
    voters: &[u64],
    durable_on: &[u64],
) -> Result<(), String> {
    let quorum = voters.len() / 2 + 1;
    let holders = voters.iter().filter(|voter| durable_on.contains(voter)).count();
    if holders >= quorum {
        return Ok(());
    }
    Err(format!(
        "r{region} {index}@{term} is committed but durable only on {durable_on:?} of {voters:?}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_on_a_minority_of_disks_is_found() {
        assert!(check(1, 4, 2, &[1, 2, 3], &[1, 3]).is_ok());
        assert!(check(1, 4, 2, &[1, 2, 3], &[3]).is_err());
        assert!(check(1, 4, 2, &[1, 2, 3], &[3, 9]).is_err());
        assert!(check(1, 4, 2, &[1], &[1]).is_ok());
    }
}
