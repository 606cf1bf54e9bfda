//! Which paths of ours stand for which of the upstream's.

use std::borrow::Cow;

/// A mapping between paths of the listener and paths of the upstream. It works on raw, undecoded paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    rules: Vec<Rule>,
    others: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    ours: String,
    theirs: String,
}

/// Why paths cannot be mapped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathsError {
    /// A path without a slash at its beginning, with two, with a query, or with dot segments.
    #[error("`{0}` is no plain absolute path")]
    NotPlain(String),
}

impl Paths {
    /// Each path stands for itself: for a server that we started, whose relative references then hold.
    pub fn one_to_one() -> Self {
        Self { rules: Vec::new(), others: true }
    }

    /// `ours` stands for `theirs`, `ours/x` for `theirs/x`, and nothing else is forwarded: whoever may call an
    /// endpoint may not thereby call everything else on its host, with the credentials that we add.
    ///
    /// # Errors
    /// [`PathsError`].
    pub fn map(ours: &str, theirs: &str) -> Result<Self, PathsError> {
        Self { rules: Vec::new(), others: false }.and(ours, theirs)
    }

    /// Maps another path. The first rule that fits counts.
    ///
    /// # Errors
    /// [`PathsError`].
    pub fn and(mut self, ours: &str, theirs: &str) -> Result<Self, PathsError> {
        for path in [ours, theirs] {
            if !path.starts_with('/')
                || path.starts_with("//")
                || path.contains(['?', '#', '\\'])
                || has_dot_segments(path)
            {
                return Err(PathsError::NotPlain(path.to_owned()));
            }
        }
        self.rules.push(Rule { ours: ours.to_owned(), theirs: theirs.to_owned() });
        Ok(self)
    }

    /// All paths that no rule is about stand for themselves. The transport of 2024-11-05 needs it, since the server
    /// names the path of the messages as it likes.
    #[must_use]
    pub fn and_others(mut self) -> Self {
        self.others = true;
        self
    }

    /// The upstream's path for one of ours.
    pub(super) fn to_theirs<'p>(&self, path: &'p str) -> Option<Cow<'p, str>> {
        let found = self.rules.iter().find_map(|rule| swap(path, &rule.ours, &rule.theirs));
        match found {
            // The server might resolve them, and leave what was mapped.
            Some(_) if has_dot_segments(path) => None,
            Some(path) => Some(Cow::Owned(path)),
            None => self.others.then_some(Cow::Borrowed(path)),
        }
    }

    /// Our path for one of the upstream's, if there is one that leads there.
    pub(super) fn to_ours<'p>(&self, path: &'p str) -> Option<Cow<'p, str>> {
        let found = self.rules.iter().find_map(|rule| swap(path, &rule.theirs, &rule.ours));
        let ours = found.map_or(Cow::Borrowed(path), Cow::Owned);
        let leads_there = self.to_theirs(&ours).is_some_and(|theirs| theirs == path);
        leads_there.then_some(ours)
    }
}

/// `path` with `from` at its beginning replaced by `to`, if it is there and ends where a segment does.
fn swap(path: &str, from: &str, to: &str) -> Option<String> {
    if path == from {
        return Some(to.to_owned());
    }
    let rest = path.strip_prefix(from.trim_end_matches('/'))?;
    (rest.len() > 1 && rest.starts_with('/')).then(|| format!("{}{rest}", to.trim_end_matches('/')))
}

/// Whether a server could take a segment for `.` or `..`, even one that decodes more than it should.
fn has_dot_segments(path: &str) -> bool {
    let mut plain = path.to_ascii_lowercase();
    for (encoded, decoded) in [("%2e", "."), ("%2f", "/"), ("%5c", "/"), ("\\", "/")] {
        if plain.contains(encoded) {
            plain = plain.replace(encoded, decoded);
        }
    }
    plain.split('/').any(|segment| matches!(segment, "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(paths: &Paths, pairs: &[(&str, Option<&str>)]) {
        for (ours, theirs) in pairs {
            assert_eq!(paths.to_theirs(ours).as_deref(), *theirs, "{ours}");
            if let Some(theirs) = theirs {
                assert_eq!(paths.to_ours(theirs).as_deref(), Some(*ours), "back from {theirs}");
            }
        }
    }

    #[test]
    fn each_for_itself() {
        check(&Paths::one_to_one(), &[("/", Some("/")), ("/a/../b", Some("/a/../b")), ("*", Some("*"))]);
    }

    #[test]
    fn an_endpoint_and_nothing_else() {
        let paths = Paths::map("/mcp", "/api/v1/mcp").unwrap();
        check(
            &paths,
            &[
                ("/mcp", Some("/api/v1/mcp")),
                ("/mcp/x/y", Some("/api/v1/mcp/x/y")),
                ("/mcpx", None),
                ("/", None),
                ("/api/v1/mcp", None),
                ("/mcp/../x", None),
                ("/mcp/%2E%2e/x", None),
                ("/mcp/..%2fx", None),
                ("/mcp/..\\x", None),
                ("/mcp/...", Some("/api/v1/mcp/...")),
            ],
        );
        assert_eq!(paths.to_ours("/api/v1"), None);
        assert_eq!(paths.to_ours("/mcp"), None);
    }

    #[test]
    fn slashes_at_the_end() {
        check(
            &Paths::map("/mcp", "/x/").unwrap(),
            &[("/mcp", Some("/x/")), ("/mcp/a", Some("/x/a")), ("/mcp/", None)],
        );
        check(&Paths::map("/mcp", "/").unwrap(), &[("/mcp", Some("/")), ("/mcp/a", Some("/a"))]);
        assert_eq!(Paths::map("/mcp", "/x/").unwrap().to_ours("/x"), None);
    }

    #[test]
    fn others_stand_for_themselves_unless_hidden() {
        let paths = Paths::map("/sse", "/api/sse").unwrap().and_others();
        check(
            &paths,
            &[("/sse", Some("/api/sse")), ("/messages", Some("/messages")), ("/api/m", Some("/api/m"))],
        );
        // A client that asked for it would get /api/sse.
        assert_eq!(paths.to_ours("/sse"), None);
    }

    #[test]
    fn paths_that_cannot_be_mapped() {
        for path in ["", "mcp", "//mcp", "/mcp?x", "/a/../b", "/a#", "/a\\b"] {
            assert!(Paths::map("/mcp", path).is_err(), "{path}");
            assert!(Paths::map(path, "/mcp").is_err(), "{path}");
        }
    }
}
