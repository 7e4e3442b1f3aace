//! Bytes that nobody should send, on every port: the cluster serves on, and nothing panics.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use proto::raft_serverpb::{RaftMessage, SnapshotChunk};
use proto::schedulerpb::peer_client::PeerClient;
use proto::schedulerpb::{DescribeRequest, RaftBatch};
use proto::tikvpb::BatchRaftMessage;
use proto::tikvpb::tikv_client::TikvClient;
use proto::{eraftpb, kvrpcpb, metapb, pdpb};
use serde_json::Value;
use tempfile::TempDir;
use tessera::{ApiVersion, Cluster, readiness};

use crate::cluster::{TESSERA, own_address, signal, until};

/// Long enough for a server to answer or hang up; a test never waits for more.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A playground whose words on stderr are kept: there a panic would show.
struct Attacked {
    child: Child,
    folder: TempDir,
    ready: Value,
}

impl Attacked {
    async fn start() -> Self {
        Self::start_as(Command::new(TESSERA)).await
    }

    /// `command` becomes the program with these arguments.
    async fn start_as(mut command: Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ready = folder.path().join("ready.json");
        let said = std::fs::File::create(folder.path().join("stderr")).unwrap();
        let child = command
            .args(["playground", "--port", "0", "--host", &own_address().to_string()])
            .arg("--ready-file")
            .arg(&ready)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .spawn()
            .unwrap();
        let mut attacked = Self { child, folder, ready: Value::Null };
        let text = until("the ready file", || {
            let ended = attacked.child.try_wait().unwrap();
            assert!(ended.is_none(), "the playground ended early: {ended:?}");
            let text = std::fs::read_to_string(&ready).ok();
            async move { text }
        })
        .await;
        attacked.ready = serde_json::from_str(&text).unwrap();
        attacked
    }

    fn endpoints(&self) -> Vec<String> {
        let all = self.ready["pd_endpoints"].as_array().unwrap();
        all.iter().map(|endpoint| endpoint.as_str().unwrap().to_owned()).collect()
    }

    /// Ids and addresses.
    fn stores(&self) -> Vec<(u64, String)> {
        let store = |store: &Value| {
            (store["id"].as_u64().unwrap(), store["address"].as_str().unwrap().to_owned())
        };
        self.ready["stores"].as_array().unwrap().iter().map(store).collect()
    }

    /// Where members speak to each other.
    async fn peer_ports(&self) -> Vec<SocketAddr> {
        let url = format!("http://{}", self.endpoints()[0]);
        let mut scheduler = pdpb::pd_client::PdClient::connect(url).await.unwrap();
        let members = scheduler.get_members(pdpb::GetMembersRequest::default()).await.unwrap();
        let urls = members.into_inner().members.into_iter().flat_map(|member| member.peer_urls);
        urls.map(|url| url.trim_start_matches("http://").parse().unwrap()).collect()
    }

    /// Client, peer, service and status ports.
    async fn ports(&self) -> Vec<SocketAddr> {
        let endpoints = self.endpoints();
        let complete = readiness::replicas(&endpoints, 3, ApiVersion::V1, READ_TIMEOUT).await;
        let stores = complete.unwrap().stores;
        let mut ports: Vec<SocketAddr> = endpoints.iter().map(|it| it.parse().unwrap()).collect();
        ports.extend(self.peer_ports().await);
        for store in stores {
            ports.push(store.address.parse().unwrap());
            ports.push(store.status_address.parse().unwrap());
        }
        assert_eq!(ports.len(), 12, "{ports:?}");
        ports
    }

    async fn client(&self) -> client::Client {
        readiness::client(&self.endpoints(), ApiVersion::V1).await.unwrap()
    }

