//! The group as a whole, on virtual time.

mod world;

use std::collections::BTreeMap;

use proto::eraftpb::MessageType;
use proto::schedulerpb::{Change, KeyValue, MemberPriority};

use super::{Membership, Options, Outcome};
use world::{STEP_US, World, description};

const SECOND_US: u64 = 1_000_000;

fn put(key: &str, value: &str) -> Change {
    let value = KeyValue {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..KeyValue::default()
    };
    Change { put_values: vec![value], ..Change::default() }
}

/// A world in which somebody serves.
fn serving(seed: u64, members: u64, options: &Options) -> (World, u64) {
    let mut world = World::new(seed, members, options);
    assert!(world.run_until(5 * SECOND_US, |world| !world.serving().is_empty()), "seed {seed}");
    let leader = world.serving()[0];
    (world, leader)
}

/// Faults of every kind for a while, then peace.
fn torment(seed: u64, options: &Options) -> World {
    let mut world = World::new(seed, 3, options);
    world.loss_percent = (seed % 4) as u32 * 5;
    world.crashes_per_million = 2_000;
    let until_us = 20 * SECOND_US;
    while world.now_us < until_us && world.violation.is_none() {
        let victim = 1 + world.random(3);
        match world.random(10) {
            0..3 => world.crash(victim),
            3..5 => {
                let pause_us = world.random(2 * SECOND_US);
                let until_us = world.now_us + pause_us;
                world.hosts.get_mut(&victim).unwrap().paused_until_us = until_us;
            }
            5..7 => world.isolate(victim),
            7 => world.hand_over(victim, 0),
            _ => world.cut.clear(),
        }
        let rest_us = world.random(SECOND_US);
        world.run(rest_us);
        for id in 1..=3 {
            if world.hosts[&id].member.is_none() && world.random(2) == 0 {
                world.restart(id);
            }
        }
    }
    world
}

fn heal(world: &mut World) {
    world.cut.clear();
    world.loss_percent = 0;
    world.crashes_per_million = 0;
    for id in 1..=3 {
        if world.hosts[&id].member.is_none() {
            world.restart(id);
        }
        world.hosts.get_mut(&id).unwrap().paused_until_us = 0;
    }
}

#[test]
fn timestamps_grow_and_ids_are_unique_whatever_happens() {
    let mut grants = 0;
    for seed in 0..40 {
        let mut world = torment(seed, &Options::default());
        heal(&mut world);
        let before = world.grants;
        world.run(5 * SECOND_US);
        assert_eq!(world.violation, None, "seed {seed}");
        assert!(world.grants > before, "seed {seed}: nobody serves in peace");
        grants += world.grants;
    }
    assert!(grants > 10_000, "the torment leaves time to serve: {grants}");
}

#[test]
fn the_same_seed_tells_the_same_story() {
    for seed in [3, 17] {
        let first = torment(seed, &Options::default());
        let second = torment(seed, &Options::default());
        assert_eq!((first.trace, first.grants), (second.trace, second.grants));
    }
}

#[test]
fn a_lease_longer_than_an_election_is_found_out() {
    let options = Options { lease_us: 5 * SECOND_US, ..Options::default() };
    let found = (0..40).any(|seed| torment(seed, &options).violation.is_some());
    assert!(found, "the watcher of timestamps would not notice a broken lease");
}

#[test]
fn a_single_member_serves_at_once_and_after_a_restart() {
    let mut world = World::new(1, 1, &Options::default());
    assert!(world.run_until(SECOND_US / 5, |world| world.serving() == [1]));
    world.run(SECOND_US);
    world.crash(1);
    world.restart(1);
    assert!(world.run_until(SECOND_US / 5, |world| world.serving() == [1]));
    world.run(SECOND_US);
    assert_eq!(world.violation, None);
}

#[test]
fn a_new_cluster_has_a_leader_before_an_election_timeout_has_passed() {
    for seed in 0..10 {
        let mut world = World::new(seed, 3, &Options::default());
        let early = world.run_until(SECOND_US * 2 / 5, |world| !world.serving().is_empty());
        assert!(early, "seed {seed}");
    }
}

