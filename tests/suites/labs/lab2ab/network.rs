//! Small networks that lose messages.

use raft::StateRole::{Candidate, Follower, Leader};
use raft::eraftpb::{Message, MessageType};
use tests::labs::raft::messages::{append, beat, entry, hup, log, propose};
use tests::labs::raft::network::{Network, Slot};
use tests::labs::raft::node::{Node, log_in_words, progress, restarted, take_committed, terms};

fn committed(network: &Network, id: u64) -> u64 {
    network.node(id).raft_log.committed
}

fn given(node: Node) -> Slot {
    Slot::Given(Box::new(node))
}

/// Every node's log reads the same, and so.
#[track_caller]
fn assert_logs(network: &Network, expected: &str) {
    for node in network.nodes() {
        assert_eq!(log_in_words(node), expected, "node {}", node.id);
    }
}

/// Five nodes: 1 and 2 hold an entry of term 1, 3 one of term 2, which 4 and 5 elected without getting
/// the entry. 1 campaigns and loses, a follower at term 2 then; it campaigns again and leads at term 3.
/// All logs are its own then: terms 1 and 3. The entry of term 2, never committed, is overwritten.
#[test]
fn test_leader_election_overwrite_newer_logs_2ab() {
    let all = [1, 2, 3, 4, 5];
    let mut network = Network::with(vec![
        given(restarted(1, &all, &log(&[1]), (1, 0, 0))),
        given(restarted(2, &all, &log(&[1]), (1, 0, 0))),
        given(restarted(3, &all, &log(&[2]), (2, 0, 0))),
        given(restarted(4, &all, &[], (2, 3, 0))),
        given(restarted(5, &all, &[], (2, 3, 0))),
    ]);
    network.send([hup(1)]);
    assert_eq!((network.node(1).state, network.node(1).term), (Follower, 2));
    network.send([hup(1)]);
    assert_eq!((network.node(1).state, network.node(1).term), (Leader, 3));
    for node in network.nodes() {
        assert_eq!(terms(node), [1, 3], "node {}", node.id);
    }
}

/// Three nodes; 1 is elected. One proposal: everybody commits 2. In another network a second leader is
/// elected after it and proposes as well: everybody commits 4. What everybody applies is what was
/// proposed, in order.
#[test]
fn test_log_replication_2ab() {
    let cases: [(Vec<Message>, u64, &[&str]); 2] = [
        (vec![propose(1, "some data")], 2, &["some data"]),
        (vec![propose(1, "one"), hup(2), propose(2, "two")], 4, &["one", "two"]),
    ];
    for (messages, commit, proposed) in cases {
        let mut network = Network::of(3);
        network.send([hup(1)]);
        messages.into_iter().for_each(|message| network.send([message]));
        for node in network.nodes_mut() {
            assert_eq!(node.raft_log.committed, commit, "node {}", node.id);
            let applied = take_committed(node);
            let data: Vec<_> = applied.iter().filter(|e| !e.data.is_empty()).collect();
            let expected: Vec<_> = proposed.iter().map(|word| word.as_bytes()).collect();
            assert_eq!(data.iter().map(|e| &e.data[..]).collect::<Vec<_>>(), expected);
        }
    }
}

/// The only node of a network leads and gets two proposals: it commits 3.
#[test]
fn test_single_node_commit_2ab() {
    let mut network = Network::of(1);
    network.send([hup(1)]);
    network.send([propose(1, "some data")]);
    network.send([propose(1, "some data")]);
    assert_eq!(committed(&network, 1), 3);
}

/// Five nodes, 1 leads and reaches only 2: two proposals do not commit. Everything heals and 2 is
/// elected: its first entry commits the two of the old leader with it, and 1 learns that: 4.
///
/// Hint: without the entry that a new leader appends, older ones would wait for the next proposal.
#[test]
fn test_commit_without_new_term_entry_2ab() {
    let mut network = Network::of(5);
    network.send([hup(1)]);
    [3, 4, 5].into_iter().for_each(|other| network.cut(1, other));
    network.send([propose(1, "some data")]);
    network.send([propose(1, "some data")]);
    assert_eq!(committed(&network, 1), 1);
    network.recover();
    network.send([hup(2)]);
    assert_eq!(network.node(2).state, Leader);
    assert_eq!(committed(&network, 1), 4);
}

/// Five nodes, 1 leads; 5 is cut off and misses two proposals. It comes back, and the leader only sends
/// heartbeats: 5 commits everything.
///
/// Hint: the answer to a heartbeat from one who lags is followed by an append.
#[test]
fn test_commit_with_heartbeat_2ab() {
    let mut network = Network::of(5);
    network.send([hup(1)]);
    network.isolate(5);
    network.send([propose(1, "some data")]);
    network.send([propose(1, "some data")]);
    assert_eq!([1, 5].map(|id| committed(&network, id)), [3, 1]);
    network.recover();
    network.send([beat(1)]);
    assert_eq!(committed(&network, 5), 3);
}

