use proto::eraftpb;
use raft::{GetEntriesContext, Storage as _};

use super::group_log::GroupLog;
use super::*;
use crate::engine::memory::{MemoryData, MemoryLog};
use crate::engine::{GroupWrite, LogBatch, LogEngine as _, LogState};

const GROUP: RegionId = RegionId(1);

fn at(index: u64, term: u64) -> Position {
    Position { index, term }
}

fn entry(index: u64, term: u64) -> raft::eraftpb::Entry {
    raft::eraftpb::Entry { index, term, data: vec![0; 10].into(), ..Default::default() }
}

fn open(engine: &MemoryLog, applied: Position) -> Result<GroupLog<MemoryLog>, Fault> {
    GroupLog::open(engine.clone(), GROUP, ConfState::default(), applied, 100)
}

/// Does what a shell does.
fn persist(engine: &MemoryLog, log: &mut GroupLog<MemoryLog>) {
    if let Some(write) = log.take_write() {
        engine.write(LogBatch { groups: vec![(GROUP, write)] }).unwrap();
        log.persisted_to(log.last().index);
    }
}

fn terms(log: &GroupLog<MemoryLog>) -> Vec<(u64, u64)> {
    let (low, high) = (log.first_index().unwrap(), log.last_index().unwrap() + 1);
    let entries = log.entries(low, high, None, GetEntriesContext::empty(false)).unwrap();
    entries.iter().map(|entry| (entry.index, entry.term)).collect()
}

/// A log of entries 6..=9 of term 5 and 10 of term 6 on disk, of which 8 are applied.
fn written() -> MemoryLog {
    let engine = MemoryLog::new();
    let mut log = open(&engine, FIRST_POSITION).unwrap();
    log.append((6..=9).map(|index| entry(index, 5)).chain([entry(10, 6)]).collect());
    log.set_hard_state(raft::eraftpb::HardState {
        term: 6,
        vote: 3,
        commit: 8,
        ..Default::default()
    });
    persist(&engine, &mut log);
    engine
}

#[test]
fn a_log_comes_back_as_it_was_written() {
    let log = open(&written(), at(8, 5)).unwrap();
    assert_eq!(terms(&log), [(6, 5), (7, 5), (8, 5), (9, 5), (10, 6)]);
    assert_eq!((log.last(), log.truncated()), (at(10, 6), FIRST_POSITION));
    assert_eq!((log.hard_state().term, log.hard_state().vote), (6, 3));
    assert!(!log.has_write());
}

#[test]
fn a_commit_index_alone_is_not_written_and_the_applied_index_makes_up_for_it() {
    let engine = written();
    let mut log = open(&engine, at(8, 5)).unwrap();
    let state = raft::eraftpb::HardState { commit: 10, ..log.hard_state().clone() };
    log.set_hard_state(state);
    assert_eq!(log.take_write(), None);
    assert_eq!(open(&engine, at(10, 6)).unwrap().hard_state().commit, 10);
}

#[test]
fn a_log_behind_the_applied_index_begins_anew_and_keeps_the_vote() {
    let engine = written();
    // Ahead of the log, and in a place where the log holds another entry.
    for applied in [at(20, 7), at(10, 7), at(9, 6)] {
        let mut log = open(&engine, applied).unwrap();
        assert_eq!((log.last(), log.truncated()), (applied, applied));
        let vote = if applied.term > 6 { 0 } else { 3 };
        assert_eq!((log.hard_state().term, log.hard_state().vote), (applied.term.max(6), vote));
        let write = log.take_write().unwrap();
        assert!(write.clear && write.entries.is_empty());
    }
}

#[test]
fn a_log_cut_beyond_the_applied_index_is_a_fault() {
    let engine = written();
    let mut log = open(&engine, at(8, 5)).unwrap();
    log.cut(at(8, 5));
    persist(&engine, &mut log);
    assert_eq!(terms(&open(&engine, at(8, 5)).unwrap()), [(9, 5), (10, 6)]);
    assert!(matches!(open(&engine, at(7, 5)).err(), Some(Fault::Corrupt { .. })));
}