/// S1.6: a request is answered in the same step in which its member begins to serve, after an election as after a
/// handover: who serves has its first bound in the log already.
#[test]
fn who_has_just_begun_to_serve_answers_the_first_request() {
    for seed in 0..20 {
        let (mut world, leader) = serving(seed, 3, &Options::default());
        world.run(SECOND_US);
        if seed % 2 == 0 {
            world.crash(leader);
        } else {
            world.hand_over(leader, 0);
        }
        let mut before = world.grants;
        while !world.serving().iter().any(|&id| id != leader) {
            assert!(world.now_us < 10 * SECOND_US, "seed {seed}: nobody takes over");
            before = world.grants;
            world.run(STEP_US);
        }
        assert_eq!(world.grants, before + 1, "seed {seed}: the first request waits");
        assert_eq!(world.violation, None, "seed {seed}");
    }
}

#[test]
fn another_member_serves_within_two_election_timeouts_of_a_crash() {
    for seed in 0..10 {
        let (mut world, leader) = serving(seed, 3, &Options::default());
        world.crash(leader);
        let again = world.run_until(2 * SECOND_US, |world| !world.serving().is_empty());
        assert!(again, "seed {seed}");
        assert_ne!(world.serving(), [leader]);
        assert_eq!(world.violation, None);
    }
}

/// S0.18: of members that campaign at the same moment one wins, and all others follow it; who has lost serves
/// nobody. When the votes are split nobody wins, and they campaign again.
#[test]
fn of_two_that_campaign_at_once_exactly_one_serves() {
    let mut split_votes = 0;
    for seed in 0..20 {
        let (mut world, leader) = serving(seed, 5, &Options::default());
        world.run(SECOND_US);
        let term = world.term(leader) + 1;
        world.crash(leader);
        let rivals = [1 + leader % 5, 1 + (leader + 1) % 5];
        world.call_to_campaign(leader, &rivals);
        world.run(STEP_US);
        for rival in rivals {
            let view = world.view(rival).unwrap();
            assert_eq!((view.term, view.leader_id), (term, 0), "seed {seed}: it campaigns");
        }
        let mut winners = BTreeMap::new();
        for _ in 0..3 * SECOND_US / STEP_US {
            world.run(STEP_US);
            assert!(world.serving().len() <= 1, "seed {seed}: {:?} serve", world.serving());
            for id in 1..=5 {
                let Some(view) = world.view(id).filter(|view| view.leader_id == id) else {
                    continue;
                };
                let winner = *winners.entry(view.term).or_insert(id);
                assert_eq!(winner, id, "seed {seed}: two have won in term {}", view.term);
            }
        }
        let (last, winner) = winners.pop_last().expect("somebody wins");
        assert_eq!(world.serving(), [winner], "seed {seed}");
        for id in (1..=5).filter(|id| *id != leader) {
            let view = world.view(id).unwrap();
            assert_eq!((view.term, view.leader_id), (last, winner), "seed {seed}: m{id} follows");
        }
        assert_eq!(world.violation, None, "seed {seed}");
        split_votes += usize::from(last > term);
    }
    assert!((1..20).contains(&split_votes), "both ways are seen: {split_votes} split votes");
}

/// S0.21: a leader watches its lease: when it is over, timestamps from it are over too, before another begins.
#[test]
fn a_leader_that_is_cut_off_stops_serving_before_another_begins() {
    for seed in 0..10 {
        let (mut world, leader) = serving(seed, 3, &Options::default());
        world.isolate(leader);
        let alone = world.run_until(SECOND_US, |world| world.serving().is_empty());
        assert!(alone, "seed {seed}: it serves on");
        let again =
            world.run_until(2 * SECOND_US, |world| world.serving().iter().any(|&id| id != leader));
        assert!(again && world.violation.is_none(), "seed {seed}");
    }
}

/// S0.17: nobody who follows waits for a timeout when the leadership is given up: the successor is told, and
/// serves at once.
#[test]
fn leadership_is_handed_over_without_waiting_for_a_timeout() {
    let (mut world, leader) = serving(5, 3, &Options::default());
    let other = 1 + leader % 3;
    world.run(SECOND_US);
    world.hand_over(leader, other);
    let quickly = world.run_until(SECOND_US / 4, |world| world.serving() == [other]);
    assert!(quickly && world.violation.is_none());
}

