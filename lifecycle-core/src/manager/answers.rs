//! Records the answers to requests that have a key, in the same transaction as the changes. A repeated
//! request gets the recorded answer, also from another manager of the same registry.

use chrono::TimeDelta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::{Manager, Write};
use crate::error::{Error, Result};
use crate::model::{Operation, OperationId};
use crate::registry::{AnswerRecord, Batch, Change};

tokio::task_local! {
    static REQUEST: KeyedRequest;
}

/// How long answers are stored.
pub(super) const ANSWERS_KEPT_FOR: TimeDelta = TimeDelta::hours(24);

/// A request for a change that its client may repeat: within 24 hours, the repetition changes nothing,
/// and returns the answer to the first request. Requests that fail are not recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedRequest {
    /// The SHA-256 of the client and its key.
    key: [u8; 32],
    /// The SHA-256 of the contents.
    contents: [u8; 32],
}

impl KeyedRequest {
    /// Creates a request with the key that a client has chosen. `contents` are the parts of the request.
    /// Keys of different clients are independent.
    pub fn new(client: &str, key: &str, contents: &[&[u8]]) -> Self {
        Self {
            key: digest(&[client.as_bytes(), key.as_bytes()]),
            contents: digest(contents),
        }
    }

    /// Runs `work`, which requests one change from a [`Manager`], as this request. Does not apply to
    /// tasks that `work` spawns.
    pub async fn perform<F: Future>(self, work: F) -> F::Output {
        REQUEST.scope(self, work).await
    }

    /// Returns whether the current request has a key.
    pub(super) fn is_current() -> bool {
        REQUEST.try_with(|_| ()).is_ok()
    }
}

/// Returns the SHA-256 of the parts and their lengths.
fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

impl Manager {
    /// Returns the record for the answer to the current request, if the request has a key, and the
    /// answer that was recorded before. The record contains no digest of the request itself, from which
    /// secrets in it could be guessed.
    ///
    /// # Errors
    /// [`Error::Invalid`] if another request had this key
    pub(super) async fn recorded_answer(
        &self,
    ) -> Result<(Option<AnswerRecord>, Option<serde_json::Value>)> {
        let Ok(request) = REQUEST.try_with(KeyedRequest::clone) else {
            return Ok((None, None));
        };
        let sign = |purpose, data: [u8; 32]| self.options.key.sign(purpose, &data);
        let record = AnswerRecord {
            key: sign("key of a request", request.key),
            request: sign("request", request.contents),
            answer: serde_json::Value::Null,
            at: self.backends.clock.now(),
        };
        let oldest = record.at - ANSWERS_KEPT_FOR;
        let recorded = self.backends.registry.answer(&record.key).await?;
        match recorded.filter(|recorded| recorded.at >= oldest) {
            Some(recorded) if recorded.request != record.request => Err(Error::invalid(
                "the Idempotency-Key",
                "another request had this key",
                "choose a new key for each request, and repeat it only with the same request",
            )),
            recorded => Ok((Some(record), recorded.map(|recorded| recorded.answer))),
        }
    }

    /// Returns the operation that an earlier request with the same key has begun.
    pub(super) async fn answered_operation(&self, write: &Write<'_>) -> Result<Option<Operation>> {
        let Some(id) = write.answered::<OperationId>()? else {
            return Ok(None);
        };
        let operation = self.operation(id).await?;
        self.take_up(&operation);
        Ok(Some(operation))
    }

    /// Answers a request with an operation that was begun before.
    pub(super) async fn join(&self, write: &Write<'_>, begun: &Operation) -> Result<Operation> {
        if let Some(answer) = write.answer(&begun.id)? {
            let registry = &self.backends.registry;
            registry.commit(write.epoch, Batch::of(answer)).await?;
        }
        self.take_up(begun);
        Ok(begun.clone())
    }
}

impl Write<'_> {
    /// Returns the answer to an earlier request with the same key.
    pub(super) fn answered<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        let read = |answer: &serde_json::Value| {
            serde_json::from_value(answer.clone()).map_err(|error| Error::Corrupt {
                what: "a recorded answer in the registry".into(),
                why: error.to_string(),
            })
        };
        self.answered.as_ref().map(read).transpose()
    }

    /// Returns the change that records the answer to this request, if the request has a key.
    pub(super) fn answer(&self, answer: &impl Serialize) -> Result<Option<Change>> {
        let Some(record) = self.record.clone() else {
            return Ok(None);
        };
        let answer = serde_json::to_value(answer)
            .map_err(|error| Error::failed("recording the answer", error.to_string()))?;
        Ok(Some(Change::PutAnswer(AnswerRecord { answer, ..record })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_request_are_separate() {
        let one = KeyedRequest::new("a", "bc", &[b"PUT", b"/v1/x"]);
        assert_eq!(one, KeyedRequest::new("a", "bc", &[b"PUT", b"/v1/x"]));
        for other in [
            KeyedRequest::new("ab", "c", &[b"PUT", b"/v1/x"]),
            KeyedRequest::new("a", "bc", &[b"PUT/", b"v1/x"]),
            KeyedRequest::new("a", "bc", &[b"PUT", b"/v1/x", b""]),
        ] {
            assert_ne!(one, other);
        }
    }
}
