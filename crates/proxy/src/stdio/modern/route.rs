//! Which message of a server goes to which caller, and under which id. The rules are in the table of [`super`].

use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use thv_wire::code::{METHOD_NOT_FOUND, Reason};
use thv_wire::message::{Id, Incoming, Kind, Peek, error_response};
use thv_wire::modern::envelope::subscription_id;
use thv_wire::modern::status;
use thv_wire::skim::Skimmed;
use thv_wire::splice::{members, position, splice};
use tokio::time::{Instant, timeout};

use super::super::link::{End, Life, Link, Peer, reply};
use super::super::queue::{Item, What};
use super::super::room::{Place, bind};
use super::worker::{Call, Pending, Worker};

/// A stream whose caller has read nothing for so long, while the server had more to say, is cut. Not long, since
/// others wait who share the server.
const STALLED: Duration = Duration::from_secs(10);

/// Notifications that belong to a subscription and name it (`basic/patterns/subscriptions`).
const SUBSCRIBED: [&str; 5] = [
    "notifications/tools/list_changed",
    "notifications/prompts/list_changed",
    "notifications/resources/list_changed",
    "notifications/resources/updated",
    "notifications/subscriptions/acknowledged",
];

impl Peer for Worker {
    fn link(&self) -> &Link {
        &self.link
    }

    fn end(&self, end: &End) {
        self.end_with(end);
    }

    fn deadline(&self, life: Life) -> Instant {
        self.deadline_of(life)
    }

    async fn take(&self, line: Bytes, place: Option<Place>, seen: Incoming<'_>) {
        match seen {
            Incoming::One(seen) => self.route(&line, place, &seen).await,
            // The revision has no batches, but what is in one is clear.
            Incoming::Batch(parts) => {
                for (part, seen) in &parts {
                    if let Some(range) = position(&line, part.get()) {
                        self.route(&line.slice(range), None, seen).await;
                    }
                }
            }
        }
    }

    fn oversized(&self, length: u64, limit: usize, message: &Skimmed) {
        let Skimmed { kind: Some(Kind::Response), id: Some(id) } = message else { return };
        let Some(call) = id.as_u64().and_then(|number| self.answered_call(number)) else { return };
        let text = format!("the server's answer has {length} bytes, the limit is {limit}");
        let text = reply(Some(&call.id), Reason::TooLarge, &text);
        let _ = call.reply.queue.put(Item { text, what: What::Answer });
        call.reply.queue.settle();
    }
}

impl Worker {
    async fn route(&self, text: &Bytes, place: Option<Place>, seen: &Peek<'_>) {
        match seen.kind {
            Kind::Response => self.answer(text, place, seen),
            Kind::Notification => self.notification(text, place, seen).await,
            Kind::Request => {
                let method = seen.method.as_deref().unwrap_or_default();
                tracing::warn!(
                    server = self.link.number,
                    method,
                    "the server sent a request, which its revision forbids"
                );
                let text = "revision 2026-07-28 has no requests of the server: answer with `input_required`";
                self.link
                    .answer_server(error_response(seen.id.as_ref(), METHOD_NOT_FOUND, text, None).into());
            }
        }
    }

    fn answer(&self, text: &Bytes, place: Option<Place>, seen: &Peek<'_>) {
        let waits =
            seen.id.as_ref().and_then(Id::as_u64).and_then(|number| self.lock().pending.remove(&number));
        let call = match waits {
            Some(Pending::Call(call)) => call,
            Some(Pending::Probe) => return self.probed(seen),
            // Whoever asked may have given up.
            Some(Pending::Own(asked)) => return drop(asked.send(text.clone())),
            None => {
                tracing::debug!(server = self.link.number, "dropped an answer that nobody waits for");
                return;
            }
        };
        if let Some(code) = status::error_code(seen) {
            call.reply.set_status(status::http_status(code));
        }
        let id = call.id.as_json();
        let mut edits: Vec<_> = seen.id_json.iter().map(|json| (json.get(), id)).collect();
        if call.listens
            && let Some((_, json)) = subscription_id(seen)
        {
            edits.push((json.get(), id));
        }
        if let Some(text) = splice(text, &edits) {
            // The bytes of an answer are bounded by the room, and answers by the requests in flight: nobody waits.
            let _ = call.reply.queue.put(Item { text: bind(text, place), what: What::Answer });
        }
        call.reply.queue.settle();
    }

