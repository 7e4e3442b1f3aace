//! What a running store tells the program around it.

use crate::effects::Report;
use crate::error::Fault;

/// Listens to a store. Called by the store's threads, so no call may wait.
pub trait Observer: Send + Sync + 'static {
    /// Something that the scheduler or another onlooker wants to know.
    fn report(&self, report: Report);

    /// The store stops because of this, and answers everybody who waits. Called once. What becomes
    /// of the process is for the program to decide; going on with this store is not possible.
    fn fault(&self, fault: Fault);
}
