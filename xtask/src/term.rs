//! Colours, where a person looks at them.

use std::fmt::Display;
use std::io::IsTerminal;

/// Where the output goes, as far as colours are concerned.
#[derive(Clone, Copy)]
pub(crate) struct Term {
    colours: bool,
}

impl Term {
    /// Colours on a terminal, unless `NO_COLOR` has a value or the terminal is a dumb one.
    pub(crate) fn of_stdout() -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|value| value == "dumb");
        Self { colours: std::io::stdout().is_terminal() && !no_color && !dumb }
    }

    pub(crate) fn heading(self, text: impl Display) -> String {
        self.paint("1;36", text)
    }

    pub(crate) fn good(self, text: impl Display) -> String {
        self.paint("32", text)
    }

    pub(crate) fn bad(self, text: impl Display) -> String {
        self.paint("1;31", text)
    }

    pub(crate) fn faint(self, text: impl Display) -> String {
        self.paint("2", text)
    }

    fn paint(self, code: &str, text: impl Display) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_where_there_is_no_terminal() {
        assert_eq!(Term { colours: false }.good("ok"), "ok");
        assert_eq!(Term { colours: true }.good("ok"), "\x1b[32mok\x1b[0m");
    }
}
