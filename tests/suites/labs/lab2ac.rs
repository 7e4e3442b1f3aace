//! Lab 2A, part C: the raw node, which hands out what is to be done as one `Ready` after the other.
//!
//! Look: `tests/src/labs/raft/` (the harness), `raftstore/src/group/mod.rs` (the store's own use of a
//! raw node), `raftstore/src/peer/ready.rs` (one ready taken apart).

use raft::eraftpb::HardState;
use raft::storage::MemStorage;
use raft::{RawNode, Ready};
use tests::labs::raft::messages::{data, entry};
use tests::labs::raft::node::{disk, raw_over};

/// Writes what a ready asks for.
fn write(disk: &MemStorage, ready: &Ready) {
    let mut disk = disk.wl();
    if let Some(state) = ready.hs() {
        disk.set_hardstate(state.clone());
    }
    disk.append(ready.entries()).unwrap();
}

/// A group of one campaigns, and its first ready is handled. Then "foo" is proposed: the next ready has
/// exactly that entry to write, and it is the only one committed; after that nothing is ready.
///
/// The crate hands out what the write commits with the answer to `advance`, not with the entries: a
/// leader's own log counts from the moment it is durable.
///
/// Hint: a ready says only what changed. One that always has something makes the loop spin.
#[test]
fn test_raw_node_start_2ac() {
    let disk = disk(&[1], &[]);
    let mut node = raw_over(1, disk.clone());
    node.campaign().unwrap();
    let ready = node.ready();
    write(&disk, &ready);
    let first = node.advance(ready);
    assert_eq!(first.committed_entries(), &[entry(1, 1)]);
    node.advance_apply();

    node.propose(Vec::new(), "foo".into()).unwrap();
    let ready = node.ready();
    let foo = data(2, 1, "foo");
    assert_eq!(ready.entries(), std::slice::from_ref(&foo));
    assert!(ready.committed_entries().is_empty());
    write(&disk, &ready);
    let light = node.advance(ready);
    assert_eq!(light.committed_entries(), &[foo]);
    assert_eq!(light.commit_index(), Some(2));
    node.advance_apply();
    assert!(!node.has_ready());
}

/// Everything but committed entries is unchanged: nobody has to write or send anything.
pub(super) fn assert_only_committed(ready: &Ready) {
    assert_eq!((ready.ss(), ready.hs()), (None, None));
    assert!(ready.entries().is_empty() && ready.snapshot().is_empty());
    assert!(ready.messages().is_empty() && ready.persisted_messages().is_empty());
    assert!(ready.read_states().is_empty() && !ready.must_sync());
}

/// What remains after the only ready of a restarted node is done with.
pub(super) fn assert_then_silent(node: &mut RawNode<MemStorage>, ready: Ready) {
    let light = node.advance(ready);
    assert!(light.committed_entries().is_empty() && light.messages().is_empty());
    node.advance_apply();
    assert!(!node.has_ready());
}

/// A node starts from a disk with two entries of which one is committed: its first ready hands out
/// that entry to be applied, and nothing else, no state, no messages; then nothing is ready.
///
/// Hint: state that did not change since it was read from the disk is not reported again.
#[test]
fn test_raw_node_restart_2ac() {
    let disk = disk(&[], &[entry(1, 1), data(2, 1, "foo")]);
    disk.wl().set_hardstate(HardState { term: 1, commit: 1, ..Default::default() });
    let mut node = raw_over(1, disk);
    let ready = node.ready();
    assert_eq!(ready.committed_entries(), &[entry(1, 1)]);
    assert_only_committed(&ready);
    assert_then_silent(&mut node, ready);
}
