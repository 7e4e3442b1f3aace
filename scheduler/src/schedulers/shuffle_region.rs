//! Peers wander about for no reason: to see what a cluster makes of it.
//!
//! Which peers may be told by their roles: `leader`, `follower`, `learner`; all, if nothing is said.

use serde_json::{Value, json};

use crate::cluster::RegionRecord;
use crate::operator::{Operator, Priority, Purpose};
use crate::placement::{PEER_SOURCE, PEER_TARGET, Question, View, excluded, isolation};
use crate::scheduling::{Desk, Scheduler, Verdict};

/// Regions that are looked at in one turn.
const TRIES: usize = 16;

const ROLES: [&str; 3] = ["leader", "follower", "learner"];

/// The scheduler of this name.
#[derive(Clone, Debug)]
pub struct ShuffleRegion {
    roles: Vec<&'static str>,
}

impl ShuffleRegion {
    /// One that moves the peers which the arguments name.
    pub fn make(arguments: &Value) -> Result<Box<dyn Scheduler>, String> {
        let roles = match arguments.get("roles") {
            Some(roles) => read(roles)?,
            None => ROLES.to_vec(),
        };
        Ok(Box::new(Self { roles }))
    }

    /// The region's peers that may be moved, as the stores they are on.
    fn movable(&self, record: &RegionRecord) -> Vec<proto::StoreId> {
        let leads = record.leader_peer().map(|leader| leader.0);
        let role = |peer: &proto::metapb::Peer| {
            if Some(peer.id) == leads {
                "leader"
            } else if proto::region::is_learner(peer) {
                "learner"
            } else {
                "follower"
            }
        };
        let peers = record.region.peers.iter().filter(|peer| self.roles.contains(&role(peer)));
        peers.map(|peer| proto::StoreId(peer.store_id)).collect()
    }
}

/// Roles as a list, or as a text with commas.
fn read(roles: &Value) -> Result<Vec<&'static str>, String> {
    let words: Vec<&str> = match roles {
        Value::String(text) => text.split(',').map(str::trim).collect(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
    };
    let known = |word: &&str| ROLES.iter().find(|role| *role == word).copied();
    let read: Option<Vec<_>> = words.iter().map(known).collect();
    read.filter(|roles| !roles.is_empty())
        .ok_or_else(|| format!("roles must be some of {}", ROLES.join(", ")))
}

impl Scheduler for ShuffleRegion {
    fn name(&self) -> &str {
        "shuffle-region-scheduler"
    }

    fn type_name(&self) -> &'static str {
        "shuffle-region"
    }

    fn purpose(&self) -> Purpose {
        Purpose::Region
    }

    /// One peer goes to a store that chance has chosen.
    fn schedule(&mut self, desk: &mut Desk<'_>) -> Vec<Operator> {
        let view = desk.view();
        let after = proto::RegionId(desk.dice().below(view.regions.id_end()));
        for id in view.regions.ids_after(after, TRIES) {
            let Some(record) = view.regions.by_id(id).filter(|_| desk.is_free(id)) else {
                continue;
            };
            let question = Question { record, others: Vec::new(), view };
            let may_go = |store: &proto::StoreId| {
                let candidate = desk.candidate(*store);
                candidate.is_some_and(|c| excluded(PEER_SOURCE, c, &question).is_none())
            };
            let sources: Vec<_> = self.movable(record).into_iter().filter(may_go).collect();
            let is_whole = record.leader.is_some()
                && record.down_peers.is_empty()
                && record.pending_peers.is_empty();
            let Some(&from) = desk.dice().one_of(&sources).filter(|_| is_whole) else { continue };
            let question = Question::new_peer(view, record, Some(from));
            let Some(source) = view.stores.find(from) else { continue };
            let apart_now = isolation(source, &question.others, view.policy);
            let may_come = |candidate: &&crate::placement::Candidate<'_>| {
                excluded(PEER_TARGET, candidate, &question).is_none()
                    && isolation(candidate.store, &question.others, view.policy) >= apart_now
            };
            let targets: Vec<_> =
                desk.candidates().iter().filter(may_come).map(|c| c.store.id()).collect();
            let Some(&to) = desk.dice().one_of(&targets) else { continue };
            let moved = desk.move_peer("shuffle-region", Purpose::Region, record, from, to);
            return moved
                .map(|operator| operator.with_priority(Priority::Low))
                .into_iter()
                .collect();
        }
        Vec::new()
    }

    fn arguments(&self) -> Value {
        json!({ "roles": self.roles })
    }

    fn configure(&mut self, arguments: &Value, _: View<'_>) -> Result<(), String> {
        self.roles = read(arguments.get("roles").ok_or("missing roles")?)?;
        Ok(())
    }

    fn verdict(&self, _: View<'_>, record: &RegionRecord) -> Verdict {
        match self.movable(record).len() {
            0 => Verdict::Silent,
            count => Verdict::says(format!("{count} of its peers may go anywhere, by chance")),
        }
    }
}
