//! Control sockets that no workload accounts for: what dead supervisors left, and supervisors that nothing leads to.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thv_keygen::Name;
use thv_workload::control::{self, ControlError, Request};
use thv_workload::home::Home;
use thv_workload::lock::WorkloadLock;
use thv_workload::process::ProcessRef;
use thv_workload::registry;

use super::{Finding, quoted};
use crate::commands::lock;
use crate::failure::{Exit, Failure, Outcome};

/// How long a supervisor may take to answer. A live one needs no thousandth of it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who is behind a socket.
enum Behind {
    /// There is no such socket any more.
    Gone,
    /// Nobody listens.
    Nobody,
    /// A supervisor.
    Supervisor(ProcessRef),
    /// Somebody of another user.
    Stranger,
    /// Somebody who says nothing.
    Silence,
}

/// Sockets other than these, of which it is known whose they are.
pub(super) fn look<'a>(home: &'a Home, known: &HashSet<PathBuf>) -> Vec<Finding<'a>> {
    let Ok(entries) = std::fs::read_dir(home.run_dir()) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "sock") && !known.contains(path));
    paths.sort();
    paths.into_iter().filter_map(|path| of(home, path)).collect()
}

fn of(home: &Home, path: PathBuf) -> Option<Finding<'_>> {
    let place = path.display();
    match behind(&path) {
        Behind::Gone => None,
        Behind::Nobody => Some(
            Finding::note("socket", format!("{place} belongs to no running workload"))
                .why("nothing; the next start replaces it")
                .mend("thv doctor --fix")
                .fix(move || delete(home, &path)),
        ),
        Behind::Supervisor(process) => supervisor(home, &path, process),
        Behind::Stranger => Some(
            Finding::problem("socket", format!("another user listens on {place}"))
                .why("commands that want a supervisor there are refused")
                .mend(format!("see who holds it, as root: fuser {}", quoted(&path))),
        ),
        Behind::Silence => Some(
            Finding::problem("socket", format!("somebody listens on {place} and says nothing"))
                .why("a supervisor that hangs can neither be asked nor be told to stop")
                .mend(format!("see who holds it (fuser {}), and end that process", quoted(&path))),
        ),
    }
}

/// A supervisor that answers, and that the files of its workload say nothing of.
fn supervisor(home: &Home, path: &Path, ProcessRef { pid, .. }: ProcessRef) -> Option<Finding<'static>> {
    let what = match owner(home, path) {
        // While its lock is held, somebody starts or ends it.
        Some(name) if is_accounted_for(home, &name) => return None,
        Some(name) => Finding::problem(
            "orphan-supervisor",
            format!("a supervisor of {name} runs (pid {pid}), and the files of {name} do not tell"),
        )
        .mend(format!("mend the files, or: thv rm {name}, which ends it")),
        None => Finding::problem(
            "orphan-supervisor",
            format!("a supervisor runs (pid {pid}) whose workload is gone"),
        )
        .mend(format!("kill {pid}")),
    };
    Some(what.why("it serves on, and can neither be listed nor stopped by name"))
}

fn owner(home: &Home, socket: &Path) -> Option<Name> {
    registry::names(home).unwrap_or_default().into_iter().find(|name| home.socket(name) == socket)
}

/// Whether somebody changes the workload now, or its files name a live supervisor by now.
fn is_accounted_for(home: &Home, name: &Name) -> bool {
    let Ok(_lock) = WorkloadLock::acquire(home, name, Duration::ZERO) else { return true };
    matches!(registry::load(home, name), Ok(Some(workload)) if workload.status.supervisor.is_some())
}

/// Deletes a socket if still nobody listens. Who starts a supervisor holds its workload's lock meanwhile.
fn delete(home: &Home, path: &Path) -> Outcome {
    let _lock = owner(home, path).map(|name| lock(home, &name)).transpose()?;
    let cannot = || Failure::new(Exit::Failed, format!("cannot delete {}", path.display()));
    match behind(path) {
        Behind::Gone => Ok(()),
        Behind::Nobody => std::fs::remove_file(path).map_err(|error| cannot().because(&error)),
        _ => Err(cannot().because(&std::io::Error::other("somebody listens there now"))),
    }
}

fn behind(path: &Path) -> Behind {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return Behind::Silence };
    let asked = runtime
        .block_on(async { tokio::time::timeout(PATIENCE, control::ask(path, &Request::Status)).await });
    match asked {
        Ok(Ok(answer)) => Behind::Supervisor(answer.supervisor),
        Ok(Err(ControlError::Unreachable { source, .. })) => match source.kind() {
            std::io::ErrorKind::ConnectionRefused => Behind::Nobody,
            std::io::ErrorKind::NotFound => Behind::Gone,
            _ => Behind::Silence,
        },
        Ok(Err(ControlError::Stranger(_))) => Behind::Stranger,
        Ok(Err(_)) | Err(_) => Behind::Silence,
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn home() -> (tempfile::TempDir, Home, Name) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::below(&dir.path().join("home"));
        home.prepare().unwrap();
        (dir, home, Name::parse("x").unwrap())
    }

    #[test]
    fn a_socket_is_stale_only_if_nobody_listens() {
        let (_dir, home, name) = home();
        let path = home.socket(&name);
        let listener = UnixListener::bind(&path).unwrap();
        let row = look(&home, &HashSet::new()).pop().unwrap().row;
        assert!(row.what.contains("says nothing"), "{}", row.what);
        assert!(look(&home, &HashSet::from([path.clone()])).is_empty());
        drop(listener);
        let mut stale = look(&home, &HashSet::new()).pop().unwrap();
        assert!(stale.row.what.contains("no running workload"), "{}", stale.row.what);
        stale.fix.take().unwrap()().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_came_to_life_since_stays() {
        let (_dir, home, name) = home();
        let path = home.socket(&name);
        drop(UnixListener::bind(&path).unwrap());
        let mut stale = look(&home, &HashSet::new()).pop().unwrap();
        std::fs::remove_file(&path).unwrap();
        let _listener = UnixListener::bind(&path).unwrap();
        assert!(stale.fix.take().unwrap()().is_err());
        assert!(path.exists());
    }
}
