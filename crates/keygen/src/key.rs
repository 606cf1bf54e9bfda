//! The shared key itself: 32 bytes, its text form, its comparison.

use base64::Engine as _;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::general_purpose::GeneralPurpose;
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use constant_time_eq::constant_time_eq_32;
use getrandom::SysRng;
use rand_core::TryRng as _;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::KeyId;

/// Text lengths of 32 bytes in base64, without and with the one padding character.
const UNPADDED: usize = 43;
const PADDED: usize = 44;

// Trailing bits are refused by the engine's default: two texts must never mean the same key.
const fn engine(alphabet: &Alphabet) -> GeneralPurpose {
    GeneralPurpose::new(
        alphabet,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    )
}

static STANDARD_FORM: GeneralPurpose = engine(&STANDARD);
static URL_SAFE_FORM: GeneralPurpose = engine(&URL_SAFE);

/// A workload's 256-bit key.
///
/// The bytes are zeroized when the value is dropped. There is no `Debug` and no `Display`, so a key cannot slip
/// into a log through a format string; the two `expose_` methods are the only ways out.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SharedKey([u8; 32]);

/// The operating system's generator gave no bytes.
#[derive(Debug, thiserror::Error)]
#[error("the operating system's random generator failed")]
pub struct GenerateError(#[source] pub(crate) getrandom::Error);

/// Why a text is not a key. It never contains the text, which may be somebody's secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseKeyError {
    /// Neither 43 nor 44 characters.
    #[error("a key is 44 characters of base64 (43 without padding); this text has another length")]
    Length,
    /// A character outside both alphabets, both alphabets mixed, padding in the wrong place, or trailing bits set.
    #[error("a key is the base64 form of exactly 32 bytes; this text is not")]
    Encoding,
}

impl SharedKey {
    /// Makes a new key with the operating system's generator.
    ///
    /// # Errors
    /// The generator failed; nothing weaker is tried.
    pub fn generate() -> Result<Self, GenerateError> {
        let mut key = Self([0; 32]);
        SysRng.try_fill_bytes(&mut key.0).map_err(GenerateError)?;
        Ok(key)
    }

    /// Takes 32 raw bytes as a key.
    ///
    /// They must come from a generator: a proof lets whoever sees it test guesses offline.
    #[must_use]
    pub fn from_bytes(raw: [u8; 32]) -> Self {
        Self(raw)
    }

    /// Reads a key's text form: standard or URL-safe base64 (RFC 4648 sections 4 and 5), padded or not.
    ///
    /// # Errors
    /// Anything else, among it white space, mixed alphabets, another length and non-zero trailing bits.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Self, ParseKeyError> {
        let text = text.as_ref();
        if text.len() != UNPADDED && text.len() != PADDED {
            return Err(ParseKeyError::Length);
        }
        let url_safe = text.iter().any(|c| matches!(c, b'-' | b'_'));
        let form = if url_safe { &URL_SAFE_FORM } else { &STANDARD_FORM };
        // One byte more than a key: 44 characters without padding would decode to 33 bytes.
        let mut raw = Zeroizing::new([0; 33]);
        let length = form.decode_slice_unchecked(text, &mut *raw).map_err(|_| ParseKeyError::Encoding)?;
        if length != 32 {
            return Err(ParseKeyError::Encoding);
        }
        let mut key = Self([0; 32]);
        key.0.copy_from_slice(&raw[..32]);
        Ok(key)
    }

    /// The raw bytes. The caller keeps them out of logs, arguments and files.
    #[must_use]
    pub fn expose_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The canonical text form: 44 characters of padded standard base64, zeroized when dropped.
    #[must_use]
    pub fn expose_text(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD_FORM.encode(self.0))
    }

    /// The key's public name.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId::of(self)
    }

    /// Compares two keys in constant time.
    #[must_use]
    pub fn ct_eq(&self, other: &Self) -> bool {
        constant_time_eq_32(&self.0, &other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const SEQUENTIAL: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn refusal(text: &str) -> Option<ParseKeyError> {
        SharedKey::parse(text).err()
    }

    #[test]
    fn ten_thousand_keys_are_all_different() {
        let keys: HashSet<[u8; 32]> =
            (0..10_000).map(|_| *SharedKey::generate().unwrap().expose_bytes()).collect();
        assert_eq!(keys.len(), 10_000);
    }

    #[test]
    fn refuses_what_is_not_exactly_one_form_of_32_bytes() {
        let mixed = format!("-+{}", &SEQUENTIAL[2..]);
        let cases = [
            ("", ParseKeyError::Length),
            (&SEQUENTIAL[..42], ParseKeyError::Length),
            (&format!("{SEQUENTIAL}="), ParseKeyError::Length),
            (&format!(" {}", &SEQUENTIAL[..43]), ParseKeyError::Encoding),
            (&format!("{}\n", &SEQUENTIAL[..43]), ParseKeyError::Encoding),
            (&SEQUENTIAL.replace("ICQ", "IC Q"), ParseKeyError::Length),
            (&SEQUENTIAL.replace("QFB", "Q B"), ParseKeyError::Encoding),
            // The last character carries two bits beyond the 32nd byte; they must be zero.
            (&SEQUENTIAL.replace("h8=", "h9="), ParseKeyError::Encoding),
            (&SEQUENTIAL[..43].replace("Hh8", "Hh9"), ParseKeyError::Encoding),
            // 44 characters without padding are 33 bytes.
            (&SEQUENTIAL.replace('=', "A"), ParseKeyError::Encoding),
            (&format!("={}", &SEQUENTIAL[..43]), ParseKeyError::Encoding),
            (&format!("{}==", &SEQUENTIAL[..42]), ParseKeyError::Encoding),
            (&mixed, ParseKeyError::Encoding),
            (&SEQUENTIAL.replace("AAE", "ÄE"), ParseKeyError::Encoding),
        ];
        for (text, expected) in cases {
            assert_eq!(refusal(text), Some(expected), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn all_four_text_forms_mean_the_same_key(raw in any::<[u8; 32]>()) {
            let padded = SharedKey::from_bytes(raw).expose_text();
            let url_safe = padded.replace('+', "-").replace('/', "_");
            for text in [&padded, url_safe.as_str(), padded.trim_end_matches('='), url_safe.trim_end_matches('=')] {
                let key = SharedKey::parse(text);
                prop_assert!(key.is_ok_and(|key| key.expose_bytes() == &raw), "{}", text);
            }
        }

        #[test]
        fn parses_nothing_that_it_would_not_write(text in "[A-Za-z0-9+/_=-]{42,45}") {
            if let Ok(key) = SharedKey::parse(&text) {
                let canonical = key.expose_text();
                let given = text.trim_end_matches('=').replace('-', "+").replace('_', "/");
                prop_assert_eq!(canonical.trim_end_matches('='), given);
                prop_assert!(!(text.contains(['+', '/']) && text.contains(['-', '_'])));
            }
        }

        #[test]
        fn comparison_is_equality(a in any::<[u8; 32]>(), at in 0usize..32, flip in 1u8..) {
            let mut b = a;
            prop_assert!(SharedKey::from_bytes(a).ct_eq(&SharedKey::from_bytes(b)));
            b[at] ^= flip;
            prop_assert!(!SharedKey::from_bytes(a).ct_eq(&SharedKey::from_bytes(b)));
        }
    }
}
