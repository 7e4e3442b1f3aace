//! Bytes that nobody should send, on every port: the cluster serves on.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use proto::raft_serverpb::RaftMessage;
use proto::tikvpb::BatchRaftMessage;
use proto::tikvpb::tikv_client::TikvClient;
use proto::{eraftpb, kvrpcpb, metapb};
use tessera::Cluster;

use crate::cluster::own_address;

/// Long enough for a server to answer or hang up; a test never waits for more.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// What an attacker or a lost program might send first.
fn first_bytes() -> Vec<Vec<u8>> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // A frame that claims 16 MiB - 1 of headers, and one of settings with the wrong length.
    let oversized = [&preface[..], &[0xff, 0xff, 0xff, 1, 4, 0, 0, 0, 1, 1, 2, 3]].concat();
    let settings = [&preface[..], &[0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]].concat();
    let garbage: Vec<u8> =
        (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    vec![
        Vec::new(),
        vec![0],
        garbage,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        oversized,
        settings,
    ]
}

fn send_garbage(address: SocketAddr) {
    for bytes in first_bytes() {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(READ_TIMEOUT)).unwrap();
        // The other side may hang up while we still write.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = [0; 1024];
        let _ = stream.read(&mut answer);
    }
}

/// Messages with every field wrong that can be wrong.
fn absurd_messages(store: u64, region: u64) -> Vec<RaftMessage> {
    let peer = |id, store_id| Some(metapb::Peer { id, store_id, ..Default::default() });
    let mut all = Vec::new();
    for kind in 0..=20 {
        for (term, index) in [(0, 0), (u64::MAX, u64::MAX), (1 << 40, 7), (6, u64::MAX - 1)] {
            for region_id in [0, region, region + 1_000_000] {
                let entry = eraftpb::Entry { index, term, entry_type: 2, ..Default::default() };
                let message = eraftpb::Message {
                    msg_type: kind,
                    term,
                    log_term: term,
                    index,
                    commit: index,
                    from: 77,
                    to: 2,
                    entries: vec![entry; 2],
                    reject_hint: u64::MAX,
                    ..Default::default()
                };
                all.push(RaftMessage {
                    region_id,
                    from_peer: peer(77, store + 50),
                    to_peer: peer(2, store),
                    region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 1 }),
                    message: Some(message),
                    ..Default::default()
                });
            }
        }
    }
    all.push(RaftMessage::default());
    all.push(RaftMessage { region_id: region, is_tombstone: true, ..Default::default() });
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_every_port_leaves_the_cluster_serving() {
    let cluster = Cluster::builder().host(own_address()).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    client.raw().put("before", "1").await.unwrap();
    let mut ports: Vec<SocketAddr> =
        cluster.pd_endpoints().iter().map(|endpoint| endpoint.parse().unwrap()).collect();
    ports.extend(cluster.stores().iter().map(|store| store.address.parse::<SocketAddr>().unwrap()));
    for port in ports {
        tokio::task::spawn_blocking(move || send_garbage(port)).await.unwrap();
    }
    client.raw().put("after", "1").await.unwrap();
    assert!(client.raw().get("before").await.unwrap().is_some());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absurd_raft_messages_leave_the_cluster_serving() {
    let cluster = Cluster::builder().host(own_address()).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    client.raw().put("before", "1").await.unwrap();
    for store in cluster.stores() {
        let mut attacker = TikvClient::connect(format!("http://{}", store.address)).await.unwrap();
        for region in [1, 2, 3, 4] {
            let batch =
                BatchRaftMessage { msgs: absurd_messages(store.id, region), ..Default::default() };
            // The store may end the stream; it may not end itself.
            let _ = attacker.batch_raft(tokio_stream::once(batch)).await;
        }
    }
    client.raw().put("after", "1").await.unwrap();
    assert!(client.raw().get("before").await.unwrap().is_some());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_make_no_sense_are_answered() {
    let cluster = Cluster::builder().host(own_address()).stores(1).start().await.unwrap();
    let store = &cluster.stores()[0];
    let mut caller = TikvClient::connect(format!("http://{}", store.address)).await.unwrap();
    let response = caller.raw_get(kvrpcpb::RawGetRequest::default()).await.unwrap().into_inner();
    assert!(response.region_error.is_some(), "no context: {response:?}");
    let context = kvrpcpb::Context { region_id: 12_345, ..Default::default() };
    let request = kvrpcpb::GetRequest { context: Some(context), ..Default::default() };
    let response = caller.kv_get(request).await.unwrap().into_inner();
    assert!(response.region_error.is_some(), "an unknown region: {response:?}");
    let huge = kvrpcpb::RawPutRequest {
        key: vec![b'k'; 1 << 20].into(),
        value: vec![b'v'; 32 << 20].into(),
        ..Default::default()
    };
    // Refused in the answer or by the transport, but answered.
    let _ = tokio::time::timeout(READ_TIMEOUT, caller.raw_put(huge)).await.unwrap();
    let client = cluster.client().await.unwrap();
    client.raw().put("after", "1").await.unwrap();
    cluster.stop().await;
}
