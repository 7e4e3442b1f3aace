//! The client's examples against a real cluster; its own tests run them against one that misbehaves.

use client::blocking;
use tessera::Cluster;

use crate::cluster::own_address;

#[path = "../../client/examples/past.rs"]
mod past;
#[path = "../../client/examples/threads.rs"]
mod threads;
#[path = "../../client/examples/tour.rs"]
mod tour;
#[path = "../../client/examples/transfer.rs"]
mod transfer;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_examples_run_on_a_real_cluster() {
    let cluster = Cluster::builder().host(own_address()).start().await.unwrap();
    let client = cluster.client().await.unwrap();
    tour::example(&client).await.unwrap();
    transfer::example(&client).await.unwrap();
    past::example(&client).await.unwrap();
    let endpoints = cluster.pd_endpoints();
    tokio::task::spawn_blocking(move || {
        threads::example(&blocking::Client::connect(endpoints).unwrap()).unwrap();
    })
    .await
    .unwrap();
    cluster.stop().await;
}
