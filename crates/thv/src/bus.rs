//! The way to the session bus, for a process that was started without it.
//!
//! AI clients start a bridge with little more than `HOME` and `PATH`. The C library below the keychain finds the bus in
//! the environment of its process and nowhere else, so such a process runs itself once more, with the address at
//! which login managers put it. Writing to one's own environment would need `unsafe`, and would not reach the C
//! library's copy for sure.

use thv_workload::home::Home;

use crate::args::Command;
#[cfg(target_os = "linux")]
use crate::args::{Secret, SecretProvider};

/// Runs this program again, with the address of the session bus in its environment, if that is what it takes to reach
/// the keychain for this command. Returns if there is nothing to gain.
#[cfg(target_os = "linux")]
pub fn find(home: &Home, command: &Command) {
    use std::os::unix::process::CommandExt as _;

    const ADDRESS: &str = "DBUS_SESSION_BUS_ADDRESS";
    if std::env::var_os(ADDRESS).is_some_and(|address| !address.is_empty()) {
        return;
    }
    if !asks_by_itself(command) {
        // A home whose settings cannot be read is told of later, by the command itself.
        let Ok(choice) = crate::store::known(home) else { return };
        if choice.is_some_and(|choice| !choice.provider.needs_keychain()) {
            return;
        }
    }
    let Some(address) = thv_keychain::os::bus_address(rustix::process::geteuid().as_raw()) else { return };
    let mut args = std::env::args_os();
    // By its path where it still has one, since that is what process lists show.
    let path = std::env::current_exe().ok().filter(|path| path.is_file());
    let mut again = std::process::Command::new(path.unwrap_or_else(|| "/proc/self/exe".into()));
    if let Some(name) = args.next() {
        again.arg0(name);
    }
    // Returns only if it failed; then the keychain cannot be reached, and the command says so.
    let _ = again.args(args).env(ADDRESS, address).exec();
}

/// Whether a command has a question for the keychain, wherever the keys of the home rest.
#[cfg(target_os = "linux")]
fn asks_by_itself(command: &Command) -> bool {
    match command {
        // The store of another program may be opened by what is there.
        Command::Doctor(_) | Command::Secret(Secret::Import(_)) => true,
        Command::Secret(Secret::Provider(SecretProvider { provider: Some(provider), .. })) => {
            provider.needs_keychain()
        }
        _ => false,
    }
}

/// Elsewhere a keychain needs no bus.
#[cfg(not(target_os = "linux"))]
pub fn find(_home: &Home, _command: &Command) {}
