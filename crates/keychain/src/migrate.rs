//! Moving everything from one store to another, all or nothing.
//!
//! Three steps, so that at each moment one store holds everything: [`copy`] writes to the target and reads it back;
//! the caller records that the target is the store from now on; [`Copied::delete_source`] empties the source. A copy
//! that fails takes back what it wrote, and so does the caller through [`Copied::undo`] if the choice cannot be
//! recorded.

use thv_keygen::Name;

use crate::secrets::SecretsError;
use crate::{Entry, KeychainFault, Secret, Secrets, Store, StoreError, Vault, VaultError};

/// Why nothing was moved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// The source could not be read.
    #[error("cannot read the keys of workload {name}")]
    Workload {
        /// The workload.
        name: Name,
        /// What went wrong.
        #[source]
        source: VaultError,
    },
    /// The source could not be read.
    #[error("cannot read the secrets")]
    Secrets(#[from] SecretsError),
    /// One of the stores failed.
    #[error("cannot {action} {entry}")]
    Store {
        /// What was tried, and where.
        action: &'static str,
        /// On which entry.
        entry: Entry,
        /// What went wrong.
        #[source]
        source: StoreError,
    },
    /// The target holds another value under that name already.
    #[error("the target holds another {entry}")]
    Occupied {
        /// The entry.
        entry: Entry,
    },
    /// The target gave back something else than it was given.
    #[error("the target did not keep {entry}")]
    NotKept {
        /// The entry.
        entry: Entry,
    },
}

/// A finished copy: both stores hold every entry.
#[must_use = "the source still holds everything"]
pub struct Copied {
    entries: Vec<Entry>,
    written: Vec<Entry>,
}

/// Copies the keys of workloads, and all of the users' secrets. The caller holds the locks of all of them.
///
/// An entry that the target holds already with the same value, which an earlier attempt may have left, is taken as
/// it is; with another value it is an error before anything is written, unless `leftovers` says that the target holds
/// nothing but copies that such an attempt has left.
///
/// # Errors
/// Nothing was moved. What was written to the target is deleted again, as far as the target lets it.
pub fn copy(
    from: &impl Store,
    to: &impl Store,
    workloads: &[Name],
    leftovers: bool,
) -> Result<Copied, MigrateError> {
    let entries = entries(from, workloads)?;
    let values = read(from, "read", entries)?;
    let entries: Vec<Entry> = values.iter().map(|(entry, _)| entry.clone()).collect();
    let present = read(to, "read from the target", entries.clone())?;

    let mut missing = Vec::new();
    for (entry, value) in &values {
        match present.iter().find(|(present, _)| present == entry) {
            None => missing.push((entry, value)),
            Some((_, other)) if other.expose() == value.expose() => {}
            Some(_) if leftovers => missing.push((entry, value)),
            Some(_) => return Err(MigrateError::Occupied { entry: entry.clone() }),
        }
    }

    let mut copied = Copied { entries: entries.clone(), written: Vec::new() };
    let result = (|| {
        for (entry, value) in missing {
            // Noted first: a store that reports an error may have written.
            copied.written.push(entry.clone());
            to.set(entry, value).map_err(|source| failed("write to the target", entry, source))?;
        }
        let kept = read(to, "read back from the target", entries)?;
        match values.iter().find(|(entry, value)| {
            !kept.iter().any(|(other, kept)| other == entry && kept.expose() == value.expose())
        }) {
            None => Ok(()),
            Some((entry, _)) => Err(MigrateError::NotKept { entry: entry.clone() }),
        }
    })();
    match result {
        Ok(()) => Ok(copied),
        Err(error) => {
            // The first error is the one that matters.
            let _ = copied.undo(to);
            Err(error)
        }
    }
}

impl Copied {
    /// The entries that were copied.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Deletes what was copied from the source. The caller has recorded the target as the store.
    ///
    /// # Errors
    /// An entry could not be deleted; the others are, unless none can be. The target is complete all the same.
    pub fn delete_source(self, from: &impl Store) -> Result<(), MigrateError> {
        delete(from, "delete", &self.entries)
    }

    /// Deletes what was written to the target.
    ///
    /// # Errors
    /// An entry could not be deleted; the others are, unless none can be. The source is complete all the same.
    pub fn undo(self, to: &impl Store) -> Result<(), MigrateError> {
        delete(to, "take back from the target", &self.written)
    }
}

/// All entries that may hold something: lists before what they name, so that nothing is ever kept that no list names,
/// and of each workload the current key last.
fn entries(from: &impl Store, workloads: &[Name]) -> Result<Vec<Entry>, MigrateError> {
    let vault = Vault::new(from);
    let mut entries = Secrets::new(from).entries()?;
    for name in workloads {
        let own = vault.entries(name);
        entries.extend(own.map_err(|source| MigrateError::Workload { name: name.clone(), source })?);
    }
    Ok(entries)
}

/// Those entries that exist, with their values.
fn read(
    store: &impl Store,
    action: &'static str,
    entries: Vec<Entry>,
) -> Result<Vec<(Entry, Secret)>, MigrateError> {
    let Some(first) = entries.first() else {
        return Ok(Vec::new());
    };
    let values = store.get_many(&entries).map_err(|source| failed(action, first, source))?;
    Ok(entries.into_iter().zip(values).filter_map(|(entry, value)| Some((entry, value?))).collect())
}

