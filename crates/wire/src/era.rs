//! Revisions of MCP, and what of them a relay must know.

use std::fmt;

/// A published revision of the protocol, in order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Revision {
    /// `2024-11-05`: HTTP+SSE.
    V2024_11_05,
    /// `2025-03-26`: streamable HTTP, and the only one with batches.
    V2025_03_26,
    /// `2025-06-18`: `MCP-Protocol-Version` on each request after `initialize`.
    V2025_06_18,
    /// `2025-11-25`: event streams that may be polled.
    V2025_11_25,
    /// `2026-07-28`: no `initialize`, no sessions.
    V2026_07_28,
}

impl Revision {
    /// All revisions, oldest first.
    pub const ALL: [Self; 5] =
        [Self::V2024_11_05, Self::V2025_03_26, Self::V2025_06_18, Self::V2025_11_25, Self::V2026_07_28];

    /// The newest revision that still has `initialize` and sessions.
    pub const LATEST_LEGACY: Self = Self::V2025_11_25;

    /// The revision of this name; nothing for a name that no revision has.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|revision| revision.as_str() == text)
    }

    /// Its name, a date.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// Whether it belongs to the era without `initialize` and sessions.
    pub fn is_modern(self) -> bool {
        self >= Self::V2026_07_28
    }

    /// Whether a JSON-RPC batch is a message in it.
    pub fn has_batches(self) -> bool {
        self == Self::V2025_03_26
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_order() {
        for pair in Revision::ALL.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].as_str() < pair[1].as_str());
        }
        for revision in Revision::ALL {
            assert_eq!(Revision::parse(revision.as_str()), Some(revision));
        }
        for stranger in ["", "2025-03-27", "2025-03-26 ", "DRAFT-2026-v1", "1.0.0"] {
            assert_eq!(Revision::parse(stranger), None);
        }
    }

    #[test]
    fn traits_of_an_era() {
        assert_eq!(Revision::ALL.into_iter().filter(|r| r.has_batches()).count(), 1);
        assert!(Revision::V2025_03_26.has_batches());
        assert!(!Revision::LATEST_LEGACY.is_modern());
        assert!(Revision::V2026_07_28.is_modern());
    }
}
