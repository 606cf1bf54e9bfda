//! The layout of the encrypted file, version 1.
//!
//! ```text
//! offset  bytes
//!      0      8  magic "THVSTORE"
//!      8      2  version, big-endian: 1
//!     10      1  where the key comes from: 0 = it is the master key, 1 = argon2id of a passphrase
//!     11      1  zero
//!     12     12  for 1: memory in KiB, passes and lanes, 4 bytes each, big-endian; else zero
//!     24     16  for 1: salt; else zero
//!     40     16  id of the key in hex, so that a wrong key is told from a damaged file
//!     56     12  nonce, new for every write
//!     68      4  length of the ciphertext, big-endian
//!     72      …  ciphertext, then the 16 bytes of the tag
//! ```
//!
//! The first 72 bytes are the associated data: no bit of the file can change unnoticed. The plaintext is a JSON
//! object, entry name → standard base64 of the value.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;

use aes_gcm::{AeadInOut as _, Aes256Gcm, KeyInit as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use getrandom::SysRng;
use rand_core::TryRng as _;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{SerializeMap as _, Serializer};
use thv_keygen::KeyId;
use zeroize::Zeroizing;

use super::{Buffer, Derivation, Entries, StoreKey, Wanted};
use crate::{Secret, StoreError};

const MAGIC: &[u8; 8] = b"THVSTORE";
const VERSION: u16 = 1;
/// Kind, reserved byte, parameters and salt: all zero as long as the master key is used as it is.
const DERIVATION: Range<usize> = 10..40;
const KEY_ID: Range<usize> = 40..56;
const NONCE: Range<usize> = 56..68;
const LENGTH: Range<usize> = 68..72;
const HEADER: usize = 72;
const TAG: usize = 16;

/// What is wrong with the contents of an encrypted file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It does not begin like one of our files.
    #[error("it is not an encrypted store")]
    NotAStore,
    /// A later version of this program wrote it.
    #[error("it has version {0}, written by a newer thv; this one reads version 1")]
    NewerVersion(u16),
    /// Its end is missing.
    #[error("it is cut short")]
    Truncated,
    /// It was encrypted with another master key.
    #[error("it was encrypted with another master key (this one is {present})")]
    WrongMasterKey {
        /// The public name of the key that was tried.
        present: KeyId,
    },
    /// The passphrase is not the one that it was encrypted with.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// A master key was offered, and it takes a passphrase.
    #[error("it is encrypted with a passphrase, not with a master key")]
    NeedsPassphrase,
    /// A passphrase was offered, and it takes a master key.
    #[error("it is encrypted with a master key, not with a passphrase")]
    NoPassphrase,
    /// Bytes were changed since it was written.
    #[error("it is damaged")]
    Damaged,
}

/// A file whose outside is in order.
pub(super) struct Sealed {
    bytes: Buffer,
    wanted: Wanted,
}

impl Sealed {
    /// Checks all that can be checked without the key.
    pub(super) fn parse(bytes: Buffer) -> Result<Self, Fault> {
        let beginning = bytes.len().min(MAGIC.len());
        if bytes[..beginning] != MAGIC[..beginning] {
            return Err(Fault::NotAStore);
        }
        match bytes.get(8..10).map(|version| u16::from_be_bytes([version[0], version[1]])) {
            None => return Err(Fault::Truncated),
            Some(0) => return Err(Fault::Damaged),
            Some(VERSION) => {}
            Some(newer) => return Err(Fault::NewerVersion(newer)),
        }
        let header = bytes.get(..HEADER).ok_or(Fault::Truncated)?;
        let derivation = Derivation::read(&header[DERIVATION]).map_err(|()| Fault::Damaged)?;
        let id =
            std::str::from_utf8(&header[KEY_ID]).ok().and_then(|id| id.parse().ok()).ok_or(Fault::Damaged)?;
        let length = header[LENGTH].iter().fold(0_u64, |length, byte| length << 8 | u64::from(*byte));
        match (bytes.len() as u64).cmp(&(length + (HEADER + TAG) as u64)) {
            Ordering::Less => Err(Fault::Truncated),
            Ordering::Greater => Err(Fault::Damaged),
            Ordering::Equal => Ok(Self { bytes, wanted: Wanted { id, derivation } }),
        }
    }

