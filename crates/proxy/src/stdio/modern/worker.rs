//! A server for the modern callers of one owner, and the requests that it works on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;
use thv_wire::era::Revision;
use thv_wire::message::Peek;
use thv_wire::modern::Envelope;
use thv_wire::splice::splice;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::super::link::{End, Life, Link, MAX_IN_FLIGHT, Peer, Refused};
use super::super::queue::{Item, What};
use super::super::room::{Place, bind};
use super::super::{Options, SessionInfo};
use super::ask::{probe, speaks_modern};
use super::call::{Call, Pending, closed, is_token, wants_logs};
use super::outlet::{Outlet, Reply};
use super::schemas::Schemas;
use super::usage::{Usage, Way};
use crate::Owner;

/// A server that has not said by then which era it speaks counts as one of the older.
const PROBE: Duration = Duration::from_secs(15);
/// The number of the probe. Requests have later ones.
pub(super) const PROBE_NUMBER: u64 = 0;
/// How long an extra server lives that nobody uses.
const EXTRA: Duration = Duration::from_secs(5 * 60);
/// The same, if what it says may still be for a call that was cancelled.
const HAUNTED: Duration = Duration::from_secs(10);

/// What is known of a server's era.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Era {
    /// It knows a modern version.
    Modern,
    /// It said that it knows none.
    Legacy,
    /// It did not say in time.
    Silent,
    /// It exited instead of saying.
    Gone,
}

#[derive(Debug)]
pub(in super::super) struct Worker {
    pub(in super::super) link: Link,
    pub(super) schemas: Schemas,
    /// Its callers have another, which came first.
    extra: AtomicBool,
    /// Tells those who wait for a server that there may be one.
    freed: Arc<Notify>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    ended: bool,
    era: Option<Era>,
    /// Why there is no server, if it could not be started.
    not_started: Option<String>,
    last_used: Instant,
    /// Responses that are open.
    outlets: usize,
    /// The number of the next request.
    next: u64,
    pub(super) pending: BTreeMap<u64, Pending>,
    pub(super) usage: Usage,
}

impl Worker {
    /// A server-to-be, and what it is to read. The probe is the first.
    pub(super) fn new(
        number: u64,
        owner: Owner,
        options: Arc<Options>,
        extra: bool,
        freed: Arc<Notify>,
    ) -> (Self, mpsc::Receiver<Bytes>) {
        let (link, messages) = Link::new(number, owner, options);
        // There is room in a new channel.
        let _ = link.inbox.try_send(probe());
        let state = State {
            ended: false,
            era: None,
            not_started: None,
            last_used: Instant::now(),
            outlets: 0,
            next: PROBE_NUMBER + 1,
            pending: BTreeMap::from([(PROBE_NUMBER, Pending::Probe)]),
            usage: Usage::default(),
        };
        let (extra, state) = (AtomicBool::new(extra), Mutex::new(state));
        (Self { link, schemas: Schemas::default(), extra, freed, state }, messages)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in super::super) fn info(&self) -> SessionInfo {
        let state = self.lock();
        let calls = || state.pending.values().filter_map(Pending::call);
        SessionInfo {
            number: self.link.number,
            owner: self.link.owner.clone(),
            created: self.link.created.1,
            idle: state.idle(),
            version: (state.era == Some(Era::Modern)).then(|| Revision::V2026_07_28.to_string()),
            in_flight: calls().filter(|call| !call.listens).count(),
            has_stream: calls().any(|call| call.listens),
        }
    }

    /// How long nobody has used it; `None` while a response is open, or about to be.
    pub(super) fn idle(&self) -> Option<Duration> {
        self.lock().idle()
    }

    pub(super) fn is_live(&self) -> bool {
        self.link.life() != Life::Ended
    }

    pub(super) fn is_extra(&self) -> bool {
        self.extra.load(Ordering::Relaxed)
    }

    /// It is the first of its callers now.
    pub(super) fn promote(&self) {
        self.extra.store(false, Ordering::Relaxed);
    }

