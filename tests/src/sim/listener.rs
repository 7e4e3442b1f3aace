//! Probes that only the machines' own words tell: their messages to the program's log.
//!
//! A subscriber of `tracing` for the thread of one run. It decides nothing and changes nothing; a message
//! that is worded anew is missed, and the probe that must be hit says so.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use super::probes::{Probe, Probes};

/// Beginnings of messages, or of the reasons given with them.
const WORDS: [(&str, Probe); 8] = [
    ("a snapshot is refused: a region is in its way", Probe::SnapshotInTheWay),
    ("an empty peer is made", Probe::EmptyPeerMade),
    ("a peer is destroyed", Probe::PeerDestroyed),
    ("a snapshot failed; the peer starts anew", Probe::SnapshotDamaged),
    ("a leader has lost its vote and steps down", Probe::LeaderDemoted),
    ("hands leadership over first", Probe::HandsOverFirst),
    ("too few members would have the log", Probe::TooFewHaveTheLog),
    ("too few members would answer", Probe::TooFewAnswer),
];

/// Listens to the machines of one run.
#[derive(Clone, Debug, Default)]
pub(super) struct Listener {
    heard: Arc<Mutex<Probes>>,
}

impl Listener {
    /// What was heard so far.
    pub(super) fn heard(&self) -> Probes {
        self.heard.lock().clone()
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // What raft itself says is told at a lower level, and would cost more than the run.
        *metadata.level() <= Level::INFO && metadata.target().starts_with("raftstore")
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Words(&mut self.heard.lock()));
    }

    // Nobody opens spans here.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Words<'a>(&'a mut Probes);

impl Words<'_> {
    fn look_at(&mut self, words: &str) {
        if let Some((_, probe)) = WORDS.iter().find(|(known, _)| words.starts_with(known)) {
            self.0.saw(*probe);
        }
    }
}

impl Visit for Words<'_> {
    fn record_str(&mut self, _: &Field, value: &str) {
        self.look_at(value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.look_at(&format!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_reasons_are_heard_and_others_are_not() {
        let listener = Listener::default();
        tracing::subscriber::with_default(listener.clone(), || {
            tracing::info!(target: "raftstore::store", region = 1, "an empty peer is made");
            tracing::info!(target: "raftstore::store", why = "too few members would answer", "no");
            tracing::debug!(target: "raftstore::store", "a peer is destroyed");
            tracing::info!(target: "elsewhere", "a peer is destroyed");
        });
        let heard = listener.heard();
        assert_eq!(heard.hits(Probe::EmptyPeerMade), 1);
        assert_eq!(heard.hits(Probe::TooFewAnswer), 1);
        assert_eq!(heard.hits(Probe::PeerDestroyed), 0);
    }
}
