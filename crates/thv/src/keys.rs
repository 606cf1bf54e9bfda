//! The vault of keys over the store that was chosen.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use thv_keychain::vault::Nobody;
use thv_keychain::{ErrorKind, Vault, VaultError};
use thv_keygen::{KeySet, Name};
use thv_workload::config::RunConfig;
use thv_workload::home::Home;
use thv_workload::lock::StoreLock;
use thv_workload::status::{KeyInfo, timestamp};
use thv_workload::supervisor::Keys;

use crate::failure::{Exit, Failure, Outcome};
use crate::settings::{Choice, Provider};
use crate::store::{self, AnyStore};

/// How often a store may be exchanged under a reader until what it has read is taken as it is.
const EXCHANGES: usize = 5;

/// The vault of one home.
pub struct KeyVault {
    vault: Vault<AnyStore>,
    choice: Option<Choice>,
    /// Held by those who write: meanwhile nobody exchanges the store.
    lock: Mutex<Option<StoreLock>>,
}

impl KeyVault {
    /// Opens the store to read from it. Before one was chosen there is nothing in it.
    pub fn open(home: &Home) -> Outcome<Self> {
        Self::with(home, store::known(home)?, None)
    }

    /// Opens the store and reads from it, again if it was exchanged meanwhile: what is missing in a store that has just
    /// been emptied is in another one.
    pub fn read<T>(home: &Home, read: impl Fn(&Self) -> T) -> Outcome<T> {
        let mut exchanges = 0..EXCHANGES;
        loop {
            let vault = Self::open(home)?;
            let answer = read(&vault);
            let exchanged = store::known(home).is_ok_and(|choice| choice.as_ref() != vault.choice());
            if !exchanged || exchanges.next().is_none() {
                return Ok(answer);
            }
        }
    }

    /// Opens the store to change what is in it. Before one was chosen there is nothing to change.
    pub fn to_change(home: &Home) -> Outcome<Self> {
        let lock = store::shared(home)?;
        Self::with(home, store::known(home)?, Some(lock))
    }

    /// Opens the store to put keys into it, and chooses one if none was chosen yet.
    pub fn to_fill(home: &Home) -> Outcome<Self> {
        let (choice, lock) = store::chosen(home)?;
        Self::with(home, Some(choice), Some(lock))
    }

    fn with(home: &Home, choice: Option<Choice>, lock: Option<StoreLock>) -> Outcome<Self> {
        let nothing = store::choice(Provider::File, "");
        let store = store::open(home, choice.as_ref().unwrap_or(&nothing))?;
        Ok(Self { vault: Vault::new(store), choice, lock: Mutex::new(lock) })
    }

    /// Lets others exchange the store from now on. For a process that goes on and writes nothing more.
    pub fn release(&self) {
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What was chosen; `None` before the first key.
    pub fn choice(&self) -> Option<&Choice> {
        self.choice.as_ref()
    }

    /// Where keys rest, for people.
    pub fn place(&self) -> String {
        self.choice.as_ref().map_or(Provider::File, |choice| choice.provider).place().to_owned()
    }

    /// The vault itself.
    pub fn vault(&self) -> &Vault<AnyStore> {
        &self.vault
    }

    /// The live set of a workload with a lock, to be enforced, and what may be shown of its current key; nothing for
    /// one without. The caller holds the workload's lock.
    pub fn of(&self, name: &Name, config: &RunConfig) -> Outcome<(Option<KeySet>, Option<KeyInfo>)> {
        if !config.is_locked() {
            return Ok((None, None));
        }
        let cannot = |error: &VaultError| failed("cannot read the keys", name, error);
        self.vault.recover(name, SystemTime::now(), &mut Nobody).map_err(|error| cannot(&error))?;
        let set = self.vault.load(name, SystemTime::now()).map_err(|error| cannot(&error))?;
        let described = self.vault.describe(std::slice::from_ref(name)).map_err(VaultError::from);
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
        match self.vault.create(name, SystemTime::now()) {
            // Left over from a workload that is gone: a new one gets a new key.
            Err(VaultError::KeyExists { .. }) => {
                self.vault.remove(name)?;
                self.vault.create(name, SystemTime::now()).map(drop)
            }
            made => made.map(drop),
        }
    }

    fn remove(&self, name: &Name) -> Result<(), VaultError> {
        self.vault.remove(name)
    }
}

/// For a workload whose key is handed in and kept nowhere.
pub struct NoKeys;

impl Keys for NoKeys {
    type Error = VaultError;

    fn create(&self, _name: &Name) -> Result<(), VaultError> {
        Ok(())
    }

    fn remove(&self, _name: &Name) -> Result<(), VaultError> {
        Ok(())
    }
}

/// A failure of the vault, for a person.
pub fn failed(what: &str, name: &Name, error: &VaultError) -> Failure {
    let message = format!("{what} of workload {name}");
    if let VaultError::Store(error) = error {
        return store::failed(message, error);
    }
    let exit = match error.kind() {
        ErrorKind::NotFound => Exit::NotFound,
        ErrorKind::AlreadyExists => Exit::Exists,
        ErrorKind::Keychain => Exit::Keychain,
        ErrorKind::Refused => Exit::Refused,
        _ => Exit::Failed,
    };
    let failure = Failure::new(exit, message).because(error);
    match exit {
        Exit::NotFound => {
            failure.hint(format!("make a new one: thv key disable {name}, then thv key enable {name}"))
        }
        _ => failure,
    }
}
