//! Names of entries: which secret of whom.

use std::fmt;

use thv_keygen::Name;

/// The longest entry name, in bytes.
const MAX: usize = 255;

/// The name under which a store keeps one secret.
///
/// There are two families, told apart by their prefix: `workload:` for the keys of workloads, which only the
/// [`Vault`](crate::Vault) touches, and `secret:` for the secrets that users keep for their servers, with
/// `secrets:` for the list of their names. Besides there is `master-key`, which encrypts a file. A value of this
/// type is always one of them, at most 255 bytes long and free of control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry(String);

/// Why a text cannot name a user's secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// No characters at all.
    #[error("the name of a secret cannot be empty")]
    Empty,
    /// The entry would be longer than 255 bytes.
    #[error("the name of a secret has at most 248 bytes")]
    TooLong,
    /// A control character, a line break among them.
    #[error("the name of a secret cannot hold control characters")]
    Control,
}

impl Entry {
    /// E1, `workload:<name>:shared-key`: exactly the text of the workload's current key.
    #[must_use]
    pub fn shared_key(name: &Name) -> Self {
        Self(format!("workload:{}:shared-key", name.lower()))
    }

    /// E2, `workload:<name>:shared-key:set`: the keys around the current one, as JSON.
    #[must_use]
    pub fn key_set(name: &Name) -> Self {
        Self(format!("workload:{}:shared-key:set", name.lower()))
    }

    /// `workload:<name>:client:<label>`: exactly the text of the key issued to one client.
    #[must_use]
    pub fn client(name: &Name, label: &Name) -> Self {
        Self(format!("workload:{}:client:{}", name.lower(), label.lower()))
    }

    /// `workload:<name>:clients:<n>`: one part of the list of clients, counted from 0.
    #[must_use]
    pub fn client_list(name: &Name, n: usize) -> Self {
        Self(format!("workload:{}:clients:{n}", name.lower()))
    }

    /// `secret:<name>`: a secret that a user keeps for servers. No `name` leads to a workload's keys.
    ///
    /// # Errors
    /// The name is empty, too long, or holds a control character.
    pub fn secret(name: &str) -> Result<Self, EntryError> {
        if name.is_empty() {
            return Err(EntryError::Empty);
        }
        let entry = format!("secret:{name}");
        if entry.len() > MAX {
            return Err(EntryError::TooLong);
        }
        if entry.chars().any(char::is_control) {
            return Err(EntryError::Control);
        }
        Ok(Self(entry))
    }

    /// `secrets:<n>`: one part of the list of users' secrets, counted from 0.
    #[must_use]
    pub fn secret_list(n: usize) -> Self {
        Self(format!("secrets:{n}"))
    }

    /// `master-key`: the text of the key that encrypts a file.
    #[must_use]
    pub fn master_key() -> Self {
        Self("master-key".to_owned())
    }

    /// Reads the whole name of an entry, as [`as_str`](Self::as_str) gives it; `None` for every name under which
    /// nothing is ever written here.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(name) = text.strip_prefix("secret:") {
            return Self::secret(name).ok();
        }
        if let Some(n) = text.strip_prefix("secrets:") {
            return Some(Self::secret_list(number(n)?));
        }
        let Some(rest) = text.strip_prefix("workload:") else {
            return (text == "master-key").then(Self::master_key);
        };
        // No name of a workload or a label holds a colon.
        let (name, rest) = rest.split_once(':')?;
        let name = lowered(name)?;
        match rest.split_once(':') {
            None if rest == "shared-key" => Some(Self::shared_key(&name)),
            Some(("shared-key", "set")) => Some(Self::key_set(&name)),
            Some(("client", label)) => Some(Self::client(&name, &lowered(label)?)),
            Some(("clients", n)) => Some(Self::client_list(&name, number(n)?)),
            _ => None,
        }
    }

    /// The workload whose key this is, or part of whose keys, in lower case; `None` for what belongs to no workload.
    #[must_use]
    pub fn workload(&self) -> Option<&str> {
        let (name, _) = self.0.strip_prefix("workload:")?.split_once(':')?;
        Some(name)
    }

    /// The name that follows `secret:`, if this is a user's secret.
    #[must_use]
    pub fn secret_name(&self) -> Option<&str> {
        self.0.strip_prefix("secret:")
    }

    /// The whole name, prefix included.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A name as it stands in an entry.
fn lowered(text: &str) -> Option<Name> {
    Name::parse(text).ok().filter(|name| name.lower() == text)
}

