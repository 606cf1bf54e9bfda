//! The secrets that users keep for their servers.
//!
//! A keychain cannot be asked for all of its entries on every system, so the names are listed in entries of their
//! own, `secrets:<n>`, JSON of at most 2,000 bytes each. The list is written before a value appears and after it
//! has gone, so it names every value at every moment; a name without a value is what a crash leaves, and is not shown.
//!
//! Methods that write ask their caller to hold the home's lock for secrets, since two writers could lose a name.

use serde::{Deserialize, Serialize};

use crate::{Entry, EntryError, Secret, Store, StoreError};

/// The longest part of the list, in bytes: what a Windows credential holds, with room to spare.
const MAX_PART: usize = 2_000;

const VERSION: u64 = 1;

/// Users' secrets in a store.
pub struct Secrets<S> {
    store: S,
}

/// Why a secret could not be kept or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretsError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The name cannot be a secret's.
    #[error(transparent)]
    Name(#[from] EntryError),
    /// There is no such secret.
    #[error("there is no secret named {name:?}")]
    NotFound {
        /// The name.
        name: String,
    },
    /// A part of the list holds what was never written there.
    #[error("the entry {entry} is damaged")]
    Damaged {
        /// The entry.
        entry: Entry,
    },
    /// A later version of this program wrote a part of the list.
    #[error("the entry {entry} has version {version}, written by a newer thv")]
    NewerVersion {
        /// The entry.
        entry: Entry,
        /// Its version.
        version: u64,
    },
}

/// One part of the list.
#[derive(Default, Serialize, Deserialize)]
struct Part {
    v: u64,
    names: Vec<String>,
}

impl<S: Store> Secrets<S> {
    /// The secrets of a store.
    #[must_use]
    pub fn new(store: S) -> Self {
        Self { store }
    }

    /// The store beneath.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Reads a secret. One read, no lock.
    ///
    /// # Errors
    /// [`SecretsError::NotFound`], a name that cannot be one, or the store failed.
    pub fn get(&self, name: &str) -> Result<Secret, SecretsError> {
        let value = self.store.get(&Entry::secret(name)?)?;
        value.ok_or_else(|| SecretsError::NotFound { name: name.to_owned() })
    }

    /// Keeps a secret, in place of an earlier value if there is one. The caller holds the lock.
    ///
    /// # Errors
    /// A name that cannot be one, the list cannot be read, or the store failed.
    pub fn set(&self, name: &str, value: &Secret) -> Result<(), SecretsError> {
        let entry = Entry::secret(name)?;
        let mut parts = self.parts()?;
        if position(&parts, name).is_none() {
            let fits = |part: &Part| part.with(name).write().expose().len() <= MAX_PART;
            let n = parts.iter().position(fits).unwrap_or(parts.len());
            parts.resize_with(parts.len().max(n + 1), Part::default);
            self.store.set(&Entry::secret_list(n), &parts[n].with(name).write())?;
        }
        Ok(self.store.set(&entry, value)?)
    }

    /// Deletes a secret. The caller holds the lock.
    ///
    /// # Errors
    /// [`SecretsError::NotFound`], and as for [`set`](Self::set).
    pub fn delete(&self, name: &str) -> Result<(), SecretsError> {
        let existed = self.store.delete(&Entry::secret(name)?)?;
        let mut parts = self.parts()?;
        if let Some((n, at)) = position(&parts, name) {
            parts[n].names.remove(at);
            self.store.set(&Entry::secret_list(n), &parts[n].write())?;
            // Empty parts go from the end; one in the middle stays, so that those behind it are still found.
            while parts.pop_if(|part| part.names.is_empty()).is_some() {
                self.store.delete(&Entry::secret_list(parts.len()))?;
            }
        }
        if existed { Ok(()) } else { Err(SecretsError::NotFound { name: name.to_owned() }) }
    }

    /// The names of all secrets, sorted.
    ///
    /// # Errors
    /// The list cannot be read, or the store failed.
    pub fn list(&self) -> Result<Vec<String>, SecretsError> {
        let names: Vec<String> = self.parts()?.into_iter().flat_map(|part| part.names).collect();
        let entries = names.iter().map(|name| Entry::secret(name)).collect::<Result<Vec<_>, _>>()?;
        let values = self.store.get_many(&entries)?;
        let mut kept: Vec<String> =
            names.into_iter().zip(values).filter_map(|(name, value)| value.map(|_| name)).collect();
        kept.sort();
        Ok(kept)
    }

    /// Every entry that may hold something: the list, then the values.
    ///
    /// # Errors
    /// As for [`list`](Self::list).
    pub fn entries(&self) -> Result<Vec<Entry>, SecretsError> {
        let parts = self.parts()?;
        let list = (0..parts.len()).map(|n| Ok(Entry::secret_list(n)));
        let values = parts.iter().flat_map(|part| &part.names).map(|name| Ok(Entry::secret(name)?));
        list.chain(values).collect()
    }

    fn parts(&self) -> Result<Vec<Part>, SecretsError> {
        let mut parts = Vec::new();
        loop {
            let entry = Entry::secret_list(parts.len());
            match self.store.get(&entry)? {
                None => return Ok(parts),
                Some(text) => parts.push(Part::read(&entry, &text)?),
            }
        }
    }
}

