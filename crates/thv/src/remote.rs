//! The URL of an endpoint that runs elsewhere: what may be dialled, and how it is named in requests.

use std::net::{IpAddr, Ipv4Addr};

use http::Uri;

use crate::failure::{Exit, Failure, Outcome};

/// The name of this machine that is pinned to one address.
const LOCALHOST: &str = "localhost";

/// An endpoint that somebody else started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Whether the connection is encrypted.
    pub https: bool,
    /// A name, or an address without brackets.
    pub host: String,
    pub port: u16,
    /// Path and query.
    pub path: String,
}

impl Remote {
    /// Reads a URL and refuses what would send something to a place, or in a way, that nobody asked for.
    pub fn parse(url: &str, allow_insecure: bool) -> Outcome<Self> {
        let wrong = |why: &str| Failure::new(Exit::Usage, format!("{} cannot be reached: {why}", shown(url)));
        if url.contains('#') {
            return Err(wrong("a fragment is never sent; leave it out"));
        }
        let uri: Uri = url.parse().map_err(|_| wrong("it is not a URL"))?;
        let https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("it begins neither with http:// nor with https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(Failure::new(Exit::Refused, "a URL with a user name or password is not taken")
                .hint("keep the credential with thv secret set NAME, and hand it over with --remote-header-secret Authorization=NAME"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() || host.contains('%') {
            return Err(wrong("it names no host"));
        }
        // A colon with nothing, or with no number, behind it.
        let port = match authority.port_u16() {
            Some(0) => return Err(wrong("its port is 0")),
            Some(port) => port,
            None if authority.as_str().ends_with(&authority.host()[authority.host().len() - 1..]) => {
                if https { 443 } else { 80 }
            }
            None => return Err(wrong("its port is no port")),
        };
        // With encryption the name stays, since it is what a certificate is made for.
        let host = if host == LOCALHOST && !https { Ipv4Addr::LOCALHOST.to_string() } else { host };
        let remote = Self {
            https,
            host,
            port,
            path: uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        };
        if !https && !allow_insecure && !remote.is_loopback() {
            return Err(Failure::new(
                Exit::Refused,
                format!("{} would be spoken to without encryption", shown(url)),
            )
            .hint("use https://, or add --allow-insecure-remote if the network between is yours"));
        }
        Ok(remote)
    }

    /// What is dialled. `localhost` is never looked up: whoever answers for the name would get what is meant for this
    /// machine.
    pub fn dialled(&self) -> String {
        if self.host == LOCALHOST { Ipv4Addr::LOCALHOST.to_string() } else { self.host.clone() }
    }

    /// The address, if the URL has one in the place of a name.
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// Whether it is on this machine for certain.
    pub fn is_loopback(&self) -> bool {
        self.ip().is_some_and(|ip| ip.to_canonical().is_loopback())
    }

    /// The URL that is dialled.
    pub fn url(&self) -> String {
        format!("{}://{}{}", if self.https { "https" } else { "http" }, self.authority(), self.path)
    }

    /// The URL for messages, without the query, which may hold a credential.
    pub fn shown(&self) -> String {
        shown(&self.url())
    }

    /// What stands in the field `Host`.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.https, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// A URL for a message, without what may be a credential.
fn shown(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let plain = if scheme.is_empty() { format!("{host}{path}") } else { format!("{scheme}://{host}{path}") };
    plain.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_reached() {
        for (url, https, host, port, path, authority) in [
            ("https://mcp.example.com/mcp", true, "mcp.example.com", 443, "/mcp", "mcp.example.com"),
            ("https://Example.com:8443", true, "example.com", 8443, "/", "example.com:8443"),
            ("http://localhost:3000/mcp?x=1", false, "127.0.0.1", 3000, "/mcp?x=1", "127.0.0.1:3000"),
            ("https://LocalHost:3000/mcp", true, "localhost", 3000, "/mcp", "localhost:3000"),
            ("http://127.0.0.1/", false, "127.0.0.1", 80, "/", "127.0.0.1"),
            ("http://[::1]:3000/a", false, "::1", 3000, "/a", "[::1]:3000"),
        ] {
            let remote = Remote::parse(url, false).unwrap();
            let expected = Remote { https, host: host.into(), port, path: path.into() };
            assert_eq!(remote, expected, "{url}");
            assert_eq!(remote.authority(), authority);
            let dialled = if host == "localhost" { "127.0.0.1" } else { host };
            assert_eq!(remote.dialled(), dialled);
        }
    }

    #[test]
    fn what_is_refused_and_never_with_its_password() {
        for (url, exit) in [
            ("http://example.com/mcp", Exit::Refused),
            ("http://10.0.0.1/mcp", Exit::Refused),
            ("http://localhost.example.com/", Exit::Refused),
            ("https://user:hunter2@example.com/", Exit::Refused),
            ("https://hunter2@example.com/", Exit::Refused),
            ("ftp://example.com/", Exit::Usage),
            ("example.com", Exit::Usage),
            ("https://", Exit::Usage),
            ("https:///mcp", Exit::Usage),
            ("https://example.com:0/", Exit::Usage),
            ("https://example.com:/", Exit::Usage),
            ("https://example.com:99999/", Exit::Usage),
            ("https://example.com/#a", Exit::Usage),
            ("https://a b/", Exit::Usage),
        ] {
            let failure = Remote::parse(url, false).unwrap_err();
            assert_eq!(failure.exit(), exit, "{url}");
            assert!(!failure.render().contains("hunter2"), "{url}");
        }
        assert!(Remote::parse("http://10.0.0.1/mcp", true).is_ok());
        assert!(Remote::parse("http://[::ffff:127.0.0.1]/mcp", false).is_ok());
    }
}
