//! Who still waits for an answer. An answer passes to the client only by taking its request off this list, so
//! each request gets exactly one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use thv_wire::message::Id;
use tokio::sync::watch;

/// The requests that are owed an answer, and the number of other messages on their way.
pub(crate) struct Pending {
    requests: Mutex<HashMap<Id, watch::Sender<bool>>>,
    /// Requests owed and messages under way.
    load: watch::Sender<usize>,
}

/// One request that is owed an answer, seen from the task that gets it.
pub(crate) struct Expected {
    pub(crate) id: Id,
    /// True from the moment the client withdraws the request; closed when nobody waits any more.
    withdrawn: watch::Receiver<bool>,
}

impl Expected {
    /// Whether the client has cancelled it.
    pub(crate) fn is_withdrawn(&self) -> bool {
        *self.withdrawn.borrow()
    }

    /// Returns when it is answered, or when it was cancelled and the server has been told.
    pub(crate) async fn settled(&self) {
        let mut withdrawn = self.withdrawn.clone();
        while withdrawn.changed().await.is_ok() {}
    }
}

/// A cancelled request whose cancellation is on its way. The request settles when this is dropped.
pub(crate) struct Withdrawal(#[expect(dead_code, reason = "held for its drop")] watch::Sender<bool>);

/// Counts as load until it is dropped.
pub(crate) struct UnderWay(watch::Sender<usize>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|load| *load -= 1);
    }
}

impl Pending {
    pub(crate) fn new() -> Self {
        Self { requests: Mutex::default(), load: watch::Sender::new(0) }
    }

    fn requests(&self) -> MutexGuard<'_, HashMap<Id, watch::Sender<bool>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a request on the list; nothing if one of that id waits already.
    pub(crate) fn expect(&self, id: Id) -> Option<Expected> {
        let mut requests = self.requests();
        let Entry::Vacant(vacant) = requests.entry(id.clone()) else { return None };
        let (sender, withdrawn) = watch::channel(false);
        vacant.insert(sender);
        self.load.send_modify(|load| *load += 1);
        Some(Expected { id, withdrawn })
    }

    /// Whether a request waits for its answer.
    pub(crate) fn contains(&self, id: &Id) -> bool {
        self.requests().contains_key(id)
    }

    /// Takes a request off the list. Whoever gets `true` answers it.
    pub(crate) fn take(&self, id: &Id) -> bool {
        self.remove(id).is_some()
    }

    /// Takes a request off the list because the client cancelled it. It will not be sent if it was not yet.
    pub(crate) fn withdraw(&self, id: &Id) -> Option<Withdrawal> {
        let sender = self.remove(id)?;
        sender.send_replace(true);
        Some(Withdrawal(sender))
    }

    /// Takes all requests off the list.
    pub(crate) fn take_all(&self) -> Vec<Id> {
        let ids: Vec<Id> = self.requests().drain().map(|(id, _)| id).collect();
        self.load.send_modify(|load| *load -= ids.len());
        ids
    }

    /// Counts a message that is no request.
    pub(crate) fn under_way(&self) -> UnderWay {
        self.load.send_modify(|load| *load += 1);
        UnderWay(self.load.clone())
    }

    /// Returns when nobody waits and nothing is under way.
    pub(crate) async fn idle(&self) {
        // The channel cannot be closed: its sender lives as long as this.
        let _ = self.load.subscribe().wait_for(|load| *load == 0).await;
    }

    fn remove(&self, id: &Id) -> Option<watch::Sender<bool>> {
        let sender = self.requests().remove(id)?;
        self.load.send_modify(|load| *load -= 1);
        Some(sender)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn is_ready(future: impl Future<Output = ()>) -> bool {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    #[test]
    fn an_answer_is_taken_once() {
        let pending = Pending::new();
        let expected = pending.expect(Id::number(1)).unwrap();
        assert!(pending.expect(Id::number(1)).is_none());
        assert!(!is_ready(expected.settled()));
        assert!(pending.take(&Id::number(1)));
        assert!(!pending.take(&Id::number(1)));
        assert!(is_ready(expected.settled()));
        assert!(!expected.is_withdrawn());
    }

    #[test]
    fn a_cancelled_request_settles_when_the_server_was_told() {
        let pending = Pending::new();
        let expected = pending.expect(Id::number(1)).unwrap();
        let withdrawal = pending.withdraw(&Id::number(1)).unwrap();
        assert!(expected.is_withdrawn());
        assert!(!pending.take(&Id::number(1)));
        assert!(!is_ready(expected.settled()));
        drop(withdrawal);
        assert!(is_ready(expected.settled()));
    }

    #[test]
    fn is_idle_when_nobody_waits_and_nothing_is_under_way() {
        let pending = Pending::new();
        assert!(is_ready(pending.idle()));
        let _one = pending.expect(Id::number(1));
        let _two = pending.expect(Id::number(2));
        let under_way = pending.under_way();
        assert!(pending.take(&Id::number(1)));
        assert_eq!(pending.take_all(), [Id::number(2)]);
        assert!(!is_ready(pending.idle()));
        drop(under_way);
        assert!(is_ready(pending.idle()));
    }
}
