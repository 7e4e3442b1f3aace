//! An answer that is given exactly once.

use proto::Refusal;

/// Who is called with the answer.
type Callback<T> = Box<dyn FnOnce(Result<T, Refusal>) + Send>;

/// Somebody waits for an answer. Whoever holds the promise answers it; one that is dropped, at a
/// stop, in a closed inbox or by a panic, says that the store is closing.
pub(crate) struct Promise<T> {
    callback: Option<Callback<T>>,
    /// What a dropped promise says.
    broken: Refusal,
}

impl<T> Promise<T> {
    /// A promise to call this.
    pub(crate) fn new(callback: impl FnOnce(Result<T, Refusal>) + Send + 'static) -> Self {
        Self { callback: Some(Box::new(callback)), broken: Refusal::closing() }
    }

    /// From here on the outcome may be in the log: if the store stops before it is known, nobody
    /// can say whether it happened.
    pub(crate) fn undetermined_if_dropped(mut self) -> Self {
        self.broken = Refusal::UndeterminedResult {
            message: "the store stopped before the outcome was known".into(),
        };
        self
    }

    /// Answers.
    pub(crate) fn keep(mut self, answer: Result<T, Refusal>) {
        if let Some(callback) = self.callback.take() {
            callback(answer);
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        if let Some(callback) = self.callback.take() {
            callback(Err(self.broken.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_promise_is_answered_exactly_once_also_when_dropped() {
        let (tx, rx) = channel();
        let promise = |tx: std::sync::mpsc::Sender<_>| {
            Promise::<u8>::new(move |answer| tx.send(answer).unwrap())
        };
        promise(tx.clone()).keep(Ok(1));
        drop(promise(tx.clone()));
        drop(promise(tx.clone()).undetermined_if_dropped());
        drop(tx);
        let answers: Vec<_> = rx.iter().collect();
        assert_eq!(answers.len(), 3);
        assert_eq!(answers[..2], [Ok(1), Err(Refusal::closing())]);
        assert!(matches!(answers[2], Err(Refusal::UndeterminedResult { .. })));
    }
}
