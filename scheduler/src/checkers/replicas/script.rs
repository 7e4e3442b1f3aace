//! Runs the scripts in `testscripts/`, here and of other checkers and of `crate::instructions`: a whole
//! cluster's picture, stores that speak or are silent, regions that obey orders, and an administrator.
//!
//! The world is without placement rules unless a script is run with them.

use std::collections::BTreeMap;
use std::error::Error;

use goldenscript::{ArgumentConsumer, Command, Context, Runner};
use proto::eraftpb::ConfChangeType;
use proto::{RegionId, StoreId, metapb, pdpb};

use crate::cluster::notation::{self, number};
use crate::cluster::{Cluster, Heard, Moment, Policy, RegionRecord, Writes};
use crate::explain;
use crate::ids::Ids;
use crate::instructions::{Act, Instructed, Instruction, Role};
use crate::operator::obedience::obey;
use crate::rules::{Edit, RuleSet, Rules};

struct World {
    cluster: Cluster,
    ids: Ids,
    moment: Moment,
    /// The regions as they are; the cluster knows what it was told.
    regions: BTreeMap<u64, RegionRecord>,
    /// The last order for each region, not yet obeyed.
    orders: BTreeMap<u64, pdpb::RegionHeartbeatResponse>,
    stats: BTreeMap<u64, pdpb::StoreStats>,
    has_rules: bool,
}

impl World {
    fn new(has_rules: bool) -> Self {
        let policy = Policy { enable_placement_rules: has_rules, ..Policy::default() };
        let mut ids = Ids::begin(1_000);
        ids.bound_saved(100_000);
        let moment = Moment::default();
        Self {
            cluster: Cluster::load(policy, "", [], [], moment),
            ids,
            moment,
            regions: BTreeMap::new(),
            orders: BTreeMap::new(),
            stats: BTreeMap::new(),
            has_rules,
        }
    }

    fn add_store(&mut self, id: u64) -> Result<(), Box<dyn Error>> {
        let address = format!("store-{id}:20160");
        let store = metapb::Store { id, address, version: "8.5.0".into(), ..Default::default() };
        self.cluster.put_store(store, self.moment)?;
        let stats = pdpb::StoreStats { store_id: id, ..Default::default() };
        self.stats.insert(id, stats.clone());
        self.cluster.on_store_heartbeat(stats, self.moment)?;
        Ok(())
    }

    fn beat_region(&mut self, id: u64) -> Result<String, Box<dyn Error>> {
        let record = self.regions.get(&id).ok_or("no such region")?;
        let heartbeat = notation::heartbeat(record);
        let Heard { order, .. } =
            self.cluster.on_region_heartbeat(heartbeat, &mut self.ids, self.moment)?;
        let text = format!("{}\n", notation::describe(&self.regions[&id]));
        Ok(text + &self.take_order(order))
    }

    fn take_order(&mut self, order: Option<pdpb::RegionHeartbeatResponse>) -> String {
        let Some(order) = order else { return String::new() };
        let text = format!("order {}\n", describe_order(&order));
        self.orders.insert(order.region_id, order);
        text
    }

    /// The region does what it was told, and says so.
    fn obey(&mut self, id: u64, slowly: bool) -> Result<String, Box<dyn Error>> {
        let order = self.orders.remove(&id).ok_or("nothing was ordered")?;
        if let Some(split) = order.split_region {
            return self.cut(id, &split.keys);
        }
        let record = self.regions.get_mut(&id).ok_or("no such region")?;
        let before = record.region.peers.clone();
        obey(&order, record)?;
        if slowly {
            let is_new = |peer: &&metapb::Peer| before.iter().all(|had| had.id != peer.id);
            record.pending_peers.extend(record.region.peers.iter().filter(is_new));
        }
        record.region.peers.sort_by_key(|peer| peer.store_id);
        self.beat_region(id)
    }