#[test]
fn a_commit_beyond_the_last_entry_is_a_fault() {
    let engine = MemoryLog::new();
    let hard_state = eraftpb::HardState { term: 5, vote: 0, commit: 9 };
    let state = Some(LogState { hard_state, last_index: 8, ..LogState::default() });
    let write = GroupWrite { state, ..GroupWrite::default() };
    engine.write(LogBatch { groups: vec![(GROUP, write)] }).unwrap();
    assert!(matches!(open(&engine, at(0, 0)).err(), Some(Fault::Corrupt { .. })));
}

#[test]
fn entries_are_replaced_in_memory_and_on_disk() {
    let engine = written();
    let mut log = open(&engine, at(8, 5)).unwrap();
    log.append(vec![entry(11, 6), entry(12, 6)]);
    log.append(vec![entry(10, 7), entry(11, 7)]);
    let wanted = [(6, 5), (7, 5), (8, 5), (9, 5), (10, 7), (11, 7)];
    assert_eq!(terms(&log), wanted);
    persist(&engine, &mut log);
    assert_eq!(terms(&log), wanted);
    assert_eq!(terms(&open(&engine, at(8, 5)).unwrap()), wanted);
}

#[test]
fn only_durable_entries_leave_the_cache() {
    let engine = written();
    let mut log = open(&engine, at(8, 5)).unwrap();
    log.append((11..=30).map(|index| entry(index, 6)).collect());
    let write = log.take_write().unwrap();
    log.persisted_to(10);
    log.forget_cached(30);
    assert_eq!(terms(&log).len(), 25);
    engine.write(LogBatch { groups: vec![(GROUP, write)] }).unwrap();
    log.persisted_to(30);
    assert!(log.cached_bytes() <= 100);
    log.forget_cached(30);
    assert_eq!(log.cached_bytes(), 0);
    assert_eq!(terms(&log).len(), 25);
    assert_eq!(log.term(30).unwrap(), 6);
}

#[test]
fn a_size_limit_cuts_entries_short_but_never_to_none() {
    let mut log = open(&written(), at(8, 5)).unwrap();
    log.append(vec![entry(11, 6), entry(12, 6)]);
    let count = |bytes: u64| {
        let context = GetEntriesContext::empty(false);
        log.entries(6, 13, bytes, context).unwrap().len()
    };
    assert_eq!(count(0), 1);
    assert_eq!(count(u64::MAX), 7);
    assert!((1..7).contains(&count(100)));
}

#[test]
fn raft_gets_a_snapshot_when_it_asks_the_second_time() {
    let mut log = open(&written(), at(8, 5)).unwrap();
    assert!(log.snapshot(0, 2).is_err());
    assert_eq!(log.take_wanted_snapshots(), [PeerId(2)].into());
    let mut snapshot = raft::eraftpb::Snapshot::default();
    snapshot.mut_metadata().index = 8;
    log.offer_snapshot(PeerId(2), snapshot.clone());
    assert!(log.snapshot(0, 3).is_err());
    assert_eq!(log.snapshot(0, 2).unwrap(), snapshot);
    // Given once; and one that the log was cut beyond is of no use.
    assert!(log.snapshot(0, 2).is_err());
    log.offer_snapshot(PeerId(2), snapshot);
    log.cut(at(9, 5));
    assert!(log.snapshot(0, 2).is_err());
}

#[test]
fn an_earlier_members_promise_is_kept() {
    let mut log = open(&MemoryLog::new(), FIRST_POSITION).unwrap();
    let promise = |term, vote| raft::eraftpb::HardState { term, vote, ..Default::default() };
    log.adopt_vote(&promise(4, 9));
    assert_eq!((log.hard_state().term, log.hard_state().vote), (5, 0));
    log.adopt_vote(&promise(5, 9));
    assert_eq!((log.hard_state().term, log.hard_state().vote), (5, 9));
    log.adopt_vote(&promise(7, 8));
    assert_eq!((log.hard_state().term, log.hard_state().vote), (7, 8));
}

