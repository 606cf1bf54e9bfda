//! What mends a store that fails: the command, or the thing to do.

use thv_keychain::file::Fault;
use thv_keychain::{KeychainFault, StoreError};

use super::quoted;
use crate::failure::Failure;

/// What mends a store.
pub(super) fn of_store(error: &StoreError) -> String {
    match error {
        StoreError::Keychain(fault) => of_keychain(fault),
        StoreError::PassphraseNeeded => "thv secret unlock".to_owned(),
        StoreError::Permissions { path, .. } => format!("chmod 600 {}", quoted(path)),
        StoreError::Owner { path, user, .. } => {
            format!("if it is yours, as root: chown {user} {}", quoted(path))
        }
        StoreError::NotRegular { path } => format!("put the file itself in its place: {}", path.display()),
        StoreError::Io { path, .. } => format!("see who may read it: ls -l {}", quoted(path)),
        StoreError::TooLarge { path, .. } => format!("bring {} back from a backup", path.display()),
        StoreError::MasterKeyMissing { store, master } => format!(
            "bring {master} back from a backup; without it nothing of {} can be read: put that file aside, and make \
             each key anew",
            store.display()
        ),
        StoreError::MasterKeyMalformed { place } => format!("bring {place} back from a backup"),
        StoreError::Contents { path, fault } => of_file(&path.display().to_string(), fault),
        _ => "close other programs, then: thv doctor".to_owned(),
    }
}

/// What mends a keychain.
pub(super) fn of_keychain(fault: &KeychainFault) -> String {
    fault.advice().unwrap_or_else(|| match fault {
        KeychainFault::Damaged { name } => {
            format!("delete the item {name} in the keychain's own program, and make its key or secret anew")
        }
        KeychainFault::Denied { .. } => {
            "let thv use its items, in the keychain's own program, then: thv doctor".to_owned()
        }
        KeychainFault::TooLong { .. } => "keep large secrets elsewhere: thv secret provider file".to_owned(),
        _ => "log out and in again, which starts the keychain anew, then: thv doctor".to_owned(),
    })
}

fn of_file(path: &str, fault: &Fault) -> String {
    match fault {
        Fault::NewerVersion(_) => "use the newer thv that wrote it".to_owned(),
        Fault::WrongPassphrase => "thv secret unlock".to_owned(),
        Fault::WrongMasterKey { .. } => "bring the master key that belongs to it back from a backup".to_owned(),
        Fault::NeedsPassphrase => {
            "write provider = \"passphrase\" into config.toml, then: thv secret unlock".to_owned()
        }
        Fault::NoPassphrase => {
            "write provider = \"file\" into config.toml, or \"file-keychain\" if the keychain has its master key"
                .to_owned()
        }
        _ => format!("bring {path} back from a backup"),
    }
}

/// What a failure itself advises.
pub(super) fn of_failure(failure: &Failure) -> String {
    let advice = failure.hints().join("; or: ");
    if advice.is_empty() { "mend what it names, then: thv doctor".to_owned() } else { advice }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn every_way_to_fail_has_a_way_out() {
        let path = || PathBuf::from("/x y");
        let contents = |fault| StoreError::Contents { path: path(), fault };
        for (error, word) in [
            (StoreError::PassphraseNeeded, "thv secret unlock"),
            (StoreError::Permissions { path: path(), mode: 0o644 }, "chmod 600 '/x y'"),
            (StoreError::Owner { path: path(), owner: 1, user: 2 }, "chown 2 '/x y'"),
            (StoreError::MasterKeyMissing { store: path(), master: "m".into() }, "bring m back"),
            (contents(Fault::Truncated), "/x y back from a backup"),
            (contents(Fault::NeedsPassphrase), "passphrase"),
            (contents(Fault::NewerVersion(2)), "newer thv"),
            (KeychainFault::Damaged { name: "n".into() }.into(), "delete the item n"),
            (KeychainFault::Failed { reason: "odd".into() }.into(), "log out"),
            (KeychainFault::Locked.into(), "unlock"),
        ] {
            assert!(of_store(&error).contains(word), "{error}: {}", of_store(&error));
        }
    }
}
