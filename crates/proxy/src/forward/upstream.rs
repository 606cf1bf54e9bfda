//! The upstream's URL, and which references point back to it.

use std::fmt;

use http::HeaderValue;
use http::uri::{PathAndQuery, Uri};

/// The URL of an upstream: `http` or `https`, a host, a path.
#[derive(Clone, PartialEq, Eq)]
pub struct Upstream {
    https: bool,
    host: String,
    port: u16,
    host_field: HeaderValue,
    path: String,
    query: Option<String>,
}

/// Why a URL cannot be an upstream's. None of these shows the URL, which may hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// Not a URL, or one without a host.
    #[error("this is no URL with a host")]
    Malformed,
    /// Another scheme.
    #[error("the URL must begin with http:// or https://")]
    Scheme,
    /// A user or a password before the host.
    #[error("the URL must not hold a user or a password; send credentials in a header field")]
    Userinfo,
    /// A `#`, which is never sent.
    #[error("the URL must not have a fragment")]
    Fragment,
}

impl Upstream {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub fn parse(url: &str) -> Result<Self, UpstreamError> {
        if url.contains('#') {
            return Err(UpstreamError::Fragment);
        }
        let uri: Uri = url.parse().map_err(|_| UpstreamError::Malformed)?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            Some(_) => return Err(UpstreamError::Scheme),
            None => return Err(UpstreamError::Malformed),
        };
        let authority = uri.authority().ok_or(UpstreamError::Malformed)?.as_str();
        if authority.contains('@') {
            return Err(UpstreamError::Userinfo);
        }
        let (host, port) = split_authority(authority, https).ok_or(UpstreamError::Malformed)?;
        Ok(Self {
            https,
            port,
            host_field: host_field(&host, port, https).ok_or(UpstreamError::Malformed)?,
            host,
            path: uri.path().to_owned(),
            query: uri.query().map(str::to_owned),
        })
    }

    /// Whether the upstream is to be spoken to over TLS.
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// The host in lower case: a name, or an address, without the brackets of IPv6.
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port, the scheme's own if the URL has none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path, which begins with `/`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The same upstream on another port.
    pub(super) fn on_port(&self, port: u16) -> Self {
        let field = host_field(&self.host, port, self.https).unwrap_or_else(|| self.host_field.clone());
        Self { port, host_field: field, ..self.clone() }
    }

    pub(super) fn host_field(&self) -> HeaderValue {
        self.host_field.clone()
    }

    /// The target of a request: a path with the query that the client sent, behind the URL's own.
    pub(super) fn target(&self, path: &str, query: Option<&str>) -> Option<PathAndQuery> {
        let text = match (self.query.as_deref(), query) {
            (None, None) => return path.parse().ok(),
            (Some(own), Some(sent)) => format!("{path}?{own}&{sent}"),
            (Some(one), None) | (None, Some(one)) => format!("{path}?{one}"),
        };
        PathAndQuery::from_maybe_shared(bytes::Bytes::from(text)).ok()
    }

    /// Where a reference in the answer to a request for `base` (a path of the upstream) points: a path of this
    /// upstream, and what follows it. `None` if it points elsewhere, or if clients might read it differently.
    pub(super) fn resolve<'r>(&self, base: &str, reference: &'r str) -> Option<(String, &'r str)> {
        // Browsers take a backslash for a slash and skip tabs and line ends.
        let unclear = |byte: u8| !byte.is_ascii_graphic() || byte == b'\\';
        if reference.is_empty() || reference.bytes().any(unclear) {
            return None;
        }
        let local = match reference.find([':', '/', '?', '#']) {
            Some(at) if reference.as_bytes()[at] == b':' => {
                let scheme = if self.https { "https" } else { "http" };
                if !reference[..at].eq_ignore_ascii_case(scheme) {
                    return None;
                }
                self.behind_authority(reference[at + 1..].strip_prefix("//")?)?
            }
            Some(0) if reference.starts_with("//") => self.behind_authority(&reference[2..])?,
            _ => reference,
        };
        let (path, rest) = local.split_at(local.find(['?', '#']).unwrap_or(local.len()));
        let path = match path {
            // Only an absolute reference has an empty path without meaning the base.
            "" if local.len() != reference.len() => "/".to_owned(),
            "" => base.to_owned(),
            _ if path.starts_with('/') => without_dots(path),
            _ => without_dots(&format!("{}{path}", &base[..=base.rfind('/')?])),
        };
        // As a reference of its own it would name a host.
        (!path.starts_with("//")).then_some((path, rest))
    }

    /// What follows the authority, if that is this upstream's.
    fn behind_authority<'r>(&self, text: &'r str) -> Option<&'r str> {
        let (authority, rest) = text.split_at(text.find(['/', '?', '#']).unwrap_or(text.len()));
        let (host, port) = split_authority(authority, self.https)?;
        (self.is_host(&host) && port == self.port).then_some(rest)
    }

    /// Whether a host is this upstream's. A server on this machine is free to call itself `localhost`, whichever of its
    /// names it was reached by.
    fn is_host(&self, host: &str) -> bool {
        let is_literal = |host: &str| matches!(host, "127.0.0.1" | "[::1]");
        host == self.host
            || (host == "localhost" && is_literal(&self.host))
            || (self.host == "localhost" && is_literal(host))
    }
}

