//! References in the upstream's answers, as a client may have them.

use std::borrow::Cow;
use std::sync::Arc;

use super::paths::Paths;
use super::upstream::Upstream;

/// What a reference in an answer is relative to.
pub(super) struct Base {
    pub(super) site: Arc<Site>,
    /// The path that the client asked for.
    pub(super) ours: String,
    /// The path that the upstream was asked for.
    pub(super) theirs: String,
}

/// The upstream, and how its paths are ours.
pub(super) struct Site {
    pub(super) upstream: Upstream,
    pub(super) paths: Paths,
}

impl Base {
    /// The reference as the client may have it: unchanged if it means the same to the client, else as a path of ours;
    /// `None` if it points elsewhere.
    pub(super) fn ours<'r>(&self, reference: &'r str) -> Option<Cow<'r, str>> {
        let (theirs, rest) = self.site.upstream.resolve(&self.theirs, reference)?;
        let ours = self.site.paths.to_ours(&theirs)?;
        let holds = is_relative(reference) && ours == theirs && self.ours == self.theirs;
        Some(if holds { Cow::Borrowed(reference) } else { Cow::Owned(format!("{ours}{rest}")) })
    }
}

/// Without scheme and authority.
fn is_relative(reference: &str) -> bool {
    let scheme = reference.find([':', '/', '?', '#']).is_some_and(|at| reference.as_bytes()[at] == b':');
    !scheme && !reference.starts_with("//")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(paths: Paths, ours: &str, theirs: &str, expect: &[(&str, Option<&str>)]) {
        let site = Arc::new(Site { upstream: Upstream::parse("http://up.test/").unwrap(), paths });
        let base = Base { site, ours: ours.to_owned(), theirs: theirs.to_owned() };
        for (reference, expect) in expect {
            assert_eq!(base.ours(reference).as_deref(), *expect, "{reference}");
        }
    }

    #[test]
    fn one_to_one() {
        check(
            Paths::one_to_one(),
            "/a/sse",
            "/a/sse",
            &[
                ("/m?s=1", Some("/m?s=1")),
                ("m?s=1", Some("m?s=1")),
                ("../m", Some("../m")),
                ("http://up.test/m?s=1#f", Some("/m?s=1#f")),
                ("//up.test/m", Some("/m")),
                ("http://other.test/m", None),
            ],
        );
    }

    #[test]
    fn mapped() {
        let paths = Paths::map("/sse", "/api/sse").unwrap();
        check(
            paths.clone().and_others(),
            "/sse",
            "/api/sse",
            &[
                ("/api/m", Some("/api/m")),
                ("m", Some("/api/m")),
                ("?s", Some("/sse?s")),
                ("http://up.test/api/sse/x", Some("/sse/x")),
                ("/sse", None),
            ],
        );
        check(
            paths,
            "/sse",
            "/api/sse",
            &[("/api/m", None), ("/api/sse/", None), ("/api/sse/../sse/m", Some("/sse/m"))],
        );
    }
}
