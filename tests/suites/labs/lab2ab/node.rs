//! One node, message by message.

use raft::StateRole::{self, Candidate, Follower, Leader};
use raft::eraftpb::{Entry, Message, MessageType};
use tests::labs::raft::messages::{
    accept, append, at_term, data, entry, hup, log, vote, vote_request,
};
use tests::labs::raft::network::{Network, Slot};
use tests::labs::raft::node::{
    Node, disk, fresh, log_in_words, only_message, over, persist, progress, put_into_role,
    restarted, settled_leader, step, step_proposal, take_messages, terms, tick_until_it_speaks,
};

const THREE: &[u64] = &[1, 2, 3];

/// A follower of 2 with this log, at a term, with so much committed.
fn follower_of_two(entries: &[Entry], term: u64, commit: u64) -> Node {
    let mut node = restarted(1, THREE, entries, (term, 0, commit));
    node.become_follower(term, 2);
    node
}

/// What a node could apply next, without applying it.
fn next_to_apply(node: &Node) -> Vec<Entry> {
    node.raft_log.next_entries(None).unwrap_or_default()
}

/// A settled leader gets a proposal: its log is longer by one, its commit is as before, its outbox holds
/// exactly two appends, after the settled entry and with the new one, and only that one is not yet stable.
#[test]
fn test_leader_start_replication_2ab() {
    let mut leader = settled_leader(3);
    let last = leader.raft_log.last_index();
    step_proposal(&mut leader, "some data");
    assert_eq!(leader.raft_log.last_index(), last + 1);
    assert_eq!(leader.raft_log.committed, last);
    let new = [data(last + 1, 1, "some data")];
    let expected = [2, 3].map(|to| append((1, to), 1, (last, 1), last, &new));
    assert_eq!(take_messages(&mut leader), expected);
    assert_eq!(leader.raft_log.unstable_entries(), new);
}

/// A settled leader gets a proposal and both followers accept it: it is committed and next to be
/// applied, and exactly two appends tell 2 and 3 of the commit. (The course's own check passes when
/// nothing is sent; this one counts.)
///
/// Hint: a commit that moved is told at once, with appends, not with the next heartbeat.
#[test]
fn test_leader_commit_entry_2ab() {
    let mut leader = settled_leader(3);
    let last = leader.raft_log.last_index();
    step_proposal(&mut leader, "some data");
    persist(&mut leader);
    for message in take_messages(&mut leader) {
        step(&mut leader, accept(&message));
    }
    assert_eq!(leader.raft_log.committed, last + 1);
    assert_eq!(next_to_apply(&leader), [data(last + 1, 1, "some data")]);
    let expected = [2, 3].map(|to| append((1, to), 1, (last + 1, 1), last + 1, &[]));
    assert_eq!(take_messages(&mut leader), expected);
}

/// A settled leader of 1, 3 or 5 gets a proposal that some followers accept: it commits exactly when
/// they are a majority together with the leader.
///
/// Hint: the leader itself counts, once its own disk has the entry.
#[test]
fn test_leader_acknowledge_commit_2ab() {
    let cases: &[(u64, &[u64], bool)] = &[
        (1, &[], true),
        (3, &[], false),
        (3, &[2], true),
        (3, &[2, 3], true),
        (5, &[], false),
        (5, &[2], false),
        (5, &[2, 3], true),
        (5, &[2, 3, 4], true),
        (5, &[2, 3, 4, 5], true),
    ];
    for (size, acceptors, committed) in cases {
        let mut leader = settled_leader(*size);
        let last = leader.raft_log.last_index();
        step_proposal(&mut leader, "some data");
        persist(&mut leader);
        for message in take_messages(&mut leader) {
            if acceptors.contains(&message.to) {
                step(&mut leader, accept(&message));
            }
        }
        assert_eq!(leader.raft_log.committed > last, *committed, "{size}: {acceptors:?}");
    }
}