impl fmt::Debug for Upstream {
    /// Leaves the query out: some services want their key there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("https", &self.https)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

fn default_port(https: bool) -> u16 {
    if https { 443 } else { 80 }
}

/// What stands in `Host`.
fn host_field(host: &str, port: u16, https: bool) -> Option<HeaderValue> {
    let text = if port == default_port(https) { host.to_owned() } else { format!("{host}:{port}") };
    HeaderValue::try_from(text).ok()
}

/// Host in lower case, and port. Userinfo is refused.
fn split_authority(authority: &str, https: bool) -> Option<(String, u16)> {
    let bracket = authority.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match authority[bracket..].find(':') {
        Some(at) => {
            let (host, port) = authority.split_at(bracket + at);
            (host, &port[1..])
        }
        None => (authority, ""),
    };
    let port = if port.is_empty() {
        default_port(https)
    } else if port.bytes().all(|byte| byte.is_ascii_digit()) {
        port.parse().ok()?
    } else {
        return None;
    };
    (!host.is_empty() && !host.contains('@')).then(|| (host.to_ascii_lowercase(), port))
}

/// Removes `.` and `..` segments (RFC 3986, section 5.2.4), percent-encoded dots included, as browsers do.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        let plain = segment.replace("%2e", ".").replace("%2E", ".");
        match plain.as_str() {
            "." | ".." => {
                if plain == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let upstream = Upstream::parse("HTTP://LocalHost:8080/mcp?k=1").unwrap();
        assert_eq!((upstream.host(), upstream.port(), upstream.path()), ("localhost", 8080, "/mcp"));
        assert_eq!(upstream.host_field(), "localhost:8080");
        assert!(!format!("{upstream:?}").contains("k=1"));
        assert_eq!(upstream.target("/mcp", None).unwrap(), "/mcp?k=1");
        assert_eq!(upstream.target("/x", Some("a=b")).unwrap(), "/x?k=1&a=b");
        let upstream = Upstream::parse("https://[::1]:443").unwrap();
        assert_eq!((upstream.host(), upstream.port(), upstream.path()), ("::1", 443, "/"));
        assert_eq!(upstream.host_field(), "[::1]");
        assert_eq!(upstream.target("*", None).unwrap(), "*");
        for (url, error) in [
            ("ftp://h/", UpstreamError::Scheme),
            ("/mcp", UpstreamError::Malformed),
            ("http://", UpstreamError::Malformed),
            ("http://h:x/", UpstreamError::Malformed),
            ("http://h:70000/", UpstreamError::Malformed),
            ("http://u:p@h/", UpstreamError::Userinfo),
            ("http://u@h/", UpstreamError::Userinfo),
            ("http://h/#x", UpstreamError::Fragment),
        ] {
            assert_eq!(Upstream::parse(url), Err(error), "{url}");
        }
    }

    #[test]
    fn a_server_that_moved() {
        let upstream = Upstream::parse("http://127.0.0.1:8080/mcp?k=1").unwrap().on_port(80);
        assert_eq!((upstream.port(), upstream.host_field()), (80, "127.0.0.1".parse().unwrap()));
        assert_eq!(upstream.target("/mcp", None).unwrap(), "/mcp?k=1");
        assert_eq!(upstream.resolve("/", "http://127.0.0.1/a"), Some(("/a".to_owned(), "")));
        assert_eq!(upstream.resolve("/", "http://127.0.0.1:8080/a"), None);
    }

    #[test]
    fn names_of_this_machine() {
        for (upstream, reference, expect) in [
            ("http://127.0.0.1:80/", "http://localhost/a", true),
            ("http://127.0.0.1:80/", "//LOCALHOST:80/a", true),
            ("http://[::1]:80/", "http://localhost/a", true),
            ("https://localhost/", "https://127.0.0.1/a", true),
            ("https://localhost/", "https://[::1]/a", true),
            ("http://127.0.0.1/", "http://localhost:81/a", false),
            ("http://127.0.0.1/", "https://localhost:80/a", false),
            ("http://127.0.0.1/", "http://[::1]/a", false),
            ("http://127.0.0.1/", "http://localhost.evil/a", false),
            ("http://127.0.0.2/", "http://localhost/a", false),
            ("http://up.test/", "http://localhost/a", false),
            ("https://localhost/", "https://up.test/a", false),
        ] {
            let seen = Upstream::parse(upstream).unwrap().resolve("/", reference);
            assert_eq!(seen.is_some(), expect, "{upstream} {reference}");
        }
    }

    #[test]
    fn references() {
        let upstream = Upstream::parse("http://up.test/").unwrap();
        for (reference, expect) in [
            ("http://up.test/a?b#c", Some("/a?b#c")),
            ("HTTP://UP.TEST:80/a", Some("/a")),
            ("http://up.test", Some("/")),
            ("http://up.test?q", Some("/?q")),
            ("//up.test/a", Some("/a")),
            ("/a//b", Some("/a//b")),
            ("/a/../b/./c/..", Some("/b/")),
            ("/a/%2e%2E/b", Some("/b")),
            ("/../../x", Some("/x")),
            ("x?y", Some("/base/x?y")),
            ("../x", Some("/x")),
            ("?y", Some("/base/mcp?y")),
            ("#f", Some("/base/mcp#f")),
            ("a/b:c", Some("/base/a/b:c")),
            ("", None),
            ("https://up.test/a", None),
            ("http://up.test:81/a", None),
            ("http://up.test.evil/a", None),
            ("http://up.test@evil/a", None),
            ("http://evil/up.test", None),
            ("http:/a", None),
            ("http:a", None),
            ("//evil/a", None),
            ("http://up.test//evil/a", None),
            ("/.//evil/a", None),
            ("/a/..//evil", None),
            ("/\\evil/a", None),
            ("\\\\evil/a", None),
            ("/\t/evil/a", None),
            ("/a b", None),
            ("/ä", None),
            ("javascript:alert(1)", None),
            ("mailto:x@up.test", None),
        ] {
            let seen = upstream.resolve("/base/mcp", reference).map(|(path, rest)| path + rest);
            assert_eq!(seen.as_deref(), expect, "{reference}");
        }
    }
}
