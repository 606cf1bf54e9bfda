//! The encrypted file: one store in one file, for machines where no keychain is to be had.
//!
//! Readers take no lock, since the file is only ever replaced as a whole. Writers take turns with a lock file
//! beside it (`<file>.lock`, never deleted): lock, read, change, write a new file, flush, rename, flush the folder. The
//! master key is asked for before: a keychain that hangs must not keep other writers from their turn.
//! The layout of the file is described in `format.rs`; the key comes from a [`MasterKey`]: a file of its own
//! ([`KeyFile`]), an entry of another store, which is the operating system's keychain ([`KeptKey`]), or a passphrase
//! ([`Passphrase`]).

mod format;
mod kept;
mod master;
mod passphrase;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::{Entry, Secret, Store, StoreError, StoreKind, private};

pub use format::Fault;
pub use kept::KeptKey;
pub use master::{KeyFile, MasterKey, StoreKey, Wanted};
pub use passphrase::{Cost, Derivation, Passphrase};

/// The largest file that is read or written, in bytes: room for tens of thousands of keys.
const MAX_FILE: usize = 4 << 20;

/// How long a writer waits for another one that does nothing.
const PATIENCE: Duration = Duration::from_secs(3);

/// Names and values of a whole store.
type Entries = BTreeMap<String, Secret>;

/// A store in one file, encrypted with AES-256-GCM.
///
/// Its folder must exist. A missing file is an empty store; the first write makes it, and the master key too if
/// there is none yet. On Unix, a file that others may read or write, or that belongs to another user, is refused.
pub struct FileStore<M> {
    path: PathBuf,
    lock: PathBuf,
    master: M,
}

impl<M: MasterKey> FileStore<M> {
    /// Describes a store; nothing is touched yet.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, master: M) -> Self {
        let path = path.into();
        let mut lock = path.clone().into_os_string();
        lock.push(".lock");
        Self { path, lock: lock.into(), master }
    }

    /// The encrypted file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The master key's keeper.
    #[must_use]
    pub fn master(&self) -> &M {
        &self.master
    }

    /// Opens the file and gives nothing of it; says whether there is one. Afterwards a master key that can be cached
    /// is.
    ///
    /// # Errors
    /// As for [`get`](Store::get).
    pub fn unlock(&self) -> Result<bool, StoreError> {
        Ok(self.read()?.is_some())
    }

    /// Makes the file, with nothing in it, if there is none. Where the key comes from a passphrase, it is settled by
    /// this.
    ///
    /// # Errors
    /// As for [`set`](Store::set).
    pub fn make(&self) -> Result<(), StoreError> {
        self.update(|_| true).map(drop)
    }

    fn read(&self) -> Result<Option<(StoreKey, Entries)>, StoreError> {
        self.read_with(None)
    }

    /// Reads, with a key that is at hand if it is the right one.
    fn read_with(&self, at_hand: Option<StoreKey>) -> Result<Option<(StoreKey, Entries)>, StoreError> {
        let Some(sealed) = self.sealed()? else { return Ok(None) };
        let wanted = sealed.wanted();
        let fits = |key: &StoreKey| key.id() == wanted.id && key.derivation() == wanted.derivation;
        let key = at_hand.filter(fits).map_or_else(|| self.key(&wanted), Ok)?;
        let entries = sealed.open(&key).map_err(|fault| self.fault(fault))?;
        self.master.proved(&key);
        Ok(Some((key, entries)))
    }

    fn sealed(&self) -> Result<Option<format::Sealed>, StoreError> {
        let Some(bytes) = private::read(&self.path, MAX_FILE)? else { return Ok(None) };
        format::Sealed::parse(bytes).map(Some).map_err(|fault| self.fault(fault))
    }

    fn key(&self, wanted: &Wanted) -> Result<StoreKey, StoreError> {
        match (wanted.derivation, self.master.derives()) {
            (Some(_), false) => return Err(self.fault(Fault::NeedsPassphrase)),
            (None, true) => return Err(self.fault(Fault::NoPassphrase)),
            _ => {}
        }
        self.master.load(Some(wanted))?.ok_or_else(|| StoreError::MasterKeyMissing {
            store: self.path.clone(),
            master: self.master.place(),
        })
    }

    /// Reads, lets `change` work, and writes if it says that it changed something.
    fn update(&self, change: impl FnOnce(&mut Entries) -> bool) -> Result<bool, StoreError> {
        let at_hand = match self.sealed()? {
            Some(sealed) => Some(self.key(&sealed.wanted())?),
            None => self.master.load(None)?,
        };
        let _locked = private::lock(&self.lock, &self.path, PATIENCE)?;
        let (key, mut entries) =
            self.read_with(at_hand)?.map_or((None, Entries::new()), |(key, all)| (Some(key), all));
        if !change(&mut entries) {
            return Ok(false);
        }
        let key = match key {
            Some(key) => key,
            // A key without a store is what a crash before the very first write leaves: it is taken up again.
            None => self.master.load(None)?.map_or_else(|| self.master.create(), Ok)?,
        };
        let sealed = format::seal(&key, &entries)?;
        if sealed.len() > MAX_FILE {
            return Err(self.too_large());
        }
        private::replace(&self.path, &sealed)?;
        self.master.proved(&key);
        Ok(true)
    }

    fn too_large(&self) -> StoreError {
        StoreError::TooLarge { path: self.path.clone(), limit: MAX_FILE }
    }

    fn fault(&self, fault: Fault) -> StoreError {
        StoreError::Contents { path: self.path.clone(), fault }
    }
}

