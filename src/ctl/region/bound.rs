//! What a person means by the key of a region, in the form that regions are cut in.
//!
//! | | API version 1 | API version 2 |
//! |---|---|---|
//! | no flag | these bytes, or `enc(…)` | these bytes, or `enc(…)` |
//! | `--raw` | these bytes | `r`, the keyspace, the key; encoded |
//! | `--txn` | the key, encoded | `x`, the keyspace, the key; encoded |
//!
//! A store's own SplitRegion does the same by its flag `is_raw_kv`; its callers say which API they use.

use client::ApiVersion;
use proto::memcomparable;

use super::flags::KeyMeaning;
use crate::args::KeyspaceFlags;
use crate::ctl::http::Api;
use crate::ctl::keyspace;
use crate::ctl::scheduler::Scheduler;
use crate::exit::{Failure, Outcome};
use crate::keys::Bound;

/// The keyspace that is meant when none is named.
const DEFAULT_KEYSPACE: &str = "DEFAULT";

/// The keys in the form that regions are cut in.
pub(super) async fn resolve(
    endpoints: &[String],
    bounds: &[Bound],
    meaning: &KeyMeaning,
) -> Outcome<Vec<Vec<u8>>> {
    let as_they_are = || bounds.iter().map(|bound| bound.bytes.clone()).collect();
    if !meaning.txn && !meaning.raw {
        return Ok(as_they_are());
    }
    if bounds.iter().any(|bound| bound.is_encoded) {
        let flag = if meaning.txn { "--txn" } else { "--raw" };
        return Err(Failure::usage(format!(
            "enc(…) is a key as regions are cut already: leave out {flag}"
        )));
    }
    let flags = KeyspaceFlags { keyspace: meaning.keyspace.clone() };
    let (_, version) = keyspace::find(endpoints, &flags).await?;
    match version {
        ApiVersion::V1 | ApiVersion::V1Ttl if meaning.raw => Ok(as_they_are()),
        ApiVersion::V1 | ApiVersion::V1Ttl => Ok(encoded(&[], bounds)),
        ApiVersion::V2 => {
            let name = meaning.keyspace.as_deref().unwrap_or(DEFAULT_KEYSPACE);
            let id = keyspace_id(endpoints, name).await?;
            let [_, high, middle, low] = id.to_be_bytes();
            let api = if meaning.txn { b'x' } else { b'r' };
            Ok(encoded(&[api, high, middle, low], bounds))
        }
    }
}

fn encoded(prefix: &[u8], bounds: &[Bound]) -> Vec<Vec<u8>> {
    let whole = |bound: &Bound| [prefix, &bound.bytes].concat();
    bounds.iter().map(|bound| memcomparable::encode(&whole(bound)).to_vec()).collect()
}

async fn keyspace_id(endpoints: &[String], name: &str) -> Outcome<u32> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(Failure::usage(format!("\"{name}\" cannot be the name of a keyspace")));
    }
    let api = Api::of(&Scheduler::connect(endpoints).await?);
    let found = api.get(&format!("/pd/api/v2/keyspaces/{name}")).await;
    let found = found.map_err(|error| error.failure(&format!("find keyspace {name}")))?;
    let id = found["id"].as_u64().and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| Failure::failed(format!("keyspace {name} has no id")))
}
