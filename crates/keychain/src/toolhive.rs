//! Reading the encrypted store of ToolHive, to take over the secrets in it. It is never written: its own program
//! deletes the lock file after use, so two writers would lose each other's changes.
//!
//! The file is `nonce(12) ‖ ciphertext ‖ tag(16)`, AES-256-GCM under the unsalted SHA-256 of a password, which rests
//! in the operating system's keychain (service and user `toolhive`). The text is `{"secrets":{name: value}}`.

use std::collections::BTreeMap;
use std::fmt;

use aes_gcm::{AeadInOut as _, Aes256Gcm, KeyInit as _};
use serde::Deserialize;
use serde::de::{Deserializer, Visitor};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::Secret;

const NONCE: usize = 12;
const TAG: usize = 16;

/// Why a ToolHive store could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ToolhiveError {
    /// Too short to be one.
    #[error("it is not a ToolHive store")]
    NotAStore,
    /// The format cannot tell one from the other.
    #[error("the password is wrong, or the store is damaged")]
    WrongPassword,
    /// It was decrypted and holds something else.
    #[error("it holds something other than secrets")]
    Contents,
}

/// Decrypts a ToolHive store and gives the secrets by their names.
///
/// # Errors
/// It is not such a store, or the password does not open it. Nothing of it is given out then.
pub fn read(file: &[u8], password: &Secret) -> Result<BTreeMap<String, Secret>, ToolhiveError> {
    let (nonce, rest) = file.split_at_checked(NONCE).ok_or(ToolhiveError::NotAStore)?;
    let length = rest.len().checked_sub(TAG).ok_or(ToolhiveError::NotAStore)?;
    let (text, tag) = rest.split_at(length);

    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(&Sha256::digest(password.expose()));
    let mut text = Zeroizing::new(text.to_vec());
    let nonce = nonce.try_into().map_err(|_| ToolhiveError::NotAStore)?;
    let tag = tag.try_into().map_err(|_| ToolhiveError::NotAStore)?;
    Aes256Gcm::new((&*key).into())
        .decrypt_inout_detached(nonce, &[], text.as_mut_slice().into(), tag)
        .map_err(|_| ToolhiveError::WrongPassword)?;
    let contents: Contents = serde_json::from_slice(&text).map_err(|_| ToolhiveError::Contents)?;
    Ok(contents.secrets.unwrap_or_default().into_iter().map(|(name, Value(value))| (name, value)).collect())
}

#[derive(Deserialize)]
struct Contents {
    // Go writes an empty map as null.
    secrets: Option<BTreeMap<String, Value>>,
}

/// A text that becomes a secret without a copy that stays behind.
struct Value(Secret);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Value, E> {
                Ok(Value(Secret::from_text(text)))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    /// Made by another implementation: password `correct horse`, nonce 00…0b, two secrets.
    const VECTOR: &str = "AAECAwQFBgcICQoLdOWPBWg2BlWa1jnJXQF6xflMo/tyyE7/HgRhGJjDoM8nQItr4jar938LMnL9EuU3mem7F2KU/5\
        cyLo2NYGTcmw78J3A=";

    fn file() -> Vec<u8> {
        STANDARD.decode(VECTOR).unwrap()
    }

    fn password() -> Secret {
        Secret::from_text("correct horse")
    }

    #[test]
    fn reads_what_another_implementation_wrote() {
        let secrets = read(&file(), &password()).unwrap();
        let secrets: Vec<_> =
            secrets.iter().map(|(name, value)| (name.as_str(), value.expose_text().unwrap())).collect();
        assert_eq!(secrets, [("api", "größe \"x\""), ("github", "ghp_1")]);
    }

    #[test]
    fn nothing_else_opens_it_and_no_bit_may_change() {
        assert_eq!(read(&file(), &Secret::from_text("wrong")).err(), Some(ToolhiveError::WrongPassword));
        for bit in 0..file().len() * 8 {
            let mut file = file();
            file[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&file, &password()).err(), Some(ToolhiveError::WrongPassword), "bit {bit}");
        }
        for length in 0..file().len() {
            assert!(read(&file()[..length], &password()).is_err(), "cut to {length}");
        }
    }
}
