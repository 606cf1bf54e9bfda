//! Who still waits for an answer. An answer passes to the client only by taking its request off this list, so
//! each request gets exactly one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use thv_wire::message::Id;
use tokio::sync::watch;

use crate::state::Change;

/// The requests that are owed an answer, and the number of other messages on their way.
pub(crate) struct Pending {
    requests: Mutex<HashMap<Id, Owed>>,
    /// Requests owed, less the endless ones, and messages under way.
    load: watch::Sender<usize>,
    serial: AtomicU64,
}

/// One request that is owed an answer, seen from whoever may have it. The request settles when this is dropped.
pub(crate) struct Owed {
    withdrawn: watch::Sender<bool>,
    serial: u64,
    traits: Traits,
}

/// What is to be known of a request while it waits.
#[derive(Debug, Default)]
pub(crate) struct Traits {
    /// What the server remembers if it succeeds.
    pub(crate) change: Option<Change>,
    /// It belongs to no session, and is cancelled by closing its connection.
    pub(crate) alone: bool,
    /// It is not meant to be answered soon: nobody waits for it at the end.
    pub(crate) endless: bool,
}

impl Owed {
    /// What the server remembers if the request succeeded.
    pub(crate) fn into_change(self) -> Option<Change> {
        self.traits.change
    }

    fn load(&self) -> usize {
        usize::from(!self.traits.endless)
    }
}

/// One request that is owed an answer, seen from the task that gets it.
pub(crate) struct Expected {
    pub(crate) id: Id,
    /// Tells it from a later request of the same id.
    serial: u64,
    /// True from the moment the client withdraws the request; closed when nobody waits any more.
    withdrawn: watch::Receiver<bool>,
}

impl Expected {
    /// Whether the client has cancelled it.
    pub(crate) fn is_withdrawn(&self) -> bool {
        *self.withdrawn.borrow()
    }

    /// Whether it is answered, or cancelled and the server told.
    pub(crate) fn is_settled(&self) -> bool {
        self.withdrawn.has_changed().is_err()
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
        Self { requests: Mutex::default(), load: watch::Sender::new(0), serial: AtomicU64::new(0) }
    }

    fn requests(&self) -> MutexGuard<'_, HashMap<Id, Owed>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a request on the list; nothing if one of that id waits already.
    pub(crate) fn expect(&self, id: Id, traits: Traits) -> Option<Expected> {
        let mut requests = self.requests();
        let Entry::Vacant(vacant) = requests.entry(id.clone()) else { return None };
        let (sender, withdrawn) = watch::channel(false);
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let owed = vacant.insert(Owed { withdrawn: sender, serial, traits });
        self.load.send_modify(|load| *load += owed.load());
        Some(Expected { id, serial, withdrawn })
    }

    /// Whether a request waits for its answer.
    pub(crate) fn contains(&self, id: &Id) -> bool {
        self.requests().contains_key(id)
    }

    /// What the server remembers if this request succeeds.
    pub(crate) fn change(&self, id: &Id) -> Option<Change> {
        self.requests().get(id)?.traits.change.clone()
    }

    /// Takes a request off the list. Whoever gets it answers it.
    pub(crate) fn take(&self, id: &Id) -> Option<Owed> {
        let owed = self.requests().remove(id)?;
        self.load.send_modify(|load| *load -= owed.load());
        Some(owed)
    }

    /// Takes this very request off the list. Whoever gets it answers it.
    pub(crate) fn take_this(&self, expected: &Expected) -> Option<Owed> {
        let mut requests = self.requests();
        let Entry::Occupied(entry) = requests.entry(expected.id.clone()) else { return None };
        if entry.get().serial != expected.serial {
            return None;
        }
        let owed = entry.remove();
        drop(requests);
        self.load.send_modify(|load| *load -= owed.load());
        Some(owed)
    }

    /// Takes a request off the list because the client cancelled it. It will not be sent if it was not yet.
    pub(crate) fn withdraw(&self, id: &Id) -> Option<Withdrawal> {
        let Owed { withdrawn, .. } = self.take(id)?;
        withdrawn.send_replace(true);
        Some(Withdrawal(withdrawn))
    }

