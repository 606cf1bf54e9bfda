//! Notifications and the client's own answers: sent one after the other, each when its predecessor was
//! accepted, so that they arrive in the order in which the client wrote them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use thv_wire::message::Id;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use crate::channel::finish;
use crate::exchange::{Call, Reply};
use crate::failure::Failure;
use crate::gate::{Gate, Opener};
use crate::pending::{UnderWay, Withdrawal};
use crate::pool::Effort;
use crate::relay::Relay;
use crate::session::Session;
use crate::target::Transport;

/// How long a server may take to accept a message before the next one is sent all the same: a server that
/// forgets one must not silence the client for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// One message that nobody answers.
pub(crate) struct Item {
    pub(crate) body: Bytes,
    pub(crate) kind: ItemKind,
    /// Its fields, if it is of the era without sessions.
    pub(crate) modern: Option<HeaderMap>,
    pub(crate) gate: Gate,
    /// Opened when the message was accepted, or could not be delivered.
    pub(crate) opens: Option<Opener>,
    /// The request that it cancels.
    pub(crate) cancels: Option<Withdrawal>,
    /// The request of the server's that it answers.
    pub(crate) answers: Option<Id>,
    pub(crate) under_way: UnderWay,
    pub(crate) room: OwnedSemaphorePermit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ItemKind {
    /// `notifications/initialized`: once it is accepted, the server may be asked for its stream.
    Initialized,
    /// Any other notification.
    Notification,
    /// The client's answer to a request of the server's. A new session knows nothing of that request.
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
            item.gate.passed().await;
            if timeout(PATIENCE, self.send_ordered(&item)).await.is_err() {
                tracing::warn!(kind = ?item.kind, "the server did not accept a message in time");
            }
            // Whatever became of it, those who waited for it go on now.
            drop((item.opens, item.cancels, item.under_way, item.room));
        }
    }

    async fn send_ordered(&self, item: &Item) {
        if let Some(id) = &item.answers
            && self.is_lost(id).await
        {
            tracing::debug!("answer dropped: the session that asked is lost");
            return;
        }
        let effort = if item.modern.is_some() { Effort::Look } else { effort(&self.session.current()) };
        let mut outcome = self.post_either_way(item, effort).await;
        if matches!(outcome, Err(Failure::Elsewhere)) {
            outcome = self.post_either_way(item, effort).await;
        }
        match outcome {
            Ok(Some(reply)) if reply.status.is_success() => {
                if item.kind == ItemKind::Initialized {
                    self.session.open();
                }
                finish(reply).await;
            }
            Ok(Some(reply)) => {
                tracing::warn!(kind = ?item.kind, status = %reply.status, "message refused");
            }
            Ok(None) => {}
            Err(failure) => tracing::warn!(kind = ?item.kind, %failure, "message not delivered"),
        }
    }

    async fn post_either_way(&self, item: &Item, effort: Effort) -> Result<Option<Reply>, Failure> {
        match (self.pool.finder.transport(effort).await?, &item.modern) {
            (Transport::Streamable, Some(headers)) => {
                let post = self.post(&Session::default(), item.body.clone());
                self.pool.exchange(&Call { effort, headers: headers.clone(), ..post }).await.map(Some)
            }
            (Transport::Streamable, None) => self.post_ordered(item, effort).await,
            (Transport::Sse, _) => self.post_ordered_on_channel(item, effort).await,
        }
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
    async fn post_ordered(&self, item: &Item, effort: Effort) -> Result<Option<Reply>, Failure> {
        let mut session = self.session.current();
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
        let post = Call { effort, ..self.post(&session, item.body.clone()) };
        let reply = self.pool.exchange(&post).await?;
        let is_lost = reply.status == StatusCode::NOT_FOUND && session.id.is_some();
        if is_lost && item.kind != ItemKind::Response && self.renew(session.generation, effort).await.is_ok()
        {
            let session = self.session.current();
            if item.is_told(&session) {
                return Ok(None);
            }
            let post = Call { effort, ..self.post(&session, item.body.clone()) };
            return self.pool.exchange(&post).await.map(Some);
        }
        Ok(Some(reply))
    }

    async fn post_ordered_on_channel(&self, item: &Item, effort: Effort) -> Result<Option<Reply>, Failure> {
        let mut again = true;
        loop {
            let channel = match item.kind {
                ItemKind::Notification | ItemKind::Initialized => self.channel(effort, false).await?,
                // The one that it belongs to, or none.
                ItemKind::Response => self.channels.usable(false).ok_or(Failure::Lost)?,
            };
            let session = self.session.current();
            if item.is_told(&session) {
                return Ok(None);
            }
            match self.post_on(&channel, &session, item.body.clone(), effort, &|| true).await {
                Ok(reply) if reply.status == StatusCode::NOT_FOUND => {
                    channel.close();
                    if !std::mem::take(&mut again) {
                        return Ok(Some(reply));
                    }
                }
                // Not sent, since the channel was closed meanwhile.
                Err(Failure::Withdrawn) if std::mem::take(&mut again) => {}
                outcome => return outcome.map(Some),
            }
        }
    }
}

/// What is said within a session ends with it: it is no reason to start a server that is gone, to which it would mean
/// nothing. Nor is a notification that belongs to no session. Before the first session there is nothing to lose and a server to be found.
fn effort(session: &Session) -> Effort {
    if session.generation == 0 { Effort::Follow } else { Effort::Look }
}
