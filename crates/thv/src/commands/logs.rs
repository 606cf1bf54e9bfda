//! `thv logs`: what a server and its proxy have written.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use thv_workload::files::{self, FileError};
use thv_workload::registry;

use super::{existing, lock, one_by_one};
use crate::args::Logs;
use crate::environment::Environment;
use crate::failure::{Exit, Failure, Outcome};
use crate::say;

/// How often a followed log is looked at.
const POLL: Duration = Duration::from_millis(200);

/// Shows a log, follows it, or prunes all logs of workloads that are not running.
pub fn logs(environment: &Environment, args: &Logs) -> Outcome {
    if args.prune {
        return prune(environment);
    }
    let home = environment.checked_home()?;
    let Some(name) = &args.name else {
        return Err(Failure::new(Exit::Usage, "whose logs?").hint("thv logs NAME, or thv logs --prune"));
    };
    existing(home, name)?;
    let path = if args.proxy { home.proxy_log(name) } else { home.server_log(name) };
    show(&path, args.follow)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot show the log of {name}")).because(&error))
}

/// Writes the log as it is, and what comes after for as long as it is followed.
fn show(path: &Path, follow: bool) -> Result<(), FileError> {
    let mut at = 0;
    loop {
        if let Some(mut file) = files::open_read(path)? {
            // A log that is shorter than what was shown has been put aside, and a new one begun.
            if file.metadata().is_ok_and(|meta| meta.len() < at) {
                at = 0;
            }
            match copy_from(&mut file, at) {
                Some(shown) => at += shown,
                None => return Ok(()),
            }
        }
        if !follow {
            return Ok(());
        }
        std::thread::sleep(POLL);
    }
}

/// How much was shown; `None` when nobody reads it any more.
fn copy_from(file: &mut File, at: u64) -> Option<u64> {
    let mut shown = 0;
    if file.seek(SeekFrom::Start(at)).is_err() {
        return Some(0);
    }
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = file.read(&mut buffer) {
        if !say::raw(&buffer[..read]) {
            return None;
        }
        shown += read as u64;
    }
    Some(shown)
}

/// Deletes logs that nobody writes to.
fn prune(environment: &Environment) -> Outcome {
    let home = environment.prepared_home()?;
    let names = registry::names(home)
        .map_err(|error| Failure::new(Exit::Failed, "cannot list the workloads").because(&error))?;
    one_by_one(&names, |name| {
        let _lock = lock(home, name)?;
        if registry::status(home, name).ok().flatten().is_some_and(|status| status.is_alive()) {
            return Ok(());
        }
        let logs = [home.server_log(name), home.proxy_log(name)];
        for path in logs.into_iter().flat_map(|log| [log.with_extension("log.1"), log]) {
            match std::fs::remove_file(&path) {
                Ok(()) => say::talk(&format!("deleted {}", path.display())),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(Failure::new(Exit::Failed, format!("cannot delete {}", path.display()))
                        .because(&error));
                }
            }
        }
        Ok(())
    })
}
