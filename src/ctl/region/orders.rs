//! Orders for a region, through the scheduler: split, and where its leader and its peers are.
//!
//! A command gives the scheduler an instruction, waits until heartbeats have shown all steps of the
//! operator done, and prints the regions as they are then. The region's leader hears of it at once.

use proto::{KeyRange, metapb, pdpb, region};
use serde_json::{Value, json};

use super::flags::{Policy, RegionCommand};
use super::{COLUMNS, by_id, describe, leader_store};
use super::{bound, consistency_check};
use crate::ctl::Waiting;
use crate::ctl::http::Api;
use crate::ctl::operator::{Operator, instruct, print_accepted, until_done};
use crate::ctl::scheduler::{Scheduler, check, failure};
use crate::exit::{Failure, Outcome};
use crate::keys;
use crate::output::{Format, Report};

/// How long to wait before regions are looked at again.
const LOOK_AGAIN_AFTER: std::time::Duration = std::time::Duration::from_millis(50);

/// Where a command is carried out.
struct Desk<'a> {
    endpoints: &'a [String],
    format: Format,
    waiting: &'a Waiting,
    scheduler: Scheduler,
    api: Api,
}

/// Carries out one command.
pub(super) async fn run(
    endpoints: &[String],
    command: RegionCommand,
    format: Format,
    waiting: &Waiting,
) -> Outcome {
    let scheduler = Scheduler::connect(endpoints).await?;
    let api = Api::of(&scheduler);
    let mut desk = Desk { endpoints, format, waiting, scheduler, api };
    match command {
        RegionCommand::Split { id, keys, meaning, policy, patience } => {
            let keys = bound::resolve(endpoints, &keys, &meaning).await?;
            desk.split(id, keys, policy, patience.no_wait).await
        }
        RegionCommand::TransferLeader { id, store, patience } => {
            let order = json!({"name": "transfer-leader", "region_id": id, "to_store_id": store});
            desk.change(id, order, patience.no_wait).await
        }
        RegionCommand::AddPeer { id, store, learner, patience } => {
            let name = if learner { "add-learner" } else { "add-peer" };
            let order = json!({"name": name, "region_id": id, "store_id": store});
            desk.change(id, order, patience.no_wait).await
        }
        RegionCommand::RemovePeer { id, store, patience } => {
            let order = json!({"name": "remove-peer", "region_id": id, "store_id": store});
            desk.change(id, order, patience.no_wait).await
        }
        RegionCommand::ConsistencyCheck { id } => {
            consistency_check::run(&mut desk.scheduler, id, format, waiting).await
        }
        RegionCommand::MovePeer { from, to, .. } if from == to => Err(Failure::usage(format!(
            "store {from} cannot be both where the peer is and where it goes"
        ))),
        RegionCommand::MovePeer { id, from, to, patience } => {
            let order = json!({
                "name": "transfer-peer",
                "region_id": id,
                "from_store_id": from,
                "to_store_id": to,
            });
            desk.change(id, order, patience.no_wait).await
        }
    }
}

