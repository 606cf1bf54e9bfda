//! Notifications and the client's own answers: sent one after the other, each when its predecessor was
//! accepted, so that they arrive in the order in which the client wrote them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use thv_wire::message::Id;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use crate::batch;
use crate::exchange::{Call, Reply};
use crate::failure::Failure;
use crate::gate::{Gate, Opener};
use crate::pending::{UnderWay, Withdrawal};
use crate::pool::Effort;
use crate::refusal::Weighed;
use crate::relay::Relay;
use crate::session::Session;
use crate::target::Transport;

/// How long a server may take to accept a message before the next one is sent all the same: a server that
/// forgets one must not silence the client for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long requests wait, once the session has begun, until the server's own stream is open or refused. Most servers
/// reply at once; one that says nothing before it has something to say costs its clients this time.
const FIRST_STREAM: Duration = Duration::from_millis(250);

/// One message that nobody answers.
pub(crate) struct Item {
    pub(crate) body: Bytes,
    pub(crate) kind: ItemKind,
    /// Its fields, if it is of the era without sessions.
    pub(crate) modern: Option<HeaderMap>,
    pub(crate) gate: Gate,
    /// Opened when the message was accepted, or could not be delivered.
    pub(crate) opens: Option<Opener>,
    /// Once it is accepted, the server may be asked for its stream: `notifications/initialized` is in it.
    pub(crate) initializes: bool,
    /// The requests that it cancels.
    pub(crate) cancels: Vec<Withdrawal>,
    /// The requests of the server's that it answers.
    pub(crate) answers: Vec<Id>,
    /// The session that asked them, if that is only just being begun.
    pub(crate) early: Option<Session>,
    pub(crate) under_way: UnderWay,
    /// None for what the relay says itself.
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ItemKind {
    /// `notifications/initialized`, alone.
    Initialized,
    /// Any other notification, or a batch with notifications in it.
    Notification,
    /// The client's answer to a request of the server's, or a batch of such. A new session knows nothing of that request.
    Response,
}

impl Item {
    /// Whether the server was told already: a session that is begun anew is told that it is initialized.
    fn is_told(&self, session: &Session) -> bool {
        self.kind == ItemKind::Initialized && session.open
    }
}

impl Relay {
    /// Sends what comes in, in order, until the channel closes.
    pub(crate) async fn run_ordered(self: Arc<Self>, mut items: mpsc::UnboundedReceiver<Item>) {
        while let Some(item) = items.recv().await {
            self.run_item(item).await;
        }
    }

    /// Sends one of them.
    pub(crate) async fn run_item(&self, item: Item) {
        item.gate.passed().await;
        if timeout(PATIENCE, self.send_ordered(&item)).await.is_err() {
            tracing::warn!(kind = ?item.kind, "the server did not accept a message in time");
        }
        // Whatever became of it, those who waited for it go on now.
        drop((item.opens, item.cancels, item.under_way, item.room));
    }

    /// Answers a request of the server's in the client's stead.
    pub(crate) fn answer_server(&self, id: &Id, body: Bytes) {
        let item = Item {
            body,
            kind: ItemKind::Response,
            modern: None,
            gate: Gate::default(),
            opens: None,
            initializes: false,
            cancels: Vec::new(),
            answers: vec![id.clone()],
            early: self.asked.early(id),
            under_way: self.pending.under_way(),
            room: None,
        };
        // The other end lives as long as the relay relays.
        let _ = self.ordered.send(item);
    }

    async fn send_ordered(&self, item: &Item) {
        let body = if item.early.is_some() {
            for id in &item.answers {
                self.asked.take(id);
            }
            item.body.clone()
        } else if let Some(body) = self.without_lost(&item.body, &item.answers).await {
            body
        } else {
            tracing::debug!("answer dropped: the session that asked is lost");
            return;
        };
        let looks = item.modern.is_some() || item.early.is_some();
        let effort = if looks { Effort::Look } else { effort(&self.session.current()) };
        let mut outcome = self.post_either_way(item, &body, effort).await;
        if matches!(outcome, Err(Failure::Elsewhere)) {
            outcome = self.post_either_way(item, &body, effort).await;
        }
        match outcome {
            Ok(Some(Weighed::Reply(reply))) if reply.status.is_success() => {
                if item.initializes {
                    self.session.open();
                }
                self.finish(reply).await;
                // There are servers that drop what they have to say while there is no stream for it.
                if item.initializes && self.pool.finder.known_transport() == Transport::Streamable {
                    let _ = timeout(FIRST_STREAM, self.session.has_listened()).await;
                }
            }
            Ok(Some(Weighed::Reply(Reply { status, .. }) | Weighed::Error { status, .. })) => {
                tracing::warn!(kind = ?item.kind, %status, "message refused");
            }
            Ok(None) => {}
            Err(failure) => tracing::warn!(kind = ?item.kind, %failure, "message not delivered"),
        }
    }

