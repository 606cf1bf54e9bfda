//! `thv rm`: a workload goes, with its keys and its logs.

use std::time::{Duration, SystemTime};

use thv_keychain::{KeychainFault, StoreError, VaultError};
use thv_keygen::Name;
use thv_workload::creation::{self, CreationError};
use thv_workload::home::Home;
use thv_workload::registry;

use super::stop::end;
use super::{lock, not_found, one_by_one};
use crate::args::Rm;
use crate::environment::Environment;
use crate::failure::{Exit, Failure, Outcome};
use crate::keys::{self, KeyVault};
use crate::say;

/// How long a supervisor may take to end before it is told to by a signal.
const PATIENCE: Duration = Duration::from_secs(15);

/// Everything that is there, half made and half removed workloads too.
fn all(home: &Home) -> Outcome<Vec<Name>> {
    registry::names(home)
        .map_err(|error| Failure::new(Exit::Failed, "cannot list the workloads").because(&error))
}

/// Whether no key at all can be read for as long as this stays so.
fn holds_for_all(error: &VaultError) -> bool {
    match error {
        VaultError::Store(StoreError::Keychain(fault)) => {
            !matches!(fault, KeychainFault::Ambiguous { .. } | KeychainFault::Damaged { .. })
        }
        VaultError::Store(_) => true,
        _ => false,
    }
}

/// Removes workloads, running ones too.
pub fn rm(environment: &Environment, args: &Rm) -> Outcome {
    let home = environment.prepared_home()?;
    let names = if args.all { all(home)? } else { args.names.clone() };
    let vault = KeyVault::to_change(home)?;
    // Why the store cannot be used at all, once that is known: the others are not made to wait for the same answer.
    let mut without_store: Option<String> = None;
    one_by_one(&names, |name| {
        let lock = lock(home, name)?;
        let there = registry::check(home, name).map_err(|error| {
            Failure::new(Exit::Refused, format!("workload {name} cannot be removed")).because(&error)
        })?;
        if !there {
            // Of all there are, one may have been removed by somebody else.
            return if args.all { Ok(()) } else { Err(not_found(home, name)) };
        }
        // A store that cannot be used must be known before the workload is ended: it would be half removed. One that
        // holds nothing legible of this workload is no obstacle.
        if registry::config(home, name).is_ok_and(|config| config.is_locked()) {
            if let Some(why) = &without_store {
                let why = std::io::Error::other(why.clone());
                return Err(Failure::new(
                    Exit::Keychain,
                    format!("cannot delete the keys of workload {name}"),
                )
                .because(&why));
            }
            if let Err(error @ VaultError::Store(_)) = vault.vault().current(name) {
                without_store = Some(error.to_string()).filter(|_| holds_for_all(&error));
                return Err(keys::failed("cannot delete the keys", name, &error));
            }
        }
        end(home, &lock, PATIENCE, false)?;
        let kept = registry::keep_damaged(home, &lock, SystemTime::now()).map_err(|error| {
            Failure::new(Exit::Failed, format!("the damaged files of {name} cannot be kept")).because(&error)
        })?;
        for path in kept {
            say::talk(&format!("kept a damaged file of {name} as {}", path.display()));
        }
        creation::remove(home, &lock, &vault).map_err(|error| match error {
            CreationError::Keys(error) => keys::failed("cannot delete the keys", name, &error),
            error => Failure::new(Exit::Failed, format!("workload {name} cannot be removed in full"))
                .because(&error)
                .hint(format!("mend what stands in the way, then run thv rm {name} again")),
        })?;
        say::talk(&format!("removed {name}"));
        Ok(())
    })
}
