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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current {
    /// Where it was told to listen.
    pub addr: SocketAddr,
    /// The guardian that leads its processes; `None` while it does not run.
    pub guardian: Option<ProcessRef>,
    /// How often it has exited without being asked to.
    pub exits: u32,
}

/// A server that is kept running until [`stop`](HttpServer::stop), or until this is dropped.
#[derive(Debug)]
pub struct HttpServer {
    current: watch::Receiver<Current>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl HttpServer {
    /// Starts the server. `spec` says how, for a port. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// No port is free, or the first process could not be made.
    pub fn start(
        port: TargetPort,
        spec: impl Fn(u16) -> ServerSpec + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let (addr, running) = start(port, &spec)?;
        let (sender, current) =
            watch::channel(Current { addr, guardian: Some(running.1.guardian()), exits: 0 });
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(keep(running, port, spec, sender, stopped));
        Ok(Self { current, stop, task })
    }

    /// Where the server is, from now on.
    #[must_use]
    pub fn current(&self) -> watch::Receiver<Current> {
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

fn start(port: TargetPort, spec: &impl Fn(u16) -> ServerSpec) -> io::Result<(SocketAddr, Running)> {
    let port = match port {
        TargetPort::Exactly(port) => port,
        TargetPort::Free => TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port(),
    };
    Ok((SocketAddr::from((Ipv4Addr::LOCALHOST, port)), spec(port).spawn_logged()?))
}

/// Resolves when the server is no longer wanted, also when nobody is left who could say so.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Starts the server again whenever it exits, until told to stop.
async fn keep(
    mut running: Running,
    port: TargetPort,
    spec: impl Fn(u16) -> ServerSpec + Send + Sync,
    current: watch::Sender<Current>,
    mut stop: watch::Receiver<bool>,
) {
    let mut pause = PAUSE;
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
        if since.elapsed() >= RECOVERED {
            pause = PAUSE;
        }
        let exits = current.borrow().exits.saturating_add(1);
        current.send_modify(|current| {
            current.guardian = None;
            current.exits = exits;
        });
        running = loop {
            tracing::warn!(exits, again_in = ?pause, "the server has exited");
            tokio::select! {
                biased;
                () = told(&mut stop) => return,
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(MAX_PAUSE);
            match start(port, &spec) {
                Ok((addr, running)) => {
                    let guardian = Some(running.1.guardian());
                    current.send_modify(|current| (current.addr, current.guardian) = (addr, guardian));
                    break running;
                }
                Err(error) => tracing::warn!(%error, "the server cannot be started"),
            }
        };
        since = Instant::now();
    }
}