    /// The same for a request that belongs to no session. The server need not be told: it settles at once, and with
    /// that its connection is closed. Whether there was one.
    pub(crate) fn withdraw_alone(&self, id: &Id) -> bool {
        let is_alone = self.requests().get(id).is_some_and(|owed| owed.traits.alone);
        is_alone && self.withdraw(id).is_some()
    }

    /// Takes all requests off the list.
    pub(crate) fn take_all(&self) -> Vec<Id> {
        let all: Vec<(Id, Owed)> = self.requests().drain().collect();
        let load: usize = all.iter().map(|(_, owed)| owed.load()).sum();
        self.load.send_modify(|all| *all -= load);
        all.into_iter().map(|(id, _)| id).collect()
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
        let expected = pending.expect(Id::number(1), Traits::default()).unwrap();
        assert!(pending.expect(Id::number(1), Traits::default()).is_none());
        assert!(!is_ready(expected.settled()));
        assert!(pending.take(&Id::number(1)).is_some());
        assert!(pending.take(&Id::number(1)).is_none());
        assert!(is_ready(expected.settled()));
        assert!(!expected.is_withdrawn());
    }

    #[test]
    fn a_later_request_of_the_same_id_is_another_one() {
        let pending = Pending::new();
        let first = pending.expect(Id::number(1), Traits::default()).unwrap();
        assert!(pending.take(&Id::number(1)).is_some());
        let second = pending.expect(Id::number(1), Traits::default()).unwrap();
        assert!(first.is_settled() && !second.is_settled());
        assert!(pending.take_this(&first).is_none());
        assert!(pending.take_this(&second).is_some());
        assert!(second.is_settled());
    }

    #[test]
    fn a_cancelled_request_settles_when_the_server_was_told() {
        let pending = Pending::new();
        let expected = pending.expect(Id::number(1), Traits::default()).unwrap();
        let withdrawal = pending.withdraw(&Id::number(1)).unwrap();
        assert!(expected.is_withdrawn());
        assert!(pending.take(&Id::number(1)).is_none());
        assert!(!is_ready(expected.settled()));
        drop(withdrawal);
        assert!(is_ready(expected.settled()));
    }

    #[test]
    fn what_belongs_to_no_session_settles_with_its_withdrawal() {
        let pending = Pending::new();
        let in_session = pending.expect(Id::number(1), Traits::default()).unwrap();
        let alone = pending.expect(Id::number(2), Traits { alone: true, ..Traits::default() }).unwrap();
        assert!(!pending.withdraw_alone(&Id::number(1)) && !pending.withdraw_alone(&Id::number(3)));
        assert!(pending.withdraw_alone(&Id::number(2)));
        assert!(alone.is_withdrawn() && alone.is_settled() && !in_session.is_settled());
    }

    #[test]
    fn nobody_waits_for_what_is_endless_but_it_is_owed_an_answer() {
        let pending = Pending::new();
        let endless = || Traits { endless: true, ..Traits::default() };
        let _listens = [1, 2, 3].map(|n| pending.expect(Id::number(n), endless()).unwrap());
        assert!(is_ready(pending.idle()));
        assert!(pending.take(&Id::number(1)).is_some());
        assert!(pending.withdraw(&Id::number(2)).is_some());
        assert_eq!(pending.take_all(), [Id::number(3)]);
        assert!(is_ready(pending.idle()));
    }

    #[test]
    fn is_idle_when_nobody_waits_and_nothing_is_under_way() {
        let pending = Pending::new();
        assert!(is_ready(pending.idle()));
        let _one = pending.expect(Id::number(1), Traits::default());
        let _two = pending.expect(Id::number(2), Traits::default());
        let under_way = pending.under_way();
        assert!(pending.take(&Id::number(1)).is_some());
        assert_eq!(pending.take_all(), [Id::number(2)]);
        assert!(!is_ready(pending.idle()));
        drop(under_way);
        assert!(is_ready(pending.idle()));
    }
}
