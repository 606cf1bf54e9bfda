//! The store that was chosen, and the vault of keys over it.

use std::time::SystemTime;

use thv_keychain::vault::Nobody;
use thv_keychain::{FileStore, KeyFile, Vault, VaultError};
use thv_keygen::{KeySet, Name};
use thv_workload::config::RunConfig;
use thv_workload::home::Home;
use thv_workload::status::{KeyInfo, timestamp};
use thv_workload::supervisor::Keys;

use crate::failure::{Exit, Failure, Outcome};

/// The vault of one home.
pub struct KeyVault(Vault<FileStore<KeyFile>>);

impl KeyVault {
    /// Opens the store; nothing is read or made yet.
    pub fn open(home: &Home) -> Self {
        Self(Vault::new(FileStore::new(home.secrets(), KeyFile::new(home.master_key()))))
    }

    /// Where keys rest, for people.
    pub fn place(&self) -> String {
        "the encrypted file".to_owned()
    }

    /// The vault itself.
    pub fn vault(&self) -> &Vault<FileStore<KeyFile>> {
        &self.0
    }

    /// The live set of a workload with a lock, to be enforced, and what may be shown of its current key; nothing for
    /// one without. The caller holds the workload's lock.
    pub fn of(&self, name: &Name, config: &RunConfig) -> Outcome<(Option<KeySet>, Option<KeyInfo>)> {
        if !config.is_locked() {
            return Ok((None, None));
        }
        let cannot = |error: &VaultError| failed("cannot read the keys", name, error);
        self.0.recover(name, SystemTime::now(), &mut Nobody).map_err(|error| cannot(&error))?;
        let set = self.0.load(name, SystemTime::now()).map_err(|error| cannot(&error))?;
        let described = self.0.describe(std::slice::from_ref(name)).map_err(VaultError::from);
        let facts =
            described.and_then(|mut all| all.pop().unwrap_or(Ok(None))).map_err(|error| cannot(&error))?;
        let info = facts.map(|facts| KeyInfo {
            id: facts.key_id.to_string(),
            rotated_at: facts.rotated_at.map(timestamp).unwrap_or_default(),
        });
        Ok((Some(set), info))
    }
}

impl Keys for KeyVault {
    type Error = VaultError;

    fn create(&self, name: &Name) -> Result<(), VaultError> {
        match self.0.create(name, SystemTime::now()) {
            // Left over from a workload that is gone: a new one gets a new key.
            Err(VaultError::KeyExists { .. }) => {
                self.0.remove(name)?;
                self.0.create(name, SystemTime::now()).map(drop)
            }
            made => made.map(drop),
        }
    }

    fn remove(&self, name: &Name) -> Result<(), VaultError> {
        self.0.remove(name)
    }
}

/// A failure of the vault, for a person.
pub fn failed(what: &str, name: &Name, error: &VaultError) -> Failure {
    use thv_keychain::ErrorKind;
    let exit = match error.kind() {
        ErrorKind::NotFound => Exit::NotFound,
        ErrorKind::AlreadyExists => Exit::Exists,
        ErrorKind::Keychain => Exit::Keychain,
        ErrorKind::Refused => Exit::Refused,
        _ => Exit::Failed,
    };
    let failure = Failure::new(exit, format!("{what} of workload {name}")).because(error);
    match exit {
        Exit::NotFound => {
            failure.hint(format!("make a new one: thv key disable {name}, then thv key enable {name}"))
        }
        Exit::Keychain => failure.hint("thv doctor says what is wrong with the store"),
        _ => failure,
    }
}
