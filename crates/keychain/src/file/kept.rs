//! A master key kept as an entry of another store: of the operating system's keychain, in practice.

use super::{MasterKey, StoreKey, Wanted};
use crate::{Entry, Secret, Store, StoreError};

/// A master key under the entry `master-key` of a store.
///
/// The keychain then holds one entry, however many keys there are, and asks for one permission. If it is locked or
/// away, so is the file: nothing else is tried.
pub struct KeptKey<S> {
    store: S,
}

impl<S: Store> KeptKey<S> {
    /// Names the store; nothing is asked yet.
    #[must_use]
    pub fn new(store: S) -> Self {
        Self { store }
    }

    /// The store that keeps the key.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.store
    }
}

impl<S: Store> MasterKey for KeptKey<S> {
    fn load(&self, _wanted: Option<&Wanted>) -> Result<Option<StoreKey>, StoreError> {
        let text = self.store.get(&Entry::master_key())?;
        text.map(|text| StoreKey::parse(text.expose(), || self.place())).transpose()
    }

    fn create(&self) -> Result<StoreKey, StoreError> {
        if let Some(key) = self.load(None)? {
            return Ok(key);
        }
        let key = StoreKey::generate()?;
        self.store.set(&Entry::master_key(), &Secret::from_text(&key.expose_text()))?;
        // What counts is what will be read next time, should a keychain have kept something else.
        self.load(None)?.ok_or_else(|| StoreError::MasterKeyMalformed { place: self.place() })
    }

    fn place(&self) -> String {
        format!("the entry {} of the {}", Entry::master_key(), self.store.kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileStore, MemoryStore};

    #[test]
    fn the_first_write_makes_one_key_and_each_later_one_takes_it() {
        let (dir, keychain) = (tempfile::tempdir().unwrap(), MemoryStore::new());
        let open = || FileStore::new(dir.path().join("secrets.enc"), KeptKey::new(&keychain));
        let entry = Entry::secret("a").unwrap();
        assert!(open().get(&entry).unwrap().is_none());
        assert!(keychain.names().is_empty(), "reading makes no key");

        open().set(&entry, &Secret::from_text("1")).unwrap();
        let first = KeptKey::new(&keychain).load(None).unwrap().unwrap();
        open().set(&entry, &Secret::from_text("2")).unwrap();
        assert_eq!(open().get(&entry).unwrap().unwrap().expose(), b"2");
        assert_eq!(KeptKey::new(&keychain).create().unwrap().expose_bytes(), first.expose_bytes());
        assert_eq!(keychain.names(), [Entry::master_key()]);
    }

    #[test]
    fn a_file_whose_key_is_gone_is_never_given_a_new_one() {
        let (dir, keychain) = (tempfile::tempdir().unwrap(), MemoryStore::new());
        let store = FileStore::new(dir.path().join("secrets.enc"), KeptKey::new(&keychain));
        let entry = Entry::secret("a").unwrap();
        store.set(&entry, &Secret::from_text("1")).unwrap();
        keychain.delete(&Entry::master_key()).unwrap();
        let error = store.set(&entry, &Secret::from_text("2")).unwrap_err();
        assert!(error.to_string().ends_with("is missing: the entry master-key of the memory"), "{error}");
        assert!(keychain.names().is_empty());
    }

    #[test]
    fn something_else_in_its_place_is_named_without_its_text() {
        let keychain = MemoryStore::new();
        keychain.set(&Entry::master_key(), &Secret::from_text("hunter2")).unwrap();
        let error = KeptKey::new(&keychain).create().err().unwrap();
        assert_eq!(error.to_string(), "the entry master-key of the memory does not hold a master key");
    }
}