/// 1 and 3 cannot talk: 1 is elected by 2, and 3, which 2 refuses, stays a candidate. They can talk again
/// and 3 campaigns anew: its empty log wins nobody, but all are followers at term 2. 1 and 2 have one
/// committed entry, 3 has none.
///
/// Hint: terms may be forced up by one who cannot win. Pre-vote, which our stores use, prevents that.
#[test]
fn test_dueling_candidates_2ab() {
    let mut network = Network::of(3);
    network.cut(1, 3);
    network.send([hup(1)]);
    network.send([hup(3)]);
    assert_eq!(network.node(1).state, Leader);
    assert_eq!(network.node(3).state, Candidate);
    network.recover();
    network.send([hup(3)]);
    let expected = [(1, "committed 1, applied 0: 1@1"), (2, "committed 1, applied 0: 1@1")];
    for (id, words) in expected.into_iter().chain([(3, "committed 0, applied 0:")]) {
        let node = network.node(id);
        assert_eq!((node.state, node.term), (Follower, 2), "node {id}");
        assert_eq!(log_in_words(node), words, "node {id}");
    }
}

/// 1 is cut off and campaigns; 3 campaigns too and wins the same term. Everything heals, 3 beats,
/// proposes and beats: 1 follows at term 1, and all logs are equal and committed.
///
/// Hint: a heartbeat of one's own term ends one's candidacy, and the answer brings the missed entries.
#[test]
fn test_candidate_concede_2ab() {
    let mut network = Network::of(3);
    network.isolate(1);
    network.send([hup(1)]);
    network.send([hup(3)]);
    network.recover();
    network.send([beat(3)]);
    network.send([propose(3, "force follower")]);
    network.send([beat(3)]);
    assert_eq!((network.node(1).state, network.node(1).term), (Follower, 1));
    assert_logs(&network, "committed 2, applied 0: 1@1 2@1 \"force follower\"");
}

/// 1, 2 and again 1 are elected. Then an append that 2 sent in its term arrives at 1: it is ignored. After
/// one more proposal all logs are equal: terms 1, 2, 3, 3.
#[test]
fn test_old_messages_2ab() {
    let mut network = Network::of(3);
    [1, 2, 1].into_iter().for_each(|id| network.send([hup(id)]));
    network.send([append((2, 1), 2, (2, 2), 0, &[entry(3, 2)])]);
    network.send([propose(1, "somedata")]);
    assert_logs(&network, "committed 4, applied 0: 1@1 2@2 3@3 4@3 \"somedata\"");
}

/// Node 1 campaigns in networks of three to five, some of them black holes, and gets a proposal: with a
/// majority all logs hold it, committed; without, it is dropped and all logs are empty. Term 1 in any case.
///
/// Hint: who does not lead and knows no leader must not keep a proposal.
#[test]
fn test_proposal_2ab() {
    let cases: &[(u64, &[u64], bool)] = &[
        (3, &[], true),
        (3, &[3], true),
        (3, &[2, 3], false),
        (4, &[2, 3], false),
        (5, &[2, 3], true),
    ];
    for (size, silent, wins) in cases {
        let slots = (1..=*size)
            .map(|id| if silent.contains(&id) { Slot::BlackHole } else { Slot::Fresh })
            .collect();
        let mut network = Network::with(slots);
        network.send([hup(1)]);
        network.send([propose(1, "somedata")]);
        let words = if *wins {
            "committed 2, applied 0: 1@1 2@1 \"somedata\""
        } else {
            "committed 0, applied 0:"
        };
        assert_logs(&network, words);
        assert_eq!(network.node(1).term, 1);
    }
}

/// 1 is elected and cut off, and gets some proposals that nobody else sees; 2 is elected and commits
/// some of its own. Everything heals, but appends are lost; 2 beats twice: 1 still commits no more than
/// before, though it has entries at those indices.
///
/// Hint: a heartbeat may carry no more than the lesser of the commit and what the receiver is known to
/// hold.
#[test]
fn test_heartbeat_update_commit_2ab() {
    for (failures, successes) in [(1, 1), (5, 3), (5, 10)] {
        let mut network = Network::of(3);
        network.send([hup(1)]);
        network.isolate(1);
        (0..failures).for_each(|_| network.send([propose(1, "lost")]));
        assert_eq!(committed(&network, 1), 1);
        assert_eq!(network.node(1).raft_log.last_index(), 1 + failures);
        network.send([hup(2)]);
        (0..successes).for_each(|_| network.send([propose(2, "kept")]));
        assert_eq!([2, 3].map(|id| committed(&network, id)), [2 + successes; 2]);
        network.recover();
        network.ignore(MessageType::MsgAppend);
        network.send([beat(2)]);
        network.send([beat(2)]);
        assert_eq!(committed(&network, 1), 1, "{failures} {successes}");
        assert_eq!(network.node(1).term, 2);
    }
}

/// A node of two with three entries is elected and gets a proposal: the next index for the other is 6,
/// behind the three, its first entry and the proposal.
///
/// Hint: an answer moves a follower's match, and the next index with it.
#[test]
fn test_leader_increase_next_2ab() {
    let lead = restarted(1, &[1, 2], &log(&[1, 1, 1]), (1, 0, 0));
    let mut network = Network::with(vec![given(lead), Slot::Fresh, Slot::Fresh]);
    network.send([hup(1)]);
    network.send([propose(1, "somedata")]);
    assert_eq!(progress(network.node(1), 2), (5, 6));
}
