//! What a store that can be listed tells about keys that nobody misses: those of workloads that are gone.

use std::collections::BTreeSet;

use thv_keygen::Name;

use super::{Vault, VaultError};
use crate::{Entry, Store, StoreError};

impl<S: Store> Vault<S> {
    /// The workloads of which the store holds any entry, sorted, their names in lower case; `None` if it cannot be
    /// listed. Without a lock this is what was seen in passing: a workload may have come or gone by now.
    ///
    /// # Errors
    /// The errors of the store.
    pub fn workloads(&self) -> Result<Option<Vec<Name>>, StoreError> {
        let Some(entries) = self.store.entries()? else { return Ok(None) };
        let names: BTreeSet<&str> = entries.iter().filter_map(Entry::workload).collect();
        Ok(Some(names.into_iter().filter_map(|name| Name::parse(name).ok()).collect()))
    }

    /// Deletes every entry of a workload that is gone: as [`remove`](Self::remove), and where the store can be listed
    /// also those that the list of clients does not name, or names no more because it is damaged. The caller holds the
    /// workload's lock.
    ///
    /// # Errors
    /// As for [`remove`](Self::remove), but for a damaged list in a store that can be listed.
    pub fn purge(&self, name: &Name) -> Result<(), VaultError> {
        let removed = self.remove(name);
        if !matches!(removed, Ok(()) | Err(VaultError::Damaged { .. })) {
            return removed;
        }
        let Some(entries) = self.store.entries()? else { return removed };
        for entry in entries.iter().filter(|entry| entry.workload() == Some(name.lower())) {
            self.store.delete(entry)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::vault::Nobody;
    use crate::{MemoryStore, Secret, StoreKind};

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn filled() -> Vault<MemoryStore> {
        let vault = Vault::new(MemoryStore::new());
        for workload in ["B", "a", "a.b"] {
            vault.create(&name(workload), SystemTime::now()).unwrap();
        }
        vault.issue(&name("a"), &name("Cursor"), SystemTime::now(), &mut Nobody).unwrap();
        for entry in [Entry::secret("workload:c:shared-key").unwrap(), Entry::master_key()] {
            vault.store().set(&entry, &Secret::from_text("x")).unwrap();
        }
        vault
    }

    #[test]
    fn each_workload_is_told_once_and_secrets_are_none() {
        let vault = filled();
        assert_eq!(vault.workloads().unwrap().unwrap(), ["a", "a.b", "b"].map(name));
        vault.purge(&name("A")).unwrap();
        assert_eq!(vault.workloads().unwrap().unwrap(), ["a.b", "b"].map(name));
        assert_eq!(vault.store().names().len(), 6, "nothing else was deleted");
    }

    #[test]
    fn what_no_list_names_goes_too() {
        let stray = Entry::client(&name("a"), &name("stray"));
        let list = Entry::client_list(&name("a"), 0);
        for damaged in [false, true] {
            let vault = filled();
            vault.store().set(&stray, &Secret::from_text("x")).unwrap();
            if damaged {
                vault.store().set(&list, &Secret::from_text("hunter2")).unwrap();
                assert!(matches!(vault.remove(&name("a")), Err(VaultError::Damaged { .. })));
            }
            vault.purge(&name("a")).unwrap();
            assert_eq!(vault.workloads().unwrap().unwrap(), ["a.b", "b"].map(name), "damaged: {damaged}");
        }
    }

    #[test]
    fn a_newer_list_is_left_alone() {
        let vault = filled();
        let list = Entry::client_list(&name("a"), 0);
        vault.store().set(&list, &Secret::from_text("{\"v\":9}")).unwrap();
        assert!(matches!(vault.purge(&name("a")), Err(VaultError::NewerVersion { .. })));
        assert!(vault.store().get(&list).unwrap().is_some());
    }

    /// A store that can be read and written, and not listed.
    struct Blind(MemoryStore);

    impl Store for Blind {
        fn kind(&self) -> StoreKind {
            StoreKind::Memory
        }

        fn get(&self, entry: &Entry) -> Result<Option<Secret>, StoreError> {
            self.0.get(entry)
        }

        fn set(&self, entry: &Entry, value: &Secret) -> Result<(), StoreError> {
            self.0.set(entry, value)
        }

        fn delete(&self, entry: &Entry) -> Result<bool, StoreError> {
            self.0.delete(entry)
        }
    }

    #[test]
    fn a_store_that_cannot_be_listed_says_so_and_still_forgets_what_it_can() {
        let vault = Vault::new(Blind(MemoryStore::new()));
        vault.create(&name("a"), SystemTime::now()).unwrap();
        assert_eq!(vault.workloads().unwrap(), None);
        vault.purge(&name("a")).unwrap();
        assert!(vault.store().0.names().is_empty());
    }
}