#[test]
fn a_proposal_is_answered_once_and_applied_everywhere() {
    let (mut world, leader) = serving(2, 3, &Options::default());
    let term = world.term(leader);
    let written = world.propose(leader, term, &put("k", "v"));
    let old = world.propose(leader, term - 1, &put("k", "old"));
    let follower = 1 + leader % 3;
    let elsewhere = world.propose(follower, term, &put("k", "elsewhere"));
    assert_eq!(world.outcomes[&old], Outcome::NotLeader);
    assert_eq!(world.outcomes[&elsewhere], Outcome::NotLeader);
    world.run(SECOND_US);
    assert!(matches!(world.outcomes[&written], Outcome::Applied { .. }));
    for host in world.hosts.values() {
        assert_eq!(host.state.values()[&bytes::Bytes::from("k")].value, "v");
    }
}

#[test]
fn a_proposal_of_a_leader_that_was_cut_off_is_told_its_fate() {
    let (mut world, leader) = serving(7, 3, &Options::default());
    world.isolate(leader);
    let term = world.term(leader);
    let lost = world.propose(leader, term, &put("k", "lost"));
    world.run(3 * SECOND_US);
    assert!(!world.outcomes.contains_key(&lost), "it may still happen");
    world.cut.clear();
    world.run(3 * SECOND_US);
    assert_eq!(world.outcomes[&lost], Outcome::Overwritten);
    let key = bytes::Bytes::from("k");
    assert!(world.hosts.values().all(|host| !host.state.values().contains_key(&key)));
}

#[test]
fn a_member_that_was_away_long_gets_the_state_as_a_snapshot() {
    let options = Options { copy_after_entries: 20, keep_entries: 5, ..Options::default() };
    let (mut world, leader) = serving(3, 3, &options);
    let away = 1 + leader % 3;
    world.crash(away);
    for number in 0..100 {
        let term = world.term(leader);
        world.propose(leader, term, &put(&format!("k{number}"), "v"));
        world.run(50_000);
    }
    world.restart(away);
    let caught_up = world.run_until(5 * SECOND_US, |world| {
        let behind = &world.hosts[&away].state;
        behind.values().len() == 100 && behind.index() >= world.hosts[&leader].state.index()
    });
    assert!(caught_up);
    // What the snapshot brought is on its disk.
    world.crash(away);
    world.restart(away);
    assert_eq!(world.hosts[&away].state.values().len(), 100);
    world.run(SECOND_US);
    assert_eq!(world.violation, None);
}

#[test]
fn states_survive_when_all_members_crash_at_once() {
    let options = Options { copy_after_entries: 20, keep_entries: 5, ..Options::default() };
    for seed in 0..10 {
        let (mut world, leader) = serving(seed, 3, &options);
        let mut written = Vec::new();
        for number in 0..50 {
            let term = world.term(leader);
            let key = format!("k{number}");
            written.push((world.propose(leader, term, &put(&key, "v")), key));
            world.run(20_000);
        }
        for id in 1..=3 {
            world.crash(id);
        }
        for id in 1..=3 {
            world.restart(id);
        }
        assert!(world.run_until(5 * SECOND_US, |world| !world.serving().is_empty()));
        let leader = world.serving()[0];
        for (proposal, key) in written {
            if matches!(world.outcomes.get(&proposal), Some(Outcome::Applied { .. })) {
                let values = world.hosts[&leader].state.values();
                assert!(values.contains_key(key.as_bytes()), "seed {seed}: {key} is gone");
            }
        }
        assert_eq!(world.violation, None, "seed {seed}");
    }
}

#[test]
fn a_new_member_learns_first_and_then_votes() {
    let (mut world, leader) = serving(4, 1, &Options::default());
    for new in 2..=4 {
        world.add_empty(new, 4, &Options::default());
        let admitted = world.propose_membership(leader, Membership::Admit(description(new)));
        let voting = world.run_until(5 * SECOND_US, |world| {
            let hosts = [&world.hosts[&new], &world.hosts[&leader]];
            hosts
                .iter()
                .all(|host| host.state.members().get(&new).is_some_and(|member| !member.is_learner))
        });
        assert!(voting, "m{new}");
        assert!(matches!(world.outcomes[&admitted], Outcome::Applied { .. }));
    }
    // Four members: the others go on without the founder, and with it gone for good.
    world.crash(leader);
    assert!(world.run_until(3 * SECOND_US, |world| !world.serving().is_empty()));
    let next = world.serving()[0];
    world.propose_membership(next, Membership::Dismiss(leader));
    let gone = world.run_until(2 * SECOND_US, |world| {
        !world.hosts[&next].state.members().contains_key(&leader)
    });
    assert!(gone);
    world.run(SECOND_US);
    assert_eq!(world.violation, None);
}