/// The part and the place of a name.
fn position(parts: &[Part], name: &str) -> Option<(usize, usize)> {
    let within = |part: &Part| part.names.iter().position(|listed| listed == name);
    parts.iter().enumerate().find_map(|(n, part)| within(part).map(|at| (n, at)))
}

impl Part {
    fn with(&self, name: &str) -> Self {
        let names = self.names.iter().cloned().chain([name.to_owned()]).collect();
        Self { v: VERSION, names }
    }

    fn write(&self) -> Secret {
        let part = Self { v: VERSION, names: self.names.clone() };
        Secret::new(serde_json::to_vec(&part).expect("texts can be written to memory"))
    }

    fn read(entry: &Entry, text: &Secret) -> Result<Self, SecretsError> {
        #[derive(Deserialize)]
        struct Version {
            v: u64,
        }

        let damaged = |_| SecretsError::Damaged { entry: entry.clone() };
        let Version { v: version } = serde_json::from_slice(text.expose()).map_err(damaged)?;
        if version > VERSION {
            return Err(SecretsError::NewerVersion { entry: entry.clone(), version });
        }
        serde_json::from_slice(text.expose()).map_err(damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryStore, StoreKind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn text(text: &str) -> Secret {
        Secret::from_text(text)
    }

    #[test]
    fn keeps_lists_and_deletes() {
        let secrets = Secrets::new(MemoryStore::new());
        assert!(secrets.list().unwrap().is_empty());
        secrets.set("b", &text("1")).unwrap();
        secrets.set("a", &text("2")).unwrap();
        secrets.set("b", &text("3")).unwrap();
        assert_eq!(secrets.list().unwrap(), ["a", "b"]);
        assert_eq!(secrets.get("b").unwrap().expose(), b"3");
        secrets.delete("b").unwrap();
        assert!(matches!(secrets.delete("b"), Err(SecretsError::NotFound { .. })));
        assert!(matches!(secrets.get("b"), Err(SecretsError::NotFound { .. })));
        secrets.delete("a").unwrap();
        assert!(secrets.store().names().is_empty(), "nothing stays behind");
    }

    #[test]
    fn a_long_list_stays_in_small_parts() {
        let secrets = Secrets::new(MemoryStore::new());
        let names: Vec<String> = (0..60).map(|n| format!("{n:03}{}", "\"".repeat(150))).collect();
        for name in &names {
            secrets.set(name, &text("x")).unwrap();
        }
        assert_eq!(secrets.list().unwrap(), names);
        for n in 0.. {
            let Some(part) = secrets.store().get(&Entry::secret_list(n)).unwrap() else {
                assert!(n > 1);
                break;
            };
            assert!(part.expose().len() <= MAX_PART);
        }
        for name in &names {
            secrets.delete(name).unwrap();
        }
        assert!(secrets.store().names().is_empty());
    }

    #[test]
    fn lists_that_cannot_be_read_stop_writers() {
        let secrets = Secrets::new(MemoryStore::new());
        let list = Entry::secret_list(0);
        for (wrong, newer) in [("hunter2", false), ("{\"v\":1}", false), ("{\"v\":2,\"x\":[]}", true)] {
            secrets.store().set(&list, &text(wrong)).unwrap();
            let error = secrets.set("a", &text("x")).unwrap_err();
            assert_eq!(matches!(error, SecretsError::NewerVersion { version: 2, .. }), newer, "{error}");
            assert_eq!(secrets.store().get(&list).unwrap().unwrap().expose(), wrong.as_bytes());
            assert_eq!(secrets.store().names(), std::slice::from_ref(&list));
        }
    }

    /// A store that fails from one write on.
    struct Failing {
        store: MemoryStore,
        writes: AtomicUsize,
    }

    impl Failing {
        fn write<T>(&self, action: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
            let left =
                self.writes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if left.is_ok() { action() } else { Err(StoreError::PassphraseNeeded) }
        }
    }

    impl Store for Failing {
        fn kind(&self) -> StoreKind {
            StoreKind::Memory
        }

        fn get(&self, entry: &Entry) -> Result<Option<Secret>, StoreError> {
            self.store.get(entry)
        }

        fn set(&self, entry: &Entry, value: &Secret) -> Result<(), StoreError> {
            self.write(|| self.store.set(entry, value))
        }

        fn delete(&self, entry: &Entry) -> Result<bool, StoreError> {
            self.write(|| self.store.delete(entry))
        }
    }

    #[test]
    fn after_a_crash_at_any_write_every_value_is_listed() {
        for writes in 0..7 {
            let secrets =
                Secrets::new(Failing { store: MemoryStore::new(), writes: AtomicUsize::new(writes) });
            let _ = secrets.set("a", &text("1"));
            let _ = secrets.set("b", &text("2"));
            let _ = secrets.delete("a");
            let _ = secrets.delete("b");

            secrets.store().writes.store(usize::MAX, Ordering::SeqCst);
            let kept = secrets.store().store.names();
            let kept: Vec<&str> = kept.iter().filter_map(Entry::secret_name).collect();
            assert_eq!(secrets.list().unwrap(), kept, "{writes} writes");
            for name in ["a", "b"] {
                let _ = secrets.delete(name);
            }
            assert!(secrets.store().store.names().is_empty(), "{writes} writes: nothing stays behind");
        }
    }
}
