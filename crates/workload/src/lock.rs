//! One holder at a time: the lock of a workload, and the lock of the store that all workloads share.

use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use thv_keygen::Name;

use crate::files::FileError;
use crate::home::Home;
use crate::sys;

/// How often a waiting command looks again.
const POLL: Duration = Duration::from_millis(10);

/// The right to change one workload: its files, its keys, its supervisor. Given back when dropped.
#[derive(Debug)]
pub struct WorkloadLock {
    name: Name,
    _file: File,
}

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Somebody else held it for the whole time.
    #[error("another command is changing workload {name} and has not finished within {} s", waited.as_secs())]
    Busy {
        /// The workload.
        name: Name,
        /// How long we waited.
        waited: Duration,
    },
    /// Somebody used the store for the whole time.
    #[error("another command uses the store of keys and has not finished within {} s", waited.as_secs())]
    StoreBusy {
        /// How long we waited.
        waited: Duration,
    },
    /// The file could not be opened or locked.
    #[error(transparent)]
    File(#[from] FileError),
}

impl WorkloadLock {
    /// Waits for the lock, at most `patience`.
    ///
    /// # Errors
    /// Another command held it all the time, or the lock file cannot be used.
    pub fn acquire(home: &Home, name: &Name, patience: Duration) -> Result<Self, LockError> {
        let busy = || LockError::Busy { name: name.clone(), waited: patience };
        let mut file = wait(&home.lock(name), File::try_lock, patience, busy)?;
        // For whoever looks into the folder; nothing reads it back.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { name: name.clone(), _file: file })
    }

    /// Whether somebody holds it at this moment.
    #[must_use]
    pub fn is_held(home: &Home, name: &Name) -> bool {
        let file = sys::open_lock(&home.lock(name));
        file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// Whose lock it is.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }
}

/// The right to write to the store of a home, or to exchange it. Given back when dropped.
///
/// Who wants it shared may hold a workload's lock. Who wants it to itself must hold none: those who have it shared may
/// wait for workloads.
#[derive(Debug)]
pub struct StoreLock(#[expect(dead_code, reason = "held, not read")] File);

impl StoreLock {
    /// Waits for the right to write, which many have at once.
    ///
    /// # Errors
    /// The store was being exchanged all the time, or the lock file cannot be used.
    pub fn shared(home: &Home, patience: Duration) -> Result<Self, LockError> {
        let busy = || LockError::StoreBusy { waited: patience };
        wait(&home.store_lock(), File::try_lock_shared, patience, busy).map(Self)
    }

    /// Waits for the right to exchange the store, which nobody else then writes to.
    ///
    /// # Errors
    /// Somebody wrote all the time, or the lock file cannot be used.
    pub fn exclusive(home: &Home, patience: Duration) -> Result<Self, LockError> {
        let busy = || LockError::StoreBusy { waited: patience };
        wait(&home.store_lock(), File::try_lock, patience, busy).map(Self)
    }
}

/// The right to change users' secrets, whose names stand in one list. Given back when dropped.
#[derive(Debug)]
pub struct SecretsLock(#[expect(dead_code, reason = "held, not read")] File);

impl SecretsLock {
    /// Waits for the lock, at most `patience`.
    ///
    /// # Errors
    /// Others held it all the time, or the lock file cannot be used.
    pub fn acquire(home: &Home, patience: Duration) -> Result<Self, LockError> {
        let busy = || LockError::StoreBusy { waited: patience };
        wait(&home.secrets_lock(), File::try_lock, patience, busy).map(Self)
    }
}

/// Opens a lock file and tries until it is had.
fn wait(
    path: &Path,
    attempt: impl Fn(&File) -> Result<(), TryLockError>,
    patience: Duration,
    busy: impl FnOnce() -> LockError,
) -> Result<File, LockError> {
    let file = sys::open_lock(path).map_err(|error| FileError::new("open", path, error))?;
    let start = Instant::now();
    loop {
        match attempt(&file) {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if start.elapsed() < patience => thread::sleep(POLL),
            Err(TryLockError::WouldBlock) => return Err(busy()),
            Err(TryLockError::Error(error)) => return Err(FileError::new("lock", path, error).into()),
        }
    }
}

impl AsRef<Self> for WorkloadLock {
    fn as_ref(&self) -> &Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_the_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::below(&dir.path().join("home"));
        home.prepare().unwrap();
        let name = Name::parse("time").unwrap();
        let lock = WorkloadLock::acquire(&home, &name, Duration::ZERO).unwrap();
        assert!(WorkloadLock::is_held(&home, &name));
        let other = WorkloadLock::acquire(&home, &Name::parse("TIME").unwrap(), Duration::ZERO);
        assert!(matches!(other, Err(LockError::Busy { .. })));
        assert!(WorkloadLock::acquire(&home, &Name::parse("tim").unwrap(), Duration::ZERO).is_ok());
        drop(lock);
        assert!(home.lock(&name).exists() && !WorkloadLock::is_held(&home, &name));
        assert_eq!(WorkloadLock::acquire(&home, &name, Duration::ZERO).unwrap().name(), &name);
    }

    #[test]
    fn many_write_to_a_store_and_one_exchanges_it() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::below(&dir.path().join("home"));
        home.prepare().unwrap();
        let writers = [(); 2].map(|()| StoreLock::shared(&home, Duration::ZERO).unwrap());
        assert!(matches!(StoreLock::exclusive(&home, Duration::ZERO), Err(LockError::StoreBusy { .. })));
        drop(writers);
        let _exchanging = StoreLock::exclusive(&home, Duration::ZERO).unwrap();
        assert!(matches!(StoreLock::shared(&home, Duration::ZERO), Err(LockError::StoreBusy { .. })));
    }

    #[test]
    fn waiting_commands_all_get_their_turn() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::below(&dir.path().join("home"));
        home.prepare().unwrap();
        let name = Name::parse("time").unwrap();
        let inside = std::sync::atomic::AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let _lock = WorkloadLock::acquire(&home, &name, Duration::from_secs(60)).unwrap();
                    assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                    thread::yield_now();
                    inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                });
            }
        });
    }
}
