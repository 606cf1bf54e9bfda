//! A supervisor, put together from its parts: server, trial, listener, keys, front.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use thv_keygen::{KeySet, Name};
use thv_workload::config::RunConfig;
use thv_workload::control::{self, ControlListener};
use thv_workload::home::Home;
use thv_workload::lock::WorkloadLock;
use thv_workload::registry;
use thv_workload::server::bound_log;
use thv_workload::status::{Desired, KeyInfo, State, Status};
use thv_workload::supervisor::{self, PortWish, StatusFile, Stop, SupervisorError};

use crate::commands::list::{endpoint, lock_state};
use crate::failure::{Exit, Failure, Outcome};
use crate::front::GuardedFront;
use crate::secrets::Values;
use crate::upstream::Upstream;
use crate::{logs, say};

/// What a supervisor is to serve.
pub struct Order<'a> {
    pub home: &'a Home,
    pub name: Name,
    pub config: RunConfig,
    /// The keys that open the door; `None` leaves it open.
    pub keys: Option<KeySet>,
    /// What may be shown of the current one.
    pub key_info: Option<KeyInfo>,
    /// Secrets for the server that the environment of the launcher held; the others are in the store.
    pub given: Values,
    pub ready_timeout: Duration,
    pub debug: bool,
}

/// A supervisor that has a server, a port and its keys, and only needs to be let go.
pub struct Prepared {
    pub listener: std::net::TcpListener,
    pub file: StatusFile,
    pub port: u16,
    /// What the user should hear about the port.
    pub notice: Option<String>,
    front: Arc<GuardedFront>,
    control: Option<ControlListener>,
}

/// Serves a workload in this process until the user ends it. `up` gets the workload's lock back when the workload runs
/// and other commands may have their turn.
pub fn foreground<L: AsRef<WorkloadLock>>(
    runtime: &tokio::runtime::Runtime,
    stop: impl Future<Output = ()>,
    mut order: Order<'_>,
    lock: L,
    up: impl FnOnce(L),
) -> Outcome {
    become_supervisor(&order)?;
    runtime.block_on(async {
        let mut stop = std::pin::pin!(stop);
        let prepared = prepare(&order, &mut stop).await?;
        if let Some(notice) = &prepared.notice {
            say::talk(notice);
        }
        if order.config.port != prepared.port {
            order.config.port = prepared.port;
            registry::save_config(order.home, lock.as_ref(), &order.config)
                .map_err(|error| failed(&order, &error))?;
        }
        let ready = |line: String| {
            up(lock);
            say::data(&line);
        };
        let stop = async {
            stop.await;
            Stop::ByUser
        };
        prepared.serve(&order, ready, stop).await
    })
}

/// Hardens this process, makes it the reaper of what its guardians leave, and opens its log.
pub fn become_supervisor(order: &Order<'_>) -> Outcome {
    thv_workload::process::harden().map_err(|error| failed(order, &error))?;
    thv_workload::orphans::adopt().map_err(|error| failed(order, &error))?;
    logs::to_file(&order.home.proxy_log(&order.name), order.debug).map_err(|error| failed(order, &error))?;
    logs::panics();
    Ok(())
}

/// A runtime, and what resolves at the first request to end. From here on such a request is an orderly end, also of
/// what is only half up.
pub fn runtime() -> Outcome<(tokio::runtime::Runtime, impl Future<Output = ()>)> {
    // One thread: a supervisor moves bytes between two pipes, and is one of many on the machine.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Failure::new(Exit::Failed, "the operating system has no room for this program").because(&error)
    })?;
    let interrupt = {
        let _within = runtime.enter();
        signals()
    };
    Ok((runtime, interrupt))
}

/// Does all that may fail before a workload counts as running, unless `cancel` resolves first.
pub async fn prepare(order: &Order<'_>, cancel: impl Future<Output = ()>) -> Outcome<Prepared> {
    if order.config.is_locked() && order.keys.is_none() {
        // Without keys the front has no lock.
        return Err(Failure::new(
            Exit::Refused,
            format!("workload {} is locked, and has no keys", order.name),
        )
        .hint(format!("thv stop {0}, then thv start {0}", order.name)));
    }
    let upstream = Upstream::up(order, cancel).await?;
    let front = GuardedFront::new(&order.name, &order.config, order.keys.clone(), upstream);
    match settle(order, &front) {
        Ok(Settled { listener, file, port, notice, control }) => {
            Ok(Prepared { listener, file, port, notice, front: Arc::new(front), control })
        }
        Err(failure) => {
            front.give_up().await;
            Err(failure)
        }
    }
}

