//! Whether every call comes back: each has the client's deadline, and nothing may take longer.
//!
//! A call that has not ended some time after its deadline is given up here, so that the run goes on,
//! and is a violation of its own. Nobody is told how it ended, so its outcome is unknown.

use std::fmt::Display;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A call that takes longer than this is given up by its client.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(4);
/// A call that takes so much longer hangs: far more than a busy machine needs to wake a task.
pub(super) const HUNG_AFTER: Duration = Duration::from_secs(6);
/// So many calls that were turned away for good are told in full.
const REJECTED_TOLD: usize = 5;

/// Why a call brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// It certainly has done nothing.
    Refused,
    /// Nobody knows what it has done.
    Unknown,
}

/// Sees every call of the load begin and end.
pub(super) struct Watch {
    deadline: Duration,
    hung_after: Duration,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    calls: u64,
    longest: Duration,
    longest_words: String,
    hung: Vec<String>,
    rejected: u64,
    rejected_words: Vec<String>,
}

impl Watch {
    /// Calls have this deadline, and hang when they take so much longer.
    pub(super) fn new(deadline: Duration, hung_after: Duration) -> Self {
        Self { deadline, hung_after, seen: Mutex::default() }
    }

    /// Makes a call; `what` it does and what it is `about` are told when it is worth it.
    pub(super) async fn call<T>(
        &self,
        what: &'static str,
        about: impl Display,
        call: impl Future<Output = client::Result<T>>,
    ) -> Result<T, Failed> {
        let start = Instant::now();
        let ended = tokio::time::timeout(self.deadline + self.hung_after, call).await;
        let took = start.elapsed();
        let mut seen = self.seen.lock().unwrap();
        seen.calls += 1;
        if took > seen.longest {
            seen.longest = took;
            seen.longest_words = format!("{what} {about}");
        }
        match ended {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if is_for_good(error.kind()) {
                    seen.rejected += 1;
                    if seen.rejected_words.len() < REJECTED_TOLD {
                        seen.rejected_words.push(format!("{what} {about}: {error}"));
                    }
                }
                Err(if error.is_undetermined() { Failed::Unknown } else { Failed::Refused })
            }
            Err(_) => {
                let (took, deadline) = (took.as_secs_f64(), self.deadline.as_secs_f64());
                seen.hung.push(format!(
                    "{what} {about} had not ended after {took:.1} s, and its deadline was \
                     {deadline:.1} s"
                ));
                Err(Failed::Unknown)
            }
        }
    }

    /// How many calls were made.
    pub(super) fn calls(&self) -> u64 {
        self.seen.lock().unwrap().calls
    }

    /// How long the longest call took, and which it was.
    pub(super) fn longest(&self) -> (Duration, String) {
        let seen = self.seen.lock().unwrap();
        (seen.longest, seen.longest_words.clone())
    }

    /// Calls that did not come back in time.
    pub(super) fn hung(&self) -> Vec<String> {
        self.seen.lock().unwrap().hung.clone()
    }

    /// How many calls were turned away in a way that trying again does not help, and the first.
    pub(super) fn rejected(&self) -> (u64, Vec<String>) {
        let seen = self.seen.lock().unwrap();
        (seen.rejected, seen.rejected_words.clone())
    }
}

/// Whether the same call would always fail. Nothing that the load asks for should.
fn is_for_good(kind: &client::ErrorKind) -> bool {
    use client::ErrorKind::{KeyExists, Mistake, Rejected, TooLarge};
    matches!(kind, Mistake | Rejected | TooLarge | KeyExists { .. })
}

#[tokio::test]
async fn a_call_that_does_not_come_back_is_told_and_given_up() {
    let patient = Watch::new(CALL_TIMEOUT, HUNG_AFTER);
    let answer = patient.call("get", "x/1", async { Ok(7) }).await;
    assert_eq!((answer, patient.hung()), (Ok(7), Vec::new()));
    let watch = Watch::new(Duration::from_millis(1), Duration::from_millis(1));
    let answer = watch.call("commit", "of 17", std::future::pending::<client::Result<()>>()).await;
    assert_eq!(answer, Err(Failed::Unknown));
    let [words] = &watch.hung()[..] else { panic!("{:?}", watch.hung()) };
    assert!(words.starts_with("commit of 17 had not ended after"), "{words}");
    assert_eq!(watch.calls(), 1);
    assert_eq!(watch.longest().1, "commit of 17");
}

#[tokio::test]
async fn what_will_never_succeed_is_told_apart_from_what_may() {
    let watch = Watch::new(CALL_TIMEOUT, HUNG_AFTER);
    let nowhere: [&str; 0] = [];
    let answer = watch.call("connect", "to nobody", client::Client::connect(nowhere)).await;
    assert_eq!(answer.map(drop), Err(Failed::Refused));
    let (count, words) = watch.rejected();
    assert!(count == 1 && words[0].starts_with("connect to nobody: "), "{words:?}");
}
