//! Which peer serves which rule; and that no other way to give them out is better.

use proptest::prelude::*;
use proto::StoreId;

use super::*;
use crate::cluster::{Moment, Stores};

/// Stores 1, 2, … in zones named by the letters.
fn stores(zones: &str) -> Stores {
    let metas = (1..).zip(zones.chars()).map(|(id, zone)| metapb::Store {
        id,
        labels: vec![metapb::StoreLabel { key: "zone".into(), value: zone.into() }],
        ..Default::default()
    });
    Stores::load(metas, Moment::default())
}

/// Peers in the notation `1* 2 3-learner 4-lost`.
fn placed<'a>(stores: &'a Stores, text: &str) -> Vec<Placed<'a>> {
    text.split_whitespace()
        .map(|word| {
            let leads = word.contains('*');
            let (store, what) = word.split_once('-').unwrap_or((word, ""));
            let store_id = store.trim_end_matches('*').parse().unwrap();
            let role = match what {
                "learner" | "behind" => metapb::PeerRole::Learner,
                _ => metapb::PeerRole::Voter,
            };
            let condition = match what {
                "lost" => Condition::Lost,
                "leaving" => Condition::Leaving,
                "pending" => Condition::Behind,
                "behind" => Condition::CatchingUp,
                _ => Condition::Well,
            };
            let peer =
                metapb::Peer { id: store_id, store_id, role: role.into(), ..Default::default() };
            Placed { peer, store: stores.find(StoreId(store_id)), condition, leads }
        })
        .collect()
}

