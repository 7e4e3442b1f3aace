//! What becomes of a commit that fails, or that nobody waits for any more.
//!
//! As long as the commit point lies ahead it is rolled back. On a short cut it may be reached while
//! the last answer is still on its way, so a commit dropped there is *settled*: asked about like any
//! other transaction whose client is gone, and finished the way it turns out to have gone.

use bytes::Bytes;
use proto::{Timestamp, kvrpcpb};

use crate::error::{Error, Result};
use crate::txn::TransactionClient;

/// What to do when it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    RollBack,
    Settle,
    /// It is over, or only the stores know whether it is.
    Leave,
}

/// A commit as seen from its possible end: acts, in the background, when dropped.
pub(super) struct Abandoned<'a> {
    client: &'a TransactionClient,
    start: Timestamp,
    primary: Bytes,
    keys: Vec<Bytes>,
    remedy: Remedy,
}

impl<'a> Abandoned<'a> {
    pub(super) fn new(
        client: &'a TransactionClient,
        start: Timestamp,
        primary: &Bytes,
        keys: Vec<Bytes>,
    ) -> Self {
        Self { client, start, primary: primary.clone(), keys, remedy: Remedy::RollBack }
    }

    pub(super) fn roll_back(&mut self) {
        self.remedy = Remedy::RollBack;
    }

    pub(super) fn settle(&mut self) {
        self.remedy = Remedy::Settle;
    }

    pub(super) fn leave(&mut self) {
        self.remedy = Remedy::Leave;
    }
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if self.remedy == Remedy::Leave || self.keys.is_empty() {
            return;
        }
        let client = self.client.clone();
        let start = self.start;
        let remedy = self.remedy;
        let primary = self.primary.clone();
        let keys = std::mem::take(&mut self.keys);
        self.client.cluster.in_background(async move {
            let done = match remedy {
                Remedy::RollBack => roll_back(&client, start, keys).await,
                Remedy::Settle => client.settle(start, primary, keys).await,
                Remedy::Leave => Ok(()),
            };
            if let Err(error) = done {
                // The locks expire, and whoever meets them does the rest.
                tracing::debug!(%start, %error, "left a transaction to be finished by others");
            }
        });
    }
}

async fn roll_back(client: &TransactionClient, start: Timestamp, keys: Vec<Bytes>) -> Result<()> {
    let mut call = client.call("rollback");
    let request = |keys: &[Bytes]| kvrpcpb::BatchRollbackRequest {
        start_version: start.0,
        keys: keys.to_vec(),
        ..Default::default()
    };
    let answers = client.cluster.many(&mut call, client.keys(), keys, request).await?;
    match answers.into_iter().find_map(|(_, answer)| answer.error) {
        None => Ok(()),
        Some(error) => Err(Error::rejected(format!("{error:?}"))),
    }
}
