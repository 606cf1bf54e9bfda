//! The part of the endpoint that serves modern callers.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use thv_wire::code::{INTERNAL_ERROR, INVALID_REQUEST, Reason};
use thv_wire::lines;
use thv_wire::message::{Id, Incoming, peek};

use super::Spawn;
use super::host::{Reply, Shared, StdioHost};
use super::link::{End, Peer, Refused};
use super::messages::{legacy_only, not_a_message};
use super::modern::{Headed, NoWorker, Worker, check, mismatch, respond, take};
use super::refusal::Refusal;
use super::respond::accepted;
use super::room::{Place, bind};
use super::run::run;
use crate::Owner;

/// A server may end just when a request comes, for want of use: then another is started, so often.
const TRIES: usize = 2;

impl<S: Spawn> StdioHost<S> {
    /// Serves a message of a modern caller.
    pub(super) async fn modern(
        &self,
        parts: &Parts,
        owner: Owner,
        body: &Bytes,
        mut place: Option<Place>,
    ) -> Reply {
        let line = lines::to_line(body.clone());
        let Incoming::One(message) = peek(&line).map_err(|error| not_a_message(&error))? else {
            let text = "the body must be a single message: revision 2026-07-28 has no batches";
            return Err(Refusal::about(StatusCode::BAD_REQUEST, None, INVALID_REQUEST, text));
        };
        let envelope = match take(&message)? {
            Headed::Request(envelope) => envelope,
            Headed::Notification => {
                // Ids of the caller mean nothing to the server: a request is cancelled by closing its response.
                if !message.is("notifications/cancelled")
                    && let Some(worker) = self.0.pool.running(&owner)
                {
                    worker.notify(bind(line.clone(), place));
                }
                return Ok(accepted());
            }
        };
        let (id, shared) = (message.id.as_ref(), &self.0);
        for _ in 0..TRIES {
            let worker = self.worker(&owner, id).await?;
            check(parts, &message, &envelope)?;
            let checked = worker.check_params(&message, &envelope, &parts.headers).await;
            checked.map_err(|error| mismatch(&message, &error))?;
            match worker.submit(&line, &mut place, &message, &envelope).await {
                Ok(outlet) => return Ok(respond(outlet).await),
                // Nothing was sent: another server may be started.
                Err(Refused::Ended) => {}
                Err(Refused::TooMany | Refused::InFlight) => {
                    let text = "too many requests of this caller wait for their answers";
                    let status = StatusCode::SERVICE_UNAVAILABLE;
                    return Err(Refusal::about(status, id, INTERNAL_ERROR, text));
                }
            }
        }
        let text = "the server exited before it got the request";
        let text = [text, &*shared.options.advice].join(". ");
        Err(Refusal::because(
            StatusCode::SERVICE_UNAVAILABLE,
            id,
            Reason::NotRunning,
            text.trim_end_matches(". "),
        ))
    }

    /// The server for an owner's callers, started if there is none.
    async fn worker(&self, owner: &Owner, id: Option<&Id>) -> Result<Arc<Worker>, Refusal> {
        let shared = &self.0;
        let start = |(worker, inbox)| {
            shared.running.send_modify(|count| *count += 1);
            let gone = Gone { shared: Arc::clone(shared), worker };
            tokio::spawn(async move {
                run(&gone.worker, &gone.shared.spawner, inbox).await;
            });
        };
        match shared.pool.worker(owner, &shared.options, &shared.count, start).await {
            Ok(worker) => Ok(worker),
            Err(NoWorker::NotStarted(worker, why)) => {
                let id = id.cloned().unwrap_or_else(Id::null);
                Err(Refusal::told(worker.link.farewell(&id, &End::NotStarted(why), false)))
            }
            Err(NoWorker::Legacy) => Err(legacy_only(id)),
            Err(NoWorker::TooMany) => Err(too_many(id, shared.options.max_sessions)),
            Err(NoWorker::ShuttingDown) => Err(shutting_down(id)),
        }
    }
}

fn too_many(id: Option<&Id>, max: usize) -> Refusal {
    let text = format!(
        "the servers of {max} callers are running, and no more may be: try again in a minute, when one that nobody \
         uses makes room"
    );
    Refusal::about(StatusCode::SERVICE_UNAVAILABLE, id, INTERNAL_ERROR, &text)
}

fn shutting_down(id: Option<&Id>) -> Refusal {
    let text = "the server is being stopped";
    Refusal::because(StatusCode::SERVICE_UNAVAILABLE, id, Reason::ShuttingDown, text)
}

/// Takes a server off the list when it is gone, or its task has panicked.
struct Gone<S> {
    shared: Arc<Shared<S>>,
    worker: Arc<Worker>,
}

impl<S> Drop for Gone<S> {
    fn drop(&mut self) {
        self.worker.end(&End::Exited);
        self.shared.pool.remove(&self.worker);
        self.shared.running.send_modify(|count| *count -= 1);
    }
}
