//! How a bridge finds its workload: run config, status, and the key from the store; and how it starts one that crashed.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use thv_bridge::{Locate, LocateError, Target, Transport, Why};
use thv_keychain::{ErrorKind, KeychainFault, StoreError, VaultError};
use thv_keygen::{Name, SharedKey};
use thv_wire::code::Reason;
use thv_workload::config;
#[cfg(unix)]
use thv_workload::control;

use thv_workload::home::Home;
use thv_workload::registry::{self, Workload};
use thv_workload::status::{Desired, State};

use crate::commands;
use crate::commands::start::start_under;
use crate::failure::{Exit, Failure};
use crate::keys::KeyVault;
use crate::store;

/// How long a bridge waits for the server that it starts.
const READY: Duration = Duration::from_secs(60);

/// How long a supervisor that refuses connections may take to vanish: a killed one lets go of its port first.
const VANISH: Duration = Duration::from_secs(1);

/// How often a vanishing supervisor is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Reads everything anew each time it is asked: the answer may have changed, that is why it is asked.
#[derive(Clone)]
pub struct HomeLocator {
    home: Home,
    name: Name,
    /// Whether it may start the workload.
    starts: bool,
    debug: bool,
}

impl HomeLocator {
    /// A locator for one workload of one home. With `starts` it starts a workload that is wanted and does not run.
    pub fn new(home: Home, name: Name, starts: bool, debug: bool) -> Self {
        Self { home, name, starts, debug }
    }

    /// The pid and its start time say that the supervisor lives; its control socket says that it is the supervisor.
    #[cfg(unix)]
    async fn check_alive(&self, workload: &Workload) -> Result<(), String> {
        let name = &self.name;
        let asked = control::ask(&self.home.socket(name), &control::Request::Status).await;
        let answer = asked.map_err(|error| {
            format!("the supervisor of {name} does not answer: {error}; try thv restart {name}")
        })?;
        if Some(answer.supervisor) == workload.status.supervisor {
            Ok(())
        } else {
            Err(format!("another process answers for the supervisor of {name}; try thv restart {name}"))
        }
    }

    /// There is no control socket to ask here.
    #[cfg(not(unix))]
    async fn check_alive(&self, _workload: &Workload) -> Result<(), String> {
        Ok(())
    }

    /// Whether the workload has crashed or did not survive a reboot. One that the user stopped has not.
    fn is_down(&self) -> bool {
        registry::load(&self.home, &self.name).ok().flatten().is_some_and(|workload| {
            workload.status.desired == Desired::Running && workload.status.supervisor.is_none()
        })
    }

    /// Starts the workload with the environment recorded at `run`. Of several bridges the first one does, and the
    /// others find it running.
    fn start(&self) -> Result<(), LocateError> {
        let started =
            self.home.prepare().map_err(|error| Failure::new(Exit::Refused, error.to_string())).and_then(
                |()| {
                    let lock = commands::lock(&self.home, &self.name)?;
                    // The user may have stopped it while we waited for the lock.
                    if self.is_down() {
                        start_under(&self.home, &lock, READY, self.debug).map(drop)
                    } else {
                        Ok(())
                    }
                },
            );
        started.map_err(|failure| {
            let name = &self.name;
            LocateError::new(
                Reason::NotRunning,
                format!("workload {name} could not be started: {}; see thv logs {name}", failure.summary()),
            )
        })
    }