    /// The region keeps its last part, and all parts say so; the others are r91, r92, …
    fn cut(&mut self, id: u64, keys: &[bytes::Bytes]) -> Result<String, Box<dyn Error>> {
        let mut rest = self.regions.remove(&id).ok_or("no such region")?;
        let epoch = rest.region.region_epoch.get_or_insert_default();
        epoch.version += keys.len() as u64;
        let mut parts = Vec::new();
        for (new, key) in (91..).zip(keys) {
            let mut part = rest.clone();
            part.region.id = new;
            part.region.end_key = key.clone();
            part.region.peers.iter_mut().for_each(|peer| peer.id = 100 * new + peer.store_id);
            part.leader = part.leader.and_then(|leader| {
                part.region.peers.iter().find(|peer| peer.store_id == leader.store_id).copied()
            });
            rest.region.start_key = key.clone();
            parts.push(part);
        }
        parts.push(rest);
        let ids: Vec<_> = parts.iter().map(|part| part.region.id).collect();
        self.regions.extend(ids.iter().copied().zip(parts));
        ids.into_iter().map(|id| self.beat_region(id)).collect()
    }

    /// What the balancers say: `balance r1`.
    fn balance(&self, id: u64) -> Result<String, Box<dyn Error>> {
        let explained =
            explain::region(&self.cluster, RegionId(id), self.moment).ok_or("no such region")?;
        Ok(format!("leader: {}\nregion: {}\n", explained.balance_leader, explained.balance_region))
    }

    /// An administrator speaks: `instruct r1 add-peer s4`.
    fn instruct(&mut self, args: &mut ArgumentConsumer<'_>) -> Result<String, Box<dyn Error>> {
        let region = RegionId(number('r', args.next_pos().ok_or("which region?")?)?);
        let verb = args.next_pos().ok_or("what shall it do?")?.to_owned();
        let mut store = || -> Result<StoreId, Box<dyn Error>> {
            Ok(StoreId(number('s', args.next_pos().ok_or("which store?")?)?))
        };
        let act = match verb.as_str() {
            "transfer-leader" => Act::TransferLeader { to: store()? },
            "add-peer" => Act::AddPeer { to: store()?, role: Role::Voter },
            "add-learner" => Act::AddPeer { to: store()?, role: Role::Learner },
            "remove-peer" => Act::RemovePeer { from: store()? },
            "transfer-peer" => Act::TransferPeer { from: store()?, to: store()? },
            "transfer-region" => {
                let mut to = BTreeMap::new();
                while let Some(text) = args.next_pos() {
                    let (text, role) = match text.rsplit_once('-') {
                        Some((text, "learner")) => (text, Role::Learner),
                        Some((text, "leader")) => (text, Role::Leader),
                        _ => (text, Role::Voter),
                    };
                    to.insert(StoreId(number('s', text)?), role);
                }
                Act::TransferRegion { to }
            }
            "split" => {
                let mut keys = Vec::new();
                while let Some(key) = args.next_pos() {
                    keys.push(key.to_owned().into());
                }
                Act::Split { policy: pdpb::CheckPolicy::Usekey, keys }
            }
            "split-middle" => Act::Split { policy: pdpb::CheckPolicy::Scan, keys: Vec::new() },
            other => return Err(format!("{other} is no instruction").into()),
        };
        let instruction = Instruction { region, act };
        match self.cluster.instruct(&instruction, &mut self.ids, self.moment)? {
            Instructed::UnderWay { order, .. } => Ok(self.take_order(order)),
            Instructed::NeedBound(bound) => Err(format!("ids up to {bound} are needed").into()),
        }
    }

    fn explain(&self, id: u64) -> Result<String, Box<dyn Error>> {
        let explained =
            explain::region(&self.cluster, RegionId(id), self.moment).ok_or("no such region")?;
        let mut text = format!("{}\n", explained.replicas);
        if let Some(plan) = explained.under_way {
            text += &format!("under way: {plan}\n");
        }
        for ended in explained.ended {
            text += &format!("ended: {ended}\n");
        }
        for store in explained.stores {
            text += &format!(
                "s{}: peer: {}; leader: {}\n",
                store.store,
                store.no_peer_because.unwrap_or("possible"),
                store.no_leader_because.unwrap_or("possible")
            );
        }
        Ok(text)
    }
}

