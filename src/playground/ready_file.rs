//! The machine's form of the first screen: one JSON file, whole or not there at all.

use std::path::Path;

use serde_json::json;
use tessera::cluster::layout::write_whole;

use super::{Topology, shown};
use crate::exit::{Failure, Outcome};

/// Written once the first write and read went through raft; removed when the playground stops.
pub(crate) fn write(path: &Path, topology: &Topology) -> Outcome {
    let stores: Vec<_> = topology
        .stores
        .iter()
        .map(|store| json!({ "id": store.id, "address": store.address, "pid": store.pid }))
        .collect();
    let schedulers: Vec<_> = topology
        .schedulers
        .iter()
        .map(|member| {
            json!({ "name": member.name, "client_url": member.client_url, "pid": member.pid })
        })
        .collect();
    let dashboard = topology.endpoints.first().map(|endpoint| format!("http://{endpoint}/"));
    let document = json!({
        "pd_endpoints": topology.endpoints,
        "stores": stores,
        "schedulers": schedulers,
        "dashboard": dashboard,
    });
    write_whole(path, format!("{document:#}\n").as_bytes())
        .map_err(|error| Failure::failed(format!("write ready file {}: {error}", shown(path))))
}
