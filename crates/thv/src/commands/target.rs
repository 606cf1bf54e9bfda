//! `thv proxy NAME --target-uri URL`: a supervisor in the foreground for a server that somebody else started.
//!
//! It is a workload like any other: made at the first call, found again by the next, listed, and removed by `thv rm`.

use std::time::SystemTime;

use thv_keygen::{KeySet, LiveKey, SharedKey};
use thv_workload::config::{RunConfig, SCHEMA_VERSION, SharedKeyAuth};
use thv_workload::creation::{self, Creation};
use thv_workload::home::Home;
use thv_workload::lock::WorkloadLock;
use thv_workload::registry;
use thv_workload::status::{KeyInfo, timestamp};

use super::run::{created, listen_on};
use super::{endpoint, existing, lock};
use crate::args::Target;
use crate::environment::Environment;
use crate::failure::{Exit, Failure, Outcome};
use crate::input;
use crate::keys::{KeyVault, NoKeys};
use crate::supervise::{self, Order};

/// The variable that a key may come in. It is taken out of the environment before anything else happens.
pub const KEY_VARIABLE: &str = "TOOLHIVE_SHARED_KEY";

/// Serves until Ctrl-C.
pub fn target(environment: &Environment, args: &Target, debug: bool) -> Outcome {
    let config = config(args)?;
    let given = args.key_fd.map(given_key).transpose()?;
    let (home, name) = (environment.prepared_home()?, &args.name);
    let keyed = config.is_locked() && given.is_none();
    let vault = if keyed { KeyVault::to_fill(home)? } else { KeyVault::to_change(home)? };
    let lock = lock(home, name)?;
    creation::finish(home, &lock, &vault).map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot clear away what is left of {name}")).because(&error)
    })?;
    let (runtime, interrupt) = supervise::runtime()?;
    let order = |config: RunConfig, (keys, key_info): (Option<KeySet>, Option<KeyInfo>)| Order {
        home,
        name: name.clone(),
        config,
        keys,
        key_info,
        given: crate::secrets::Values::new(),
        ready_timeout: args.ready_timeout,
        debug,
    };
    if registry::exists(home, name) {
        let config = adopt(home, &lock, config)?;
        let keys = match given {
            Some(key) => with(key),
            None => vault.of(name, &config)?,
        };
        let up = |lock: WorkloadLock| {
            drop(lock);
            vault.release();
        };
        return supervise::foreground(&runtime, interrupt, order(config, keys), lock, up);
    }
    match given {
        Some(key) => {
            let creation = Creation::begin(home, lock, &NoKeys, &config).map_err(|e| created(name, e))?;
            let up = |creation: Creation<'_, _>| {
                creation.commit();
                vault.release();
            };
            supervise::foreground(&runtime, interrupt, order(config, with(key)), creation, up)
        }
        None => {
            let creation = Creation::begin(home, lock, &vault, &config).map_err(|e| created(name, e))?;
            let keys = vault.of(name, &config)?;
            let up = |creation: Creation<'_, _>| {
                creation.commit();
                vault.release();
            };
            supervise::foreground(&runtime, interrupt, order(config, keys), creation, up)
        }
    }
}

fn config(args: &Target) -> Outcome<RunConfig> {
    let config = RunConfig {
        schema_version: SCHEMA_VERSION.to_owned(),
        name: args.name.as_str().to_owned(),
        remote_url: Some(args.target_uri.clone()),
        transport: endpoint::transport(args.transport, true)?,
        host: listen_on(args.host, args.allow_remote)?,
        port: args.port.unwrap_or(0),
        port_is_explicit: args.port.is_some(),
        allowed_origins: args.allowed_origins.clone(),
        allowed_hosts: args.allowed_hosts.clone(),
        header_forward: endpoint::headers(&args.remote_headers, &args.remote_header_secrets)?,
        allow_insecure_remote: args.allow_insecure_remote,
        shared_key_auth: args.shared_key_auth.then_some(SharedKeyAuth {
            enabled: true,
            key_rotation_days: 0,
            upstream_key: false,
        }),
        created_at: timestamp(SystemTime::now()),
        ..RunConfig::default()
    };
    endpoint::check(&config)?;
    Ok(config)
}

