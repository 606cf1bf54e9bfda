//! The supervisor: the process that owns one workload, from the bound port to the last word in the status file.

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::BuildHasher as _;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use thv_keygen::{KeySet, Name};
use tokio::sync::watch;

use crate::control::{self, Answer, Controlled};
use crate::home::Home;
use crate::orphans;
use crate::process::ProcessRef;
use crate::registry::{self, RegistryError};
use crate::status::{Desired, KeyInfo, State, Status, timestamp};
use crate::sys::ControlListener;

/// Ports that are picked: below those that systems hand to outgoing connections, so that a workload finds its own
/// free again after a restart.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// How many ports are tried before giving up.
const ATTEMPTS: u64 = 200;

/// What stands between a listener and a server.
pub trait Front: Send + Sync + 'static {
    /// Serves the listener until `stop` turns true, then ends every session and returns.
    fn serve(
        &self,
        listener: TcpListener,
        stop: watch::Receiver<bool>,
    ) -> impl Future<Output = io::Result<()>> + Send;

    /// Puts another key set in force for every request from now on.
    fn replace_keys(&self, keys: KeySet);

    /// How many sessions are open.
    fn sessions(&self) -> usize;

    /// The public names of the keys in force, the newest first.
    fn key_ids(&self) -> Vec<String>;

    /// What is wrong with the server, now and from now on. Nothing, for a front that does not watch it.
    fn trouble(&self) -> Option<watch::Receiver<Option<String>>> {
        None
    }
}

/// Where a workload's keys rest. Calls block.
pub trait Keys {
    /// Why a call failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Makes the first key of a workload that has none.
    ///
    /// # Errors
    /// It has one already, or the store cannot be used.
    fn create(&self, name: &Name) -> Result<(), Self::Error>;

    /// Deletes all keys of a workload; none is fine.
    ///
    /// # Errors
    /// The store cannot be used.
    fn remove(&self, name: &Name) -> Result<(), Self::Error>;
}

/// Why a supervisor came to its end early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SupervisorError {
    /// The port that the user named is taken.
    #[error("port {0} is taken by another program")]
    PortTaken(u16),
    /// No port could be bound.
    #[error("cannot listen on {addr}")]
    Listen {
        /// The address; port 0 stands for any.
        addr: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The status file could not be written.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The front failed.
    #[error("the proxy stopped")]
    Front(#[source] io::Error),
    /// The operating system does not tell about this process.
    #[error("cannot find out about this process")]
    Process(#[source] io::Error),
}

/// Which port a workload is to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortWish {
    /// This one and no other.
    Exactly(u16),
    /// This one if it is free, for it was ours before.
    Rather(u16),
    /// Any.
    Any,
}

/// Binds the listener. A port that has to be picked is none of those that `reserved` tells, such as the ports of
/// workloads that are stopped and want them back.
///
/// # Errors
/// [`SupervisorError::PortTaken`] for a port that was asked for exactly, [`SupervisorError::Listen`] otherwise.
pub fn bind(
    ip: IpAddr,
    wish: PortWish,
    reserved: impl FnOnce() -> BTreeSet<u16>,
) -> Result<TcpListener, SupervisorError> {
    let listen = |port| {
        let addr = SocketAddr::new(ip, port);
        TcpListener::bind(addr).map_err(|source| SupervisorError::Listen { addr, source })
    };
    let taken = |error: &SupervisorError| matches!(error, SupervisorError::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse);
    match wish {
        PortWish::Exactly(port) => {
            return listen(port)
                .map_err(|error| if taken(&error) { SupervisorError::PortTaken(port) } else { error });
        }
        PortWish::Rather(port) => match listen(port) {
            Err(error) if taken(&error) => {}
            other => return other,
        },
        PortWish::Any => {}
    }
    let reserved = reserved();
    // The hasher's seed is the only randomness needed: a port is no secret.
    let seed = RandomState::new();
    for attempt in 0..ATTEMPTS {
        let spread = seed.hash_one(attempt) % u64::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(spread).unwrap_or(0);
        if reserved.contains(&port) {
            continue;
        }
        match listen(port) {
            Err(error) if taken(&error) => {}
            other => return other,
        }
    }
    listen(0)
}

/// The status file in the hands of the live supervisor.
pub struct StatusFile {
    home: Home,
    name: Name,
    status: Status,
}

impl StatusFile {
    /// Takes the file over for this process.
    ///
    /// # Errors
    /// It cannot be written, or this process cannot be named.
    pub fn take(home: &Home, name: &Name, mut status: Status) -> Result<Self, SupervisorError> {
        status.supervisor = Some(ProcessRef::current().map_err(SupervisorError::Process)?);
        let mut file = Self { home: home.clone(), name: name.clone(), status };
        file.update(|status| {
            status.status = State::Starting;
            status.status_context.clear();
            status.started_at = Some(timestamp(SystemTime::now()));
        })?;
        Ok(file)
    }

    /// Changes the status and writes it.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn update(&mut self, change: impl FnOnce(&mut Status)) -> Result<(), SupervisorError> {
        change(&mut self.status);
        Ok(registry::save_status(&self.home, &self.name, &self.status)?)
    }

    /// Says what is wrong with the server, if anything is.
    fn show_server(&mut self, trouble: Option<String>) -> Result<(), SupervisorError> {
        let state = if trouble.is_some() { State::Unhealthy } else { State::Running };
        let context = trouble.unwrap_or_default();
        if self.status.status == state && self.status.status_context == context {
            return Ok(());
        }
        self.update(|status| (status.status, status.status_context) = (state, context))
    }

    /// The status as last written.
    #[must_use]
    pub fn status(&self) -> &Status {
        &self.status
    }
}

