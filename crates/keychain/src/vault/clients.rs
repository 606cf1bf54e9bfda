//! Keys issued to single clients, and the list that names them.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use thv_keygen::{KeyId, LiveKey, Name, SharedKey};

use super::record::{Seconds, read_version};
use super::rotate::{Publish, announce, not_published};
use super::{Vault, VaultError, parse_key};
use crate::{Entry, Secret, Store};

/// The most that one part of the list holds, in bytes: Windows keeps 2,560 in a credential.
const MAX_PART: usize = 2_000;

const VERSION: u64 = 1;

/// A client that holds a key of its own.
#[derive(Clone, Debug)]
pub struct Client {
    /// The client's label, as it was given.
    pub label: Name,
    /// The public name of its key.
    pub key_id: KeyId,
    /// When the key was issued.
    pub issued_at: SystemTime,
}

/// A line of the list.
#[derive(Clone)]
pub(super) struct Listed {
    pub(super) label: Name,
    pub(super) issued: Seconds,
}

/// One entry of the list.
#[derive(Clone, Default)]
pub(super) struct Part(Vec<Listed>);

/// The list: its parts without a gap, counted from 0.
#[derive(Default)]
pub(super) struct List(Vec<Part>);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartText<'a> {
    v: u64,
    #[serde(borrow)]
    clients: Vec<ListedText<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedText<'a> {
    label: &'a str,
    issued: Seconds,
}

impl<S: Store> Vault<S> {
    /// Reads the key of one client, `None` if it has none. One read of one entry, no lock.
    ///
    /// # Errors
    /// The errors of the store, or the entry is damaged.
    pub fn client(&self, name: &Name, label: &Name) -> Result<Option<SharedKey>, VaultError> {
        let entry = Entry::client(name, label);
        let text = self.store.get(&entry)?;
        text.map(|text| parse_key(&entry, &text)).transpose()
    }

    /// The clients that hold a key, in the order of the list.
    ///
    /// # Errors
    /// The errors of the store, or an entry is damaged.
    pub fn clients(&self, name: &Name) -> Result<Vec<Client>, VaultError> {
        let keys = self.client_keys(name)?.into_iter();
        Ok(keys
            .filter_map(|(Listed { label, issued }, key)| {
                key.map(|key| Client { label, key_id: key.id(), issued_at: issued.time() })
            })
            .collect())
    }

    /// Makes a key for one client. The caller holds the workload's lock.
    ///
    /// # Errors
    /// [`VaultError::ClientExists`]; [`VaultError::NoKey`] if the workload has no key itself;
    /// [`VaultError::NotPublished`] with nothing changed; the errors of the store.
    pub fn issue(
        &self,
        name: &Name,
        label: &Name,
        now: SystemTime,
        publish: &mut dyn Publish,
    ) -> Result<SharedKey, VaultError> {
        let mut view = self.view(name)?;
        if view.clients.iter().any(|client| client.label() == Some(label)) {
            return Err(VaultError::ClientExists { name: name.clone(), label: label.clone() });
        }
        let key = SharedKey::generate()?;
        self.enlist(name, Listed { label: label.clone(), issued: Seconds::floor(now)? })?;

        view.clients.push(LiveKey::new(key.clone(), Some(label.clone()), None));
        if let Err(source) = announce(&view.live(now), publish) {
            // A label without an entry does no harm, should this fail as well.
            let _ = self.strike(name, label);
            return Err(not_published(name, "no key was issued", source));
        }
        // The label stays listed if this fails: a store that reports an error may have written.
        self.write_key(&Entry::client(name, label), &key)?;
        Ok(key)
    }

    /// Takes one client's key out of force. The caller holds the workload's lock.
    ///
    /// # Errors
    /// [`VaultError::NoClient`]; [`VaultError::NotPublished`] if the running supervisor may still admit the key:
    /// calling again sends the set again; the errors of the store.
    pub fn revoke(
        &self,
        name: &Name,
        label: &Name,
        now: SystemTime,
        publish: &mut dyn Publish,
    ) -> Result<(), VaultError> {
        if self.client_list(name)?.position(label).is_none() {
            return Err(VaultError::NoClient { name: name.clone(), label: label.clone() });
        }
        self.store.delete(&Entry::client(name, label))?;
        announce(&self.view(name)?.live(now), publish).map_err(|source| {
            not_published(
                name,
                "the client's key is deleted, but may open the door until that is done",
                source,
            )
        })?;
        self.strike(name, label)
    }

