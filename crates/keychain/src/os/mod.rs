//! The keychain of the operating system: Secret Service on Linux, Keychain on macOS, Credential Manager on Windows.
//!
//! Every call runs on a detached thread with a bound, so that a service that hangs costs an error and never the
//! process. A session with the service is kept between calls and replaced when it has died: a service that was
//! killed and started again is found by the next call.
//!
//! No call opens a prompt but [`OsStore::unlock`]: a bridge that an AI client starts in the background must not put
//! windows on the screen.
//!
//! On Linux the C library below finds the bus by itself, in the environment of the process and nowhere else. A
//! process that was started without `DBUS_SESSION_BUS_ADDRESS` runs itself again with what [`bus_address`] finds.

mod bounded;
mod fault;
mod text;

#[cfg_attr(target_os = "linux", path = "secret_service.rs")]
#[cfg_attr(any(target_os = "macos", windows), path = "native.rs")]
#[cfg_attr(not(any(target_os = "linux", target_os = "macos", windows)), path = "none.rs")]
mod platform;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::{Entry, Secret, Store, StoreError, StoreKind};

pub use fault::KeychainFault;

use bounded::Outcome;
use fault::Failure;
use platform::Session;

/// How many entries are read in one call: the bound is for each of them, and not for all that somebody may have.
const BATCH: usize = 32;

/// How to reach the keychain.
#[derive(Clone, Debug)]
pub struct OsOptions {
    /// The service under which entries are kept: `thv`, or `thv:<home-id>` for a home of its own.
    pub service: String,
    /// The most that one call takes, a rebuilt session included.
    pub timeout: Duration,
}

impl OsOptions {
    /// A service with the usual bound of 3 seconds.
    #[must_use]
    pub fn new(service: impl Into<String>) -> Self {
        Self { service: service.into(), timeout: Duration::from_secs(3) }
    }
}

/// The operating system's keychain as a store.
///
/// Values that are text are kept as they are; others, since KDE Wallet takes text alone, as `base64:` and their
/// encoding. Nothing is locked against other programs, so writers take turns by a lock of their own.
pub struct OsStore {
    shared: Arc<Shared>,
    timeout: Duration,
}

/// What a call that outlived its bound may still hold.
struct Shared {
    service: String,
    idle: Mutex<Option<Session>>,
}

/// What was seen of a keychain, without writing to it.
#[derive(Clone, Debug)]
pub struct Probe {
    /// What sort of store was asked.
    pub kind: StoreKind,
    /// How it answered.
    pub state: ProbeState,
    /// How long the answer took, the connection included.
    pub latency: Duration,
}

/// How a keychain answered.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeState {
    /// It can be read and, as far as can be told without trying, written.
    Reachable,
    /// It is there and locked.
    Locked,
    /// It is there and has no place to write to.
    NoCollection,
    /// There is none, or it cannot be reached.
    Unavailable,
    /// It did not answer in time.
    TimedOut,
    /// It refused, or failed in another way, which the fault tells.
    Failed(KeychainFault),
}

impl OsStore {
    /// Describes a store; nothing is connected yet.
    #[must_use]
    pub fn new(options: OsOptions) -> Self {
        let OsOptions { service, timeout } = options;
        Self { shared: Arc::new(Shared { service, idle: Mutex::new(None) }), timeout }
    }

    /// The service under which entries are kept.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.shared.service
    }

    /// Asks how the keychain is, over a new connection, without writing and without a prompt.
    #[must_use]
    pub fn probe(&self) -> Probe {
        let start = Instant::now();
        let state =
            match bounded::within(self.timeout, || Session::open().and_then(|session| session.probe())) {
                Outcome::Done(Ok(())) => ProbeState::Reachable,
                Outcome::Done(Err(failure)) => failure.fault.into(),
                Outcome::TimedOut => ProbeState::TimedOut,
                Outcome::Lost => ProbeState::Failed(KeychainFault::lost()),
            };
        Probe { kind: self.kind(), state, latency: start.elapsed() }
    }

    /// Unlocks the keychain, for which the desktop may ask a person; waits at most `patience`, in whole seconds and
    /// at least one.
    ///
    /// # Errors
    /// [`KeychainFault::Locked`] if nobody answered or the answer was no, and the errors of a store.
    pub fn unlock(&self, patience: Duration) -> Result<(), StoreError> {
        let seconds = patience.as_secs().max(1);
        // The prompt is counted in seconds that begin when it is shown, hence the bound on top.
        let bound = Duration::from_secs(seconds) + self.timeout;
        match bounded::within(bound, move || platform::unlock(seconds)) {
            Outcome::Done(result) => result.map_err(|failure| failure.fault.into()),
            Outcome::TimedOut => Err(KeychainFault::TimedOut { bound }.into()),
            Outcome::Lost => Err(KeychainFault::lost().into()),
        }
    }

    /// Reads what another program keeps under this service, by the name that it gave it, as it is.
    ///
    /// # Errors
    /// As for [`get`](Store::get).
    pub fn foreign(&self, name: &str) -> Result<Option<Secret>, StoreError> {
        let name = name.to_owned();
        let kept = self.call(move |session, service| session.get(service, &name))?;
        Ok(kept.map(Secret::from))
    }

    fn call<T: Send + 'static>(
        &self,
        job: impl Fn(&Session, &str) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        match bounded::within(self.timeout, move || shared.run(job)) {
            Outcome::Done(result) => result.map_err(StoreError::from),
            Outcome::TimedOut => Err(KeychainFault::TimedOut { bound: self.timeout }.into()),
            Outcome::Lost => Err(KeychainFault::lost().into()),
        }
    }
}

