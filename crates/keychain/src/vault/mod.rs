//! The vault: which entries make up a workload's keys, and in which order they are written.
//!
//! Entries of a workload:
//!
//! | entry | holds |
//! |---|---|
//! | E1 `workload:<name>:shared-key` | exactly the text of the current key |
//! | E2 `workload:<name>:shared-key:set` | JSON: the next key and the retiring one during a rotation, previous keys with their ends, times |
//! | `workload:<name>:client:<label>` | exactly the text of the key issued to that client |
//! | `workload:<name>:clients:<n>` | JSON: the list of clients, in parts of at most 2,000 bytes |
//!
//! **The live set** is E1, the next key, the previous keys that have not ended, and the clients' keys. A workload
//! without E1 has no key at all, whatever else is there.
//!
//! **Locks.** Every method that writes asks its caller to hold the workload's lock, and so does [`Vault::load`]
//! when the set is to be enforced: read between two writes of a rotation, E1 and E2 need not fit each other.
//! [`Vault::current`] and [`Vault::client`] read a single entry and need no lock.
//!
//! **Order of writes.** Whoever reads E1 or a client's entry holds a key that the running supervisor admits. So a
//! new key is published before it can be read, and an old one is withdrawn from the store before it is refused:
//!
//! | operation | writes |
//! |---|---|
//! | create | leftovers of a broken-off removal go, E2, E1 |
//! | rotate | E2 with next and retiring, *publish*, E1, *publish*, E2 with retiring among previous |
//! | issue | list, *publish*, client's entry |
//! | revoke | client's entry goes, *publish*, list |
//! | remove | E1, E2, clients' entries of each part before that part of the list, the last part first |
//!
//! The mark of unfinished work is what is written last: `next` in E2, or a label in the list without an entry. A
//! crash, or a supervisor that does not answer, leaves the mark in place, and the next holder of the lock finishes:
//! [`Vault::recover`] for a rotation, the same call once more for the others. The list names every client's entry
//! at every moment, so no key is forgotten in a store that cannot be enumerated.

mod clients;
mod error;
mod listed;
mod record;
mod rotate;

use std::time::SystemTime;

use thv_keygen::{KeyId, KeySet, LiveKey, Name, SharedKey};

use crate::{Entry, Secret, Store, StoreError};

pub use clients::Client;
pub use error::{ErrorKind, VaultError};
pub use rotate::{Nobody, Publish, PublishError, Receipt, Recovery, Rotation};

use record::Record;

/// The keys of workloads in a store.
pub struct Vault<S> {
    store: S,
}

/// What may be shown of a workload's current key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The current key's public name.
    pub key_id: KeyId,
    /// When the workload's first key was made, if the store still knows.
    pub created_at: Option<SystemTime>,
    /// When the current key was made; for a key that was never rotated, the same as `created_at`.
    pub rotated_at: Option<SystemTime>,
}

/// All that the store holds about a workload that has a key.
struct View {
    current: SharedKey,
    record: Record,
    clients: Vec<LiveKey>,
}

impl<S: Store> Vault<S> {
    /// A vault over a store.
    #[must_use]
    pub fn new(store: S) -> Self {
        Self { store }
    }

    /// The store beneath.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Makes a workload's first key. The caller holds the workload's lock.
    ///
    /// What a broken-off [`remove`](Self::remove) left is removed first, so no key of an earlier life comes back.
    ///
    /// # Errors
    /// [`VaultError::KeyExists`] if the workload has a key, and the errors of the store.
    pub fn create(&self, name: &Name, now: SystemTime) -> Result<KeySet, VaultError> {
        if self.store.get(&Entry::shared_key(name))?.is_some() {
            return Err(VaultError::KeyExists { name: name.clone() });
        }
        self.remove(name)?;
        let current = SharedKey::generate()?;
        let record = Record::new(record::Seconds::floor(now)?);
        self.write_record(name, &record)?;
        self.write_key(&Entry::shared_key(name), &current)?;
        Ok(View { current, record, clients: Vec::new() }.live(now))
    }

