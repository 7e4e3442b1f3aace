//! What the scheduler knows: members, stores, regions, time.

use proto::{Timestamp, metapb, pdpb, region};
use serde_json::json;

use super::region::{COLUMNS, describe, leader_store};
use super::scheduler::{Scheduler, check, failure, members_of};
use crate::exit::{Code, Failure, Outcome};
use crate::output::{Format, Report};

/// Members, who leads, and who answers.
pub(crate) async fn members(endpoints: &[String], format: Format) -> Outcome {
    let scheduler = Scheduler::connect(endpoints).await?;
    let leader = scheduler.members.leader.as_ref().map_or(0, |leader| leader.member_id);
    let header = ["NAME", "ID", "ROLE", "HEALTH", "PRIORITY", "CLIENT", "PEER"];
    let mut report = Report::list("members", &header);
    for member in &scheduler.members.members {
        let role = if member.member_id == leader { "leader" } else { "follower" };
        let healthy = answers(member).await;
        report.row(
            "members",
            vec![
                member.name.clone(),
                member.member_id.to_string(),
                role.into(),
                if healthy { "up".into() } else { "down".into() },
                member.leader_priority.to_string(),
                member.client_urls.join(","),
                member.peer_urls.join(","),
            ],
            json!({
                "name": member.name,
                "member_id": member.member_id,
                "role": role,
                "healthy": healthy,
                "leader_priority": member.leader_priority,
                "client_urls": member.client_urls,
                "peer_urls": member.peer_urls,
            }),
        );
    }
    report.print(format);
    Ok(())
}

async fn answers(member: &pdpb::Member) -> bool {
    match member.client_urls.first() {
        Some(url) => members_of(url).await.is_ok(),
        None => false,
    }
}

/// Stores with their state, and how many regions they lead and hold.
pub(crate) async fn stores(endpoints: &[String], format: Format) -> Outcome {
    let mut scheduler = Scheduler::connect(endpoints).await?;
    let stores = all_stores(&mut scheduler).await?;
    let regions = all_regions(&mut scheduler, 0).await?;
    let mut report = Report::list(
        "stores",
        &["ID", "ADDRESS", "STATE", "LEADERS", "PEERS", "VERSION", "LABELS"],
    );
    for store in &stores {
        let leaders =
            regions.iter().filter(|region| leader_store(region) == Some(store.id)).count();
        let peers = regions
            .iter()
            .filter_map(|region| region.region.as_ref())
            .filter(|region| region::peer_on(region, proto::StoreId(store.id)).is_some())
            .count();
        let labels: Vec<String> =
            store.labels.iter().map(|label| format!("{}={}", label.key, label.value)).collect();
        let state = state_name(store);
        report.row(
            "stores",
            vec![
                store.id.to_string(),
                store.address.clone(),
                state.into(),
                leaders.to_string(),
                peers.to_string(),
                store.version.clone(),
                labels.join(","),
            ],
            json!({
                "id": store.id,
                "address": store.address,
                "status_address": store.status_address,
                "state": state,
                "leaders": leaders,
                "peers": peers,
                "version": store.version,
                "labels": labels,
            }),
        );
    }
    report.print(format);
    Ok(())
}

fn state_name(store: &metapb::Store) -> &'static str {
    match store.state() {
        metapb::StoreState::Up => "up",
        metapb::StoreState::Offline => "offline",
        metapb::StoreState::Tombstone => "tombstone",
    }
}

/// The first regions in key order.
pub(crate) async fn regions(endpoints: &[String], limit: u32, format: Format) -> Outcome {
    let mut scheduler = Scheduler::connect(endpoints).await?;
    let regions = all_regions(&mut scheduler, limit).await?;
    let mut report = Report::list("regions", &COLUMNS);
    for region in &regions {
        let (cells, item) = describe(region);
        report.row("regions", cells, item);
    }
    report.print(format);
    if regions.len() == limit as usize {
        eprintln!("there may be more than {limit} regions: see --limit");
    }
    Ok(())
}

async fn all_stores(scheduler: &mut Scheduler) -> Outcome<Vec<metapb::Store>> {
    let request = pdpb::GetAllStoresRequest { header: scheduler.header(), ..Default::default() };
    let response = scheduler
        .leader
        .get_all_stores(request)
        .await
        .map_err(|status| failure("list the stores", &status))?
        .into_inner();
    check("list the stores", response.header.as_ref())?;
    Ok(response.stores)
}

