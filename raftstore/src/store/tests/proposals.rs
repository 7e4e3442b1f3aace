//! What becomes of a proposal: which kind of entry, who is answered, and what is refused.

use eraftpb::ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
use proto::errorpb;
use raft::eraftpb::{Entry, EntryType};
use raft::{GetEntriesContext, Storage as _};

use super::*;
use crate::command::{Command, Member, Members};
use crate::group::conf_change_v2_of;

/// The entries of region 1 on this store from an index on.
fn entries_from(cluster: &Cluster, store: u64, first: u64) -> Vec<Entry> {
    let log = cluster.store(store).peers[&RegionId(1)].group.log();
    let end = log.last().index + 1;
    log.entries(first, end, None, GetEntriesContext::empty(false)).unwrap()
}

/// The command of an entry: in its data, or in the context of a change of members.
fn command_in(entry: &Entry) -> Command {
    let bytes = match entry.entry_type {
        EntryType::EntryNormal => entry.data.clone(),
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
            conf_change_v2_of(entry).unwrap().context
        }
    };
    Command::decode(bytes).unwrap()
}

/// S0.46, S4.7: changes of members are proposed to raft as such, with the command in their context, everything
/// else as plain entries; and whoever joined by a snapshot finds the same in the entries behind it.
#[test]
fn a_change_of_members_is_an_entry_of_its_own_kind_with_the_command_in_its_context() {
    let mut cluster = Cluster::with_region(4, 3, Config::default());
    let leader = cluster.leader(1).unwrap();
    let gone = leader % 3 + 1;
    let first = cluster.store(leader).peers[&RegionId(1)].group.last_index() + 1;
    cluster.write("k", "v");
    let at_first = region::epoch(&cluster.region(leader, 1));
    cluster.order_change(leader, 1, AddLearnerNode, &peer(4, 4));
    cluster.until("the data", |cluster| cluster.value(4, "k").is_some());
    let with_learner = region::epoch(&cluster.region(leader, 1));
    cluster.order_changes(leader, 1, &[(AddNode, peer(4, 4)), (AddLearnerNode, peer(gone, gone))]);
    let joint = region::epoch(&cluster.region(leader, 1));
    cluster.order_changes(leader, 1, &[]);
    cluster.ticks(2);
    cluster.split_at(leader, 1, &["m"]);
    cluster.ticks(2);

    let entries = entries_from(&cluster, leader, first);
    let kinds: Vec<EntryType> = entries.iter().map(|entry| entry.entry_type).collect();
    assert_eq!(
        kinds,
        [
            EntryType::EntryNormal,
            EntryType::EntryConfChange,
            EntryType::EntryConfChangeV2,
            EntryType::EntryConfChangeV2,
            EntryType::EntryNormal,
        ]
    );
    let commands: Vec<Command> = entries.iter().map(command_in).collect();
    let as_role = |id, role: metapb::PeerRole| metapb::Peer { role: role.into(), ..peer(id, id) };
    let learner = as_role(4, metapb::PeerRole::Learner);
    let replaced =
        vec![as_role(4, metapb::PeerRole::Voter), as_role(gone, metapb::PeerRole::Learner)];
    assert!(matches!(commands[0], Command::Write { .. }), "{:?}", commands[0]);
    assert_eq!(commands[1], Command::Member(Member { epoch: at_first, peer: learner }));
    assert_eq!(commands[2], Command::Members(Members { epoch: with_learner, peers: replaced }));
    assert_eq!(commands[3], Command::Members(Members { epoch: joint, peers: Vec::new() }));
    assert!(matches!(commands[4], Command::Split(_)), "{:?}", commands[4]);

    let by_snapshot = cluster.store(4).peers[&RegionId(1)].group.log().truncated().index;
    assert!(by_snapshot > first, "it came by a snapshot: {by_snapshot}");
    assert!(by_snapshot < entries[2].index, "and has the rest in its log: {by_snapshot}");
    let behind: Vec<Command> =
        entries_from(&cluster, 4, entries[2].index).iter().map(command_in).collect();
    assert_eq!(behind, commands[2..]);
    assert_eq!(cluster.region(4, 1), cluster.region(leader, 1));
}

