//! One port: gRPC, HTTP, and whatever else comes.

use std::net::TcpListener;

use proto::etcdserverpb::cluster_client::ClusterClient;
use proto::etcdserverpb::kv_client::KvClient;
use proto::etcdserverpb::{MemberListRequest, PutRequest, RangeRequest};
use proto::meta_storagepb::meta_storage_client::MetaStorageClient;
use proto::{meta_storagepb, pdpb};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{PATIENCE, Tso, alone, any_port, bootstrap, founders, header, leader, pd, start};
use crate::{Config, SchedulerNode, StartError};

/// One HTTP/1.1 request; the status line and headers, and the body.
pub(super) async fn http(
    node: &SchedulerNode,
    method: &str,
    path: &str,
    body: &str,
) -> (String, String) {
    let exchange = async {
        let mut socket = TcpStream::connect(node.client_address()).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: \
             application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await.expect("an answer comes");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    (head.to_owned(), body.to_owned())
}

async fn served(config: Config) -> SchedulerNode {
    let node = start(config).await;
    assert!(node.wait_until_served(PATIENCE).await);
    node
}

#[tokio::test]
async fn grpc_and_http_share_a_port() {
    let node = served(alone("a")).await;
    let members =
        pd(&node).await.get_members(pdpb::GetMembersRequest::default()).await.unwrap().into_inner();
    assert_eq!(members.header.unwrap().cluster_id, node.cluster_id());
    assert_ne!(node.cluster_id(), 0);
    let leader = members.leader.expect("it leads");
    assert_eq!(leader.client_urls, [node.client_url()]);
    assert_eq!(leader.member_id, node.member_id());

    let (head, body) = http(&node, "GET", "/pd/api/v1/members", "").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let shown: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(shown["header"]["cluster_id"], node.cluster_id());
    assert_eq!(shown["members"][0]["name"], "a");
    assert_eq!(shown["leader"]["client_urls"][0], node.client_url());
    assert!(body.starts_with("{\n  "), "it is indented: {body}");
    node.stop().await;
}

#[tokio::test]
async fn http_answers_as_pd_does() {
    let node = served(alone("a")).await;
    let (head, _) = http(&node, "HEAD", "/pd/api/v1/regions", "").await;
    assert!(head.starts_with("HTTP/1.1 405"), "{head}");
    let (head, body) = http(&node, "GET", "/pd/api/v1/regions", "").await;
    assert!(head.starts_with("HTTP/1.1 500") && body.contains("not bootstrapped"), "{head} {body}");
    bootstrap(&node).await;
    let get = async |path: &str| {
        let (head, body) = http(&node, "GET", path, "").await;
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
        serde_json::from_str::<serde_json::Value>(&body).unwrap_or_default()
    };
    assert_eq!(get("/pd/api/v1/regions").await["count"], 1);
    let region = get("/pd/api/v1/region/id/2").await;
    assert_eq!((&region["id"], &region["start_key"]), (&2.into(), &"".into()));
    assert_eq!(region["epoch"]["conf_ver"], 1);
    assert_eq!(region["peers"][0]["role_name"], "Voter");
    assert_eq!(get("/pd/api/v1/region/id/99").await, serde_json::Value::Null);
    assert_eq!(get("/pd/api/v1/region/key/abc").await["id"], 2);
    let stores = get("/pd/api/v1/stores").await;
    assert_eq!(stores["stores"][0]["store"]["state_name"], "Up");
    assert_eq!(stores["stores"][0]["status"]["capacity"], "0B");
    assert_eq!(get("/pd/api/v1/store/1").await["store"]["version"], "8.5.5");
    assert_eq!(get("/pd/api/v1/health").await[0]["health"], true);
    assert_eq!(get("/pd/api/v1/version").await["version"], "8.5.5");
    assert_eq!(get("/pd/api/v1/leader").await["name"], "a");
    assert_eq!(get("/pd/api/v1/cluster/status").await["is_initialized"], false);
    assert_eq!(get("/pd/api/v1/config").await["replication"]["max-replicas"], 3);
    get("/pd/api/v1/ping").await;
    get("/pd/api/v1/status").await;
    get("/").await;

    let (head, _) = http(&node, "GET", "/pd/api/v1/store/77", "").await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    let (head, _) = http(&node, "GET", "/no/such/path", "").await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
    let change = r#"{"max-replicas": 5, "location-labels": "zone,host"}"#;
    let (head, _) = http(&node, "POST", "/pd/api/v1/config/replicate", change).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(get("/pd/api/v1/config/replicate").await["location-labels"], "zone,host");
    let (head, _) = http(&node, "POST", "/pd/api/v1/config", r#"{"max-replicas": 0}"#).await;
    assert!(head.starts_with("HTTP/1.1 400"), "{head}");
    let keyspace = r#"{"name": "tenant"}"#;
    let (head, body) = http(&node, "POST", "/pd/api/v2/keyspaces", keyspace).await;
    assert!(head.starts_with("HTTP/1.1 200") && body.contains("\"id\": 1"), "{head} {body}");
    assert_eq!(get("/pd/api/v2/keyspaces/DEFAULT").await["state"], "ENABLED");
    node.stop().await;
}

/// S1.9: who asks for so many timestamps gets so many, in one piece; the answer names the last.
#[tokio::test]
async fn a_stream_of_timestamps_answers_each_request_in_order_and_ends_with_its_caller() {
    let node = served(alone("a")).await;
    let mut stream = Tso::open(&node).await.unwrap();
    let counts = || (0..1_000).map(|number| if number % 10 == 5 { 1_000 } else { 1 + number % 7 });
    for count in counts() {
        stream.ask(count).await;
    }
    let mut last = proto::Timestamp::ZERO;
    for asked in counts() {
        let (timestamp, count) = stream.answer().await.unwrap();
        assert_eq!(count, asked, "in order");
        assert!(timestamp.logical() >= u64::from(count), "the block lies in one millisecond");
        assert!(timestamp.0 - u64::from(count) >= last.0);
        last = timestamp;
    }
    let Tso { requests, mut responses, .. } = stream;
    drop(requests);
    assert_eq!(responses.message().await.unwrap(), None, "it ends without an error");

    let mut stream = Tso::open(&node).await.unwrap();
    stream.ask(0).await;
    let refused = stream.answer().await.unwrap_err();
    assert!(refused.message().contains("tso count should be positive"));
    node.stop().await;
}

/// S1.7, S1.8: a million timestamps and more for 64 clients at once, in batches: every request is answered, though
/// four milliseconds and more are used up, and no timestamp is given twice.
#[tokio::test]
async fn sixty_four_clients_get_a_million_timestamps_and_none_twice() {
    const CLIENTS: usize = 64;
    const REQUESTS: usize = 16;
    const BATCH: u32 = 1_000;
    let node = served(alone("a")).await;
    let one_client = async || {
        let mut stream = Tso::open(&node).await.unwrap();
        for _ in 0..REQUESTS {
            stream.ask(BATCH).await;
        }
        let mut lasts = Vec::new();
        for _ in 0..REQUESTS {
            lasts.push(stream.answer().await.unwrap().0);
        }
        lasts
    };
    let all = futures_util::future::join_all((0..CLIENTS).map(|_| one_client())).await;
    let mut lasts: Vec<_> = all.into_iter().flatten().collect();
    lasts.sort();
    assert_eq!(lasts.len(), CLIENTS * REQUESTS);
    let is_apart = |pair: &[proto::Timestamp]| pair[1].0 - pair[0].0 >= u64::from(BATCH);
    assert!(lasts.windows(2).all(is_apart), "batches overlap");
    node.stop().await;
}

#[tokio::test]
async fn a_caller_of_another_cluster_is_refused() {
    let node = served(alone("a")).await;
    let strange = pdpb::RequestHeader { cluster_id: 1, ..Default::default() };
    let request = pdpb::AllocIdRequest { header: Some(strange), count: 1 };
    let refused = pd(&node).await.alloc_id(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let expected = format!("mismatch cluster id, need {} but got 1", node.cluster_id());
    assert_eq!(refused.message(), expected);
    node.stop().await;
}

#[tokio::test]
async fn clients_find_health_reflection_and_the_slice_of_etcd() {
    let node = served(alone("a")).await;
    let channel = super::super::links::connect(node.client_url()).await.unwrap();
    let health = HealthClient::new(channel.clone())
        .check(HealthCheckRequest { service: String::new() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);

    let members = ClusterClient::new(channel.clone())
        .member_list(MemberListRequest { linearizable: true })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(members.members[0].client_ur_ls, [node.client_url()]);
    assert_eq!(members.header.unwrap().cluster_id, node.cluster_id());

    let mut kv = KvClient::new(channel.clone());
    let range = |key: &'static str| RangeRequest { key: key.into(), ..Default::default() };
    let found = kv.range(range("/tidb/store/gcworker/saved_safe_point")).await.unwrap();
    assert_eq!(found.into_inner().count, 0);
    for value in ["one", "two"] {
        let put = PutRequest { key: "k".into(), value: value.into(), ..Default::default() };
        kv.put(put).await.unwrap();
    }
    let found = kv.range(range("k")).await.unwrap().into_inner();
    assert_eq!((&found.kvs[0].value[..], found.kvs[0].version), (&b"two"[..], 2));
    let upside_down = RangeRequest { key: "z".into(), range_end: "a".into(), ..Default::default() };
    assert_eq!(kv.range(upside_down).await.unwrap().into_inner().count, 0);

    let registry = meta_storagepb::GetRequest {
        key: "/ms/1/router/registry/".into(),
        range_end: "/ms/1/router/registry0".into(),
        ..Default::default()
    };
    let found = MetaStorageClient::new(channel).get(registry).await.unwrap().into_inner();
    assert_eq!(found.kvs, []);
    let found = found.header.unwrap();
    assert!(found.cluster_id == node.cluster_id() && found.revision > 0);
    node.stop().await;
}

#[tokio::test]
async fn reflection_names_what_this_port_serves() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServiceResponse};

    let node = served(alone("a")).await;
    let channel = super::super::links::connect(node.client_url()).await.unwrap();
    let asked = Some(MessageRequest::ListServices(String::new()));
    let request = ServerReflectionRequest { message_request: asked, ..Default::default() };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(request))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    let mut names: Vec<_> = list.service.into_iter().map(|ServiceResponse { name }| name).collect();
    names.sort();
    let served = [
        "etcdserverpb.Cluster",
        "etcdserverpb.KV",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "keyspacepb.Keyspace",
        "meta_storagepb.MetaStorage",
        "pdpb.PD",
        "schedulerpb.Garbage",
    ];
    assert_eq!(names, served);
    node.stop().await;
}

#[tokio::test]
async fn a_request_that_keeps_too_much_here_is_refused() {
    let node = served(alone("a")).await;
    let channel = super::super::links::connect(node.client_url()).await.unwrap();
    let mut kv = KvClient::new(channel.clone());
    let mut meta = MetaStorageClient::new(channel);
    let large = vec![b'v'; crate::service::WRITE_BYTES_MAX];
    let put = PutRequest { key: "k".into(), value: large.clone().into(), ..Default::default() };
    let refused = kv.put(put).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("request is too large"), "{refused}");
    let put = meta_storagepb::PutRequest {
        key: "k".into(),
        value: large.clone().into(),
        ..Default::default()
    };
    assert_eq!(meta.put(put).await.unwrap_err().code(), Code::InvalidArgument);
    let item =
        pdpb::GlobalConfigItem { name: "k".into(), payload: large.into(), ..Default::default() };
    let store = pdpb::StoreGlobalConfigRequest { changes: vec![item], ..Default::default() };
    let refused = pd(&node).await.store_global_config(store).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let put = PutRequest { key: "k".into(), value: "small".into(), ..Default::default() };
    kv.put(put).await.unwrap();
    node.stop().await;
}

