//! Store id → address, asked of the scheduler and believed for a while.
//!
//! An address is asked again when it is older than [`BELIEVED_FOR`] or when someone found nobody (or
//! somebody else) there and said so with [`Resolver::doubt`].

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use proto::{StoreId, metapb};

use crate::scheduler_link::client::{CallError, SchedulerClient};

/// How long an address is believed without a new look.
const BELIEVED_FOR: Duration = Duration::from_secs(60);

/// Who knows where stores are.
pub(crate) trait Directory: Send + Sync + 'static {
    fn store(&self, id: u64) -> impl Future<Output = Result<metapb::Store, CallError>> + Send;
}

impl Directory for SchedulerClient {
    fn store(&self, id: u64) -> impl Future<Output = Result<metapb::Store, CallError>> + Send {
        self.store(id)
    }
}

struct Believed {
    address: String,
    until: Instant,
}

/// Where stores are, as far as known.
pub(crate) struct Resolver<D> {
    directory: Arc<D>,
    believed: Mutex<BTreeMap<StoreId, Believed>>,
}

impl<D: Directory> Resolver<D> {
    pub(crate) fn new(directory: Arc<D>) -> Self {
        Self { directory, believed: Mutex::default() }
    }

    /// The `host:port` other stores reach this one at.
    pub(crate) async fn address(&self, store: StoreId) -> Result<String, CallError> {
        let now = Instant::now();
        if let Some(believed) = self.believed.lock().get(&store)
            && now < believed.until
        {
            return Ok(believed.address.clone());
        }
        let answer = self.directory.store(store.0).await?;
        if answer.state() == metapb::StoreState::Tombstone {
            self.doubt(store);
            return Err(CallError::Unreachable(format!("{store} is gone for good")));
        }
        let address = match answer.peer_address.as_str() {
            "" => answer.address,
            peer_address => peer_address.to_owned(),
        };
        if address.is_empty() {
            return Err(CallError::Unreachable(format!("{store} has no address")));
        }
        let believed = Believed { address: address.clone(), until: now + BELIEVED_FOR };
        self.believed.lock().insert(store, believed);
        Ok(address)
    }

    /// Nobody answers there: ask anew the next time.
    pub(crate) fn doubt(&self, store: StoreId) {
        self.believed.lock().remove(&store);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stores by id, and how often they were asked for.
    #[derive(Default)]
    struct Book {
        stores: Mutex<BTreeMap<u64, metapb::Store>>,
        asked: Mutex<u32>,
    }

    impl Directory for Book {
        async fn store(&self, id: u64) -> Result<metapb::Store, CallError> {
            *self.asked.lock() += 1;
            let store = self.stores.lock().get(&id).cloned();
            store.ok_or_else(|| CallError::Unreachable("not found".into()))
        }
    }

    fn at(address: &str) -> metapb::Store {
        metapb::Store { address: address.into(), ..Default::default() }
    }

    #[tokio::test]
    async fn an_address_is_asked_once_and_again_after_a_doubt() {
        let book = Arc::new(Book::default());
        book.stores.lock().insert(1, at("a:1"));
        let resolver = Resolver::new(book.clone());
        assert_eq!(resolver.address(StoreId(1)).await.unwrap(), "a:1");
        book.stores.lock().insert(1, at("b:2"));
        assert_eq!(resolver.address(StoreId(1)).await.unwrap(), "a:1");
        assert_eq!(*book.asked.lock(), 1);
        resolver.doubt(StoreId(1));
        assert_eq!(resolver.address(StoreId(1)).await.unwrap(), "b:2");
        assert_eq!(*book.asked.lock(), 2);
    }

    #[tokio::test]
    async fn a_store_that_is_unknown_or_gone_has_no_address() {
        let book = Arc::new(Book::default());
        let mut gone = at("a:1");
        gone.set_state(metapb::StoreState::Tombstone);
        book.stores.lock().insert(1, gone);
        let resolver = Resolver::new(book);
        assert!(resolver.address(StoreId(1)).await.is_err());
        assert!(resolver.address(StoreId(2)).await.is_err());
    }
}