/// What a supervisor has besides its front.
struct Settled {
    listener: std::net::TcpListener,
    file: StatusFile,
    port: u16,
    notice: Option<String>,
    control: Option<ControlListener>,
}

fn settle(order: &Order<'_>, front: &GuardedFront) -> Outcome<Settled> {
    let (home, name) = (order.home, &order.name);
    front.check()?;
    let (listener, notice) = bind(order)?;
    let port = listener.local_addr().map_err(|error| failed(order, &error))?.port();
    let control = match control::listen(&home.socket(name)) {
        Ok(control) => Some(control),
        // Where there are no such sockets a supervisor is ended by a signal and rekeyed by a restart.
        Err(_) if cfg!(not(unix)) => None,
        Err(error) => return Err(failed(order, &error)),
    };
    let mut status = Status::new(State::Starting, Desired::Running);
    status.key.clone_from(&order.key_info);
    status.port = port;
    // Still marked, if this is a creation: a kill from here to the end of it is cleared away like one before.
    status.unfinished = registry::unfinished(home, name).map_err(|error| failed(order, &error))?;
    let file = StatusFile::take(home, name, status).map_err(|error| failed(order, &error))?;
    Ok(Settled { listener, file, port, notice, control })
}

impl Prepared {
    /// Ends what runs already, for a start that was taken back.
    pub async fn end_server(&self) {
        self.front.give_up().await;
    }

    /// Serves until `stop` or a command ends it. `ready` gets the line that says that the workload runs.
    pub async fn serve(
        self,
        order: &Order<'_>,
        ready: impl FnOnce(String),
        stop: impl Future<Output = Stop>,
    ) -> Outcome {
        let Self { listener, file, front, control, .. } = self;
        let ready = |status: &Status| ready(ready_line(&order.name, &order.config, status));
        let log = bound_log(order.home.server_log(&order.name));
        // Listens from its first look on: the request that was the first is none to hurry.
        let again = async { signals().await };
        tokio::select! {
            ended = supervisor::supervise(file, front, listener, control, ready, stop, again) => {
                ended.map_err(|error| failed(order, &error))
            }
            () = log => Ok(()),
        }
    }
}

/// A failure of the workload that an order is about.
pub fn failed(order: &Order<'_>, error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Failed, format!("workload {} failed", order.name)).because(error)
}

