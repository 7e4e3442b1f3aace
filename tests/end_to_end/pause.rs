//! A process that stands still, and wakes up believing that it leads.
//!
//! SIGSTOP is the fault that leases must survive: sockets stay open, requests pile up in them, and on
//! SIGCONT the old leader finds them all before it hears of its successor. Each question here is put
//! to the stopped process *after* its successor has acknowledged something newer, so that an answer
//! from before would be plainly wrong.

use std::time::Duration;

use proto::kvrpcpb;
use proto::pdpb::{self, TsoRequest};
use proto::tikvpb::tikv_client::TikvClient;
use tessera::ApiVersion;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::cluster::{PATIENCE, Processes, until};

/// How often the leader is stopped in turn.
const ROUNDS: usize = 3;

/// Questions that wait in the stopped process's sockets.
const QUESTIONS: usize = 50;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_stopped_longer_than_its_lease_answers_nothing_old() {
    let cluster = Processes::start(1, 3, ApiVersion::V1).await;
    let client = cluster.client().await;
    client.raw().put("k", "0").await.unwrap();
    for round in 1..=ROUNDS {
        let (leader, context) = cluster.leader_context(b"k").await;
        let store = &cluster.stores[leader];
        let mut direct = TikvClient::connect(format!("http://{}", store.address)).await.unwrap();
        let question = || kvrpcpb::RawGetRequest {
            context: Some(context.clone()),
            key: "k".into(),
            ..Default::default()
        };
        // The connection is open and the lease fresh: this is answered from memory.
        direct.raw_get(question()).await.unwrap();

        store.pause();
        let newest = round.to_string();
        until("a write without the stopped leader", || {
            let (client, newest) = (client.clone(), newest.clone());
            async move { client.raw().put("k", newest).await.ok() }
        })
        .await;
        let waiting: Vec<_> = (0..QUESTIONS)
            .map(|_| {
                let (mut direct, question) = (direct.clone(), question());
                tokio::spawn(async move { direct.raw_get(question).await })
            })
            .collect();
        // They wait in the socket of a process that stands still.
        tokio::time::timeout(Duration::from_millis(200), direct.raw_get(question()))
            .await
            .expect_err("a stopped process answers nothing");
        store.resume();
        for answer in waiting {
            let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap().unwrap().unwrap();
            let answer = answer.into_inner();
            let is_refused = answer.region_error.is_some();
            assert!(
                is_refused || answer.value == newest.as_bytes(),
                "round {round}: the deposed leader answers {:?}",
                answer.value
            );
        }
        let value = client.raw().get("k").await.unwrap();
        assert_eq!(value.as_deref(), Some(newest.as_bytes()));
    }
}

/// S0.21: a leader that stands still for longer than its lease hands out no timestamp from before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduler_leader_stopped_longer_than_its_lease_gives_no_old_timestamp() {
    let cluster = Processes::start(3, 1, ApiVersion::V1).await;
    let client = cluster.client().await;
    let mut last = client.timestamp().await.unwrap();
    for round in 1..=ROUNDS {
        let leader = cluster.leader_scheduler().await;
        let member = &cluster.schedulers[leader];
        let (mut direct, header) = cluster.scheduler().await;
        let (questions, stream) = mpsc::channel(QUESTIONS + 1);
        let question = TsoRequest { header: header.clone(), count: 1, ..Default::default() };
        questions.send(question.clone()).await.unwrap();
        let mut answers = direct.tso(ReceiverStream::new(stream)).await.unwrap().into_inner();
        let first = answers.message().await.unwrap().expect("a leader answers");
        last = last.max(timestamp(&first));

        member.pause();
        let from_successor = until("a timestamp from another member", || {
            let client = client.clone();
            async move { client.timestamp().await.ok() }
        })
        .await;
        assert!(from_successor > last, "round {round}: {from_successor} after {last}");
        last = from_successor;
        for _ in 0..QUESTIONS {
            questions.send(question.clone()).await.unwrap();
        }
        drop(questions);
        member.resume();
        // The deposed leader may end the stream; what it answers must be new.
        loop {
            let message = tokio::time::timeout(PATIENCE, answers.message()).await.unwrap();
            let Ok(Some(answer)) = message else { break };
            if answer.header.as_ref().is_some_and(|header| header.error.is_some()) {
                continue;
            }
            let now = timestamp(&answer);
            assert!(now > last, "round {round}: the deposed leader gives {now} after {last}");
            last = now;
        }
        let next = client.timestamp().await.unwrap();
        assert!(next > last, "round {round}: {next} after {last}");
        last = next;
    }
}

/// The last timestamp of an answer, which is the one it carries.
fn timestamp(answer: &pdpb::TsoResponse) -> client::Timestamp {
    let timestamp = answer.timestamp.expect("an answer without error has a timestamp");
    client::Timestamp::new(timestamp.physical as u64, timestamp.logical as u64)
}
