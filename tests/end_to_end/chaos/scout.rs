//! Who leads what right now, asked from outside with little patience: a nemesis that waits for an
//! answer from a cluster it has just broken would be a kind one.

use std::net::SocketAddr;
use std::time::Duration;

use proto::pdpb;
use proto::pdpb::pd_client::PdClient;
use tonic::transport::{Channel, Endpoint};

use super::load::KeyInUse;
use crate::cluster::http;

/// How long one member may take to answer.
const PATIENCE: Duration = Duration::from_millis(400);
/// How long a split may take until nobody waits for its end any more. It goes on all the same.
const SPLIT_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub(super) struct Scout {
    pub(super) members: Vec<SocketAddr>,
    pub(super) stores: Vec<SocketAddr>,
}

impl Scout {
    /// The scheduler's leader, as an index.
    pub(super) async fn leader_member(&self) -> Option<usize> {
        self.leader().await.map(|(index, ..)| index)
    }

    /// The store that leads the region of this key, as an index.
    pub(super) async fn leader_store(&self, key: &KeyInUse) -> Option<usize> {
        let (_, mut client, header) = self.leader().await?;
        let region_key = key.on_wire.clone();
        let header_too = header.clone();
        let request =
            pdpb::GetRegionRequest { header: header_too, region_key, ..Default::default() };
        let leader = client.get_region(request).await.ok()?.into_inner().leader?;
        let request = pdpb::GetStoreRequest { header, store_id: leader.store_id };
        let store = client.get_store(request).await.ok()?.into_inner().store?;
        let address: SocketAddr = store.address.parse().ok()?;
        self.stores.iter().position(|store| *store == address)
    }

    /// How many regions there are.
    pub(super) async fn regions(&self) -> Option<usize> {
        let (_, mut client, header) = self.leader().await?;
        let request = pdpb::ScanRegionsRequest { header, ..Default::default() };
        Some(client.scan_regions(request).await.ok()?.into_inner().regions.len())
    }

    /// Has the regions of these keys cut there; whether that was seen to happen.
    pub(super) async fn split(&self, keys: &[KeyInUse]) -> bool {
        let Some((_, mut client, header)) = self.leader().await else { return false };
        let request = pdpb::SplitRegionsRequest {
            header,
            split_keys: keys.iter().map(|key| key.on_wire.clone()).collect(),
            ..Default::default()
        };
        let answer = tokio::time::timeout(SPLIT_PATIENCE, client.split_regions(request)).await;
        matches!(answer, Ok(Ok(answer)) if answer.get_ref().finished_percentage == 100)
    }

    /// Asks the scheduler's leader to let this member lead.
    pub(super) async fn hand_over(&self, to: usize) -> bool {
        let Some(leader) = self.leader_member().await else { return false };
        let path = format!("/leader/transfer/m{}", to + 1);
        let answer = http(self.members[leader], "POST", &path);
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        matches!(answer, Ok(Ok((status, _))) if status.contains("200"))
    }

    /// The leader that the first member to answer names, and how to speak to it.
    async fn leader(&self) -> Option<(usize, PdClient<Channel>, Option<pdpb::RequestHeader>)> {
        for member in &self.members {
            let Some((_, members)) = open(*member).await else { continue };
            let Some(name) = members.leader.map(|leader| leader.name) else { continue };
            let number: usize = name.trim_start_matches('m').parse().ok()?;
            let index = number.checked_sub(1)?;
            let Some((client, members)) = open(*self.members.get(index)?).await else { continue };
            let cluster_id = members.header?.cluster_id;
            let header = pdpb::RequestHeader { cluster_id, ..Default::default() };
            return Some((index, client, Some(header)));
        }
        None
    }
}

/// A connection to a member, and what it says of all of them.
async fn open(member: SocketAddr) -> Option<(PdClient<Channel>, pdpb::GetMembersResponse)> {
    let endpoint = Endpoint::from_shared(format!("http://{member}")).ok()?;
    let endpoint = endpoint.connect_timeout(PATIENCE).timeout(SPLIT_PATIENCE);
    let mut client = PdClient::new(endpoint.connect().await.ok()?);
    let asked = client.get_members(pdpb::GetMembersRequest::default());
    let members = tokio::time::timeout(PATIENCE, asked).await.ok()?.ok()?.into_inner();
    Some((client, members))
}
