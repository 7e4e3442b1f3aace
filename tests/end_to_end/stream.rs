//! The batched stream that official clients use: thousands of commands, each answered once.

use std::collections::BTreeMap;

use proto::kvrpcpb::{Context, GetRequest, RawGetRequest, RawPutRequest};
use proto::tikvpb::batch_commands_request::{Request, request::Cmd};
use proto::tikvpb::batch_commands_response::{Response, response::Cmd as Answer};
use proto::tikvpb::tikv_client::TikvClient;
use proto::tikvpb::{BatchCommandsEmptyRequest, BatchCommandsRequest};
use tessera::ApiVersion;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::cluster::{PATIENCE, Processes};

/// Messages on the stream, and commands in each.
const MESSAGES: u64 = 100;
const COMMANDS: u64 = 64;

/// What a command with this id asks: all kinds take turns, on a few keys.
fn command(id: u64, context: &Context) -> Option<Cmd> {
    let context = Some(context.clone());
    let key = format!("k{:03}", id % 200).into();
    Some(match id % 5 {
        0 => Cmd::RawPut(RawPutRequest { context, key, value: "v".into(), ..Default::default() }),
        1 => Cmd::RawGet(RawGetRequest { context, key, ..Default::default() }),
        2 => Cmd::Get(GetRequest { context, key, version: u64::MAX, ..Default::default() }),
        // A region that does not exist: refused, and no reason to end the stream.
        3 => {
            let context = context.map(|context| Context { region_id: 1 << 40, ..context });
            Cmd::RawPut(RawPutRequest { context, key, value: "x".into(), ..Default::default() })
        }
        _ => Cmd::Empty(BatchCommandsEmptyRequest { test_id: id, ..Default::default() }),
    })
}

/// The answer must be of its command's kind, and say what that command deserves.
fn check(id: u64, answer: Option<Answer>) {
    match (id % 5, answer) {
        (0, Some(Answer::RawPut(put))) => {
            assert!(put.region_error.is_none() && put.error.is_empty(), "{id}: {put:?}");
        }
        (1, Some(Answer::RawGet(get))) => {
            assert!(get.region_error.is_none(), "{id}: {get:?}");
            assert!(get.not_found || get.value == "v".as_bytes(), "{id}: {get:?}");
        }
        (2, Some(Answer::Get(get))) => assert!(get.not_found, "{id}: {get:?}"),
        (3, Some(Answer::RawPut(put))) => assert!(put.region_error.is_some(), "{id}: {put:?}"),
        (4, Some(Answer::Empty(empty))) => assert_eq!(empty.test_id, id),
        (_, other) => panic!("{id} is answered by {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_a_long_stream_is_answered_once() {
    let cluster = Processes::start(1, 3, ApiVersion::V1).await;
    let (leader, context) = cluster.leader_context(b"k").await;
    let url = format!("http://{}", cluster.stores[leader].address);
    let mut store = TikvClient::connect(url).await.unwrap();
    // The writer runs ahead of the answers: nobody waits for one before sending the next.
    let (messages, stream) = mpsc::channel(MESSAGES as usize);
    for message in 0..MESSAGES {
        let request_ids: Vec<u64> = (message * COMMANDS..(message + 1) * COMMANDS).collect();
        let requests =
            request_ids.iter().map(|id| Request { cmd: command(*id, &context) }).collect();
        let message = BatchCommandsRequest { requests, request_ids, ..Default::default() };
        messages.send(message).await.unwrap();
    }
    drop(messages);
    let answering = store.batch_commands(ReceiverStream::new(stream));
    let mut answers =
        tokio::time::timeout(PATIENCE, answering).await.unwrap().unwrap().into_inner();
    let mut answered: BTreeMap<u64, u32> = BTreeMap::new();
    // The client has said everything, so the stream ends when the last answer is given.
    while let Some(message) =
        tokio::time::timeout(PATIENCE, answers.message()).await.unwrap().unwrap()
    {
        assert_eq!(message.responses.len(), message.request_ids.len());
        for (id, Response { cmd }) in message.request_ids.into_iter().zip(message.responses) {
            *answered.entry(id).or_default() += 1;
            check(id, cmd);
        }
    }
    assert!(answered.keys().copied().eq(0..MESSAGES * COMMANDS), "{} ids", answered.len());
    assert!(answered.values().all(|times| *times == 1), "an id was answered twice");
}
