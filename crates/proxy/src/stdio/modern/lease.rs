//! A server that is promised to a request.

use std::sync::Arc;

use bytes::Bytes;
use thv_wire::message::Peek;
use thv_wire::modern::Envelope;

use super::super::link::Refused;
use super::super::room::Place;
use super::outlet::Outlet;
use super::usage::Way;
use super::worker::Worker;

/// Until it is dropped, the server is kept for the request that is about to be sent.
#[derive(Debug)]
pub(in super::super) struct Lease {
    worker: Arc<Worker>,
    way: Way,
}

impl Lease {
    /// The promise of a server, if it can be given. See [`Usage`](super::usage::Usage).
    pub(super) fn of(worker: &Arc<Worker>, way: Way, politely: bool) -> Option<Self> {
        worker.promise(way, politely).then(|| Self { worker: Arc::clone(worker), way })
    }

    pub(in super::super) fn worker(&self) -> &Arc<Worker> {
        &self.worker
    }

    pub(super) fn is_alone(&self) -> bool {
        self.way == Way::Alone
    }

    /// Hands the request to the server. See [`Worker::submit`].
    pub(in super::super) async fn submit(
        self,
        line: &Bytes,
        place: &mut Option<Place>,
        message: &Peek<'_>,
        envelope: &Envelope<'_>,
    ) -> Result<Outlet, Refused> {
        self.worker.submit(line, place, message, envelope, self.way).await
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.worker.release(self.way);
    }
}
