//! `thv secret unlock`: opens the store for every process of the user, so that those without a terminal can read it.

use std::time::Duration;

use thv_workload::home::Home;

use crate::args::SecretUnlock;
use crate::environment::Environment;
use crate::failure::{Exit, Failure, Outcome};
use crate::input;
use crate::passphrase;
use crate::say;
use crate::settings::{Choice, Provider};
use crate::store;

/// How long a person may take to answer the desktop.
const PATIENCE: Duration = Duration::from_secs(60);

/// Unlocks the store.
pub fn unlock(environment: &Environment, args: &SecretUnlock) -> Outcome {
    let home = environment.checked_home()?;
    let choice = store::known(home)?;
    match choice.as_ref().map(|choice| choice.provider) {
        Some(Provider::File) => {
            say::talk("there is nothing to unlock: the master key lies in a file");
            Ok(())
        }
        Some(Provider::Passphrase) => match &choice {
            Some(choice) => by_passphrase(home, choice, args),
            None => Ok(()),
        },
        // Before a store was chosen, a keychain that is locked is what stands in the way of choosing it.
        None | Some(Provider::Keychain | Provider::FileKeychain) => {
            if args.passphrase_fd.is_some() {
                return Err(Failure::new(Exit::Usage, "the keychain takes no passphrase from this program")
                    .hint("leave --passphrase-fd out; the desktop asks for it"));
            }
            store::keychain(home)
                .unlock(PATIENCE)
                .map_err(|error| store::failed("the keychain was not unlocked", &error))?;
            say::talk("the keychain is unlocked");
            Ok(())
        }
    }
}

fn by_passphrase(home: &Home, choice: &Choice, args: &SecretUnlock) -> Outcome {
    let lifetime = args.lifetime.unwrap_or(passphrase::LIFETIME);
    if lifetime < Duration::from_secs(1) {
        return Err(Failure::new(Exit::Usage, "--for takes one second at least"));
    }
    let text = input::passphrase("the passphrase of the store", args.passphrase_fd, "--passphrase-fd")?;
    let told = passphrase::told(home, home.secrets(choice.file.as_deref()), text, lifetime)?;
    // Only a key that has opened the file is kept: a mistyped passphrase is not remembered.
    told.unlock().map_err(|error| store::failed("the store was not unlocked", &error))?;
    // Others can only have what the kernel has kept.
    let theirs = passphrase::cached(home, home.secrets(choice.file.as_deref()))?;
    theirs.get(&thv_keychain::Entry::master_key()).map_err(|error| {
        store::failed("the passphrase is right, but the kernel's keyring does not keep the key", &error)
            .hint("containers often switch it off; thv secret provider file does without it")
    })?;
    say::talk(&format!("the store is unlocked for {}", humantime::format_duration(lifetime)));
    Ok(())
}