/// N22: heartbeats come and go, so the lease holds; but nothing gets into the log.
#[test]
fn a_leader_that_hangs_in_part_resigns_and_another_serves() {
    for seed in 0..5 {
        let (mut world, leader) = serving(seed, 3, &Options::default());
        world.run(SECOND_US);
        let swallows: [fn(&proto::eraftpb::Message) -> bool; 3] = [
            |message| message.from == 1 && message.msg_type() == MessageType::MsgAppend,
            |message| message.from == 2 && message.msg_type() == MessageType::MsgAppend,
            |message| message.from == 3 && message.msg_type() == MessageType::MsgAppend,
        ];
        world.swallows = Some(swallows[leader as usize - 1]);
        let term = world.term(leader);
        let stuck = world.propose(leader, term, &put("k", "v"));
        world.run(2 * SECOND_US);
        assert!(!world.outcomes.contains_key(&stuck), "seed {seed}: nothing is committed");
        assert_eq!(world.serving(), [leader], "seed {seed}: its lease holds");
        let other =
            world.run_until(8 * SECOND_US, |world| world.serving().iter().any(|&id| id != leader));
        assert!(other, "seed {seed}: nobody takes over");
        world.run(2 * SECOND_US);
        assert_ne!(world.serving(), [leader], "seed {seed}: it keeps quiet for a while");
        assert_eq!(world.violation, None, "seed {seed}");
    }
}

#[test]
fn a_healthy_member_of_a_higher_priority_leads() {
    for seed in 0..5 {
        let (mut world, leader) = serving(seed, 3, &Options::default());
        let (preferred, other) = (1 + leader % 3, 1 + (1 + leader) % 3);
        let rank = |member_id, leader_priority| MemberPriority { member_id, leader_priority };
        let put_priorities = vec![rank(preferred, 5), rank(other, 2)];
        let term = world.term(leader);
        world.propose(leader, term, &Change { put_priorities, ..Change::default() });
        let leads = |id| move |world: &World| world.serving() == [id];
        assert!(world.run_until(8 * SECOND_US, leads(preferred)), "seed {seed}");
        // While it is away the next best leads; it takes over again when it is well.
        world.crash(preferred);
        assert!(world.run_until(12 * SECOND_US, leads(other)), "seed {seed}");
        world.restart(preferred);
        assert!(world.run_until(12 * SECOND_US, leads(preferred)), "seed {seed}");
        let term = world.term(preferred);
        world.run(12 * SECOND_US);
        assert_eq!(world.term(preferred), term, "seed {seed}: nobody moves any more");
        assert_eq!(world.violation, None, "seed {seed}");
    }
}

#[test]
fn the_leader_does_not_dismiss_itself() {
    let (mut world, leader) = serving(6, 3, &Options::default());
    let refused = world.propose_membership(leader, Membership::Dismiss(leader));
    assert_eq!(world.outcomes[&refused], Outcome::Dropped);
}

/// A leader whose lease rests on one follower; that follower restarts, and the third member, which
/// has heard nobody for a while, asks it for its vote.
fn restart_under_a_lease(seed: u64, options: &Options) -> World {
    let (mut world, leader) = serving(seed, 3, options);
    let follower = 1 + leader % 3;
    let third = 1 + follower % 3;
    world.isolate(third);
    let rest_us = 2 * SECOND_US + world.random(SECOND_US);
    world.run(rest_us);
    world.cut.clear();
    world.isolate(leader);
    world.crash(follower);
    world.restart(follower);
    world.run(3 * SECOND_US);
    world
}

#[test]
fn a_member_that_restarts_casts_no_vote_while_its_old_word_may_bind_it() {
    for seed in 0..100 {
        let world = restart_under_a_lease(seed, &Options::default());
        assert_eq!(world.violation, None, "seed {seed}");
        assert!(!world.serving().is_empty(), "seed {seed}: it votes in time");
    }
    // Without that rule two leaders would serve at once.
    let forgetful = Options { lease_ticks: 0, ..Options::default() };
    let found = (0..100).any(|seed| restart_under_a_lease(seed, &forgetful).violation.is_some());
    assert!(found, "the watcher would not notice a vote that breaks a lease");
}