    /// It serves, stops as it should, and nothing in it has panicked.
    async fn serves_on(mut self) {
        let client = self.client().await;
        client.raw().put("after", "1").await.unwrap();
        assert!(client.raw().get("before").await.unwrap().is_some());
        signal(self.child.id(), "-TERM");
        let status = until("the playground to stop", || {
            let status = self.child.try_wait().unwrap();
            async move { status }
        })
        .await;
        let said = std::fs::read_to_string(self.folder.path().join("stderr")).unwrap();
        assert_eq!(status.code(), Some(0), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

impl Drop for Attacked {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A gRPC call whose message claims more bytes than it has: 4 GiB.
fn endless_message(path: &str) -> Vec<u8> {
    let literal = |text: &str| [&[text.len() as u8][..], text.as_bytes()].concat();
    // POST, http, the path, and content-type, by their numbers in the static table; then a name.
    let headers = [
        vec![0x83, 0x86, 0x04],
        literal(path),
        vec![0x0f, 0x10],
        literal("application/grpc"),
        vec![0x00],
        literal("te"),
        literal("trailers"),
    ]
    .concat();
    let message = [0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3];
    [PREFACE, &frame(4, 0, 0, &[]), &frame(1, 4, 1, &headers), &frame(0, 1, 1, &message)].concat()
}

/// What an attacker or a lost program might send first.
fn first_bytes() -> Vec<Vec<u8>> {
    // A frame that claims 16 MiB - 1 of headers, and one of settings with the wrong length.
    let oversized = [PREFACE, &[0xff, 0xff, 0xff, 1, 4, 0, 0, 0, 1, 1, 2, 3]].concat();
    let settings = [PREFACE, &[0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]].concat();
    let garbage: Vec<u8> =
        (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let long_line = [b"GET /".as_slice(), &vec![b'a'; 1 << 20], b" HTTP/1.1\r\n\r\n"].concat();
    let endless_body = b"POST /pd/api/v1/config HTTP/1.1\r\nHost: x\r\nContent-Length: \
        99999999999999999999\r\n\r\n{"
        .to_vec();
    let mut all = vec![
        Vec::new(),
        vec![0],
        garbage.clone(),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"GET /pd/api/v1/region/id/-1 HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        oversized,
        settings,
        [PREFACE, &frame(4, 0, 0, &[]), &frame(1, 4, 1, &garbage[..1000])].concat(),
        long_line,
        endless_body,
    ];
    for path in ["/tikvpb.Tikv/RawPut", "/pdpb.PD/GetMembers", "/schedulerpb.Peer/Describe"] {
        all.push(endless_message(path));
    }
    all
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

/// Numbers that no raft group comes to, and some that one could.
const ABSURD: [(u64, u64); 6] = [
    (0, 0),
    (u64::MAX, u64::MAX),
    (1 << 56, 1 << 56),
    (1 << 40, 7),
    (6, u64::MAX - 1),
    (u32::MAX as u64, 1 << 55),
];

fn absurd_message(kind: i32, (term, index): (u64, u64), from: u64, to: u64) -> eraftpb::Message {
    let entry = eraftpb::Entry { index, term, entry_type: 2, ..Default::default() };
    eraftpb::Message {
        msg_type: kind,
        term,
        log_term: term,
        index,
        commit: index,
        from,
        to,
        entries: vec![entry; 2],
        reject_hint: u64::MAX,
        ..Default::default()
    }
}

/// Messages with every field wrong that can be wrong.
fn absurd_messages(store: u64, region: u64) -> Vec<RaftMessage> {
    let peer = |id, store_id| Some(metapb::Peer { id, store_id, ..Default::default() });
    let mut all = Vec::new();
    for kind in 0..=20 {
        for numbers in ABSURD {
            for region_id in [0, region, region + 1_000_000] {
                all.push(RaftMessage {
                    region_id,
                    from_peer: peer(77, store + 50),
                    to_peer: peer(2, store),
                    region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 1 }),
                    message: Some(absurd_message(kind, numbers, 77, 2)),
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
    let cluster = Attacked::start().await;
    cluster.client().await.raw().put("before", "1").await.unwrap();
    let ports = cluster.ports().await;
    let attacks =
        ports.into_iter().map(|port| tokio::task::spawn_blocking(move || send_garbage(port)));
    for attack in attacks.collect::<Vec<_>>() {
        attack.await.unwrap();
    }
    cluster.serves_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absurd_raft_messages_leave_the_cluster_serving() {
    let cluster = Attacked::start().await;
    cluster.client().await.raw().put("before", "1").await.unwrap();
    for (id, address) in cluster.stores() {
        let mut attacker = TikvClient::connect(format!("http://{address}")).await.unwrap();
        for region in [1, 2, 3, 4] {
            let batch =
                BatchRaftMessage { msgs: absurd_messages(id, region), ..Default::default() };
            // The store may end the stream; it may not end itself.
            let _ = attacker.batch_raft(tokio_stream::once(batch)).await;
        }
    }
    cluster.serves_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absurd_messages_among_members_leave_the_scheduler_serving() {
    let cluster = Attacked::start().await;
    cluster.client().await.raw().put("before", "1").await.unwrap();
    for port in cluster.peer_ports().await {
        let mut attacker = PeerClient::connect(format!("http://{port}")).await.unwrap();
        let group = attacker.describe(DescribeRequest {}).await.unwrap().into_inner();
        let ids: Vec<u64> = group.members.iter().map(|member| member.member_id).collect();
        let mut messages = Vec::new();
        for kind in 0..=20 {
            for numbers in ABSURD {
                for (from, to) in
                    [(77, ids[0]), (ids[0], ids[1]), (ids[1], ids[2]), (ids[2], ids[2])]
                {
                    messages.push(absurd_message(kind, numbers, from, to));
                }
            }
        }
        for group_id in [0, group.group_id] {
            let batch = RaftBatch {
                group_id,
                cluster_id: group.cluster_id,
                from: None,
                messages: messages.clone(),
            };
            let _ = attacker.raft(tokio_stream::once(batch)).await;
        }
    }
    cluster.serves_on().await;
}

/// More of them than the process may open files: engines, and those who were there before, go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_do_not_starve_the_cluster() {
    let (_, limit) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit).unwrap();
    // Twelve times this is more than the cluster's limit; and we need descriptors of our own.
    let silent_per_port = 120.min((limit - 300) / 12);
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 1024; exec \"$0\" \"$@\"", TESSERA]);
    let cluster = Attacked::start_as(command).await;
    let client = cluster.client().await;
    client.raw().put("before", "1").await.unwrap();
    let mut silent = Vec::new();
    for port in cluster.ports().await {
        for _ in 0..silent_per_port {
            // At the end they are refused, at once or a little later.
            silent.extend(TcpStream::connect(port));
        }
    }
    // Enough for memtables to be written to files, which must be opened for it.
    for n in 0..120 {
        client.raw().put(format!("large/{n}"), vec![b'v'; 1 << 20]).await.unwrap();
    }
    drop(silent);
    cluster.serves_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_snapshots_are_refused_in_words() {
    let cluster = Attacked::start().await;
    cluster.client().await.raw().put("before", "1").await.unwrap();
    let (id, address) = cluster.stores().remove(0);
    let mut attacker = TikvClient::connect(format!("http://{address}")).await.unwrap();
    let message = absurd_messages(id, 2).into_iter().find(|message| message.region_id == 2);
    let first = |message: Option<RaftMessage>, size: u64| SnapshotChunk {
        message,
        data: size.to_be_bytes().to_vec().into(),
    };
    let chunk = |data: &'static [u8]| SnapshotChunk { message: None, data: data.into() };
    let streams = [
        vec![],
        vec![first(None, 3)],
        vec![SnapshotChunk { message: message.clone(), data: "".into() }],
        vec![first(message.clone(), u64::MAX)],
        vec![first(message.clone(), 3), chunk(b"abc")],
        vec![first(message.clone(), 3), chunk(b"\0\0\0\0abc")],
        vec![first(Some(RaftMessage::default()), 0)],
    ];
    for stream in streams {
        let refused = attacker.snapshot(tokio_stream::iter(stream.clone())).await.unwrap_err();
        assert!(!refused.message().is_empty(), "{stream:?}");
    }
    // Whole, and about nothing that is known here: taken, looked at, and thrown away.
    let _ = attacker.snapshot(tokio_stream::iter(vec![first(message, 0)])).await;
    cluster.serves_on().await;
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
