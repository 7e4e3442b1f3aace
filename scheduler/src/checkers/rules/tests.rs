//! Whatever the rules, the stores and the region: plan after plan leads to a region that needs nothing, or to
//! one that waits and says for what; no plan undoes another, and no step takes the region's majority.

use proptest::prelude::*;
use proto::{metapb, pdpb};

use super::*;
use crate::cluster::{Cluster, Moment, Policy};
use crate::operator::obedience::obey;
use crate::operator::step::too_few_healthy_without;
use crate::rules::{Edit, Rule, Rules};

/// Plans that any region may need; more are a circle.
const PLANS_MAX: usize = 30;

#[derive(Clone, Debug)]
struct Scene {
    /// Zone and host of each store, by its number from 1 on, and whether it is leaving.
    stores: Vec<(u8, u8, bool)>,
    /// Stores of the region's peers, and whether they are learners.
    peers: Vec<(usize, bool)>,
    rules: Vec<Rule>,
    /// Whether several votes change at once.
    joint: bool,
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let role = prop::sample::select(vec!["voter", "voter", "leader", "follower", "learner"]);
    let op = prop::sample::select(vec!["in", "notIn", "exists", "notExists", ""]);
    let labels = prop::sample::select(vec!["[]", r#"["zone"]"#, r#"["zone", "host"]"#]);
    (role, 1..4_usize, op, 0..3_u8, labels, any::<bool>()).prop_map(
        |(role, count, op, zone, labels, isolated)| {
            let count = if role == "leader" { 1 } else { count };
            let constraints = match op {
                "" => "[]".to_owned(),
                op => format!(r#"[{{"key": "zone", "op": "{op}", "values": ["z{zone}"]}}]"#),
            };
            let level = if isolated && labels != "[]" { "zone" } else { "" };
            let text = format!(
                r#"{{"group_id": "g", "id": "r", "role": "{role}", "count": {count},
                    "label_constraints": {constraints}, "location_labels": {labels},
                    "isolation_level": "{level}"}}"#
            );
            serde_json::from_str(&text).unwrap()
        },
    )
}

fn any_scene() -> impl Strategy<Value = Scene> {
    let store = (0..3_u8, 0..2_u8, prop::sample::select(vec![false, false, false, true]));
    let stores = prop::collection::vec(store, 3..8);
    let rules = prop::collection::vec(any_rule(), 1..4);
    (stores, rules).prop_flat_map(|(stores, rules)| {
        let all: Vec<usize> = (1..=stores.len()).collect();
        let on = prop::sample::subsequence(all, 1..=stores.len().min(5));
        let learners = prop::collection::vec(any::<bool>(), 5);
        (on, learners, any::<bool>()).prop_map(move |(on, learners, joint)| {
            // The first has a vote, and leads.
            let peers = on.into_iter().zip(learners).enumerate();
            let peers = peers.map(|(at, (store, learner))| (store, learner && at > 0)).collect();
            Scene { stores: stores.clone(), peers, rules: rules.clone(), joint }
        })
    })
}

/// The stores, heard and labelled, under these rules; `None` when no cluster may have them.
fn cluster(scene: &Scene) -> Option<Cluster> {
    let label = |key: &str, value: String| metapb::StoreLabel { key: key.into(), value };
    let stores = (1..).zip(&scene.stores).map(|(id, (zone, host, leaving))| {
        let mut store = metapb::Store {
            id,
            address: format!("s{id}:1"),
            version: "8.5.0".into(),
            labels: vec![label("host", format!("z{zone}h{host}"))],
            ..Default::default()
        };
        // Stores of the last zone do not carry the label.
        if *zone < 2 {
            store.labels.push(label("zone", format!("z{zone}")));
        }
        if *leaving {
            store.set_state(metapb::StoreState::Offline);
        }
        store
    });
    let moment = Moment::default();
    let policy = Policy { enable_joint_consensus: scene.joint, ..Policy::default() };
    let mut cluster = Cluster::load(policy, "", stores, [], moment);
    for id in 1..=scene.stores.len() as u64 {
        let stats = pdpb::StoreStats { store_id: id, ..Default::default() };
        cluster.on_store_heartbeat(stats, moment).unwrap();
    }
    let numbered = (0..)
        .zip(&scene.rules)
        .map(|(number, rule)| Edit::Put(Rule { id: format!("r{number}"), ..rule.clone() }));
    let replaced = Edit::Delete { group: "pd".into(), id: "default".into() };
    // Not as an administrator writes them: a rule may have lost all its stores.
    let set = cluster.rules().set().edited(numbered.chain([replaced]));
    cluster.set_rules(Rules::written(set).ok()?);
    Some(cluster)
}

fn region(scene: &Scene) -> RegionRecord {
    let peers = scene.peers.iter().map(|&(store, learner)| {
        let role = if learner { metapb::PeerRole::Learner } else { metapb::PeerRole::Voter };
        let store_id = store as u64;
        metapb::Peer { id: 10 + store_id, store_id, role: role.into(), ..Default::default() }
    });
    let region = metapb::Region {
        id: 1,
        region_epoch: Some(proto::region::FIRST_EPOCH),
        peers: peers.collect(),
        ..Default::default()
    };
    RegionRecord { leader: region.peers.first().copied(), region, ..RegionRecord::default() }
}

proptest! {
    #[test]
    fn plans_lead_to_rest_and_never_take_the_majority(scene in any_scene()) {
        let Some(cluster) = cluster(&scene) else { return Ok(()) };
        let view = cluster.view(Moment::default());
        let mut ids = Ids::begin(100);
        ids.bound_saved(10_000);
        let mut record = region(&scene);
        let mut story = Vec::new();
        for plans in 0.. {
            prop_assert!(plans < PLANS_MAX, "it does not come to rest: {story:?}");
            let operator = match check(view, &record, &mut ids) {
                Finding::Wants(operator) => operator,
                Finding::Healthy => {
                    let rules = view.rules_of(&record).unwrap();
                    prop_assert!(view.fit(&record, rules).is_satisfied(), "{story:?}");
                    break;
                }
                Finding::Blocked(_) => break,
                Finding::NeedsIds(bound) => panic!("ids up to {bound} were saved"),
            };
            story.push(operator.to_string());
            if operator.steps()[0].obstacle_to_begin(&record).is_some() {
                break;
            }
            for step in operator.steps() {
                prop_assert_eq!(step.obstacle(&record), None, "{:?}", story);
                if let Step::RemovePeer(peer) = step {
                    prop_assert_eq!(too_few_healthy_without(&record, peer), None, "{:?}", story);
                }
                // A leader without a vote would be among what it refuses.
                prop_assert_eq!(obey(&step.order(&record), &mut record), Ok(()), "{:?}", story);
            }
        }
    }
}