/// Resolves at the first request to end: Ctrl-C, SIGTERM, a closed terminal.
/// A detached supervisor is in no terminal, but logging out may send it a SIGHUP all the same.
/// From the call on such a request is no sudden end any more. Must be called within a tokio runtime.
#[cfg(unix)]
pub fn signals() -> impl Future<Output = ()> + use<> {
    use tokio::signal::unix::{SignalKind, signal};
    let handlers = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
    async {
        let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = handlers else {
            // Without handlers the signals end the process, which is what they ask for.
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Resolves at the first request to end.
#[cfg(not(unix))]
pub async fn signals() {
    let _ = tokio::signal::ctrl_c().await;
}

/// `name  running  url  key id`, for people and for scripts that wait for it.
pub fn ready_line(name: &Name, config: &RunConfig, status: &Status) -> String {
    let key = status.key.as_ref().map(|key| key.id.as_str());
    format!(
        "{name}  {}  {}  {}\n",
        status.status.as_str(),
        endpoint(config, status.port),
        lock_state(config.is_locked(), key)
    )
}

/// The listener, and what the user should hear about its port.
fn bind(order: &Order<'_>) -> Outcome<(std::net::TcpListener, Option<String>)> {
    let config = &order.config;
    let ip: IpAddr = config.host.parse().map_err(|_| {
        Failure::new(
            Exit::Failed,
            format!("{:?} in the run config of {} is not an address", config.host, order.name),
        )
    })?;
    let has_clients = order.keys.as_ref().is_some_and(|keys| keys.iter().any(|key| key.label().is_some()));
    let wish = match (config.port, config.port_is_explicit || has_clients) {
        (0, _) => PortWish::Any,
        (port, true) => PortWish::Exactly(port),
        (port, false) => PortWish::Rather(port),
    };
    let reserved = || registry::ports(order.home, &order.name);
    let listener = supervisor::bind(ip, wish, reserved).map_err(|error| {
        let taken = matches!(error, SupervisorError::PortTaken(_));
        let exit = if taken { Exit::Refused } else { Exit::Failed };
        let failure = Failure::new(exit, format!("{} cannot listen", order.name)).because(&error);
        match error {
            SupervisorError::PortTaken(port) => {
                let holders = thv_audit::holders(port).unwrap_or_default();
                let failure = holders.iter().fold(failure, |failure, holder| {
                    failure.because(&std::io::Error::other(format!("it is held by {holder}")))
                });
                failure.hint(if config.port_is_explicit {
                    "end that program, or choose another port with --proxy-port"
                } else {
                    // They send their keys to whoever is there.
                    "end that program: clients with keys of their own look for the workload on this port"
                })
            }
            _ => failure,
        }
    })?;
    let notice = match (wish, listener.local_addr()) {
        (PortWish::Rather(old), Ok(addr)) if addr.port() != old => Some(format!(
            "port {old} is taken by another program; {} moved to port {}",
            order.name,
            addr.port()
        )),
        _ => None,
    };
    Ok((listener, notice))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};
    use thv_keygen::{LiveKey, SharedKey};

    fn order<'a>(home: &'a Home, config: &str, keys: Option<KeySet>) -> Order<'a> {
        let config = RunConfig::parse(config.as_bytes()).unwrap();
        Order {
            home,
            name: config.name().unwrap(),
            config,
            keys,
            key_info: None,
            given: Values::new(),
            ready_timeout: Duration::from_secs(60),
            debug: false,
        }
    }

    #[tokio::test]
    async fn a_lock_without_keys_is_refused_before_anything_starts() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::below(&dir.path().join("home"));
        let config = r#"{"name":"time","command":"/no/such/program","sharedKeyAuth":{"enabled":true}}"#;
        let failure = prepare(&order(&home, config, None), std::future::pending()).await.err().unwrap();
        assert_eq!(failure.exit(), Exit::Refused);
        assert!(failure.summary().contains("no keys"), "{}", failure.summary());
    }

    #[test]
    fn a_port_that_clients_have_keys_for_is_not_exchanged() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::below(&dir.path().join("home"));
        let stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = stranger.local_addr().unwrap().port();
        let config = format!(
            r#"{{"name":"time","command":"/bin/cat","host":"127.0.0.1","port":{port},"sharedKeyAuth":{{"enabled":true}}}}"#
        );
        let keys = |label: &[Option<&str>]| {
            let keys = label.iter().zip(1..).map(|(label, byte)| {
                let label = label.map(|label| Name::parse(label).unwrap());
                LiveKey::new(SharedKey::from_bytes([byte; 32]), label, None)
            });
            Some(KeySet::new(keys.collect()))
        };
        let (listener, notice) = bind(&order(&home, &config, keys(&[None]))).unwrap();
        assert_ne!(listener.local_addr().unwrap().port(), port);
        assert!(notice.is_some_and(|notice| notice.contains(&port.to_string())));

        let failure = bind(&order(&home, &config, keys(&[None, Some("laptop")]))).unwrap_err();
        assert_eq!(failure.exit(), Exit::Refused);
        // It says who has the port: this process.
        let said = failure.render();
        assert!(said.contains(&format!("port {port}")) && said.contains("clients"), "{said}");
        #[cfg(target_os = "linux")]
        assert!(said.contains(&std::process::id().to_string()), "{said}");
        drop(stranger);
        let (listener, notice) = bind(&order(&home, &config, keys(&[None, Some("laptop")]))).unwrap();
        assert_eq!((listener.local_addr().unwrap().port(), notice), (port, None));
    }
}