fn rule(role: &str, count: usize, rest: &str) -> Rule {
    let text =
        format!(r#"{{"group_id": "g", "id": "r", "role": "{role}", "count": {count} {rest}}}"#);
    serde_json::from_str(&text).unwrap()
}

fn in_zone(role: &str, count: usize, zone: &str) -> Rule {
    let constraint =
        format!(r#", "label_constraints": [{{"key": "zone", "op": "in", "values": ["{zone}"]}}]"#);
    rule(role, count, &constraint)
}

/// The stores that serve each rule, and those of the orphans: `1,2 | 3 || 4`.
fn given(zones: &str, rules: &[Rule], peers: &str) -> String {
    let stores = stores(zones);
    let placed = placed(&stores, peers);
    let fit = Fit::new(rules, &placed);
    let list = |placed: &[Placed<'_>]| {
        let ids: Vec<_> = placed.iter().map(|placed| placed.peer.store_id.to_string()).collect();
        ids.join(",")
    };
    let rules: Vec<_> = fit.rules.iter().map(|fit| list(&fit.peers)).collect();
    format!("{} || {}", rules.join(" | "), list(&fit.orphans))
}

#[test]
fn what_is_spare_is_the_worst() {
    let three = [rule("voter", 3, "")];
    assert_eq!(given("aaaa", &three, "1* 2 3"), "1,2,3 || ");
    assert_eq!(given("aaaa", &three, "1* 2 3 4"), "1,2,3 || 4");
    assert_eq!(given("aaaa", &three, "1* 2-lost 3 4"), "1,3,4 || 2");
    assert_eq!(given("aaaa", &three, "1* 2-lost 3-leaving 4"), "1,3,4 || 2");
    assert_eq!(given("aaaa", &three, "1* 2-pending 3 4"), "1,3,4 || 2");
    assert_eq!(given("aaaa", &three, "1* 2 3 4-learner"), "1,2,3 || 4");
    let apart = [rule("voter", 3, r#", "location_labels": ["zone"]"#)];
    assert_eq!(given("abac", &apart, "1* 2 3 4"), "1,2,4 || 3");
}

#[test]
fn a_learner_that_has_caught_up_succeeds_a_peer_that_goes_and_no_other_does() {
    let three = [rule("voter", 3, "")];
    assert_eq!(given("aaaa", &three, "1-leaving 2* 3 4-learner"), "2,3,4 || 1");
    assert_eq!(given("aaaa", &three, "1-leaving 2* 3 4-behind"), "1,2,3 || 4");
    assert_eq!(given("aaaa", &three, "1-lost 2* 3 4-behind"), "1,2,3 || 4");
    assert_eq!(given("aaaa", &three, "2* 3 4-behind"), "2,3,4 || ", "better than none");
}

#[test]
fn labels_and_roles_decide_who_may_serve() {
    let rules = [in_zone("voter", 2, "a"), in_zone("voter", 1, "b"), in_zone("learner", 1, "c")];
    assert_eq!(given("abcab", &rules, "1* 2 3-learner 4"), "1,4 | 2 | 3 || ");
    assert_eq!(given("abcab", &rules, "1* 2 3 4"), "1,4 | 2 |  || 3", "a voter is no learner");
    assert_eq!(given("abcab", &rules, "1* 2 5 4"), "1,4 | 2 |  || 5");
}

#[test]
fn a_rule_does_not_take_what_a_later_one_needs_when_another_serves_it_as_well() {
    let rules = [rule("voter", 2, ""), in_zone("voter", 1, "b")];
    assert_eq!(given("aba", &rules, "1* 2 3"), "1,3 | 2 || ");
    let rules = [rule("voter", 2, ""), in_zone("leader", 1, "b")];
    assert_eq!(given("abb", &rules, "1 2 3*"), "1,2 | 3 || ", "the one that leads already");
    let rules = [in_zone("follower", 1, "a"), rule("voter", 2, "")];
    assert_eq!(given("aaa", &rules, "1* 2 3"), "2 | 1,3 || ");
}

#[test]
fn an_isolation_level_counts_more_than_the_distance() {
    let labels = r#", "location_labels": ["zone"], "isolation_level": "zone""#;
    assert_eq!(given("aab", &[rule("voter", 2, labels)], "1* 2 3"), "1,3 || 2");
}

#[test]
fn more_peers_than_are_looked_at_are_orphans() {
    let peers: Vec<String> = (1..=15).map(|id| id.to_string()).collect();
    let zones = "a".repeat(15);
    let shown = given(&zones, &[rule("voter", 3, "")], &peers.join(" "));
    assert_eq!(shown, "1,2,3 || 4,5,6,7,8,9,10,11,12,13,14,15");
}

/// Every way to give the peers out, and the best of them: the same search without any thought.
fn best_by_trying_all(rules: &[Rule], peers: &[Placed<'_>]) -> Vec<Score> {
    let mut best = vec![Score::default(); rules.len()];
    let ways = (rules.len() + 1).pow(u32::try_from(peers.len()).unwrap());
    for way in 0..ways {
        let mut shares: Vec<Vec<Placed<'_>>> = vec![Vec::new(); rules.len()];
        let mut rest = way;
        for placed in peers {
            let to = rest % (rules.len() + 1);
            rest /= rules.len() + 1;
            if let Some(share) = shares.get_mut(to) {
                share.push(*placed);
            }
        }
        let is_allowed = rules.iter().zip(&shares).all(|(rule, share)| {
            share.len() <= rule.count && share.iter().all(|placed| placed.may_serve(rule))
        });
        if is_allowed {
            let scores: Vec<_> = rules
                .iter()
                .zip(shares)
                .map(|(rule, share)| RuleFit::of(rule, share).score)
                .collect();
            best = best.max(scores);
        }
    }
    best
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let role = prop::sample::select(vec!["voter", "leader", "follower", "learner"]);
    let zone = prop::sample::select(vec!["a", "b", ""]);
    (role, 1..3_usize, zone, any::<bool>()).prop_map(|(role, count, zone, apart)| {
        let count = if role == "leader" { 1 } else { count };
        let mut rule =
            if zone.is_empty() { rule(role, count, "") } else { in_zone(role, count, zone) };
        if apart {
            rule.location_labels = vec!["zone".into()];
        }
        rule
    })
}

proptest! {
    #[test]
    fn no_other_way_to_give_the_peers_out_is_better(
        rules in prop::collection::vec(any_rule(), 1..4),
        peers in prop::collection::vec(0..6_usize, 1..6),
        leader in 0..5_usize,
    ) {
        let words = ["", "", "-learner", "-lost", "-leaving", "-behind"];
        let text: Vec<String> = peers
            .iter()
            .enumerate()
            .map(|(at, what)| {
                let leads = if at == leader && *what < 2 { "*" } else { "" };
                format!("{}{leads}{}", at + 1, words[*what])
            })
            .collect();
        let stores = stores("abcab");
        let placed = placed(&stores, &text.join(" "));
        let fit = Fit::new(&rules, &placed);
        let scores: Vec<_> = fit.rules.iter().map(|fit| fit.score).collect();
        prop_assert_eq!(scores, best_by_trying_all(&rules, &placed), "{}", text.join(" "));
        let given: usize = fit.rules.iter().map(|fit| fit.peers.len()).sum();
        prop_assert_eq!(given + fit.orphans.len(), placed.len());
    }
}
