//! How the vault fails.

use std::time::SystemTime;

use thv_keygen::{GenerateError, Name};

use super::rotate::PublishError;
use crate::{Entry, StoreError};

/// Why the vault did not do what was asked. It never contains a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The store failed. The operation may have been done in part; the next holder of the lock finishes it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The workload has no key.
    #[error("workload {name} has no key")]
    NoKey {
        /// The workload.
        name: Name,
    },
    /// The workload has a key already.
    #[error("workload {name} already has a key")]
    KeyExists {
        /// The workload.
        name: Name,
    },
    /// The workload issued no key to this client.
    #[error("workload {name} has no key for client {label}")]
    NoClient {
        /// The workload.
        name: Name,
        /// The client.
        label: Name,
    },
    /// The workload issued a key to this client already.
    #[error("workload {name} already has a key for client {label}")]
    ClientExists {
        /// The workload.
        name: Name,
        /// The client.
        label: Name,
    },
    /// A rotation would leave more than eight earlier keys in their grace periods.
    #[error(
        "{} earlier keys of workload {name} are still in their grace periods",
        super::record::MAX_PREVIOUS
    )]
    TooManyPrevious {
        /// The workload.
        name: Name,
        /// When the first of them ends.
        first_end: SystemTime,
    },
    /// The supervisor did not confirm the keys.
    #[error("the supervisor of workload {name} did not confirm its keys: {left}")]
    NotPublished {
        /// The workload.
        name: Name,
        /// What this means for the keys in the store, as half a sentence.
        left: &'static str,
        /// What went wrong.
        #[source]
        source: PublishError,
    },
    /// An entry holds what the vault never wrote there. It is left as it is.
    #[error("the entry {entry} is damaged: {reason}")]
    Damaged {
        /// The entry.
        entry: Entry,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A later version of this program wrote an entry. It is left as it is.
    #[error("the entry {entry} has version {version}, written by a newer thv")]
    NewerVersion {
        /// The entry.
        entry: Entry,
        /// Its version.
        version: u64,
    },
    /// The clock, or the clock and the grace period together, cannot be written down in seconds since 1970.
    #[error("the time is out of range; look at the clock and at the grace period")]
    Time,
    /// No new key could be made.
    #[error(transparent)]
    Generate(#[from] GenerateError),
}

/// The sorts of failures, for those who choose an exit code or an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// What was named does not exist.
    NotFound,
    /// What was to be made exists.
    AlreadyExists,
    /// The store is missing, locked, denied, or cannot be read.
    Keychain,
    /// It could be done and is not allowed.
    Refused,
    /// Anything else.
    Failed,
}

impl VaultError {
    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoKey { .. } | Self::NoClient { .. } => ErrorKind::NotFound,
            Self::KeyExists { .. } | Self::ClientExists { .. } => ErrorKind::AlreadyExists,
            Self::Store(_) => ErrorKind::Keychain,
            Self::TooManyPrevious { .. } => ErrorKind::Refused,
            Self::NotPublished { .. }
            | Self::Damaged { .. }
            | Self::NewerVersion { .. }
            | Self::Time
            | Self::Generate(_) => ErrorKind::Failed,
        }
    }
}
