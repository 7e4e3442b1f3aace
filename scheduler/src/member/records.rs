//! What a member keeps on disk, all of it in its log engine.
//!
//! ```text
//! group 1   the raft log               entries since a little before the snapshot, and the raft state
//! group 2   a copy of the state        one entry: the snapshot to restore at a restart
//! group 3   who this member is         one entry: the identity, written before anything is sent
//! ```
//!
//! The copy lies beside the log because one write to a log engine is atomic over all its groups:
//! a new copy and the cut of the log that it allows happen together or not at all, and nothing
//! else on disk needs to be kept in step.

use bytes::Bytes;
use prost::Message as _;
use proto::schedulerpb::{Identity, StateSnapshot};
use proto::{RegionId, eraftpb};
use raftstore::engine::{GroupWrite, LogBatch, LogEngine, LogState};
use raftstore::error::Fault;

use super::machine::State;

/// Where the raft log lies.
pub const LOG_GROUP: RegionId = RegionId(1);
const STATE_GROUP: RegionId = RegionId(2);
const IDENTITY_GROUP: RegionId = RegionId(3);

/// Founding members begin as if one entry had been applied and cut away. A member that joins later
/// finds nothing before it and gets a snapshot, and with it the founding membership.
pub const FOUNDING_INDEX: u64 = 1;
/// The term of that entry.
pub const FOUNDING_TERM: u64 = 1;

/// Who this member is; `None` in an empty log engine.
pub fn read_identity(log: &impl LogEngine) -> Result<Option<Identity>, Fault> {
    read_record(log, IDENTITY_GROUP, "the member's identity")
}

/// Writes down who this member is.
pub fn write_identity(log: &impl LogEngine, identity: &Identity) -> Result<(), Fault> {
    let record = record(identity.encode_to_vec().into());
    log.write(LogBatch { groups: vec![(IDENTITY_GROUP, record)] })
}

/// The copy of the state and its conf state. An empty state when the member has neither founded
/// nor received one yet.
pub fn read_state(log: &impl LogEngine) -> Result<(State, eraftpb::ConfState), Fault> {
    let snapshot: Option<StateSnapshot> = read_record(log, STATE_GROUP, "the copy of the state")?;
    let snapshot = snapshot.unwrap_or_default();
    let conf_state = snapshot.conf_state.clone().unwrap_or_default();
    Ok((State::restore(snapshot), conf_state))
}

/// The write that replaces the copy of the state.
pub fn state_write(snapshot: &StateSnapshot) -> (RegionId, GroupWrite) {
    (STATE_GROUP, record(snapshot.encode_to_vec().into()))
}

/// Writes the identity and the first state of a founding member, at once. The raft log begins
/// behind that state when it is opened.
pub fn write_founding(
    log: &impl LogEngine,
    identity: &Identity,
    state: &State,
) -> Result<(), Fault> {
    let voters = state.members().keys().copied().collect();
    let conf_state = eraftpb::ConfState { voters, ..Default::default() };
    log.write(LogBatch {
        groups: vec![
            state_write(&state.snapshot(conf_state)),
            (IDENTITY_GROUP, record(identity.encode_to_vec().into())),
        ],
    })
}

/// One record as the only entry of its group.
fn record(data: Bytes) -> GroupWrite {
    GroupWrite {
        clear: true,
        entries: vec![eraftpb::Entry { term: 1, index: 1, data, ..Default::default() }],
        cut_before: 0,
        state: Some(LogState { last_index: 1, ..LogState::default() }),
    }
}

fn read_record<M: prost::Message + Default>(
    log: &impl LogEngine,
    group: RegionId,
    what: &str,
) -> Result<Option<M>, Fault> {
    if log.state(group)?.is_none() {
        return Ok(None);
    }
    let entries = log.entries(group, 1, 2, u64::MAX)?;
    let entry =
        entries.into_iter().next().ok_or_else(|| Fault::Missing { what: what.to_owned() })?;
    let message = M::decode(entry.data)
        .map_err(|error| Fault::Corrupt { place: what.to_owned(), detail: error.to_string() })?;
    Ok(Some(message))
}