/// S4.5: one change of members at a time. The second is refused in words, and leaves neither an entry nor
/// anybody who waits; a caller who wants the region cut meanwhile is told to come back.
#[test]
fn a_second_change_of_members_is_refused_in_words_and_leaves_nothing_behind() {
    let mut cluster = Cluster::with_region(4, 3, Config::default());
    let leader = cluster.leader(1).unwrap();
    let gone = leader % 3 + 1;
    cluster.hold_applier(leader);
    cluster.order_change(leader, 1, RemoveNode, &peer(gone, gone));
    let last = cluster.store(leader).peers[&RegionId(1)].group.last_index();

    let second = pdpb::ChangePeer { peer: Some(peer(4, 4)), change_type: AddNode.into() };
    let (config, now) = (cluster.config.clone(), cluster.now);
    let machine = cluster.nodes.get_mut(&StoreId(leader)).unwrap().machine.as_mut().unwrap();
    let asked = machine.store.peers.get_mut(&RegionId(1)).unwrap();
    let mut effects = Effects::default();
    let mut round = crate::peer::Round { config: &config, now, effects: &mut effects };
    assert_eq!(asked.change_members(vec![second], &mut round), Err("another change is pending"));
    assert!(effects.is_empty() && asked.proposals.is_empty());
    assert_eq!(asked.group.last_index(), last);

    let split = cluster.split_at(leader, 1, &["m"]);
    assert!(
        matches!(cluster.refusal(split), Some(Refusal::ServerIsBusy { reason, .. })
            if reason == "a change of membership is pending"),
        "{:?}",
        cluster.reply(split)
    );
    assert_eq!(cluster.store(leader).peers[&RegionId(1)].group.last_index(), last);
    cluster.release_applier(leader);
    cluster.ticks(2);
    assert_eq!(cluster.region(leader, 1).peers.len(), 2);
    // The scheduler orders the second again, and now it is made.
    cluster.add(1, &peer(4, 4));
}

/// Has the leader propose a change of members as it stands here, whatever the region is.
fn propose_member(
    cluster: &mut Cluster,
    leader: u64,
    kind: raft::eraftpb::ConfChangeType,
    member: Member,
    reply: ReplyId,
) {
    let change = raft::eraftpb::ConfChange {
        change_type: kind,
        node_id: member.peer.id,
        context: Command::Member(member).encode().into(),
        ..Default::default()
    };
    let machine = cluster.nodes.get_mut(&StoreId(leader)).unwrap().machine.as_mut().unwrap();
    let peer = machine.store.peers.get_mut(&RegionId(1)).unwrap();
    let at = peer.group.propose_conf_change(change).unwrap();
    peer.proposals.push(at, vec![reply]);
    machine.store.touched.insert(RegionId(1));
    cluster.ticks(3);
}

