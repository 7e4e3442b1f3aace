//! How long a request may take, and work that must not be left half done when its caller goes.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use proto::{Refusal, kvrpcpb};
use tokio::time::Instant;

/// How long a request that names no limit may take. Clients give up long before; this keeps a
/// forgotten request from waiting for ever.
pub(crate) const REQUEST_TIME_MAX: Duration = Duration::from_secs(20);

/// When a request is over. It is then refused with "deadline is exceeded", or, while its write is
/// under way, with "undetermined".
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// Counted from now: the request has just come.
    pub(crate) fn of(context: &kvrpcpb::Context) -> Self {
        Self::since(Instant::now(), context)
    }

    /// Counted from then on: the request came at that moment.
    pub(crate) fn since(begun: Instant, context: &kvrpcpb::Context) -> Self {
        let limit = match context.max_execution_duration_ms {
            0 => REQUEST_TIME_MAX,
            limit => Duration::from_millis(limit).min(REQUEST_TIME_MAX),
        };
        Self(begun + limit)
    }

    /// Waits for `work` until the deadline.
    pub(crate) async fn bound<T>(self, work: impl Future<Output = T>) -> Result<T, Refusal> {
        tokio::time::timeout_at(self.0, work).await.map_err(|_| Refusal::deadline_exceeded())
    }

    /// Waits for a write until the deadline; behind it nobody can say what will become of it.
    pub(crate) async fn bound_write(
        self,
        write: impl Future<Output = Result<(), Refusal>>,
    ) -> Result<(), Refusal> {
        tokio::time::timeout_at(self.0, write).await.unwrap_or_else(|_| {
            Err(Refusal::UndeterminedResult {
                message: "the deadline passed while the write was under way".into(),
            })
        })
    }

    /// Refuses when the time is over.
    pub(crate) fn check(self) -> Result<(), Refusal> {
        if Instant::now() < self.0 { Ok(()) } else { Err(Refusal::deadline_exceeded()) }
    }
}

/// A future that runs to its end: in place while its caller waits for it, in a task of its own when
/// the caller is dropped (its connection broke, its deadline passed). What the future holds, latches
/// for instance, is held to the end.
pub(crate) struct ToTheEnd<T: Send + 'static>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T: Send + 'static> ToTheEnd<T> {
    /// Begins when first waited for, or when dropped.
    pub(crate) fn new(work: impl Future<Output = T> + Send + 'static) -> Self {
        Self(Some(Box::pin(work)))
    }
}

impl<T: Send + 'static> Future for ToTheEnd<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let work = self.0.as_mut().expect("it is not polled after its end");
        let answer = std::task::ready!(work.as_mut().poll(cx));
        self.0 = None;
        Poll::Ready(answer)
    }
}

impl<T: Send + 'static> Drop for ToTheEnd<T> {
    fn drop(&mut self) {
        // Without a runtime the process is ending, and the work with it.
        if let (Some(work), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{Notify, oneshot};

    use super::*;

    #[tokio::test]
    async fn work_goes_on_when_its_caller_is_gone() {
        let (go, done) = (Arc::new(Notify::new()), oneshot::channel());
        let waited = go.clone();
        let work = ToTheEnd::new(async move {
            waited.notified().await;
            done.0.send(()).unwrap();
        });
        let context = kvrpcpb::Context { max_execution_duration_ms: 1, ..Default::default() };
        let refused = Deadline::of(&context).bound(work).await.unwrap_err();
        assert_eq!(refused, Refusal::deadline_exceeded());
        go.notify_one();
        done.1.await.unwrap();
    }
}