impl Desk<'_> {
    /// Gives the instruction, and waits unless told not to; `None` when it goes on by itself.
    async fn carry_out(
        &mut self,
        instruction: Value,
        no_wait: bool,
        hint: &str,
    ) -> Outcome<Option<Operator>> {
        let name = instruction["name"].as_str().unwrap_or("an order").to_owned();
        let operator = instruct(&self.api, &name, &instruction).await?;
        if no_wait {
            print_accepted(&operator, self.format);
            return Ok(None);
        }
        let done = until_done(self.endpoints, &mut self.api, operator, hint, self.waiting).await?;
        eprintln!("{}", done.summary());
        Ok(Some(done))
    }

    /// A change of a region's leader or peers.
    async fn change(&mut self, id: u64, instruction: Value, no_wait: bool) -> Outcome {
        let Some(done) = self.carry_out(instruction, no_wait, "").await? else { return Ok(()) };
        let found = by_id(&mut self.scheduler, id).await?;
        let region = found.ok_or_else(|| {
            Failure::failed(format!("region {id} was changed and is not there any more"))
        })?;
        self.print(&done, std::slice::from_ref(&region));
        self.foretell(&region).await;
        Ok(())
    }

    async fn split(
        &mut self,
        id: u64,
        keys: Vec<Vec<u8>>,
        policy: Policy,
        no_wait: bool,
    ) -> Outcome {
        // A region that is not there is refused by the scheduler.
        let before = by_id(&mut self.scheduler, id).await?.and_then(|before| before.region);
        let name = match policy {
            _ if !keys.is_empty() => "USEKEY",
            Policy::Scan => "SCAN",
            Policy::Approximate => "APPROXIMATE",
        };
        let hint = match keys.as_slice() {
            [] => " (a region of a single key is not cut)",
            _ => "",
        };
        let digits: Vec<_> = keys.iter().map(|key| keys::hex(key)).collect();
        let instruction =
            json!({"name": "split-region", "region_id": id, "policy": name, "keys": digits});
        let done = self
            .carry_out(instruction, no_wait, hint)
            .await
            .map_err(|failure| hint_at_meaning(failure, &keys))?;
        let Some(done) = done else { return Ok(()) };
        let range = before.as_ref().map_or_else(KeyRange::all, KeyRange::of);
        let parts = self.parts(&range).await?;
        self.print(&done, &parts);
        let begins = |key: &[u8]| {
            parts.iter().filter_map(|part| part.region.as_ref()).any(|part| part.start_key == key)
        };
        match keys.iter().find(|key| !begins(key)) {
            None => Ok(()),
            // The step is done when the region's version has grown, by whomever.
            Some(key) => Err(Failure::failed(format!(
                "region {id} was split elsewhere at the same time, and not at {}: try again",
                keys::show_bound(key, "the first key")
            ))),
        }
    }

    /// The regions that hold this range, once each has a leader that is known.
    async fn parts(&mut self, range: &KeyRange) -> Outcome<Vec<pdpb::Region>> {
        self.waiting.says("the split is done, and not all parts have shown a leader yet".into());
        loop {
            let request = pdpb::ScanRegionsRequest {
                header: self.scheduler.header(),
                start_key: range.start.clone(),
                end_key: range.wire_end(),
                ..Default::default()
            };
            let what = "list the parts";
            let response = self.scheduler.leader.scan_regions(request).await;
            let response = response.map_err(|status| failure(what, &status))?.into_inner();
            check(what, response.header.as_ref())?;
            if response.regions.iter().all(|part| leader_store(part).is_some())
                && tile(&response.regions, range)
            {
                return Ok(response.regions);
            }
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    fn print(&self, done: &Operator, regions: &[pdpb::Region]) {
        let mut report = Report::list("regions", &COLUMNS).with("operator", done.document.clone());
        for region in regions {
            let (cells, item) = describe(region);
            report.row("regions", cells, item);
        }
        report.print(self.format);
    }

    /// Says when the scheduler will not leave it at that. What it wants is asked for; when it does not
    /// answer nothing is said.
    async fn foretell(&self, region: &pdpb::Region) {
        let wanted = self.api.get("/pd/api/v1/config/replicate").await.unwrap_or_default();
        let schedule = self.api.get("/pd/api/v1/config/schedule").await.unwrap_or_default();
        let Some(wanted) = wanted["max-replicas"].as_u64() else { return };
        if schedule["halt-scheduling"] == "true" {
            return;
        }
        let meta = region.region.clone().unwrap_or_default();
        if let Some(words) = next_move(&meta, wanted) {
            eprintln!("region {}: {words} (unless halt-scheduling is set)", meta.id);
        }
    }
}

/// What the replica checker will do about the region, if anything.
fn next_move(meta: &metapb::Region, wanted: u64) -> Option<String> {
    let learners = meta.peers.iter().filter(|peer| region::is_learner(peer)).count() as u64;
    let voters = meta.peers.len() as u64 - learners;
    let has = format!("it has {voters} voters and the cluster wants {wanted}");
    match (voters.cmp(&wanted), learners) {
        (std::cmp::Ordering::Less, 0) => Some(format!("{has}: the scheduler will add one")),
        (std::cmp::Ordering::Less, _) => {
            Some(format!("{has}: the scheduler will give the learner a vote"))
        }
        (std::cmp::Ordering::Greater, _) => Some(format!("{has}: the scheduler will remove one")),
        (std::cmp::Ordering::Equal, 0) => None,
        (std::cmp::Ordering::Equal, _) => {
            Some("the scheduler will remove the learner: the voters are enough".into())
        }
    }
}

/// Whether the regions, in key order, hold the whole range.
fn tile(regions: &[pdpb::Region], range: &KeyRange) -> bool {
    let ranges: Vec<_> =
        regions.iter().filter_map(|part| part.region.as_ref()).map(KeyRange::of).collect();
    let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return false };
    let reaches_end = match (&last.end, &range.end) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(end), Some(wanted)) => end >= wanted,
    };
    first.start <= range.start
        && reaches_end
        && ranges.windows(2).all(|pair| pair[0].end.as_ref() == Some(&pair[1].start))
}

/// A key that is refused may have been meant otherwise.
fn hint_at_meaning(mut refused: Failure, keys: &[Vec<u8>]) -> Failure {
    let is_plain = keys.iter().any(|key| proto::memcomparable::decode(key).is_none());
    if refused.message.contains("is not a key of") && is_plain {
        refused
            .message
            .push_str("; is it a key of `ctl txn` or `ctl raw`? then say --txn or --raw");
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(start: &str, end: &str) -> pdpb::Region {
        let region = metapb::Region {
            start_key: start.to_owned().into(),
            end_key: end.to_owned().into(),
            ..Default::default()
        };
        pdpb::Region { region: Some(region), ..Default::default() }
    }

    #[test]
    fn parts_tile_a_range_when_nothing_is_missing() {
        let range = |start: &'static str, end: &'static str| KeyRange::from_wire(start, end);
        let parts = [part("a", "c"), part("c", "m"), part("m", "")];
        assert!(tile(&parts, &range("a", "")));
        assert!(tile(&parts, &range("b", "z")));
        assert!(tile(&parts[..2], &range("a", "m")));
        assert!(!tile(&parts[..2], &range("a", "n")));
        assert!(!tile(&parts[..2], &range("a", "")));
        assert!(!tile(&parts[1..], &range("a", "")));
        assert!(!tile(&[part("a", "c"), part("m", "")], &range("a", "")));
        assert!(!tile(&[], &range("a", "")));
    }

    #[test]
    fn what_the_scheduler_will_do_next_is_foretold() {
        let region = |voters: usize, learners: usize| {
            let voter = metapb::Peer::default();
            let learner =
                metapb::Peer { role: metapb::PeerRole::Learner.into(), ..Default::default() };
            let peers = [vec![voter; voters], vec![learner; learners]].concat();
            metapb::Region { peers, ..Default::default() }
        };
        assert_eq!(next_move(&region(3, 0), 3), None);
        for (voters, learners, words) in [
            (2, 0, "will add one"),
            (2, 1, "will give the learner a vote"),
            (4, 0, "will remove one"),
            (3, 1, "will remove the learner"),
        ] {
            let told = next_move(&region(voters, learners), 3).unwrap();
            assert!(told.contains(words), "{told}");
        }
    }
}
