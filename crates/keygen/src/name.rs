//! Names of workloads and labels of clients: one grammar, compared without regard to case.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

/// The longest name, in characters.
const MAX: usize = 63;

/// Names that Windows gives to devices, whatever follows a dot.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];

/// A workload's name or a client's label: `[A-Za-z0-9][A-Za-z0-9_.-]{0,62}`, no trailing dot, not `stdio`, no
/// device name.
///
/// Two names that differ only in case are equal, hash alike and share every entry, lock and socket.
#[derive(Clone)]
pub struct Name {
    text: Box<str>,
    lower: Box<str>,
}

/// Why a text cannot be a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// No characters at all.
    #[error("a name cannot be empty")]
    Empty,
    /// More than 63 characters.
    #[error("a name has at most 63 characters")]
    TooLong,
    /// The first character is not a letter or digit of ASCII.
    #[error("a name begins with a letter or a digit")]
    Start,
    /// A character other than ASCII letters, digits, `_`, `.` and `-`.
    #[error("a name is made of letters, digits, '_', '.' and '-'")]
    Character,
    /// It ends with a dot, which Windows drops from file names.
    #[error("a name cannot end with a dot")]
    TrailingDot,
    /// A word of the command line, or a device of Windows.
    #[error("this name is reserved")]
    Reserved,
}

impl Name {
    /// Checks a text against the grammar.
    ///
    /// # Errors
    /// The first rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let first = text.bytes().next().ok_or(NameError::Empty)?;
        if text.len() > MAX {
            return Err(NameError::TooLong);
        }
        if !first.is_ascii_alphanumeric() {
            return Err(NameError::Start);
        }
        if !text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-')) {
            return Err(NameError::Character);
        }
        if text.ends_with('.') {
            return Err(NameError::TrailingDot);
        }
        let lower = text.to_ascii_lowercase();
        if lower == "stdio" || is_device(&lower) {
            return Err(NameError::Reserved);
        }
        Ok(Self { text: text.into(), lower: lower.into() })
    }

    /// The name as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name in lowercase: the form that keys, locks, sockets and proofs are bound to.
    #[must_use]
    pub fn lower(&self) -> &str {
        &self.lower
    }
}

fn is_device(lower: &str) -> bool {
    let stem = lower.split('.').next().unwrap_or(lower);
    let numbered = |prefix| {
        stem.strip_prefix(prefix)
            .is_some_and(|rest: &str| rest.len() == 1 && rest.as_bytes()[0].is_ascii_digit())
    };
    DEVICES.contains(&stem) || numbered("com") || numbered("lpt")
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({:?})", self.text)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.lower == other.lower
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.lower.hash(state);
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        self.lower.cmp(&other.lower)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keeps_the_spelling_and_compares_without_case() {
        let name = Name::parse("My-Server_1.x").unwrap();
        assert_eq!(name.as_str(), "My-Server_1.x");
        assert_eq!(name.lower(), "my-server_1.x");
        assert_eq!(name, Name::parse("MY-SERVER_1.X").unwrap());
    }

    #[test]
    fn names_the_rule_that_is_broken() {
        let long = "x".repeat(64);
        let cases = [
            ("", NameError::Empty),
            (&long, NameError::TooLong),
            ("../etc", NameError::Start),
            (".hidden", NameError::Start),
            ("-flag", NameError::Start),
            ("a/b", NameError::Character),
            ("a\\b", NameError::Character),
            ("a b", NameError::Character),
            ("a\n", NameError::Character),
            ("a:b", NameError::Character),
            ("größe", NameError::Character),
            ("dot.", NameError::TrailingDot),
            ("stdio", NameError::Reserved),
            ("StdIO", NameError::Reserved),
            ("CON", NameError::Reserved),
            ("nul.txt", NameError::Reserved),
            ("com7", NameError::Reserved),
            ("LPT1.log", NameError::Reserved),
        ];
        for (text, expected) in cases {
            assert_eq!(Name::parse(text).err(), Some(expected), "{text:?}");
        }
        for text in ["a", "7", "con1", "console", "com", "com10", "stdio2", "a..b", &"x".repeat(63)] {
            assert!(Name::parse(text).is_ok(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn accepts_the_grammar_and_nothing_else(text in "\\PC{0,70}") {
            let fits = !text.is_empty()
                && text.len() <= 63
                && text.as_bytes()[0].is_ascii_alphanumeric()
                && text.bytes().all(|c| c.is_ascii_alphanumeric() || b"_.-".contains(&c))
                && !text.ends_with('.');
            match Name::parse(&text) {
                Ok(name) => prop_assert!(fits && name.as_str() == text),
                Err(error) => prop_assert!(!fits || error == NameError::Reserved),
            }
        }
    }
}
