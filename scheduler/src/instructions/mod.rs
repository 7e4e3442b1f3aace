//! What an administrator may have a region do, and why not.
//!
//! | instruction | plan |
//! |---|---|
//! | transfer the leader | another healthy voter leads |
//! | add a peer, add a learner | a peer on a store that has none; a voter is a learner until it has caught up |
//! | remove a peer | it goes; a leader hands over first |
//! | transfer a peer | a new one on another store, of the same role, then the old one goes |
//! | transfer the region | its peers are on these stores and no others, each in its role |
//! | split | the region is cut at these keys, or where its store finds the middle |
//!
//! An instruction is urgent: it takes the place of a repair or a balancing move of the region, and has
//! no limit. What a balancer would not do an administrator may: use a store that is busy or low on
//! space, leave fewer peers than the policy wants, or more (then the replica checker has the last
//! word, when the plan is done). What would leave the region without a majority is refused, and so is
//! what needs a store that is leaving, gone, or silent. Every refusal is one sentence.
//!
//! Left out: merging and scattering.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proto::key::Readable;
use proto::region::{is_joint, is_learner};
use proto::{RegionId, StoreId, metapb, pdpb};

use crate::cluster::stores::Liveness;
use crate::cluster::{Cluster, Moment, Refusal, RegionRecord};
use crate::ids::{Ids, Taken};
use crate::operator::step::too_few_healthy_without;
use crate::operator::{Builder, Operator, Purpose, Step};
use crate::placement::View;

/// Keys one instruction may split at, as many as a store cuts at once; more are refused.
pub const SPLIT_KEYS_MAX: usize = 1_024;

/// Something that an administrator wants of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Of which region.
    pub region: RegionId,
    /// What it shall do.
    pub act: Act,
}

/// What a region shall do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// The voter on this store shall lead.
    TransferLeader {
        /// The store.
        to: StoreId,
    },
    /// A new peer on this store.
    AddPeer {
        /// The store.
        to: StoreId,
        /// A voter, or a learner.
        role: Role,
    },
    /// The peer on this store goes.
    RemovePeer {
        /// The store.
        from: StoreId,
    },
    /// The peer on one store goes, and another takes its place.
    TransferPeer {
        /// Where it is.
        from: StoreId,
        /// Where it shall be.
        to: StoreId,
    },
    /// The peers are on these stores and no others.
    TransferRegion {
        /// The stores, each with the role of its peer.
        to: BTreeMap<StoreId, Role>,
    },
    /// The region is cut.
    Split {
        /// How its store finds the place; with [`pdpb::CheckPolicy::Usekey`] at the keys.
        policy: pdpb::CheckPolicy,
        /// Where, in the form that regions are cut in; empty unless the policy wants keys.
        keys: Vec<Bytes>,
    },
}

/// What a peer shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It has a vote, and may lead.
    Voter,
    /// It has a vote, and shall lead.
    Leader,
    /// It has none.
    Learner,
}

/// What became of an instruction that was not refused.
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one a request, and it is taken apart at once"
)]
pub enum Instructed {
    /// It is under way.
    UnderWay {
        /// The plan's number, see [`Operator::number`].
        number: u64,
        /// To be sent at once, to the store of its `target_peer`; the shell fills in the header.
        order: Option<pdpb::RegionHeartbeatResponse>,
    },
    /// Save this bound for [`Ids::bound_saved`] and ask again.
    NeedBound(u64),
}

/// A plan, or what it takes to make one.
enum Planned {
    Plan(Operator),
    NeedBound(u64),
}

impl Cluster {
    /// Takes an administrator's instruction, or says in one sentence why not.
    pub fn instruct(
        &mut self,
        instruction: &Instruction,
        ids: &mut Ids,
        moment: Moment,
    ) -> Result<Instructed, Refusal> {
        let region = instruction.region;
        let declined = |reason: String| Refusal::OperatorDeclined { region, reason };
        let view = self.view(moment);
        let record = view.regions.by_id(region).ok_or_else(|| declined(UNKNOWN.into()))?;
        let planned = Planner { view, record, ids }.plan(&instruction.act).map_err(declined)?;
        let operator = match planned {
            Planned::NeedBound(bound) => return Ok(Instructed::NeedBound(bound)),
            Planned::Plan(operator) => operator,
        };
        let order = self.add_operator(operator, moment)?;
        let number = self.operators().of(region).map_or(0, |operator| operator.number);
        Ok(Instructed::UnderWay { number, order })
    }
}

