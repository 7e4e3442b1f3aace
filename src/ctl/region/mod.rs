//! One region: shown, and told what to do.

mod bound;
mod checks;
mod consistency_check;
mod flags;
mod orders;

use proto::{KeyRange, metapb, pdpb, region};
use serde_json::{Value, json};

pub(crate) use flags::RegionFlags;

use super::Waiting;
use super::scheduler::{Scheduler, check, failure};
use crate::exit::{Failure, Outcome};
use crate::keys;
use crate::output::{Format, Report};

/// The header of a table of regions.
pub(crate) const COLUMNS: [&str; 6] = ["ID", "START", "END", "EPOCH", "LEADER", "PEERS"];

/// Shows a region, or has it do something.
pub(crate) async fn run(
    endpoints: &[String],
    flags: RegionFlags,
    format: Format,
    waiting: &Waiting,
) -> Outcome {
    let RegionFlags { which, meaning, command } = flags;
    if let Some(command) = command {
        if let Some(id) = which.id {
            return Err(Failure::usage(format!(
                "the region's id comes after the command: `tessera ctl region COMMAND {id}`"
            )));
        }
        if which.check.is_some() {
            return Err(Failure::usage("--check stands alone, without a command"));
        }
        if which.key.is_some() || meaning.is_given() {
            return Err(Failure::usage("flags about keys come after the command, if it takes any"));
        }
        return orders::run(endpoints, command, format, waiting).await;
    }
    if let Some(id) = which.id {
        let mut scheduler = Scheduler::connect(endpoints).await?;
        return show(format!("region {id}"), by_id(&mut scheduler, id).await?, format);
    }
    if let Some(kind) = which.check {
        return checks::run(endpoints, kind, format).await;
    }
    let key: Vec<_> = which.key.into_iter().collect();
    let key = bound::resolve(endpoints, &key, &meaning).await?.into_iter().next();
    let key = key.unwrap_or_default();
    let mut scheduler = Scheduler::connect(endpoints).await?;
    let asked = format!("region of {}", keys::show_bound(&key, "the first key"));
    let found = by_key(&mut scheduler, &asked, key).await?;
    show(asked, found, format)
}

fn show(asked: String, found: Option<pdpb::Region>, format: Format) -> Outcome {
    let Some(region) = found else {
        return Err(Failure::failed(format!("{asked}: there is none")));
    };
    let (cells, item) = describe(&region);
    let names = ["id", "start", "end", "epoch", "leader", "peers"];
    Report::fields(names.into_iter().zip(cells).collect(), item).print(format);
    Ok(())
}

/// A region as the scheduler knows it; `None` when it does not.
async fn by_id(scheduler: &mut Scheduler, region_id: u64) -> Outcome<Option<pdpb::Region>> {
    let request =
        pdpb::GetRegionByIdRequest { header: scheduler.header(), region_id, ..Default::default() };
    let asked = format!("region {region_id}");
    let response = scheduler.leader.get_region_by_id(request).await;
    found(&asked, response.map_err(|status| failure(&asked, &status))?.into_inner())
}

async fn by_key(
    scheduler: &mut Scheduler,
    asked: &str,
    key: Vec<u8>,
) -> Outcome<Option<pdpb::Region>> {
    let request = pdpb::GetRegionRequest {
        header: scheduler.header(),
        region_key: key.into(),
        ..Default::default()
    };
    let response = scheduler.leader.get_region(request).await;
    found(asked, response.map_err(|status| failure(asked, &status))?.into_inner())
}

fn found(asked: &str, response: pdpb::GetRegionResponse) -> Outcome<Option<pdpb::Region>> {
    check(asked, response.header.as_ref())?;
    Ok(response.region.map(|found| pdpb::Region {
        region: Some(found),
        leader: response.leader,
        down_peers: response.down_peers,
        pending_peers: response.pending_peers,
        ..Default::default()
    }))
}

/// The store that the region is led from.
pub(crate) fn leader_store(region: &pdpb::Region) -> Option<u64> {
    region.leader.as_ref().map(|leader| leader.store_id).filter(|store| *store != 0)
}

/// A region as a row and as JSON.
pub(crate) fn describe(region: &pdpb::Region) -> (Vec<String>, Value) {
    let meta = region.region.clone().unwrap_or_default();
    let epoch = region::epoch(&meta);
    let range = KeyRange::of(&meta);
    let leader = leader_store(region);
    let down = |peer: &metapb::Peer| {
        region.down_peers.iter().any(|down| down.peer.as_ref().is_some_and(|d| d.id == peer.id))
    };
    let pending =
        |peer: &metapb::Peer| region.pending_peers.iter().any(|pending| pending.id == peer.id);
    let peers: Vec<String> = meta
        .peers
        .iter()
        .map(|peer| {
            let mut text = format!("s{}", peer.store_id);
            if leader == Some(peer.store_id) {
                text.push('*');
            }
            if region::is_learner(peer) {
                text.push_str("(learner)");
            }
            if down(peer) {
                text.push_str("(down)");
            }
            if pending(peer) {
                text.push_str("(pending)");
            }
            text
        })
        .collect();
    let items: Vec<Value> = meta
        .peers
        .iter()
        .map(|peer| {
            json!({
                "id": peer.id,
                "store_id": peer.store_id,
                "learner": region::is_learner(peer),
                "down": down(peer),
                "pending": pending(peer),
            })
        })
        .collect();
    let start = keys::show_bound(&range.start, "-inf");
    let end = keys::show_bound(&range.wire_end(), "+inf");
    let item = json!({
        "id": meta.id,
        "start": start,
        "end": end,
        "start_hex": keys::hex(&range.start),
        "end_hex": keys::hex(&range.wire_end()),
        "epoch": { "version": epoch.version, "conf_ver": epoch.conf_ver },
        "leader_store_id": leader,
        "peers": items,
    });
    let cells = vec![
        meta.id.to_string(),
        start,
        end,
        format!("v{}.c{}", epoch.version, epoch.conf_ver),
        leader.map_or_else(|| "none".into(), |store| format!("s{store}")),
        peers.join(" "),
    ];
    (cells, item)
}