/// A node with a log of older terms becomes leader at term 3 and gets a proposal, which everybody
/// accepts: all old entries, its first entry and the proposal are next to be applied, in order.
///
/// Hint: entries of earlier terms commit with the first of the leader's own.
#[test]
fn test_leader_commit_preceding_entries_2ab() {
    for old in [&[][..], &[2], &[1, 2], &[1]] {
        let mut entries = log(old);
        let mut node = restarted(1, THREE, &entries, (2, 0, 0));
        put_into_role(&mut node, Leader);
        step_proposal(&mut node, "some data");
        persist(&mut node);
        for message in take_messages(&mut node) {
            step(&mut node, accept(&message));
        }
        let last = entries.len() as u64;
        entries.extend([entry(last + 1, 3), data(last + 2, 3, "some data")]);
        assert_eq!(next_to_apply(&node), entries, "{old:?}");
    }
}

/// A follower gets one or two entries with a commit of 1 or 2: it commits so far, and exactly those
/// entries are next to be applied.
#[test]
fn test_follower_commit_entry_2ab() {
    let cases: &[(&[&str], u64)] = &[
        (&["some data"], 1),
        (&["some data", "some data2"], 2),
        (&["some data2", "some data"], 2),
        (&["some data", "some data2"], 1),
    ];
    for (words, commit) in cases {
        let entries: Vec<Entry> =
            words.iter().zip(1..).map(|(word, index)| data(index, 1, word)).collect();
        let mut node = follower_of_two(&[], 1, 0);
        step(&mut node, append((2, 1), 1, (0, 0), *commit, &entries));
        persist(&mut node);
        assert_eq!(node.raft_log.committed, *commit);
        assert_eq!(next_to_apply(&node), entries[..*commit as usize], "{words:?} {commit}");
    }
}

/// A follower at term 2 with entries of terms 1 and 2 gets appends without entries after various
/// positions: it accepts where its log has that position, and refuses where the term differs or nothing
/// is there; one answer each, at term 2.
///
/// A refusal of the crate says where to go on: the last entry that could match.
///
/// Hint: what is before the commit matches by definition.
#[test]
fn test_follower_check_message_type_msg_append_2ab() {
    // Position the append builds on; hint of a refusal.
    let cases =
        [((0, 0), None), ((1, 1), None), ((2, 2), None), ((2, 1), Some(1)), ((3, 3), Some(2))];
    for (position, refused) in cases {
        let mut node = follower_of_two(&log(&[1, 2]), 2, 1);
        step(&mut node, append((2, 1), 2, position, 0, &[]));
        let answer = only_message(&mut node, MessageType::MsgAppendResponse);
        assert_eq!((answer.to, answer.term), (2, 2));
        assert_eq!(answer.reject, refused.is_some(), "{position:?}");
        if let Some(hint) = refused {
            assert_eq!((answer.index, answer.reject_hint), (position.0, hint));
        }
    }
}

/// A follower with entries of terms 1 and 2 on its disk gets appends that extend, replace, repeat or
/// conflict: its log reads as it must, and exactly what is new waits to be written.
///
/// Hint: cut the log only where an entry really conflicts. Entries that are there already neither cut
/// what follows them nor are written again; a conflict takes back what counted as durable.
#[test]
fn test_follower_append_entries_2ab() {
    // What the append builds on, its term, its entries; the terms of the log, what is to be written.
    type Case<'a> = ((u64, u64), u64, &'a [Entry], &'a [u64], &'a [Entry]);
    let cases: &[Case<'_>] = &[
        ((2, 2), 3, &[entry(3, 3)], &[1, 2, 3], &[entry(3, 3)]),
        ((1, 1), 4, &[entry(2, 3), entry(3, 4)], &[1, 3, 4], &[entry(2, 3), entry(3, 4)]),
        ((0, 0), 2, &[entry(1, 1)], &[1, 2], &[]),
        ((0, 0), 3, &[entry(1, 3)], &[3], &[entry(1, 3)]),
    ];
    for (position, term, entries, expected, unstable) in cases {
        let mut node = follower_of_two(&log(&[1, 2]), 2, 0);
        step(&mut node, append((2, 1), *term, *position, 0, entries));
        assert_eq!(terms(&node), *expected, "after {position:?}");
        assert_eq!(node.raft_log.unstable_entries(), *unstable, "after {position:?}");
        let durable = expected.len() - unstable.len();
        assert_eq!(node.raft_log.persisted, durable as u64, "after {position:?}");
    }
}

