//! `thv key`: the one command that shows a key, to whoever asks for it by name.

use std::time::Duration;

use thv_keychain::VaultError;
use thv_workload::config::SharedKeyAuth;
use thv_workload::registry;
use thv_workload::supervisor::Keys as _;

use super::start::start_under;
use super::stop::{end, still_wanted};
use super::{existing, lock};
use crate::args::{KeyShow, KeySwitch};
use crate::ask;
use crate::environment::Environment;
use crate::failure::{Exit, Failure, Outcome};
use crate::keys::{KeyVault, failed};
use crate::say;

/// How long a running workload may take to end.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long its server may take to answer again.
const READY: Duration = Duration::from_secs(60);

/// Shows a workload's key.
pub fn show(environment: &Environment, args: &KeyShow) -> Outcome {
    let home = environment.checked_home()?;
    let name = &args.name;
    let workload = existing(home, name)?;
    if !workload.config.is_locked() {
        return Err(Failure::new(Exit::NotFound, format!("workload {name} is open: it has no key"))
            .hint(format!("thv key enable {name} locks it")));
    }
    if !args.yes {
        let question = format!("Whoever sees the key of {name} can call its tools. Show it here?");
        let hint = format!("thv key show {name} --yes shows it without asking");
        ask::whether(&question, "the key was not shown", &hint)?;
    }
    let key = KeyVault::read(home, |vault| vault.vault().current(name))?
        .map_err(|error| failed("cannot read the key", name, &error))?;
    let key =
        key.ok_or_else(|| failed("there is no key", name, &VaultError::NoKey { name: name.clone() }))?;
    let text = key.expose_text();
    if args.header {
        say::data(&zeroize::Zeroizing::new(format!("X-ToolHive-Auth: {}\n", *text)));
    } else {
        say::data(&zeroize::Zeroizing::new(format!("{}\n", *text)));
    }
    Ok(())
}

/// Locks or unlocks a workload without recreating it. A running one is restarted on its port, since its door changes.
pub fn switch(environment: &Environment, args: &KeySwitch, enable: bool, debug: bool) -> Outcome {
    let home = environment.prepared_home()?;
    let name = &args.name;
    existing(home, name)?;
    // The store before the workload's lock: choosing one waits for those who use it, and they for workloads.
    let vault = if enable { KeyVault::to_fill(home)? } else { KeyVault::to_change(home)? };
    let lock = lock(home, name)?;
    let workload = existing(home, name)?;
    if workload.config.is_locked() == enable {
        say::talk(&format!("{name} is {} already", if enable { "locked" } else { "open" }));
        return Ok(());
    }
    let cannot = |error: &VaultError| failed("cannot change the keys", name, error);
    // A store that cannot be used must be known before anything is ended for its sake.
    vault.vault().current(name).map_err(|error| cannot(&error))?;
    let running = workload.status.supervisor.is_some();
    if running {
        end(home, &lock, PATIENCE, true)?;
        still_wanted(home, name)?;
    }
    let mut config = workload.config;
    let auth = config.shared_key_auth.get_or_insert(SharedKeyAuth {
        enabled: false,
        key_rotation_days: 0,
        upstream_key: true,
    });
    auth.enabled = enable;
    let save = || {
        registry::save_config(home, &lock, &config).map_err(|error| {
            Failure::new(Exit::Failed, format!("cannot change workload {name}")).because(&error)
        })
    };
    // Keys first, in both directions: a workload that is cut off half-way says that it is locked, and nobody gets in.
    if enable {
        vault.remove(name).and_then(|()| vault.create(name)).map_err(|error| cannot(&error))?;
        save()?;
    } else {
        vault.remove(name).map_err(|error| cannot(&error))?;
        save()?;
        say::talk(&format!("{name} is open: anybody on this machine can call its tools"));
    }
    if running {
        say::data(&start_under(home, &lock, READY, debug)?);
    }
    Ok(())
}
