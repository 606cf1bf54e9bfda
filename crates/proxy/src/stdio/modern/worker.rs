//! A server for the modern callers of one owner, and the requests that it works on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;
use thv_wire::era::Revision;
use thv_wire::message::{Id, Peek};
use thv_wire::modern::envelope::{CLIENT_CAPABILITIES, CLIENT_INFO, PROTOCOL_VERSION};
use thv_wire::modern::{Envelope, status};
use thv_wire::splice::{members, splice};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::super::link::{End, Life, Link, MAX_IN_FLIGHT, Peer, Refused};
use super::super::queue::{Item, What};
use super::super::room::{Place, bind};
use super::super::{Options, SessionInfo};
use super::outlet::{Outlet, Reply};
use super::schemas::Schemas;
use crate::Owner;

/// A server that has not said by then which era it speaks counts as one of the older.
const PROBE: Duration = Duration::from_secs(15);
/// The number of the probe. Requests have later ones.
const PROBE_NUMBER: u64 = 0;

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
}

/// Who waits for an answer.
#[derive(Debug)]
pub(super) enum Pending {
    /// This host, to learn the era.
    Probe,
    /// This host, for something else.
    Own(oneshot::Sender<Bytes>),
    Call(Call),
}

/// A caller's request.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// The caller's id for it.
    pub(super) id: Id,
    /// The caller's progress token, as it stood in the request.
    pub(super) token: Option<Box<str>>,
    /// It is `subscriptions/listen`.
    pub(super) listens: bool,
    /// It asked for log messages.
    pub(super) logs: bool,
    pub(super) reply: Arc<Reply>,
}

impl Worker {
    /// A server-to-be, and what it is to read. The probe is the first.
    pub(super) fn new(number: u64, owner: Owner, options: Arc<Options>) -> (Self, mpsc::Receiver<Bytes>) {
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
        };
        (Self { link, schemas: Schemas::default(), state: Mutex::new(state) }, messages)
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

    /// How long nobody has used it; `None` while a response is open.
    pub(super) fn idle(&self) -> Option<Duration> {
        self.lock().idle()
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
    ) -> Result<Outlet, Refused> {
        let (Some(id), Some(id_json)) = (&message.id, message.id_json) else { return Err(Refused::Ended) };
        let slot = self.link.inbox.reserve().await.map_err(|_| Refused::Ended)?;
        // From here on nothing waits: what is registered is also sent.
        let listens = message.is("subscriptions/listen");
        let reply = Arc::new(Reply::default());
        let token = envelope.progress_token.map(RawValue::get).filter(|token| is_token(token));
        let call = Call {
            id: id.clone(),
            token: token.map(Into::into),
            listens,
            logs: envelope.log_level.is_some() && !listens,
            reply: Arc::clone(&reply),
        };
        let number = {
            let mut state = self.lock();
            if state.ended {
                return Err(Refused::Ended);
            }
            if state.pending.len() >= MAX_IN_FLIGHT {
                return Err(Refused::TooMany);
            }
            state.outlets += 1;
            state.last_used = Instant::now();
            state.insert(Pending::Call(call))
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

    /// Asks the server something for the host's own use. Nothing, if there is no answer in time.
    pub(super) async fn ask(&self, method: &str, params: &str, patience: Duration) -> Option<Bytes> {
        let (sender, answer) = oneshot::channel();
        let slot = self.link.inbox.reserve().await.ok()?;
        let number = {
            let mut state = self.lock();
            if state.ended {
                return None;
            }
            state.insert(Pending::Own(sender))
        };
        // Whoever asks may be gone before the answer comes, if it ever does.
        let _asked = Asked { worker: self, number };
        slot.send(
            format!(r#"{{"jsonrpc":"2.0","id":{number},"method":"{method}","params":{params}}}"#).into(),
        );
        timeout(patience, answer).await.ok()?.ok()
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
        let waited = state.pending.remove(&number).is_some();
        drop(state);
        if waited {
            self.cancel(number);
        }
    }

    /// Tells the server that nobody waits for a request any more (`basic/patterns/cancellation`).
    pub(super) fn cancel(&self, number: u64) {
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
        let used = self.lock().last_used();
        let deadline = self.link.deadline(life, used);
        if life == Life::Starting { deadline.min(self.link.created.0 + PROBE) } else { deadline }
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
    }
}

/// A question of the host that waits for its answer.
struct Asked<'a> {
    worker: &'a Worker,
    number: u64,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.worker.lock().pending.remove(&self.number);
    }
}

impl Pending {
    pub(super) fn call(&self) -> Option<&Call> {
        match self {
            Self::Call(call) => Some(call),
            Self::Probe | Self::Own(_) => None,
        }
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
        (self.outlets == 0).then(|| self.last_used.elapsed())
    }

    fn last_used(&self) -> Option<Instant> {
        (self.outlets == 0).then_some(self.last_used)
    }
}

/// `server/discover`, as the binding to standard input and output asks of its clients (`basic/transports/stdio`,
/// "Backward Compatibility").
fn probe() -> Bytes {
    let meta = json!({
        PROTOCOL_VERSION: Revision::V2026_07_28.as_str(),
        CLIENT_INFO: {"name": "thv", "version": env!("CARGO_PKG_VERSION")},
        CLIENT_CAPABILITIES: {},
    });
    let params = json!({ "_meta": meta });
    let line = json!({"jsonrpc": "2.0", "id": PROBE_NUMBER, "method": "server/discover", "params": params});
    line.to_string().into()
}

/// Whether an answer to the probe shows a server that knows a modern version, whichever.
fn speaks_modern(answer: &Peek<'_>) -> bool {
    if let Some(code) = status::error_code(answer) {
        return status::is_modern(code);
    }
    let versions = answer.result.and_then(|result| members(result, ["supportedVersions"]).ok());
    let Some([Some(versions)]) = versions else { return false };
    let versions: Vec<String> = serde_json::from_str(versions.get()).unwrap_or_default();
    // A version that is not known here is younger than this program.
    versions.iter().any(|version| Revision::parse(version).is_none_or(Revision::is_modern))
}

/// Progress tokens are strings and numbers (`basic/patterns/progress`). What is none is the server's to refuse.
fn is_token(json: &str) -> bool {
    matches!(json.as_bytes().first(), Some(b'"' | b'-' | b'0'..=b'9'))
}

/// The orderly end of a subscription (`basic/patterns/subscriptions`, "Graceful Closure").
fn closed(id: &Id) -> Bytes {
    let id = id.as_json();
    let meta = format!(r#"{{"io.modelcontextprotocol/subscriptionId":{id}}}"#);
    let text =
        format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","_meta":{meta}}}}}"#);
    text.into()
}
