//! The servers for modern callers, and what is known of their era.
//!
//! An owner has a first server, which takes all requests that it can, and up to [`PER_OWNER`] less one beside it, for
//! calls that cannot share. Those take up half of the places at most, so that they keep no owner from its first.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout_at};

use super::super::link::{End, Life, Peer};
use super::super::{Options, SessionInfo};
use super::lease::Lease;
use super::usage::Way;
use super::worker::{Era, Worker};
use crate::Owner;

/// A server makes room for another when nobody has used it for so long.
const EVICTABLE: Duration = Duration::from_secs(60);
/// A server that did not say which era it speaks is asked again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// The most servers of one owner.
const PER_OWNER: usize = 4;
/// So long a call waits for one of the servers there are, before another is started: most calls are over soon.
const HASTE: Duration = Duration::from_millis(100);
/// So long a call waits for a server of its own. Then it shares one, and its log messages are lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// The servers, by the owner of their callers.
#[derive(Debug, Default)]
pub(in super::super) struct Pool {
    inner: Mutex<Inner>,
    /// A server may have come free.
    freed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The first is the one that takes what can be shared.
    workers: HashMap<Owner, Vec<Arc<Worker>>>,
    /// All that are not gone yet.
    running: usize,
    /// Until when the server counts as one of the older era.
    legacy_until: Option<Instant>,
    /// Until when no extra servers are started, since one did not begin as it should.
    no_extras_until: Option<Instant>,
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

/// What is needed to make a server.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Maker<'a> {
    pub(in super::super) owner: &'a Owner,
    pub(in super::super) options: &'a Arc<Options>,
    pub(in super::super) count: &'a AtomicU64,
}

/// Where a request may go.
enum Placed {
    Here(Lease),
    /// To a server that must be started.
    New(Lease, Unborn),
    /// Nowhere, for now.
    Nowhere,
    /// The owner has no server any more.
    Gone,
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A server for a request of an owner's callers, known to be modern. `start` is called when one must be started.
    pub(in super::super) async fn lease(
        &self,
        maker: Maker<'_>,
        way: Way,
        start: impl Fn(Unborn),
    ) -> Result<Lease, NoWorker> {
        let since = Instant::now();
        loop {
            self.first(maker, &start).await?;
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            let waited = since.elapsed();
            let lease = match self.place(maker, way, waited) {
                Placed::Here(lease) => lease,
                Placed::New(lease, unborn) => {
                    start(unborn);
                    lease
                }
                Placed::Nowhere => {
                    let until = since + if waited < HASTE { HASTE } else { PATIENCE };
                    let _ = timeout_at(until, freed).await;
                    continue;
                }
                Placed::Gone => continue,
            };
            if self.is_ready(&lease).await {
                return Ok(lease);
            }
        }
    }

    /// Waits until an owner has a first server that is known to be modern.
    async fn first(&self, maker: Maker<'_>, start: &impl Fn(Unborn)) -> Result<(), NoWorker> {
        let (worker, unborn) = self.find_or_make(maker)?;
        if let Some(unborn) = unborn {
            start(unborn);
        }
        match worker.era().await {
            Ok(Era::Modern) => Ok(()),
            Ok(Era::Legacy) => Err(self.is_legacy_for(maker.options.session_ttl)),
            // Of others it is known already what it is.
            Ok(Era::Silent | Era::Gone) if self.lock().is_modern() => {
                let why = "it did not answer `server/discover`".to_owned();
                Err(NoWorker::NotStarted(worker, why))
            }
            Ok(Era::Silent) => Err(self.is_legacy_for(ASK_AGAIN)),
            // Some of the older era exit when their first message is not `initialize`.
            Ok(Era::Gone) => Err(NoWorker::Legacy),
            Err(why) => Err(NoWorker::NotStarted(worker, why)),
        }
    }

    fn find_or_make(&self, maker: Maker<'_>) -> Result<(Arc<Worker>, Option<Unborn>), NoWorker> {
        let mut inner = self.lock();
        if inner.closing {
            return Err(NoWorker::ShuttingDown);
        }
        if let Some(worker) = inner.of(maker.owner).next() {
            worker.promote();
            return Ok((Arc::clone(worker), None));
        }
        if inner.legacy_until.is_some_and(|until| Instant::now() < until) {
            return Err(NoWorker::Legacy);
        }
        let full = inner.live().count() >= maker.options.max_sessions;
        let oldest = if full { Some(inner.longest_idle()) } else { None };
        if inner.is_crowded(maker.options) || matches!(oldest, Some(None)) {
            return Err(NoWorker::TooMany);
        }
        let (worker, inbox) = inner.make(maker, false, &self.freed);
        drop(inner);
        if let Some(Some(oldest)) = oldest {
            oldest.end(&End::Evicted);
        }
        Ok((Arc::clone(&worker), Some((worker, inbox))))
    }