    async fn post_either_way(
        &self,
        item: &Item,
        body: &Bytes,
        effort: Effort,
    ) -> Result<Option<Weighed>, Failure> {
        match (self.pool.finder.transport(effort).await?, &item.modern) {
            (Transport::Streamable, Some(headers)) => {
                let post = self.post(&Session::default(), body.clone());
                let reply = self.pool.exchange(&Call { effort, headers: headers.clone(), ..post }).await?;
                Ok(Some(Weighed::Reply(reply)))
            }
            (Transport::Streamable, None) => self.post_ordered(item, body, effort).await,
            (Transport::Sse, _) => self.post_ordered_on_channel(item, body, effort).await,
        }
    }

    /// A message without the answers to what was asked in a session that is lost; nothing if nothing is left of it.
    pub(crate) async fn without_lost(&self, body: &Bytes, answers: &[Id]) -> Option<Bytes> {
        let mut lost = Vec::new();
        for id in answers {
            if self.is_lost(id).await {
                lost.push(id.clone());
            }
        }
        if lost.is_empty() { Some(body.clone()) } else { batch::without(body, &lost) }
    }

    /// Whether the session in which the server asked this is not the current one any more.
    async fn is_lost(&self, question: &Id) -> bool {
        let Some(life) = self.asked.take(question) else { return false };
        if life > self.session.current().life {
            // It is just being begun.
            match self.pool.finder.known_transport() {
                Transport::Streamable => drop(self.session.renewing.lock().await),
                Transport::Sse => self.channels.settled().await,
            }
        }
        let session = self.session.current();
        session.generation > 0 && session.life != life
    }

    /// What the server replied; nothing if it need not be told.
    async fn post_ordered(
        &self,
        item: &Item,
        body: &Bytes,
        effort: Effort,
    ) -> Result<Option<Weighed>, Failure> {
        let mut session = item.early.clone().unwrap_or_else(|| self.session.current());
        if session.is_elsewhere(Transport::Streamable) {
            // It belongs to that one, or to none.
            if item.kind == ItemKind::Response {
                return Err(Failure::Lost);
            }
            session = self.session_here(Transport::Streamable, effort).await?;
            if item.is_told(&session) {
                return Ok(None);
            }
        }
        let post = Call { effort, ..self.post(&session, body.clone()) };
        let weighed = self.weigh(self.pool.exchange(&post).await?, &session).await;
        let is_lost = weighed.is_lost() && item.kind != ItemKind::Response;
        if !is_lost || self.renew(session.generation, effort).await.is_err() {
            return Ok(Some(weighed));
        }
        let session = self.session.current();
        if item.is_told(&session) {
            return Ok(None);
        }
        // Its answers are the lost session's.
        let Some(body) = batch::without(body, &item.answers) else { return Ok(None) };
        let post = Call { effort, ..self.post(&session, body) };
        self.pool.exchange(&post).await.map(|reply| Some(Weighed::Reply(reply)))
    }

    async fn post_ordered_on_channel(
        &self,
        item: &Item,
        body: &Bytes,
        effort: Effort,
    ) -> Result<Option<Weighed>, Failure> {
        let mut again = true;
        loop {
            let channel = match item.kind {
                ItemKind::Notification | ItemKind::Initialized => self.channel(effort, false).await?,
                // The one that it belongs to, or none.
                ItemKind::Response => self.channels.usable(false).ok_or(Failure::Lost)?,
            };
            let session = item.early.clone().unwrap_or_else(|| self.session.current());
            if item.is_told(&session) {
                return Ok(None);
            }
            match self.post_on(&channel, &session, body.clone(), effort, &|| true).await {
                Ok(reply) if reply.status == StatusCode::NOT_FOUND => {
                    channel.close();
                    if !std::mem::take(&mut again) {
                        return Ok(Some(Weighed::Reply(reply)));
                    }
                }
                // Not sent, since the channel was closed meanwhile.
                Err(Failure::Withdrawn) if std::mem::take(&mut again) => {}
                outcome => return outcome.map(|reply| Some(Weighed::Reply(reply))),
            }
        }
    }
}

/// What is said within a session ends with it: it is no reason to start a server that is gone, to which it would mean
/// nothing. Nor is a notification that belongs to no session. Before the first session there is nothing to lose and a server to be found.
fn effort(session: &Session) -> Effort {
    if session.generation == 0 { Effort::Follow } else { Effort::Look }
}