    /// Reads the current key, `None` if the workload has none. One read of one entry, no lock.
    ///
    /// # Errors
    /// The errors of the store, or the entry is damaged.
    pub fn current(&self, name: &Name) -> Result<Option<SharedKey>, VaultError> {
        let entry = Entry::shared_key(name);
        let text = self.store.get(&entry)?;
        text.map(|text| parse_key(&entry, &text)).transpose()
    }

    /// Reads the live set, newest key first. Nothing is written; see [`recover`](Self::recover).
    ///
    /// # Errors
    /// [`VaultError::NoKey`] if the workload has none, the errors of the store, or an entry is damaged.
    pub fn load(&self, name: &Name, now: SystemTime) -> Result<KeySet, VaultError> {
        Ok(self.view(name)?.live(now))
    }

    /// Tells what may be shown of the current keys of several workloads, in the order given, in one read where the
    /// store can do that. A workload without a key gives `None`; one with damaged entries does not hide the others.
    ///
    /// # Errors
    /// The errors of the store; those of single workloads are inside.
    pub fn describe(&self, names: &[Name]) -> Result<Vec<Result<Option<Facts>, VaultError>>, StoreError> {
        let entries: Vec<Entry> =
            names.iter().flat_map(|name| [Entry::shared_key(name), Entry::key_set(name)]).collect();
        let values = self.store.get_many(&entries)?;
        Ok(names.iter().zip(values.chunks(2)).map(|(name, pair)| facts(name, &pair[0], &pair[1])).collect())
    }

    /// Deletes every entry of a workload. The caller holds the workload's lock. Deleting what is not there is no
    /// error, so a removal that broke off is finished by calling again.
    ///
    /// # Errors
    /// The errors of the store; [`VaultError::Damaged`] if the list of clients cannot be read, since their keys
    /// would be forgotten in the store.
    pub fn remove(&self, name: &Name) -> Result<(), VaultError> {
        self.store.delete(&Entry::shared_key(name))?;
        self.store.delete(&Entry::key_set(name))?;
        let list = self.client_list(name)?;
        for (n, part) in list.parts().iter().enumerate().rev() {
            for label in part.labels() {
                self.store.delete(&Entry::client(name, label))?;
            }
            self.store.delete(&Entry::client_list(name, n))?;
        }
        Ok(())
    }

    /// Every entry of a workload that may hold something: the list of clients, their keys, E2, E1.
    ///
    /// # Errors
    /// The errors of the store, or the list of clients cannot be read.
    pub fn entries(&self, name: &Name) -> Result<Vec<Entry>, VaultError> {
        let list = self.client_list(name)?;
        let clients =
            list.parts().iter().flat_map(clients::Part::labels).map(|label| Entry::client(name, label));
        let parts = (0..list.parts().len()).map(|n| Entry::client_list(name, n));
        Ok(parts.chain(clients).chain([Entry::key_set(name), Entry::shared_key(name)]).collect())
    }

    fn view(&self, name: &Name) -> Result<View, VaultError> {
        let entries = [Entry::shared_key(name), Entry::key_set(name)];
        let values = self.store.get_many(&entries)?;
        let Some(text) = &values[0] else {
            return Err(VaultError::NoKey { name: name.clone() });
        };
        let current = parse_key(&entries[0], text)?;
        let record = Record::read(&entries[1], values[1].as_ref())?;
        let clients = self.client_keys(name)?;
        let clients = clients
            .into_iter()
            .filter_map(|(listed, key)| key.map(|key| LiveKey::new(key, Some(listed.label), None)));
        Ok(View { current, record, clients: clients.collect() })
    }

    fn write_record(&self, name: &Name, record: &Record) -> Result<(), VaultError> {
        Ok(self.store.set(&Entry::key_set(name), &record.write())?)
    }

    fn write_key(&self, entry: &Entry, key: &SharedKey) -> Result<(), VaultError> {
        Ok(self.store.set(entry, &Secret::from_text(&key.expose_text()))?)
    }
}

