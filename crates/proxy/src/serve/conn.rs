//! One connection as its service, its screen and its timer know it, and the list of those not yet trusted.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;
use tokio::time::Instant;

/// One accepted connection. Clones mean the same one.
#[derive(Clone)]
pub struct Conn {
    /// The address of the client, read from the socket.
    pub peer: SocketAddr,
    /// The address that the client connected to, read from the socket.
    pub local: SocketAddr,
    state: Arc<State>,
}

struct State {
    id: u64,
    strangers: Arc<Strangers>,
    trusted: AtomicBool,
    /// When the first byte of the head that is now being received came in.
    head_since: Mutex<Option<Instant>>,
    /// The number, from 1, of the first request on the connection with ambiguous framing; 0 for none.
    bad_head: AtomicU64,
}

impl Conn {
    pub(super) fn new(peer: SocketAddr, local: SocketAddr, strangers: Arc<Strangers>) -> Self {
        let state = State {
            id: strangers.next_id.fetch_add(1, Ordering::Relaxed),
            strangers,
            trusted: AtomicBool::new(false),
            head_since: Mutex::new(None),
            bad_head: AtomicU64::new(0),
        };
        Self { peer, local, state: Arc::new(state) }
    }

    /// Marks the caller as known: the connection is never closed to make room, and may stay idle for long.
    ///
    /// Call it when a request has shown a key; for a server that is open to all, on every request that its
    /// guards admit. Calling it again costs next to nothing.
    pub fn trust(&self) {
        if !self.state.trusted.load(Ordering::Relaxed) && !self.state.trusted.swap(true, Ordering::Relaxed) {
            self.state.strangers.remove(self.state.id);
        }
    }

    pub(super) fn is_trusted(&self) -> bool {
        self.state.trusted.load(Ordering::Relaxed)
    }

    /// Trusted, and not in the middle of a head.
    pub(super) fn is_idle(&self) -> bool {
        self.is_trusted() && self.head_since().is_none()
    }

    pub(super) fn head_since(&self) -> Option<Instant> {
        *lock(&self.state.head_since)
    }

    pub(super) fn set_head_since(&self, since: Option<Instant>) {
        *lock(&self.state.head_since) = since;
    }

    pub(super) fn bad_head(&self) -> u64 {
        self.state.bad_head.load(Ordering::Relaxed)
    }

    pub(super) fn set_bad_head(&self, number: u64) {
        self.state.bad_head.store(number, Ordering::Relaxed);
    }

    /// Takes the connection off the list of strangers when the task that drives it ends, however it ends.
    pub(super) fn leave_on_drop(&self) -> Leave {
        Leave(self.clone())
    }
}

impl fmt::Debug for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conn").field("peer", &self.peer).field("local", &self.local).finish_non_exhaustive()
    }
}

pub(super) struct Leave(Conn);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.state.strangers.remove(self.0.state.id);
    }
}

/// The open connections whose callers are unknown, oldest first.
pub(super) struct Strangers {
    max: usize,
    next_id: AtomicU64,
    open: Mutex<BTreeMap<u64, (SocketAddr, AbortHandle)>>,
}

impl Strangers {
    pub(super) fn new(max: usize) -> Self {
        Self { max, next_id: AtomicU64::new(0), open: Mutex::default() }
    }

    /// Starts the task of a connection and lists it. If there were too many, the oldest is closed and its peer
    /// returned.
    pub(super) fn admit(&self, conn: &Conn, spawn: impl FnOnce() -> AbortHandle) -> Option<SocketAddr> {
        // The lock is held over the start, so that a task that ends at once finds itself on the list.
        let mut open = lock(&self.open);
        open.insert(conn.state.id, (conn.peer, spawn()));
        let evicted = if open.len() > self.max { open.pop_first() } else { None };
        drop(open);
        close(evicted)
    }

    /// Closes the oldest stranger, if there is one.
    pub(super) fn evict(&self) -> Option<SocketAddr> {
        let evicted = lock(&self.open).pop_first();
        close(evicted)
    }

    fn remove(&self, id: u64) {
        lock(&self.open).remove(&id);
    }
}

fn close(evicted: Option<(u64, (SocketAddr, AbortHandle))>) -> Option<SocketAddr> {
    let (_, (peer, task)) = evicted?;
    task.abort();
    Some(peer)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