#[test]
fn what_a_store_keeps_of_a_region_comes_back() {
    let data = MemoryData::new();
    let peer = metapb::Peer { id: 4, store_id: 2, ..Default::default() };
    let region = metapb::Region { id: 7, peers: vec![peer], ..Default::default() };
    let mut batch = WriteBatch::new();
    put_region(&mut batch, &region);
    put_applied(&mut batch, RegionId(7), at(12, 5));
    data.write(batch).unwrap();
    let snapshot = data.snapshot();
    assert_eq!(
        region_state(&snapshot, RegionId(7)).unwrap(),
        Some(RegionState::Normal(region.clone()))
    );
    assert_eq!(applied_state(&snapshot, RegionId(7)).unwrap(), Some(at(12, 5)));
    assert_eq!(region_state(&snapshot, RegionId(8)).unwrap(), None);
    let removed_at = Some(at(13, 6));
    let tombstone = Tombstone { region, peer_id: PeerId(4), removed_at };
    let mut batch = WriteBatch::new();
    put_tombstone(&mut batch, &tombstone);
    data.write(batch).unwrap();
    let states = region_states(&data).unwrap();
    assert_eq!(states, [(RegionId(7), RegionState::Tombstone(tombstone))]);
    assert_eq!(applied_state(&data.snapshot(), RegionId(7)).unwrap(), None);
}

/// S0.41: the first region of a cluster is made, not heard of: on both disks it begins at index 5 and term 5.
#[test]
fn the_first_region_begins_at_index_and_term_5_on_both_disks() {
    let (data, engine) = (MemoryData::new(), MemoryLog::new());
    bootstrap::prepare_first_region(&data, proto::StoreId(3), GROUP, PeerId(2)).unwrap();
    data.power_loss(0);
    let applied = applied_state(&data.snapshot(), GROUP).unwrap().unwrap();
    assert_eq!(applied, at(5, 5));
    let mut log = open(&engine, applied).unwrap();
    assert_eq!((log.last(), log.truncated()), (at(5, 5), at(5, 5)));
    persist(&engine, &mut log);
    let hard_state = eraftpb::HardState { term: 5, vote: 0, commit: 5 };
    let written = LogState { hard_state, last_index: 5, truncated_index: 5, truncated_term: 5 };
    assert_eq!(engine.state(GROUP).unwrap(), Some(written));
}

#[test]
fn a_store_is_bootstrapped_step_by_step() {
    use proto::{StoreId, raft_serverpb::StoreIdent};
    let data = MemoryData::new();
    assert!(bootstrap::is_empty(&data).unwrap());
    assert_eq!(bootstrap::ident(&data).unwrap(), None);
    let ident = StoreIdent { cluster_id: 9, store_id: 3, ..Default::default() };
    bootstrap::write_ident(&data, &ident).unwrap();
    bootstrap::write_ident(&data, &ident).unwrap();
    let other = StoreIdent { store_id: 4, ..ident };
    assert!(matches!(bootstrap::write_ident(&data, &other), Err(Fault::WrongIdentity { .. })));
    let prepare =
        || bootstrap::prepare_first_region(&data, StoreId(3), RegionId(1), PeerId(2)).unwrap();
    let region = prepare();
    // Everything prepared is durable: the scheduler may take it for granted.
    data.power_loss(0);
    assert_eq!(bootstrap::prepared_region(&data).unwrap(), Some(region));
    bootstrap::discard_first_region(&data).unwrap();
    assert_eq!(region_states(&data).unwrap(), []);
    let region = prepare();
    bootstrap::confirm_first_region(&data).unwrap();
    assert_eq!(bootstrap::prepared_region(&data).unwrap(), None);
    assert_eq!(region_states(&data).unwrap(), [(RegionId(1), RegionState::Normal(region))]);
    assert!(!bootstrap::is_empty(&data).unwrap());
}
