//! The commands, a module each.

pub mod bridge;
pub mod completions;
pub mod doctor;
mod endpoint;
pub mod export;
pub mod key;
pub mod list;
pub mod logs;
pub mod mcp;
mod mcpservers;
pub mod rm;
pub mod run;
pub mod secret;
mod source;
pub mod start;
pub mod status;
pub mod stop;
pub mod target;

use std::time::Duration;

use thv_keygen::Name;
use thv_workload::home::Home;
use thv_workload::lock::{LockError, WorkloadLock};
use thv_workload::registry::{self, RegistryError, Workload};

use crate::failure::{Exit, Failure, Outcome};
use crate::say;

/// How long a command waits for another one that changes the same workload.
const PATIENCE: Duration = Duration::from_secs(90);

/// Takes a workload's lock.
pub fn lock(home: &Home, name: &Name) -> Outcome<WorkloadLock> {
    WorkloadLock::acquire(home, name, PATIENCE).map_err(|error| match error {
        LockError::Busy { .. } => {
            Failure::new(Exit::Failed, error.to_string()).hint("wait for it, then try again")
        }
        error => Failure::new(Exit::Failed, format!("cannot lock workload {name}")).because(&error),
    })
}

/// The workloads that a command is about.
struct Selection<'a> {
    names: &'a [Name],
    all: bool,
}

impl Selection<'_> {
    fn resolve(&self, home: &Home) -> Outcome<Vec<Name>> {
        if !self.all {
            return Ok(self.names.to_vec());
        }
        let mut names = registry::names(home)
            .map_err(|error| Failure::new(Exit::Failed, "cannot list the workloads").because(&error))?;
        // What was half made or half removed is nothing that one could have meant.
        names.retain(|name| !matches!(registry::load(home, name), Ok(None)));
        Ok(names)
    }
}

/// Does a thing to each workload. A failure does not keep the others from their turn; it is told at once when more
/// follow, and the first one is the command's.
fn one_by_one(names: &[Name], mut act: impl FnMut(&Name) -> Outcome) -> Outcome {
    let mut outcome = Ok(());
    for name in names {
        if let Err(failure) = act(name) {
            if outcome.is_ok() {
                outcome = Err(failure);
            } else {
                say::complaint(&failure.render());
            }
        }
    }
    outcome
}

/// Reads a workload that must exist.
fn existing(home: &Home, name: &Name) -> Outcome<Workload> {
    match registry::load(home, name) {
        Ok(Some(workload)) => Ok(workload),
        Ok(None) => Err(not_found(home, name)),
        Err(error) => Err(damaged(name, &error)),
    }
}

/// There is none of that name; perhaps another one was meant.
pub fn not_found(home: &Home, name: &Name) -> Failure {
    let failure = Failure::new(Exit::NotFound, format!("there is no workload named {name}"));
    let names = registry::names(home).unwrap_or_default();
    let others = names.iter().filter(|known| *known != name);
    let near = others.map(|known| (distance(known.lower(), name.lower()), known)).min_by_key(|(d, _)| *d);
    match near {
        Some((distance, known)) if distance <= 2 => failure.hint(format!("did you mean {known}?")),
        _ => failure.hint("thv list --all shows what there is"),
    }
}

/// A workload's files cannot be used. They are left as they are.
pub fn damaged(name: &Name, error: &RegistryError) -> Failure {
    Failure::new(Exit::Failed, format!("the files of workload {name} cannot be used"))
        .because(error)
        .hint("the file was left as it is: mend it, or remove the workload with thv rm and run it anew")
}

/// Levenshtein distance; names are short.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, expected) in
            [("", "", 0), ("time", "time", 0), ("time", "tiem", 2), ("time", "tim", 1), ("a", "xyz", 3)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }
}
