//! The rules of the guard, and what a request must look like to pass them.

use std::net::{IpAddr, SocketAddr};

use http::header::{CONTENT_LENGTH, HOST, ORIGIN, TRANSFER_ENCODING};
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use super::host::{Authority, DEFAULT_PORT};
use crate::{ConnInfo, Refusal};

static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Which hosts and origins a guard admits.
#[derive(Clone, Debug)]
pub struct Guards {
    bound: SocketAddr,
    /// Every text that `Host` may have, but for the case of its letters.
    hosts: Vec<Box<str>>,
    origins: Vec<HeaderValue>,
}

/// Why [`Guards`] could not be built. It names the entry that was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GuardsError {
    /// A listener's own port is never 0.
    #[error("the bound address has no port: take it from the listener, not from its configuration")]
    NoPort,
    /// An allowed host is not `host` or `host:port`.
    #[error("{0:?} is not a host: expected NAME or NAME:PORT, without scheme or path")]
    Host(String),
    /// An allowed origin is not `scheme://host` or `scheme://host:port`.
    #[error("{0:?} is not a web origin: expected SCHEME://HOST or SCHEME://HOST:PORT, not '*' or 'null'")]
    Origin(String),
}

impl Guards {
    /// The rules of a listener on `bound`, the address that its socket really has.
    ///
    /// For a listener on a wildcard address, also the address that a client connected to is a valid host; the
    /// guard reads it from the [`ConnInfo`] in the request's extensions, if there is one.
    ///
    /// # Errors
    /// The address has port 0.
    pub fn new(bound: SocketAddr) -> Result<Self, GuardsError> {
        if bound.port() == 0 {
            return Err(GuardsError::NoPort);
        }
        let mut guards = Self { bound, hosts: Vec::new(), origins: Vec::new() };
        for name in ["127.0.0.1", "localhost", "[::1]"] {
            guards.push_host(name, bound.port());
        }
        match bound.ip().to_canonical() {
            // Browsers send 0.0.0.0 to loopback, so as a Host it is what an attacker would use.
            ip if ip.is_unspecified() => {}
            IpAddr::V4(ip) => guards.push_host(&ip.to_string(), bound.port()),
            IpAddr::V6(ip) => guards.push_host(&format!("[{ip}]"), bound.port()),
        }
        Ok(guards)
    }