    /// Waits, within a bound, until the status is another than that of a supervisor that does not answer. Whether it
    /// has become so.
    async fn see_it_vanish(&self) -> bool {
        let status = || {
            let workload = registry::load(&self.home, &self.name).ok().flatten()?;
            Some((workload.status.supervisor?, workload.status.port))
        };
        let Some(seen) = status() else { return false };
        let vanished = async {
            while status() == Some(seen) {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(VANISH, vanished).await.is_ok()
    }

    /// Starts the workload if it is down, and tells where it is.
    async fn find(&self) -> Result<Target, LocateError> {
        if self.starts && self.is_down() {
            // A door that cannot be opened is no reason to put a server behind it.
            self.key().await?;
            let starter = self.clone();
            let (done, result) = tokio::sync::oneshot::channel();
            // A thread of its own: a start blocks, and has a runtime of its own. A bridge that ends meanwhile does not
            // wait for it, and its supervisor, left without `go`, undoes the start.
            std::thread::spawn(move || done.send(starter.start()));
            let gone = || LocateError::new(Reason::NotRunning, "the start of the workload broke off");
            result.await.unwrap_or_else(|_| Err(gone()))?;
        }
        self.look().await
    }

    /// The key, for a workload that has a lock. Read on a thread of its own, since a keychain may take seconds to
    /// answer, and those who have their connections already must not wait for it.
    async fn key(&self) -> Result<Option<SharedKey>, LocateError> {
        let (home, name) = (self.home.clone(), self.name.clone());
        let (done, result) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || done.send(read_key(&home, &name)));
        let lost = || LocateError::new(Reason::KeychainUnavailable, "the key could not be read");
        result.await.unwrap_or_else(|_| Err(lost()))
    }

    async fn look(&self) -> Result<Target, LocateError> {
        let name = &self.name;
        let gone = |why: String| LocateError::new(Reason::NotRunning, why);
        let workload = registry::load(&self.home, name)
            .map_err(|error| gone(format!("the files of workload {name} cannot be used: {error}")))?
            .ok_or_else(|| gone(format!("there is no workload named {name}; see thv list --all")))?;
        let addr = address(&workload).map_err(gone)?;
        self.check_alive(&workload).await.map_err(gone)?;
        let key = self.key().await?;
        let transport = workload.config.transport;
        Ok(Target {
            addr,
            path: transport.path().to_owned(),
            transport: match transport {
                config::Transport::Sse => Transport::Sse,
                config::Transport::Stdio | config::Transport::StreamableHttp => Transport::Streamable,
            },
            name: workload.name,
            key,
        })
    }
}

impl Locate for HomeLocator {
    async fn locate(&self, why: Why) -> Result<Target, LocateError> {
        if why == Why::Look {
            return self.look().await;
        }
        if why == Why::Unreachable {
            self.see_it_vanish().await;
        }
        match self.find().await {
            Err(error) if error.reason == Reason::NotRunning && self.see_it_vanish().await => {
                self.find().await
            }
            found => found,
        }
    }
}

/// Where a workload listens, provided that its supervisor is proved alive.
fn address(workload: &Workload) -> Result<SocketAddr, String> {
    let Workload { name, config, status } = workload;
    if status.status != State::Running {
        let why = if status.status_context.is_empty() {
            String::new()
        } else {
            format!(" ({})", status.status_context)
        };
        let state = if status.status == State::Error {
            "has failed".to_owned()
        } else {
            format!("is {}", status.status.as_str())
        };
        return Err(format!(
            "workload {name} {state}{why}; start it with thv start {name}, see thv logs {name}"
        ));
    }
    let ip: IpAddr = config.host.parse().map_err(|_| format!("workload {name} has no usable address"))?;
    // Whoever listens on all addresses is reached by the loopback one.
    let ip = match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    Ok(SocketAddr::new(ip, status.port))
}

/// How often in a row the store may be exchanged while a key is read from it.
const EXCHANGES: u32 = 3;

/// The current key of a workload that has a lock.
fn read_key(home: &Home, name: &Name) -> Result<Option<SharedKey>, LocateError> {
    if !registry::config(home, name).is_ok_and(|config| config.is_locked()) {
        return Ok(None);
    }
    let mut exchanges = 0..EXCHANGES;
    loop {
        let vault = KeyVault::open(home)
            .map_err(|failure| LocateError::new(Reason::KeychainUnavailable, failure.summary()))?;
        let answer = vault.vault().current(name);
        if let Ok(Some(key)) = answer {
            return Ok(Some(key));
        }
        // The store may have been exchanged while we read: then the new one is asked.
        let exchanged = store::known(home).is_ok_and(|choice| choice.as_ref() != vault.choice());
        if exchanged && exchanges.next().is_some() {
            continue;
        }
        return Err(answer.map_or_else(|error| no_key(name, &error), |_| missing(name)));
    }
}

fn missing(name: &Name) -> LocateError {
    LocateError::new(
        Reason::KeyMissing,
        format!("workload {name} has no key in the store; run it anew: thv rm {name}, then thv run"),
    )
}

fn no_key(name: &Name, error: &VaultError) -> LocateError {
    let reason = match error {
        VaultError::Store(StoreError::Keychain(KeychainFault::Locked) | StoreError::PassphraseNeeded) => {
            Reason::KeychainLocked
        }
        error if error.kind() == ErrorKind::NotFound => Reason::KeyMissing,
        _ => Reason::KeychainUnavailable,
    };
    let mut message = format!("the key of workload {name} cannot be read: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        message.push_str(&format!(": {error}"));
        source = error.source();
    }
    let advice = match error {
        VaultError::Store(StoreError::Keychain(fault)) => fault.advice(),
        VaultError::Store(StoreError::PassphraseNeeded) => Some("run thv secret unlock".to_owned()),
        _ => None,
    };
    message.push_str(&format!("; {}", advice.as_deref().unwrap_or("thv doctor says what is wrong")));
    LocateError::new(reason, message)
}
