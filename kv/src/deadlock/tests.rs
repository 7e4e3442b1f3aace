//! Two stores whose transactions wait for each other, over real sockets.

use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::deadlock::deadlock_server::DeadlockServer;
use tokio::net::TcpListener;

use super::link::{Place, Whereabouts, run};
use super::*;
use crate::keys::Key;
use crate::net::incoming::Cut;
use crate::txn::lock_wait::{LockWait, Wanted, Woken};

/// A store that can be made the detector.
struct Store {
    waits: LockWait,
    leads: Arc<AtomicBool>,
    address: String,
    _cut: Cut,
}

/// Who the detector is, as everybody knows at once.
#[derive(Clone)]
struct Known {
    own: String,
    detector: Arc<Mutex<String>>,
}

impl Whereabouts for Known {
    async fn find(&self) -> Option<Place> {
        let detector = self.detector.lock().clone();
        Some(if detector == self.own { Place::Here } else { Place::At(detector) })
    }

    fn doubt(&self, _place: &Place) {}
}

async fn store(detector_at: &Arc<Mutex<String>>) -> Store {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let leads = Arc::new(AtomicBool::new(false));
    let asked = leads.clone();
    let detector = Detector::new(Box::new(move || asked.load(Ordering::SeqCst)));
    let (waits, cut) = (LockWait::default(), Cut::new());
    let service = service::Service::new(detector.clone(), waits.clone(), cut.ear());
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(DeadlockServer::new(service))
            .serve_with_incoming(incoming),
    );
    let known = Known { own: address.clone(), detector: detector_at.clone() };
    tokio::spawn(run(waits.clone(), detector, known));
    Store { waits, leads, address, _cut: cut }
}

fn wanted(txn: u64, holder: u64, key: &'static str) -> Wanted {
    let (key, tag) = (Key::new(key), Bytes::from(format!("statement of {txn}")));
    Wanted { txn, holder, key, tag, is_first_lock: false }
}

/// The circle that ends this wait, at the latest when waits end by themselves.
async fn deadlock(ticket: crate::txn::lock_wait::Ticket) -> crate::txn::problem::Deadlock {
    match ticket.wait(Duration::from_secs(10)).await {
        Some(Woken::Deadlock(deadlock)) => *deadlock,
        other => panic!("no deadlock was found: {other:?}"),
    }
}

#[tokio::test]
async fn a_circle_through_two_stores_is_found_and_told_whole() {
    let detector_at = Arc::new(Mutex::new(String::new()));
    let (first, second) = (store(&detector_at).await, store(&detector_at).await);
    first.leads.store(true, Ordering::SeqCst);
    detector_at.lock().clone_from(&first.address);
    // 1 holds a and wants b, which 2 holds; b is on the second store.
    let one = second.waits.enter(&wanted(1, 2, "b")).unwrap();
    // 2 wants a, on the first store: the detector's own.
    let two = first.waits.enter(&wanted(2, 1, "a")).unwrap();
    // Whichever wait the detector hears of last closes the circle.
    let found = tokio::select! { found = deadlock(one) => found, found = deadlock(two) => found };
    assert_eq!(found.wait_chain.len(), 2);
    let closing = found.wait_chain.last().unwrap();
    assert_eq!((closing.txn, closing.wait_for_txn), (found.start_ts, found.lock_ts));
    assert_eq!(closing.resource_group_tag, format!("statement of {}", found.start_ts));
    assert_eq!(found.deadlock_key, if found.start_ts == 1 { "a" } else { "b" });
}

#[tokio::test]
async fn waits_are_told_again_when_the_first_region_has_another_leader() {
    let detector_at = Arc::new(Mutex::new(String::new()));
    let (first, second) = (store(&detector_at).await, store(&detector_at).await);
    let third = store(&detector_at).await;
    first.leads.store(true, Ordering::SeqCst);
    detector_at.lock().clone_from(&first.address);
    let one = second.waits.enter(&wanted(1, 2, "b")).unwrap();
    // The detector moves; it knows of none of the waits before.
    first.leads.store(false, Ordering::SeqCst);
    third.leads.store(true, Ordering::SeqCst);
    detector_at.lock().clone_from(&third.address);
    let two = first.waits.enter(&wanted(2, 1, "a")).unwrap();
    let found = tokio::select! { found = deadlock(one) => found, found = deadlock(two) => found };
    assert_eq!(found.wait_chain.len(), 2);
}

#[test]
fn who_is_no_detector_any_more_forgets() {
    let leads = Arc::new(AtomicBool::new(true));
    let asked = leads.clone();
    let detector = Detector::new(Box::new(move || asked.load(Ordering::SeqCst)));
    let wait = |txn, holder| DeadlockRequest {
        entry: Some(crate::txn::deadlock::entry(txn, holder, &"k".into(), &Bytes::new())),
        ..Default::default()
    };
    let teller = detector.teller();
    assert!(detector.is_here());
    assert!(teller.tell(wait(1, 2)).is_none());
    assert!(teller.tell(wait(2, 1)).is_some());
    leads.store(false, Ordering::SeqCst);
    assert!(!detector.is_here());
    leads.store(true, Ordering::SeqCst);
    assert!(teller.tell(wait(2, 1)).is_none());
    drop(teller);
    assert!(detector.graph.lock().is_empty());
}
