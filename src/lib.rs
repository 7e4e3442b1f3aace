//! A whole Tessera cluster inside this process, for tests and demonstrations.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = tessera::Cluster::builder().stores(3).schedulers(1).in_memory().start().await?;
//! let client = cluster.client().await?;
//! client.raw().put("greeting", "hello").await?;
//! // Any official TiKV client works as well, over real sockets:
//! println!("PD endpoints: {:?}", cluster.pd_endpoints());
//! cluster.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! The sockets are real and on free ports, so tests run beside each other. Dropping a cluster stops
//! it: no task, thread, port or temporary file is left behind. The program `tessera playground` is
//! this plus a terminal.

pub mod cluster;
pub mod readiness;

pub use cluster::{Builder, Cluster, SchedulerInfo, StartError, StoreInfo};
pub use kv::ApiVersion;