    /// Every line of the list, with the key if there is one.
    pub(super) fn client_keys(&self, name: &Name) -> Result<Vec<(Listed, Option<SharedKey>)>, VaultError> {
        let listed: Vec<Listed> = self.client_list(name)?.0.into_iter().flat_map(|part| part.0).collect();
        let entries: Vec<Entry> = listed.iter().map(|listed| Entry::client(name, &listed.label)).collect();
        let texts = self.store.get_many(&entries)?;
        let keys = entries.iter().zip(texts).map(|(entry, text)| text.map(|text| parse_key(entry, &text)));
        listed.into_iter().zip(keys).map(|(listed, key)| Ok((listed, key.transpose()?))).collect()
    }

    pub(super) fn client_list(&self, name: &Name) -> Result<List, VaultError> {
        let mut list = List::default();
        loop {
            let entry = Entry::client_list(name, list.0.len());
            match self.store.get(&entry)? {
                None => return Ok(list),
                Some(text) => list.0.push(Part::read(&entry, &text)?),
            }
        }
    }

    /// Adds a line to the first part that has room. One write.
    fn enlist(&self, name: &Name, listed: Listed) -> Result<(), VaultError> {
        let mut list = self.client_list(name)?;
        let (n, part) = match list.position(&listed.label) {
            Some((n, at)) => {
                list.0[n].0[at] = listed;
                (n, &list.0[n])
            }
            None => {
                let fits = |part: &Part| part.with(&listed).write().expose().len() <= MAX_PART;
                let n = list.0.iter().position(fits).unwrap_or(list.0.len());
                list.0.resize_with(list.0.len().max(n + 1), Part::default);
                list.0[n].0.push(listed);
                (n, &list.0[n])
            }
        };
        Ok(self.store.set(&Entry::client_list(name, n), &part.write())?)
    }

    /// Takes a line out, then empty parts from the end. A part that is empty in the middle stays, so that those
    /// behind it are still found.
    fn strike(&self, name: &Name, label: &Name) -> Result<(), VaultError> {
        let mut list = self.client_list(name)?;
        let Some((n, at)) = list.position(label) else {
            return Ok(());
        };
        list.0[n].0.remove(at);
        if n + 1 < list.0.len() || !list.0[n].0.is_empty() {
            self.store.set(&Entry::client_list(name, n), &list.0[n].write())?;
        }
        while list.0.last().is_some_and(|part| part.0.is_empty()) {
            list.0.pop();
            self.store.delete(&Entry::client_list(name, list.0.len()))?;
        }
        Ok(())
    }
}

impl List {
    pub(super) fn parts(&self) -> &[Part] {
        &self.0
    }

    /// The part and the line of a label.
    fn position(&self, label: &Name) -> Option<(usize, usize)> {
        let within = |part: &Part| part.0.iter().position(|listed| listed.label == *label);
        self.0.iter().enumerate().find_map(|(n, part)| within(part).map(|at| (n, at)))
    }
}

impl Part {
    pub(super) fn labels(&self) -> impl Iterator<Item = &Name> {
        self.0.iter().map(|listed| &listed.label)
    }

    fn with(&self, listed: &Listed) -> Self {
        let mut part = self.clone();
        part.0.push(listed.clone());
        part
    }

    fn read(entry: &Entry, text: &Secret) -> Result<Self, VaultError> {
        let damaged = || VaultError::Damaged { entry: entry.clone(), reason: "it is not a list of clients" };
        read_version(entry, text.expose(), VERSION)?;
        let part: PartText<'_> = serde_json::from_slice(text.expose()).map_err(|_| damaged())?;
        let listed = part.clients.into_iter().map(|ListedText { label, issued }| {
            let label = Name::parse(label).map_err(|_| damaged())?;
            Ok(Listed { label, issued })
        });
        listed.collect::<Result<_, _>>().map(Self)
    }