    /// Admits more hosts: `name` with this listener's port, or `name:port` with that very port (for a listener
    /// that is reached through a forwarded port).
    ///
    /// # Errors
    /// An entry is not a host.
    pub fn allow_hosts(
        mut self,
        hosts: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, GuardsError> {
        for text in hosts {
            let text = text.as_ref();
            let Some(Authority { host, port }) = Authority::parse(text) else {
                return Err(GuardsError::Host(text.to_owned()));
            };
            self.push_host(host, port.unwrap_or(self.bound.port()));
        }
        Ok(self)
    }

    fn push_host(&mut self, host: &str, port: u16) {
        self.hosts.push(format!("{host}:{port}").into());
        if port == DEFAULT_PORT {
            self.hosts.push(host.into());
        }
    }

    /// Admits pages of these web origins, and answers their browsers' CORS questions.
    ///
    /// # Errors
    /// An entry is not a serialised origin (RFC 6454 section 6.2). `*` and `null` are none.
    pub fn allow_origins(
        mut self,
        origins: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Self, GuardsError> {
        for text in origins {
            let text = text.as_ref();
            let origin = serialized_origin(text).ok_or_else(|| GuardsError::Origin(text.to_owned()))?;
            self.origins.push(origin);
        }
        Ok(self)
    }

    /// Whether any origin is allowed, so that responses vary by it.
    pub(super) fn has_origins(&self) -> bool {
        !self.origins.is_empty()
    }

    /// Holds a request against the rules, in the order of the table in the [module](super). Returns the allowed
    /// origin that it comes from, if any.
    pub(super) fn judge<B>(&self, request: &Request<B>) -> Result<Option<&HeaderValue>, Refusal> {
        let headers = request.headers();
        if request.method() == Method::CONNECT {
            return Err(Refusal::Connect);
        }
        if headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH) {
            return Err(Refusal::Framing);
        }
        let here = request.extensions().get::<ConnInfo>().map(|conn| conn.local.ip());
        self.check_host(request.uri(), headers, here)?;
        let listed = self.check_origin(headers, here)?;
        let same_site = |value: &HeaderValue| value == "none" || value == "same-origin";
        if listed.is_none() && !headers.get_all(&SEC_FETCH_SITE).iter().all(same_site) {
            return Err(Refusal::CrossSite);
        }
        Ok(listed)
    }

    fn check_host(&self, uri: &Uri, headers: &HeaderMap, here: Option<IpAddr>) -> Result<(), Refusal> {
        let mut fields = headers.get_all(HOST).iter();
        let host = fields.next().ok_or(Refusal::HostMissing)?;
        if fields.next().is_some() {
            return Err(Refusal::HostRepeated);
        }
        let host = host.as_bytes();
        if !self.is_own(host, here) {
            return Err(Refusal::HostForeign);
        }
        match uri.authority() {
            None => Ok(()),
            Some(target)
                if uri.scheme() == Some(&Scheme::HTTP)
                    && target.as_str().as_bytes().eq_ignore_ascii_case(host) =>
            {
                Ok(())
            }
            Some(_) => Err(Refusal::TargetMismatch),
        }
    }

    /// Returns the allowed origin that the request comes from; `None` for no origin or this listener's own.
    fn check_origin(
        &self,
        headers: &HeaderMap,
        here: Option<IpAddr>,
    ) -> Result<Option<&HeaderValue>, Refusal> {
        let mut fields = headers.get_all(ORIGIN).iter();
        let Some(origin) = fields.next() else {
            return Ok(None);
        };
        if fields.next().is_some() {
            return Err(Refusal::OriginRepeated);
        }
        let origin = origin.as_bytes();
        if let Some(listed) =
            self.origins.iter().find(|listed| listed.as_bytes().eq_ignore_ascii_case(origin))
        {
            return Ok(Some(listed));
        }
        match origin.strip_prefix(b"http://") {
            Some(authority) if self.is_own(authority, here) => Ok(None),
            _ => Err(Refusal::OriginForeign),
        }
    }

    fn is_own(&self, authority: &[u8], here: Option<IpAddr>) -> bool {
        self.hosts.iter().any(|own| own.as_bytes().eq_ignore_ascii_case(authority))
            || here.is_some_and(|here| self.is_reached(authority, here))
    }

    /// Whether a listener on a wildcard address was asked for by the address that the client really reached. An
    /// IP literal cannot be rebound by DNS.
    fn is_reached(&self, authority: &[u8], here: IpAddr) -> bool {
        self.bound.ip().is_unspecified()
            && std::str::from_utf8(authority).ok().and_then(Authority::parse).is_some_and(|authority| {
                authority.ip() == Some(here.to_canonical())
                    && authority.port.unwrap_or(DEFAULT_PORT) == self.bound.port()
            })
    }
}

/// Checks and normalises an origin of the configuration: lowercase, no default port.
fn serialized_origin(text: &str) -> Option<HeaderValue> {
    let text = text.to_ascii_lowercase();
    let (scheme, rest) = text.split_once("://")?;
    let scheme_fits = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.'));
    let Authority { host, port } = Authority::parse(rest)?;
    if !scheme_fits {
        return None;
    }
    let default = matches!((scheme, port), ("http", Some(80)) | ("https", Some(443)));
    let origin = match port {
        Some(port) if !default => format!("{scheme}://{host}:{port}"),
        _ => format!("{scheme}://{host}"),
    };
    HeaderValue::try_from(origin).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guards() -> Guards {
        Guards::new("127.0.0.1:41873".parse().unwrap()).unwrap()
    }

    #[test]
    fn wrong_configuration_fails_when_built() {
        assert_eq!(Guards::new("127.0.0.1:0".parse().unwrap()).err(), Some(GuardsError::NoPort));
        for host in ["", "http://box", "box/", "box:0", "box:port", "a,b", "me@box", "*"] {
            assert_eq!(guards().allow_hosts([host]).err(), Some(GuardsError::Host(host.into())));
        }
        for origin in
            ["", "*", "null", "box", "http://", "http://box/", "http://*.box", "http://me@box", "://box"]
        {
            assert_eq!(guards().allow_origins([origin]).err(), Some(GuardsError::Origin(origin.into())));
        }
    }

    #[test]
    fn origins_are_kept_as_browsers_send_them() {
        let cases = [
            ("HTTP://Box:80", "http://box"),
            ("https://box:443", "https://box"),
            ("https://box:80", "https://box:80"),
            ("vscode-webview://0abc", "vscode-webview://0abc"),
            ("http://[::1]:5173", "http://[::1]:5173"),
        ];
        for (given, kept) in cases {
            assert_eq!(serialized_origin(given).unwrap(), kept);
        }
    }
}