/// Figure 7 of the paper: a leader whose log ends in term 6 meets, in term 9, a follower whose log is
/// shorter, longer, or different in one of six ways; a third node only gave its vote. After one empty
/// proposal the two logs are equal, commit included.
#[test]
fn test_leader_sync_follower_log_2ab() {
    let leaders = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    let followers: &[&[u64]] = &[
        &[1, 1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 1, 4],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 1, 4, 4, 4, 4],
        &[1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    for theirs in followers {
        let lead = restarted(1, THREE, &log(&leaders), (8, 0, leaders.len() as u64));
        let follow = restarted(2, THREE, &log(theirs), (7, 0, 0));
        let given = |node| Slot::Given(Box::new(node));
        let mut network = Network::with(vec![given(lead), given(follow), Slot::BlackHole]);
        network.send([hup(1)]);
        network.send([vote((3, 1), 9, false)]);
        assert_eq!((network.node(1).state, network.node(1).term), (Leader, 9));
        network.send([tests::labs::raft::messages::propose(1, "")]);
        let expected = log_in_words(network.node(1));
        assert!(expected.starts_with("committed 12,"), "{expected}");
        assert_eq!(log_in_words(network.node(2)), expected, "{theirs:?}");
    }
}

/// A follower gets one or two entries and then hears nothing: it asks 2 and 3 for votes in the next term,
/// saying where its log ends.
#[test]
fn test_vote_request_2ab() {
    for (entries, term) in [(log(&[1]), 2), (log(&[1, 2]), 3)] {
        let mut node = fresh(1, THREE);
        step(&mut node, append((2, 1), term - 1, (0, 0), 0, &entries));
        persist(&mut node);
        take_messages(&mut node);
        tick_until_it_speaks(&mut node);
        let last = entries.last().unwrap();
        let expected = [2, 3].map(|to| vote_request((1, to), term, (last.index, last.term)));
        assert_eq!(take_messages(&mut node), expected);
    }
}

/// A voter with some log is asked by a candidate with another: it grants when the candidate's last entry
/// has a newer term, or the same term and an index not smaller.
///
/// Hint: the term of the last entry decides before the length.
#[test]
fn test_voter_2ab() {
    // The voter's log; where the candidate's ends; whether it is refused.
    let cases: &[(&[u64], (u64, u64), bool)] = &[
        (&[1], (1, 1), false),
        (&[1], (2, 1), false),
        (&[1, 1], (1, 1), true),
        (&[1], (1, 2), false),
        (&[1], (2, 2), false),
        (&[1, 1], (1, 2), false),
        (&[2], (1, 1), true),
        (&[2], (2, 1), true),
        (&[2, 1], (1, 1), true),
    ];
    for (ours, theirs, reject) in cases {
        let mut node = over(1, 10, disk(&[1, 2], &log(ours)));
        step(&mut node, vote_request((2, 1), 3, *theirs));
        let answer = only_message(&mut node, MessageType::MsgRequestVoteResponse);
        assert_eq!(answer.reject, *reject, "{ours:?} asked by {theirs:?}");
    }
}

/// A leader at term 3 over a log of terms 1 and 2 hears how far the other of two holds its log: up to the
/// entries of older terms nothing commits; up to its own first entry, everything to there.
///
/// Hint: only an entry of the leader's own term is committed by counting (the paper's figure 8).
#[test]
fn test_leader_only_commits_log_from_current_term_2ab() {
    for (index, commit) in [(1, 0), (2, 0), (3, 3)] {
        let mut node = restarted(1, &[1, 2], &log(&[1, 2]), (2, 0, 0));
        put_into_role(&mut node, Leader);
        step_proposal(&mut node, "");
        persist(&mut node);
        let acknowledged = at_term(2, 1, MessageType::MsgAppendResponse, node.term);
        step(&mut node, Message { index, ..acknowledged });
        assert_eq!(node.raft_log.committed, commit, "acknowledged {index}");
    }
}

/// A leader of two proposes five times: before each proposal its own progress is what its disk has, and
/// the next index one more.
///
/// Hint: a leader keeps a progress for itself too; else a majority is counted wrongly.
#[test]
fn test_progress_leader_2ab() {
    let mut node = over(1, 5, disk(&[1, 2], &[]));
    put_into_role(&mut node, Leader);
    for index in 0..5 {
        persist(&mut node);
        assert_eq!(progress(&node, 1), (index + 1, index + 2));
        step_proposal(&mut node, "foo");
    }
}

/// A follower at term 2 with entries of terms 1 and 2 handles appends of all shapes: last index, commit
/// and answer come out as they must; one answer each.
///
/// Hint: the commit becomes the leader's, but never more than the last entry of *this* append, which may
/// be less than the follower's last: what follows there may not be the leader's.
#[test]
fn test_handle_message_type_msg_append_2ab() {
    let at = |index| entry(index, 2);
    // Term, position the append builds on (term, index), commit, entries; last index, commit, refused?
    type Case = (u64, (u64, u64), u64, Vec<Entry>, (u64, u64, bool));
    let cases: Vec<Case> = vec![
        (3, (2, 3), 3, vec![], (2, 0, true)),
        (3, (3, 3), 3, vec![], (2, 0, true)),
        (2, (1, 1), 1, vec![], (2, 1, false)),
        (2, (0, 0), 1, vec![at(1)], (1, 1, false)),
        (2, (2, 2), 3, vec![at(3), at(4)], (4, 3, false)),
        (2, (2, 2), 4, vec![at(3)], (3, 3, false)),
        (2, (1, 1), 4, vec![at(2)], (2, 2, false)),
        (2, (1, 1), 3, vec![], (2, 1, false)),
        (2, (1, 1), 3, vec![at(2)], (2, 2, false)),
        (2, (2, 2), 3, vec![], (2, 2, false)),
        (2, (2, 2), 4, vec![], (2, 2, false)),
    ];
    for (number, (term, position, commit, entries, expected)) in cases.into_iter().enumerate() {
        let mut node = restarted(1, &[1], &log(&[1, 2]), (2, 0, 0));
        node.handle_append_entries(&append((2, 1), term, position, commit, &entries));
        let answer = only_message(&mut node, MessageType::MsgAppendResponse);
        let found = (node.raft_log.last_index(), node.raft_log.committed, answer.reject);
        assert_eq!(found, expected, "case {number}");
    }
}

/// Nodes with a log that ends at 2@2 are asked for votes: without a vote they grant to every log that is
/// not behind (16 combinations); with one, only to the one who has it; leaders and candidates, who voted
/// for themselves, to nobody of their own term.
#[test]
fn test_recv_message_type_msg_request_vote_2ab() {
    // Role, where the candidate's log ends, whom we voted for; whether it is refused.
    let mut cases: Vec<(StateRole, (u64, u64), u64, bool)> = Vec::new();
    for index in 0..4 {
        for term in 0..4 {
            let ahead = term == 3 || (term == 2 && index >= 2);
            cases.push((Follower, (index, term), 0, !ahead));
        }
    }
    cases.push((Follower, (3, 2), 2, false));
    cases.push((Follower, (3, 2), 1, true));
    cases.push((Leader, (3, 3), 1, true));
    cases.push((Candidate, (3, 3), 1, true));
    for (role, theirs, voted, reject) in cases {
        let term = theirs.1.max(2);
        let mut node = restarted(1, THREE, &log(&[2, 2]), (term, voted, 0));
        node.state = role;
        step(&mut node, vote_request((2, 1), term, theirs));
        let answer = only_message(&mut node, MessageType::MsgRequestVoteResponse);
        assert_eq!(answer.reject, reject, "{role:?} that voted {voted}, asked from {theirs:?}");
    }
}

/// A follower, a candidate and a leader get a vote request and then an append of term 3: all become
/// followers at term 3 and keep their logs; a vote request makes no leader known, an append does.
///
/// Hint: who asks for votes does not lead yet.
#[test]
fn test_all_server_stepdown_2ab() {
    for (role, last_index) in [(Follower, 0), (Candidate, 0), (Leader, 1)] {
        for (kind, leader) in [(MessageType::MsgRequestVote, 0), (MessageType::MsgAppend, 2)] {
            let mut node = fresh(1, THREE);
            put_into_role(&mut node, role);
            step(&mut node, Message { log_term: 3, ..at_term(2, 1, kind, 3) });
            assert_eq!((node.state, node.term, node.leader_id), (Follower, 3, leader), "{role:?}");
            assert_eq!(node.raft_log.last_index(), last_index, "{role:?}");
            assert_eq!(node.raft_log.all_entries().len() as u64, last_index, "{role:?}");
        }
    }
}