    /// Whether it is of no use but to callers who share it, and nobody uses it.
    pub(super) fn is_spent(&self) -> bool {
        let state = self.lock();
        state.usage.is_haunted() && state.idle().is_some()
    }

    /// Promises the server to a request. See [`Usage`].
    pub(super) fn promise(&self, way: Way, politely: bool) -> bool {
        let mut state = self.lock();
        !state.ended && state.usage.promise(way, politely)
    }

    pub(super) fn release(&self, way: Way) {
        let mut state = self.lock();
        state.last_used = Instant::now();
        state.usage.release(way);
        drop(state);
        self.freed.notify_waiters();
    }

    /// Waits until it is known which era the server speaks. The text says why there is no server, if there is none.
    pub(super) async fn era(&self) -> Result<Era, String> {
        let mut life = self.link.life.subscribe();
        // An error would mean that this very worker is gone.
        let _ = life.wait_for(|life| *life != Life::Starting).await;
        let state = self.lock();
        match &state.not_started {
            Some(why) => Err(why.clone()),
            None => Ok(state.era.unwrap_or(Era::Gone)),
        }
    }

    /// Hands a request to the server, with an id of ours, and returns where its answer goes. `place` is the room that
    /// its bytes take up.
    ///
    /// Waits while the server does not read.
    pub(in super::super) async fn submit(
        self: &Arc<Self>,
        line: &Bytes,
        place: &mut Option<Place>,
        message: &Peek<'_>,
        envelope: &Envelope<'_>,
        way: Way,
    ) -> Result<Outlet, Refused> {
        let (Some(id), Some(id_json)) = (&message.id, message.id_json) else { return Err(Refused::Ended) };
        let slot = self.link.inbox.reserve().await.map_err(|_| Refused::Ended)?;
        // From here on nothing waits: what is registered is also sent.
        let listens = way == Way::Listening;
        let reply = Arc::new(Reply::default());
        let token = envelope.progress_token.map(RawValue::get).filter(|token| is_token(token));
        let call = Call {
            id: id.clone(),
            token: token.map(Into::into),
            listens,
            logs: wants_logs(envelope),
            reply: Arc::clone(&reply),
        };
        let number = {
            let mut state = self.lock();
            if state.ended {
                return Err(Refused::Ended);
            }
            // Answers that were not read yet take up memory too.
            if state.outlets >= MAX_IN_FLIGHT {
                return Err(Refused::TooMany);
            }
            state.outlets += 1;
            state.last_used = Instant::now();
            let logs = call.logs;
            let number = state.insert(Pending::Call(call));
            if !listens {
                state.usage.begin(number, way, logs);
            }
            number
        };
        let outlet = Outlet::new(Arc::clone(self), reply, number);
        let ours = number.to_string();
        let edits = [Some((id_json.get(), &*ours)), token.map(|token| (token, &*ours))];
        let edits: Vec<_> = edits.into_iter().flatten().collect();
        let Some(line) = splice(line, &edits) else { return Err(Refused::Ended) };
        slot.send(bind(line, place.take()));
        Ok(outlet)
    }

    /// Hands a caller's notification to the server, if it has one that listens.
    pub(in super::super) fn notify(&self, line: Bytes) {
        if self.link.inbox.try_send(line).is_err() {
            tracing::debug!(server = self.link.number, "dropped a notification that the server did not take");
        }
    }

    /// Notes a question of the host, and returns its number, unless the server has ended.
    pub(super) fn expect(&self, question: Pending) -> Option<u64> {
        let mut state = self.lock();
        (!state.ended).then(|| state.insert(question))
    }

    /// Takes off the list who waits for an answer that has come.
    pub(super) fn answered(&self, number: u64) -> Option<Pending> {
        let mut state = self.lock();
        let pending = state.pending.remove(&number);
        let freed = match &pending {
            Some(Pending::Call(call)) if !call.listens => {
                state.usage.answered(number);
                true
            }
            None => state.usage.late_answer(number),
            _ => false,
        };
        drop(state);
        if freed {
            self.freed.notify_waiters();
        }
        pending
    }

