//! Workloads: what is damaged, half done or dead, and who holds their ports.

use std::collections::HashSet;
use std::time::Duration;

use thv_keygen::Name;
use thv_workload::creation;
use thv_workload::groups;
use thv_workload::home::Home;
use thv_workload::lock::{LockError, WorkloadLock};
use thv_workload::registry::{self, RegistryError, Workload};
use thv_workload::status::Desired;

use super::clock::Latest;
use super::{Finding, ports, quoted, sockets};
use crate::commands::lock;
use crate::failure::{Exit, Failure, Outcome};
use crate::keys::KeyVault;

/// A workload as a first look shows it.
enum Seen {
    Whole(Box<Workload>),
    /// Another command is at it.
    Changing,
    /// A command was cut off.
    Unfinished,
    Damaged(RegistryError),
    Gone,
}

pub(super) fn look<'a>(home: &'a Home, latest: &mut Latest) -> Vec<Finding<'a>> {
    let names = match registry::names(home) {
        Ok(names) => names,
        Err(error) => return vec![unlisted(home, &error)],
    };
    let mut findings = Vec::new();
    // The sockets of which it is clear whose they are.
    let mut known = HashSet::new();
    let mut whole = Vec::new();
    for name in &names {
        match see(home, name) {
            Seen::Whole(workload) => {
                if workload.status.supervisor.is_some() {
                    known.insert(home.socket(name));
                }
                findings.extend(state(home, &workload));
                whole.push(*workload);
            }
            Seen::Changing => {
                known.insert(home.socket(name));
                findings.push(changing(name));
            }
            Seen::Unfinished => findings.push(unfinished(home, name)),
            Seen::Damaged(error) => findings.push(
                Finding::problem("workload", format!("the files of {name} cannot be used: {error}"))
                    .why("it can neither be started nor listed")
                    .mend(format!("mend the file, or: thv rm {name}")),
            ),
            Seen::Gone => {}
        }
    }
    for workload in &whole {
        times(workload, latest);
        findings.extend(ports::strangers(workload, &whole));
    }
    findings.extend(sockets::look(home, &known));
    if findings.is_empty() {
        findings.push(Finding::fine(
            "workloads",
            match names.len() {
                1 => "1 workload is in order".to_owned(),
                count => format!("{count} workloads are in order"),
            },
        ));
    }
    for workload in &whole {
        findings.extend(ports::beside(workload));
    }
    findings
}

fn see(home: &Home, name: &Name) -> Seen {
    let is_unfinished = || matches!(registry::unfinished(home, name), Ok(Some(_))) && !is_alive(home, name);
    if is_unfinished() {
        if is_busy(home, name) {
            return Seen::Changing;
        }
        // It may have been finished between the two looks.
        if is_unfinished() {
            return Seen::Unfinished;
        }
    }
    match registry::load(home, name) {
        Ok(Some(workload)) if seems_down(home, &workload) && is_busy(home, name) => Seen::Changing,
        Ok(Some(workload)) => Seen::Whole(Box::new(workload)),
        Ok(None) => Seen::Gone,
        Err(error) => Seen::Damaged(error),
    }
}

fn unlisted(home: &Home, error: &RegistryError) -> Finding<'static> {
    let folder = home.folders().pop().unwrap_or_default();
    Finding::problem("workloads", format!("they cannot be listed: {error}"))
        .why("none of them can be found")
        .mend(format!("see who may read it: ls -ld {}", quoted(&folder)))
}

fn is_alive(home: &Home, name: &Name) -> bool {
    registry::status(home, name).ok().flatten().is_some_and(|status| status.is_alive())
}

/// Whether another command changes the workload now.
fn is_busy(home: &Home, name: &Name) -> bool {
    matches!(WorkloadLock::acquire(home, name, Duration::ZERO), Err(LockError::Busy { .. }))
}

fn changing(name: &Name) -> Finding<'static> {
    Finding::note("changing", format!("{name} is being changed by another command right now"))
        .why("how it looks at this moment says nothing")
        .mend("wait for that command, then: thv doctor")
}

fn unfinished<'a>(home: &'a Home, name: &Name) -> Finding<'a> {
    let fixed = name.clone();
    Finding::problem("unfinished", format!("{name} is half made or half removed"))
        .why("a command was cut off; what it left is of no use")
        .mend("thv doctor --fix")
        .fix(move || {
            let lock = lock(home, &fixed)?;
            creation::finish(home, &lock, &KeyVault::to_change(home)?).map_err(|error| {
                Failure::new(Exit::Failed, format!("cannot clear away what is left of {fixed}"))
                    .because(&error)
            })
        })
}

/// Whether it does not run and there is something to be said about that.
fn seems_down(home: &Home, workload: &Workload) -> bool {
    workload.status.supervisor.is_none()
        && (workload.status.desired == Desired::Running || left(home, &workload.name) > 0)
}

/// How many processes are left of a workload that does not run.
fn left(home: &Home, name: &Name) -> usize {
    groups::orphans(home, name)
}

/// A supervisor that is gone although it is wanted, and processes that it left.
fn state<'a>(home: &'a Home, workload: &Workload) -> Vec<Finding<'a>> {
    let name = &workload.name;
    let mut findings = Vec::new();
    if workload.status.supervisor.is_none() {
        let left = left(home, name);
        if left > 0 {
            let fixed = name.clone();
            findings.push(
                Finding::problem("orphans", format!("{left} processes are left of {name}"))
                    .why("they take memory, and nobody talks to them")
                    .mend("thv doctor --fix")
                    .fix(move || end_orphans(home, &fixed)),
            );
        }
        if workload.status.desired == Desired::Running {
            findings.push(
                Finding::note("down", format!("{name} does not run: {}", workload.status.status_context))
                    .why("the next client that wants it starts it")
                    .mend(format!("thv start {name}")),
            );
        }
    }
    findings
}

fn end_orphans(home: &Home, name: &Name) -> Outcome {
    let _lock = lock(home, name)?;
    // It may have been started since.
    if !is_alive(home, name) {
        groups::end_orphans(home, name);
    }
    Ok(())
}

/// When it was made and started.
fn times(workload: &Workload, latest: &mut Latest) {
    let name = &workload.name;
    latest.read(&workload.config.created_at, || format!("the creation of {name}"));
    if let Some(started) = &workload.status.started_at {
        latest.read(started, || format!("the start of {name}"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::Weight;
    use super::*;

    fn home() -> (tempfile::TempDir, Home, Name) {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::below(&dir.path().join("home"));
        home.prepare().unwrap();
        (dir, home, Name::parse("x").unwrap())
    }

    #[test]
    fn what_somebody_is_at_is_not_called_half_made() {
        let (_dir, home, name) = home();
        let lock = lock(&home, &name).unwrap();
        registry::create_dir(&home, &lock).unwrap();
        let checks = || {
            let rows = look(&home, &mut Latest::default()).into_iter().map(|finding| finding.row);
            rows.map(|row| (row.check, row.weight)).collect::<Vec<_>>()
        };
        assert_eq!(checks(), [("changing", Weight::Note)]);
        drop(lock);
        assert_eq!(checks(), [("unfinished", Weight::Problem)]);
    }
}