/// Why a supervisor is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The user does not want it any more.
    ByUser,
    /// The machine or the session goes down, or a command starts it anew; the workload is wanted again afterwards.
    BySystem,
}

/// Answers the control socket for a supervisor.
struct Controls<'a, F> {
    front: &'a F,
    us: ProcessRef,
    file: &'a Mutex<StatusFile>,
    stopped: watch::Sender<Option<Stop>>,
}

impl<F: Front> Controlled for Controls<'_, F> {
    fn answer(&self) -> Answer {
        Answer {
            supervisor: self.us,
            sessions: self.front.sessions(),
            key_ids: self.front.key_ids(),
            error: None,
        }
    }

    fn replace_keys(&self, set: KeySet) {
        let newest = set.iter().find(|key| key.label().is_none()).map(|key| key.id().to_string());
        self.front.replace_keys(set);
        let now = timestamp(SystemTime::now());
        let update = lock(self.file).update(|status| {
            if let Some(id) = newest
                && status.key.as_ref().is_none_or(|key| key.id != id)
            {
                status.key = Some(KeyInfo { id, rotated_at: now });
            }
        });
        if let Err(error) = update {
            tracing::warn!(%error, "the status file does not show the new key");
        }
    }

    fn stop(&self, again: bool) {
        let _ = self.stopped.send(Some(if again { Stop::BySystem } else { Stop::ByUser }));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers commands; without a socket there are none.
async fn answer_commands(control: Option<&ControlListener>, controls: &impl Controlled) {
    match control {
        Some(control) => control::serve(control, controls).await,
        None => std::future::pending().await,
    }
}

/// Shows in the status what is wrong with the server, for as long as it is polled.
async fn show_trouble(trouble: Option<watch::Receiver<Option<String>>>, file: &Mutex<StatusFile>) {
    let Some(mut trouble) = trouble else { return std::future::pending().await };
    loop {
        let now = trouble.borrow_and_update().clone();
        if let Err(error) = lock(file).show_server(now) {
            tracing::warn!(%error, "the status file does not show how the server is");
        }
        if trouble.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Serves a workload until it is asked to stop, by a command on the control socket or by `stop`, and keeps its status
/// file true meanwhile.
///
/// `ready` is called once the listener accepts and the status says so. `hurry` is looked at while it ends: when it
/// resolves, servers that have not yet noticed the end of their input are asked by a signal.
///
/// # Errors
/// The front failed, or the status file could not be written.
pub async fn supervise<F: Front>(
    file: StatusFile,
    front: Arc<F>,
    listener: TcpListener,
    control: Option<ControlListener>,
    ready: impl FnOnce(&Status),
    stop: impl Future<Output = Stop>,
    hurry: impl Future<Output = ()>,
) -> Result<(), SupervisorError> {
    let port = listener.local_addr().map_err(SupervisorError::Front)?.port();
    let (sender, receiver) = watch::channel(false);
    let serve = front.serve(listener, receiver);
    tokio::pin!(serve);

    let file = Mutex::new(file);
    let (stopped, mut stopping) = watch::channel(None);
    let us = ProcessRef::current().map_err(SupervisorError::Process)?;
    let controls = Controls { front: &*front, us, file: &file, stopped };
    lock(&file).update(|status| {
        status.status = State::Running;
        status.desired = Desired::Running;
        status.unfinished = None;
        status.port = port;
    })?;
    ready(lock(&file).status());

    let commands = answer_commands(control.as_ref(), &controls);
    let stop = async {
        tokio::select! {
            why = stop => why,
            why = stopping.wait_for(Option::is_some) => why.ok().and_then(|why| *why).unwrap_or(Stop::ByUser),
        }
    };
    let outcome = tokio::select! {
        ended = &mut serve => ended.and_then(|()| Err(io::Error::other("it ended without being asked to"))),
        () = commands => unreachable!("commands are answered for as long as they are polled"),
        () = show_trouble(front.trouble(), &file) => unreachable!("trouble is shown for as long as it is polled"),
        why = stop => {
            let stopping = lock(&file).update(|status| {
                status.status = State::Stopping;
                if why == Stop::ByUser {
                    status.desired = Desired::Stopped;
                }
            });
            // The end comes in order also when there is no room left to write that it comes.
            if let Err(error) = stopping {
                tracing::warn!(%error, "the status file does not show the end");
            }
            let _ = sender.send(true);
            tokio::select! {
                biased;
                ended = &mut serve => ended,
                () = hurry => {
                    orphans::hurry();
                    serve.await
                }
            }
        }
    };
    // Whoever asks from here on is told by the status file alone.
    drop(control);
    lock(&file).update(|status| {
        status.supervisor = None;
        match &outcome {
            Ok(()) => {
                status.status = State::Stopped;
                status.status_context.clear();
            }
            Err(error) => {
                status.status = State::Error;
                status.status_context = format!("the proxy stopped: {error}");
            }
        }
    })?;
    outcome.map_err(SupervisorError::Front)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::path::Path;
    use std::time::Duration;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_port_asked_for_exactly_is_had_or_refused() {
        let first = bind(LOOPBACK, PortWish::Any, BTreeSet::new).unwrap();
        let port = first.local_addr().unwrap().port();
        assert!(PORTS.contains(&port));
        assert!(
            matches!(bind(LOOPBACK, PortWish::Exactly(port), BTreeSet::new), Err(SupervisorError::PortTaken(p)) if p == port)
        );
        let moved = bind(LOOPBACK, PortWish::Rather(port), BTreeSet::new).unwrap();
        assert_ne!(moved.local_addr().unwrap().port(), port);
        drop(first);
        assert_eq!(
            bind(LOOPBACK, PortWish::Rather(port), BTreeSet::new).unwrap().local_addr().unwrap().port(),
            port
        );
    }

    #[test]
    fn a_port_that_is_picked_is_none_that_another_workload_keeps() {
        // All that could be picked but for a few.
        let reserved: BTreeSet<u16> = PORTS.skip(10).collect();
        for wish in [PortWish::Any, PortWish::Rather(PORTS.start + 20)] {
            let holder = TcpListener::bind((LOOPBACK, PORTS.start + 20));
            let port = bind(LOOPBACK, wish, || reserved.clone()).unwrap().local_addr().unwrap().port();
            assert!(!reserved.contains(&port), "{port}");
            drop(holder);
        }
        // Its own port a workload gets also when another one has written down the same.
        let own = bind(LOOPBACK, PortWish::Any, BTreeSet::new).unwrap().local_addr().unwrap().port();
        let again = bind(LOOPBACK, PortWish::Rather(own), || BTreeSet::from([own])).unwrap();
        assert_eq!(again.local_addr().unwrap().port(), own);
    }

    #[test]
    fn an_address_that_is_not_ours_is_an_error_not_a_loop() {
        let error = bind("192.0.2.1".parse().unwrap(), PortWish::Any, BTreeSet::new).unwrap_err();
        assert!(matches!(error, SupervisorError::Listen { .. }));
    }

    struct Fake {
        fail: bool,
        trouble: Option<watch::Receiver<Option<String>>>,
    }

    impl Front for Fake {
        async fn serve(&self, _listener: TcpListener, mut stop: watch::Receiver<bool>) -> io::Result<()> {
            if self.fail {
                return Err(io::Error::other("no more descriptors"));
            }
            stop.wait_for(|stop| *stop).await.map(drop).map_err(io::Error::other)
        }

        fn replace_keys(&self, _keys: KeySet) {}

        fn sessions(&self) -> usize {
            0
        }

        fn key_ids(&self) -> Vec<String> {
            Vec::new()
        }

        fn trouble(&self) -> Option<watch::Receiver<Option<String>>> {
            self.trouble.clone()
        }
    }

    async fn run(dir: &Path, fail: bool, why: Stop) -> (Result<(), SupervisorError>, Vec<Status>) {
        let home = Home::below(&dir.join("home"));
        home.prepare().unwrap();
        let name = Name::parse("time").unwrap();
        let lock = crate::lock::WorkloadLock::acquire(&home, &name, Duration::ZERO).unwrap();
        registry::create_dir(&home, &lock).unwrap();
        let file = StatusFile::take(&home, &name, Status::new(State::Starting, Desired::Running)).unwrap();
        let on_disk = || registry::status(&home, &name).unwrap().unwrap();
        let mut seen = vec![on_disk()];
        let listener = bind(LOOPBACK, PortWish::Any, BTreeSet::new).unwrap();
        let ready = |status: &Status| seen.push(status.clone());
        let stop = async { if fail { std::future::pending().await } else { why } };
        let front = Arc::new(Fake { fail, trouble: None });
        let never = std::future::pending();
        let result = supervise(file, front, listener, None, ready, stop, never).await;
        seen.push(on_disk());
        (result, seen)
    }

    #[tokio::test]
    async fn the_status_file_tells_the_truth_from_start_to_stop() {
        for (why, desired) in [(Stop::ByUser, Desired::Stopped), (Stop::BySystem, Desired::Running)] {
            let dir = tempfile::tempdir().unwrap();
            let (result, seen) = run(dir.path(), false, why).await;
            result.unwrap();
            assert_eq!(
                seen.iter().map(|s| s.status).collect::<Vec<_>>(),
                [State::Starting, State::Running, State::Stopped]
            );
            assert!(seen[1].is_alive() && seen[1].port != 0);
            assert_eq!((seen[2].desired, seen[2].supervisor), (desired, None));
        }
    }

    #[tokio::test]
    async fn trouble_of_the_server_shows_and_goes_again() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::below(&dir.path().join("home"));
        home.prepare().unwrap();
        let name = Name::parse("time").unwrap();
        let lock = crate::lock::WorkloadLock::acquire(&home, &name, Duration::ZERO).unwrap();
        registry::create_dir(&home, &lock).unwrap();
        let file = StatusFile::take(&home, &name, Status::new(State::Starting, Desired::Running)).unwrap();
        let shown = || {
            let status = registry::status(&home, &name).unwrap().unwrap();
            (status.status, status.status_context)
        };
        let (told, trouble) = watch::channel(None);
        let front = Arc::new(Fake { fail: false, trouble: Some(trouble) });
        let stop = async {
            for trouble in [Some("it has exited"), Some("twice"), None, Some("thrice")] {
                told.send_replace(trouble.map(str::to_owned));
                let state = if trouble.is_some() { State::Unhealthy } else { State::Running };
                let expected = (state, trouble.unwrap_or_default().to_owned());
                while shown() != expected {
                    tokio::task::yield_now().await;
                }
            }
            Stop::ByUser
        };
        let listener = bind(LOOPBACK, PortWish::Any, BTreeSet::new).unwrap();
        supervise(file, front, listener, None, |_| {}, stop, std::future::pending()).await.unwrap();
        assert_eq!(shown(), (State::Stopped, String::new()));
    }

    #[tokio::test]
    async fn a_front_that_fails_leaves_an_error_and_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let (result, seen) = run(dir.path(), true, Stop::ByUser).await;
        assert!(matches!(result, Err(SupervisorError::Front(_))));
        let last = seen.last().unwrap();
        assert_eq!(last.status, State::Error);
        assert!(last.status_context.contains("no more descriptors"));
        assert_eq!(last.desired, Desired::Running);
    }
}
