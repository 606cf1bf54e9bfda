//! The servers for modern callers, one an owner, and what is known of their era.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::link::{End, Life, Peer};
use super::super::{Options, SessionInfo};
use super::worker::{Era, Worker};
use crate::Owner;

/// A server makes room for another when nobody has used it for so long.
const EVICTABLE: Duration = Duration::from_secs(60);
/// A server that did not say which era it speaks is asked again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// The servers, by the owner of their callers.
#[derive(Debug, Default)]
pub(in super::super) struct Pool(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    workers: HashMap<Owner, Arc<Worker>>,
    /// All that are not gone yet.
    running: usize,
    /// Until when the server counts as one of the older era.
    legacy_until: Option<Instant>,
    closing: bool,
}

/// Why there is no server for a caller.
#[derive(Debug)]
pub(in super::super) enum NoWorker {
    /// It speaks the older era.
    Legacy,
    /// It could not be started.
    NotStarted(Arc<Worker>, String),
    /// There are as many as there may be.
    TooMany,
    /// The host ends.
    ShuttingDown,
}

/// A server that is to be started, and what it is to read.
pub(in super::super) type Unborn = (Arc<Worker>, mpsc::Receiver<Bytes>);

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server for an owner's callers, once its era is known. `start` is called when one must be started.
    pub(in super::super) async fn worker(
        &self,
        owner: &Owner,
        options: &Arc<Options>,
        count: &AtomicU64,
        start: impl FnOnce(Unborn),
    ) -> Result<Arc<Worker>, NoWorker> {
        let (worker, unborn) = self.find_or_make(owner, options, count)?;
        if let Some(unborn) = unborn {
            start(unborn);
        }
        match worker.era().await {
            Ok(Era::Modern) => Ok(worker),
            Ok(Era::Legacy) => Err(self.is_legacy_for(options.session_ttl)),
            Ok(Era::Silent) => Err(self.is_legacy_for(ASK_AGAIN)),
            // Some of the older era exit when their first message is not `initialize`.
            Ok(Era::Gone) => Err(NoWorker::Legacy),
            Err(why) => Err(NoWorker::NotStarted(worker, why)),
        }
    }

    fn find_or_make(
        &self,
        owner: &Owner,
        options: &Arc<Options>,
        count: &AtomicU64,
    ) -> Result<(Arc<Worker>, Option<Unborn>), NoWorker> {
        let mut inner = self.lock();
        if inner.closing {
            return Err(NoWorker::ShuttingDown);
        }
        if inner.legacy_until.is_some_and(|until| Instant::now() < until) {
            return Err(NoWorker::Legacy);
        }
        if let Some(worker) = inner.workers.get(owner).filter(|worker| is_live(worker)) {
            return Ok((Arc::clone(worker), None));
        }
        // Servers that are being stopped count too.
        let crowded = inner.running >= options.max_sessions.saturating_mul(2);
        let full = inner.live().count() >= options.max_sessions;
        let oldest = if full { Some(inner.longest_idle()) } else { None };
        if crowded || matches!(oldest, Some(None)) {
            return Err(NoWorker::TooMany);
        }
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        let (worker, inbox) = Worker::new(number, owner.clone(), Arc::clone(options));
        let worker = Arc::new(worker);
        inner.workers.insert(owner.clone(), Arc::clone(&worker));
        inner.running += 1;
        drop(inner);
        if let Some(Some(oldest)) = oldest {
            oldest.end(&End::Evicted);
        }
        tracing::info!(server = number, "starting a server for modern callers");
        Ok((Arc::clone(&worker), Some((worker, inbox))))
    }

    fn is_legacy_for(&self, time: Duration) -> NoWorker {
        self.lock().legacy_until = Instant::now().checked_add(time);
        NoWorker::Legacy
    }

    /// The server of an owner's callers, if it is running and modern.
    pub(in super::super) fn running(&self, owner: &Owner) -> Option<Arc<Worker>> {
        let worker = self.lock().workers.get(owner).cloned()?;
        (worker.link.life() == Life::Open).then_some(worker)
    }

    pub(in super::super) fn infos(&self) -> Vec<SessionInfo> {
        let workers: Vec<_> = self.lock().live().cloned().collect();
        workers.iter().map(|worker| worker.info()).collect()
    }

    /// Takes no more callers and returns the servers there are.
    pub(in super::super) fn close(&self) -> Vec<Arc<Worker>> {
        let mut inner = self.lock();
        inner.closing = true;
        inner.workers.values().cloned().collect()
    }

    /// A server is gone.
    pub(in super::super) fn remove(&self, worker: &Arc<Worker>) {
        let mut inner = self.lock();
        inner.running -= 1;
        let owner = &worker.link.owner;
        if inner.workers.get(owner).is_some_and(|other| Arc::ptr_eq(other, worker)) {
            inner.workers.remove(owner);
        }
    }
}

fn is_live(worker: &Worker) -> bool {
    worker.link.life() != Life::Ended
}

impl Inner {
    fn live(&self) -> impl Iterator<Item = &Arc<Worker>> {
        self.workers.values().filter(|worker| is_live(worker))
    }

    /// The server to give up for another, if there is one that may be.
    fn longest_idle(&self) -> Option<Arc<Worker>> {
        let idle = self.live().filter_map(|worker| Some((worker.idle()?, worker)));
        let longest = idle.max_by_key(|(idle, worker)| (*idle, Reverse(worker.link.number)));
        longest.filter(|(idle, _)| *idle >= EVICTABLE).map(|(_, worker)| Arc::clone(worker))
    }
}