impl<M: MasterKey> Store for FileStore<M> {
    fn kind(&self) -> StoreKind {
        StoreKind::EncryptedFile
    }

    fn get(&self, entry: &Entry) -> Result<Option<Secret>, StoreError> {
        Ok(self.read()?.and_then(|(_, mut entries)| entries.remove(entry.as_str())))
    }

    fn get_many(&self, wanted: &[Entry]) -> Result<Vec<Option<Secret>>, StoreError> {
        let entries = self.read()?.map(|(_, entries)| entries).unwrap_or_default();
        Ok(wanted.iter().map(|entry| entries.get(entry.as_str()).cloned()).collect())
    }

    fn set(&self, entry: &Entry, value: &Secret) -> Result<(), StoreError> {
        if value.expose().len() > MAX_FILE {
            return Err(self.too_large());
        }
        self.update(|entries| {
            entries.insert(entry.as_str().to_owned(), value.clone());
            true
        })?;
        Ok(())
    }

    fn delete(&self, entry: &Entry) -> Result<bool, StoreError> {
        // Where there is no file there is nothing to delete, and nobody to be asked for its key.
        if self.sealed()?.is_none() {
            return Ok(false);
        }
        self.update(|entries| entries.remove(entry.as_str()).is_some())
    }

    /// `None` also if there is a name that only another version of this program can have written: a list without it
    /// would not be whole.
    fn entries(&self) -> Result<Option<Vec<Entry>>, StoreError> {
        let entries = self.read()?.map(|(_, entries)| entries).unwrap_or_default();
        Ok(entries.keys().map(|name| Entry::parse(name)).collect())
    }
}

/// Bytes that may be plaintext on one side of the cipher and are wiped on both.
type Buffer = Zeroizing<Vec<u8>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_would_not_be_whole_is_not_given() {
        let dir = tempfile::tempdir().unwrap();
        let store =
            FileStore::new(dir.path().join("secrets.enc"), KeyFile::new(dir.path().join("master.key")));
        let value = Secret::from_text("x");
        let entry = Entry::secret("a").unwrap();
        store.set(&entry, &value).unwrap();
        assert_eq!(store.entries().unwrap(), Some(vec![entry.clone()]));
        // As a later version might.
        store.update(|entries| entries.insert("ticket:a".to_owned(), value).is_none()).unwrap();
        assert_eq!(store.entries().unwrap(), None);
        assert!(store.get(&entry).unwrap().is_some());
    }
}
