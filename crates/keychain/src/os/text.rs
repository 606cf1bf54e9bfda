//! Values as text, since not every keychain takes bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::KeychainFault;
use crate::{Entry, Secret, StoreError};

/// The longest text that is kept, in bytes. Windows takes no more; the others do, and must not hold what could never
/// be moved to another machine's keychain, but a secret for a server may well be a certificate.
pub(super) const LIMIT: usize = if cfg!(windows) { 2_560 } else { 64 << 10 };

/// Before the encoding of a value that is no text, or that begins like this itself.
const MARK: &[u8] = b"base64:";

/// The text of a value: itself if that can be told from an encoded one.
pub(super) fn encode(value: &Secret) -> Zeroizing<Vec<u8>> {
    let bytes = value.expose();
    let plain = value.expose_text().is_some_and(|text| !text.contains('\0')) && !bytes.starts_with(MARK);
    if plain {
        return Zeroizing::new(bytes.to_vec());
    }
    let mut text = Zeroizing::new(vec![0; MARK.len() + bytes.len().div_ceil(3) * 4]);
    text[..MARK.len()].copy_from_slice(MARK);
    STANDARD.encode_slice(bytes, &mut text[MARK.len()..]).expect("the buffer has the length of the encoding");
    text
}

/// The value of a text that was read back.
pub(super) fn decode(entry: &Entry, text: Zeroizing<Vec<u8>>) -> Result<Secret, StoreError> {
    match text.strip_prefix(MARK) {
        None => Ok(text.into()),
        Some(encoded) => {
            let mut bytes = Zeroizing::new(vec![0; encoded.len()]);
            let length = STANDARD
                .decode_slice(encoded, &mut bytes)
                .map_err(|_| KeychainFault::Damaged { name: entry.to_string() })?;
            bytes.truncate(length);
            Ok(bytes.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> Entry {
        Entry::secret("a").unwrap()
    }

    #[test]
    fn a_key_is_kept_as_exactly_its_text() {
        let key = thv_keygen::SharedKey::from_bytes([7; 32]).expose_text();
        assert_eq!(*encode(&Secret::from_text(&key)), key.as_bytes());
    }

    #[test]
    fn bytes_and_look_alikes_are_encoded() {
        assert_eq!(*encode(&Secret::new(vec![0xff])), b"base64:/w==");
        assert_eq!(*encode(&Secret::from_text("base64:x")), b"base64:YmFzZTY0Ong=");
        assert_eq!(*encode(&Secret::from_text("a\0b")), b"base64:YQBi");
    }

    #[test]
    fn a_damaged_encoding_is_named_without_its_text() {
        let text = Zeroizing::new(b"base64:hunter2!".to_vec());
        let error = decode(&entry(), text).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn every_value_comes_back_and_travels_as_text(bytes in any::<Vec<u8>>(), mark in any::<bool>()) {
            let bytes = if mark { [MARK, &bytes].concat() } else { bytes };
            let text = encode(&Secret::new(bytes.clone()));
            prop_assert!(std::str::from_utf8(&text).is_ok());
            let value = decode(&entry(), text).unwrap();
            prop_assert_eq!(value.expose(), &bytes[..]);
        }
    }
}
