//! Settings for a while: `POST /config?ttlSecond=N`.
//!
//! Tools that load a lot of data change some settings for as long as they live, and say so again before the time
//! is over; what they changed goes back by itself when they are gone.
//!
//! **Set.** The new value is in force at once. What it was before, and when it lapses by the wall clock, is kept
//! beside it, in the same entry of the group's log: whoever leads then knows both.
//!
//! **Again.** The time is counted anew. What it was before stays as it was.
//!
//! **Lapse.** At every tick the leader puts back what has lapsed, through the log. A leader that comes later does it
//! with its first ticks.
//!
//! **End.** A time of 0 puts it back at once. For as long as it lasts, a lasting change of the same setting is
//! refused.

use serde_json::{Map, Value, json};

use super::items::{schedule_of, set};
use crate::cluster::{Policy, Temporary};
use crate::server::node::Node;
use crate::server::serving::Serving;
use crate::service::stores::set_policy;

/// The settings that can be changed for a while, by the names that tools use.
const NAMES: [&str; 12] = [
    "schedule.enable-location-replacement",
    "schedule.enable-tikv-split-region",
    "schedule.hot-region-schedule-limit",
    "schedule.leader-schedule-limit",
    "schedule.max-merge-region-keys",
    "schedule.max-merge-region-size",
    "schedule.max-pending-peer-count",
    "schedule.max-snapshot-count",
    "schedule.merge-schedule-limit",
    "schedule.region-schedule-limit",
    "schedule.replica-schedule-limit",
    "schedule.scheduler-max-waiting-operator",
];

/// Changes settings for so many seconds, all or none; 0 puts them back.
pub(super) fn set_for(
    policy: &mut Policy,
    wanted: &Map<String, Value>,
    ttl_s: u64,
    now_ms: u64,
) -> Result<(), String> {
    for (name, value) in wanted {
        let item = name.strip_prefix("schedule.").filter(|_| NAMES.contains(&name.as_str()));
        let item = item.ok_or_else(|| format!("unsupported ttl config {name}"))?;
        if ttl_s == 0 {
            put_back(policy, item)?;
            continue;
        }
        let before = match policy.temporary.get(item) {
            Some(known) => known.before.clone(),
            None => schedule_of(policy)[item].clone(),
        };
        // A number may come as text here.
        let number = value.as_str().and_then(|text| text.parse::<u64>().ok());
        set(policy, item, &number.map_or_else(|| value.clone(), |number| json!(number)))?;
        let until_ms = now_ms.saturating_add(ttl_s.saturating_mul(1_000));
        policy.temporary.insert(item.to_owned(), Temporary { before, until_ms });
    }
    Ok(())
}

fn put_back(policy: &mut Policy, item: &str) -> Result<(), String> {
    match policy.temporary.remove(item) {
        Some(temporary) => set(policy, item, &temporary.before),
        None => Ok(()),
    }
}

/// The settings whose time is over.
fn lapsed(policy: &Policy, now_ms: u64) -> Vec<String> {
    let over = policy.temporary.iter().filter(|(_, temporary)| temporary.until_ms <= now_ms);
    over.map(|(item, _)| item.clone()).collect()
}

/// Puts back what has lapsed, if anything has.
pub(crate) async fn lapse(node: &Node, serving: &Serving) {
    let now_ms = node.clock.moment().wall_ms;
    let over = match serving.lock().cluster() {
        Ok(cluster) => lapsed(cluster.policy(), now_ms),
        Err(_) => return,
    };
    if over.is_empty() {
        return;
    }
    let decided = set_policy(node, serving, |policy| {
        lapsed(policy, now_ms).iter().try_for_each(|item| put_back(policy, item))
    });
    // What is not done now is done at the next tick, by whoever leads.
    match decided.await {
        Ok(Ok(())) => {
            tracing::info!(settings = over.join(","), "settings are what they were before")
        }
        Ok(Err(refusal)) => tracing::warn!(%refusal, "settings whose time is over stay"),
        Err(status) => tracing::debug!(%status, "settings whose time is over stay for now"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::items::set_all;
    use super::*;

    fn wanted(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_setting_goes_back_to_what_it_was_before_the_first_change() {
        let mut policy = Policy { max_snapshot_count: 7, ..Policy::default() };
        let first =
            r#"{"schedule.max-snapshot-count": "100", "schedule.max-merge-region-size": 0}"#;
        set_for(&mut policy, &wanted(first), 10, 1_000).unwrap();
        assert_eq!(policy.max_snapshot_count, 100);
        assert_eq!(schedule_of(&policy)["max-merge-region-size"], 0);
        set_for(&mut policy, &wanted(r#"{"schedule.max-snapshot-count": 200}"#), 10, 5_000)
            .unwrap();
        assert_eq!(lapsed(&policy, 10_999), [] as [&str; 0]);
        assert_eq!(lapsed(&policy, 11_000), ["max-merge-region-size"]);
        assert_eq!(lapsed(&policy, 15_000), ["max-merge-region-size", "max-snapshot-count"]);
        // It survives being written down.
        let text = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy);
        for item in lapsed(&policy, 15_000) {
            put_back(&mut policy, &item).unwrap();
        }
        assert_eq!((policy.max_snapshot_count, policy.temporary.len()), (7, 0));
        assert_eq!(schedule_of(&policy)["max-merge-region-size"], 54);
    }

    #[test]
    fn a_lasting_change_has_to_wait_and_an_end_can_be_made() {
        let mut policy = Policy::default();
        let few = wanted(r#"{"schedule.leader-schedule-limit": 1}"#);
        set_for(&mut policy, &few, 60, 0).unwrap();
        let lasting = wanted(r#"{"leader-schedule-limit": 9}"#);
        let refused = set_all(&mut policy, &lasting, None).unwrap_err();
        assert_eq!(refused, "need to clean up TTL first for schedule.leader-schedule-limit");
        set_for(&mut policy, &few, 0, 1).unwrap();
        assert_eq!(policy, Policy::default());
        set_all(&mut policy, &lasting, None).unwrap();
        set_for(&mut policy, &few, 0, 2).unwrap();
        assert_eq!(policy.leader_schedule_limit, 9, "there was nothing to end");
    }

    #[test]
    fn only_some_settings_can_be_changed_for_a_while() {
        let mut policy = Policy::default();
        for name in ["leader-schedule-limit", "replication.max-replicas", "schedule.no-such-thing"]
        {
            let wanted = Map::from_iter([(name.to_owned(), json!(1))]);
            let refused = set_for(&mut policy, &wanted, 5, 0).unwrap_err();
            assert_eq!(refused, format!("unsupported ttl config {name}"));
        }
        let nonsense = wanted(r#"{"schedule.leader-schedule-limit": "many"}"#);
        assert!(set_for(&mut policy, &nonsense, 5, 0).is_err());
        for name in NAMES {
            let item = name.strip_prefix("schedule.").unwrap();
            assert!(!schedule_of(&policy)[item].is_null(), "{name} is shown");
        }
    }
}
