//! The key that encrypts the file: what it is, and the provider that keeps it in a file of its own.

use std::path::{Path, PathBuf};

use thv_keygen::{KeyId, SharedKey};
use zeroize::Zeroizing;

use super::Derivation;
use crate::{StoreError, private};

/// The 32 bytes that encrypt a store. Zeroized when dropped, without `Debug`.
///
/// It has the form of a [`SharedKey`] and is made like one, but it is another type: a master key opens no workload,
/// and a workload's key encrypts nothing.
pub struct StoreKey {
    key: SharedKey,
    derivation: Option<Derivation>,
}

impl StoreKey {
    /// Makes a new key with the operating system's generator.
    ///
    /// # Errors
    /// The generator failed; nothing weaker is tried.
    pub fn generate() -> Result<Self, StoreError> {
        let key = SharedKey::generate().map_err(|error| StoreError::Random(error.into()))?;
        Ok(Self { key, derivation: None })
    }

    /// Takes 32 raw bytes, which come from a generator.
    #[must_use]
    pub fn from_bytes(raw: [u8; 32]) -> Self {
        Self { key: SharedKey::from_bytes(raw), derivation: None }
    }

    /// Takes 32 raw bytes that came, or would come, from this derivation.
    pub(crate) fn derived(raw: &[u8; 32], derivation: Option<Derivation>) -> Self {
        Self { key: SharedKey::from_bytes(*raw), derivation }
    }

    /// Reads the text form.
    pub(crate) fn parse(text: &[u8], place: impl FnOnce() -> String) -> Result<Self, StoreError> {
        let key = SharedKey::parse(text).map_err(|_| StoreError::MasterKeyMalformed { place: place() })?;
        Ok(Self { key, derivation: None })
    }

    /// The text form, standard base64.
    pub(crate) fn expose_text(&self) -> Zeroizing<String> {
        self.key.expose_text()
    }

    /// The raw bytes.
    #[must_use]
    pub fn expose_bytes(&self) -> &[u8; 32] {
        self.key.expose_bytes()
    }

    /// The key's public name, which stands in the header of each file that it encrypts.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.key.id()
    }

    /// How it was derived from a passphrase, if it was.
    #[must_use]
    pub fn derivation(&self) -> Option<Derivation> {
        self.derivation
    }
}

/// What the header of an encrypted file says about its key. Nothing of it is proved until the key has opened the
/// file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The key's public name.
    pub id: KeyId,
    /// How to derive it, if it comes from a passphrase.
    pub derivation: Option<Derivation>,
}

/// Who keeps the master key of an encrypted file.
pub trait MasterKey: Send + Sync {
    /// The key for the file whose header says `wanted`, `None` if there is no file yet. Gives `None` if no key has
    /// been made.
    ///
    /// # Errors
    /// It may exist but cannot be had. This must never be reported as `None`.
    fn load(&self, wanted: Option<&Wanted>) -> Result<Option<StoreKey>, StoreError>;

    /// Makes the first key and keeps it durably before it is returned. If one appeared in the meantime, that one
    /// is returned and nothing is replaced. Only called as long as there is no store.
    ///
    /// # Errors
    /// The key could not be made or kept.
    fn create(&self) -> Result<StoreKey, StoreError>;

    /// The key has just opened or written the file. Whoever caches keys does it here, so that none is cached that
    /// was never right.
    fn proved(&self, _key: &StoreKey) {}

    /// Whether its keys are derived from a passphrase.
    fn derives(&self) -> bool {
        false
    }

    /// Where the key is, for messages.
    fn place(&self) -> String;
}

/// A master key in a file with mode 0600: its text form and a line break.
///
/// This keeps other users out, and whoever gets hold of the encrypted file alone, in a backup for instance. It does
/// not stop a program of the same user.
pub struct KeyFile {
    path: PathBuf,
}

/// A key's text and a line break of any system, in bytes.
const LIMIT: usize = 44 + 2;

impl KeyFile {
    /// Names the file; nothing is touched yet. Its folder must exist.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn malformed(&self) -> StoreError {
        StoreError::MasterKeyMalformed { place: self.place() }
    }
}

impl MasterKey for KeyFile {
    fn load(&self, _wanted: Option<&Wanted>) -> Result<Option<StoreKey>, StoreError> {
        let text = match private::read(&self.path, LIMIT) {
            Ok(None) => return Ok(None),
            Ok(Some(text)) => text,
            Err(StoreError::TooLarge { .. }) => return Err(self.malformed()),
            Err(error) => return Err(error),
        };
        let line = text.strip_suffix(b"\n").unwrap_or(&text);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        StoreKey::parse(line, || self.place()).map(Some)
    }

    fn create(&self) -> Result<StoreKey, StoreError> {
        let key = StoreKey::generate()?;
        // Room for all of it at once: a buffer that grows leaves its older half behind in memory.
        let mut line = Zeroizing::new(Vec::with_capacity(LIMIT));
        line.extend_from_slice(key.expose_text().as_bytes());
        line.push(b'\n');
        if private::create(&self.path, &line)? {
            return Ok(key);
        }
        self.load(None)?.ok_or_else(|| self.malformed())
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests plant files that the crate must refuse")]

    use super::*;
    use std::fs;

    fn file() -> (tempfile::TempDir, KeyFile) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        (dir, KeyFile::new(path))
    }

    fn plant(path: &Path, text: &str) {
        let _ = fs::remove_file(path);
        assert!(private::create(path, text.as_bytes()).unwrap());
    }

    #[test]
    fn makes_one_key_and_keeps_it() {
        let (_dir, file) = file();
        assert!(file.load(None).unwrap().is_none());
        let first = file.create().unwrap();
        assert_eq!(file.load(None).unwrap().unwrap().expose_bytes(), first.expose_bytes());
        assert_eq!(file.create().unwrap().expose_bytes(), first.expose_bytes());
        assert_eq!(fs::read(file.path()).unwrap().len(), 45);
    }

    #[test]
    fn takes_a_line_of_any_system() {
        let (_dir, file) = file();
        let text = SharedKey::from_bytes([7; 32]).expose_text();
        for end in ["", "\n", "\r\n"] {
            plant(file.path(), &format!("{}{end}", *text));
            assert_eq!(file.load(None).unwrap().unwrap().expose_bytes(), &[7; 32]);
        }
    }

    #[test]
    fn anything_else_in_its_place_is_an_error_without_the_text() {
        let (_dir, file) = file();
        let text = SharedKey::from_bytes([7; 32]).expose_text();
        let (text, long) = (text.as_str(), "hunter2".repeat(99));
        for wrong in ["", "\n", "hunter2", &text[..40], &format!("{text}\n\n"), &format!(" {text}"), &long] {
            plant(file.path(), wrong);
            let error = file.load(None).err().expect("not a key");
            assert!(matches!(error, StoreError::MasterKeyMalformed { .. }), "{wrong:?}");
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }
}
