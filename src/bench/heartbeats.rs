//! Heartbeats of regions through the scheduler's machine alone: no socket, no disk, one thread.
//!
//! What is measured is what a leader of the scheduler group does with a heartbeat under its lock: judge the
//! epoch, replace what it knew, count for the stores, think of a plan. Three kinds, since they cost apart:
//!
//! - *same*: nothing is new, as from a cluster at rest;
//! - *load*: what was read and written differs, as from a cluster in use;
//! - *epoch*: the description is new, as after a change of peers.
//!
//! And how long one tick takes, since it holds the same lock.

use std::time::{Duration, Instant};

use proto::{metapb, pdpb};
use scheduler::cluster::{Cluster, Moment, Policy};
use scheduler::ids::Ids;
use serde_json::json;

use crate::args::BenchHeartbeatsFlags;
use crate::exit::{Failure, Outcome};
use crate::output::Report;

/// What every region holds, in bytes.
const REGION_BYTES: u64 = 96 << 20;
/// Ids that the machine may give out.
const IDS: u64 = 1 << 40;
/// Heartbeats between two looks at the clock.
const AT_ONCE: usize = 1_000;
/// Ticks that are timed.
const TICKS: u32 = 50;

/// A kind of heartbeat, and how the next one of a region differs from its last.
struct Kind {
    name: &'static str,
    next: fn(&mut pdpb::RegionHeartbeatRequest, u64),
}

const KINDS: [Kind; 3] = [
    Kind { name: "same", next: |_, _| {} },
    Kind {
        name: "load",
        next: |said, round| {
            said.bytes_written = 4_096 + round % 1_000;
            said.keys_written = 40 + round % 10;
            said.bytes_read = 65_536 + round % 5_000;
            said.keys_read = 600 + round % 50;
        },
    },
    Kind {
        name: "epoch",
        next: |said, round| {
            let epoch = said.region.as_mut().and_then(|region| region.region_epoch.as_mut());
            if let Some(epoch) = epoch {
                epoch.conf_ver = 10 + round;
            }
        },
    },
];

/// Measures and prints.
pub(crate) fn run(flags: &BenchHeartbeatsFlags) -> Outcome {
    let stores = u64::from(flags.stores.max(3));
    let mut moment = Moment { steady_ms: 1_000_000, wall_ms: 1_700_000_000_000 };
    let mut cluster = Cluster::load(Policy::default(), "", [], [], moment);
    let mut ids = Ids::begin(IDS / 2);
    ids.bound_saved(IDS);
    for id in 1..=stores {
        cluster.put_store(store(id), moment).map_err(Failure::failed)?;
        say_stores(&mut cluster, id..=id, moment)?;
    }
    let mut regions: Vec<_> =
        (1..=u64::from(flags.regions.max(1))).map(|id| heartbeat(id, stores)).collect();
    let mut report = Report::list("rows", &["HEARTBEATS", "A SECOND", "EACH µs"]);
    let loaded = Instant::now();
    for said in &regions {
        hear(&mut cluster, &mut ids, said, moment)?;
    }
    let took = loaded.elapsed();
    add(&mut report, "first", regions.len() as u64, took);
    for kind in &KINDS {
        let (mut heard, mut round, mut took) = (0_u64, 1, Duration::ZERO);
        while took < Duration::from_secs(flags.seconds.max(1)) {
            moment.steady_ms += 60_000;
            moment.wall_ms += 60_000;
            say_stores(&mut cluster, 1..=stores, moment)?;
            for some in regions.chunks_mut(AT_ONCE) {
                some.iter_mut().for_each(|said| (kind.next)(said, round));
                // Decoding a message makes one that is owned; so must this.
                let owned = some.to_vec();
                let start = Instant::now();
                for said in owned {
                    let answer = cluster.on_region_heartbeat(said, &mut ids, moment);
                    answer.map_err(Failure::failed)?;
                }
                took += start.elapsed();
                heard += some.len() as u64;
            }
            round += 1;
        }
        add(&mut report, kind.name, heard, took);
    }
    let start = Instant::now();
    for _ in 0..TICKS {
        moment.steady_ms += 100;
        cluster.tick(&mut ids, moment);
    }
    let tick = start.elapsed() / TICKS;
    report.row(
        "rows",
        vec!["(a tick)".into(), String::new(), format!("{:.1}", tick.as_secs_f64() * 1e6)],
        json!({ "heartbeats": "tick", "micros": tick.as_secs_f64() * 1e6 }),
    );
    report.print(flags.output);
    Ok(())
}

fn add(report: &mut Report, name: &str, heard: u64, took: Duration) {
    let per_second = heard as f64 / took.as_secs_f64();
    let micros = 1e6 / per_second;
    report.row(
        "rows",
        vec![name.into(), format!("{per_second:.0}"), format!("{micros:.2}")],
        json!({ "heartbeats": name, "per_second": per_second, "micros": micros }),
    );
}

fn hear(
    cluster: &mut Cluster,
    ids: &mut Ids,
    said: &pdpb::RegionHeartbeatRequest,
    moment: Moment,
) -> Outcome {
    let answer = cluster.on_region_heartbeat(said.clone(), ids, moment);
    answer.map(drop).map_err(Failure::failed)
}

fn say_stores(
    cluster: &mut Cluster,
    stores: std::ops::RangeInclusive<u64>,
    moment: Moment,
) -> Outcome {
    for store_id in stores {
        let stats = pdpb::StoreStats {
            store_id,
            capacity: 10 << 40,
            available: 9 << 40,
            used_size: 1 << 40,
            ..Default::default()
        };
        cluster.on_store_heartbeat(stats, moment).map_err(Failure::failed)?;
    }
    Ok(())
}

fn store(id: u64) -> metapb::Store {
    metapb::Store {
        id,
        address: format!("store-{id}:20160"),
        version: "8.5.0".into(),
        ..Default::default()
    }
}

/// A region of three peers, in a circle over the stores, so that they are even from the start.
fn heartbeat(id: u64, stores: u64) -> pdpb::RegionHeartbeatRequest {
    let peers: Vec<_> = (0..3)
        .map(|peer| {
            let store_id = 1 + (id + peer) % stores;
            metapb::Peer { id: id * 10 + peer, store_id, ..Default::default() }
        })
        .collect();
    pdpb::RegionHeartbeatRequest {
        leader: peers.first().copied(),
        region: Some(metapb::Region {
            id,
            start_key: id.to_be_bytes().to_vec().into(),
            end_key: (id + 1).to_be_bytes().to_vec().into(),
            region_epoch: Some(metapb::RegionEpoch { conf_ver: 5, version: 1 }),
            peers,
            ..Default::default()
        }),
        term: 6,
        approximate_size: REGION_BYTES,
        approximate_keys: 1_000_000,
        ..Default::default()
    }
}
