//! How a bridge finds its workload: run config, status, and the key from the store; and how it starts one that crashed.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use thv_bridge::{Locate, LocateError, Target, Transport, Why};
use thv_keychain::{ErrorKind, KeychainFault, StoreError, VaultError};
use thv_keygen::{Name, SharedKey};
use thv_wire::code::Reason;
use thv_workload::config::{self, RunConfig};
#[cfg(unix)]
use thv_workload::control;

use thv_workload::home::Home;
use thv_workload::registry::{self, Workload};
use thv_workload::status::{Desired, State, Status};

use crate::commands;
use crate::commands::start::start_under;
use crate::failure::{Exit, Failure};
use crate::keys::KeyVault;
use crate::store;

/// How long a bridge waits for the server that it starts.
const READY: Duration = Duration::from_secs(60);

/// How long a supervisor that refuses connections may take to vanish: a killed one lets go of its port first.
const VANISH: Duration = Duration::from_secs(1);

/// How often in a row what was found may turn out to be on its way out.
const TURNS: u32 = 3;

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

    fn load(&self) -> Option<Workload> {
        registry::load(&self.home, &self.name).ok().flatten()
    }

    /// Whether the workload is wanted and cannot be used now.
    fn is_down(&self) -> bool {
        self.load().is_some_and(|workload| is_down(&workload.status))
    }

    /// Waits for whoever is changing the workload, and starts it if it is down all the same, with the environment
    /// recorded at `run`. Of several bridges the first one does, and the others find it running.
    fn bring_up(&self) -> Result<(), LocateError> {
        let failed = |failure: &Failure| {
            let name = &self.name;
            LocateError::new(
                Reason::NotRunning,
                format!("workload {name} could not be started: {}; see thv logs {name}", failure.summary()),
            )
        };
        let prepared = self.home.prepare().map_err(|error| Failure::new(Exit::Refused, error.to_string()));
        let lock = prepared
            .and_then(|()| commands::lock(&self.home, &self.name))
            .map_err(|failure| failed(&failure))?;
        // The user may have stopped it, or another bridge started it, while we waited for the lock.
        let Some(workload) = self.load().filter(|workload| is_down(&workload.status)) else { return Ok(()) };
        if !self.starts {
            return Ok(());
        }
        if workload.config.is_locked() {
            // A door that cannot be opened is no reason to put a server behind it.
            read_key(&self.home, &self.name)?;
        }
        start_under(&self.home, &lock, READY, self.debug).map(drop).map_err(|failure| failed(&failure))
    }

    /// Waits, within a bound, until a supervisor that says it runs, and does not answer, says something else or is
    /// gone. Whether it has come to that.
    async fn see_it_vanish(&self) -> bool {
        let running = || {
            let status = self.load()?.status;
            (status.status == State::Running).then_some((status.supervisor, status.port))
        };
        let Some(seen) = running() else { return false };
        let vanished = async {
            while running() == Some(seen) {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(VANISH, vanished).await.is_ok()
    }

    /// Sees to it that the workload runs, if it is wanted.
    async fn settle(&self) -> Result<(), LocateError> {
        if !self.is_down() {
            return Ok(());
        }
        let starter = self.clone();
        let (done, result) = tokio::sync::oneshot::channel();
        // A thread of its own: a start blocks, and has a runtime of its own. A bridge that ends meanwhile does not
        // wait for it, and its supervisor, left without `go`, undoes the start.
        std::thread::spawn(move || done.send(starter.bring_up()));
        let gone = || LocateError::new(Reason::NotRunning, "the start of the workload broke off");
        result.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Whether a look in vain fell into a moment of change, such as the beginning of a restart.
    async fn has_changed(&self, error: &LocateError) -> bool {
        match error.reason {
            Reason::NotRunning => self.is_down() || self.see_it_vanish().await,
            // A lock is taken off by deleting its key first.
            Reason::KeyMissing => self.is_down(),
            _ => false,
        }
    }

    /// The key, for a workload that has a lock. Whether it has one is told by the run config that also told where it
    /// listens: one that cannot be read a moment later must not make it an open one. Read on a thread of its own,
    /// since a keychain may take seconds to answer, and those who have their connections already must not wait for it.
    async fn key(&self, config: &RunConfig) -> Result<Option<SharedKey>, LocateError> {
        if !config.is_locked() {
            return Ok(None);
        }
        let (home, name) = (self.home.clone(), self.name.clone());
        let (done, result) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || done.send(read_key(&home, &name)));
        let lost = || LocateError::new(Reason::KeychainUnavailable, "the key could not be read");
        result.await.unwrap_or_else(|_| Err(lost())).map(Some)
    }

    async fn look(&self) -> Result<Target, LocateError> {
        let name = &self.name;
        let gone = |why: String| LocateError::new(Reason::NotRunning, why);
        let workload = registry::load(&self.home, name)
            .map_err(|error| gone(format!("the files of workload {name} cannot be used: {error}")))?
            .ok_or_else(|| gone(format!("there is no workload named {name}; see thv list --all")))?;
        let addr = address(&workload).map_err(gone)?;
        self.check_alive(&workload).await.map_err(gone)?;
        let key = self.key(&workload.config).await?;
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
        for _ in 0..TURNS {
            self.settle().await?;
            match self.look().await {
                Err(error) if self.has_changed(&error).await => {}
                found => return found,
            }
        }
        self.look().await
    }
}

/// Whether a workload is wanted and cannot be used now: it has crashed, did not survive a reboot, or is on its way up
/// or down. One that the user stopped is not wanted.
fn is_down(status: &Status) -> bool {
    let on_its_way = matches!(status.status, State::Starting | State::Stopping);
    status.desired == Desired::Running && (status.supervisor.is_none() || on_its_way)
}

/// Where a workload listens, provided that its supervisor is proved alive.
fn address(workload: &Workload) -> Result<SocketAddr, String> {
    let Workload { name, config, status } = workload;
    if !matches!(status.status, State::Running | State::Unhealthy) {
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
fn read_key(home: &Home, name: &Name) -> Result<SharedKey, LocateError> {
    let mut exchanges = 0..EXCHANGES;
    loop {
        let vault = KeyVault::open(home)
            .map_err(|failure| LocateError::new(Reason::KeychainUnavailable, failure.summary()))?;
        let answer = vault.vault().current(name);
        if let Ok(Some(key)) = answer {
            return Ok(key);
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

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::path::Path;
    use thv_keygen::KeySet;
    use thv_workload::control::{Answer, Controlled};
    use thv_workload::files::write_atomic;
    use thv_workload::lock::WorkloadLock;
    use thv_workload::process::ProcessRef;

    const LOCKED: &[u8] =
        br#"{"name":"time","command":"/bin/cat","host":"127.0.0.1","sharedKeyAuth":{"enabled":true}}"#;

    /// A supervisor that does something before it answers.
    struct Fake<F>(F);

    impl<F: Fn()> Controlled for Fake<F> {
        fn answer(&self) -> Answer {
            self.0();
            let supervisor = ProcessRef::current().unwrap();
            Answer { supervisor, sessions: 0, key_ids: Vec::new(), error: None }
        }

        fn replace_keys(&self, _set: KeySet) {}

        fn stop(&self, _again: bool) {}
    }

    /// A home with a workload that says it runs, supervised by this process.
    fn running() -> (tempfile::TempDir, HomeLocator) {
        let dir = tempfile::tempdir().unwrap();
        let (home, name) = (Home::below(&dir.path().join("home")), Name::parse("time").unwrap());
        home.prepare().unwrap();
        let lock = WorkloadLock::acquire(&home, &name, Duration::ZERO).unwrap();
        registry::create_dir(&home, &lock).unwrap();
        registry::save_config(&home, &lock, &RunConfig::parse(LOCKED).unwrap()).unwrap();
        let mut status = Status::new(State::Running, Desired::Running);
        (status.supervisor, status.port) = (Some(ProcessRef::current().unwrap()), 1);
        registry::save_status(&home, &name, &status).unwrap();
        (dir, HomeLocator::new(home, name, true, false))
    }

    /// What the locator answers while a supervisor answers that does this first.
    async fn located(locator: &HomeLocator, before_answer: impl Fn()) -> Result<Target, LocateError> {
        let listener = control::listen(&locator.home.socket(&locator.name)).unwrap();
        let supervisor = Fake(before_answer);
        tokio::select! {
            () = control::serve(&listener, &supervisor) => unreachable!("it serves for ever"),
            found = locator.locate(Why::Start) => found,
        }
    }

    /// A run config that is gone, cut off, and one that has no lock.
    const DAMAGES: [fn(&Path); 3] = [
        |path| std::fs::remove_file(path).unwrap(),
        |path| write_atomic(path, b"{\"name\":\"ti").unwrap(),
        |path| write_atomic(path, br#"{"name":"time","command":"/bin/cat","host":"127.0.0.1"}"#).unwrap(),
    ];

    #[tokio::test]
    async fn a_run_config_that_cannot_be_read_makes_nothing_an_open_workload() {
        for damage in &DAMAGES[..2] {
            let (_dir, locator) = running();
            damage(&locator.home.run_config(&locator.name));
            let error = located(&locator, || {}).await.unwrap_err();
            assert_eq!(error.reason, Reason::NotRunning, "{error}");
            assert!(error.message.contains("cannot be used"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_run_config_that_changes_on_the_way_opens_no_door() {
        for damage in DAMAGES {
            let (_dir, locator) = running();
            let path = locator.home.run_config(&locator.name);
            // After the address was read and before the key is: there is none in the store.
            let error = located(&locator, || damage(&path)).await.unwrap_err();
            assert_eq!(error.reason, Reason::KeyMissing, "{error}");
        }
    }

    #[test]
    fn what_is_on_its_way_counts_as_down_unless_the_user_stopped_it() {
        let us = ProcessRef::current().ok();
        for (state, desired, supervisor, expected) in [
            (State::Running, Desired::Running, us, false),
            (State::Starting, Desired::Running, us, true),
            (State::Stopping, Desired::Running, us, true),
            (State::Stopping, Desired::Stopped, us, false),
            (State::Error, Desired::Running, None, true),
            (State::Stopped, Desired::Running, None, true),
            (State::Stopped, Desired::Stopped, None, false),
        ] {
            let status = Status { supervisor, ..Status::new(state, desired) };
            assert_eq!(is_down(&status), expected, "{state:?} {desired:?}");
        }
    }
}
