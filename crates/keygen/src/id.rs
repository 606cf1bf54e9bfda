//! Key ids: the public names of keys.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::SharedKey;

const DOMAIN: &[u8] = b"toolhive-key-id-v1";

/// A key's public name: the first 8 bytes of SHA-256(`"toolhive-key-id-v1"` ‖ raw key), shown as lowercase hex.
///
/// It may be logged and listed. Nothing about the key but equality can be learned from it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 8]);

impl KeyId {
    pub(crate) fn of(key: &SharedKey) -> Self {
        let digest = Sha256::new().chain_update(DOMAIN).chain_update(key.expose_bytes()).finalize();
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        Self(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// A text that is not 16 lowercase hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key id is exactly 16 lowercase hex digits")]
pub struct ParseKeyIdError;

impl FromStr for KeyId {
    type Err = ParseKeyIdError;

    fn from_str(text: &str) -> Result<Self, ParseKeyIdError> {
        let digits: &[u8; 16] = text.as_bytes().try_into().map_err(|_| ParseKeyIdError)?;
        let mut id = [0; 8];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(id))
    }
}

fn nibble(digit: u8) -> Result<u8, ParseKeyIdError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(ParseKeyIdError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_other_lengths_uppercase_and_non_hex() {
        for text in [
            "",
            "08b5d7d2ef52b8b",
            "08b5d7d2ef52b8b60",
            "08B5D7D2EF52B8B6",
            "08b5d7d2ef52b8bg",
            "0x08b5d7d2ef52b8",
        ] {
            assert_eq!(text.parse::<KeyId>(), Err(ParseKeyIdError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_form_round_trips(raw in any::<[u8; 32]>()) {
            let id = SharedKey::from_bytes(raw).id();
            prop_assert_eq!(id.to_string().parse::<KeyId>(), Ok(id));
        }

        #[test]
        fn parses_nothing_that_it_would_not_print(text in "\\PC{0,20}") {
            if let Ok(id) = text.parse::<KeyId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