impl View {
    /// The live set at `now`, the newest of the workload's own keys first.
    fn live(&self, now: SystemTime) -> KeySet {
        let current = LiveKey::new(self.current.clone(), None, None);
        let mut keys = Vec::new();
        match (&self.record.next, &self.record.retiring) {
            // Between the two publications of a rotation: the new key is current, the old one has its end.
            (Some(next), retiring) if next.key.ct_eq(&self.current) => {
                keys.push(current);
                keys.extend(retiring.as_ref().map(record::Ending::live));
            }
            // Before: both are live, the old one without an end as long as it can be read as the current one.
            (Some(next), _) => keys.extend([LiveKey::new(next.key.clone(), None, None), current]),
            (None, _) => keys.push(current),
        }
        keys.extend(self.record.previous.iter().map(record::Ending::live));
        keys.extend(self.clients.iter().cloned());
        keys.retain(|key| key.is_live(now));
        KeySet::new(keys)
    }
}

fn facts(name: &Name, key: &Option<Secret>, set: &Option<Secret>) -> Result<Option<Facts>, VaultError> {
    let Some(text) = key else {
        return Ok(None);
    };
    let current = parse_key(&Entry::shared_key(name), text)?;
    let record = Record::read(&Entry::key_set(name), set.as_ref())?;
    let made = record.next.as_ref().filter(|next| next.key.ct_eq(&current)).map(|next| next.made);
    Ok(Some(Facts {
        key_id: current.id(),
        created_at: record.created.map(record::Seconds::time),
        rotated_at: made.or(record.rotated).map(record::Seconds::time),
    }))
}

fn parse_key(entry: &Entry, text: &Secret) -> Result<SharedKey, VaultError> {
    SharedKey::parse(text.expose())
        .map_err(|_| VaultError::Damaged { entry: entry.clone(), reason: "it does not hold a key" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;
    use std::time::Duration;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)
    }

    #[test]
    fn e1_is_exactly_the_text_of_the_key() {
        let vault = Vault::new(MemoryStore::new());
        vault.create(&name("Time"), now()).unwrap();
        let text = vault.store().get(&Entry::shared_key(&name("time"))).unwrap().unwrap();
        let key = vault.current(&name("TIME")).unwrap().unwrap();
        assert_eq!(text.expose_text(), Some(key.expose_text().as_str()));
    }

    #[test]
    fn a_key_is_made_once_and_never_replaced_by_create() {
        let vault = Vault::new(MemoryStore::new());
        let first = vault.create(&name("time"), now()).unwrap();
        let error = vault.create(&name("TIME"), now()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        let current = vault.current(&name("time")).unwrap().unwrap();
        assert!(first.check(&current, now()).is_some());
    }

    #[test]
    fn nothing_is_found_where_nothing_was_made() {
        let vault = Vault::new(MemoryStore::new());
        assert!(vault.current(&name("time")).unwrap().is_none());
        let error = vault.load(&name("time"), now()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        vault.remove(&name("time")).unwrap();
    }

    #[test]
    fn workloads_do_not_touch_each_other() {
        let vault = Vault::new(MemoryStore::new());
        vault.create(&name("a"), now()).unwrap();
        vault.create(&name("a.b"), now()).unwrap();
        vault.issue(&name("a"), &name("x"), now(), &mut Nobody).unwrap();
        vault.remove(&name("a")).unwrap();
        assert_eq!(vault.store().names(), [Entry::shared_key(&name("a.b")), Entry::key_set(&name("a.b"))]);
    }

    #[test]
    fn one_damaged_workload_does_not_hide_the_others() {
        let vault = Vault::new(MemoryStore::new());
        vault.create(&name("good"), now()).unwrap();
        vault.create(&name("bad"), now()).unwrap();
        vault.store().set(&Entry::shared_key(&name("bad")), &Secret::from_text("hunter2")).unwrap();
        let told = vault.describe(&[name("bad"), name("none"), name("good")]).unwrap();
        let error = told[0].as_ref().unwrap_err();
        assert_eq!(error.to_string(), "the entry workload:bad:shared-key is damaged: it does not hold a key");
        assert!(told[1].as_ref().unwrap().is_none());
        assert_eq!(told[2].as_ref().unwrap().unwrap().created_at, Some(now()));
        assert!(matches!(vault.current(&name("bad")), Err(VaultError::Damaged { .. })));
    }
}
