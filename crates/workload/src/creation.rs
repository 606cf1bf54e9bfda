//! Creating and removing a workload: all of it or nothing, whenever the command is cut off.
//!
//! Creation marks the workload as unfinished before anything else exists of it, and takes the mark away at the very
//! end; removal sets such a mark first. Whoever next takes the workload's lock and finds a mark finishes the removal.

use thv_keygen::Name;

use crate::config::RunConfig;
use crate::files::FileError;
use crate::groups;
use crate::home::Home;
use crate::lock::WorkloadLock;
use crate::registry::{self, RegistryError};
use crate::status::{Desired, State, Status, Unfinished};
use crate::steps::{Step, reached};
use crate::supervisor::Keys;

/// Why a workload could not be created or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreationError<E: std::error::Error + 'static> {
    /// There is one of that name.
    #[error("workload {0} already exists")]
    Exists(Name),
    /// Its supervisor runs.
    #[error("workload {0} is running")]
    Running(Name),
    /// Its files could not be written or deleted.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Its key could not be made or deleted.
    #[error(transparent)]
    Keys(E),
}

/// A workload on its way into being: undone when dropped, unless [`Creation::commit`] came first.
pub struct Creation<'a, K: Keys> {
    home: &'a Home,
    lock: WorkloadLock,
    keys: &'a K,
    committed: bool,
    /// The store refused to make a key, so it may refuse to delete one; there is none to delete.
    without_key: bool,
}

impl<'a, K: Keys> Creation<'a, K> {
    /// Makes the workload's folder, files and key, after clearing away what an earlier command left unfinished.
    ///
    /// # Errors
    /// There is a workload of that name, or something could not be made; what was made is then undone.
    pub fn begin(
        home: &'a Home,
        lock: WorkloadLock,
        keys: &'a K,
        config: &RunConfig,
    ) -> Result<Self, CreationError<K::Error>> {
        finish(home, &lock, keys)?;
        if registry::exists(home, lock.name()) {
            return Err(CreationError::Exists(lock.name().clone()));
        }
        let mut creation = Self { home, lock, keys, committed: false, without_key: false };
        let lock = &creation.lock;
        registry::create_dir(home, lock)?;
        reached(Step::FolderMade);
        let mut status = Status::new(State::Starting, Desired::Running);
        status.unfinished = Some(Unfinished::Creating);
        registry::save_status(home, lock.name(), &status)?;
        reached(Step::MarkedCreating);
        registry::save_config(home, lock, config)?;
        reached(Step::ConfigWritten);
        if config.is_locked() {
            if let Err(error) = keys.create(creation.lock.name()) {
                creation.without_key = true;
                return Err(CreationError::Keys(error));
            }
            reached(Step::KeyMade);
        }
        Ok(creation)
    }

    /// Keeps the workload, and gives its lock back.
    pub fn commit(mut self) {
        self.committed = true;
    }
}

impl<K: Keys> AsRef<WorkloadLock> for Creation<'_, K> {
    fn as_ref(&self) -> &WorkloadLock {
        &self.lock
    }
}

impl<K: Keys> Drop for Creation<'_, K> {
    fn drop(&mut self) {
        if !self.committed {
            // What cannot be undone now is still marked, and the next command tries again.
            let lost = if self.without_key {
                let _ = self.keys.remove(self.lock.name());
                registry::remove_dir(self.home, &self.lock).err().map(|error| error.to_string())
            } else {
                delete(self.home, &self.lock, self.keys).err().map(|error| error.to_string())
            };
            if let Some(error) = lost {
                tracing::warn!(name = %self.lock.name(), %error, "a workload could not be undone in full");
            }
        }
    }
}

/// Removes a workload that is not running, with its keys.
///
/// # Errors
/// Its supervisor runs, or something could not be deleted; the next command then finishes.
pub fn remove<K: Keys>(home: &Home, lock: &WorkloadLock, keys: &K) -> Result<(), CreationError<K::Error>> {
    // A damaged status file must not keep a workload from being removed.
    if let Ok(Some(status)) = registry::status(home, lock.name())
        && status.is_alive()
    {
        return Err(CreationError::Running(lock.name().clone()));
    }
    delete(home, lock, keys)
}

/// Finishes what an earlier command began on this workload and could not end.
///
/// # Errors
/// Something could not be deleted.
pub fn finish<K: Keys>(home: &Home, lock: &WorkloadLock, keys: &K) -> Result<(), CreationError<K::Error>> {
    let alive =
        || registry::status(home, lock.name()).map(|status| status.is_some_and(|status| status.is_alive()));
    if registry::unfinished(home, lock.name())?.is_some() && !alive()? {
        delete(home, lock, keys)?;
    }
    Ok(())
}