/// Regions in key order; a limit of 0 is none.
async fn all_regions(scheduler: &mut Scheduler, limit: u32) -> Outcome<Vec<pdpb::Region>> {
    let request = pdpb::ScanRegionsRequest {
        header: scheduler.header(),
        limit: i32::try_from(limit).unwrap_or(i32::MAX),
        ..Default::default()
    };
    let response = scheduler
        .leader
        .scan_regions(request)
        .await
        .map_err(|status| failure("list the regions", &status))?
        .into_inner();
    check("list the regions", response.header.as_ref())?;
    Ok(response.regions)
}

/// A fresh timestamp, or the parts of a given one.
pub(crate) async fn tso(endpoints: &[String], timestamp: Option<u64>, format: Format) -> Outcome {
    let timestamp = match timestamp {
        Some(number) => Timestamp(number),
        None => fresh_timestamp(&mut Scheduler::connect(endpoints).await?).await?,
    };
    let seconds = timestamp.physical() / 1000;
    Report::fields(
        vec![
            ("timestamp", timestamp.to_string()),
            ("physical", format!("{} ms since 1970", timestamp.physical())),
            ("logical", timestamp.logical().to_string()),
        ],
        json!({
            "timestamp": timestamp.0,
            "physical_ms": timestamp.physical(),
            "logical": timestamp.logical(),
            "unix_seconds": seconds,
        }),
    )
    .print(format);
    Ok(())
}

async fn fresh_timestamp(scheduler: &mut Scheduler) -> Outcome<Timestamp> {
    let request = pdpb::TsoRequest { header: scheduler.header(), count: 1, ..Default::default() };
    let what = "get a timestamp";
    let response = scheduler
        .leader
        .tso(tokio_stream::once(request))
        .await
        .map_err(|status| failure(what, &status))?
        .into_inner()
        .message()
        .await
        .map_err(|status| failure(what, &status))?
        .ok_or_else(|| Failure::failed("get a timestamp: the stream ended without one"))?;
    check(what, response.header.as_ref())?;
    let timestamp = response.timestamp.unwrap_or_default();
    Ok(Timestamp::new(timestamp.physical.unsigned_abs(), timestamp.logical.unsigned_abs()))
}

/// Whether the cluster can serve, in words. Exit code 1 when something is wrong.
pub(crate) async fn status(endpoints: &[String], format: Format) -> Outcome {
    let mut scheduler = Scheduler::connect(endpoints).await?;
    let mut problems = Vec::new();
    let mut members_up = 0;
    for member in &scheduler.members.members {
        if answers(member).await {
            members_up += 1;
        } else {
            problems.push(format!("scheduler member {} does not answer", member.name));
        }
    }
    let leader = scheduler.members.leader.clone().unwrap_or_default();
    let stores = all_stores(&mut scheduler).await?;
    let regions = all_regions(&mut scheduler, 0).await?;
    for region in &regions {
        let meta = region.region.clone().unwrap_or_default();
        if leader_store(region).is_none() {
            problems.push(format!("region {} has no leader", meta.id));
        }
        if !region.down_peers.is_empty() {
            let down: Vec<String> = region
                .down_peers
                .iter()
                .filter_map(|down| down.peer.as_ref())
                .map(|peer| format!("store {}", peer.store_id))
                .collect();
            problems.push(format!("region {}: replicas down on {}", meta.id, down.join(", ")));
        }
    }
    if regions.is_empty() {
        problems.push("the cluster has no regions: no store has joined yet".into());
    }
    let timestamp = fresh_timestamp(&mut scheduler).await?;
    let healthy = problems.is_empty();
    let replicas: usize =
        regions.iter().filter_map(|r| r.region.as_ref()).map(|r| r.peers.len()).sum();
    let cluster_id = scheduler.members.header.as_ref().map_or(0, |header| header.cluster_id);
    let mut fields = vec![
        ("cluster", cluster_id.to_string()),
        ("health", if healthy { "healthy".into() } else { "not healthy".into() }),
        (
            "scheduler",
            format!(
                "{members_up} of {} members, leader {}",
                scheduler.members.members.len(),
                leader.name
            ),
        ),
        ("stores", stores.len().to_string()),
        ("regions", format!("{}, {replicas} replicas", regions.len())),
        ("timestamp", timestamp.to_string()),
    ];
    fields.extend(problems.iter().map(|problem| ("problem", problem.clone())));
    Report::fields(
        fields,
        json!({
            "cluster_id": cluster_id,
            "healthy": healthy,
            "members": scheduler.members.members.len(),
            "members_up": members_up,
            "leader": leader.name,
            "stores": stores.len(),
            "regions": regions.len(),
            "replicas": replicas,
            "timestamp": timestamp.0,
            "problems": problems,
        }),
    )
    .print(format);
    if healthy { Ok(()) } else { Err(Failure::new(Code::Failed, "the cluster is not healthy")) }
}