#[tokio::test]
async fn who_asks_for_too_many_ids_is_told_how_many_it_got() {
    let node = served(alone("a")).await;
    let mut client = pd(&node).await;
    let mut alloc = async |count| {
        let request = pdpb::AllocIdRequest { header: header(&node), count };
        client.alloc_id(request).await.unwrap().into_inner()
    };
    let before = alloc(1).await.id;
    let many = alloc(u32::MAX).await;
    assert_eq!(u64::from(many.count), crate::ids::COUNT_MAX);
    assert!(many.id - u64::from(many.count) >= before, "the block lies behind what was given");
    assert_eq!(alloc(1).await.id, many.id + 1);
    node.stop().await;
}

#[tokio::test]
async fn garbage_on_either_port_harms_nobody() {
    let node = served(alone("a")).await;
    let endless = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0xff; 4096]].concat();
    for address in [node.client_address(), node.peer_address()] {
        for bytes in [&b"\0\0\0\0garbage"[..], &endless, b"GET / HTTP/1.1\r\nbroken", b""] {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(bytes).await.ok();
            socket.shutdown().await.ok();
            let mut answer = Vec::new();
            let read = socket.read_to_end(&mut answer);
            tokio::time::timeout(PATIENCE, read).await.expect("the connection is ended").ok();
        }
    }
    let mut stream = Tso::open(&node).await.unwrap();
    stream.ask(1).await;
    stream.answer().await.unwrap();
    assert_eq!(node.fault(), None);
    node.stop().await;
}

