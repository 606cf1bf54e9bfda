//! Workloads: what is damaged, half done or dead, and who holds their ports.

use std::collections::HashSet;
use std::path::PathBuf;

use thv_keygen::Name;
use thv_workload::creation;
use thv_workload::groups;
use thv_workload::home::Home;
use thv_workload::registry::{self, Workload};
use thv_workload::status::Desired;

use super::Finding;
use crate::commands::lock;
use crate::failure::{Exit, Failure, Outcome};
use crate::keys::KeyVault;

pub(super) fn look(home: &Home) -> Vec<Finding<'_>> {
    let names = match registry::names(home) {
        Ok(names) => names,
        Err(error) => return vec![Finding::problem("workloads", format!("they cannot be listed: {error}"))],
    };
    let mut findings = Vec::new();
    let mut sockets = HashSet::new();
    for name in &names {
        if let Ok(Some(_)) = registry::unfinished(home, name)
            && !is_alive(home, name)
        {
            findings.push(unfinished(home, name));
            continue;
        }
        match registry::load(home, name) {
            Ok(Some(workload)) => {
                if workload.status.supervisor.is_some() {
                    sockets.insert(home.socket(name));
                }
                findings.extend(state(home, &workload));
                findings.extend(port(&workload));
            }
            Ok(None) => {}
            Err(error) => findings.push(
                Finding::problem("workload", format!("the files of {name} cannot be used: {error}"))
                    .why("it can neither be started nor listed")
                    .mend(format!("mend the file, or: thv rm {name}")),
            ),
        }
    }
    findings.extend(stale_sockets(home, &sockets));
    if findings.is_empty() {
        findings.push(Finding::fine(
            "workloads",
            match names.len() {
                1 => "1 workload is in order".to_owned(),
                count => format!("{count} workloads are in order"),
            },
        ));
    }
    findings
}

fn is_alive(home: &Home, name: &Name) -> bool {
    registry::status(home, name).ok().flatten().is_some_and(|status| status.is_alive())
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

/// A supervisor that is gone although it is wanted, and processes that it left.
fn state<'a>(home: &'a Home, workload: &Workload) -> Vec<Finding<'a>> {
    let name = &workload.name;
    let mut findings = Vec::new();
    if workload.status.supervisor.is_none() {
        let left = groups::orphans(home, name);
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

/// A port on which somebody else listens. Clients with a fixed header send their key to whoever does.
fn port(workload: &Workload) -> Option<Finding<'static>> {
    let (name, port) = (&workload.name, workload.status.port);
    if port == 0 {
        return None;
    }
    let us = workload.status.supervisor.map(|process| process.pid);
    let holders = thv_audit::holders(port).ok()?;
    let stranger = holders.iter().find(|holder| {
        us.is_none() || holder.process.as_ref().is_some_and(|process| Some(process.pid) != us)
    })?;
    Some(
        Finding::problem("port", format!("port {port} of {name} is held by {stranger}"))
            .why("a client that sends the key without asking for proof sends it there")
            .mend(match us {
                Some(_) => format!("end that program, then thv restart {name}"),
                None => format!("end that program, or thv start {name}, which moves to another port"),
            }),
    )
}

/// Sockets of supervisors that are gone.
fn stale_sockets<'a>(home: &'a Home, live: &HashSet<PathBuf>) -> Vec<Finding<'a>> {
    let Ok(entries) = std::fs::read_dir(home.run_dir()) else { return Vec::new() };
    let stale =
        |path: &PathBuf| path.extension().is_some_and(|ending| ending == "sock") && !live.contains(path);
    let finding = |path: PathBuf| {
        Finding::note("socket", format!("{} belongs to no running workload", path.display()))
            .why("nothing; the next start replaces it")
            .mend("thv doctor --fix")
            .fix(move || {
                std::fs::remove_file(&path).map_err(|error| {
                    Failure::new(Exit::Failed, format!("cannot delete {}", path.display())).because(&error)
                })
            })
    };
    entries.flatten().map(|entry| entry.path()).filter(stale).map(finding).collect()
}
