//! What a command says when it fails: what happened, why, and what to do next; and the exit code for scripts.

use std::error::Error;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// Exit codes. They are part of the interface; `docs/cli.md` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It failed, in no way that has a code of its own.
    Failed = 1,
    /// The command line cannot be understood.
    Usage = 2,
    /// No such workload, secret or client.
    NotFound = 3,
    /// There is one already.
    Exists = 4,
    /// The keychain is missing, locked or denied.
    Keychain = 5,
    /// It was understood and refused.
    Refused = 6,
}

/// A failed command.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    exit: Exit,
    message: String,
    causes: Vec<String>,
    hints: Vec<String>,
}

/// The outcome of a command.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// Says what happened, to what.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), causes: Vec::new(), hints: Vec::new() }
    }

    /// Adds why, down to the root.
    pub fn because(mut self, error: &dyn Error) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            // A wrapper that only repeats what is beneath it says nothing new.
            if self.causes.last() != Some(&text) && self.message != text {
                self.causes.push(text);
            }
            next = error.source();
        }
        self
    }

    /// Adds what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The same failure with another exit code: what is a slip on a command line is none in a file.
    pub fn with_exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// What to do next.
    pub fn hints(&self) -> &[String] {
        &self.hints
    }

    /// What happened and why in one line, for places that have room for one.
    pub fn summary(&self) -> String {
        let mut line = self.message.clone();
        for cause in &self.causes {
            let _ = write!(line, ": {}", cause.replace('\n', " "));
        }
        line
    }

    /// The whole text, for a terminal.
    pub fn render(&self) -> String {
        let mut text = format!("error: {}\n", self.message);
        for cause in &self.causes {
            let mut lines = cause.lines();
            let _ = writeln!(text, "  because: {}", lines.next().unwrap_or_default());
            for line in lines {
                let _ = writeln!(text, "    {line}");
            }
        }
        for hint in &self.hints {
            let _ = writeln!(text, "  try: {hint}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn shows_what_why_and_what_to_do() {
        let outer = Outer(std::io::Error::other("disk on fire"));
        let failure = Failure::new(Exit::Failed, "cannot start time").because(&outer).hint("thv logs time");
        assert_eq!(
            failure.render(),
            "error: cannot start time\n  because: outer\n  because: disk on fire\n  try: thv logs time\n"
        );
        assert_eq!(failure.summary(), "cannot start time: outer: disk on fire");
    }

    #[test]
    fn a_cause_that_repeats_the_message_is_not_shown_twice() {
        let failure = Failure::new(Exit::Failed, "same").because(&std::io::Error::other("same"));
        assert_eq!(failure.render(), "error: same\n");
    }
}