/// Takes over a workload that is there, if it is of this kind and not running.
fn adopt(home: &Home, lock: &WorkloadLock, mut config: RunConfig) -> Outcome<RunConfig> {
    let name = lock.name();
    let workload = existing(home, name)?;
    if workload.status.supervisor.is_some() {
        return Err(Failure::new(Exit::Exists, format!("workload {name} is running"))
            .hint(format!("thv stop {name} ends it")));
    }
    let old = workload.config;
    if old.remote_url.is_none() || old.is_locked() != config.is_locked() {
        return Err(Failure::new(Exit::Exists, format!("there is another workload named {name}")).hint(
            format!(
                "take another name, or thv rm {name}; a lock is put on or taken off by thv key enable|disable"
            ),
        ));
    }
    if !config.port_is_explicit {
        (config.port, config.port_is_explicit) = (old.port, old.port_is_explicit);
    }
    (config.created_at, config.container_labels) = (old.created_at, old.container_labels);
    registry::save_config(home, lock, &config).map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot change workload {name}")).because(&error)
    })?;
    Ok(config)
}

fn given_key(descriptor: u32) -> Outcome<SharedKey> {
    let text = input::passphrase("the key", Some(descriptor), "--key-fd")?;
    SharedKey::parse(text.expose()).map_err(|error| {
        Failure::new(Exit::Refused, "what was handed in is no key").because(&error).hint(
            "a key is 32 bytes from a generator in base64, as thv key show gives it; nobody chooses one",
        )
    })
}

fn with(key: SharedKey) -> (Option<KeySet>, Option<KeyInfo>) {
    let info = KeyInfo { id: key.id().to_string(), rotated_at: String::new() };
    (Some(KeySet::new(vec![LiveKey::new(key, None, None)])), Some(info))
}

/// Runs this program again without the variable that a key came in, and with the key on a descriptor: what stands in
/// the environment of a process can be read for as long as it lives, whatever the process does about it. Returns if
/// there is no such variable.
#[cfg(unix)]
pub fn take_key_from_environment(args: &Target) -> Outcome {
    use std::io::Write as _;
    use std::os::fd::{AsRawFd as _, OwnedFd};
    use std::os::unix::process::CommandExt as _;

    use zeroize::Zeroizing;

    if args.key_fd.is_some() || !args.shared_key_auth {
        return Ok(());
    }
    let Some(key) = std::env::var_os(KEY_VARIABLE).filter(|key| !key.is_empty()) else { return Ok(()) };
    let key = Zeroizing::new(key.into_encoded_bytes());
    let failed = |error: &std::io::Error| {
        Failure::new(Exit::Failed, format!("the key in {KEY_VARIABLE} cannot be taken over")).because(error)
    };
    if key.len() > 1024 {
        return Err(Failure::new(Exit::Refused, format!("what is in {KEY_VARIABLE} is no key")));
    }
    let (reader, writer): (OwnedFd, OwnedFd) = rustix::pipe::pipe().map_err(|error| failed(&error.into()))?;
    std::fs::File::from(writer).write_all(&key).map_err(|error| failed(&error))?;
    let mut words = std::env::args_os();
    let path = std::env::current_exe().ok().filter(|path| path.is_file());
    let mut again = std::process::Command::new(path.unwrap_or_else(|| "/proc/self/exe".into()));
    if let Some(name) = words.next() {
        again.arg0(name);
    }
    again.args(words).arg("--key-fd").arg(reader.as_raw_fd().to_string()).env_remove(KEY_VARIABLE);
    Err(failed(&again.exec()))
}

/// There is no way to run this program again in its own place.
#[cfg(not(unix))]
pub fn take_key_from_environment(args: &Target) -> Outcome {
    if args.shared_key_auth && std::env::var_os(KEY_VARIABLE).is_some() {
        return Err(Failure::new(
            Exit::Refused,
            format!("{KEY_VARIABLE} cannot be taken over on this system"),
        )
        .hint("leave the variable out: the key is made and kept by this program"));
    }
    Ok(())
}
