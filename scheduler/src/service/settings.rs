//! Global configuration that clients keep here, and timestamps that are set from outside.

use bytes::Bytes;
use proto::pdpb;
use proto::schedulerpb::{Change, KeyValue};
use tonic::Status;

use super::metadata::check_size;
use super::{Service, answer};
use crate::cluster::Refusal;
use crate::server::node::not_leader;

/// Where global configuration lies when no path is named.
const DEFAULT_PATH: &str = "/global/config/";
/// The only root that may be written; all may be read.
const ROOT: &str = "/global/config";

/// The path of a request, without a slash at its end.
pub(super) fn path_of(path: &str) -> &str {
    let path = if path.is_empty() { DEFAULT_PATH } else { path };
    path.trim_end_matches('/')
}

/// Whether something under this path may be written.
fn check_writable(path: &str) -> Result<(), Status> {
    let is_under_root =
        path.strip_prefix(ROOT).is_some_and(|below| below.is_empty() || below.starts_with('/'));
    if is_under_root {
        return Ok(());
    }
    Err(Status::invalid_argument(format!("config path {path:?} does not lie under {ROOT}")))
}

fn item(key: &Bytes, value: &KeyValue) -> pdpb::GlobalConfigItem {
    pdpb::GlobalConfigItem {
        name: String::from_utf8_lossy(key).into_owned(),
        payload: value.value.clone(),
        kind: pdpb::EventType::Put.into(),
        ..Default::default()
    }
}

impl Service {
    /// Everything under a path, as the log holds it.
    fn values_under(&self, path: &str) -> (Vec<(Bytes, KeyValue)>, i64) {
        let state = self.node.state.read();
        let prefix = format!("{path}/");
        let values = state
            .values()
            .range(Bytes::from(prefix.clone())..)
            .take_while(|(key, _)| key.starts_with(prefix.as_bytes()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        (values, i64::try_from(state.index()).unwrap_or(i64::MAX))
    }

    /// The older PD answers these without a header, and without looking at the cluster id.
    pub(super) async fn load_global_config(
        &self,
        request: pdpb::LoadGlobalConfigRequest,
    ) -> Result<pdpb::LoadGlobalConfigResponse, Status> {
        let serving = self.node.serving().ok_or_else(not_leader)?;
        serving.await_lease(&self.node).await?;
        let path = path_of(&request.config_path);
        let (values, revision) = self.values_under(path);
        if request.names.is_empty() {
            let items = values.iter().map(|(key, value)| item(key, value)).collect();
            return Ok(pdpb::LoadGlobalConfigResponse { items, revision });
        }
        let find = |name: String| {
            let wanted = format!("{path}/{name}");
            let found = values.iter().find(|(key, _)| *key == wanted.as_bytes());
            match found {
                Some((_, value)) => pdpb::GlobalConfigItem {
                    name,
                    payload: value.value.clone(),
                    kind: pdpb::EventType::Put.into(),
                    ..Default::default()
                },
                None => pdpb::GlobalConfigItem {
                    error: Some(pdpb::Error {
                        r#type: pdpb::ErrorType::GlobalConfigNotFound.into(),
                        message: format!("key {wanted} not found"),
                    }),
                    name,
                    ..Default::default()
                },
            }
        };
        let items = request.names.into_iter().map(find).collect();
        Ok(pdpb::LoadGlobalConfigResponse { items, revision })
    }

    pub(super) async fn store_global_config(
        &self,
        request: pdpb::StoreGlobalConfigRequest,
    ) -> Result<pdpb::StoreGlobalConfigResponse, Status> {
        let serving = self.node.serving().ok_or_else(not_leader)?;
        let path = path_of(&request.config_path);
        check_writable(path)?;
        let mut change = Change::default();
        for item in request.changes {
            let key = Bytes::from(format!("{path}/{}", item.name));
            match item.kind() {
                pdpb::EventType::Delete => change.delete_values.push(key),
                pdpb::EventType::Put => {
                    let value =
                        if item.payload.is_empty() { item.value.into() } else { item.payload };
                    change.put_values.push(KeyValue { key, value, ..KeyValue::default() });
                }
            }
        }
        check_size(&change)?;
        let decided = serving.change(&self.node, |_, _| Ok((change, ()))).await?;
        Ok(pdpb::StoreGlobalConfigResponse { error: decided.err().map(pdpb::Error::from) })
    }

    pub(super) async fn get_external_timestamp(
        &self,
        request: pdpb::GetExternalTimestampRequest,
    ) -> Result<pdpb::GetExternalTimestampResponse, Status> {
        let (_, cluster_id) = self.enter(request.header.as_ref()).await?;
        let timestamp = self.node.state.read().external_timestamp();
        let response = pdpb::GetExternalTimestampResponse { header: None, timestamp };
        Ok(answer(cluster_id, Ok(response)))
    }

    /// Must lie above the last one and not above the newest timestamp handed out.
    pub(super) async fn set_external_timestamp(
        &self,
        request: pdpb::SetExternalTimestampRequest,
    ) -> Result<pdpb::SetExternalTimestampResponse, Status> {
        let (serving, cluster_id) = self.enter(request.header.as_ref()).await?;
        let newest = serving.timestamp(&self.node, 1).await?;
        let wanted = request.timestamp;
        let decided = serving
            .change(&self.node, |_, _| {
                let last = self.node.state.read().external_timestamp();
                if wanted > newest.0 {
                    return Err(Refusal::InvalidValue(format!(
                        "external timestamp {wanted} lies above the newest timestamp {newest}"
                    )));
                }
                if wanted <= last {
                    return Err(Refusal::InvalidValue(format!(
                        "external timestamp {wanted} does not lie above the last one, {last}"
                    )));
                }
                Ok((Change { external_timestamp: wanted, ..Change::default() }, ()))
            })
            .await?;
        Ok(answer(cluster_id, decided.map(|()| Default::default())))
    }
}
