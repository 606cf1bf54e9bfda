//! Authorities as they stand in `Host` and `Origin`: taken apart without allocation and without guessing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The port that an `http` authority means when it names none (RFC 9110 section 4.2.1).
pub(super) const DEFAULT_PORT: u16 = 80;

/// A host, its brackets kept, and the port if one was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Authority<'a> {
    pub(super) host: &'a str,
    pub(super) port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Takes `host`, `host:port` or `[v6]:port` apart. User information, an empty host, an empty or padded port
    /// and anything beyond the characters of a host are `None`.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let host_end =
            if text.starts_with('[') { text.find(']')? + 1 } else { text.find(':').unwrap_or(text.len()) };
        let (host, rest) = text.split_at(host_end);
        let port = match rest.strip_prefix(':') {
            Some(digits) => Some(port(digits)?),
            None if rest.is_empty() => None,
            None => return None,
        };
        let fits = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_' | b':' | b'[' | b']');
        (!host.is_empty() && host.bytes().all(fits)).then_some(Self { host, port })
    }

    /// The address, if the host is an IP literal in a form that every parser reads alike.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        match self.host.strip_prefix('[') {
            Some(v6) => v6.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => self.host.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        }
    }
}

fn port(digits: &str) -> Option<u16> {
    // `u16::from_str` alone would take "+80" and "080".
    let plain = digits.bytes().all(|c| c.is_ascii_digit()) && !digits.starts_with('0');
    if plain { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_authorities_apart() {
        let cases = [
            ("localhost", Some(("localhost", None))),
            ("localhost:80", Some(("localhost", Some(80)))),
            ("127.0.0.1:65535", Some(("127.0.0.1", Some(65535)))),
            ("[::1]:80", Some(("[::1]", Some(80)))),
            ("[::1]", Some(("[::1]", None))),
            ("", None),
            (":80", None),
            ("localhost:", None),
            ("localhost:+80", None),
            ("localhost:080", None),
            ("localhost:65536", None),
            ("localhost:80:80", None),
            ("::1", None),
            ("[::1", None),
            ("[::1]80", None),
            ("user@localhost:80", None),
            ("local host:80", None),
            ("localhost/:80", None),
            ("localhost,evil:80", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|(host, port)| Authority { host, port });
            assert_eq!(Authority::parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn only_canonical_literals_are_addresses() {
        for text in
            ["127.1", "0x7f.0.0.1", "127.0.0.01", "2130706433", "localhost", "[127.0.0.1]", "[::1%lo]"]
        {
            assert_eq!(Authority::parse(text).and_then(|authority| authority.ip()), None, "{text:?}");
        }
        for text in ["127.0.0.1", "[::1]", "[0:0:0:0:0:0:0:1]"] {
            assert!(Authority::parse(text).unwrap().ip().unwrap().is_loopback(), "{text:?}");
        }
    }
}
