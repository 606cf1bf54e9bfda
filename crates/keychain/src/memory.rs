//! A store that lives as long as the process: for tests, and for callers that bring their own key.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{Entry, Secret, Store, StoreError, StoreKind};

/// Secrets in memory, zeroized when the store is dropped.
#[derive(Default)]
pub struct MemoryStore {
    entries: Mutex<BTreeMap<Entry, Secret>>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The names of all entries, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<Entry> {
        self.lock().keys().cloned().collect()
    }

    // The map is never left half-changed, so a panic elsewhere in a holder's thread does not spoil it.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Entry, Secret>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn kind(&self) -> StoreKind {
        StoreKind::Memory
    }

    fn get(&self, entry: &Entry) -> Result<Option<Secret>, StoreError> {
        Ok(self.lock().get(entry).cloned())
    }

    fn get_many(&self, entries: &[Entry]) -> Result<Vec<Option<Secret>>, StoreError> {
        let map = self.lock();
        Ok(entries.iter().map(|entry| map.get(entry).cloned()).collect())
    }

    fn set(&self, entry: &Entry, value: &Secret) -> Result<(), StoreError> {
        self.lock().insert(entry.clone(), value.clone());
        Ok(())
    }

    fn delete(&self, entry: &Entry) -> Result<bool, StoreError> {
        Ok(self.lock().remove(entry).is_some())
    }

    fn entries(&self) -> Result<Option<Vec<Entry>>, StoreError> {
        Ok(Some(self.names()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_replaces_and_deletes() {
        let store = MemoryStore::new();
        let (a, b) = (Entry::secret("a").unwrap(), Entry::secret("b").unwrap());
        store.set(&a, &Secret::from_text("1")).unwrap();
        store.set(&a, &Secret::from_text("2")).unwrap();
        let both = store.get_many(&[b.clone(), a.clone()]).unwrap();
        assert!(both[0].is_none());
        assert_eq!(both[1].as_ref().unwrap().expose(), b"2");
        assert!(store.delete(&a).unwrap());
        assert!(!store.delete(&a).unwrap());
        assert!(store.names().is_empty());
    }
}
