//! All the workloads of a home: find, read, write, remove.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use thv_keygen::Name;

use crate::config::{ConfigError, RunConfig};
use crate::files::{self, FileError};
use crate::home::{Home, HomeError, check_dir, private_dir};
use crate::lock::WorkloadLock;
use crate::status::{Status, StatusError, Unfinished};
use crate::sys;

/// One workload as its files tell.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Its name, as the user spelled it.
    pub name: Name,
    /// What was asked for.
    pub config: RunConfig,
    /// What is running, reconciled with the processes there are.
    pub status: Status,
}

/// Why a workload's files cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The run config is damaged.
    #[error("{} cannot be used", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ConfigError,
    },
    /// The status file is damaged.
    #[error("{} cannot be used", path.display())]
    Status {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: StatusError,
    },
    /// The folder was copied or renamed by hand.
    #[error("{} is the run config of a workload named {name}", path.display())]
    AnotherName {
        /// The file.
        path: PathBuf,
        /// The name in it.
        name: Name,
    },
    /// The folder has no run config.
    #[error("{} is missing", .0.display())]
    NoConfig(PathBuf),
    /// A file or folder could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The workload's folder could not be used.
    #[error(transparent)]
    Home(#[from] HomeError),
}

/// Whether there is a workload of that name, whole or not.
#[must_use]
pub fn exists(home: &Home, name: &Name) -> bool {
    home.workload(name).symlink_metadata().is_ok()
}

/// Whether there is a workload of that name, whole or not, in a folder of its own.
///
/// # Errors
/// There is something else in the place of the folder, such as a link, or others may enter it.
pub fn check(home: &Home, name: &Name) -> Result<bool, RegistryError> {
    Ok(check_dir(&home.workload(name))?)
}

/// The change that was begun on a workload and not finished, if any; a folder without status file counts as one that
/// was being created.
///
/// # Errors
/// The status file cannot be read.
pub fn unfinished(home: &Home, name: &Name) -> Result<Option<Unfinished>, RegistryError> {
    if !check(home, name)? {
        return Ok(None);
    }
    let has_config = home.run_config(name).symlink_metadata().is_ok();
    Ok(match status(home, name)? {
        Some(status) => status.unfinished,
        None if has_config => None,
        None => Some(Unfinished::Creating),
    })
}

/// Reads one workload; `None` when there is none of that name.
///
/// # Errors
/// Its files cannot be read or are damaged. They are left as they are.
pub fn load(home: &Home, name: &Name) -> Result<Option<Workload>, RegistryError> {
    if !check(home, name)? {
        return Ok(None);
    }
    let Some(status) = status(home, name)? else {
        return if files::read(&home.run_config(name))?.is_some() {
            Err(RegistryError::NoConfig(home.status(name)))
        } else {
            Ok(None)
        };
    };
    // Not yet there, or not there any more: whoever next changes it clears the rest away.
    if status.unfinished.is_some() && !status.is_alive() {
        return Ok(None);
    }
    let config = match config(home, name) {
        // Removed between two looks.
        Err(RegistryError::NoConfig(_)) if !exists(home, name) => return Ok(None),
        config => config?,
    };
    let spelled = config.name().unwrap_or_else(|_| name.clone());
    if spelled != *name {
        return Err(RegistryError::AnotherName { path: home.run_config(name), name: spelled });
    }
    Ok(Some(Workload { name: spelled, config, status: status.reconciled() }))
}

/// A workload that somebody is creating at this moment, for those who want to see it come; to everybody else it is not
/// there yet.
#[must_use]
pub fn coming(home: &Home, name: &Name) -> Option<Workload> {
    let status = status(home, name).ok()??;
    let is_coming = status.unfinished == Some(Unfinished::Creating) && WorkloadLock::is_held(home, name);
    let config = if is_coming { config(home, name).ok()? } else { return None };
    Some(Workload { name: config.name().ok()?, config, status: status.reconciled() })
}

/// Reads a run config.
///
/// # Errors
/// It is missing, cannot be read, or is damaged.
pub fn config(home: &Home, name: &Name) -> Result<RunConfig, RegistryError> {
    let path = home.run_config(name);
    let Some(json) = files::read(&path)? else { return Err(RegistryError::NoConfig(path)) };
    RunConfig::parse(&json).map_err(|source| RegistryError::Config { path, source })
}

/// Reads a status file; `None` when there is none.
///
/// # Errors
/// It cannot be read or is damaged.
pub fn status(home: &Home, name: &Name) -> Result<Option<Status>, RegistryError> {
    let path = home.status(name);
    let Some(json) = files::read(&path)? else { return Ok(None) };
    Status::parse(&json).map(Some).map_err(|source| RegistryError::Status { path, source })
}