    /// Finds a server for a request that has waited so long, once the owner has one.
    fn place(&self, maker: Maker<'_>, way: Way, waited: Duration) -> Placed {
        let mut inner = self.lock();
        if inner.of(maker.owner).next().is_none() {
            return Placed::Gone;
        }
        let free = |inner: &Inner, way| inner.of(maker.owner).find_map(|worker| Lease::of(worker, way, true));
        if let Some(lease) = free(&inner, way) {
            return Placed::Here(lease);
        }
        if waited < HASTE {
            return Placed::Nowhere;
        }
        let mut spent = None;
        if inner.may_have_extra(maker, &mut spent) {
            let unborn = inner.make(maker, true, &self.freed);
            let lease = Lease::of(&unborn.0, way, true);
            drop(inner);
            if let Some(spent) = spent {
                spent.end(&End::Evicted);
            }
            return lease.map_or(Placed::Gone, |lease| Placed::New(lease, unborn));
        }
        if way == Way::Alone && waited < PATIENCE {
            return Placed::Nowhere;
        }
        // Nobody is refused for the sake of log messages: those of whoever has had it alone are lost from here on.
        let lease = free(&inner, Way::Shared).or_else(|| {
            let last = inner.of(maker.owner).last()?;
            Lease::of(last, Way::Shared, false)
        });
        lease.map_or(Placed::Gone, Placed::Here)
    }

    /// Waits until a server can be given a request.
    async fn is_ready(&self, lease: &Lease) -> bool {
        let worker = lease.worker();
        if worker.era().await != Ok(Era::Modern) {
            // The first has begun, so this one has met with some accident.
            if worker.is_extra() {
                self.lock().no_extras_until = Instant::now().checked_add(ASK_AGAIN);
            }
            return false;
        }
        !lease.is_alone() || worker.settle().await
    }

    fn is_legacy_for(&self, time: Duration) -> NoWorker {
        self.lock().legacy_until = Instant::now().checked_add(time);
        NoWorker::Legacy
    }

    /// The first server of an owner's callers, if it is running and modern.
    pub(in super::super) fn running(&self, owner: &Owner) -> Option<Arc<Worker>> {
        let inner = self.lock();
        inner.of(owner).find(|worker| worker.link.life() == Life::Open).cloned()
    }

    pub(in super::super) fn infos(&self) -> Vec<SessionInfo> {
        let workers: Vec<_> = self.lock().live().cloned().collect();
        workers.iter().map(|worker| worker.info()).collect()
    }

    /// Takes no more callers and returns the servers there are.
    pub(in super::super) fn close(&self) -> Vec<Arc<Worker>> {
        let mut inner = self.lock();
        inner.closing = true;
        inner.workers.values().flatten().cloned().collect()
    }

    /// A server is gone.
    pub(in super::super) fn remove(&self, worker: &Arc<Worker>) {
        let mut inner = self.lock();
        inner.running -= 1;
        let owner = &worker.link.owner;
        if let Some(workers) = inner.workers.get_mut(owner) {
            workers.retain(|other| !Arc::ptr_eq(other, worker));
            if workers.is_empty() {
                inner.workers.remove(owner);
            }
        }
        drop(inner);
        self.freed.notify_waiters();
    }
}

impl Inner {
    fn live(&self) -> impl Iterator<Item = &Arc<Worker>> {
        self.workers.values().flatten().filter(|worker| worker.is_live())
    }

    fn of(&self, owner: &Owner) -> impl Iterator<Item = &Arc<Worker>> {
        self.workers.get(owner).into_iter().flatten().filter(|worker| worker.is_live())
    }

    fn is_modern(&self) -> bool {
        self.live().any(|worker| worker.link.life() == Life::Open)
    }

    /// Whether so many servers are being stopped that no more may be started.
    fn is_crowded(&self, options: &Options) -> bool {
        self.running >= options.max_sessions.saturating_mul(2)
    }

    /// Whether an owner may have one more server beside its first. `spent` is given up for it.
    fn may_have_extra(&self, maker: Maker<'_>, spent: &mut Option<Arc<Worker>>) -> bool {
        if self.closing
            || self.is_crowded(maker.options)
            || self.no_extras_until.is_some_and(|until| Instant::now() < until)
        {
            return false;
        }
        let max = maker.options.max_sessions;
        let extras = self.live().filter(|worker| worker.is_extra()).count();
        if self.of(maker.owner).count() >= PER_OWNER || extras >= max / 2 || self.live().count() >= max {
            *spent = self.of(maker.owner).find(|worker| worker.is_extra() && worker.is_spent()).cloned();
            return spent.is_some();
        }
        true
    }

    fn make(&mut self, maker: Maker<'_>, extra: bool, freed: &Arc<Notify>) -> Unborn {
        let Maker { owner, options, count } = maker;
        let number = count.fetch_add(1, Ordering::Relaxed) + 1;
        let (worker, inbox) =
            Worker::new(number, owner.clone(), Arc::clone(options), extra, Arc::clone(freed));
        let worker = Arc::new(worker);
        self.workers.entry(owner.clone()).or_default().push(Arc::clone(&worker));
        self.running += 1;
        tracing::info!(server = number, extra, "starting a server for modern callers");
        (worker, inbox)
    }

    /// The server to give up for another, if there is one that may be. Extra ones go first.
    fn longest_idle(&self) -> Option<Arc<Worker>> {
        let idle = self.live().filter_map(|worker| Some((worker.is_extra(), worker.idle()?, worker)));
        let evictable = idle.filter(|(extra, idle, _)| *extra || *idle >= EVICTABLE);
        let longest =
            evictable.max_by_key(|(extra, idle, worker)| (*extra, *idle, Reverse(worker.link.number)));
        longest.map(|(_, _, worker)| Arc::clone(worker))
    }
}