#[tokio::test]
async fn a_stopped_or_dropped_member_leaves_its_ports_free() {
    for is_dropped in [true, false] {
        let node = served(alone("a")).await;
        let addresses = [node.client_address(), node.peer_address()];
        let stream = Tso::open(&node).await.unwrap();
        if is_dropped {
            drop(node);
        } else {
            node.stop().await;
        }
        for address in addresses {
            TcpListener::bind(address).expect("the port is free");
        }
        drop(stream);
    }
}

#[tokio::test]
async fn a_port_in_use_is_said_to_be() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = Config {
        client_listen: crate::Listen::On(address),
        peer_listen: any_port(),
        ..Config::default()
    };
    let error = SchedulerNode::start(config).await.unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }));
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

/// S1.3: whichever member is asked, the one that leads answers, or is named.
#[tokio::test]
async fn a_follower_passes_http_on_to_the_leader_and_refuses_the_rest() {
    let nodes = super::start_all(founders(&["a", "b", "c"])).await;
    let leader = leader(&nodes).await;
    let follower = nodes.iter().find(|node| node.name() != leader.name()).unwrap();
    super::eventually("the follower knows where clients reach the leader", async || {
        let path = "/pd/api/v1/stores?state=0";
        let (head, body) = http(follower, "GET", path, "").await;
        let (leaders_head, leaders_body) = http(leader, "GET", path, "").await;
        let status = |head: &str| head.lines().next().map(str::to_owned);
        !head.starts_with("HTTP/1.1 503")
            && status(&head) == status(&leaders_head)
            && body == leaders_body
    })
    .await;
    let request = pdpb::AllocIdRequest { header: header(leader), count: 1 };
    let refused = pd(follower).await.alloc_id(request).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "not leader"));
    let mut stream = Tso::open(follower).await.unwrap();
    stream.ask(1).await;
    assert!(stream.answer().await.unwrap_err().message().contains("not leader"));
    let mut client = pd(follower).await;
    let members = client.get_members(pdpb::GetMembersRequest::default()).await.unwrap();
    let members = members.into_inner();
    assert_eq!(members.members.len(), 3);
    assert_eq!(members.leader.unwrap().name, leader.name());
}