/// A number as it stands in an entry: without a sign, and without zeros in front.
fn number(text: &str) -> Option<usize> {
    text.parse().ok().filter(|n: &usize| n.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn workload_entries_are_those_of_the_contract() {
        let name = Name::parse("My-Server").unwrap();
        let label = Name::parse("Cursor").unwrap();
        assert_eq!(Entry::shared_key(&name).as_str(), "workload:my-server:shared-key");
        assert_eq!(Entry::key_set(&name).as_str(), "workload:my-server:shared-key:set");
        assert_eq!(Entry::client(&name, &label).as_str(), "workload:my-server:client:cursor");
        assert_eq!(Entry::client_list(&name, 12).as_str(), "workload:my-server:clients:12");
    }

    #[test]
    fn the_longest_names_fit() {
        let longest = Name::parse(&"x".repeat(63)).unwrap();
        assert!(Entry::client(&longest, &longest).as_str().len() <= MAX);
        assert!(Entry::client_list(&longest, usize::MAX).as_str().len() <= MAX);
    }

    #[test]
    fn secrets_have_their_own_family() {
        let entry = Entry::secret("workload:time:shared-key").unwrap();
        assert_eq!(entry.as_str(), "secret:workload:time:shared-key");
        assert_eq!(Entry::secret(""), Err(EntryError::Empty));
        assert_eq!(Entry::secret("a\nb"), Err(EntryError::Control));
        assert_eq!(Entry::secret("a\u{85}b"), Err(EntryError::Control));
        assert!(Entry::secret(&"x".repeat(248)).is_ok());
        assert_eq!(Entry::secret(&"x".repeat(249)), Err(EntryError::TooLong));
    }

    #[test]
    fn names_that_are_never_written_are_no_entries() {
        for text in [
            "",
            "toolhive",
            "master-key:1",
            "Master-key",
            "secret:",
            "secret:a\nb",
            "secrets:",
            "secrets:-1",
            "secrets:+1",
            "secrets:01",
            "secrets:x",
            "secrets:99999999999999999999999999",
            "workload:",
            "workload:time",
            "workload:time:",
            "workload:Time:shared-key",
            "workload:a b:shared-key",
            "workload::shared-key",
            "workload:time:shared-key:",
            "workload:time:shared-key:set:1",
            "workload:../a:shared-key",
            "workload:time:shared-key:next",
            "workload:time:client:",
            "workload:time:client:Cursor",
            "workload:time:client:a:b",
            "workload:time:clients:",
            "workload:time:clients:x",
            "workload:time:master-key",
        ] {
            assert_eq!(Entry::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn an_entry_knows_its_workload() {
        let (name, label) = (Name::parse("My.Server").unwrap(), Name::parse("x").unwrap());
        for entry in [
            Entry::shared_key(&name),
            Entry::key_set(&name),
            Entry::client(&name, &label),
            Entry::client_list(&name, 0),
        ] {
            assert_eq!(entry.workload(), Some("my.server"), "{entry}");
        }
        let secret = Entry::secret("workload:time:shared-key").unwrap();
        for entry in [secret, Entry::secret_list(0), Entry::master_key()] {
            assert_eq!(entry.workload(), None, "{entry}");
        }
    }

    proptest! {
        #[test]
        fn every_entry_is_read_as_it_was_written(
            a in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", b in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", n: usize, secret: String,
        ) {
            let mut entries = vec![Entry::secret_list(n), Entry::master_key()];
            entries.extend(Entry::secret(&secret));
            if let (Ok(a), Ok(b)) = (Name::parse(&a), Name::parse(&b)) {
                entries.extend([
                    Entry::shared_key(&a), Entry::key_set(&a), Entry::client(&a, &b), Entry::client_list(&a, n),
                ]);
            }
            for entry in entries {
                prop_assert_eq!(Entry::parse(entry.as_str()), Some(entry));
            }
        }

        #[test]
        fn what_is_read_as_an_entry_is_written_the_same(
            text in "(workload:|secrets?:|master-key)?([a-zA-Z0-9+]{0,3}:?){0,3}(shared-key|set|clients?|:){0,4}[a-z0-9]{0,2}",
        ) {
            if let Some(entry) = Entry::parse(&text) {
                prop_assert_eq!(entry.as_str(), text);
            }
        }

        #[test]
        fn different_owners_never_share_an_entry(
            a in "[a-z0-9][a-z0-9_.-]{0,8}[a-z]", b in "[a-z0-9][a-z0-9_.-]{0,8}[a-z]",
            x in "[a-z0-9][a-z0-9_.-]{0,8}[a-z]", n in 0usize..100,
        ) {
            prop_assume!(a != b);
            let parsed = (Name::parse(&a), Name::parse(&b), Name::parse(&x));
            let (Ok(a), Ok(b), Ok(x)) = parsed else { return Ok(()) };
            let entries = |name: &Name| [
                Entry::shared_key(name), Entry::key_set(name), Entry::client(name, &x), Entry::client_list(name, n),
            ];
            let all: std::collections::BTreeSet<Entry> = entries(&a).into_iter().chain(entries(&b)).collect();
            prop_assert_eq!(all.len(), 8);
        }
    }
}