/// The names of all workloads, sorted, and those whose files are damaged among them.
///
/// # Errors
/// The folder cannot be read or trusted.
pub fn names(home: &Home) -> Result<Vec<Name>, RegistryError> {
    let dir = home.workloads();
    if !check_dir(&dir)? {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(&dir).map_err(|error| FileError::new("list", &dir, error))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| FileError::new("list", &dir, error))?;
        // Whatever else somebody put there is not a workload.
        if let Some(name) = entry.file_name().to_str().and_then(|text| Name::parse(text).ok())
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The ports that workloads other than this one have written down, whether they run or not. Those whose run config
/// cannot be read have none.
#[must_use]
pub fn ports(home: &Home, but: &Name) -> BTreeSet<u16> {
    let others = names(home).unwrap_or_default().into_iter().filter(|name| name != but);
    others
        .filter_map(|name| config(home, &name).ok())
        .map(|config| config.port)
        .filter(|port| *port != 0)
        .collect()
}

/// Makes a workload's folder.
///
/// # Errors
/// It cannot be made or trusted.
pub fn create_dir(home: &Home, lock: &WorkloadLock) -> Result<(), RegistryError> {
    Ok(private_dir(&home.workload(lock.name()))?)
}

/// Writes a run config.
///
/// # Errors
/// It cannot be written; the old one is then as it was.
pub fn save_config(home: &Home, lock: &WorkloadLock, config: &RunConfig) -> Result<(), RegistryError> {
    let path = home.run_config(lock.name());
    let json = config.to_json().map_err(|source| RegistryError::Config { path: path.clone(), source })?;
    Ok(files::write_atomic(&path, &json)?)
}

/// Writes a status file. The caller is the live supervisor, or holds the workload's lock and has proved it dead.
///
/// # Errors
/// It cannot be written; the old one is then as it was.
pub fn save_status(home: &Home, name: &Name, status: &Status) -> Result<(), RegistryError> {
    Ok(files::write_atomic(&home.status(name), &status.to_json())?)
}

/// Moves those of a workload's files that cannot be read out of its folder, so that they outlive it. Returns where they
/// are now.
///
/// # Errors
/// One of them cannot be moved; it is then where it was.
pub fn keep_damaged(
    home: &Home,
    lock: &WorkloadLock,
    now: SystemTime,
) -> Result<Vec<PathBuf>, RegistryError> {
    let name = lock.name();
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let files = [
        (home.run_config(name), config(home, name).is_err()),
        (home.status(name), status(home, name).is_err()),
    ];
    // A link is nothing to keep: what it leads to stays where it is.
    let there = |path: &Path| path.symlink_metadata().is_ok_and(|meta| !meta.is_symlink());
    let broken = files.iter().filter(|(path, broken)| *broken && there(path)).map(|(path, _)| path);
    let mut folder = None;
    let mut kept = Vec::new();
    for path in broken {
        let folder = match &folder {
            Some(folder) => folder,
            None => folder.insert(new_folder(&home.damaged(), &format!("{}-{seconds}", name.lower()))?),
        };
        let aside = folder.join(path.file_name().unwrap_or_default());
        std::fs::rename(path, &aside).map_err(|error| FileError::new("keep", path, error))?;
        kept.push(aside);
    }
    Ok(kept)
}

/// Makes a folder that was not there before, with a number behind its name if need be.
fn new_folder(within: &Path, name: &str) -> Result<PathBuf, RegistryError> {
    private_dir(within)?;
    let mut number = 1;
    loop {
        let folder = within.join(if number == 1 { name.to_owned() } else { format!("{name}-{number}") });
        match sys::create_private_dir(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(FileError::new("make the folder", &folder, error).into()),
        }
    }
}

/// Deletes a workload's folder, its status file last but for the folder, so that a removal that was cut off is known
/// for one. Its lock file stays.
///
/// # Errors
/// Something in it cannot be deleted.
pub fn remove_dir(home: &Home, lock: &WorkloadLock) -> Result<(), RegistryError> {
    let dir = home.workload(lock.name());
    let status = home.status(lock.name());
    let remove = || {
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.path() == status {
                continue;
            }
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        match std::fs::remove_file(&status) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::remove_dir(&dir)
    };
    match remove() {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(FileError::new("delete", &dir, error).into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Desired, State};
    use std::time::Duration;

    struct Fixture {
        _dir: tempfile::TempDir,
        home: Home,
        name: Name,
        lock: WorkloadLock,
    }

    fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::below(&dir.path().join("home"));
        home.prepare().unwrap();
        let name = Name::parse("Time").unwrap();
        let lock = WorkloadLock::acquire(&home, &name, Duration::ZERO).unwrap();
        Fixture { _dir: dir, home, name, lock }
    }

    fn config() -> RunConfig {
        RunConfig { name: "Time".into(), command: Some("/bin/cat".into()), ..RunConfig::default() }
    }

    #[test]
    fn a_workload_is_found_by_any_spelling_and_gone_after_removal() {
        let Fixture { home, name, lock, .. } = &fixture();
        assert!(load(home, name).unwrap().is_none());
        create_dir(home, lock).unwrap();
        assert_eq!(unfinished(home, name).unwrap(), Some(Unfinished::Creating));
        assert!(load(home, name).unwrap().is_none());
        save_config(home, lock, &config()).unwrap();
        save_status(home, name, &Status::new(State::Stopped, Desired::Stopped)).unwrap();
        let found = load(home, &Name::parse("TIME").unwrap()).unwrap().unwrap();
        assert_eq!(found.name.as_str(), "Time");
        assert_eq!(names(home).unwrap(), std::slice::from_ref(name));
        remove_dir(home, lock).unwrap();
        assert!(!exists(home, name));
        remove_dir(home, lock).unwrap();
        assert!(home.lock(name).exists());
    }

    #[test]
    fn one_that_is_being_created_is_seen_for_as_long_as_somebody_is_at_it() {
        let Fixture { home, name, lock, _dir } = fixture();
        create_dir(&home, &lock).unwrap();
        let mut status = Status::new(State::Starting, Desired::Running);
        status.unfinished = Some(Unfinished::Creating);
        save_status(&home, &name, &status).unwrap();
        assert!(coming(&home, &name).is_none());
        save_config(&home, &lock, &config()).unwrap();
        assert_eq!(coming(&home, &name).unwrap().status.status, State::Starting);
        assert!(load(&home, &name).unwrap().is_none());
        drop(lock);
        assert!(coming(&home, &name).is_none());
    }

    #[test]
    fn ports_are_kept_for_those_who_do_not_run() {
        let Fixture { home, name, lock, .. } = &fixture();
        create_dir(home, lock).unwrap();
        save_config(home, lock, &RunConfig { port: 20_001, ..config() }).unwrap();
        let other = Name::parse("other").unwrap();
        let others = WorkloadLock::acquire(home, &other, Duration::ZERO).unwrap();
        create_dir(home, &others).unwrap();
        save_config(home, &others, &RunConfig { name: "other".into(), port: 20_002, ..config() }).unwrap();
        // Not picked yet, and damaged.
        for (third, json) in [("new", &br#"{"name":"new","command":"/bin/cat"}"#[..]), ("broken", b"{")] {
            let third = Name::parse(third).unwrap();
            create_dir(home, &WorkloadLock::acquire(home, &third, Duration::ZERO).unwrap()).unwrap();
            files::write_atomic(&home.run_config(&third), json).unwrap();
        }
        assert_eq!(ports(home, name), BTreeSet::from([20_002]));
        assert_eq!(ports(home, &Name::parse("fifth").unwrap()), BTreeSet::from([20_001, 20_002]));
    }

    #[test]
    fn damaged_files_are_named_and_kept() {
        let Fixture { home, name, lock, .. } = &fixture();
        create_dir(home, lock).unwrap();
        save_config(home, lock, &config()).unwrap();
        files::write_atomic(&home.status(name), b"{\"v\": 7}").unwrap();
        assert!(matches!(
            load(home, name),
            Err(RegistryError::Status { source: StatusError::Version(7), .. })
        ));
        save_status(home, name, &Status::new(State::Stopped, Desired::Stopped)).unwrap();
        files::write_atomic(&home.run_config(name), b"{\"name\"").unwrap();
        assert!(matches!(load(home, name), Err(RegistryError::Config { .. })));
        assert_eq!(files::read(&home.run_config(name)).unwrap().unwrap(), b"{\"name\"");

        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(7);
        let kept = keep_damaged(home, lock, at).unwrap();
        assert_eq!(kept, [home.damaged().join("time-7/runconfig.json")]);
        assert_eq!(files::read(&kept[0]).unwrap().unwrap(), b"{\"name\"");
        assert!(status(home, name).unwrap().is_some());
        assert_eq!(keep_damaged(home, lock, at).unwrap(), [""; 0].map(PathBuf::from), "nothing is damaged");
    }

    #[cfg(unix)]
    #[test]
    fn what_cannot_be_read_is_kept_beside_what_was_kept_before() {
        let Fixture { home, name, lock, .. } = &fixture();
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(7);
        create_dir(home, lock).unwrap();
        let large = vec![b' '; (4 << 20) + 1];
        for expected in ["time-7", "time-7-2", "time-7-3"] {
            files::write_atomic(&home.run_config(name), &large).unwrap();
            std::fs::create_dir(home.status(name)).unwrap();
            let folder = home.damaged().join(expected);
            assert_eq!(
                keep_damaged(home, lock, at).unwrap(),
                [folder.join("runconfig.json"), folder.join("status.json")]
            );
            assert_eq!(std::fs::read(folder.join("runconfig.json")).unwrap(), large);
        }
        std::os::unix::fs::symlink(home.locks(), home.status(name)).unwrap();
        assert!(status(home, name).is_err());
        assert_eq!(keep_damaged(home, lock, at).unwrap(), [""; 0].map(PathBuf::from));
        remove_dir(home, lock).unwrap();
        assert!(home.locks().is_dir());
    }
}