const UNKNOWN: &str = "there is no such region";

/// Makes one plan; a refusal is a sentence.
struct Planner<'a> {
    view: View<'a>,
    record: &'a RegionRecord,
    ids: &'a mut Ids,
}

impl Planner<'_> {
    fn plan(&mut self, act: &Act) -> Result<Planned, String> {
        if self.record.leader.is_none() {
            return Err("no leader has spoken for the region yet".into());
        }
        if is_joint(&self.record.region) {
            return Err("a change of its members is under way".into());
        }
        match act {
            Act::TransferLeader { to } => self.transfer_leader(*to),
            Act::AddPeer { to, role } => {
                let is_learner = *role == Role::Learner;
                self.absent(*to)?;
                let name = if is_learner { "admin-add-learner" } else { "admin-add-peer" };
                self.change(name, &BTreeMap::from([(*to, *role)]), &BTreeSet::new())
            }
            Act::RemovePeer { from } => {
                self.present(*from)?;
                let removed = BTreeSet::from([*from]);
                self.change("admin-remove-peer", &BTreeMap::new(), &removed)
            }
            Act::TransferPeer { from, to } => {
                let role =
                    if is_learner(self.present(*from)?) { Role::Learner } else { Role::Voter };
                self.absent(*to)?;
                let removed = BTreeSet::from([*from]);
                self.change("admin-move-peer", &BTreeMap::from([(*to, role)]), &removed)
            }
            Act::TransferRegion { to } => self.transfer_region(to),
            Act::Split { policy, keys } => self.split(*policy, keys),
        }
    }

    /// The region's peer on that store.
    fn present(&self, store: StoreId) -> Result<&metapb::Peer, String> {
        if self.view.stores.find(store).is_none() {
            return Err(no_such_store(store));
        }
        let have = self.record.peer_on(store);
        have.ok_or_else(|| format!("{store} has no peer of the region"))
    }

    /// The store can take a peer of the region, which it does not have.
    fn absent(&self, store: StoreId) -> Result<(), String> {
        if self.record.peer_on(store).is_some() {
            return Err(format!("{store} already has a peer of the region"));
        }
        self.can_take(store)?;
        match self.view.stores.find(store) {
            Some(record) if !record.was_heard() => Err(format!("{store} has not been heard yet")),
            _ => Ok(()),
        }
    }

    /// The store stays, and speaks.
    fn can_take(&self, store: StoreId) -> Result<(), String> {
        let View { policy, moment, .. } = self.view;
        let record = self.view.stores.find(store).ok_or_else(|| no_such_store(store))?;
        if record.is_tombstone() {
            return Err(format!("{store} is gone for good (tombstone)"));
        }
        if record.is_offline() {
            return Err(format!("{store} is leaving (offline)"));
        }
        let silence_s = record.silence_ms(moment) / 1_000;
        match record.liveness(policy, moment) {
            Liveness::Heard => Ok(()),
            Liveness::Disconnected => {
                Err(format!("{store} is disconnected: it has been silent for {silence_s} s"))
            }
            Liveness::Down => Err(format!("{store} is down: it has been silent for {silence_s} s")),
        }
    }

    fn transfer_leader(&self, to: StoreId) -> Result<Planned, String> {
        let peer = self.present(to)?;
        let Some(from) = self.record.leader_store().filter(|from| *from != to) else {
            return Err(format!("{to} leads the region already"));
        };
        self.can_take(to)?;
        if is_learner(peer) {
            return Err(format!("the peer on {to} is a learner, which cannot lead"));
        }
        if !self.record.is_healthy(peer) {
            return Err(format!("the peer on {to} is behind or silent"));
        }
        let steps = vec![Step::TransferLeader { from, to }];
        let name = "admin-transfer-leader";
        Ok(Planned::Plan(Operator::new(name, Purpose::Admin, self.record, steps)))
    }

    fn transfer_region(&mut self, to: &BTreeMap<StoreId, Role>) -> Result<Planned, String> {
        let leaders = to.values().filter(|role| **role == Role::Leader).count();
        if leaders > 1 {
            return Err(format!("{leaders} stores shall lead, and only one can"));
        }
        for (&store, &role) in to {
            match self.record.peer_on(store) {
                None => self.absent(store)?,
                Some(_) if role == Role::Leader => self.can_take(store)?,
                Some(_) => {}
            }
        }
        let peers = self.record.region.peers.iter().map(|peer| StoreId(peer.store_id));
        let removed = peers.filter(|store| !to.contains_key(store)).collect();
        self.change("admin-move-region", to, &removed)
    }

    /// A plan after which there is a peer on each store of `wanted`, and none on those of `removed`.
    fn change(
        &mut self,
        name: &'static str,
        wanted: &BTreeMap<StoreId, Role>,
        removed: &BTreeSet<StoreId>,
    ) -> Result<Planned, String> {
        let record = self.record;
        let voters: Vec<_> = record.voters().collect();
        let healthy = voters.iter().filter(|voter| record.is_healthy(voter)).count();
        if healthy * 2 <= voters.len() {
            return Err(format!(
                "only {healthy} of its {} voters are healthy, and a change needs a majority",
                voters.len()
            ));
        }
        let peer_on = |store: &StoreId| record.peer_on(*store);
        let demoted = wanted.iter().filter(|(_, role)| **role == Role::Learner);
        let unvoting = demoted.map(|(store, _)| store).chain(removed);
        for peer in unvoting.filter_map(peer_on) {
            if voters.len() > 1
                && let Some(why) = too_few_healthy_without(record, peer)
            {
                return Err(why);
            }
        }
        let added: Vec<_> =
            wanted.iter().filter(|(store, _)| record.peer_on(**store).is_none()).collect();
        let first_id = match added.len() as u64 {
            0 => 0,
            count => match self.ids.take(count) {
                Taken::Block(block) => *block.start(),
                Taken::NeedBound(bound) => return Ok(Planned::NeedBound(bound)),
            },
        };
        let mut builder = Builder::new(name, Purpose::Admin, record, self.view.policy);
        for (id, (&store, &role)) in (first_id..).zip(added) {
            builder = match role {
                Role::Learner => builder.add_learner(store, id),
                Role::Voter | Role::Leader => builder.add_peer(store, id),
            };
        }
        for (&store, &role) in wanted {
            if record.peer_on(store).is_some() {
                builder = match role {
                    Role::Learner => builder.demote(store),
                    Role::Voter | Role::Leader => builder.promote(store),
                };
            }
            if role == Role::Leader {
                builder = builder.leader(store);
            }
        }
        for &store in removed {
            builder = builder.remove_peer(store);
        }
        let plan = builder.build(|stays| self.view.best_leader(record, stays));
        plan.map(Planned::Plan).map_err(|why| why.to_string())
    }

    fn split(&self, policy: pdpb::CheckPolicy, keys: &[Bytes]) -> Result<Planned, String> {
        let range = self.record.range();
        let mut keys = keys.to_vec();
        keys.sort();
        keys.dedup();
        if policy != pdpb::CheckPolicy::Usekey {
            // The store chooses, as in PD: keys mean nothing then.
            keys.clear();
        } else if keys.is_empty() {
            return Err("a split at keys needs a key".into());
        }
        if keys.len() > SPLIT_KEYS_MAX {
            return Err(format!("at most {SPLIT_KEYS_MAX} split keys at once"));
        }
        if keys.first().is_some_and(|first| *first == range.start) {
            return Err(format!("it already begins at {}", Readable(&range.start)));
        }
        if let Some(key) = keys.iter().find(|key| !range.contains(key)) {
            return Err(format!("{} is not a key of {range}", Readable(key)));
        }
        let steps = vec![Step::Split { keys, policy, version: self.record.epoch().version }];
        let name = "admin-split-region";
        Ok(Planned::Plan(Operator::new(name, Purpose::Admin, self.record, steps)))
    }
}

fn no_such_store(store: StoreId) -> String {
    format!("there is no store {}", store.0)
}

#[cfg(test)]
mod script;