/// S4.8: a change of members that comes again counts once, whether it is ordered again or stands in the log
/// again: every replica finds it done, or proposed for another epoch, and refuses it.
#[test]
fn a_change_of_members_that_comes_again_counts_once() {
    let mut cluster = Cluster::with_region(4, 3, Config::default());
    cluster.write("k", "v");
    let leader = cluster.leader(1).unwrap();
    let conf_ver = |cluster: &Cluster| region::epoch(&cluster.region(leader, 1)).conf_ver;
    let before = region::epoch(&cluster.region(leader, 1));
    for _ in 0..3 {
        cluster.order_change(leader, 1, AddNode, &peer(4, 4));
        cluster.ticks(4);
        assert_eq!(conf_ver(&cluster), before.conf_ver + 1);
        assert!(cluster.store(leader).peers[&RegionId(1)].proposals.is_empty());
    }
    let last = cluster.store(leader).peers[&RegionId(1)].group.last_index();
    cluster.order_change(leader, 1, AddNode, &peer(4, 4));
    assert_eq!(cluster.store(leader).peers[&RegionId(1)].group.last_index(), last, "no entry");

    // In the log again: at the epoch of the first, and at the one there is now.
    let after = cluster.region(leader, 1);
    let now = region::epoch(&after);
    let add = raft::eraftpb::ConfChangeType::AddNode;
    let again = |epoch| Member { epoch, peer: peer(4, 4) };
    propose_member(&mut cluster, leader, add, again(before), ReplyId(901));
    propose_member(&mut cluster, leader, add, again(now), ReplyId(902));
    assert!(
        matches!(cluster.refusal(ReplyId(901)), Some(Refusal::EpochNotMatch { current_regions })
            if current_regions[0] == after),
        "{:?}",
        cluster.reply(ReplyId(901))
    );
    assert_eq!(
        cluster.refusal(ReplyId(902)),
        Some(&Refusal::Other { message: "already a voter".into() })
    );
    let gone = peer(leader % 3 + 1, leader % 3 + 1);
    cluster.remove(1, &gone);
    let after = cluster.region(leader, 1);
    assert_eq!(region::epoch(&after).conf_ver, before.conf_ver + 2);
    cluster.order_change(leader, 1, RemoveNode, &gone);
    let remove = raft::eraftpb::ConfChangeType::RemoveNode;
    let again = Member { epoch: region::epoch(&after), peer: gone };
    propose_member(&mut cluster, leader, remove, again, ReplyId(903));
    assert_eq!(
        cluster.refusal(ReplyId(903)),
        Some(&Refusal::Other { message: "not a member".into() })
    );
    for store in (1..=4).filter(|store| *store != gone.store_id) {
        assert_eq!(cluster.region(store, 1), after);
    }
    // The door is not closed by what was refused.
    cluster.add(1, &peer(14, gone.store_id));
    cluster.write("k", "w");
}

/// S0.47: everybody who proposes is answered once, whatever became of it. Two leaders propose at the same
/// places of the log; whose entry stands there hears "done", the other that it was overwritten. (That nobody
/// is answered twice the harness asserts.)
#[test]
fn two_proposals_for_one_place_of_the_log_are_told_apart_and_each_is_answered_once() {
    let mut cluster = Cluster::three();
    let old = cluster.leader(1).unwrap();
    cluster.write("k", "v");
    cluster.ticks(2);
    cluster.isolate(old);
    let first = cluster.store(old).peers[&RegionId(1)].group.last_index() + 1;
    let lost: Vec<ReplyId> =
        (0..10).map(|n| cluster.write_at(old, 1, &format!("k{n}"), "lost")).collect();
    cluster.until("another leader", |cluster| cluster.leader(1).is_some_and(|new| new != old));
    let new = cluster.leader(1).unwrap();
    let place = cluster.store(new).peers[&RegionId(1)].group.last_index() + 1;
    assert!(place < first + 10, "the places are the same");
    let kept: Vec<ReplyId> =
        (0..10).map(|n| cluster.write_at(new, 1, &format!("k{n}"), "kept")).collect();
    cluster
        .until("stepped down", |cluster| cluster.store(old).peers[&RegionId(1)].leader().is_none());
    let late: Vec<ReplyId> =
        (0..10).map(|n| cluster.write_at(old, 1, &format!("k{n}"), "late")).collect();
    assert!(lost.iter().all(|reply| cluster.reply(*reply).is_none()), "nobody knows yet");
    cluster.heal();
    cluster.ticks(10);
    assert!(kept.iter().all(|reply| cluster.is_done(*reply)));
    assert!(lost.iter().all(|reply| cluster.refusal(*reply) == Some(&Refusal::StaleCommand)));
    for reply in late {
        let refusal = cluster.refusal(reply);
        assert!(matches!(refusal, Some(Refusal::NotLeader { .. })), "{refusal:?}");
    }
    for (store, n) in (1..=3).flat_map(|store| (0..10).map(move |n| (store, n))) {
        assert_eq!(cluster.value(store, &format!("k{n}")), Some("kept".into()));
    }
}