fn delete(store: &impl Store, action: &'static str, entries: &[Entry]) -> Result<(), MigrateError> {
    let mut result = Ok(());
    // Backwards, for the same reason.
    for entry in entries.iter().rev() {
        if let Err(source) = store.delete(entry) {
            let hopeless = is_of_all(&source);
            result = result.and(Err(failed(action, entry, source)));
            if hopeless {
                break;
            }
        }
    }
    result
}

/// Whether an error would come again for every other entry: a keychain that is away costs its bound for each.
fn is_of_all(error: &StoreError) -> bool {
    use KeychainFault::{Locked, NoCollection, TimedOut, Unavailable};
    matches!(error, StoreError::Keychain(Locked | NoCollection | TimedOut { .. } | Unavailable { .. }))
}

fn failed(action: &'static str, entry: &Entry, source: StoreError) -> MigrateError {
    MigrateError::Store { action, entry: entry.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::Nobody;
    use crate::{MemoryStore, StoreKind};
    use std::sync::Mutex;
    use std::time::{Duration, SystemTime};

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    /// Two workloads, one with clients and an earlier key, and two secrets; 9 entries.
    fn filled() -> (MemoryStore, Vec<Name>) {
        let store = MemoryStore::new();
        let (vault, now) = (Vault::new(&store), SystemTime::now());
        for workload in ["a", "b"] {
            vault.create(&name(workload), now).unwrap();
        }
        vault.issue(&name("a"), &name("cursor"), now, &mut Nobody).unwrap();
        let _ = vault.rotate(&name("a"), Duration::from_secs(3600), now, &mut Nobody).unwrap();
        for secret in ["x", "y"] {
            Secrets::new(&store).set(secret, &Secret::from_text(secret)).unwrap();
        }
        (store, vec![name("a"), name("b"), name("none")])
    }

    fn contents(store: &MemoryStore) -> Vec<(Entry, Vec<u8>)> {
        let entries = store.names().into_iter();
        entries.map(|entry| (entry.clone(), store.get(&entry).unwrap().unwrap().expose().to_vec())).collect()
    }

    #[test]
    fn everything_moves_and_nothing_stays() {
        let (from, workloads) = filled();
        let (before, to) = (contents(&from), MemoryStore::new());
        let copied = copy(&from, &to, &workloads, false).unwrap();
        assert_eq!(copied.entries().len(), 9);
        assert_eq!((contents(&from), contents(&to)), (before.clone(), before.clone()));
        copied.delete_source(&from).unwrap();
        assert_eq!((contents(&from), contents(&to)), (Vec::new(), before));
    }

    #[test]
    fn an_undone_copy_leaves_what_was_there() {
        let (from, workloads) = filled();
        let (before, to) = (contents(&from), MemoryStore::new());
        // As an earlier attempt that was cut off would have left it.
        let (entry, value) = (Entry::secret("x").unwrap(), Secret::from_text("x"));
        to.set(&entry, &value).unwrap();
        copy(&from, &to, &workloads, false).unwrap().undo(&to).unwrap();
        assert_eq!(to.names(), [entry]);
        assert_eq!(contents(&from), before);
    }

    #[test]
    fn a_target_with_other_values_is_left_alone() {
        let (from, workloads) = filled();
        let to = MemoryStore::new();
        to.set(&Entry::shared_key(&name("b")), &Secret::from_text("other")).unwrap();
        let before = contents(&to);
        let error = copy(&from, &to, &workloads, false).err().unwrap();
        assert!(
            matches!(&error, MigrateError::Occupied { entry } if *entry == Entry::shared_key(&name("b")))
        );
        assert_eq!(contents(&to), before);
    }

    /// A target that fails at one write, or keeps something else there.
    struct Bad {
        store: MemoryStore,
        left: Mutex<usize>,
        lies: bool,
    }

    impl Store for Bad {
        fn kind(&self) -> StoreKind {
            StoreKind::Memory
        }

        fn get(&self, entry: &Entry) -> Result<Option<Secret>, StoreError> {
            self.store.get(entry)
        }

        fn set(&self, entry: &Entry, value: &Secret) -> Result<(), StoreError> {
            let mut left = self.left.lock().unwrap();
            let last = *left == 0;
            *left = left.wrapping_sub(1);
            match (last, self.lies) {
                (false, _) => self.store.set(entry, value),
                (true, true) => self.store.set(entry, &Secret::from_text("something else")),
                // The worst sort of error: it was written.
                (true, false) => self.store.set(entry, value).and(Err(StoreError::PassphraseNeeded)),
            }
        }

        fn delete(&self, entry: &Entry) -> Result<bool, StoreError> {
            self.store.delete(entry)
        }
    }

    #[test]
    fn a_target_that_fails_at_any_write_ends_up_empty() {
        let (from, workloads) = filled();
        let before = contents(&from);
        for (left, lies) in (0..9).flat_map(|left| [(left, false), (left, true)]) {
            let to = Bad { store: MemoryStore::new(), left: Mutex::new(left), lies };
            let error = copy(&from, &to, &workloads, false).err().expect("the target is bad");
            assert_eq!(matches!(error, MigrateError::NotKept { .. }), lies, "{error}");
            assert!(to.store.names().is_empty(), "write {left}");
            assert_eq!(contents(&from), before);
        }
    }
}