fn describe_order(order: &pdpb::RegionHeartbeatResponse) -> String {
    let to = order.target_peer.unwrap_or_default().store_id;
    let describe_change = |change: &pdpb::ChangePeer| {
        let peer = change.peer.unwrap_or_default();
        let verb = match change.change_type() {
            ConfChangeType::AddNode => "AddNode",
            ConfChangeType::RemoveNode => "RemoveNode",
            ConfChangeType::AddLearnerNode => "AddLearnerNode",
        };
        format!("{verb} s{}@p{}", peer.store_id, peer.id)
    };
    let what = match (&order.change_peer, &order.transfer_leader) {
        (Some(change), _) => describe_change(change),
        (None, Some(transfer)) => {
            format!("TransferLeader s{}", transfer.peer.unwrap_or_default().store_id)
        }
        (None, None) => match (&order.change_peer_v2, &order.split_region) {
            (Some(joint), _) if joint.changes.is_empty() => "LeaveJoint".into(),
            (Some(joint), _) => {
                let changes: Vec<_> = joint.changes.iter().map(describe_change).collect();
                format!("EnterJoint {}", changes.join(" "))
            }
            (None, Some(split)) => {
                let keys = split.keys.iter().map(|key| format!(" {}", proto::key::Readable(key)));
                format!("Split {}{}", split.policy().as_str_name(), keys.collect::<String>())
            }
            (None, None) => format!("{order:?}"),
        },
    };
    format!("to s{to}: r{} {what}", order.region_id)
}

fn describe_writes(writes: &Writes) -> String {
    let stores = writes
        .stores
        .iter()
        .map(|store| format!("write s{} {}\n", store.id, store.state().as_str_name()));
    let version = writes.cluster_version.iter().map(|version| format!("write {version}\n"));
    stores.chain(version).collect()
}

fn duration_ms(text: &str) -> Result<u64, Box<dyn Error>> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let count: u64 = text[..text.len() - unit.len()].parse()?;
    match unit {
        "ms" => Ok(count),
        "s" => Ok(count * 1_000),
        "m" => Ok(count * 60_000),
        other => Err(format!("{other} is no unit of time").into()),
    }
}