/// The caller holds the lock and has proved the supervisor dead.
fn delete<K: Keys>(home: &Home, lock: &WorkloadLock, keys: &K) -> Result<(), CreationError<K::Error>> {
    if !registry::check(home, lock.name())? {
        return Ok(());
    }
    // With the records goes all knowledge of what may be left.
    groups::end_orphans(home, lock.name());
    let mut status = Status::new(State::Stopped, Desired::Stopped);
    status.unfinished = Some(Unfinished::Removing);
    // On a full disk the mark cannot be made, and removing is what frees it.
    if let Err(error) = registry::save_status(home, lock.name(), &status) {
        tracing::warn!(name = %lock.name(), %error, "the removal cannot be marked");
    }
    reached(Step::MarkedRemoving);
    if let Err(error) = keys.remove(lock.name()) {
        // A keychain that is locked is no reason to keep a workload that has no key in it.
        if !registry::config(home, lock.name()).is_ok_and(|config| !config.is_locked()) {
            return Err(CreationError::Keys(error));
        }
        tracing::warn!(name = %lock.name(), %error, "the store was not asked for keys of an open workload");
    }
    reached(Step::KeysRemoved);
    let socket = home.socket(lock.name());
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(RegistryError::from(FileError::new("delete", &socket, error)).into());
        }
        _ => {}
    }
    registry::remove_dir(home, lock)?;
    reached(Step::FilesRemoved);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::time::Duration;

    #[derive(Default)]
    struct Memory {
        keys: RefCell<BTreeSet<String>>,
        broken: bool,
    }

    impl Keys for Memory {
        type Error = std::io::Error;

        fn create(&self, name: &Name) -> Result<(), Self::Error> {
            if self.broken || !self.keys.borrow_mut().insert(name.lower().to_owned()) {
                return Err(std::io::Error::other("no store"));
            }
            Ok(())
        }

        fn remove(&self, name: &Name) -> Result<(), Self::Error> {
            if self.broken {
                return Err(std::io::Error::other("no store"));
            }
            self.keys.borrow_mut().remove(name.lower());
            Ok(())
        }
    }

    fn config() -> RunConfig {
        let json = br#"{"name":"time","command":"/bin/cat","sharedKeyAuth":{"enabled":true}}"#;
        RunConfig::parse(json).unwrap()
    }

    fn with(test: impl FnOnce(&Home, &dyn Fn() -> WorkloadLock, &Name)) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::below(&dir.path().join("home"));
        home.prepare().unwrap();
        let name = Name::parse("time").unwrap();
        test(&home, &|| WorkloadLock::acquire(&home, &name, Duration::ZERO).unwrap(), &name);
    }

    #[test]
    fn what_is_not_committed_is_undone() {
        with(|home, lock, name| {
            let keys = Memory::default();
            let creation = Creation::begin(home, lock(), &keys, &config()).unwrap();
            assert_eq!(keys.keys.borrow().len(), 1);
            // As a supervisor leaves it that was killed.
            crate::files::write_atomic(&home.socket(name), b"").unwrap();
            drop(creation);
            assert!(!home.socket(name).exists());
            assert!(!registry::exists(home, name));
            assert!(keys.keys.borrow().is_empty());

            Creation::begin(home, lock(), &keys, &config()).unwrap().commit();
            assert!(registry::exists(home, name));
            assert_eq!(keys.keys.borrow().len(), 1);
            remove(home, &lock(), &keys).unwrap();
            assert!(!registry::exists(home, name));
            assert!(keys.keys.borrow().is_empty());
        });
    }

    #[test]
    fn a_store_that_fails_leaves_nothing() {
        with(|home, lock, name| {
            let keys = Memory { broken: true, ..Memory::default() };
            assert!(matches!(Creation::begin(home, lock(), &keys, &config()), Err(CreationError::Keys(_))));
            assert!(!registry::exists(home, name));
        });
    }

    #[test]
    fn what_a_killed_command_left_is_cleared_away_and_a_whole_workload_is_not() {
        with(|home, lock, name| {
            let keys = Memory::default();
            // Killed: neither committed nor undone, but the kernel gives the lock back.
            let creation = Creation::begin(home, lock(), &keys, &config()).unwrap();
            let before = registry::status(home, name).unwrap().unwrap();
            creation.commit();
            assert_eq!(before.unfinished, Some(Unfinished::Creating));
            let again = Creation::begin(home, lock(), &keys, &config()).unwrap();
            again.commit();
            registry::save_status(home, name, &Status::new(State::Stopped, Desired::Stopped)).unwrap();
            assert!(matches!(Creation::begin(home, lock(), &keys, &config()), Err(CreationError::Exists(_))));
            assert_eq!(keys.keys.borrow().len(), 1);
        });
    }

    #[test]
    fn a_running_workload_is_not_removed() {
        with(|home, lock, name| {
            let keys = Memory::default();
            Creation::begin(home, lock(), &keys, &config()).unwrap().commit();
            let mut status = Status::new(State::Running, Desired::Running);
            status.supervisor = Some(crate::process::ProcessRef::current().unwrap());
            registry::save_status(home, name, &status).unwrap();
            assert!(matches!(remove(home, &lock(), &keys), Err(CreationError::Running(_))));
            assert_eq!(keys.keys.borrow().len(), 1);
        });
    }
}