/// S0.48: what is applied goes to the engine as one batch, and memory and callers follow it. Wherever a write
/// fails, the store stops; what it finds when it starts again is whole, and nothing acknowledged is missing.
#[test]
fn a_write_that_fails_stops_the_store_and_never_leaves_half_a_batch() {
    let mut crashes = 0;
    for operations in 0..24 {
        for keep in [0, 1, 2, usize::MAX] {
            let mut cluster = Cluster::with_region(1, 1, Config::default());
            let write_both = |cluster: &mut Cluster, value: u32| {
                let (target, reply) = (cluster.target(1, 1), cluster.new_reply());
                let mut batch = WriteBatch::new();
                batch.put(ColumnFamily::Default, "a", value.to_string());
                batch.put(ColumnFamily::Default, "b", value.to_string());
                cluster.tell(StoreId(1), StoreMsg::Write { target, batch, reply });
                cluster.run();
                reply
            };
            let begun = write_both(&mut cluster, 0);
            assert!(cluster.is_done(begun));
            let mut acknowledged = 0;
            cluster.fail_after(1, operations);
            for value in 1..10 {
                if cluster.is_down(1) {
                    break;
                }
                let reply = write_both(&mut cluster, value);
                if cluster.is_done(reply) {
                    acknowledged = value;
                }
            }
            crashes += u32::from(cluster.is_down(1));
            cluster.lose_power(1, keep);
            assert_eq!(cluster.value(1, "a"), cluster.value(1, "b"), "half a batch on disk");
            cluster.repair(1);
            cluster.start(1);
            cluster.until("it leads", |cluster| cluster.leader(1).is_some());
            let found = cluster.value(1, "a");
            assert_eq!(found, cluster.value(1, "b"));
            let found: u32 = std::str::from_utf8(&found.unwrap()).unwrap().parse().unwrap();
            assert!(found >= acknowledged, "{found} of {acknowledged}: {operations}, {keep}");
        }
    }
    assert!(crashes > 20, "only {crashes} crashes");
}

/// S4.13: each of the five refusals that a client routes by can be met at a store, and each has a field of its
/// own on the wire.
#[test]
fn each_refusal_that_a_client_routes_by_can_be_met_and_is_told_apart_on_the_wire() {
    let mut cluster = Cluster::three();
    let leader = cluster.leader(1).unwrap();
    let follower = leader % 3 + 1;
    let right = cluster.target(leader, 1);
    let mut met: Vec<errorpb::Error> = Vec::new();
    let mut ask = |cluster: &mut Cluster, store, target: Target, key: &str| {
        let reply = cluster.ask_write(store, target, key, "v");
        cluster.run();
        met.push(cluster.refusal(reply).cloned().unwrap().into());
    };
    ask(&mut cluster, follower, right.clone(), "k");
    let unknown = Target { region_id: RegionId(9), ..right.clone() };
    ask(&mut cluster, leader, unknown, "k");
    let newer = metapb::RegionEpoch { conf_ver: 1, version: 2 };
    ask(&mut cluster, leader, Target { epoch: newer, ..right.clone() }, "k");
    // Of a term long gone.
    let term = cluster.store(leader).peers[&RegionId(1)].group.term();
    ask(&mut cluster, leader, Target { term: Some(term - 2), ..right }, "k");
    cluster.split_at(leader, 1, &["m"]);
    let right = cluster.target(leader, 1);
    ask(&mut cluster, leader, right, "a");

    let fields = |error: &errorpb::Error| {
        [
            error.not_leader.is_some(),
            error.region_not_found.is_some(),
            error.epoch_not_match.is_some(),
            error.stale_command.is_some(),
            error.key_not_in_region.is_some(),
        ]
    };
    for (number, error) in met.iter().enumerate() {
        let wanted: [bool; 5] = std::array::from_fn(|field| field == number);
        assert_eq!(fields(error), wanted, "{error:?}");
        assert!(!error.message.is_empty());
        // Nothing else is set.
        let again = errorpb::Error::from(Refusal::from(error.clone()));
        assert_eq!(again, *error);
    }
    assert_eq!(met[0].not_leader.as_ref().unwrap().leader, Some(peer(leader, leader)));
    assert_eq!(met[2].epoch_not_match.as_ref().unwrap().current_regions[0].id, 1);
    assert_eq!(met[4].key_not_in_region.as_ref().unwrap().start_key, "m");
}