impl Shared {
    /// Runs a job on the session at hand, and once more on a new one if that had died.
    fn run<T>(&self, job: impl Fn(&Session, &str) -> Result<T, Failure>) -> Result<T, KeychainFault> {
        // Taken, not borrowed: a call that hangs keeps its session and nobody waits for it.
        let at_hand = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut session = at_hand.map_or_else(Session::open, Ok).map_err(|failure| failure.fault)?;
        let mut result = job(&session, &self.service);
        if matches!(&result, Err(failure) if failure.session_died) {
            session = Session::open().map_err(|failure| failure.fault)?;
            result = job(&session, &self.service);
        }
        if result.as_ref().err().is_none_or(|failure| failure.fault.is_answer()) {
            *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
        }
        result.map_err(|failure| failure.fault)
    }
}

impl Store for OsStore {
    fn kind(&self) -> StoreKind {
        StoreKind::OsKeychain
    }

    fn get(&self, entry: &Entry) -> Result<Option<Secret>, StoreError> {
        let name = entry.clone();
        let kept = self.call(move |session, service| session.get(service, name.as_str()))?;
        kept.map(|text| text::decode(entry, text)).transpose()
    }

    fn get_many(&self, entries: &[Entry]) -> Result<Vec<Option<Secret>>, StoreError> {
        let mut kept = Vec::with_capacity(entries.len());
        for batch in entries.chunks(BATCH) {
            let names = batch.to_vec();
            kept.extend(self.call(move |session, service| {
                names.iter().map(|name| session.get(service, name.as_str())).collect::<Result<Vec<_>, _>>()
            })?);
        }
        let decode = |(entry, text): (&Entry, Option<Zeroizing<Vec<u8>>>)| {
            text.map(|text| text::decode(entry, text)).transpose()
        };
        entries.iter().zip(kept).map(decode).collect()
    }

    fn set(&self, entry: &Entry, value: &Secret) -> Result<(), StoreError> {
        let text = text::encode(value);
        if text.len() > text::LIMIT {
            return Err(KeychainFault::TooLong { limit: text::LIMIT }.into());
        }
        let name = entry.clone();
        self.call(move |session, service| session.set(service, name.as_str(), &text))
    }

    fn delete(&self, entry: &Entry) -> Result<bool, StoreError> {
        let name = entry.clone();
        self.call(move |session, service| session.delete(service, name.as_str()))
    }

    /// `None` on Windows, where all credentials of all programs would have to be read for it.
    fn entries(&self) -> Result<Option<Vec<Entry>>, StoreError> {
        let Some(items) = self.call(Session::items)? else { return Ok(None) };
        // A set, since two items may have the same name.
        let mut entries = BTreeSet::new();
        for batch in items.chunks(BATCH) {
            let batch = batch.to_vec();
            let names = self.call(move |session, _| {
                batch.iter().map(|item| session.name(item)).collect::<Result<Vec<_>, _>>()
            })?;
            // Items of other programs may carry the same service.
            entries.extend(names.iter().flatten().filter_map(|name| Entry::parse(name)));
        }
        Ok(Some(entries.into_iter().collect()))
    }
}

impl From<KeychainFault> for ProbeState {
    fn from(fault: KeychainFault) -> Self {
        match fault {
            KeychainFault::Locked => Self::Locked,
            KeychainFault::NoCollection => Self::NoCollection,
            KeychainFault::Unavailable { .. } => Self::Unavailable,
            KeychainFault::TimedOut { .. } => Self::TimedOut,
            other => Self::Failed(other),
        }
    }
}

impl ProbeState {
    /// A stable word for configuration and JSON.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Reachable => "reachable",
            Self::Locked => "locked",
            Self::NoCollection => "no-collection",
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed-out",
            Self::Failed(_) => "failed",
        }
    }
}

/// The address of a user's session bus where the login manager puts it, `/run/user/<uid>/bus`, if a socket is there
/// that belongs to that user.
///
/// For a process that was started without `DBUS_SESSION_BUS_ADDRESS`: it runs itself again with this value there.
#[cfg(target_os = "linux")]
#[must_use]
pub fn bus_address(uid: u32) -> Option<String> {
    bus_at(format!("/run/user/{uid}/bus").as_ref(), uid)
}

#[cfg(target_os = "linux")]
fn bus_at(path: &std::path::Path, uid: u32) -> Option<String> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

    let meta = std::fs::symlink_metadata(path).ok()?;
    (meta.file_type().is_socket() && meta.uid() == uid).then(|| format!("unix:path={}", path.display()))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_a_socket_of_the_user_is_a_bus() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bus");
        let uid = std::fs::metadata(dir.path()).unwrap().uid();
        assert_eq!(bus_at(&path, uid), None);
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(bus_at(&path, uid), Some(format!("unix:path={}", path.display())));
        assert_eq!(bus_at(&path, uid + 1), None);
        drop(listener);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(bus_at(&path, uid), None);
    }
}
