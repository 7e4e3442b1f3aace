//! Transactional keys from the command line: each command is a transaction of its own.

use super::keyspace::{connect, failure};
use super::raw::{print_pairs, print_value, span};
use crate::args::TxnCommand;
use crate::exit::Outcome;
use crate::output::Format;

pub(crate) async fn run(endpoints: &[String], command: TxnCommand, format: Format) -> Outcome {
    let outcome = match command {
        TxnCommand::Get { key, keyspace } => {
            let transactions = connect(endpoints, &keyspace).await?.transactions();
            let snapshot = transactions.snapshot().await.map_err(|error| failure(&error))?;
            let value = snapshot.get(&key.0).await.map_err(|error| failure(&error))?;
            return print_value(&key.0, value.as_deref(), format);
        }
        TxnCommand::Put { key, value, keyspace } => {
            let transactions = connect(endpoints, &keyspace).await?.transactions();
            let put = async {
                let txn = transactions.begin().await?;
                txn.put(&key.0, value.0)?;
                txn.commit().await
            };
            put.await.map(drop)
        }
        TxnCommand::Scan(flags) => {
            let transactions = connect(endpoints, &flags.keyspace).await?.transactions();
            let snapshot = transactions.snapshot().await.map_err(|error| failure(&error))?;
            let (span, limit) = (span(&flags), flags.limit as usize);
            let pairs = if flags.reverse {
                snapshot.scan_reverse(span, limit).await
            } else {
                snapshot.scan(span, limit).await
            };
            pairs.map(|pairs| print_pairs(&pairs, &flags, format))
        }
    };
    outcome.map_err(|error| failure(&error))
}
