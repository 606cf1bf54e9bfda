//! How the operating system's keychain fails.

use std::time::Duration;

/// Why the operating system's keychain gave no answer. No message holds a secret: those of the libraries below are
/// never repeated, only the stable names of their errors.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeychainFault {
    /// There is no keychain, or no way to it.
    #[error("the keychain is not available: {reason}")]
    Unavailable {
        /// What is missing.
        reason: String,
    },
    /// It must be unlocked first.
    #[error("the keychain is locked")]
    Locked,
    /// It has no collection to keep anything in.
    #[error("the keychain has no default collection")]
    NoCollection,
    /// It refused this program.
    #[error("the keychain denied access: {reason}")]
    Denied {
        /// In the keychain's words.
        reason: String,
    },
    /// Several items have the same name, and nobody can say which of them counts.
    #[error("the keychain holds {count} items of service {service} named {name}")]
    Ambiguous {
        /// The service.
        service: String,
        /// The entry.
        name: String,
        /// How many.
        count: usize,
    },
    /// It did not answer.
    #[error("the keychain did not answer within {} s", bound.as_secs_f32())]
    TimedOut {
        /// How long was waited.
        bound: Duration,
    },
    /// It takes no value of this length.
    #[error("the keychain takes at most {limit} bytes")]
    TooLong {
        /// The most that it takes, in bytes.
        limit: usize,
    },
    /// Something holds the entry's place that this program never wrote there.
    #[error("the item {name} in the keychain is damaged")]
    Damaged {
        /// The entry.
        name: String,
    },
    /// Anything else.
    #[error("the keychain failed: {reason}")]
    Failed {
        /// In the keychain's words.
        reason: String,
    },
}

impl KeychainFault {
    /// What a person can do about it, as a sentence for the end of a message.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        let advice = match self {
            Self::Locked => {
                "unlock it (log in to the desktop, or open the keychain's own program) and try again"
            }
            Self::NoCollection => "make a default keyring, for instance by logging in to the desktop once",
            Self::TimedOut { .. } => {
                "see whether the keychain's service runs, or an unlock window waits for an answer"
            }
            Self::Ambiguous { service, name, .. } => {
                return Some(if cfg!(target_os = "linux") {
                    format!(
                        "look at them with `secret-tool search --all service '{service}' username '{name}'` and delete \
                         all but one in the keychain's own program"
                    )
                } else {
                    "delete all but one in the keychain's own program".to_owned()
                });
            }
            _ => return None,
        };
        Some(advice.to_owned())
    }

    /// Whether the keychain itself said so, over a connection that works.
    pub(super) fn is_answer(&self) -> bool {
        matches!(
            self,
            Self::Locked
                | Self::NoCollection
                | Self::Denied { .. }
                | Self::Ambiguous { .. }
                | Self::TooLong { .. }
                | Self::Damaged { .. }
        )
    }

    /// The call's own thread ended without a result.
    pub(super) fn lost() -> Self {
        Self::Failed { reason: "the call could not be run".to_owned() }
    }
}

/// A fault, and whether another session may do better.
pub(super) struct Failure {
    pub(super) fault: KeychainFault,
    pub(super) session_died: bool,
}

impl From<KeychainFault> for Failure {
    fn from(fault: KeychainFault) -> Self {
        Self { fault, session_died: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_come_with_the_command_that_shows_them() {
        let fault =
            KeychainFault::Ambiguous { service: "thv".to_owned(), name: "secret:a".to_owned(), count: 2 };
        assert_eq!(fault.to_string(), "the keychain holds 2 items of service thv named secret:a");
        let advice = fault.advice().unwrap();
        assert!(advice.contains("all but one"), "{advice}");
        if cfg!(target_os = "linux") {
            assert!(
                advice.contains("secret-tool search --all service 'thv' username 'secret:a'"),
                "{advice}"
            );
        }
    }
}
