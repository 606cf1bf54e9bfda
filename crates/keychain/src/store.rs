//! The trait that every store implements, and how a store fails.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::file::Fault;
use crate::os::KeychainFault;
use crate::{Entry, Secret};

/// A place that keeps secrets under names.
///
/// All calls block, some stores for as long as a person takes to answer a prompt; call them where blocking is
/// allowed. What an implementation promises:
///
/// - A [`set`](Self::set) or [`delete`](Self::delete) that returned `Ok` survives a crash of the machine, as far
///   as the store survives one at all. One that returned an error may have happened or not: read again.
/// - Each write replaces one entry as a whole. Nobody ever reads half a value.
/// - Reads are never answered from a cache.
/// - Errors never contain a secret.
pub trait Store: Send + Sync {
    /// What sort of place this is.
    fn kind(&self) -> StoreKind;

    /// Reads one entry; `None` if there is none.
    ///
    /// # Errors
    /// The store is missing, locked, damaged or denied. An entry that is merely absent is no error.
    fn get(&self, entry: &Entry) -> Result<Option<Secret>, StoreError>;

    /// Reads several entries, in the order asked. A store that can reads all of them at one moment; the default
    /// reads one after the other.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    fn get_many(&self, entries: &[Entry]) -> Result<Vec<Option<Secret>>, StoreError> {
        entries.iter().map(|entry| self.get(entry)).collect()
    }

    /// Writes one entry, whether or not there was one.
    ///
    /// # Errors
    /// As for [`get`](Self::get), or the value cannot be kept.
    fn set(&self, entry: &Entry, value: &Secret) -> Result<(), StoreError>;

    /// Deletes one entry; says whether there was one.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    fn delete(&self, entry: &Entry) -> Result<bool, StoreError>;

    /// The names of all entries, sorted; `None` if the store cannot tell, which is the default.
    ///
    /// What others keep in the same place is not among them. A name is a name: the value may be gone by the time it is
    /// read.
    ///
    /// # Errors
    /// As for [`get`](Self::get).
    fn entries(&self) -> Result<Option<Vec<Entry>>, StoreError> {
        Ok(None)
    }
}

macro_rules! forward {
    ($($holder:ty),*) => {$(
        impl<S: Store + ?Sized> Store for $holder {
            fn kind(&self) -> StoreKind {
                (**self).kind()
            }

            fn get(&self, entry: &Entry) -> Result<Option<Secret>, StoreError> {
                (**self).get(entry)
            }

            fn get_many(&self, entries: &[Entry]) -> Result<Vec<Option<Secret>>, StoreError> {
                (**self).get_many(entries)
            }

            fn set(&self, entry: &Entry, value: &Secret) -> Result<(), StoreError> {
                (**self).set(entry, value)
            }

            fn delete(&self, entry: &Entry) -> Result<bool, StoreError> {
                (**self).delete(entry)
            }

            fn entries(&self) -> Result<Option<Vec<Entry>>, StoreError> {
                (**self).entries()
            }
        }
    )*};
}

forward!(&S, Box<S>, std::sync::Arc<S>);

/// The sorts of stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreKind {
    /// Gone when the process ends.
    Memory,
    /// The encrypted file.
    EncryptedFile,
    /// The operating system's keychain.
    OsKeychain,
    /// Variables of the environment, which can only be read.
    Environment,
}

impl StoreKind {
    /// A stable word for configuration and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::EncryptedFile => "encrypted-file",
            Self::OsKeychain => "keychain",
            Self::Environment => "environment",
        }
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a store gave no answer. In every case what was stored is still there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused to read or write.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others than the owner have rights on a file that must be private.
    #[error("{} is open to others (mode {mode:04o}); run: chmod 600 {}", path.display(), quoted(path))]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file that must be ours belongs to another user.
    #[error(
        "{} belongs to user {owner}, not to user {user}; if it is yours, run: chown {user} {path} && chmod 600 {path}",
        path.display(), path = quoted(path)
    )]
    Owner {
        /// The file.
        path: PathBuf,
        /// Whom it belongs to (user id).
        owner: u32,
        /// Who we are (effective user id).
        user: u32,
    },
    /// A link, folder, pipe or device where a file must be. Links are not followed.
    #[error("{} is not a regular file (links are not followed)", path.display())]
    NotRegular {
        /// The path.
        path: PathBuf,
    },
    /// A file is larger than any that we write, or would become so.
    #[error("{} would be larger than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that is read or written, in bytes.
        limit: usize,
    },
    /// There is a store but not the key that it was encrypted with. A new one would open nothing.
    #[error("the master key of {} is missing: {master}", store.display())]
    MasterKeyMissing {
        /// The encrypted file.
        store: PathBuf,
        /// Where the key should be.
        master: String,
    },
    /// There is something in the master key's place that is no key.
    #[error("{place} does not hold a master key")]
    MasterKeyMalformed {
        /// The file or entry.
        place: String,
    },
    /// The encrypted file cannot be used.
    #[error("cannot use {}", path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        fault: Fault,
    },
    /// Another process has the right to write and makes no use of it.
    #[error("another command holds {} and has not written for {} s", path.display(), waited.as_secs())]
    Busy {
        /// The file that both want to write.
        path: PathBuf,
        /// How long nothing happened.
        waited: Duration,
    },
    /// The operating system's keychain gave no answer.
    #[error(transparent)]
    Keychain(#[from] KeychainFault),
    /// The store can only be read.
    #[error("cannot write {entry}: the environment can only be read")]
    ReadOnly {
        /// What was to be written or deleted.
        entry: Entry,
    },
    /// A passphrase opens this store, and nobody is there to be asked for it.
    #[error("the store is locked with a passphrase")]
    PassphraseNeeded,
    /// No memory for the derivation of a key, or a cost that is not allowed.
    #[error("the passphrase could not be turned into a key")]
    Derivation,
    /// No random bytes for a master key or a nonce.
    #[error("the operating system's random generator failed")]
    Random(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_survives_awkward_paths() {
        let path = PathBuf::from("/srv/o'neill/my keys/master.key");
        let error = StoreError::Permissions { path, mode: 0o644 };
        assert_eq!(
            error.to_string(),
            r"/srv/o'neill/my keys/master.key is open to others (mode 0644); run: chmod 600 '/srv/o'\''neill/my keys/master.key'"
        );
    }

    #[test]
    fn a_foreign_owner_is_named_with_the_way_out() {
        let error = StoreError::Owner { path: PathBuf::from("/k"), owner: 0, user: 1000 };
        assert_eq!(
            error.to_string(),
            "/k belongs to user 0, not to user 1000; if it is yours, run: chown 1000 '/k' && chmod 600 '/k'"
        );
    }
}
