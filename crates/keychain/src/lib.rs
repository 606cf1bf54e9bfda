//! Where the keys of local MCP servers rest, and in which order they are written.
//!
//! Two layers:
//!
//! - A [`Store`] keeps small secrets under [`Entry`] names. There is the operating system's keychain ([`OsStore`]),
//!   the encrypted file ([`FileStore`]), whose master key may rest in that keychain or come from a passphrase, the
//!   environment ([`EnvironmentStore`], read-only) and, for tests and short lives, memory ([`MemoryStore`]). A store
//!   knows nothing about workloads.
//! - The [`Vault`] on top knows which entries make up a workload's keys and writes them in such an order that a
//!   crash between any two writes leaves no reader with a key that opens nothing. Beside it, [`Secrets`] keeps what
//!   users' servers need, and [`migrate`] moves all of it from one store to another.
//!
//! What this crate refuses to do:
//!
//! - It never replaces what it cannot read. A damaged file, a newer version or the wrong master key is an error,
//!   and the file stays as it is.
//! - It never makes a new master key for a store that already exists.
//! - It never caches an entry: each read goes to the store, so a key that was just refused is not read again from
//!   memory. Only a master key may be cached, and only once it has opened its file.
//! - It opens no window on the screen, unless asked to by name ([`OsStore::unlock`]). The keychain of macOS opens one
//!   by itself when a program asks for an item that it has not asked for before.
//! - It never turns to another store when one fails.
//! - It never prints a secret. Errors carry paths, entry names and key ids; [`Secret`] has no readable `Debug`.
//! - It finds no folders by itself and makes none: all paths are handed in.
//!
//! Every call blocks. A file takes well under a millisecond to read, a keychain a few; one that hangs, 3 seconds, and so
//! does the lock of a file whose holder hangs.
//!
//! ```
//! use std::time::SystemTime;
//! use thv_keychain::{MemoryStore, Vault};
//! use thv_keygen::Name;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let vault = Vault::new(MemoryStore::new());
//! let name = Name::parse("time")?;
//!
//! let set = vault.create(&name, SystemTime::now())?;
//! let current = vault.current(&name)?.expect("just made");
//! assert!(set.check(&current, SystemTime::now()).is_some());
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod entry;
pub mod environment;
pub mod file;
#[cfg(target_os = "linux")]
pub mod kernel;
mod memory;
pub mod migrate;
pub mod os;
mod private;
mod secret;
pub mod secrets;
mod store;
pub mod toolhive;
pub mod vault;

pub use entry::{Entry, EntryError};
pub use environment::EnvironmentStore;
pub use file::{FileStore, KeptKey, KeyFile, MasterKey, Passphrase};
pub use memory::MemoryStore;
pub use os::{KeychainFault, OsOptions, OsStore};
pub use secret::Secret;
pub use secrets::{Secrets, SecretsError};
pub use store::{Store, StoreError, StoreKind};
pub use vault::{ErrorKind, Publish, PublishError, Receipt, Vault, VaultError};