    fn write(&self) -> Secret {
        let lines =
            self.0.iter().map(|listed| ListedText { label: listed.label.as_str(), issued: listed.issued });
        let text = PartText { v: VERSION, clients: lines.collect() };
        Secret::new(serde_json::to_vec(&text).expect("texts and numbers can be written to memory"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;
    use crate::vault::Nobody;
    use std::time::Duration;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn vault() -> (Vault<MemoryStore>, Name, SystemTime) {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let vault = Vault::new(MemoryStore::new());
        vault.create(&name("time"), now).unwrap();
        (vault, name("time"), now)
    }

    fn labels(vault: &Vault<MemoryStore>, of: &Name) -> Vec<String> {
        vault.clients(of).unwrap().iter().map(|client| client.label.to_string()).collect()
    }

    #[test]
    fn a_client_has_one_key_whatever_the_case_of_its_label() {
        let (vault, time, now) = vault();
        let key = vault.issue(&time, &name("Cursor"), now, &mut Nobody).unwrap();
        let again = vault.issue(&time, &name("cursor"), now, &mut Nobody).err().unwrap();
        assert!(matches!(again, VaultError::ClientExists { .. }));
        assert!(vault.client(&time, &name("CURSOR")).unwrap().unwrap().ct_eq(&key));

        let set = vault.load(&time, now).unwrap();
        assert_eq!(set.check(&key, now).unwrap().label(), Some(&name("cursor")));
        let clients = vault.clients(&time).unwrap();
        assert_eq!(
            (clients[0].label.as_str(), clients[0].key_id, clients[0].issued_at),
            ("Cursor", key.id(), now)
        );

        vault.revoke(&time, &name("CURSOR"), now, &mut Nobody).unwrap();
        assert!(vault.load(&time, now).unwrap().check(&key, now).is_none());
        let gone = vault.revoke(&time, &name("cursor"), now, &mut Nobody).err().unwrap();
        assert!(matches!(gone, VaultError::NoClient { .. }));
        assert_eq!(vault.store().names().len(), 2, "only the workload's own entries are left");
    }

    #[test]
    fn a_workload_without_a_key_issues_none() {
        let (vault, _, now) = vault();
        let error = vault.issue(&name("other"), &name("cursor"), now, &mut Nobody).err().unwrap();
        assert!(matches!(error, VaultError::NoKey { .. }));
    }

    #[test]
    fn a_long_list_is_kept_in_parts_that_fit_and_shrinks_again() {
        let (vault, time, now) = vault();
        let all: Vec<Name> = (0..60).map(|n| name(&format!("{}{n:02}", "x".repeat(61)))).collect();
        for label in &all {
            vault.issue(&time, label, now, &mut Nobody).unwrap();
        }
        assert_eq!(labels(&vault, &time).len(), 60);
        assert_eq!(vault.load(&time, now).unwrap().len(), 61);
        let parts = vault.client_list(&time).unwrap().0.len();
        assert!(parts >= 3, "{parts}");
        for n in 0..parts {
            let part = vault.store().get(&Entry::client_list(&time, n)).unwrap().unwrap();
            assert!(part.expose().len() <= MAX_PART);
        }

        // The first part is emptied: the others must still be found, and the room used again.
        let first: Vec<Name> = vault.client_list(&time).unwrap().0[0].labels().cloned().collect();
        for label in &first {
            vault.revoke(&time, label, now, &mut Nobody).unwrap();
        }
        assert_eq!(labels(&vault, &time).len(), 60 - first.len());
        vault.issue(&time, &first[0], now, &mut Nobody).unwrap();
        assert_eq!(vault.client_list(&time).unwrap().0[0].0.len(), 1);

        for client in vault.clients(&time).unwrap() {
            vault.revoke(&time, &client.label, now, &mut Nobody).unwrap();
        }
        assert_eq!(vault.store().names().len(), 2, "no part of the list is left");
    }

    #[test]
    fn a_damaged_list_is_an_error_that_leaves_it_alone() {
        let (vault, time, now) = vault();
        vault.issue(&time, &name("cursor"), now, &mut Nobody).unwrap();
        let part = Entry::client_list(&time, 0);
        for text in ["", r#"{"v":1}"#, r#"{"v":1,"clients":[{"label":"a b","issued":1}]}"#, r#"{"v":9}"#] {
            vault.store().set(&part, &Secret::from_text(text)).unwrap();
            assert!(vault.load(&time, now).is_err(), "{text}");
            assert!(vault.issue(&time, &name("zed"), now, &mut Nobody).is_err());
            assert!(vault.revoke(&time, &name("cursor"), now, &mut Nobody).is_err());
            assert_eq!(vault.store().get(&part).unwrap().unwrap().expose_text(), Some(text));
        }
    }
}