    /// The server has answered the probe.
    pub(super) fn probed(&self, answer: &Peek<'_>) {
        let era = if speaks_modern(answer) { Era::Modern } else { Era::Legacy };
        let mut state = self.lock();
        if state.ended {
            return;
        }
        state.era = Some(era);
        if era == Era::Modern {
            self.link.life.send_replace(Life::Open);
        } else {
            drop(state);
            self.end(&End::OtherEra);
        }
    }

    /// A caller's response is gone. If its answer was still to come, the request is cancelled.
    pub(super) fn close_outlet(&self, number: u64) {
        let mut state = self.lock();
        state.outlets -= 1;
        state.last_used = Instant::now();
        drop(state);
        self.cancel(number);
        self.freed.notify_waiters();
    }

    /// Tells the server that nobody waits for a request any more, if somebody did (`basic/patterns/cancellation`).
    pub(super) fn cancel(&self, number: u64) {
        let mut state = self.lock();
        let Some(Pending::Call(call)) = state.pending.remove(&number) else { return };
        if !call.listens {
            state.usage.cancelled(number);
        }
        drop(state);
        let params = json!({"requestId": number, "reason": "the client closed the response"});
        let line =
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}).to_string();
        let Err(mpsc::error::TrySendError::Full(line)) = self.link.inbox.try_send(line.into()) else {
            return;
        };
        // The server does not read for now. There are no more of these than there were requests in flight.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let inbox = self.link.inbox.clone();
            runtime.spawn(async move { inbox.send(line).await });
        }
    }

    pub(super) fn deadline_of(&self, life: Life) -> Instant {
        let state = self.lock();
        let deadline = self.link.deadline(life, state.last_used());
        if life == Life::Starting {
            return deadline.min(self.link.created.0 + PROBE);
        }
        if !self.is_extra() {
            return deadline;
        }
        let after = if state.usage.is_haunted() { HAUNTED } else { EXTRA };
        let deadline = deadline.min(state.last_used().unwrap_or_else(Instant::now) + after);
        // It may be haunted by then.
        deadline.min(Instant::now() + HAUNTED)
    }

    pub(super) fn end_with(&self, end: &End) {
        let mut state = self.lock();
        if state.ended {
            return;
        }
        state.ended = true;
        match end {
            End::NotStarted(why) => state.not_started = Some(why.clone()),
            End::Silent => state.era = Some(Era::Silent),
            _ => {}
        }
        let pending = std::mem::take(&mut state.pending);
        self.link.life.send_replace(Life::Ended);
        drop(state);

        let calls: Vec<_> = pending.values().filter_map(Pending::call).collect();
        let unanswered = calls.len();
        tracing::info!(
            server = self.link.number,
            reason = end.word(),
            unanswered,
            "server of modern callers ended"
        );
        for call in calls {
            let text = match end {
                // The host ends it in an orderly way, which the revision has words for.
                End::ShutDown if call.listens => closed(&call.id),
                _ => self.link.farewell(&call.id, end, true),
            };
            // Where nobody reads any more there is nobody to tell.
            let _ = call.reply.queue.put(Item { text, what: What::Answer });
            call.reply.queue.settle();
        }
        self.link.inward.close();
        self.link.outward.close();
        self.freed.notify_waiters();
    }
}

impl State {
    fn insert(&mut self, pending: Pending) -> u64 {
        let number = self.next;
        self.next += 1;
        self.pending.insert(number, pending);
        number
    }

    fn idle(&self) -> Option<Duration> {
        self.last_used().map(|last| last.elapsed())
    }

    /// When it was used last; `None` if it is in use.
    fn last_used(&self) -> Option<Instant> {
        (self.outlets == 0 && self.usage.is_empty()).then_some(self.last_used)
    }
}