    /// What the header says about the key.
    pub(super) fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// Decrypts. Nothing is given out unless every bit is as it was written.
    pub(super) fn open(mut self, key: &StoreKey) -> Result<Entries, Fault> {
        if self.wanted.id != key.id() {
            return Err(match self.wanted.derivation {
                Some(_) => Fault::WrongPassphrase,
                None => Fault::WrongMasterKey { present: key.id() },
            });
        }
        let (header, rest) = self.bytes.split_at_mut(HEADER);
        let (text, tag) = rest.split_at_mut(rest.len() - TAG);
        let damaged = |_| Fault::Damaged;
        let nonce = (&header[NONCE]).try_into().map_err(|_| Fault::Damaged)?;
        let tag = (&*tag).try_into().map_err(|_| Fault::Damaged)?;
        cipher(key).decrypt_inout_detached(nonce, header, (&mut *text).into(), tag).map_err(damaged)?;
        serde_json::from_slice::<Plaintext>(text).map(|text| text.0).map_err(|_| Fault::Damaged)
    }
}

/// Encrypts all entries under a new nonce.
pub(super) fn seal(key: &StoreKey, entries: &Entries) -> Result<Buffer, StoreError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(HEADER + longest_text(entries) + TAG));
    bytes.resize(HEADER, 0);
    let mut json = serde_json::Serializer::new(&mut *bytes);
    serialize(entries, &mut json).expect("texts can be written to memory");
    let length = u32::try_from(bytes.len() - HEADER).expect("the store limits each value, and so the whole");

    let (header, text) = bytes.split_at_mut(HEADER);
    header[..8].copy_from_slice(MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_be_bytes());
    if let Some(derivation) = key.derivation() {
        derivation.write(&mut header[DERIVATION]);
    }
    header[KEY_ID].copy_from_slice(key.id().to_string().as_bytes());
    SysRng.try_fill_bytes(&mut header[NONCE]).map_err(|error| StoreError::Random(error.into()))?;
    header[LENGTH].copy_from_slice(&length.to_be_bytes());

    let nonce = (&header[NONCE]).try_into().expect("the range has the length of a nonce");
    let tag = cipher(key)
        .encrypt_inout_detached(nonce, header, text.into())
        .expect("the text is far shorter than the cipher's limit");
    bytes.extend_from_slice(&tag);
    Ok(bytes)
}

fn cipher(key: &StoreKey) -> Aes256Gcm {
    Aes256Gcm::new(key.expose_bytes().into())
}

/// An upper bound for the JSON text, so that it is written without moving in memory.
fn longest_text(entries: &Entries) -> usize {
    // An escaped byte takes at most six; quotes, colon and comma make six more.
    let entry = |(name, value): (&String, &Secret)| name.len() * 6 + value.expose().len().div_ceil(3) * 4 + 6;
    entries.iter().map(entry).sum::<usize>() + 2
}

fn serialize<S: Serializer>(entries: &Entries, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(entries.len()))?;
    for (name, value) in entries {
        map.serialize_entry(name, &*Zeroizing::new(STANDARD.encode(value.expose())))?;
    }
    map.end()
}

/// The decrypted JSON object. Unlike serde's own maps it takes no name twice.
struct Plaintext(Entries);

