//! A server that speaks HTTP: one process for all its clients, on a port of its own, started anew when it exits.
//!
//! Which port that is, the server is told by the caller's [`ServerSpec`]; nothing here speaks to it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::process::ProcessRef;
use crate::server::ServerSpec;

/// The pause before a server that exited is started again; doubled each time, up to [`MAX_PAUSE`].
const PAUSE: Duration = Duration::from_millis(250);

/// The longest such pause.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// A server that ran for this long has recovered: its next exit is the first again.
const RECOVERED: Duration = Duration::from_secs(60);

/// Which port a server is to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// This one, which the user named.
    Exactly(u16),
    /// One that is free, found anew at each start. Another program may take it before the server does, so whoever
    /// connects looks at who listens there.
    Free,
}

/// Where the server is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Current<T> {
    /// Where it was told to listen.
    pub addr: SocketAddr,
    /// The guardian that leads its processes; `None` while it does not run.
    pub guardian: Option<ProcessRef>,
    /// How often it has exited without being asked to.
    pub exits: u32,
    /// Why it does not run, and when it is started again.
    pub pause: Option<Pause>,
    /// What the caller made for this start of it, such as a key.
    pub given: T,
}

/// The time between two starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// How long it is in all.
    pub time: Duration,
    /// Why the last start failed, if it was tried.
    pub error: Option<String>,
}

/// A server that is kept running until [`stop`](HttpServer::stop), or until this is dropped.
#[derive(Debug)]
pub struct HttpServer<T> {
    current: watch::Receiver<Current<T>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl<T: Clone + Send + Sync + 'static> HttpServer<T> {
    /// Starts the server. `make` says before each start how, for a port, and what [`Current::given`] is from then on. Must
    /// be called within a tokio runtime.
    ///
    /// # Errors
    /// No port is free, `make` failed, or the first process could not be made.
    pub fn start(
        port: TargetPort,
        make: impl Fn(u16) -> io::Result<(ServerSpec, T)> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let Started { addr, given, running } = start(port, &make)?;
        let guardian = Some(running.1.guardian());
        let (sender, current) = watch::channel(Current { addr, guardian, exits: 0, pause: None, given });
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(keep(running, port, make, sender, stopped));
        Ok(Self { current, stop, task })
    }

    /// Where the server is, from now on.
    #[must_use]
    pub fn current(&self) -> watch::Receiver<Current<T>> {
        self.current.clone()
    }

    /// Ends the server and all that it started. Returns when they are gone.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

/// The end of the server's standard input that keeps it alive, and the handle to end it by.
type Running = (tokio::process::ChildStdin, crate::server::ServerHandle);

struct Started<T> {
    addr: SocketAddr,
    given: T,
    running: Running,
}

fn start<T>(port: TargetPort, make: &impl Fn(u16) -> io::Result<(ServerSpec, T)>) -> io::Result<Started<T>> {
    let port = match port {
        TargetPort::Exactly(port) => port,
        TargetPort::Free => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port(),
    };
    let (spec, given) = make(port)?;
    Ok(Started { addr: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), given, running: spec.spawn_logged()? })
}

/// The pauses between starts, each twice as long as the one before.
struct Backoff(Duration);

impl Backoff {
    fn new() -> Self {
        Self(PAUSE)
    }

    /// The server has run for this long.
    fn ran(&mut self, time: Duration) {
        if time >= RECOVERED {
            self.0 = PAUSE;
        }
    }

    fn pause(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(MAX_PAUSE);
        pause
    }
}

/// Resolves when the server is no longer wanted, also when nobody is left who could say so.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Starts the server again whenever it exits, until told to stop.
async fn keep<T>(
    mut running: Running,
    port: TargetPort,
    make: impl Fn(u16) -> io::Result<(ServerSpec, T)> + Send + Sync,
    current: watch::Sender<Current<T>>,
    mut stop: watch::Receiver<bool>,
) {
    let mut backoff = Backoff::new();
    let mut since = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = told(&mut stop) => {
                let (stdin, handle) = running;
                drop(stdin);
                handle.hurry();
                handle.stop().await;
                return;
            }
            () = running.1.ended() => {}
        }
        backoff.ran(since.elapsed());
        let exits = current.borrow().exits.saturating_add(1);
        let mut error: Option<String> = None;
        running = loop {
            let time = backoff.pause();
            match &error {
                None => tracing::warn!(exits, again_in = ?time, "the server has exited"),
                Some(error) => tracing::warn!(error, again_in = ?time, "the server cannot be started"),
            }
            current.send_modify(|current| {
                (current.guardian, current.exits) = (None, exits);
                current.pause = Some(Pause { time, error: error.take() });
            });
            tokio::select! {
                biased;
                () = told(&mut stop) => return,
                () = sleep(time) => {}
            }
            match start(port, &make) {
                Ok(Started { addr, given, running }) => {
                    let Current { exits, .. } = *current.borrow();
                    let guardian = Some(running.1.guardian());
                    current.send_replace(Current { addr, guardian, exits, pause: None, given });
                    break running;
                }
                Err(failed) => error = Some(failed.to_string()),
            }
        };
        since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_a_long_run_begins_anew() {
        let mut backoff = Backoff::new();
        let pauses = |backoff: &mut Backoff, count| -> Vec<u128> {
            (0..count)
                .map(|_| {
                    backoff.ran(RECOVERED.checked_sub(Duration::from_millis(1)).unwrap_or_default());
                    backoff.pause().as_millis()
                })
                .collect()
        };
        let grown = [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000];
        assert_eq!(pauses(&mut backoff, grown.len()), grown);
        backoff.ran(RECOVERED);
        assert_eq!(pauses(&mut backoff, 2), [250, 500]);
    }
}
