//! The shared key that locks a local MCP server: how it is made, written, read, compared and proved.
//!
//! A workload's key is 32 bytes from the operating system's generator. Clients send its text form in the
//! [`header::AUTH`] field; servers compare it in constant time against a [`KeySet`]; and either side can show
//! that it holds the key without sending it, with a [`proof`] bound to one TCP connection.
//!
//! What this crate refuses to do:
//!
//! - It never makes a key from a password. A weak key could be guessed offline from one proof.
//! - It never prints a key: [`SharedKey`] has neither `Debug` nor `Display`. Reading one takes a call whose name
//!   starts with `expose_`.
//! - It stores nothing and talks to nobody.
//!
//! ```
//! use thv_keygen::{KeySet, LiveKey, SharedKey};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let key = SharedKey::generate()?;
//! let set = KeySet::new(vec![LiveKey::new(key.clone(), None, None)]);
//!
//! let presented = SharedKey::parse(key.expose_text().as_bytes())?;
//! let hit = set.check(&presented, std::time::SystemTime::now()).expect("the same key");
//! assert_eq!(hit.id(), key.id());
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod header;
mod id;
mod key;
mod name;
pub mod proof;
mod set;

pub use id::{KeyId, ParseKeyIdError};
pub use key::{GenerateError, ParseKeyError, SharedKey};
pub use name::{Name, NameError};
pub use set::{KeySet, LiveKey};
