//! Requests of the relay's own, with which it tells a new session what the old one knew. Their answers go nowhere else.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use thv_wire::message::Id;
use thv_wire::sse;
use tokio::sync::oneshot;

use crate::events::Next;
use crate::exchange::Call;
use crate::failure::Failure;
use crate::pool::Effort;
use crate::relay::Relay;
use crate::session::Session;

/// Those that wait for an answer.
#[derive(Default)]
pub(crate) struct Own {
    waiting: Mutex<HashMap<Id, oneshot::Sender<Bytes>>>,
    count: AtomicU64,
}

/// One of them. Nothing waits for its answer any more once this is dropped.
pub(crate) struct Waiting<'a> {
    own: &'a Own,
    pub(crate) id: Id,
    answer: oneshot::Receiver<Bytes>,
}

impl Own {
    fn waiting(&self) -> MutexGuard<'_, HashMap<Id, oneshot::Sender<Bytes>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new id, and the answer to come.
    pub(crate) fn expect(&self) -> Waiting<'_> {
        let id = Id::string(&format!("thv-bridge-{}", self.count.fetch_add(1, Ordering::Relaxed)));
        let (sender, answer) = oneshot::channel();
        self.waiting().insert(id.clone(), sender);
        Waiting { own: self, id, answer }
    }

    /// Hands over an answer. Whether it was for one of these.
    pub(crate) fn take(&self, id: &Id, answer: &Bytes) -> bool {
        match self.waiting().remove(id) {
            Some(waiting) => {
                // Whoever does not wait any more does not miss it.
                let _ = waiting.send(answer.clone());
                true
            }
            None => false,
        }
    }
}

impl Waiting<'_> {
    /// The request under this id.
    pub(crate) fn request(&self, method: &str, params: &[u8]) -> Bytes {
        let mut text = BytesMut::with_capacity(params.len() + method.len() + 80);
        text.put_slice(br#"{"jsonrpc":"2.0","id":"#);
        text.put_slice(self.id.as_json().as_bytes());
        text.put_slice(br#","method":""#);
        text.put_slice(method.as_bytes());
        text.put_slice(br#"","params":"#);
        text.put_slice(params);
        text.put_u8(b'}');
        text.freeze()
    }

    /// The answer, if it has come.
    pub(crate) fn answered(&mut self) -> Option<Bytes> {
        self.answer.try_recv().ok()
    }

    /// Returns when the answer has come.
    pub(crate) async fn answer(&mut self) -> Option<Bytes> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.own.waiting().remove(&self.id);
    }
}

impl Relay {
    /// Posts a request of our own over streamable HTTP; the head of the reply and the answer in it. Other messages of
    /// the reply go where they belong.
    ///
    /// # Errors
    /// It got no answer. With a failure: it was not run and this is why.
    pub(crate) async fn ask(
        &self,
        session: &Session,
        effort: Effort,
        method: &str,
        params: &[u8],
    ) -> Result<(HeaderMap, Bytes), Option<Failure>> {
        let waiting = self.own.expect();
        let call = Call { effort, ..self.post(session, waiting.request(method, params)) };
        self.hear(&call, waiting, session.life).await
    }

    /// The same for a call that is made already; in a session of that life.
    ///
    /// # Errors
    /// As of [`Relay::ask`].
    pub(crate) async fn hear(
        &self,
        call: &Call<'_>,
        mut waiting: Waiting<'_>,
        life: u64,
    ) -> Result<(HeaderMap, Bytes), Option<Failure>> {
        let reply = self.pool.exchange(call).await.map_err(if_not_sent)?;
        if !reply.status.is_success() {
            return Err(None);
        }
        let head = reply.headers.clone();
        if reply.is(sse::MEDIA_TYPE) {
            let mut events = self.events(reply.body);
            loop {
                match events.next().await {
                    Next::Message(message) => self.deliver(message, life, None).await,
                    Next::TooLarge(message, failure) => self.fail_skimmed(&message, &failure, life).await,
                    Next::Endpoint(_) => {}
                    Next::End => return Err(None),
                }
                if let Some(answer) = waiting.answered() {
                    return Ok((head, answer));
                }
            }
        }
        let body = self.collect(reply).await.map_err(|_| None)?;
        self.deliver(body, life, None).await;
        waiting.answered().map(|answer| (head, answer)).ok_or(None)
    }
}

/// A failure of ours says why a request was not run, unless it speaks of the request of our own itself.
pub(crate) fn if_not_sent(failure: Failure) -> Option<Failure> {
    Some(failure).filter(|failure| !matches!(failure, Failure::Lost))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_reaches_the_one_who_waits_and_nobody_else() {
        let own = Own::default();
        let mut first = own.expect();
        let second = own.expect();
        assert_ne!(first.id, second.id);
        let gone = second.id.clone();
        drop(second);
        assert!(!own.take(&gone, &Bytes::new()));
        assert!(own.take(&first.id, &Bytes::from_static(b"x")));
        assert!(!own.take(&first.id, &Bytes::from_static(b"y")));
        assert_eq!(first.answer().await.unwrap(), "x");
    }

    #[test]
    fn a_request_is_made_of_its_parts() {
        let own = Own::default();
        assert_eq!(
            own.expect().request("logging/setLevel", br#"{"level": "info"}"#),
            r#"{"jsonrpc":"2.0","id":"thv-bridge-0","method":"logging/setLevel","params":{"level": "info"}}"#
        );
    }
}
