//! Secrets that the caller's environment holds: for containers and build machines, where nothing is kept.

use std::collections::BTreeMap;

use crate::{Entry, Secret, Store, StoreError, StoreKind};

/// The variables that are secrets: this, then the secret's name.
pub const PREFIX: &str = "TOOLHIVE_SECRET_";

/// Users' secrets from variables named `TOOLHIVE_SECRET_<NAME>`. It can only be read, and no variable leads to the
/// keys of a workload.
pub struct EnvironmentStore {
    secrets: BTreeMap<Entry, Secret>,
}

impl EnvironmentStore {
    /// Picks the secrets among variables. The name behind the prefix is taken as it is; variables whose name cannot
    /// be a secret's, or whose value is no text, are passed over.
    #[must_use]
    pub fn new<N: AsRef<str>>(variables: impl IntoIterator<Item = (N, Secret)>) -> Self {
        let pick = |(name, value): (N, Secret)| {
            let entry = Entry::secret(name.as_ref().strip_prefix(PREFIX)?).ok()?;
            value.expose_text().is_some().then_some((entry, value))
        };
        Self { secrets: variables.into_iter().filter_map(pick).collect() }
    }

    /// The names of all secrets, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.secrets.keys().filter_map(Entry::secret_name)
    }
}

impl Store for EnvironmentStore {
    fn kind(&self) -> StoreKind {
        StoreKind::Environment
    }

    fn get(&self, entry: &Entry) -> Result<Option<Secret>, StoreError> {
        Ok(self.secrets.get(entry).cloned())
    }

    fn set(&self, entry: &Entry, _value: &Secret) -> Result<(), StoreError> {
        Err(StoreError::ReadOnly { entry: entry.clone() })
    }

    fn delete(&self, entry: &Entry) -> Result<bool, StoreError> {
        Err(StoreError::ReadOnly { entry: entry.clone() })
    }

    fn entries(&self) -> Result<Option<Vec<Entry>>, StoreError> {
        Ok(Some(self.secrets.keys().cloned().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thv_keygen::Name;

    fn store() -> EnvironmentStore {
        EnvironmentStore::new([
            ("TOOLHIVE_SECRET_github", Secret::from_text("1")),
            ("TOOLHIVE_SECRET_API_KEY", Secret::from_text("2")),
            ("TOOLHIVE_SECRET_", Secret::from_text("3")),
            ("TOOLHIVE_SECRET_workload:time:shared-key", Secret::from_text("4")),
            ("TOOLHIVE_SECRET_odd", Secret::new(vec![0xff])),
            ("PATH", Secret::from_text("/bin")),
        ])
    }

    #[test]
    fn only_prefixed_variables_are_secrets() {
        let store = store();
        let names: Vec<_> = store.names().collect();
        assert_eq!(names, ["API_KEY", "github", "workload:time:shared-key"]);
        assert_eq!(store.entries().unwrap().unwrap().len(), 3);
        assert_eq!(store.get(&Entry::secret("API_KEY").unwrap()).unwrap().unwrap().expose(), b"2");
        assert!(store.get(&Entry::secret("api_key").unwrap()).unwrap().is_none());
    }

    #[test]
    fn no_variable_is_a_workloads_key() {
        let entry = Entry::shared_key(&Name::parse("time").unwrap());
        assert!(store().get(&entry).unwrap().is_none());
    }

    #[test]
    fn nothing_is_written() {
        let (store, entry) = (store(), Entry::secret("github").unwrap());
        assert!(matches!(store.set(&entry, &Secret::from_text("x")), Err(StoreError::ReadOnly { .. })));
        let error = store.delete(&entry).unwrap_err();
        assert_eq!(error.to_string(), "cannot write secret:github: the environment can only be read");
    }
}