    async fn notification(&self, text: &Bytes, place: Option<Place>, seen: &Peek<'_>) {
        let Some(Addressed { number, call, edits }) = self.addressee(seen) else {
            let method = seen.method.as_deref().unwrap_or_default();
            tracing::debug!(server = self.link.number, method, "dropped a notification that is for nobody");
            return;
        };
        let edits: Vec<_> = edits.iter().map(|(part, with)| (*part, &**with)).collect();
        let Some(text) = splice(text, &edits) else { return };
        let mut slot = Some(Item { text: bind(text, place), what: What::Notification });
        if timeout(STALLED, call.reply.queue.push(&mut slot)).await.is_err() {
            tracing::warn!(server = self.link.number, "cut a stream that its caller does not read");
            call.reply.queue.finish();
            if self.lock().pending.remove(&number).is_some() {
                self.cancel(number);
            }
        }
        if seen.is("notifications/cancelled") {
            // The server has torn the subscription down: there will be no answer.
            self.lock().pending.remove(&number);
            call.reply.queue.settle();
        }
    }

    /// Whose a notification is, and what of it must be replaced.
    fn addressee<'a>(&self, seen: &Peek<'a>) -> Option<Addressed<'a>> {
        let state = self.lock();
        let call_of = |id: Option<Id>| {
            let number = id?.as_u64()?;
            Some((number, state.pending.get(&number)?.call()?.clone()))
        };
        let member = |name| members(seen.params?, [name]).ok()?[0].map(RawValue::get);

        if seen.is("notifications/progress") {
            let (number, call) = call_of(seen.progress_token())?;
            let edits = vec![(member("progressToken")?, call.token.clone()?)];
            return Some(Addressed { number, call, edits });
        }
        let cancelled = if seen.is("notifications/cancelled") { seen.cancelled_id() } else { None };
        let subscription = subscription_id(seen);
        if let Some(id) = cancelled.clone().or_else(|| subscription.as_ref().map(|(id, _)| id.clone())) {
            let (number, call) = call_of(Some(id)).filter(|(_, call)| call.listens)?;
            let mut parts = vec![];
            if cancelled.is_some() {
                parts.push(member("requestId")?);
            }
            if let Some((named, part)) = &subscription {
                // A message of two subscriptions is of none.
                call_of(Some(named.clone())).filter(|(other, _)| *other == number)?;
                parts.push(part.get());
            }
            let edits = parts.into_iter().map(|part| (part, call.id.as_json().into())).collect();
            return Some(Addressed { number, call, edits });
        }
        if seen.method.as_deref().is_some_and(|method| SUBSCRIBED.contains(&method)) {
            return None;
        }
        let logs = seen.is("notifications/message");
        let calls = state.pending.iter().filter_map(|(number, pending)| Some((*number, pending.call()?)));
        let mut able = calls.filter(|(_, call)| !call.listens && (call.logs || !logs));
        // Nothing in it says whose it is.
        let (number, call) = able.next().filter(|_| able.next().is_none())?;
        Some(Addressed { number, call: call.clone(), edits: Vec::new() })
    }

    fn answered_call(&self, number: u64) -> Option<Call> {
        match self.lock().pending.remove(&number)? {
            Pending::Call(call) => Some(call),
            Pending::Probe | Pending::Own(_) => None,
        }
    }
}

/// A notification that is for one caller.
struct Addressed<'a> {
    number: u64,
    call: Call,
    /// Parts of the text, and what the caller is to read in their place.
    edits: Vec<(&'a str, Box<str>)>,
}