impl<'de> Deserialize<'de> for Plaintext {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of base64 texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Entries::new();
                // Values are borrowed from the decrypted buffer, which is wiped; base64 needs no escapes.
                while let Some((name, value)) = map.next_entry::<String, &str>()? {
                    let bytes = STANDARD.decode(value).map_err(|_| A::Error::custom("not base64"))?;
                    if entries.insert(name, Secret::new(bytes)).is_some() {
                        return Err(A::Error::custom("a name twice"));
                    }
                }
                Ok(entries)
            }
        }

        deserializer.deserialize_map(Names).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entries() -> Entries {
        let values =
            [("secret:a", "first"), ("secret:\"\\b", ""), ("workload:time:shared-key", "0123456789")];
        values.into_iter().map(|(name, value)| (name.to_owned(), Secret::from_text(value))).collect()
    }

    fn key(n: u8) -> StoreKey {
        StoreKey::from_bytes([n; 32])
    }

    fn open(bytes: &[u8], key: &StoreKey) -> Result<Entries, Fault> {
        Sealed::parse(Zeroizing::new(bytes.to_vec()))?.open(key)
    }

    /// Made by another implementation from the layout above: key 00…1f, nonce 64…6f, two entries.
    const VECTOR: &str = "VEhWU1RPUkUAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAADA4YjVkN2QyZWY1MmI4YjZkZWZnaGlqa2xtbm8AAAA9Mzmt\
        AxqbM+oEA33S+D8HkTuhNVu2Tt9Q0L7eI5fMxCyunSmtKSjobJyBHVvQKa+2OWG6hBIcK0rIxMf0kqfyryIULC4JdjGr2YYXz58=";

    /// The same, honestly encrypted, but with 1 as the derivation.
    const OTHER_DERIVATION: &str = "VEhWU1RPUkUAAQEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAADA4YjVkN2QyZWY1MmI4YjZkZWZnaGlqa2xtbm8AAAA9Mzmt\
        AxqbM+oEA33S+D8HkTuhNVu2Tt9Q0L7eI5fMxCyunSmtKSjobJyBHVvQKa+2OWG6hBIcK0rIxMf0ksqOzil/RHR22VTm/6ir1zQ=";

    #[test]
    fn reads_what_another_implementation_wrote() {
        let key = StoreKey::from_bytes(std::array::from_fn(|n| n as u8));
        let entries = open(&STANDARD.decode(VECTOR).unwrap(), &key).unwrap();
        let expected = [("secret:a", &b"first"[..]), ("workload:time:shared-key", b"second")];
        assert_eq!(plain(&entries), expected);
        let fault = open(&STANDARD.decode(OTHER_DERIVATION).unwrap(), &key).err();
        assert_eq!(fault, Some(Fault::Damaged));
    }

    fn plain(entries: &Entries) -> Vec<(&str, &[u8])> {
        entries.iter().map(|(name, value)| (name.as_str(), value.expose())).collect()
    }

    #[test]
    fn each_write_has_its_own_nonce_and_hides_its_text() {
        let (a, b) = (seal(&key(1), &entries()).unwrap(), seal(&key(1), &entries()).unwrap());
        assert_ne!(a[NONCE], b[NONCE]);
        assert_ne!(a[HEADER..], b[HEADER..]);
        for needle in [&b"first"[..], STANDARD.encode("first").as_bytes(), b"secret", b"workload"] {
            assert!(!a.windows(needle.len()).any(|window| window == needle));
        }
    }

    #[test]
    fn every_cut_is_noticed() {
        let whole = seal(&key(1), &entries()).unwrap();
        for length in 0..whole.len() {
            assert_eq!(open(&whole[..length], &key(1)).err(), Some(Fault::Truncated), "{length}");
        }
        let longer = [whole.as_slice(), b"x"].concat();
        assert_eq!(open(&longer, &key(1)).err(), Some(Fault::Damaged));
    }

    #[test]
    fn every_flipped_bit_is_noticed_and_named() {
        let whole = seal(&key(1), &entries()).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let fault = open(&bytes, &key(1)).expect_err("a changed bit went unnoticed");
            let expected = match bit / 8 {
                0..8 => fault == Fault::NotAStore,
                8..10 => matches!(fault, Fault::NewerVersion(_) | Fault::Damaged),
                40..56 => matches!(fault, Fault::WrongMasterKey { .. } | Fault::Damaged),
                68..72 => matches!(fault, Fault::Truncated | Fault::Damaged),
                _ => fault == Fault::Damaged,
            };
            assert!(expected, "bit {bit}: {fault}");
        }
    }

    #[test]
    fn other_files_versions_and_keys_are_told_apart() {
        let mut bytes = seal(&key(1), &entries()).unwrap();
        let present = key(2).id();
        assert_eq!(open(&bytes, &key(2)).err(), Some(Fault::WrongMasterKey { present }));
        // A newer version may have another layout, so nothing behind it is looked at.
        bytes[8..10].copy_from_slice(&7_u16.to_be_bytes());
        assert_eq!(open(&bytes[..10], &key(1)).err(), Some(Fault::NewerVersion(7)));
        assert_eq!(open(b"{\"secrets\":{}}", &key(1)).err(), Some(Fault::NotAStore));
        assert_eq!(open(b"", &key(1)).err(), Some(Fault::Truncated));
    }

    #[test]
    fn a_forged_key_id_gives_no_data() {
        let mut bytes = seal(&key(1), &entries()).unwrap();
        bytes[KEY_ID].copy_from_slice(key(2).id().to_string().as_bytes());
        assert_eq!(open(&bytes, &key(2)).err(), Some(Fault::Damaged));
    }

    proptest! {
        #[test]
        fn gives_back_what_went_in_without_moving_it_in_memory(
            map in proptest::collection::btree_map("\\PC{0,20}", any::<Vec<u8>>(), 0..20), raw in any::<[u8; 32]>(),
        ) {
            let map: Entries = map.into_iter().map(|(name, value)| (name, Secret::new(value))).collect();
            let bytes = seal(&StoreKey::from_bytes(raw), &map).unwrap();
            prop_assert!(bytes.len() <= HEADER + longest_text(&map) + TAG);
            let read = open(&bytes, &StoreKey::from_bytes(raw)).unwrap();
            prop_assert_eq!(plain(&read), plain(&map));
        }

        #[test]
        fn survives_any_bytes(bytes in any::<Vec<u8>>()) {
            let long = [MAGIC.as_slice(), &[0, 1], &bytes].concat();
            prop_assert!(open(&bytes, &key(1)).is_err());
            prop_assert!(open(&long, &key(1)).is_err());
        }
    }
}