impl Runner for World {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let name = command.name.as_str();
        if name == "region" {
            let record = notation::record(command)?;
            let id = record.region.id;
            self.regions.insert(id, record);
            return self.beat_region(id);
        }
        let output = match name {
            "stores" => {
                let count: u64 = args.next_pos().ok_or("how many?")?.parse()?;
                for id in 1..=count {
                    self.add_store(id)?;
                }
                String::new()
            }
            // Time passes; all stores but the silent ones speak at the end of it.
            "pass" => {
                let ms = duration_ms(args.next_pos().ok_or("how long?")?)?;
                let silent = args.take_key("silent").unwrap_or_default();
                self.moment.steady_ms += ms;
                self.moment.wall_ms += ms;
                for (id, stats) in &self.stats {
                    if !silent.split('/').any(|text| text == format!("s{id}")) {
                        // One that is gone for good is not listened to.
                        let _ = self.cluster.on_store_heartbeat(stats.clone(), self.moment);
                    }
                }
                String::new()
            }
            "stats" => {
                let id = number('s', args.next_pos().ok_or("which store?")?)?;
                let stats = self.stats.get_mut(&id).ok_or("no such store")?;
                while let Some((key, value)) = args.next_key() {
                    match key {
                        "capacity-gib" => stats.capacity = value.parse::<u64>()? << 30,
                        "available-gib" => stats.available = value.parse::<u64>()? << 30,
                        "receiving" => stats.receiving_snap_count = value.parse()?,
                        "busy" => stats.is_busy = value.parse()?,
                        other => return Err(format!("{other}= means nothing here").into()),
                    }
                }
                self.cluster.on_store_heartbeat(stats.clone(), self.moment)?;
                String::new()
            }
            "beat" => {
                let id = number('r', args.next_pos().ok_or("which region?")?)?;
                self.beat_region(id)?
            }
            "obey" => {
                let id = number('r', args.next_pos().ok_or("which region?")?)?;
                let slowly = args.next_pos() == Some("slowly");
                self.obey(id, slowly)?
            }
            "caught-up" => {
                let id = number('r', args.next_pos().ok_or("which region?")?)?;
                self.regions.get_mut(&id).ok_or("no such region")?.pending_peers.clear();
                self.beat_region(id)?
            }
            // Obeys until nothing more is ordered.
            "heal" => {
                let id = number('r', args.next_pos().ok_or("which region?")?)?;
                let mut text = String::new();
                for _ in 0..20 {
                    if !self.orders.contains_key(&id) {
                        break;
                    }
                    text += &self.obey(id, false)?;
                }
                text
            }
            "offline" => {
                let id = number('s', args.next_pos().ok_or("which store?")?)?;
                describe_writes(&self.cluster.take_store_offline(StoreId(id), false)?)
            }
            "up" => {
                let id = number('s', args.next_pos().ok_or("which store?")?)?;
                describe_writes(&self.cluster.bring_store_up(StoreId(id))?)
            }
            "label" => {
                let id = number('s', args.next_pos().ok_or("which store?")?)?;
                let mut labels = Vec::new();
                while let Some((key, value)) = args.next_key() {
                    labels.push(metapb::StoreLabel { key: key.into(), value: value.into() });
                }
                self.cluster.set_store_labels(StoreId(id), &labels, false)?;
                String::new()
            }
            "policy" => {
                let text = args.next_pos().ok_or("which wishes, as JSON?")?;
                let policy: Policy = serde_json::from_str(text)?;
                policy.validate()?;
                let enable_placement_rules = self.has_rules;
                self.cluster.adopt_policy(Policy { enable_placement_rules, ..policy })?;
                String::new()
            }
            // One or several rules are put, as JSON.
            "rule" => {
                let mut edits = Vec::new();
                while let Some(text) = args.next_pos() {
                    edits.push(Edit::Put(serde_json::from_str(text)?));
                }
                self.cluster.edit_rules(edits)?;
                String::new()
            }
            "rule-group" => {
                let text = args.next_pos().ok_or("which group, as JSON?")?;
                self.cluster.edit_rules([Edit::PutGroup(serde_json::from_str(text)?)])?;
                String::new()
            }
            "delete-rule" => {
                let group = args.next_pos().ok_or("which group?")?.to_owned();
                let id = args.next_pos().ok_or("which rule?")?.to_owned();
                self.cluster.edit_rules([Edit::Delete { group, id }])?;
                String::new()
            }
            // The rules of each stretch of keys: `rules-of a`.
            "rules-of" => {
                let key = args.next_pos().unwrap_or_default();
                let rules = self.cluster.rules().of_key(key.as_bytes());
                let shown = |rule: &crate::rules::Rule| {
                    format!("{} {} {}\n", rule.name(), rule.count, rule.role.name())
                };
                rules.iter().map(shown).collect()
            }
            "tick" => {
                let ticked = self.cluster.tick(&mut self.ids, self.moment);
                let mut text = describe_writes(&ticked.writes);
                for order in ticked.orders {
                    text += &self.take_order(Some(order));
                }
                text
            }
            // A new leader of the scheduler group: what was in memory only is gone.
            "restart" => {
                let stores: Vec<_> =
                    self.cluster.stores().iter().map(|store| store.meta.clone()).collect();
                let regions: Vec<_> =
                    self.cluster.regions().iter().map(|record| record.region.clone()).collect();
                let policy = self.cluster.policy().clone();
                let version = self.cluster.version().to_string();
                let rules = self.cluster.rules();
                let rules = (!rules.is_derived()).then(|| rules.set().to_json());
                self.cluster = Cluster::load(policy, &version, stores, regions, self.moment);
                if let Some(json) = rules {
                    self.cluster.set_rules(Rules::written(RuleSet::from_json(&json)?)?);
                }
                self.orders.clear();
                String::new()
            }
            "balance" => {
                let id = number('r', args.next_pos().ok_or("which region?")?)?;
                self.balance(id)?
            }
            "instruct" => self.instruct(&mut args)?,
            "cancel" => {
                let id = number('r', args.next_pos().ok_or("which region?")?)?;
                self.cluster.cancel_operator(RegionId(id), self.moment)?;
                String::new()
            }
            "operators" => {
                let running = self.cluster.operators().running();
                running.map(|operator| format!("{operator}\n")).collect()
            }
            "explain" => {
                let id = number('r', args.next_pos().ok_or("which region?")?)?;
                self.explain(id)?
            }
            other => return Err(format!("unknown command {other}").into()),
        };
        args.reject_next()?;
        Ok(output)
    }
}

test_each_file::test_each_path! { in "./scheduler/src/checkers/replicas/testscripts" => run }

/// Runs one script, in a world without placement rules.
pub(crate) fn run(path: &std::path::Path) {
    goldenscript::run(&mut World::new(false), path).expect("the script can be run");
}

/// Runs one script, in a world with them: at first the default rule alone.
pub(crate) fn run_with_rules(path: &std::path::Path) {
    goldenscript::run(&mut World::new(true), path).expect("the script can be run");
}
