//! The value of an entry: bytes that are zeroized and do not show themselves.

use std::fmt;

use zeroize::Zeroizing;

/// A secret as a store keeps it.
///
/// The bytes are zeroized when the value is dropped; `Debug` shows none of them, not even their number.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes bytes as a secret. They are not copied, so no second copy stays behind.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Copies a text into a secret. The caller zeroizes the text.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self::new(text.as_bytes().to_vec())
    }

    /// The bytes. The caller keeps them out of logs, arguments and files.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, if they are UTF-8.
    #[must_use]
    pub fn expose_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

impl From<Zeroizing<Vec<u8>>> for Secret {
    fn from(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::from_text("hunter2")), "Secret(..)");
        assert_eq!(format!("{:#?}", Some(Secret::new(vec![]))), "Some(\n    Secret(..),\n)");
    }

    #[test]
    fn text_is_given_only_when_it_is_text() {
        assert_eq!(Secret::from_text("größe").expose_text(), Some("größe"));
        assert_eq!(Secret::new(vec![0xff]).expose_text(), None);
    }
}
