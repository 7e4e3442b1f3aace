//! Has a region's replicas compared: the store that leads it is asked directly.
//!
//! The command ends when the comparison has begun. What comes of it says the log of the stores; a replica that
//! differs from a majority goes, and shows as down in `ctl region ID` until the scheduler has replaced it.

use std::time::Duration;

use proto::debugpb::RegionConsistencyCheckRequest;
use proto::debugpb::debug_client::DebugClient;
use proto::pdpb;
use serde_json::json;
use tonic::transport::Endpoint;

use super::{by_id, leader_store};
use crate::ctl::Waiting;
use crate::ctl::scheduler::{Scheduler, check, failure};
use crate::exit::{Code, Failure, Outcome};
use crate::output::{Format, Report};

/// A store that is not reached within this is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Finds the leader's store and asks it.
pub(super) async fn run(
    scheduler: &mut Scheduler,
    region_id: u64,
    format: Format,
    waiting: &Waiting,
) -> Outcome {
    let asked = format!("region {region_id}");
    let region = by_id(scheduler, region_id).await?;
    let region = region.ok_or_else(|| Failure::failed(format!("{asked}: there is none")))?;
    let store_id = leader_store(&region)
        .ok_or_else(|| Failure::new(Code::Precondition, format!("{asked} has no leader now")))?;
    let address = address_of(scheduler, store_id).await?;
    waiting.says(format!("store {store_id} at {address} has not begun"));
    let mut store = connect(&address, store_id).await?;
    store
        .check_region_consistency(RegionConsistencyCheckRequest { region_id })
        .await
        .map_err(|status| refused(&asked, store_id, &status))?;
    let fields = vec![("region", region_id.to_string()), ("store", store_id.to_string())];
    let item = json!({ "region_id": region_id, "store_id": store_id });
    Report::fields(fields, item).print(format);
    eprintln!("the replicas are being compared; the stores log it if one of them differs");
    Ok(())
}

async fn address_of(scheduler: &mut Scheduler, store_id: u64) -> Outcome<String> {
    let request = pdpb::GetStoreRequest { header: scheduler.header(), store_id };
    let asked = format!("store {store_id}");
    let response = scheduler.leader.get_store(request).await;
    let response = response.map_err(|status| failure(&asked, &status))?.into_inner();
    check(&asked, response.header.as_ref())?;
    let address = response.store.map(|store| store.address).unwrap_or_default();
    if address.is_empty() {
        return Err(Failure::failed(format!("{asked}: the scheduler knows no address")));
    }
    Ok(address)
}

async fn connect(address: &str, store_id: u64) -> Outcome<DebugClient<tonic::transport::Channel>> {
    let unreachable = |why: String| {
        Failure::new(Code::Unreachable, format!("store {store_id} at {address}: {why}"))
    };
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| unreachable(error.to_string()))?
        .connect_timeout(CONNECT_TIMEOUT)
        .connect()
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    Ok(DebugClient::new(channel))
}

/// The store's answer when it does not do it, in words.
fn refused(asked: &str, store_id: u64, status: &tonic::Status) -> Failure {
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other status is a failure")]
    let code = match status.code() {
        tonic::Code::Unavailable => Code::Unreachable,
        tonic::Code::DeadlineExceeded => Code::Timeout,
        tonic::Code::FailedPrecondition => Code::Precondition,
        _ => Code::Failed,
    };
    Failure::new(code, format!("{asked}: store {store_id} says: {}", status.message()))
}
